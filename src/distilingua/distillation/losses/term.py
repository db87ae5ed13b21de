"""The contract of a term of the objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from distilingua.distillation.signals import ModelShape, Signals
from distilingua.errors import UserError

Temperature = float | Tensor
"""T > 0: one number, or one per position as (positions, 1)."""


class Term(nn.Module, ABC):
    """One weighted term of the objective.

    Args:
        weight: its configured weight, at least 0. Schedules multiply it; nothing overwrites it.
    """

    soft: ClassVar[bool] = True
    """Whether it needs the teacher; a schedule treats hard and soft terms apart."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `Layers` that it reads beside the logits: hidden, attentions, qkv, vector. Each costs time."""

    aligns: ClassVar[bool] = False
    """Whether it compares distributions over other classes than the student's, see `Signals.shared`."""

    by_piece: str = ""
    """Of a term that compares models piece by piece: what to do where they read other pieces."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise UserError(f"objective: {type(self).__name__} has weight {weight}. A weight is at least 0.")
        self.weight = weight

    def connect(self, student: ModelShape, teacher: ModelShape) -> None:
        """Called once before training, when both models are known: the place to make learned projections.

        Raises:
            UserError: the term cannot compare these two models.
        """

    @abstractmethod
    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        """The unweighted loss, a scalar: the mean over rows as `Signals.mean` defines it."""


class SoftTerm(Term):
    """A term that compares with the teacher position by position: the mean over the positions that the teacher read."""

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
        """The loss of every position, (positions,), from logits, (positions, classes)."""

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        assert signals.teacher is not None
        return signals.mean(self.compare(signals.student, signals.teacher, temperature), signals.has_teacher)
