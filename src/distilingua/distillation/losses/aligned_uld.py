"""Distributions over two vocabularies, span by span of a text: pieces of both one by one, the others sorted."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from distilingua.distillation.losses.term import Temperature, Term
from distilingua.distillation.losses.uld import sorted_gaps
from distilingua.distillation.signals import Signals
from distilingua.distillation.spans import merged
from distilingua.errors import UserError


def aligned_distances(
    student: Tensor, teacher: Tensor, shared: Tensor, temperature: Temperature
) -> tuple[Tensor, Tensor]:
    """`T² · Σᵢ (qᵢ log(qᵢ / pᵢ) - qᵢ + pᵢ)` over the classes i that both have, and `universal_logit` over all others.

    p and q are the softened student and teacher. The first is the Kullback-Leibler divergence of parts of distributions
    (Csiszár's I-divergence), and `kl_divergence` itself where all classes are shared.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes + others): the student's classes come first, in its order, with -inf or
            thereabouts for those that the teacher does not have.
        shared: which of the student's classes the teacher has, (classes,) bool.
        temperature: T > 0, a number or (positions, 1).

    Returns:
        Twice (positions,), at least 0.
    """
    own = len(shared)
    p, q = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    log_p = (student / temperature).log_softmax(-1)
    known, q_known = log_p[:, shared], q[:, :own][:, shared]
    direct = torch.xlogy(q_known, q_known) - q_known * known - q_known + known.exp()
    # both by softmax, so that equal logits give equal bits: the sign of a gap that is rounding would be chance
    apart = sorted_gaps(p[:, ~shared], torch.cat([q[:, :own][:, ~shared], q[:, own:]], -1))
    return (temperature**2 * direct).sum(-1), (temperature * apart).sum(-1)


class AlignedUniversalLogit(Term):
    """`matched · first + unmatched · second` of `aligned_distances`, over the spans of a text that the teacher read.

    A span is the shortest stretch that both models write in whole pieces: where one writes "Licht" and the other "Lich"
    and "t", these three belong together, and `merged` makes one distribution of each side. Pieces of both vocabularies
    are compared one by one; for the others it only counts how sure each model is.

    Args:
        weight: see `Term`.
        matched: weight of the pieces that both have, at least 0.
        unmatched: weight of the others, at least 0.

    Reference:
        Patiño et al. (2025), Unlocking On-Policy Distillation for Any Model Family (GOLD, as in the GOLDTrainer of
        TRL): spans of the same text, the chain rule in them, and classes in two groups with a weight each. On Boizard
        et al. (2024), Universal Logit Distillation. Ours are the divergence of the first group (theirs is a generalised
        Jensen-Shannon), what is left of a span as a class, the factors of T, and weights of 1.

    Relations:
        For `task=translation` where teacher and student have other pieces, which `kl` and its like refuse. The more
        pieces both have, the more it is `kl`; where all are the same, it is `kl`. `objective=sequence` compares nothing
        and learns the teacher's text alone, which is quicker.
    """

    aligns: ClassVar[bool] = True

    def __init__(self, weight: float = 1.0, matched: float = 1.0, unmatched: float = 1.0) -> None:
        super().__init__(weight)
        for name, share in (("matched", matched), ("unmatched", unmatched)):
            if not share >= 0:
                raise UserError(f"objective.terms.aligned_uld.{name}={share}: a weight is at least 0. Try 1.")
        self.matched, self.unmatched = matched, unmatched

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        assert signals.teacher is not None
        student, shared = signals.student, signals.shared
        if signals.span is not None:
            student = merged(student, signals.labels, signals.span)
        if shared is None:
            shared = torch.ones(student.shape[-1], dtype=torch.bool, device=student.device)
        direct, apart = aligned_distances(student, signals.teacher, shared, temperature)
        return signals.mean(self.matched * direct + self.unmatched * apart, signals.has_teacher)
