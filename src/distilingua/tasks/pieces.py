"""Pieces of text as models read them: their numbers, and where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilingua.columns import Ragged
from distilingua.errors import UserError
from distilingua.tasks.slow import PreTrainedTokenizerBase

OWN_WAYS = ("__call__", "_encode_plus")  # of a tokenizer that does more than its backend, as a few of transformers do


def piece_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int) -> Ragged:
    """`tokenizer(texts, pairs, truncation=True, max_length=max_length)["input_ids"]`, in half the time: what is asked
    for a sentence at a time has nothing else to wait for than the tokenizer's backend."""
    from transformers import TokenizersBackend

    kind: Any = type(tokenizer)
    if not issubclass(kind, TokenizersBackend) or any(
        getattr(kind, f) is not getattr(TokenizersBackend, f) for f in OWN_WAYS
    ):
        return Ragged.of(tokenizer(texts, pairs, truncation=True, max_length=max_length)["input_ids"])
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
    backend.no_padding()
    rows = texts if pairs is None else list(zip(texts, pairs, strict=True))
    return Ragged.of([found.ids for found in backend.encode_batch_fast(rows)])


def pad(token_ids: Ragged, pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, (rows, longest row)."""
    ids = token_ids.padded(pad_id)
    return {
        "input_ids": as_tensor(ids),
        "attention_mask": as_tensor(np.arange(ids.shape[1]) < token_ids.lengths[:, None]),
    }


def as_tensor(numbers: np.ndarray) -> Tensor:
    """Whole numbers as torch counts them, in memory of their own."""
    return torch.from_numpy(numbers.astype(np.int64))


def ended(written: Tensor, eos: int | list[int] | None) -> Tensor:
    """Which pieces come after the one that ends their text, (…, pieces) bool."""
    ends = torch.isin(written, torch.as_tensor(-1 if eos is None else eos, device=written.device)).long()
    return ends.cumsum(-1) > ends


def needs_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """For tasks whose positions are in the text.

    Raises:
        UserError: a tokenizer that does not say which characters a piece stands for.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"task: {type(tokenizer).__name__} does not say where in the text its pieces are. Choose a model with a "
            f"fast tokenizer."
        )
