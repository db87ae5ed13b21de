"""Pieces of text as models read them: their numbers, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distilingua.errors import UserError
from distilingua.extras import Later

if TYPE_CHECKING:  # slow to import
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
else:
    torch = Later("torch")

OWN_WAYS = ("__call__", "_encode_plus")  # of a tokenizer that does more than its backend, as a few of transformers do


def piece_ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int
) -> list[list[int]]:
    """`tokenizer(texts, pairs, truncation=True, max_length=max_length)["input_ids"]`, in half the time: what is asked
    for a sentence at a time has nothing else to wait for than the tokenizer's backend."""
    from transformers import TokenizersBackend
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils import PaddingStrategy

    kind: Any = type(tokenizer)
    if not issubclass(kind, TokenizersBackend) or any(
        getattr(kind, f) is not getattr(TokenizersBackend, f) for f in OWN_WAYS
    ):
        return list(tokenizer(texts, pairs, truncation=True, max_length=max_length)["input_ids"])
    cut = (PaddingStrategy.DO_NOT_PAD, TruncationStrategy.LONGEST_FIRST, max_length, 0, None, None)
    tokenizer.set_truncation_and_padding(*cut)
    rows = texts if pairs is None else list(zip(texts, pairs, strict=True))
    return [found.ids for found in tokenizer.backend_tokenizer.encode_batch(rows)]


def pad(token_ids: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, (rows, longest row)."""
    longest = max(map(len, token_ids))
    missing = [longest - len(ids) for ids in token_ids]
    # of lists at once: a row at a time takes a tenth of what a small model takes to read it
    rows = [[*ids, *[pad_id] * n] for ids, n in zip(token_ids, missing, strict=True)]
    seen = [[1] * (longest - n) + [0] * n for n in missing]
    return {"input_ids": torch.tensor(rows, dtype=torch.long), "attention_mask": torch.tensor(seen, dtype=torch.long)}


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
