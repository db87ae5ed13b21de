"""Cross-entropy against the labels: the hard loss."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.term import Temperature, Term
from distilingua.distillation.signals import IGNORE_INDEX, Signals
from distilingua.errors import refuse, share


class CrossEntropy(Term):
    """`-log softmax(student)[label]`, in nats, over the labelled positions.

    Rows without a visible label add nothing, yet count as rows (see `Signals.mean`). Where the task weighs classes, a
    position's loss is multiplied by the weight of its class.

    Args:
        weight: see `Term`.
        label_smoothing: share of the probability mass spread over all classes, 0 to 1 (Szegedy et al. 2016, section 7).
    """

    soft: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__(weight)
        refuse(share("objective.terms.ce.label_smoothing", label_smoothing))
        self.label_smoothing = label_smoothing

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        loss = F.cross_entropy(
            signals.student,
            signals.labels,
            weight=signals.class_weights,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return signals.mean(loss, signals.labels != IGNORE_INDEX)
