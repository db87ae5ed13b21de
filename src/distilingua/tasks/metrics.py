"""Metrics that torchmetrics lacks, in its own form: they add up over batches and processes."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import MeanAbsoluteError


class OrdinalError(MeanAbsoluteError):
    """Mean absolute error in steps of the scale, between the likeliest class and the true one; 0 is perfect.

    Relations:
        Accuracy counts every error alike. This tells a critic who gives four stars for five from one who gives one.
        Equal steps are an assumption: nobody knows that two stars are as far from three as four from five.
    """

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """
        Args:
            logits: (positions, classes), classes in the order of the scale.
            labels: class indices, (positions,).
        """
        super().update(logits.argmax(-1).float(), labels.float())
