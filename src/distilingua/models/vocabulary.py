"""A tokenizer of the student's own, trained on the text of the pair."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPACE = "▁"  # in front of a word
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]


def train_tokenizer(texts: Iterable[str], size: int, lowercase: bool = True) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer (Kudo 2018), the kind multilingual models use: it needs no words, so it splits Chinese too.

    Args:
        texts: what it learns from.
        size: pieces it may have; a small corpus ends up with fewer.
        lowercase: whether case carries no meaning.
    """
    tokenizer = _untrained(models.Unigram(), normalizers.NFKC(), lowercase)
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())
    special, learnt = state["model"]["vocab"][: len(SPECIAL)], state["model"]["vocab"][len(SPECIAL) :]
    # Every run shall get the same pieces and ids. The trainer's threads add up scores in any order, so the last digits
    # go; and characters too rare for a score of their own get the lowest one, in steps of 0.0001, in any order.
    least = min(score for _, score in learnt)
    rare = least + 1e-4 * sum(len(piece) == 1 for piece, _ in learnt)
    scores = {piece: least if len(piece) == 1 and score < rare else score for piece, score in learnt}
    learnt = sorted(((piece, round(score, 6)) for piece, score in scores.items()), key=lambda x: (-x[1], x[0]))
    state["model"]["vocab"] = [*special, *learnt]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    return _finished(tokenizer, single="<s> $A </s>", pair="<s> $A </s> $B </s>")


def without_spaces(tokenizer: PreTrainedTokenizerFast, size: int) -> PreTrainedTokenizerFast:
    """The same Unigram tokenizer, in which no token stands for a space alone: what reads answers word by word, such as
    transformers' pipeline for tags, would take it for a word. Every letter can begin a word instead.

    Args:
        size: pieces it may have; the least likely ones of several letters make room.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: list[list[Any]] = state["model"]["vocab"]
    scores = {piece: score for piece, score in vocabulary[len(SPECIAL) :] if piece != SPACE}
    spaces = dict(vocabulary[len(SPECIAL) :]).get(SPACE, min(scores.values()))
    letters = {SPACE + piece: spaces + score for piece, score in scores.items() if len(piece) == 1}
    scores = {**letters, **scores}
    needed = {piece for piece in scores if len(piece.removeprefix(SPACE)) == 1}
    others = sorted((piece for piece in scores if piece not in needed), key=lambda piece: (-scores[piece], piece))
    kept = [*needed, *others[: max(0, size - len(SPECIAL) - len(needed))]]
    learnt = sorted(([piece, scores[piece]] for piece in kept), key=lambda one: (-one[1], one[0]))
    state["model"]["vocab"] = [*vocabulary[: len(SPECIAL)], *learnt]
    return _finished(Tokenizer.from_str(json.dumps(state)), single="<s> $A </s>", pair="<s> $A </s> $B </s>")


def train_writing_tokenizer(texts: Iterable[str], size: int, lowercase: bool = False) -> PreTrainedTokenizerFast:
    """A BPE tokenizer (Sennrich et al. 2016) for models that write.

    Frequent words stay whole, which makes for few steps, and digits stand alone, so that any number can be copied.
    What is written keeps full-width commas and the like (NFC). There is an end and no beginning, as Marian has it: a
    beginning would be one more step.

    Args:
        texts: what it learns from.
        size: pieces it may have.
        lowercase: whether case carries no meaning; what is written then has no capitals.
    """
    tokenizer = _untrained(models.BPE(unk_token="<unk>"), normalizers.NFC(), lowercase, pre_tokenizers.Digits(True))
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _finished(tokenizer, single="$A </s>", pair="$A </s> $B </s>")


def _untrained(model: Any, letters: Any, lowercase: bool, *splits: Any) -> Tokenizer:
    """Of words that begin with `SPACE`, in one form of Unicode; split further where that is said."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([letters, normalizers.Lowercase()] if lowercase else [letters])
    metaspace = pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([metaspace, *splits]) if splits else metaspace
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _finished(tokenizer: Tokenizer, single: str, pair: str) -> PreTrainedTokenizerFast:
    """With these special pieces around one text and around two."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
    )
