"""Pieces of text as models read them: their numbers, and where they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilingua.columns import Encoded, Ragged
from distilingua.console import console
from distilingua.errors import UserError
from distilingua.tasks.slow import PreTrainedTokenizerBase

OWN_WAYS = ("__call__", "_encode_plus")  # of a tokenizer that does more than its backend, as a few of transformers do


LONG = ("head", "head_tail", "windows")
"""How a text is read that has more pieces than a model reads at once, see `piece_ids`."""


def piece_ids(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    pairs: list[str] | None,
    max_length: int,
    long: str = "head",
    stride: int = 0,
) -> dict[str, Ragged | np.ndarray]:
    """`input_ids` of texts or pairs, and `lost`, how many pieces of each are not read, (rows,).

    `head` reads what `tokenizer(texts, pairs, truncation=True, max_length=max_length)` does. `head_tail` keeps a
    quarter of what fits from the beginning of a text and the rest from its end, as Sun et al. (2019, arXiv:1905.05583,
    section 5.3.1) keep 128 and 382 of 510. `windows` reads all of it, in windows of `max_length` that share `stride`
    pieces with their neighbours: `input_ids` has those of a row one after the other, `lengths` how long each is. What
    begins and ends a text stands around each of these, too.
    """
    whole, special = _pieces(tokenizer, texts, pairs)
    over = whole.lengths > max_length
    lost = np.where(over & (long != "windows"), whole.lengths - max_length, 0).astype(np.int32)
    each = [[ids] for ids in whole] if over.any() or long == "windows" else []
    far = np.flatnonzero(over).tolist()
    if far and long == "head":  # where it is cut, and which text of a pair, is for the tokenizer to say
        cut, _ = _pieces(tokenizer, [texts[n] for n in far], pairs and [pairs[n] for n in far], max_length)
        for n, kept in zip(far, cut, strict=True):
            each[n] = [kept]
    elif far:
        mask = special(far[0])
        around = mask.index(0), mask[::-1].index(0)
        for n in far:
            each[n] = _parts(whole[n], *around, max_length, stride if long == "windows" else None)
    ids = Ragged.of([np.concatenate(parts) for parts in each]) if each else whole
    windows = {"lengths": Ragged.of([[len(part) for part in parts] for parts in each])} if long == "windows" else {}
    return {"input_ids": ids, "lost": lost, **windows}


def _parts(ids: np.ndarray, before: int, after: int, max_length: int, stride: int | None) -> list[np.ndarray]:
    """What is read of a text that is too long, of which so many pieces begin and end every text: windows, or head and
    tail where there is no stride. See `piece_ids`."""
    text, room = ids[before : len(ids) - after], max_length - before - after
    if stride is None:
        parts = [np.concatenate([text[: room // 4], text[len(text) - room + room // 4 :]])]
    else:
        parts = [text[start : start + room] for start in range(0, len(text) - stride, max(1, room - stride))]
    return [np.concatenate([ids[:before], part, ids[len(ids) - after :]]) for part in parts]


def _pieces(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int | None = None
) -> tuple[Ragged, Callable[[int], list[int]]]:
    """Pieces as the tokenizer itself makes them, all or so many; and, by a row's number, which of its own are of no
    text. In half the time: what is asked for a sentence at a time has nothing else to wait for than the tokenizer's
    backend."""
    from transformers import TokenizersBackend

    kind: Any = type(tokenizer)
    if not issubclass(kind, TokenizersBackend) or any(
        getattr(kind, f) is not getattr(TokenizersBackend, f) for f in OWN_WAYS
    ):
        cut: Any = {"truncation": max_length is not None, "max_length": max_length}
        found = tokenizer(texts, pairs, **cut, verbose=False)["input_ids"]
        mask = "special_tokens_mask"
        return Ragged.of(found), lambda n: tokenizer(texts[n], return_special_tokens_mask=True, verbose=False)[mask]
    backend = tokenizer.backend_tokenizer
    if max_length is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
    backend.no_padding()
    read = backend.encode_batch_fast(texts if pairs is None else list(zip(texts, pairs, strict=True)))
    ids = np.fromiter(chain.from_iterable(one.ids for one in read), np.int32)  # a list of one text at a time
    return Ragged.by_lengths(ids, [len(one) for one in read]), lambda n: read[n].special_tokens_mask


def cut_counts(read: Encoded) -> np.ndarray:
    """Of texts as a model reads them, (4,): how many, how many are cut, and of these all pieces and those not read, as
    far as their task counts these."""
    lost = read.numbers("lost") if "lost" in read else np.zeros(len(read), np.int32)
    return np.array([len(read), (lost > 0).sum(), (read.lengths + lost)[lost > 0].sum(), lost.sum()])


def tell_cut(who: str, task: Any, counts: Any, tell: Callable[[str], Any] | None = None) -> None:
    """Says how many texts a model does not read whole, with the keys that decide it; nothing where it does.

    Args:
        who: reads them.
        task: says how; one that can read in windows has `long`.
        counts: see `cut_counts`.
        tell: prints a line; None for the console.
    """
    texts, cut, pieces, lost = map(int, counts)
    windows = " or, of a text that stands alone, task.long=windows" if hasattr(task, "long") else ""
    if cut:
        (tell or partial(console.print, soft_wrap=True))(
            f"{who}: {cut:,} of {texts:,} texts are cut at task.max_length={task.max_length} pieces: "
            f"{100 * lost / pieces:.1f} % of their pieces are lost (task.max_length=N{windows} reads them whole)."
        )


def pad_windows(encoded: Encoded, pad_id: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """See `pad`, with a row for every window; and the number of the first one of each text, (texts,)."""
    windows = encoded.lists("lengths")
    inputs = pad(Ragged.by_lengths(encoded.lists("input_ids").values, windows.values), pad_id)
    return inputs, windows.offsets[:-1] - windows.offsets[0]


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
