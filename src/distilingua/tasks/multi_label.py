"""Any number of classes for a text, each of them yes or no."""

from __future__ import annotations

import json
import re
from ast import literal_eval
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from distilingua.columns import Encoded, Ragged, codes_of, texts_of
from distilingua.corpora.words import parsed
from distilingua.distillation.losses.bce import BinaryCrossEntropy
from distilingua.distillation.losses.term import Term
from distilingua.distillation.signals import IGNORE_INDEX
from distilingua.statistics.bootstrap import Tally, macro_f1
from distilingua.tasks.slow import MetricCollection
from distilingua.tasks.task import EncodedRow, bare
from distilingua.tasks.text_classification import TextClassification


class MultiLabel(TextClassification):
    """Every class is a decision of its own (a sigmoid each), so the terms are `binary_kl` and `bce`.

    A label is a JSON list of class names, `[]` for none of them; text that is no JSON is the name of a single class. A
    corpus may write it in other ways, see `written`.
    `class_weights: balanced` weighs what is missed of a class by its rows without it over its rows with it.
    """

    distributed: ClassVar[None] = None
    shown: ClassVar[Mapping[str, str]] = {"f1": "F1", "micro_f1": "µF1", "exact": "exact"}

    @staticmethod
    def classes(labels: Iterable[str]) -> list[str]:
        return sorted({name for label in labels if label for name in names_of(label)})

    @staticmethod
    def spelling(label: str) -> str:
        label = bare(label)
        try:
            names = [bare(name) for name in dict.fromkeys(written(label))]
        except (ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError):
            return label  # for `problem` to find
        same = not label or (MultiLabel.problem({"label": label}) is None and names_of(label) == names)
        return label if same else json.dumps(names, ensure_ascii=False)

    @staticmethod
    def problem(row: Mapping[str, str]) -> str | None:
        try:
            names = names_of(row["label"])
        except ValueError as error:
            return f"{row['label'][:60]!r} begins as a JSON list and is none ({error})."
        strange = [name for name in names if not isinstance(name, str)]
        if not strange:
            return None
        numbers = "" if type(strange[0]) is not int else " Name classes that are numbers: corpus.labels=[A,B]."
        return f"{strange[0]!r} in {row['label'][:60]!r} is no name of a class.{numbers}"

    def _balanced(self, visible: list[str]) -> Tensor:
        rows = [set(names_of(label)) for label in visible]
        counts = Counter(name for row in rows for name in row)
        return torch.tensor([(len(rows) - counts[x]) / max(counts[x], 1) for x in self.labels])

    def targets(self, rows: Dataset, encoded: Encoded) -> Ragged:
        """Per row 1 for every class that it has, else 0; (1, classes)."""
        number, labels = codes_of(rows, "label")
        found = np.full((len(labels), len(self.labels)), IGNORE_INDEX, np.int64)
        for n, label in enumerate(labels):
            if label:
                found[n] = 0
                found[n, [self._index[name] for name in names_of(label)]] = 1
        return Ragged.by_lengths(found[number], np.ones(len(rows), np.int64))

    @staticmethod
    def hard() -> Term:
        return BinaryCrossEntropy()

    def agree(self, answer: Tensor, other: Tensor) -> Tensor:
        return ((answer > 0) == (other > 0)).all(-1)  # logits, or 0 and 1

    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: EncodedRow, tokenizer: Any) -> str:
        return self.show(json.dumps([x for x, yes in zip(self.labels, (answer[0] > 0).tolist(), strict=True) if yes]))

    def show(self, label: str) -> str:
        """In one order, and spelt as people write, so that equal answers are equal texts."""
        return json.dumps(sorted(names_of(label)), ensure_ascii=False)

    def tally(self, predicted: Sequence[str], rows: Dataset) -> Tally:
        """F1 of every class is of its right, its wrongly given and its missed rows; their mean is the score."""
        given, true = (
            np.array([[name in names for name in self.labels] for names in map(names_of, labels)], dtype=float)
            for labels in (predicted, texts_of(rows, "label"))
        )
        return Tally(np.concatenate([2 * given * true, given + true], axis=1), macro_f1, (given == true).all(1))

    def metrics(self) -> MetricCollection:
        from distilingua.tasks.metrics import yes_or_no_metrics

        return yes_or_no_metrics(len(self.labels))


def written(label: str) -> Iterator[Any]:
    """What a label names, as data sets write it: a list of JSON, of Python or of numpy, in which a name may be a list
    or an object of its own; or names with | or ; between them."""
    if not label.startswith("["):
        yield from filter(None, map(bare, re.split("[|;]", label)))
        return
    try:
        pending = parsed(label)
    except ValueError:
        pending = literal_eval(re.sub(r"""(['"])\s+(?=['"])""", r"\1, ", label))  # numpy writes no commas
    while pending:
        first, *pending = pending
        if isinstance(first, list | tuple):
            pending = [*first, *pending]
        else:
            named = [first[key] for key in ("name", "label") if key in first] if isinstance(first, dict) else []
            yield named[0] if named else first


def names_of(label: str) -> list[str]:
    """Class names of a label."""
    return parsed(label) if label.startswith("[") else [label]
