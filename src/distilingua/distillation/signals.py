"""What a loss may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Torch's own mark for "no label here"."""
BLANK = 0
"""The class of CTC that writes nothing."""


class ModelShape(Protocol):
    """What a term may ask of a model before training: its configuration in transformers has it."""

    num_hidden_layers: int
    hidden_size: int


@dataclass
class Layers:
    """What a model computed on the way to its logits; filled only where a term asks for it (`Term.needs`).

    Args:
        input_ids: the pieces it read, (rows, length).
        mask: which of them are not padding, (rows, length) bool.
        hidden: the embeddings' output, then every layer's, each (rows, length, width).
        attentions: every layer's probabilities, each (rows, heads, length, length).
        qkv: every layer's queries, keys and values, each (rows, length, width).
        vector: of every row's last layer, (rows, width): the mean over its pieces, or the first of them, whichever the
            model was trained to make.
        windows: where a model reads a long row in windows, how many there are of each row, (rows,); all of the above
            but the vector then have a row for every window, one after the other. None where each row is one.
    """

    input_ids: Tensor | None = None
    mask: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
    qkv: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()
    vector: Tensor | None = None
    windows: Tensor | None = None

    def by_row(self, values: Tensor) -> Tensor:
        """The mean over the windows of each row, (rows, …), of values of the windows, (windows, …)."""
        return values if self.windows is None else torch.segment_reduce(values, "mean", lengths=self.windows)


@dataclass
class Signals:
    """One batch as distributions over classes at positions; every task reduces to this.

    A sentence is one position, a word or a decoder step is one, an audio frame is one.

    Args:
        student: logits, (positions, classes).
        teacher: logits without temperature, (positions, classes); None when there is no teacher.
        labels: class indices, (positions,); -100 where training may not see the label. A task with a hard loss of its
            own may put something else here.
        has_teacher: whether the teacher read this position, (positions,) bool.
        rows: rows in the batch, the denominator of every mean. It does not depend on how many rows are labelled, so
            accumulated gradients, processes and one large batch give the same update.
        row: which row of the batch a position belongs to, (positions,), ascending; None when every row is one position.
        rows_read: whether the teacher read this row, (rows,) bool; None when it is `has_teacher`.
        class_weights: what the hard loss weighs each class by, (classes,); None for 1.
        student_layers, teacher_layers: see `Layers`; None unless a term asks for them.
        read: (rows,) whole numbers, equal where the teacher read the same text; for terms that compare rows.
        span: where teacher and student write a text in different pieces, the number of the position at which the span
            of a position begins, (positions,), -1 outside of any; `has_teacher` is true where one begins, and `teacher`
            is then about the whole span. None where they share positions.
        shared: where they do not share classes either, which columns of `teacher` mean what the student's class of that
            number means, (classes + 1,) bool; the last of these is what comes beside the span, and those of the teacher
            alone follow. None where all are shared.
    """

    student: Tensor
    teacher: Tensor | None
    labels: Tensor
    has_teacher: Tensor
    rows: int
    row: Tensor | None = None
    rows_read: Tensor | None = None
    class_weights: Tensor | None = None
    student_layers: Layers | None = None
    teacher_layers: Layers | None = None
    read: Tensor | None = None
    span: Tensor | None = None
    shared: Tensor | None = None

    def mean(self, per_position: Tensor, mask: Tensor) -> Tensor:
        """Mean over rows of the mean over a row's positions; masked positions count as zero.

        Args:
            per_position: losses, (positions,).
            mask: positions that count, (positions,) bool.
        """
        if self.row is not None:
            per_position = per_position / self.row.bincount(minlength=self.rows)[self.row]
        return torch.where(mask, per_position, 0.0).sum() / self.rows

    def mean_of_rows(self, per_row: Tensor) -> Tensor:
        """Mean over rows, those that no teacher read counting as zero; for terms that compare whole rows.

        Args:
            per_row: losses, (rows,).
        """
        return torch.where(self.row_mask, per_row, 0.0).sum() / self.rows

    @property
    def row_mask(self) -> Tensor:
        """Whether the teacher read this row, (rows,) bool."""
        return self.has_teacher if self.rows_read is None else self.rows_read
