"""One label per sentence or sentence pair: intents, topics, sentiment, inference."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from distilingua.columns import Encoded, Ragged, codes_of, texts_of
from distilingua.distillation.signals import IGNORE_INDEX, Layers
from distilingua.errors import UserError, one_of, share, truth, whole
from distilingua.statistics.bootstrap import Tally, ratio
from distilingua.tasks.pieces import LONG, as_tensor, pad_windows, piece_ids
from distilingua.tasks.slow import MetricCollection, PreTrainedTokenizerBase, Self
from distilingua.tasks.task import EncodedRow, Task, check_length, too_far

CLASS_WEIGHTS = (None, "balanced")


class TextClassification(Task):
    """One of several classes for a sentence or a sentence pair.

    Args:
        name: what the labels say, for titles.
        max_length: pieces that a model reads at once.
        long: of a text with more, `head` reads the first of them, `head_tail` the first quarter and the last three, and
            `windows` all, in windows whose logits are averaged; see `piece_ids`. Pairs are cut by their tokenizer.
        stride: pieces that two windows have in common; null takes a quarter of `max_length`.
        ordinal: the classes are steps of a scale, so a prediction can be wrong by one step or by several: adds `mae`.
        order: class names in the order of the logits, and of the scale; null takes the alphabet's, or under `ordinal`
            that of the numbers they begin with, if all do ("2 stars" before "10 stars").
        class_weights: "balanced" weighs the hard loss of a class by `rows / (classes · rows of the class)`, so that
            rare classes count as much as common ones; null counts rows.
        carriers: share of training texts that students read with words around them that people say with requests, anew
            in every epoch, see `data.augmentation.Carriers`; none where a term compares pieces one by one.

    Raises:
        UserError: an option that cannot be; by `fit_labels`, an `order` that does not name every class once.
    """

    auto = "AutoModelForSequenceClassification"
    shown: ClassVar[Mapping[str, str]] = {"accuracy": "acc", "precision": "prec", "recall": "rec", "f1": "F1"}

    def __init__(
        self,
        name: str = "text",
        max_length: int = 64,
        ordinal: bool = False,
        order: Sequence[str] | None = None,
        class_weights: str | None = None,
        long: str = "head",
        stride: int | None = None,
        carriers: float = 0,
    ) -> None:
        check_length(
            max_length,
            one_of("task.long", long, LONG),
            None if stride is None else whole("task.stride", stride, 0) or too_far(stride, max_length),
            truth("task.ordinal", ordinal),
            share("task.carriers", carriers),
            None
            if class_weights in CLASS_WEIGHTS
            else f"task.class_weights={class_weights} is not known. Choose null or balanced.",
            _order_problem(order),
        )
        self.name, self.max_length, self.ordinal, self.weighing = name, max_length, ordinal, class_weights
        self.carriers = carriers
        self.long, self.stride = long, max_length // 4 if stride is None else stride
        self.order = None if order is None else list(order)
        self.labels = []

    def fit_labels(self, names: Sequence[str], visible: Iterable[str] = ()) -> Self:
        self.labels = by_number(names) if self.ordinal else list(names)
        if self.order is not None:
            order = [as_name(name, names) for name in self.order]
            if sorted(order) != sorted(names):
                raise UserError(
                    f"task.order={','.join(order)}: the labels are {', '.join(self.labels)}. Name each of them "
                    f"once, e.g. task.order=[{','.join(self.labels)}]."
                )
            self.labels = order
        self._index = {label: i for i, label in enumerate(self.labels)}
        if self.weighing == "balanced":
            self.class_weights = self._balanced(list(visible))
        return self

    def _balanced(self, visible: list[str]) -> Tensor:
        counts = Counter(visible)
        each = torch.tensor([float(counts[label]) for label in self.labels])
        return each.sum() / (len(each) * each.clamp(min=1))

    @property
    def recipe(self) -> Any:
        return [self.max_length, self.long, self.stride]

    def encode(self, rows: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, prefix: str) -> Encoded:
        """Raises UserError for a sentence pair that is not to be read by its head."""
        pairs = rows["text_pair"] if any(rows["text_pair"]) else None
        if pairs and self.long != "head":
            raise UserError(f"task.long={self.long} is for single texts, and this is a pair. Set task.long=head.")
        texts = [prefix + text for text in rows["text"]]
        return Encoded(piece_ids(tokenizer, texts, pairs, self.max_length, self.long, self.stride))

    def collate(self, encoded: Encoded, pad_id: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Of texts in windows, inputs have a row for every one, and `at`, (texts, 1), tells where the first of each
        begins, as positions of answers do."""
        if "lengths" not in encoded:
            return super().collate(encoded, pad_id)
        inputs, first = pad_windows(encoded, pad_id)
        return inputs, as_tensor(first[:, None]) * inputs["input_ids"].shape[1]

    def cells(self, output: Any, at: Tensor | None, windows: Tensor | None = None) -> Tensor:
        """The mean over the windows of each text."""
        return Layers(windows=windows).by_row(output.logits.float())

    def targets(self, rows: Dataset, encoded: Encoded) -> Ragged:
        number, names = codes_of(rows, "label")
        classes = np.array([self._index[name] if name else IGNORE_INDEX for name in names], np.int64)
        return Ragged.by_lengths(classes[number], np.ones(len(rows), np.int64))

    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: EncodedRow, tokenizer: Any) -> str:
        return self.labels[int(answer[0].argmax())]

    def tally(self, predicted: Sequence[str], rows: Dataset) -> Tally:
        right = np.array([a == b for a, b in zip(predicted, texts_of(rows, "label"), strict=True)], dtype=bool)
        return Tally(np.stack([right, np.ones(len(right))], axis=1), ratio, right)

    def metrics(self) -> MetricCollection:
        from distilingua.tasks.metrics import class_metrics

        return class_metrics(len(self.labels), self.ordinal)


def _order_problem(order: Any) -> str | None:
    if order is None:
        return None
    listed = isinstance(order, Sequence) and not isinstance(order, str)
    expected = "expected a list of classes, such as task.order=[bad,fair,good], or null."
    return None if listed else f"task.order={order}: {expected}"


def as_name(value: Any, names: Sequence[str]) -> str:
    """A value of a configuration as one of these names: YAML takes 3 for a number, and `no` for false."""
    spelt = {False: ("no", "off", "false"), True: ("yes", "on", "true")}.get(value, ()) if type(value) is bool else ()
    return next((name for name in names if name.casefold() in spelt), str(value))


def by_number(labels: Sequence[str]) -> list[str]:
    """Labels by the numbers they begin with, "2" before "10"; unchanged where one of them begins with none."""
    numbers = {label: re.match(r"[+-]?\d+(?:\.\d+)?", label) for label in labels}
    if not all(numbers.values()):
        return list(labels)
    return sorted(labels, key=lambda label: float(numbers[label][0]))  # type: ignore[index]
