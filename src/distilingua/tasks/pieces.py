"""Metrics of tasks whose classes are the pieces of a vocabulary, in torchmetrics' form."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.text import Perplexity

from distilingua.distillation.losses.ce import HIDDEN


class PieceAccuracy(MeanMetric):
    """Share of the labelled positions whose likeliest piece is the right one."""

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """
        Args:
            logits: (positions, pieces).
            labels: pieces, (positions,); `HIDDEN` does not count.
        """
        shown = labels != HIDDEN
        super().update((logits.argmax(-1) == labels)[shown].float())


class PiecePerplexity(Perplexity):
    """The exponential of the mean cross-entropy over the labelled positions: among how many equally likely pieces the
    model seems to choose; 1 is perfect."""

    def __init__(self) -> None:
        super().__init__(ignore_index=HIDDEN)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """
        Args:
            logits: (positions, pieces).
            labels: pieces, (positions,); `HIDDEN` does not count.
        """
        super().update(logits[None], labels[None])
