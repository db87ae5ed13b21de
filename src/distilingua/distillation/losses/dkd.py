"""Decoupled knowledge distillation: how likely the target class is, and how the others compare, weighed apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.kl import kl_divergence
from distilingua.distillation.losses.term import Temperature, Term
from distilingua.distillation.signals import IGNORE_INDEX, Signals
from distilingua.errors import UserError


def decoupled_kl(student: Tensor, teacher: Tensor, target: Tensor, temperature: Temperature) -> tuple[Tensor, Tensor]:
    r"""The two parts of `kl`, each times T², in nats, for every position.

    With p the softened teacher and t the target class, `kl = TCKD + (1 - p_t) · NCKD`:

    - TCKD, target class: the KL divergence between `(p_t, 1 - p_t)` of teacher and student;
    - NCKD, non-target classes: the KL divergence between their distributions over all classes but t.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).
        target: class indices, (positions,).
        temperature: T > 0, a number or (positions, 1).

    Returns:
        TCKD and NCKD, each (positions,) and at least 0; 0 with a vanishing gradient where both models agree.

    Reference:
        Zhao et al. (2022), Decoupled Knowledge Distillation, section 3.

    Relations:
        `kl` weighs NCKD with `1 - p_t`, so the surer the teacher, the less it says about the other classes. Here that
        weight is free. Choose it for a confident teacher with many classes; with two classes NCKD is 0.
    """
    positions, classes = student.shape
    others = F.one_hot(target, classes) == 0

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        # log(1 - p_t) as a sum over the others: exact even where p_t rounds to 1
        logits = F.log_softmax(logits / temperature, dim=-1)
        rest = logits[others].view(positions, classes - 1)
        return torch.stack([logits[~others], rest.logsumexp(-1)], dim=-1), rest

    student_target, student_rest = split(student)
    teacher_target, teacher_rest = split(teacher)
    square = (temperature.squeeze(-1) if isinstance(temperature, Tensor) else temperature) ** 2
    return (
        square * kl_divergence(student_target, teacher_target, 1.0),
        square * kl_divergence(student_rest, teacher_rest, 1.0),
    )


class DecoupledKD(Term):
    """`α · TCKD + β · NCKD` (Zhao et al. 2022) over the positions that the teacher read.

    The target class is the label where training may see it, otherwise the class that the teacher finds likeliest:
    zero-shot rows have no label, and the paper's method needs one.

    Args:
        weight: see `Term`.
        alpha: weight of the target class part, at least 0.
        beta: weight of the non-target part, at least 0.
    """

    def __init__(self, weight: float = 1.0, alpha: float = 1.0, beta: float = 2.0) -> None:
        super().__init__(weight)
        if not (alpha >= 0 and beta >= 0):
            raise UserError(
                f"objective.terms.dkd: alpha={alpha}, beta={beta}. Both are at least 0; try alpha=1 and beta=2."
            )
        self.alpha, self.beta = alpha, beta

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        assert signals.teacher is not None
        target = torch.where(signals.labels == IGNORE_INDEX, signals.teacher.argmax(-1), signals.labels)
        tckd, nckd = decoupled_kl(signals.student, signals.teacher, target, temperature)
        return signals.mean(self.alpha * tckd + self.beta * nckd, signals.has_teacher)
