"""Word and character error rates, in torchmetrics' form: they add up over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from distilingua.corpora.espeak import speech_package
from distilingua.tasks.transcripts import spelt


class ErrorRate(Metric):
    """Edit errors over what there is to say, of best paths against labels, over all batches and processes.

    Args:
        classes: characters by class.
        unit: words or characters.
    """

    higher_is_better = False
    full_state_update = False
    wrong: Tensor
    said: Tensor

    def __init__(self, classes: Sequence[str], unit: str) -> None:
        super().__init__()
        self.classes, self.unit = list(classes), unit
        for name in ("wrong", "said"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, answers: Tensor, labels: Tensor, row: Tensor) -> None:
        """
        Args:
            answers: logits, (positions, classes).
            labels: characters of every row, (rows, most characters), below 0 after the last.
            row: which row a position belongs to, (positions,).
        """
        jiwer = speech_package("jiwer")
        compare: Any = jiwer.process_words if self.unit == "words" else jiwer.process_characters
        paths = answers.argmax(-1).split(row.bincount(minlength=len(labels)).tolist())
        for path, label in zip(paths, labels, strict=True):
            truth = "".join(self.classes[i] for i in label.tolist() if i >= 0)
            if not truth:
                continue
            found = compare(truth, spelt(path.tolist(), self.classes))
            self.wrong += found.substitutions + found.deletions + found.insertions
            self.said += found.substitutions + found.deletions + found.hits

    def compute(self) -> Tensor:
        return self.wrong / self.said.clamp(min=1)


class WordAccuracy(ErrorRate):
    """1 - word error rate, at least 0."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return (1 - super().compute()).clamp(min=0)


def transcript_metrics(classes: Sequence[str]) -> MetricCollection:
    return MetricCollection(
        {
            "wacc": WordAccuracy(classes, "words"),
            "wer": ErrorRate(classes, "words"),
            "cer": ErrorRate(classes, "characters"),
        },
        compute_groups=False,  # or cer would take over the counts of words
    )
