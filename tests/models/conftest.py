"""Tokenizers of every kind and encoders of every make, tiny, trained or drawn on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from distilingua.models.student import Student
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.text_classification import TextClassification
from tests.conftest import PHRASES, WORDS

PAIR = [PHRASES[lang][n].format(word, i) for lang in ("en", "de") for ws in WORDS[lang].values() for word in ws
        for n in range(3) for i in range(0, 100, 7)]  # fmt: skip
OTHER = [
    f"{a} {b} à l'étage {n}" for a in ("allume", "éteins", "ouvre") for b in ("lampe", "musique") for n in range(9)
]
UNSEEN = ["Ünïcödé ☃ 日本語 🙂", "zzz qqq", "", "l'étage", "<mask> inside"]
MARKS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
ROLES = {**MARKS, "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # XLM-RoBERTa's order: padding is 1


def unigram() -> PreTrainedTokenizerFast:
    return train_tokenizer(PAIR + OTHER, 400)


def wordpiece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(PAIR + OTHER, trainer)
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ROLES)


def byte_bpe() -> PreTrainedTokenizerFast:
    """As RoBERTa's, with a special token that the model's vocabulary does not have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL[:4], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(PAIR + OTHER, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ROLES)  # <mask> comes after all others


def fallback_bpe() -> PreTrainedTokenizerFast:
    """As Llama's and Gemma's: words joined by ▁, bytes where a character has no piece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    octets = [f"<0x{n:02X}>" for n in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *octets], show_progress=False)
    tokenizer.train_from_iterator(PAIR + OTHER, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ROLES)


TOKENIZERS = {"unigram": unigram, "wordpiece": wordpiece, "byte_bpe": byte_bpe, "fallback_bpe": fallback_bpe}
BERT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
MAKES = {
    "bert": {**BERT, "max_position_embeddings": 64},
    "xlm-roberta": {**BERT, "max_position_embeddings": 66},
    "distilbert": {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    "modernbert": {**BERT, "max_position_embeddings": 64},
    "gpt2": {"n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 64},
}


@pytest.fixture
def task() -> TextClassification:
    return TextClassification(max_length=64).fit_labels(["light", "music", "weather"])


@pytest.fixture
def pair_rows() -> Dataset:
    return Dataset.from_dict({"text": PAIR, "text_pair": [""] * len(PAIR)})


Encoder = Callable[[str, str], Path]


@dataclass
class Bench:
    """What a student is made with: rows of the pair, a task, and a folder for what is kept."""

    task: TextClassification
    rows: Dataset
    folder: Path

    def made(self, student: Student) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        tokenizer = student.tokenizer(self.rows, self.folder)
        return student.model(self.task, tokenizer), tokenizer


@pytest.fixture
def bench(task: TextClassification, pair_rows: Dataset, tmp_path: Path) -> Bench:
    return Bench(task, pair_rows, tmp_path)


def configure(folder: Path, **changes: Any) -> None:
    """Changes keys of a model's configuration."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    """Folder of a model of this make with random weights and a tokenizer of this kind."""

    def build(make: str, kind: str) -> Path:
        folder, tokenizer = tmp_path / f"{make}-{kind}", TOKENIZERS[kind]()
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
        ids |= (
            {"cls_token_id": ids["bos_token_id"], "sep_token_id": ids["eos_token_id"]} if make == "modernbert" else {}
        )
        config = AutoConfig.for_model(make, vocab_size=len(tokenizer) + 3, **ids, **MAKES[make])  # rows nobody uses
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for name, weight in model.named_parameters():  # new norms are all alike; these can be told apart
            if "norm" in name.lower() or ".ln_" in name:
                torch.nn.init.normal_(weight, mean=1.0, std=0.1)
        model.base_model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return build
