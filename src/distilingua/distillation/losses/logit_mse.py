"""Squared error between logits."""

from __future__ import annotations

from torch import Tensor

from distilingua.distillation.losses.term import SoftTerm, Temperature


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean over classes of (student - teacher)²`, for every position. There is no temperature.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).

    Returns:
        (positions,), in squared logits, at least 0; 0 with a vanishing gradient where the logits agree.

    Reference:
        Ba and Caruana (2014), Do Deep Nets Really Need to be Deep?, section 2.2; the factor 1/2 is left out.

    Relations:
        What `kl` becomes with T → ∞ for centred logits, up to a factor: every class counts alike, however unlikely.
        Its gradient never saturates, so it learns fast where `mse` (of probabilities) stands still. It also copies
        what a softmax does not see: a constant added to all logits, which costs a little capacity. Averages of several
        teachers or rows, and stores of the likeliest classes, hold log-probabilities, logits with another constant:
        prefer `kl` there.
    """
    return (student - teacher).square().mean(-1)


class LogitMSE(SoftTerm):
    """`logit_mse` over the positions that the teacher read; the objective's temperature does not touch it."""

    def compare(self, student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
        return logit_mse(student, teacher)
