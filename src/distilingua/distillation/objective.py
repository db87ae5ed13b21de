"""The objective: a weighted sum of terms. Knows no Lightning, no corpus, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distilingua.distillation.losses.term import Temperature, Term
from distilingua.distillation.schedules import Constant, Progress, Schedules
from distilingua.distillation.signals import ModelShape, Signals
from distilingua.errors import UserError


@dataclass
class Loss:
    """The total, and everything worth plotting: `loss/TERM` (unweighted), `weight/TERM`, `temperature`
    (and the least and most of it, where every position has its own)."""

    total: Tensor
    logs: dict[str, float | Tensor]


class Objective(nn.Module):
    """`Σ wᵢ(step) · lossᵢ(student, teacher, T(step))`.

    The house default is Hinton's `α·T²·KL(teacherᵀ ‖ studentᵀ) + (1-α)·CE`. A term whose weight is 0 at a step is not
    computed in it.

    Args:
        terms: name -> term; a term may have weights of its own (projections), which the optimizer then trains.
        temperature: T > 0, multiplied by its schedule.
        schedules: how weights and temperature move.
        alpha: the soft labels' share, where a configuration derives its weights from one.
        teacher: whether there is one even if no term compares with it: its own answers may be the labels, see
            `Task.pseudo_labels`.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        temperature: float,
        schedules: Schedules,
        alpha: float | None = None,
        teacher: bool = False,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise UserError(f"objective.temperature={temperature}: a temperature is above 0. Try 1, 2 or 4.")
        if not terms:
            raise UserError("objective.terms is empty. Add at least one term, e.g. objective=kd.")
        unknown = set(schedules.terms) - set(terms)
        if unknown:
            raise UserError(f"schedule.terms names {', '.join(sorted(unknown))}; the terms are {', '.join(terms)}.")
        self.terms = nn.ModuleDict(terms)
        self.temperature, self.schedules, self.alpha = temperature, schedules, alpha
        self.compares = any(term.soft for term in terms.values())
        self.aligning = [name for name, term in terms.items() if term.aligns]
        self.same_classes = any(term.soft and not term.aligns for term in terms.values())
        self.needs_teacher = teacher or self.compares

    @property
    def needs(self) -> dict[str, set[str]]:
        """What terms read beside the logits (see `Layers`), and the names of those terms."""
        readers: dict[str, set[str]] = {}
        for name, term in self.terms.items():
            assert isinstance(term, Term)
            for field in term.needs:
                readers.setdefault(field, set()).add(name)
        return readers

    @property
    def by_piece(self) -> dict[str, str]:
        """Of terms that compare piece by piece, see `Term.by_piece`."""
        return {name: term.by_piece for name, term in self.terms.items() if isinstance(term, Term) and term.by_piece}

    @property
    def recipe(self) -> dict[str, Any]:
        """What it says of labels, as plain values: of terms that compare with a teacher, its settings say more."""
        terms = [
            [type(term).__qualname__, {k: v for k, v in vars(term).items() if isinstance(v, bool | int | float | str)}]
            for term in self.terms.values()
        ]
        weights = [repr(self.schedules.weight(name, term.soft)) for name, term in self.terms.items()]  # type: ignore[arg-type]
        return {"terms": terms, "weights": weights}

    def connect(self, student: ModelShape, teacher: ModelShape) -> None:
        """Lets every term see which models it will compare, see `Term.connect`."""
        for term in self.terms.values():
            assert isinstance(term, Term)
            term.connect(student, teacher)

    def forward(self, signals: Signals, progress: Progress) -> Loss:
        temperature: Temperature = self.temperature * self.schedules.temperature(progress)
        if self.schedules.adaptive is not None and signals.teacher is not None:
            temperature = self.schedules.adaptive(
                float(temperature), signals.student, signals.teacher, signals.has_teacher
            )
        total = torch.zeros((), device=signals.student.device)
        logs: dict[str, float | Tensor] = {"temperature": temperature}
        if isinstance(temperature, Tensor):
            read = temperature[signals.has_teacher] if signals.has_teacher.any() else temperature
            logs = {"temperature": read.mean(), "temperature/least": read.min(), "temperature/most": read.max()}
        for name, term in self.terms.items():
            assert isinstance(term, Term)
            weight = term.weight * self.schedules.weight(name, term.soft)(progress)
            logs[f"weight/{name}"] = weight
            if weight > 0:
                loss = term(signals, temperature)
                total = total + weight * loss
                logs[f"loss/{name}"] = loss.detach()
        return Loss(total, {"loss": total.detach(), **logs})


def hard_labels(term: Term) -> Objective:
    """A hard loss alone, as a teacher learns its task and as the baseline learns without a teacher."""
    return Objective({"hard": term}, 1.0, Schedules(Constant(), Constant(), Constant()))
