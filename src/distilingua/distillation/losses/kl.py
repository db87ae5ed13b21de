"""Kullback-Leibler divergence of the softened student from the softened teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.term import SoftTerm, Temperature


def kl_divergence(student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
    r"""`T² · KL(softmax(teacher / T) ‖ softmax(student / T))`, in nats, for every position.

    The gradient of the KL alone shrinks with 1/T²; the factor T² keeps its scale, so that the balance with the hard
    loss does not move when the temperature does.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).
        temperature: T > 0, a number or (positions, 1).

    Returns:
        (positions,), at least 0; 0 with a vanishing gradient where both distributions agree.

    Reference:
        Hinton, Vinyals and Dean (2015), Distilling the Knowledge in a Neural Network, section 2.

    Relations:
        The default. Mode-covering: the student is punished for missing a class the teacher finds likely. With T → ∞
        and centred logits it becomes the squared error of the logits (Hinton et al., equation 4). `mse` compares
        probabilities instead and saturates where both are confident.
    """
    student = F.log_softmax(student / temperature, dim=-1)
    teacher = F.log_softmax(teacher / temperature, dim=-1)
    return (temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="none")).sum(-1)


class KL(SoftTerm):
    """`kl_divergence` over the positions that the teacher read."""

    compare = staticmethod(kl_divergence)
