"""Distance between sorted probabilities: teacher and student need not share their classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.term import SoftTerm, Temperature


def universal_logit(student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
    """`T · Σᵢ |pᵢ - qᵢ|` for every position: probabilities in falling order, the shorter list padded with zeros.

    p and q are the softened teacher and student, `softmax(logits / T)`. The gradient of a difference of probabilities
    shrinks with 1/T; the factor T keeps its scale (`kl`, which is quadratic in them, takes T²).

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, other classes).
        temperature: T > 0, a number or (positions, 1).

    Returns:
        (positions,), between 0 and 2 · T; 0 with a vanishing gradient where both are equally sure.

    Reference:
        Boizard et al. (2024), Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs,
        section 3: an optimal transport distance with equal costs, which sorting solves. The factor T is ours.

    Relations:
        For teacher and student with different label sets or vocabularies, where nothing else here applies. It teaches
        how sure to be and not of what: always combine it with `ce`. Where the classes are the same, `kl` says more;
        where some are, as in two vocabularies of one script, `aligned_uld` does.
    """
    return (temperature * sorted_gaps((student / temperature).softmax(-1), (teacher / temperature).softmax(-1))).sum(-1)


def sorted_gaps(student: Tensor, teacher: Tensor) -> Tensor:
    """`|pᵢ - qᵢ|` of probabilities in falling order, the shorter list padded with zeros.

    Args:
        student: (positions, classes).
        teacher: (positions, other classes).

    Returns:
        (positions, classes of the longer list).
    """
    student, teacher = student.sort(-1, descending=True).values, teacher.sort(-1, descending=True).values
    missing = teacher.shape[-1] - student.shape[-1]
    return (F.pad(student, (0, max(missing, 0))) - F.pad(teacher, (0, max(-missing, 0)))).abs()


class UniversalLogit(SoftTerm):
    """`universal_logit` over the positions that the teacher read."""

    compare = staticmethod(universal_logit)
