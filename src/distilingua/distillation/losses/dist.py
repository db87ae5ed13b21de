"""Correlation with the teacher, within rows and across them."""

from __future__ import annotations

import torch
from torch import Tensor

from distilingua.distillation.losses.term import Temperature, Term
from distilingua.distillation.signals import Signals
from distilingua.errors import UserError

LEAST = 1e-16  # product of two sums of squares: below it, what varies is rounding


def pearson_distance(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """`1 - ρ`, Pearson's correlation along `dim`, which is gone from the result; between 0 and 2.

    Where either side does not vary (a single row, a uniform distribution) there is nothing to correlate: 0, without a
    gradient.
    """
    student = student - student.mean(dim, keepdim=True)
    teacher = teacher - teacher.mean(dim, keepdim=True)
    squares = student.square().sum(dim) * teacher.square().sum(dim)
    varies = squares > LEAST
    # the inner `where` keeps the root's infinite slope at 0 out of the gradient
    correlation = (student * teacher).sum(dim) / torch.where(varies, squares, 1.0).sqrt()
    return torch.where(varies, 1 - correlation, 0.0)


def dist(
    student: Tensor, teacher: Tensor, temperature: Temperature, mask: Tensor, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """`β · inter + γ · intra` of the probabilities `softmax(logits / T)`, for every position.

    - inter, between classes: `1 - ρ(student's row, teacher's row)`, of every position;
    - intra, within a class: `1 - ρ(student's column, teacher's column)` over the positions in `mask`, averaged over
      the classes; one number, the same for every position.

    Without a factor T²: a correlation is free of scale, so its gradient does not shrink when T grows.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).
        temperature: T > 0, a number or (positions, 1).
        mask: positions that the teacher read, (positions,) bool.

    Returns:
        (positions,), between 0 and 2 · (β + γ); 0 with a vanishing gradient where both distributions agree.

    Reference:
        Huang et al. (2022), Knowledge Distillation from A Stronger Teacher, section 3.

    Relations:
        For a teacher much stronger than the student: the order of classes and of rows counts, not the exact
        probabilities that `kl` asks for. Intra compares the rows of a batch, so several accumulated batches, or
        processes, are not one large batch here, and batches below 16 or so say little. With two classes inter is 0 or 2
        and teaches nothing; intra still does.
    """
    student, teacher = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    inter = pearson_distance(student, teacher, dim=-1)
    intra = pearson_distance(student[mask], teacher[mask], dim=0).mean()
    return beta * inter + gamma * intra


class DIST(Term):
    """`dist` over the positions that the teacher read; intra weighs as much as their share of the rows.

    Args:
        weight: see `Term`.
        beta: weight of the comparison within a row, at least 0.
        gamma: weight of the comparison across rows, at least 0.
    """

    def __init__(self, weight: float = 1.0, beta: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__(weight)
        if not (beta >= 0 and gamma >= 0):
            raise UserError(
                f"objective.terms.dist: beta={beta}, gamma={gamma}. Both are at least 0; try beta=1 and gamma=1."
            )
        self.beta, self.gamma = beta, gamma

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        assert signals.teacher is not None
        loss = dist(signals.student, signals.teacher, temperature, signals.has_teacher, self.beta, self.gamma)
        return signals.mean(loss, signals.has_teacher)
