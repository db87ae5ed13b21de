"""Squared error between probabilities: the founding article's soft loss."""

from __future__ import annotations

from torch import Tensor

from distilingua.distillation.losses.term import SoftTerm, Temperature


def probability_mse(student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
    """`mean over classes of (softmax(student) - softmax(teacher / T))²`, for every position.

    Only the teacher is softened: the student's plain probabilities are drawn to the teacher's softened labels, which is
    the article's formula. At T = 1 it is the Brier score against the teacher (over the number of classes).

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).
        temperature: T > 0, applied to the teacher; a number or (positions, 1).

    Returns:
        (positions,), between 0 and 2 / classes.

    Reference:
        The mean squared error that the article on distillation for cross-lingual transfer minimises; see also Ba and
        Caruana (2014), Do Deep Nets Really Need to be Deep?, who match logits.

    Relations:
        Bounded, so one wrong teacher label costs little; but its gradient vanishes where the student is confidently
        wrong, so it learns more slowly than `kl` and wants a larger weight, or hard labels first
        (`schedule=two_stage`).
    """
    return (student.softmax(-1) - (teacher / temperature).softmax(-1)).square().mean(-1)


class ProbabilityMSE(SoftTerm):
    """`probability_mse` over the positions that the teacher read."""

    compare = staticmethod(probability_mse)
