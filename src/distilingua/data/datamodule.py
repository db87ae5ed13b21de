"""The LightningDataModule: two tokenizers, one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from distilingua.columns import Encoded, Ragged, codes_of, column, lists_of, select, texts_of
from distilingua.data.augmentation import Augmentation, AugmentedRows
from distilingua.data.batching import BucketBatchSampler
from distilingua.data.encoder import Encoder
from distilingua.tasks.alignment import Alignment

TRAIN = "train"


class SoftLabels(Protocol):
    """Where a batch's soft labels come from."""

    @property
    def vector_width(self) -> int | None:
        """Of the teacher's sentence vectors; None where there are none."""

    def logits(self, batch: Batch) -> np.ndarray:
        """The teacher's logits, (positions of all rows, classes); NaN for rows that it did not read."""

    def vectors(self, batch: Batch) -> np.ndarray:
        """The teacher's sentence vectors, (rows, width); 0 for rows that it did not read."""


@dataclass
class LiveTeacher:
    """A teacher that reads along.

    Args:
        teacher: answers what a batch holds for it, see `FrozenTeacher`.
        encoder: how it reads.
        texts: as it reads them.
        places: number of a row of the corpus -> its place in `texts`.
    """

    teacher: Any
    encoder: Encoder
    texts: Encoded
    places: np.ndarray

    def reads(self, batch: Batch) -> Encoded:
        """What it reads for the rows of a batch. A row that it does not read still needs something to pad: its answer
        is masked out."""
        first, read = batch.first_text, batch.has_teacher
        if read.all() and batch.teacher_reads is None:
            return self.texts[self.places[first]]
        task, changed = self.encoder.task, batch.teacher_reads or {}
        rows = [
            changed.get(n) or (self.texts[self.places[first[n]]] if read[n] else task.unread(batch.encoded[n]))
            for n in range(len(batch))
        ]
        return Encoded.of(rows)


@dataclass
class TeacherOutputs:
    """How batches get the teacher's logits: from a store, or from a teacher that reads along; neither without one.

    Args:
        recipes: what shapes them, of every teacher.
        alignment: of a teacher that writes in other pieces than the student, and what it writes.
    """

    stored: SoftLabels | None = None
    live: LiveTeacher | None = None
    recipes: Sequence[Any] = ()
    alignment: tuple[Alignment, LiveTeacher] | None = None


class Lessons:
    """Rows as a model learns from them, by column; an item is the number of a row.

    Args:
        rows: with a column `teacher_texts` where there is a teacher, and `number` where one reads rows themselves.
        encoder: how the model reads.
        cache: folder for tokens.
        part: of the corpus, for messages: `TRAIN`, or a language of dev.
        encoded: what the model reads of the rows, where that is known.
    """

    def __init__(
        self, rows: Dataset, encoder: Encoder, cache: Path | None, part: str = TRAIN, encoded: Encoded | None = None
    ) -> None:
        self.rows, self.part = rows, part
        self.encoded = encoder(rows, cache) if encoded is None else encoded
        self.targets = encoder.task.targets(rows, self.encoded)
        names = rows.column_names
        self.numbers = column(rows, "number").to_numpy() if "number" in names else np.full(len(rows), -1)
        taught = "teacher_texts" in names
        none = Ragged(np.empty(0, np.int32), np.zeros(len(rows) + 1, np.int64))
        self.teacher_texts = lists_of(rows, "teacher_texts") if taught else none

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index

    def batch(self, numbers: np.ndarray, *changed: Any) -> Batch:
        """Some of the rows, as they are or as an augmentation has changed them, see `Batch`."""
        return Batch(self, numbers, *(changed or (self.encoded[numbers],)))

    def languages(self) -> np.ndarray:
        number, names = codes_of(self.rows, "lang")
        return np.array(names)[number]


@dataclass
class Batch:
    """Some rows of `Lessons`, by column.

    Args:
        rows: their numbers in `lessons`.
        encoded: as the student reads them.
        texts: rows of the corpus with what an augmentation has made of them; None where nothing was changed.
        teacher_reads: place in the batch -> what a live teacher reads of a changed row.
    """

    lessons: Lessons
    rows: np.ndarray
    encoded: Encoded
    texts: Sequence[Mapping[str, Any]] | None = None
    teacher_reads: Mapping[int, Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def teacher_texts(self) -> Ragged:
        """Numbers of the texts that the teachers read for each row."""
        found: Ragged = self.lessons.teacher_texts[self.rows]
        return found

    @property
    def has_teacher(self) -> np.ndarray:
        return self.teacher_texts.lengths > 0

    @property
    def first_text(self) -> np.ndarray:
        """Of a single teacher, the text that it reads for each row; -1 for none."""
        found, texts = np.full(len(self), -1), self.teacher_texts
        found[self.has_teacher] = texts.values[texts.offsets[:-1][self.has_teacher]]
        return found

    @property
    def numbers(self) -> np.ndarray:
        """Of the rows in the corpus; -1 where that is not known."""
        return self.lessons.numbers[self.rows]

    def read_alike(self) -> np.ndarray:
        """(rows,) whole numbers, equal where the teachers read the same texts."""
        texts: dict[bytes, int] = {}
        return np.array([texts.setdefault(read.tobytes(), len(texts)) for read in self.teacher_texts])

    def row(self, n: int) -> dict[str, Any]:
        """One of the rows as plain values, with what the student reads of it; for what is done row by row."""
        own = self.texts[n] if self.texts is not None else self.lessons.rows[int(self.rows[n])]
        return {**own, **self.encoded[n]}


class MultilingualDataModule(LightningDataModule):
    """Batches for a student, with what the teacher reads beside them.

    A training batch is `{"student": {input_ids, attention_mask}, "student_at": where in its output the positions are,
    "labels": (positions,), "counts": (rows,) positions per row, "has_teacher": (rows,), "rows": (rows,) their numbers
    in `train`, or in the rows of `dev` that "part" names}`. Where there is a teacher, it has `"read"`, (rows,), equal
    where the teacher read the same text, and either `"soft_labels"` (positions, classes) from a store, with
    `"teacher_vector"` (rows, width) if it holds them, or `"teacher"` and `"teacher_at"` for a live one; these are in
    the teacher's own positions where there is an `"alignment"`. See `Task` for positions.

    Args:
        train: rows to learn from; with a column `teacher_texts` when there is a teacher.
        dev: rows to watch, per language.
        test: rows to judge by, per language, for `Trainer.test`.
        encoder: how text becomes pieces for the model that learns.
        outputs: what the teacher says of the rows.
        batch_size, eval_batch_size: rows per batch and process.
        language_alpha: see `BucketBatchSampler`.
        seed: of the order of the batches.
        workers: processes that build batches; the batches do not depend on it.
        cache: folder for tokenised text.
        augmentations: by name, see `AugmentedRows`.
        encoded: what the model reads of train, where that is known.
    """

    def __init__(
        self,
        train: Dataset,
        dev: dict[str, Dataset],
        encoder: Encoder,
        outputs: TeacherOutputs | None = None,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        language_alpha: float = 1.0,
        seed: int = 0,
        workers: int = 0,
        cache: Path | None = None,
        augmentations: Mapping[str, Augmentation] | None = None,
        encoded: Encoded | None = None,
        test: Mapping[str, Dataset] | None = None,
    ) -> None:
        super().__init__()
        self.encoded, self.test = encoded, dict(test or {})
        self.train, self.dev, self.encoder, self.outputs = train, dev, encoder, outputs or TeacherOutputs()
        self.batch_size, self.eval_batch_size, self.language_alpha = batch_size, eval_batch_size, language_alpha
        self.seed, self.workers, self.cache = seed, workers, cache
        self.augmentations = dict(augmentations or {})
        self.languages = list(dev)
        self._resumed = (0, 0)  # epoch, and how many of its batches are done

    def setup(self, stage: str) -> None:
        self.train_rows = Lessons(self.train, self.encoder, self.cache, encoded=self.encoded)
        self.dev_rows = {lang: Lessons(rows, self.encoder, self.cache, lang) for lang, rows in self.dev.items()}

    def collate(self, lessons: Lessons, numbers: Sequence[int]) -> dict[str, Any]:
        return self.collated(lessons.batch(np.asarray(numbers)))

    def collated(self, rows: Batch) -> dict[str, Any]:
        """What the module is given of some rows."""
        task, stored, live = self.encoder.task, self.outputs.stored, self.outputs.live
        inputs, at = self.encoder.collate(rows.encoded)
        batch: dict[str, Any] = {
            "part": rows.lessons.part,
            "rows": torch.from_numpy(rows.rows),
            "student": inputs,
            "student_at": at,
            "labels": task.collate_labels(rows.lessons.targets[rows.rows]),
            "counts": torch.from_numpy(task.positions(rows.encoded)),
            "has_teacher": torch.from_numpy(rows.has_teacher),
        }
        if stored is not None or live is not None:
            batch["read"] = torch.from_numpy(rows.read_alike())
        if self.outputs.alignment is not None:
            alignment, writer = self.outputs.alignment
            written = writer.reads(rows).lists("target_ids")
            batch["alignment"] = alignment(rows.encoded.lists("target_ids"), written, rows.has_teacher.tolist())
        if stored is not None:
            batch["soft_labels"] = torch.from_numpy(stored.logits(rows))
            if stored.vector_width is not None:
                batch["teacher_vector"] = torch.from_numpy(stored.vectors(rows))
        elif live is not None:
            batch["teacher"], batch["teacher_at"] = live.encoder.collate(live.reads(rows))
        return batch

    def ids(self, batch: Mapping[str, Any], rows: np.ndarray) -> list[str]:
        """Names of the rows of a batch, for people."""
        lessons = self.train_rows if batch["part"] == TRAIN else self.dev_rows[batch["part"]]
        return texts_of(select(lessons.rows, rows), "id")

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        lessons: Any = self.train_rows
        sampler = BucketBatchSampler(
            lessons.encoded.lengths,
            lessons.languages(),
            self.batch_size,
            self.language_alpha,
            self.seed,
            processes=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            tell_epoch=bool(self.augmentations),
        )
        sampler.resume(*self._resumed)
        collate: Any = partial(self.collate, lessons)
        if self.augmentations:
            for_teacher = self.outputs.live.encoder.changed if self.outputs.live is not None else None
            lessons = AugmentedRows(lessons, self.augmentations, self.encoder.changed, for_teacher, self.seed)
            collate = self.collated
        return DataLoader(
            lessons,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self._pins,
            generator=torch.Generator(),  # or every pass would draw from the state that dropout goes on from
        )

    @property
    def _pins(self) -> bool:
        """Pinned memory is copied to a GPU while it computes (Lightning copies without waiting); nothing else gains."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def state_dict(self) -> dict[str, int]:
        """The epoch to go on in, and how many of its batches have been trained on; Lightning keeps it in every
        checkpoint. Lightning's own count says when an epoch is over: `limit_train_batches` makes it shorter."""
        assert self.trainer is not None
        epochs: Any = self.trainer.fit_loop.epoch_progress.current  # Lightning declares base classes
        done: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        if epochs.started == epochs.processed:
            return {"epoch": epochs.processed, "batches": 0}
        over = done.processed >= self.trainer.num_training_batches
        return {"epoch": epochs.processed + over, "batches": 0 if over else done.processed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resumed = state_dict["epoch"], state_dict["batches"]

    def val_dataloader(self) -> list[DataLoader]:
        return [self.held_out_loader(rows) for rows in self.dev_rows.values()]

    def test_dataloader(self) -> list[DataLoader]:
        """Of `test`, in the languages of dev."""
        parts = {lang: Lessons(self.test[lang], self.encoder, self.cache, lang) for lang in self.languages}
        return [self.held_out_loader(rows) for rows in parts.values()]

    def held_out_loader(self, lessons: Lessons) -> DataLoader:
        """Rows of like length together: judging does not ask for an order, and short ones are not padded to the
        longest."""
        batches: Any = [numbers.tolist() for numbers in lessons.encoded.batches(self.eval_batch_size)]
        dataset: Any = lessons
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=partial(self.collate, lessons),
            pin_memory=self._pins,
            generator=torch.Generator(),
        )
