"""What a task is: everything that differs between classifying a sentence and transcribing speech."""

from __future__ import annotations

import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from distilingua.data.collate import pad
from distilingua.distillation.losses.ce import HIDDEN, CrossEntropy
from distilingua.distillation.losses.term import Term
from distilingua.distillation.signals import Layers, Signals
from distilingua.errors import UserError

if TYPE_CHECKING:  # slow to import, and `checks.check` must answer within a second or two
    import numpy as np
    from datasets import Dataset
    from torchmetrics import MetricCollection
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Encoded = dict[str, Any]
"""One row as a model reads it: `input_ids`, and `at` where its answers are not one for the whole text."""

Example = Mapping[str, Any]
"""One row of the data module: the columns of the corpus, the fields of `Encoded`, `labels` and `teacher_rows`."""

ABSENT, PADDING = -1, -2  # in `at`: a position this model does not see (cut off); no position at all


class Task(ABC):
    """What a model reads, which of its logits count, the hard loss, the metrics, and how an answer is decoded.

    Everything is a distribution over classes at some positions of a row. A sentence has one position, a word or a
    decoder step is one, so is a frame of sound. Teacher and student may read with different tokenizers: they meet at
    positions, so a row has the same number of them whoever reads it.

    Subclasses set what is listed under "To set", write the four abstract methods (`encode`, `targets`, `decode`,
    `metrics`), and override what differs from one class per position. The objective compares distributions, so what is
    no choice among classes, such as regression, does not fit.
    """

    # --- to set -------------------------------------------------------------------------------------------------------
    labels: list[str]
    """Names of the classes, in the order of the logits; empty where classes have no names."""
    name: str
    """In titles and in metrics.json."""
    max_length: int
    """Pieces a model reads at most."""
    auto: ClassVar[str]
    """The AutoModel of transformers whose head this task needs."""
    goes_with: ClassVar[str] = "student=tiny teacher=minilm_en"
    """Choices that have such a head, for messages."""
    shown: ClassVar[Mapping[str, str]]
    """Metric -> heading in tables. The first is the main one: retention is computed from it, and more is better."""
    reads: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    """Columns that shape what `encode` returns."""
    points_into: ClassVar[tuple[str, ...]] = ()
    """Columns that labels point into by word or by character: cleaning leaves them as they are."""
    positional: ClassVar[bool] = True
    """Whether a label names the class of every position."""
    makes_labels: bool = False
    """Whether a teacher's own answer becomes the label of a row without one, see `pseudo_label`."""
    generates: ClassVar[bool] = False
    """Whether its answers are sequences of the model's own length, which cannot be averaged."""

    note: str = ""
    """What belongs beneath its scores, such as the version of what computed them."""

    @property
    def model_class(self) -> Any:
        import transformers

        return getattr(transformers, self.auto)

    @property
    def score(self) -> str:
        """The main metric."""
        return next(iter(self.shown))

    # --- labels -------------------------------------------------------------------------------------------------------
    @staticmethod
    def classes(labels: Iterable[str]) -> list[str]:
        """Names of the classes that occur in these labels, as a corpus spells labels; "" is no label."""
        return sorted({label for label in labels if label})

    @staticmethod
    def spelling(label: str) -> str:
        """A label as it is compared with others: white space around a class is none of its name."""
        return bare(label)

    @staticmethod
    def stratum(label: str) -> str:
        """What `few_shot` shows n labels of: of every class here; of everything alike where this is constant."""
        return label

    @staticmethod
    def problem(row: Mapping[str, str]) -> str | None:
        """What is wrong with a row's label, in a sentence; None for nothing."""
        return None

    @staticmethod
    def unreadable(row: Mapping[str, str]) -> str | None:
        """Why a row cannot be read, with or without a label, in a sentence; None if it can."""
        return None

    def order_of(self, known: list[str] | None, tokenizer: Any) -> list[str] | None:
        """Classes in the order of a teacher's logits; None where that is not known.

        Args:
            known: as its configuration names them.
            tokenizer: the teacher's.
        """
        return known

    def meet(self, student: Any, teacher: Any) -> None:  # noqa: B027  # texts always do
        """Raises UserError where models that read with these tokenizers have no positions in common."""

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
    def encode(self, rows: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, prefix: str) -> list[Encoded]:
        """Rows as a model reads them, cut to `max_length`.

        Args:
            rows: the columns `reads`.
            prefix: goes in front of the text; some models want one (E5: "query: ").
        """

    def length(self, encoded: Encoded) -> int:
        """By which rows of a batch are alike."""
        return len(encoded["input_ids"])

    def positions(self, encoded: Encoded) -> int:
        """How many positions the row has."""
        return len(encoded["at"]) if "at" in encoded else 1

    def collate(self, encoded: Sequence[Encoded], pad_id: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """What the model is called with, and where in its output the positions are: (rows, most positions)."""
        at = None
        if "at" in encoded[0]:
            at = torch.nn.utils.rnn.pad_sequence(
                [torch.as_tensor(e["at"], dtype=torch.long) for e in encoded], batch_first=True, padding_value=PADDING
            )
        return pad([e["input_ids"] for e in encoded], pad_id), at

    def unread(self, encoded: Encoded) -> Encoded:
        """Stands in a batch for a row that a model does not read: as many positions, all of them absent."""
        return {"input_ids": [0], **({"at": [ABSENT] * len(encoded["at"])} if "at" in encoded else {})}

    def settle(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: B027
        """Tells a model that has been loaded what it cannot know of itself, such as which language to write.

        Raises:
            UserError: this model and tokenizer cannot serve the task as it is configured.
        """

    def width(self, model: PreTrainedModel) -> int:
        """Logits per position."""
        return len(self.labels)

    def cells(self, output: Any, at: Tensor | None) -> Tensor:
        """Logits in the order of rows and positions, (positions, classes) float32; NaN for a position cut off."""
        logits = output.logits.float()
        if at is None:
            return logits
        rows, columns = (at != PADDING).nonzero(as_tuple=True)
        index = at[rows, columns]
        return torch.where((index == ABSENT)[:, None], torch.nan, logits[rows, index.clamp(min=0)])

    # --- learning -----------------------------------------------------------------------------------------------------
    def comparable(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:  # noqa: B027
        """Whether positions and classes mean the same to both.

        Raises:
            UserError: they do not, so terms that compare distributions cannot be computed.
        """

    @abstractmethod
    def targets(self, rows: Dataset, encoded: Sequence[Encoded]) -> list[Tensor]:
        """Per row the class index of every position, (positions,); `HIDDEN` where the label is not shown."""

    def collate_labels(self, targets: Sequence[Tensor]) -> Tensor:
        """Labels of a batch, as the hard term reads them: (positions,)."""
        return torch.cat(list(targets))

    @staticmethod
    def hard() -> Term:
        """The hard loss, for teachers, and for students without one."""
        return CrossEntropy()

    def learn(self, labels: Iterable[str]) -> None:  # noqa: B027  # most need nothing
        """Sees the visible labels once, before anything trains."""

    def pseudo_label(self, answer: Tensor, row: Example, encoded: Encoded, tokenizer: Any) -> str:
        """The teacher's answer as the label of a row that has none; "" where there is none to be trusted."""
        return ""

    class_weights: Tensor | None = None
    """What the hard loss weighs each class by, (classes,)."""

    def project(self, cells: np.ndarray, read: Mapping[str, Any], row: Example) -> np.ndarray:
        """The teacher's answer to another text (an aligned one) as an answer to this row: (positions, classes).

        Args:
            cells: its logits for the text it read, (positions of that text, classes).
            read: that text's `text`, `text_pair` and `spans`.
            row: the row that is learnt from.
        """
        return cells

    def signals(
        self,
        student: Tensor,
        teacher: Tensor | None,
        batch: Mapping[str, Any],
        student_layers: Layers | None = None,
        teacher_layers: Layers | None = None,
    ) -> Signals:
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
            labels = labels.masked_fill(~(seen if labels.ndim == 1 else seen[:, None]), HIDDEN)
        return Signals(
            student=student.nan_to_num(),
            teacher=teacher,
            labels=labels,
            has_teacher=has_teacher,
            rows=len(counts),
            row=row,
            class_weights=self.class_weights.to(student.device) if self.class_weights is not None else None,
            rows_read=rows_read,
            student_layers=student_layers,
            teacher_layers=teacher_layers,
            read=batch.get("read"),
        )

    # --- judging ------------------------------------------------------------------------------------------------------
    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Dev scores, which `watch` updates."""

    def watch(self, metrics: MetricCollection, signals: Signals, batch: Mapping[str, Any]) -> None:
        """Adds a batch; what a model did not see for want of length is judged all the same."""
        metrics.update(signals.student, batch["labels"], row=signals.row)

    def agree(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Whether both decide alike, (positions,) bool."""
        return student.argmax(-1) == teacher.argmax(-1)

    def right(self, answer: Tensor, targets: Tensor) -> Tensor:
        """Whether an answer names the true class, (positions that have one,) bool."""
        return (answer.argmax(-1) == targets)[targets != HIDDEN]

    def answer(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], at: Tensor | None) -> list[Tensor]:
        """A model's answer to every row of a batch: its cells, (positions, classes) each."""
        cells = self.cells(model(**inputs), at)
        return list(cells.split((at != PADDING).sum(-1).tolist() if at is not None else 1))

    @abstractmethod
    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: Encoded, tokenizer: Any) -> str:
        """An answer as a label, spelt as a corpus spells it."""

    def show(self, label: str) -> str:
        """A label as tables show it."""
        return label

    def title(self, row: Mapping[str, str]) -> str:
        """A row as tables show it."""
        return " / ".join(filter(None, (row["text"], row["text_pair"])))

    def judge(
        self, answers: Sequence[Tensor], rows: Dataset, encoded: Sequence[Encoded], tokenizer: Any
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
                "counts": torch.tensor([self.positions(e) for e in encoded]),
                "has_teacher": torch.zeros(len(rows), dtype=torch.bool),
            },
        )
        metrics = self.metrics()
        for metric in metrics.values():
            # one process judges, and would wait for the others in vain
            metric.distributed_available_fn = lambda: False
        self.watch(metrics, found, {"labels": labels})
        columns = [dict(zip(rows.column_names, values, strict=True)) for values in zip(*rows[:].values(), strict=True)]
        told = [self.decode(a, r, e, tokenizer) for a, r, e in zip(answers, columns, encoded, strict=True)]
        return {name: float(value) for name, value in metrics.compute().items()}, told


def bare(name: str) -> str:
    """A name without white space around it, and without characters of no width, which nobody sees either."""
    return name.strip(f"{string.whitespace}\u200b\u2060\ufeff").strip()


class WithoutClasses(Task):
    """For tasks whose labels are texts, or places in a text, and name no classes."""

    @staticmethod
    def spelling(label: str) -> str:
        return label

    @staticmethod
    def classes(labels: Iterable[str]) -> list[str]:
        return []

    @staticmethod
    def stratum(label: str) -> str:
        return ""


def needs_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """For tasks whose positions are in the text.

    Raises:
        UserError: a tokenizer that does not say which characters a piece stands for.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"task: {type(tokenizer).__name__} does not say where in the text its pieces are. Choose a model with a "
            f"fast tokenizer."
        )
