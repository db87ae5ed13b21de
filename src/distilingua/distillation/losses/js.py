"""Jensen-Shannon divergence: symmetric and bounded."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.term import SoftTerm, Temperature


def jensen_shannon(student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
    r"""`T² · (KL(p ‖ m) + KL(q ‖ m)) / 2` with `m = (p + q) / 2`, in nats, for every position.

    p and q are the softened teacher and student, `softmax(logits / T)`.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).
        temperature: T > 0, a number or (positions, 1).

    Returns:
        (positions,), between 0 and T² · log 2; 0 with a vanishing gradient where both distributions agree.

    Reference:
        Lin (1991), Divergence Measures Based on the Shannon Entropy, equation 3.4 with equal weights. The factor T² is
        Hinton's, see `kl`.

    Relations:
        Between `kl` and `reverse_kl`, and bounded: a row on which the teacher is confidently wrong costs at most
        T² · log 2, so it suits noisy soft labels. Near agreement it is a quarter of `kl`, and far from it its gradient
        vanishes as that of `mse` does, so give it a larger weight than `kl`.
    """
    student = F.log_softmax(student / temperature, dim=-1)
    teacher = F.log_softmax(teacher / temperature, dim=-1)
    middle = torch.logaddexp(student, teacher) - math.log(2)
    both = F.kl_div(middle, teacher, log_target=True, reduction="none") + F.kl_div(
        middle, student, log_target=True, reduction="none"
    )
    return (temperature**2 * both / 2).sum(-1)


class JensenShannon(SoftTerm):
    """`jensen_shannon` over the positions that the teacher read."""

    compare = staticmethod(jensen_shannon)
