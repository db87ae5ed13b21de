"""Kullback-Leibler divergence the other way round: mode-seeking."""

from __future__ import annotations

from torch import Tensor

from distilingua.distillation.losses.kl import kl_divergence
from distilingua.distillation.losses.term import SoftTerm, Temperature


def reverse_kl(student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
    r"""`T² · KL(softmax(student / T) ‖ softmax(teacher / T))`, in nats, for every position.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).
        temperature: T > 0, a number or (positions, 1).

    Returns:
        (positions,), at least 0; 0 with a vanishing gradient where both distributions agree.

    Reference:
        Gu et al. (2024), MiniLLM: Knowledge Distillation of Large Language Models, section 2.1, minimise it over whole
        sequences; here it is taken at every position. The factor T² is Hinton's, see `kl`.

    Relations:
        Mode-seeking: the student is punished for what it finds likely and the teacher does not, and may leave out what
        the teacher finds second best. For a student too small to hold all of the teacher's distribution, or a teacher
        with noisy tails. Unlike `kl` it is unbounded where the teacher is sure, so its gradients are rougher; `js` lies
        between the two.
    """
    return kl_divergence(teacher, student, temperature)


class ReverseKL(SoftTerm):
    """`reverse_kl` over the positions that the teacher read."""

    compare = staticmethod(reverse_kl)
