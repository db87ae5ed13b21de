"""A model's answers to many texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from distilingua.tasks.task import Encoded, Task


def batches(
    model: PreTrainedModel,
    task: Task,
    encoded: Sequence[Encoded],
    pad_id: int,
    title: str,
    batch_size: int = 128,
    start: int = 0,
) -> Iterator[tuple[list[int], dict[str, Tensor], Tensor | None]]:
    """Numbers of texts with what the model is called with, texts of like length together; sets evaluation mode.

    Args:
        encoded: as `task.encode` returns them.
        pad_id: the model's padding piece.
        title: of the progress bar.
        start: how many texts, in the order of this iterator, are not wanted again.
    """
    model.eval()
    order = sorted(range(len(encoded)), key=lambda i: task.length(encoded[i]))
    for first in track(range(start, len(order), batch_size), description=title, transient=True):
        rows = order[first : first + batch_size]
        inputs, at = task.collate([encoded[i] for i in rows], pad_id)
        yield (
            rows,
            {name: tensor.to(model.device) for name, tensor in inputs.items()},
            at.to(model.device) if at is not None else None,
        )


def cell_batches(model: PreTrainedModel, task: Task, *given: Any, **options: Any) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers of texts and their logits, (positions of all of them, classes); see `batches` and `Task.cells`."""
    for rows, inputs, at in batches(model, task, *given, **options):
        with torch.inference_mode():
            cells = task.cells(model(**inputs), at).cpu()
        yield rows, cells


def answers_of(model: PreTrainedModel, task: Task, encoded: Sequence[Encoded], pad_id: int, title: str) -> list[Tensor]:
    """Answers in the order of the texts; see `Task.answer`."""
    found: list[Tensor] = [torch.empty(0)] * len(encoded)
    for rows, inputs, at in batches(model, task, encoded, pad_id, title):
        with torch.inference_mode():
            for row, answer in zip(rows, task.answer(model, inputs, at), strict=True):
                found[row] = answer.cpu()
    return found
