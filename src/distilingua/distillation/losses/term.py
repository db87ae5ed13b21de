"""The contract of a term of the objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from distilingua.distillation.signals import Signals
from distilingua.errors import UserError


class Term(nn.Module, ABC):
    """One weighted term of the objective.

    Args:
        weight: its configured weight, at least 0. Schedules multiply it; nothing overwrites it.
    """

    soft: ClassVar[bool] = True
    """Whether it needs the teacher; a schedule treats hard and soft terms apart."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise UserError(f"objective: {type(self).__name__} has weight {weight}. A weight is at least 0.")
        self.weight = weight

    @abstractmethod
    def forward(self, signals: Signals, temperature: float) -> Tensor:
        """The unweighted loss, a scalar: the mean over rows as `Signals.mean` defines it."""
