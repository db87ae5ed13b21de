"""How temperature and weights move while training goes on: functions of progress that multiply, never overwrite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from distilingua.errors import UserError


@dataclass(frozen=True)
class Progress:
    """How far training is: optimizer steps done, and to do in all."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        return self.step / max(self.total, 1)


class Schedule(Protocol):
    def __call__(self, progress: Progress) -> float:
        """What the configured value is multiplied with at this point, at least 0."""


@dataclass
class Constant:
    """The same factor from the first step to the last."""

    factor: float = 1.0

    def __call__(self, progress: Progress) -> float:
        return self.factor


@dataclass
class Switch:
    """`before` until the switch, `after` from it on; the article's second stage is a switch from 0 to 1.

    Args:
        at: an integer counts optimizer steps; a number below 1 is a fraction of the training.
    """

    at: float = 0.3
    before: float = 0.0
    after: float = 1.0

    def __post_init__(self) -> None:
        if self.at < 0 or (self.at >= 1 and self.at != int(self.at)):
            raise UserError(
                f"schedule: switch={self.at} is neither a fraction nor a number of steps. Use 0.3 for 30 % of the "
                f"training, or a whole number such as 500 for that step."
            )

    def __call__(self, progress: Progress) -> float:
        done = progress.step if self.at >= 1 else progress.fraction
        return self.after if done >= self.at else self.before


class Schedules:
    """One schedule for the hard terms, one for the soft ones, one for the temperature; `terms` names exceptions."""

    def __init__(
        self, hard: Schedule, soft: Schedule, temperature: Schedule, terms: Mapping[str, Schedule] | None = None
    ) -> None:
        self.hard, self.soft, self.temperature, self.terms = hard, soft, temperature, dict(terms or {})

    def weight(self, name: str, soft: bool) -> Schedule:
        return self.terms.get(name) or (self.soft if soft else self.hard)
