"""Any number of classes for a text, each of them yes or no."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from distilingua.distillation.losses.bce import BinaryCrossEntropy
from distilingua.distillation.losses.ce import HIDDEN
from distilingua.distillation.losses.term import Term
from distilingua.tasks.task import Encoded, bare
from distilingua.tasks.text_classification import TextClassification

if TYPE_CHECKING:  # slow to import, and `checks.check` must answer within a second or two
    from datasets import Dataset
    from torchmetrics import MetricCollection


class MultiLabel(TextClassification):
    """Every class is a decision of its own (a sigmoid each), so the terms are `binary_kl` and `bce`.

    A label is a JSON list of class names, `[]` for none of them; text that is no JSON is the name of a single class.
    `class_weights: balanced` weighs what is missed of a class by its rows without it over its rows with it.
    """

    auto = "AutoModelForSequenceClassification"
    shown: ClassVar[Mapping[str, str]] = {"f1": "F1", "micro_f1": "µF1", "exact": "exact"}

    @staticmethod
    def classes(labels: Iterable[str]) -> list[str]:
        return sorted({name for label in labels if label for name in names_of(label)})

    @staticmethod
    def spelling(label: str) -> str:
        if MultiLabel.problem({"label": label}) or not label.startswith("["):
            return bare(label)
        names = [bare(name) for name in names_of(label)]
        return label if names == names_of(label) else json.dumps(names, ensure_ascii=False)

    @staticmethod
    def problem(row: Mapping[str, str]) -> str | None:
        try:
            names = names_of(row["label"])
        except ValueError as error:
            return f"{row['label'][:60]!r} begins as a JSON list and is none ({error})."
        strange = [name for name in names if not isinstance(name, str)]
        return f"{strange[0]!r} in {row['label'][:60]!r} is no name of a class." if strange else None

    def learn(self, labels: Iterable[str]) -> None:
        if self.weighing == "balanced":
            rows = [set(names_of(label)) for label in labels]
            counts = Counter(name for row in rows for name in row)
            self.class_weights = torch.tensor([(len(rows) - counts[x]) / max(counts[x], 1) for x in self.labels])

    def targets(self, rows: Dataset, encoded: Sequence[Encoded]) -> list[Tensor]:
        """Per row 1 for every class that it has, else 0; (1, classes)."""
        found = torch.full((len(rows), 1, len(self.labels)), HIDDEN)
        for n, label in enumerate(rows["label"]):
            if label:
                found[n] = 0
                found[n, 0, [self._index[name] for name in names_of(label)]] = 1
        return list(found)

    @staticmethod
    def hard() -> Term:
        return BinaryCrossEntropy()

    def agree(self, student: Tensor, teacher: Tensor) -> Tensor:
        return ((student > 0) == (teacher > 0)).all(-1)

    def right(self, answer: Tensor, targets: Tensor) -> Tensor:
        return ((answer > 0) == (targets == 1)).all(-1)[(targets != HIDDEN).all(-1)]

    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: Encoded, tokenizer: Any) -> str:
        return json.dumps([x for x, yes in zip(self.labels, (answer[0] > 0).tolist(), strict=True) if yes])

    def metrics(self) -> MetricCollection:
        """F1 as the mean over classes, and over all decisions together; the share of rows with every decision right."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MultilabelExactMatch, MultilabelF1Score

        n = len(self.labels)
        return MetricCollection(
            {
                "f1": MultilabelF1Score(n, average="macro"),
                "micro_f1": MultilabelF1Score(n, average="micro"),
                "exact": MultilabelExactMatch(n),
            }
        )


def names_of(label: str) -> list[str]:
    """Class names of a label."""
    return json.loads(label) if label.startswith("[") else [label]
