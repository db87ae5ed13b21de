"""What is trimmed reads the pair's texts as before, and every other text somehow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from distilingua.columns import Ragged
from distilingua.errors import UserError
from distilingua.models.loading import load_student
from distilingua.models.pretrained import Pretrained
from distilingua.models.trimming import kept_rows, trim_embeddings, trim_tokenizer
from distilingua.tasks.pieces import pad
from tests.models.conftest import MAKES, OTHER, PAIR, TOKENIZERS, UNSEEN, Bench, Encoder, configure

PREFIX = "query: "


def fast_tokenizer(model: Any, split: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


def hidden(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> torch.Tensor:
    inputs = pad(Ragged.of(tokenizer(texts)["input_ids"]), tokenizer.pad_token_id)
    with torch.inference_mode():
        states = model.eval().base_model(**inputs).last_hidden_state
    return states[inputs["attention_mask"].bool()]


@pytest.mark.parametrize(
    ("make", "kind"),
    [("bert", kind) for kind in TOKENIZERS]
    + [(make, "byte_bpe") for make in MAKES if make != "bert"]
    + [("modernbert", "wordpiece"), ("distilbert", "wordpiece")],
)
def test_the_pair_is_read_as_before(make: str, kind: str, encoder: Encoder, bench: Bench, tmp_path: Path) -> None:
    folder = str(encoder(make, kind))
    cut = Pretrained(folder, trim_vocabulary=True, prefix=PREFIX)
    cut.check(bench.task.max_length)
    (large, before), (small, after) = bench.made(Pretrained(folder)), bench.made(cut)
    texts = [PREFIX + text for text in PAIR]
    assert len(after) < len(before)
    for text in texts:
        old, new = before(text)["input_ids"], after(text)["input_ids"]
        assert before.convert_ids_to_tokens(old) == after.convert_ids_to_tokens(new)
        assert before.decode(old) == after.decode(new)
    assert before(texts[0], texts[1]).tokens() == after(texts[0], texts[1]).tokens()
    assert after.special_tokens_map == before.special_tokens_map
    assert after.model_max_length == before.model_max_length

    torch.testing.assert_close(hidden(small, after, texts), hidden(large, before, texts), rtol=0, atol=1e-6)
    assert small.config.vocab_size == len(after) == len(small.get_input_embeddings().weight)
    assert small.config.pad_token_id == after.pad_token_id
    assert small.config.eos_token_id == after.eos_token_id

    small.save_pretrained(tmp_path / "student")
    after.save_pretrained(tmp_path / "student")
    again = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert again(texts)["input_ids"] == after(texts)["input_ids"]
    assert again(UNSEEN)["input_ids"] == after(UNSEEN)["input_ids"]
    torch.testing.assert_close(
        hidden(load_student(tmp_path / "student", bench.task), again, texts),
        hidden(small, after, texts),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_other_text_still_has_pieces(kind: str, tmp_path: Path) -> None:
    before = TOKENIZERS[kind]()
    trim_tokenizer(before, PAIR, tmp_path)
    after = AutoTokenizer.from_pretrained(tmp_path)
    for text in OTHER + UNSEEN:
        ids = after(text)["input_ids"]
        assert max(ids) < len(after)
        unknown, still_unknown = (before.unk_token_id in before(text)["input_ids"], after.unk_token_id in ids)
        # the pair's scripts keep their characters, and bytes spell everything
        assert unknown == still_unknown or (kind in ("Unigram", "WordPiece") and "日" in text), text
    assert sorted(after.get_vocab().values()) == list(range(len(after)))


def test_a_word_that_wordpiece_gives_up_on_stays_unknown(tmp_path: Path) -> None:
    """Whole: foo, then nothing fits ☃. Without the unused "foo" it would go on from "fo" with "##o☃"."""
    vocabulary = {p: i for i, p in enumerate(["<unk>", "<pad>", "f", "##o", "foo", "fo", "##o☃", "far", "##a"])}
    fast = fast_tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"), pre_tokenizers.WhitespaceSplit())
    assert fast.tokenize("foo☃") == ["<unk>"]
    trim_tokenizer(fast, ["foo☃"], tmp_path)
    after = AutoTokenizer.from_pretrained(tmp_path)
    assert after.tokenize("foo☃") == ["<unk>"]
    assert "far" not in after.get_vocab()


def test_unknown_characters_cost_the_same(tmp_path: Path) -> None:
    """Unigram's price for one is the lowest score minus 10, so the piece that has it stays, used or not."""
    pieces = [("<unk>", 0.0), ("<pad>", 0.0), ("▁", -2.0), ("a", -3.0), ("▁ab", -19.0), ("cd", -1.0), ("rare", -40.0)]
    fast = fast_tokenizer(models.Unigram(pieces, unk_id=0), pre_tokenizers.Metaspace())
    trim_tokenizer(fast, ["ab ab"], tmp_path)
    after = AutoTokenizer.from_pretrained(tmp_path)
    assert set(after.get_vocab()) == {"<unk>", "<pad>", "▁", "a", "▁ab", "rare"}
    assert after.tokenize("ab ab") == ["▁ab", "▁ab"]


def test_a_merged_piece_keeps_the_pieces_on_its_way(tmp_path: Path) -> None:
    vocabulary = {p: i for i, p in enumerate(["<pad>", *"abcde", "ab", "cd", "abcd", "de", "cde"])}
    merges = [("a", "b"), ("c", "d"), ("ab", "cd"), ("d", "e"), ("c", "de")]
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, merges)), pad_token="<pad>")
    trim_tokenizer(fast, ["abcd"], tmp_path)
    recipe = json.loads((tmp_path / "tokenizer.json").read_text())
    assert set(recipe["model"]["vocab"]) == {"<pad>", *"abcde", "ab", "cd", "abcd"}
    assert recipe["model"]["merges"] == [["a", "b"], ["c", "d"], ["ab", "cd"]]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [AutoModelForMaskedLM, AutoModelForCausalLM])
def test_output_embeddings_are_cut_too(kind: Any, tied: bool, tmp_path: Path) -> None:
    before = TOKENIZERS["wordpiece"]()
    trim_tokenizer(before, PAIR, tmp_path / "tokenizer")
    after = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    rows = kept_rows(after, before)
    config = {AutoModelForMaskedLM: BertConfig, AutoModelForCausalLM: GPT2Config}[kind]
    make = MAKES["bert" if config is BertConfig else "gpt2"]
    model = kind.from_config(config(vocab_size=len(before), tie_word_embeddings=tied, bos_token_id=0, **make)).eval()
    text = PAIR[0]
    with torch.inference_mode():
        expected = model(torch.tensor([before(text)["input_ids"]])).logits[..., rows]
        trim_embeddings(model, rows, after)
        torch.testing.assert_close(model(torch.tensor([after(text)["input_ids"]])).logits, expected)
        model.save_pretrained(tmp_path / "model")
        loaded = kind.from_pretrained(tmp_path / "model").eval()
        torch.testing.assert_close(loaded(torch.tensor([after(text)["input_ids"]])).logits, expected)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert model.config.bos_token_id == after.bos_token_id


def test_other_kinds_of_tokenizer_are_refused(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "light": 1}, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    with pytest.raises(UserError, match=r"is a WordLevel; only Unigram, WordPiece, BPE .*trim_vocabulary=false"):
        trim_tokenizer(fast, PAIR, tmp_path)


def test_a_padding_piece_that_counts_positions_may_not_move(encoder: Encoder, bench: Bench) -> None:
    folder = encoder("xlm-roberta", "byte_bpe")
    configure(folder, pad_token_id=9)
    bench.task.max_length = 32
    with pytest.raises(UserError, match="padding piece would move from 9 to 1, and XLMRoberta"):
        bench.made(Pretrained(str(folder), trim_vocabulary=True))


def test_characters_of_other_scripts_go_and_digits_stay(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("<pad>", 0.0), *((piece, -2.0) for piece in ("▁", "a", "ü", "б", "日", "7", "☃", "ab"))]
    fast = fast_tokenizer(models.Unigram([*pieces, ("rare", -40.0)], unk_id=0), pre_tokenizers.Metaspace())
    trim_tokenizer(fast, ["a"], tmp_path)
    assert set(AutoTokenizer.from_pretrained(tmp_path).get_vocab()) == {
        *("<unk>", "<pad>", "▁", "a", "ü", "7", "☃", "rare"),
    }
