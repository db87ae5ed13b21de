"""Angle between logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.term import SoftTerm, Temperature


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """`1 - cos(student, teacher)` over the classes, for every position. There is no temperature: it cancels.

    Of logits, not of probabilities: two confident distributions are nearly one-hot, so their cosine sees the first
    class alone and its gradient vanishes. Logits are not centred first: with two classes, centred ones only have two
    directions, and the gradient would be 0 everywhere.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).

    Returns:
        (positions,), between 0 and 2; 0 with a vanishing gradient where one is a positive multiple of the other.

    Reference:
        The cosine embedding loss that Sanh et al. (2019), DistilBERT, section 3, use on hidden states, here on logits.

    Relations:
        Free of scale: a small student may be less sure than its teacher and still lose nothing, where `logit_mse`
        insists on the teacher's scale. So it does not teach how sure to be: combine it with `ce` or `kl`. A constant
        added to all logits turns the angle, so averages of several teachers or rows, and stores of the likeliest
        classes, which hold log-probabilities, teach something else than one teacher's logits: prefer `dist` there,
        which also compares the rows of a batch with one another.
    """
    return 1 - F.cosine_similarity(student, teacher, dim=-1)


class Cosine(SoftTerm):
    """`cosine_distance` over the positions that the teacher read; the objective's temperature does not touch it."""

    def compare(self, student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
        return cosine_distance(student, teacher)
