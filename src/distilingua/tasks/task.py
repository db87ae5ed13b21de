"""What a task is: everything that differs between classifying a sentence and transcribing speech."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from distilingua.columns import Encoded, Ragged
from distilingua.corpora.schema import each_row, visible
from distilingua.distillation.losses.ce import CrossEntropy
from distilingua.distillation.losses.term import Term
from distilingua.distillation.signals import IGNORE_INDEX, Signals
from distilingua.errors import refuse, whole
from distilingua.tasks.delivery import Delivery
from distilingua.tasks.pieces import as_tensor, pad
from distilingua.tasks.slow import MetricCollection, PreTrainedModel, PreTrainedTokenizerBase, Self

EncodedRow = Mapping[str, Any]
"""One row of `Encoded`: `input_ids`, and `at` where its answers are not one for the whole text."""

Example = Mapping[str, Any]
"""One row of the corpus with its number, and the fields of `EncodedRow`."""

ABSENT, PADDING = -1, -2  # in `at`: a position this model does not see (cut off); no position at all

SHORTEST = 3  # pieces: one between the two that begin and end a text


@dataclass
class Evaluation:
    """A model on the held-out rows of one language.

    Args:
        scores: metric -> value.
        texts, truth, predicted: of every row, as tables show them.
        probabilities: what the model gives each of its answers, see `Task.probabilities`.
        outputs: the answers themselves, see `training.inference.Predictions`.
    """

    scores: dict[str, float]
    texts: list[str]
    truth: list[str]
    predicted: list[str]
    probabilities: list[float] = field(default_factory=list)
    outputs: Any = None


class Task(Delivery, ABC):
    """What a model reads, which of its logits count, the hard loss, the metrics, and how an answer is decoded.

    Everything is a distribution over classes at some positions of a row. A sentence has one position, a word or a
    decoder step is one, so is a frame of sound. Teacher and student may read with different tokenizers: they meet at
    positions, so a row has the same number of them whoever reads it.

    A task is made of its options alone, and refuses those that cannot work; what its classes are it learns by
    `fit_labels`, once rows have been read. Subclasses set what is listed under "To set", write the four abstract
    methods (`encode`, `targets`, `decode`, `metrics`), and override what differs from one class per position. The
    objective compares distributions, so what is no choice among classes, such as regression, does not fit.
    """

    # --- to set -------------------------------------------------------------------------------------------------------
    labels: list[str]
    """Names of the classes, in the order of the logits; empty where classes have no names, and before `fit_labels`."""
    name: str
    """In titles and in metrics.json."""
    max_length: int
    """Pieces a model reads at most."""
    auto: ClassVar[str]
    """The AutoModel of transformers whose head this task needs."""
    distributed: ClassVar[int | None] = -1
    """The axis of `cells` over which probabilities sum to 1; None where every class is yes or no by itself."""
    backbone: ClassVar[str] = "encoder"
    """What that head sits on: an encoder (of text), an encoder-decoder, or a speech encoder."""
    shown: ClassVar[Mapping[str, str]]
    """Metric -> heading in tables. The first is the main one: retention is computed from it, and more is better."""
    reads: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    """Columns that shape what `encode` returns."""
    points_into: ClassVar[Mapping[str, str]] = {}
    """Columns that labels point into, by "word" or by "character": cleaning leaves them as they are."""
    pseudo_labels: bool = False
    """Whether a teacher's own answer becomes the label of a row without one, see `pseudo_label`."""
    class_weights: Tensor | None = None
    """What the hard loss weighs each class by, (classes,)."""

    # --- labels -------------------------------------------------------------------------------------------------------
    @staticmethod
    def classes(labels: Iterable[str]) -> list[str]:
        """Names of the classes that occur in these labels, as a corpus spells labels; "" is no label."""
        return sorted({label for label in labels if label})

    def fit_labels(self, names: Sequence[str], visible: Iterable[str] = ()) -> Self:
        """Learns what the classes are, before anything trains; returns itself.

        Args:
            names: of the classes, sorted; none where classes have no names.
            visible: the labels that training may see, row by row.

        Raises:
            UserError: an option that does not go with these classes.
        """
        self.labels = list(names)
        return self

    @staticmethod
    def spelling(label: str) -> str:
        """A label as it is compared with others: white space around a class is none of its name."""
        return bare(label)

    @staticmethod
    def stratify_by(label: str) -> str:
        """What `few_shot` shows n labels of: of every class here; of everything alike where this is constant."""
        return label

    @staticmethod
    def problem(row: Mapping[str, str]) -> str | None:
        """Why a row cannot be read, or what is wrong with its label ("" is none), in a sentence; None for nothing."""
        return None

    # --- reading ------------------------------------------------------------------------------------------------------
    @property
    def model_options(self) -> dict[str, Any]:
        """For `from_pretrained` and configurations: the head this task needs."""
        return {"id2label": dict(enumerate(self.labels)), "label2id": {x: i for i, x in enumerate(self.labels)}}

    @property
    def recipe(self) -> Any:
        """What shapes `encode`, beside text and tokenizer; for cache addresses."""
        return self.max_length

    @abstractmethod
    def encode(self, rows: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, prefix: str) -> Encoded:
        """Rows as a model reads them, cut to `max_length`: `input_ids`, how many pieces of each are `lost` by that, and
        `at` where answers are not one a text.

        Args:
            rows: the columns `reads`.
            prefix: goes in front of the text; some models want one (E5: "query: ").
        """

    def positions(self, encoded: Encoded) -> np.ndarray:
        """How many positions each row has, (rows,)."""
        return encoded.lists("at").lengths if "at" in encoded else np.ones(len(encoded), np.int64)

    def collate(self, encoded: Encoded, pad_id: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """What the model is called with, and where in its output the positions are: (rows, most positions)."""
        at = as_tensor(encoded.lists("at").padded(PADDING)) if "at" in encoded else None
        return pad(encoded.lists("input_ids"), pad_id), at

    def unread(self, encoded: EncodedRow) -> dict[str, Any]:
        """Stands in a batch for a row that a model does not read: as many positions, all of them absent."""
        blank = {"at": [ABSENT] * len(encoded.get("at", ())), "lost": 0, "lengths": [1]}
        return {"input_ids": [0], **{name: value for name, value in blank.items() if name in encoded}}

    # --- learning -----------------------------------------------------------------------------------------------------
    def comparable(self, student: Any, teacher: Any, distributions: bool) -> None:  # texts always are
        """Asked before anything is trained: whether models that read with these tokenizers meet at positions.

        Args:
            student, teacher: tokenizers.
            distributions: whether a term compares distributions class by class, so that they have to mean the same to
                both.

        Raises:
            UserError: they have no positions, or no classes, in common.
        """

    @abstractmethod
    def targets(self, rows: Dataset, encoded: Encoded) -> Ragged:
        """Per row the class of every position, (positions,) int64; `IGNORE_INDEX` where the label is not shown."""

    @staticmethod
    def hard() -> Term:
        """The hard loss, for teachers, and for students without one."""
        return CrossEntropy()

    def pseudo_label(self, answer: Tensor, row: Example, encoded: EncodedRow, tokenizer: Any) -> str:
        """The teacher's answer as the label of a row that has none; "" where there is none to be trusted."""
        return ""

    def project(self, cells: np.ndarray, read: Mapping[str, Any], row: Example) -> np.ndarray:
        """The teacher's answer to another text (an aligned one) as an answer to this row: (positions, classes).

        Args:
            cells: its logits for the text it read, (positions of that text, classes).
            read: that text's `text`, `text_pair` and `spans`.
            row: the row that is learnt from.
        """
        return cells

    def signals(self, student: Tensor, teacher: Tensor | None, batch: Mapping[str, Any]) -> Signals:
        """What the objective sees of a batch.

        Args:
            student, teacher: `cells` of the batch.
            batch: as the data module makes it.
        """
        counts, labels, rows_read = batch["counts"], batch["labels"], batch["has_teacher"]
        row = torch.repeat_interleave(counts)
        seen = ~student.isnan().any(-1)
        has_teacher = rows_read[row] & seen
        if teacher is not None:
            has_teacher = has_teacher & ~teacher.isnan().any(-1)
            teacher = teacher.nan_to_num()
        if len(labels) == len(row):
            labels = labels.masked_fill(~(seen if labels.ndim == 1 else seen[:, None]), IGNORE_INDEX)
        return Signals(
            student=student.nan_to_num(),
            teacher=teacher,
            labels=labels,
            has_teacher=has_teacher,
            rows=len(counts),
            row=row,
            class_weights=self.class_weights.to(student.device) if self.class_weights is not None else None,
            rows_read=rows_read,
            read=batch.get("read"),
        )

    # --- judging ------------------------------------------------------------------------------------------------------
    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Dev scores, which `watch` updates."""

    def agree(self, answer: Tensor, other: Tensor) -> Tensor:
        """Whether an answer decides as another one does, or as the labels say, (positions,) bool.

        Args:
            answer: logits, (positions, classes).
            other: logits of the same shape, or `targets`, (positions,).
        """
        return answer.argmax(-1) == (other if other.ndim < answer.ndim else other.argmax(-1))

    @abstractmethod
    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: EncodedRow, tokenizer: Any) -> str:
        """An answer as a label, spelt as a corpus spells it."""

    def probabilities(self, answers: Sequence[Tensor], model: Any, inputs: Mapping[str, Tensor]) -> list[float]:
        """What the model gives each of its answers: the product over a row's positions, which are independent given the
        text, of the likeliest class, or of every decision.

        Args:
            answers: of a batch, see `answer`.
            model, inputs: what gave them; for answers that do not carry their own distribution.
        """
        if self.distributed is None:
            return [float(cells.abs().sigmoid().nan_to_num(1.0).prod()) for cells in answers]
        logs = [cells.log_softmax(self.distributed).amax(self.distributed) for cells in answers]
        return [float(each.nan_to_num().sum().exp()) for each in logs]

    def evaluate(
        self, answers: Sequence[Tensor], rows: Dataset, encoded: Encoded, tokenizer: Any
    ) -> tuple[dict[str, float], list[str]]:
        """Scores, and what was answered to every row.

        Args:
            answers: per row, see `answer`.
            rows: with their labels.
            encoded: the rows as the model that is judged has read them.
            tokenizer: that model's.
        """
        labels = self.collate_labels(self.targets(rows, encoded))
        found = self.signals(
            torch.cat(list(answers)),
            None,
            {
                "labels": labels,
                "counts": torch.from_numpy(self.positions(encoded)),
                "has_teacher": torch.zeros(len(rows), dtype=torch.bool),
            },
        )
        metrics = self.metrics()
        for metric in metrics.values():
            # one process judges, and would wait for the others in vain
            metric.distributed_available_fn = lambda: False
        self.watch(metrics, found, {"labels": labels})
        decoded = self.decode_all(answers, rows, encoded, tokenizer)
        return {name: float(value) for name, value in metrics.compute().items()}, decoded

    def decode_all(self, answers: Sequence[Tensor], rows: Dataset, encoded: Encoded, tokenizer: Any) -> list[str]:
        """See `decode`, of every row."""
        each = zip(answers, each_row(rows, rows.column_names), encoded, strict=True)
        return [self.decode(answer, row, read, tokenizer) for answer, row, read in each]

    # --- what only one task of this package overrides: stop reading here unless yours is as odd as that one -----------
    note: str = ""
    """What belongs beneath its scores, such as the version of what computed them. (translation)"""

    def show(self, label: str) -> str:
        """A label as tables show it. (answers)"""
        return label

    def collate_labels(self, targets: Ragged) -> Tensor:
        """Labels of a batch, as the hard term reads them: (positions,). (speech)"""
        return as_tensor(targets.values)

    def cells(self, output: Any, at: Tensor | None, windows: Tensor | None = None) -> Tensor:
        """Logits in the order of rows and positions, (positions, classes) float32; NaN for a position cut off.
        (answers; classes, where texts are read in windows: see `windows_of`)"""
        logits = output.logits.float()
        if at is None:
            return logits
        rows, columns = (at != PADDING).nonzero(as_tuple=True)
        index = at[rows, columns]
        return torch.where((index == ABSENT)[:, None], torch.nan, logits[rows, index.clamp(min=0)])

    def watch(self, metrics: MetricCollection, signals: Signals, batch: Mapping[str, Any]) -> None:
        """Adds a batch; what a model did not see for want of length is judged all the same. (answers)"""
        metrics.update(signals.student, batch["labels"], row=signals.row)

    def answer(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], at: Tensor | None) -> list[Tensor]:
        """A model's answer to every row of a batch: its cells, (positions, classes) each. (translation)"""
        cells = self.cells(model(**inputs), at, windows_of(at, inputs))
        return list(cells.split((at != PADDING).sum(-1).tolist() if at is not None else 1))

    def prepare_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tells a model that has been loaded what it cannot know of itself, such as which language to write.
        (translation)

        Raises:
            UserError: this model and tokenizer cannot serve the task as it is configured.
        """


def no_numbers(cells: Tensor, at: Tensor | None) -> Tensor:
    """At which positions a model has computed what is no number, (positions,) bool. NaN at a position that it did not
    see is none of its answers.

    Args:
        cells, at: see `Task.cells`.
    """
    wrong = ~cells.amax(-1).isfinite()  # a class may be impossible, all of them cannot
    return wrong if at is None else wrong & (at != ABSENT)[at != PADDING]


def windows_of(at: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """How many windows each row is read in, see `Layers`, of what `Task.collate` makes: the first position of a row is
    in its first one. None where each is one."""
    ids = inputs.get("input_ids")
    if at is None or ids is None or len(ids) == len(at):
        return None
    first = at[:, 0] // ids.shape[1]
    return torch.diff(first, append=first.new_tensor([len(ids)]))


def rows_at(wrong: Tensor, at: Tensor | None) -> list[int]:
    """Numbers of the rows that such positions belong to."""
    rows = torch.arange(len(wrong), device=wrong.device) if at is None else (at != PADDING).nonzero(as_tuple=True)[0]
    return sorted(set(rows[wrong].tolist()))


def bare(name: str) -> str:
    """A name as it looks, without white space around it and with single spaces inside."""
    return " ".join(visible(name).split())


class WithoutClasses(Task):
    """For tasks whose labels are texts, or places in a text, and name no classes."""

    names_classes = False
    labels: list[str] = []  # noqa: RUF012  # none, ever

    @staticmethod
    def spelling(label: str) -> str:
        return label

    @staticmethod
    def classes(labels: Iterable[str]) -> list[str]:
        return []

    @staticmethod
    def stratify_by(label: str) -> str:
        return ""


def too_far(stride: int, max_length: Any) -> str | None:
    """What is wrong with so many pieces in common of windows of this length."""
    far = type(max_length) is int and stride >= max_length // 2
    return f"task.stride={stride}: it is below half of task.max_length={max_length}." if far else None


def check_length(max_length: Any, *problems: str | None) -> None:
    """Raises UserError for a text length of no use, and for these other problems of a task's options."""
    refuse(whole("task.max_length", max_length, SHORTEST), *problems)


def model_class(task: Task) -> Any:
    """The AutoModel of transformers whose head the task needs."""
    import transformers

    return getattr(transformers, task.auto)
