"""One label per sentence or sentence pair: intents, topics, sentiment, inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from distilingua.distillation.losses.ce import HIDDEN


class TextClassification:
    """What a model reads, which logits count, and how it is judged.

    Args:
        labels: class names; their order is the order of the logits.
        name: what the labels say, for titles.
        max_length: pieces per sentence; what goes beyond is cut off.
    """

    model_class = AutoModelForSequenceClassification

    def __init__(self, labels: Sequence[str], name: str = "text", max_length: int = 64) -> None:
        self.labels, self.name, self.max_length = list(labels), name, max_length
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
        """Accuracy over sentences; precision, recall and F1 as means over the classes that occur."""
        n = len(self.labels)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(n, average="micro"),
                "precision": MulticlassPrecision(n, average="macro"),
                "recall": MulticlassRecall(n, average="macro"),
                "f1": MulticlassF1Score(n, average="macro"),
            }
        )
