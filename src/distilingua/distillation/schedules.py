"""How temperature and weights move while training goes on: functions of progress that multiply, never overwrite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

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
class Linear:
    """From `start` to `end` in a straight line over the training, or over the part of it between two fractions."""

    start: float = 0.0
    end: float = 1.0
    begin: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.until <= 1:
            raise UserError(
                f"schedule: begin={self.begin} and until={self.until} are not two fractions of the training in "
                f"order. Try begin=0 and until=1."
            )

    def __call__(self, progress: Progress) -> float:
        done = min(max((progress.fraction - self.begin) / (self.until - self.begin), 0.0), 1.0)
        return self.start + (self.end - self.start) * self.curve(done)

    def curve(self, done: float) -> float:
        return done


class Cosine(Linear):
    """The same along half a cosine: slow at both ends, fast in the middle (Loshchilov and Hutter 2017, equation 5)."""

    def curve(self, done: float) -> float:
        return (1 - math.cos(math.pi * done)) / 2


@dataclass
class Steps:
    """One factor after another.

    Args:
        at: where the next factor begins, in order; a whole number of 1 or more counts optimizer steps, a number below 1
            is a fraction of the training.
        factors: one more than there are switches.
    """

    at: Sequence[float]
    factors: Sequence[float]

    def __post_init__(self) -> None:
        for at in self.at:
            if at < 0 or (at >= 1 and at != int(at)):
                raise UserError(
                    f"schedule: at={at} is neither a fraction nor a number of steps. Use 0.3 for 30 % of the "
                    f"training, or a whole number such as 500 for that step."
                )
        if len(self.factors) != len(self.at) + 1:
            raise UserError(
                f"schedule: {len(self.at)} switches stand between {len(self.at) + 1} factors, not "
                f"{len(self.factors)}. Try at=[0.3,0.6] with factors=[1,0.5,0.25]."
            )

    def __call__(self, progress: Progress) -> float:
        passed = sum((progress.step if at >= 1 else progress.fraction) >= at for at in self.at)
        return self.factors[passed]


class Switch(Steps):
    """`before` until `at`, `after` from it on; the article's second stage is a switch from 0 to 1."""

    def __init__(self, at: float = 0.3, before: float = 0.0, after: float = 1.0) -> None:
        super().__init__([at], [before, after])


class Adaptive(Protocol):
    def __call__(self, temperature: float, student: Tensor, teacher: Tensor, read: Tensor) -> Tensor:
        """A temperature for every position, (positions, 1), above 0.

        Args:
            temperature: the scheduled one.
            student, teacher: logits, (positions, classes).
            read: whether the teacher read the position, (positions,) bool; others do not count for means.
        """


LEAST = 0.1  # of the scheduled temperature: below it a softmax is as good as an argmax


def _around(temperature: float, w: Tensor, read: Tensor, beta: float) -> Tensor:
    """`T + β·(mean(w) - w)`, (positions, 1), from w of (positions,); the mean over what the teacher read."""
    mean = w[read].mean() if read.any() else w.mean()
    return (temperature + beta * (mean - w)).clamp_min(LEAST * temperature)[:, None]


@dataclass
class FLSW:
    """`T + β·(mean(w) - w)` with `w = (1 - cos(student, teacher))^γ`: cooler where the two disagree.

    The "flsw" temperature of TextBrewer, after Ding et al. (2019), Adaptive Regularization of Labels,
    arXiv:1911.07471, section 3. The mean is over the batch, so accumulated batches are not one large batch here.
    Never below a tenth of T.
    """

    beta: float = 1.0
    gamma: float = 1.0

    def __call__(self, temperature: float, student: Tensor, teacher: Tensor, read: Tensor) -> Tensor:
        alike = torch.nn.functional.cosine_similarity(student.detach(), teacher, dim=-1)
        w = (1 - alike).clamp_min(0) ** self.gamma
        return _around(temperature, w, read, self.beta)


@dataclass
class CWSM:
    """`T + β·(mean(w) - w)` with `w = 1 / (max softmax(student) + 0.001)`: cooler where the student is unsure.

    The "cwsm" temperature of TextBrewer, after the same paper. Never below a tenth of T.
    """

    beta: float = 1.0

    def __call__(self, temperature: float, student: Tensor, teacher: Tensor, read: Tensor) -> Tensor:
        w = 1 / (student.detach().softmax(-1).amax(-1) + 1e-3)
        return _around(temperature, w, read, self.beta)


class Schedules:
    """One schedule for the hard terms, one for the soft ones, one for the temperature.

    Args:
        terms: exceptions, by name of the term.
        adaptive: gives every position a temperature of its own, around the scheduled one.
    """

    def __init__(
        self,
        hard: Schedule,
        soft: Schedule,
        temperature: Schedule,
        terms: Mapping[str, Schedule] | None = None,
        adaptive: Adaptive | None = None,
    ) -> None:
        self.hard, self.soft, self.temperature, self.terms = hard, soft, temperature, dict(terms or {})
        self.adaptive = adaptive
        for name, schedule in {"hard": hard, "soft": soft, "temperature": temperature, **self.terms}.items():
            least = min(schedule(Progress(step, 100)) for step in range(101))
            if least < 0 or (name == "temperature" and least == 0):
                raise UserError(
                    f"schedule.{name} reaches {least:g}. Weights stay at 0 or above, a temperature above 0: try 0.1."
                )

    def weight(self, name: str, soft: bool) -> Schedule:
        return self.terms.get(name) or (self.soft if soft else self.hard)
