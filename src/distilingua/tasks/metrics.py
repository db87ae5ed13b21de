"""Metrics that torchmetrics lacks, in its own form: they add up over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
    MultilabelExactMatch,
    MultilabelF1Score,
)
from torchmetrics.text import Perplexity

from distilingua.corpora.words import entities
from distilingua.distillation.losses.ce import IGNORE_INDEX
from distilingua.tasks.transcripts import spelt, wrong_and_said


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


class Counts(Metric):
    """What is made of counts, which are added up over batches and processes.

    Args:
        names: of the counts, its attributes.
        dtype: of all of them.
    """

    full_state_update = False

    def __init__(self, *names: str, dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        for name in names:
            self.add_state(name, torch.zeros((), dtype=dtype), dist_reduce_fx="sum")


class EntityScores(Counts):
    """Precision, recall and F1 of stretches of tags: a stretch is right when its words and its name are.

    Counts are added up over all classes and rows (micro average), as seqeval does by default (Nakayama 2018).

    Args:
        labels: tags, in the order of the logits.
    """

    right: Tensor
    predicted: Tensor
    true: Tensor

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__("right", "predicted", "true")
        self.labels = list(labels)

    def update(self, logits: Tensor, labels: Tensor, row: Tensor) -> None:
        """
        Args:
            logits: (positions, classes).
            labels: class indices, (positions,); rows of which a label is hidden are left out.
            row: which row a position belongs to, (positions,), ascending.
        """
        counts = row.unique_consecutive(return_counts=True)[1].tolist()
        for guess, truth in zip(logits.argmax(-1).split(counts), labels.split(counts), strict=True):
            if (truth != IGNORE_INDEX).all():
                found, there = (set(entities([self.labels[i] for i in tags.tolist()])) for tags in (guess, truth))
                self.right += len(found & there)
                self.predicted += len(found)
                self.true += len(there)

    def compute(self) -> dict[str, Tensor]:
        precision, recall = self.right / self.predicted.clamp(min=1), self.right / self.true.clamp(min=1)
        f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-9)
        return {"precision": precision, "recall": recall, "f1": f1}


class BothRight(MeanMetric):
    """Share of answers whose likeliest start and likeliest end are both right; 0 where nothing is labelled."""

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """
        Args:
            logits: (2 · rows, classes), a start and an end for every row.
            labels: class indices, (2 · rows,); rows whose label is hidden are left out.
        """
        seen = labels.view(-1, 2)[:, 0] != IGNORE_INDEX
        super().update((logits.argmax(-1) == labels).view(-1, 2).all(-1)[seen].float())

    def compute(self) -> Tensor:
        return super().compute().nan_to_num()


class PieceAccuracy(MeanMetric):
    """Share of the labelled positions whose likeliest piece is the right one."""

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """
        Args:
            logits: (positions, pieces).
            labels: pieces, (positions,); `IGNORE_INDEX` does not count.
        """
        shown = labels != IGNORE_INDEX
        super().update((logits.argmax(-1) == labels)[shown].float())


class PiecePerplexity(Perplexity):
    """The exponential of the mean cross-entropy over the labelled positions: among how many equally likely pieces the
    model seems to choose; 1 is perfect."""

    def __init__(self) -> None:
        super().__init__(ignore_index=IGNORE_INDEX)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """
        Args:
            logits: (positions, pieces).
            labels: pieces, (positions,); `IGNORE_INDEX` does not count.
        """
        super().update(logits[None], labels[None])


class ErrorRate(Counts):
    """Edit errors over what there is to say, of best paths against labels, over all batches and processes.

    Args:
        classes: characters by class.
        unit: words or characters.
    """

    higher_is_better = False
    wrong: Tensor
    said: Tensor

    def __init__(self, classes: Sequence[str], unit: str) -> None:
        super().__init__("wrong", "said", dtype=torch.float64)
        self.classes, self.unit = list(classes), unit

    def update(self, answers: Tensor, labels: Tensor, row: Tensor) -> None:
        """
        Args:
            answers: logits, (positions, classes).
            labels: characters of every row, (rows, most characters), below 0 after the last.
            row: which row a position belongs to, (positions,).
        """
        paths = answers.argmax(-1).split(row.bincount(minlength=len(labels)).tolist())
        for path, label in zip(paths, labels, strict=True):
            truth = "".join(self.classes[i] for i in label.tolist() if i >= 0)
            if not truth:
                continue
            wrong, said = wrong_and_said(truth, spelt(path.tolist(), self.classes), self.unit)
            self.wrong += wrong
            self.said += said

    def compute(self) -> Tensor:
        return self.wrong / self.said.clamp(min=1)


class WordAccuracy(ErrorRate):
    """1 - word error rate, at least 0."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return (1 - super().compute()).clamp(min=0)


def class_metrics(classes: int, ordinal: bool) -> MetricCollection:
    """Accuracy over rows; precision, recall and F1 as means over the classes that occur; `mae` if ordinal."""
    metrics = {
        "accuracy": MulticlassAccuracy(classes, average="micro"),
        "precision": MulticlassPrecision(classes, average="macro"),
        "recall": MulticlassRecall(classes, average="macro"),
        "f1": MulticlassF1Score(classes, average="macro"),
    }
    return MetricCollection({**metrics, **({"mae": OrdinalError()} if ordinal else {})})


def yes_or_no_metrics(classes: int) -> MetricCollection:
    """F1 as the mean over classes, and over all decisions together; the share of rows with every decision right."""
    return MetricCollection(
        {
            "f1": MultilabelF1Score(classes, average="macro"),
            "micro_f1": MultilabelF1Score(classes, average="micro"),
            "exact": MultilabelExactMatch(classes),
        }
    )


def piece_metrics() -> MetricCollection:
    return MetricCollection({"accuracy": PieceAccuracy(), "perplexity": PiecePerplexity()})


def transcript_metrics(classes: Sequence[str]) -> MetricCollection:
    return MetricCollection(
        {
            "wacc": WordAccuracy(classes, "words"),
            "wer": ErrorRate(classes, "words"),
            "cer": ErrorRate(classes, "characters"),
        },
        compute_groups=False,  # or cer would take over the counts of words
    )
