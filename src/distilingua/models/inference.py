"""A model's logits for many texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from distilingua.data.collate import pad
from distilingua.tasks.text_classification import TextClassification


def logit_batches(
    model: PreTrainedModel,
    task: TextClassification,
    token_ids: Sequence[list[int]],
    pad_id: int,
    title: str,
    batch_size: int = 128,
    start: int = 0,
) -> Iterator[tuple[list[int], Tensor]]:
    """Positions of texts and their logits, (texts, classes), in evaluation mode, texts of like length together.

    Args:
        token_ids: as `task.tokenise` returns them.
        pad_id: the model's padding piece.
        title: of the progress bar.
        start: how many texts, in the order of this iterator, are not wanted again.
    """
    model.eval()
    order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    for at in track(range(start, len(order), batch_size), description=title, transient=True):
        rows = order[at : at + batch_size]
        inputs = pad([token_ids[i] for i in rows], pad_id)
        with torch.inference_mode():
            logits = task.logits(model(**{k: v.to(model.device) for k, v in inputs.items()})).cpu()
        yield rows, logits


def logits_of(
    model: PreTrainedModel, task: TextClassification, token_ids: Sequence[list[int]], pad_id: int, title: str
) -> Tensor:
    """Logits, (texts, classes), in the order of the texts; see `logit_batches`."""
    out = torch.empty(len(token_ids), len(task.labels))
    for rows, logits in logit_batches(model, task, token_ids, pad_id, title):
        out[rows] = logits
    return out
