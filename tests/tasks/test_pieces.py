"""Pieces, against what transformers itself makes of a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from distilingua.columns import Encoded, Ragged
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.pieces import cut_counts, pad, piece_ids

TEXTS = ["a man sleeps", "", "the rain in spain " * 20, "somebody is awake"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([*TEXTS, "query: the rain in spain"] * 20, 200)


def as_lists(found: Any) -> list[list[int]]:
    return [ids.tolist() for ids in found]


@pytest.mark.parametrize("pairs", [None, [*reversed(TEXTS)]])
def test_pieces_are_those_of_transformers(tokenizer: Any, pairs: list[str] | None) -> None:
    for length in (8, 64, 8):
        expected = tokenizer(TEXTS, pairs, truncation=True, max_length=length)["input_ids"]
        tokenizer("x" * 99, padding="max_length", truncation=True, max_length=5)  # others leave their traces
        assert as_lists(piece_ids(tokenizer, TEXTS, pairs, length)["input_ids"]) == expected
        assert max(map(len, expected)) == length


def test_a_tokenizer_that_does_more_than_its_backend_is_asked_itself(tokenizer: Any) -> None:
    class Odd(TokenizersBackend):
        def _encode_plus(self, *texts: Any, **options: Any) -> Any:
            found = super()._encode_plus(*texts, **options)
            return {**found, "input_ids": [[*ids, 0] for ids in found["input_ids"]]}

    odd = Odd(tokenizer_object=tokenizer.backend_tokenizer)
    expected = [[*ids, 0] for ids in as_lists(piece_ids(tokenizer, TEXTS, None, 8)["input_ids"])]
    assert as_lists(piece_ids(odd, TEXTS, None, 8)["input_ids"]) == expected


@pytest.mark.parametrize("pairs", [None, [*reversed(TEXTS)]])
def test_what_is_cut_is_counted(tokenizer: Any, pairs: list[str] | None) -> None:
    found = Encoded(piece_ids(tokenizer, TEXTS, pairs, 8))
    whole = [len(ids) for ids in tokenizer(TEXTS, pairs)["input_ids"]]
    assert found.numbers("lost").tolist() == [max(0, length - 8) for length in whole]
    beyond = [length for length in whole if length > 8]
    assert cut_counts(found).tolist() == [4, len(beyond), sum(beyond), sum(beyond) - 8 * len(beyond)]
    assert not cut_counts(Encoded({})).any()


def test_head_and_tail_are_a_quarter_and_three(tokenizer: Any) -> None:
    """Of 12 pieces two begin and end the text, and 10 // 4 of the others are its head."""
    found = Encoded(piece_ids(tokenizer, TEXTS, None, 12, "head_tail"))
    for read, lost, text in zip(as_lists(found.lists("input_ids")), found.numbers("lost"), TEXTS, strict=True):
        ids = tokenizer(text)["input_ids"]
        assert read == (ids if len(ids) <= 12 else [*ids[:3], *ids[-9:]])
        assert lost == max(0, len(ids) - 12)


@pytest.mark.parametrize(("length", "stride"), [(12, 3), (12, 0), (16, 7), (3, 0)])
def test_windows_are_those_of_transformers(tokenizer: Any, length: int, stride: int) -> None:
    found = Encoded(piece_ids(tokenizer, TEXTS, None, length, "windows", stride))
    theirs = tokenizer(TEXTS, truncation=True, max_length=length, stride=stride, return_overflowing_tokens=True)
    each = Ragged.by_lengths(found.lists("input_ids").values, found.lists("lengths").values)
    assert as_lists(each) == theirs["input_ids"]
    rows = np.bincount(theirs["overflow_to_sample_mapping"], minlength=len(TEXTS))
    assert found.lists("lengths").lengths.tolist() == rows.tolist()
    assert not cut_counts(found)[1:].any()


def test_shorter_rows_are_padded() -> None:
    found = pad(Ragged.of([[5, 6, 7], [8]]), 1)
    assert found["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
