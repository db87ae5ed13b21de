"""Kullback-Leibler divergence class by class: for classes that do not exclude one another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.term import SoftTerm, Temperature


def binary_kl(student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
    r"""`T² · Σ_c KL(Bernoulli(σ(teacher_c / T)) ‖ Bernoulli(σ(student_c / T)))`, in nats, for every position.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).
        temperature: T > 0, a number or (positions, 1).

    Returns:
        (positions,), at least 0; 0 with a vanishing gradient where both agree on every class.

    Reference:
        Hinton, Vinyals and Dean (2015), section 2, for every class as a distribution over yes and no; Yang et al.
        (2023), Multi-Label Knowledge Distillation, section 3, call it MLD.

    Relations:
        `kl` compares one distribution over all classes, so that more of one class is less of the others. Here every
        class is a question of its own.
    """
    yes, no = F.logsigmoid(student / temperature), F.logsigmoid(-student / temperature)
    teacher_yes, teacher_no = F.logsigmoid(teacher / temperature), F.logsigmoid(-teacher / temperature)
    divergence = teacher_yes.exp() * (teacher_yes - yes) + teacher_no.exp() * (teacher_no - no)
    return (temperature**2 * divergence).sum(-1)


class BinaryKL(SoftTerm):
    """`binary_kl` over the positions that the teacher read."""

    compare = staticmethod(binary_kl)
