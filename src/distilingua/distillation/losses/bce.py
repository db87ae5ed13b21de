"""Binary cross-entropy against the labels: the hard loss where every class is a decision of its own."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.term import Temperature, Term
from distilingua.distillation.signals import IGNORE_INDEX, Signals


class BinaryCrossEntropy(Term):
    """`Σ_c -(w_c · y_c · log σ(z_c) + (1 - y_c) · log(1 - σ(z_c)))`, in nats, over the labelled positions.

    `z` are the student's logits, `y` 1 where the class holds, `w` what the task weighs a class by, or 1. The sum over
    classes is one decision after the other, as `binary_kl` adds them up.

    Relations:
        `ce` is for one class of several. This is for any number of them (`task: MultiLabel`).
    """

    soft: ClassVar[bool] = False

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        seen = (signals.labels != IGNORE_INDEX).all(-1)
        loss = F.binary_cross_entropy_with_logits(
            signals.student,
            signals.labels.clamp(min=0).to(signals.student.dtype),
            pos_weight=signals.class_weights,
            reduction="none",
        )
        return signals.mean(loss.sum(-1), seen)
