"""One label per sentence or sentence pair: intents, topics, sentiment, inference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from distilingua.distillation.losses.ce import HIDDEN
from distilingua.errors import UserError


class TextClassification:
    """What a model reads, which logits count, and how it is judged.

    Args:
        labels: class names, each once.
        name: what the labels say, for titles.
        max_length: pieces per sentence; what goes beyond is cut off.
        ordinal: the classes are steps of a scale, so a prediction can be wrong by one step or by several: adds `mae`.
        order: class names in the order of the logits, and of the scale; null takes the order of `labels`, or under
            `ordinal` that of the numbers they begin with, if all do ("2 stars" before "10 stars").

    Raises:
        UserError: `order` does not name every class once.
    """

    model_class = AutoModelForSequenceClassification

    def __init__(
        self,
        labels: Sequence[str],
        name: str = "text",
        max_length: int = 64,
        ordinal: bool = False,
        order: Sequence[str] | None = None,
    ) -> None:
        self.name, self.max_length, self.ordinal = name, max_length, ordinal
        self.labels = by_number(labels) if ordinal else list(labels)
        if order is not None:
            if sorted(order) != sorted(labels):
                raise UserError(
                    f"task.order={','.join(order)}: the labels are {', '.join(self.labels)}. Name each of them once, "
                    f"e.g. task.order=[{','.join(self.labels)}]."
                )
            self.labels = list(order)
        self._index = {label: i for i, label in enumerate(self.labels)}

    @property
    def model_options(self) -> dict[str, Any]:
        """For `from_pretrained` and configurations: the head this task needs."""
        return {"id2label": dict(enumerate(self.labels)), "label2id": self._index}

    def tokenise(
        self, rows: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, prefix: str
    ) -> list[list[int]]:
        """Ids of the pieces of every row, special ones included, cut to `max_length`.

        Args:
            rows: columns `text` and `text_pair`.
            prefix: goes in front of the text; some models want one (E5: "query: ").
        """
        pairs = rows["text_pair"] if any(rows["text_pair"]) else None
        texts = [prefix + text for text in rows["text"]]
        return tokenizer(texts, pairs, truncation=True, max_length=self.max_length)["input_ids"]

    def targets(self, rows: Dataset) -> Tensor:
        """Class indices, (rows,); `HIDDEN` where the label is not shown."""
        return torch.tensor([self._index[label] if label else HIDDEN for label in rows["label"]], dtype=torch.long)

    def logits(self, output: SequenceClassifierOutput) -> Tensor:
        """(positions, classes); a sentence is one position."""
        return output.logits.float()

    def decode(self, logits: Tensor) -> list[str]:
        return [self.labels[i] for i in logits.argmax(-1).tolist()]

    def metrics(self) -> MetricCollection:
        """Accuracy over sentences; precision, recall and F1 as means over the classes that occur; `mae` if ordinal."""
        n = len(self.labels)
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": MulticlassAccuracy(n, average="micro"),
            "precision": MulticlassPrecision(n, average="macro"),
            "recall": MulticlassRecall(n, average="macro"),
            "f1": MulticlassF1Score(n, average="macro"),
        }
        if self.ordinal:
            metrics["mae"] = OrdinalError()
        return MetricCollection(metrics)


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


def by_number(labels: Sequence[str]) -> list[str]:
    """Labels by the numbers they begin with, "2" before "10"; unchanged where one of them begins with none."""
    numbers = {label: re.match(r"[+-]?\d+(?:\.\d+)?", label) for label in labels}
    if not all(numbers.values()):
        return list(labels)
    return sorted(labels, key=lambda label: float(numbers[label][0]))  # type: ignore[index]
