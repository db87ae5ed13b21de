"""Pieces, against what transformers itself makes of a text."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from distilingua.columns import Ragged
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.pieces import pad, piece_ids

TEXTS = ["a man sleeps", "", "the rain in spain " * 20, "somebody is awake"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([*TEXTS, "query: the rain in spain"] * 20, 200)


def as_lists(found: Ragged) -> list[list[int]]:
    return [ids.tolist() for ids in found]


@pytest.mark.parametrize("pairs", [None, [*reversed(TEXTS)]])
def test_pieces_are_those_of_transformers(tokenizer: Any, pairs: list[str] | None) -> None:
    for length in (8, 64, 8):
        expected = tokenizer(TEXTS, pairs, truncation=True, max_length=length)["input_ids"]
        tokenizer("x" * 99, padding="max_length", truncation=True, max_length=5)  # others leave their traces
        assert as_lists(piece_ids(tokenizer, TEXTS, pairs, length)) == expected
        assert max(map(len, expected)) == length


def test_a_tokenizer_that_does_more_than_its_backend_is_asked_itself(tokenizer: Any) -> None:
    class Odd(TokenizersBackend):
        def _encode_plus(self, *texts: Any, **options: Any) -> Any:
            found = super()._encode_plus(*texts, **options)
            return {**found, "input_ids": [[*ids, 0] for ids in found["input_ids"]]}

    odd = Odd(tokenizer_object=tokenizer.backend_tokenizer)
    expected = [[*ids, 0] for ids in as_lists(piece_ids(tokenizer, TEXTS, None, 8))]
    assert as_lists(piece_ids(odd, TEXTS, None, 8)) == expected


def test_shorter_rows_are_padded() -> None:
    found = pad(Ragged.of([[5, 6, 7], [8]]), 1)
    assert found["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
