"""The LightningDataModule: two tokenizers, one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from distilingua.data.augmentation import Augmentation, AugmentedRows
from distilingua.data.batching import BucketBatchSampler
from distilingua.data.encoder import Encoder
from distilingua.tasks.alignment import Alignment
from distilingua.tasks.task import Encoded, Example, length_of


class SoftLabels(Protocol):
    """Where a row's soft labels come from."""

    @property
    def width(self) -> int:
        """Classes."""

    @property
    def vector_width(self) -> int | None:
        """Of the teacher's sentence vectors; None where there are none."""

    def __call__(self, row: Example) -> np.ndarray:
        """The teacher's logits for a row that it read, (positions, classes)."""

    def vector(self, row: Example) -> np.ndarray:
        """The teacher's sentence vector for a row that it read, (width,)."""


@dataclass
class LiveTeacher:
    """A teacher that reads along.

    Args:
        teacher: answers what a batch holds for it, see `FrozenTeacher`.
        encoder: how it reads.
        tokens: row id -> what it reads in place of that row.
    """

    teacher: Any
    encoder: Encoder
    tokens: Mapping[str, Encoded]


@dataclass
class TeacherOutputs:
    """How batches get the teacher's logits: from a store, or from a teacher that reads along; neither without one.

    Args:
        recipes: what shapes them, of every teacher.
        alignment: of a teacher that writes in other pieces than the student.
    """

    stored: SoftLabels | None = None
    live: LiveTeacher | None = None
    recipes: Sequence[Any] = ()
    alignment: Alignment | None = None


class MultilingualDataModule(LightningDataModule):
    """Batches for a student, with what the teacher reads beside them.

    A training batch is `{"student": {input_ids, attention_mask}, "student_at": where in its output the positions are,
    "labels": (positions,), "counts": (rows,) positions per row, "has_teacher": (rows,), "read": (rows,) numbers of the
    texts the teacher read, "ids": names of the rows}` and either `"soft_labels"` (positions, classes) from a store,
    with `"teacher_vector"` (rows, width) if it holds them, or `"teacher"` and `"teacher_at"` for a live one; these are
    in the teacher's own positions where there is an `"alignment"`. See `Task` for positions.

    Args:
        train: rows to learn from; with a column `teacher_rows` when there is a teacher.
        dev: rows to watch, per language.
        encoder: how text becomes pieces for the model that learns.
        outputs: what the teacher says of the rows.
        batch_size, eval_batch_size: rows per batch and process.
        language_alpha: see `BucketBatchSampler`.
        seed: of the order of the batches.
        workers: processes that build batches; the batches do not depend on it.
        cache: folder for tokenised text.
        augmentations: by name, see `AugmentedRows`.
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
    ) -> None:
        super().__init__()
        self.train, self.dev, self.encoder, self.outputs = train, dev, encoder, outputs or TeacherOutputs()
        self.batch_size, self.eval_batch_size, self.language_alpha = batch_size, eval_batch_size, language_alpha
        self.seed, self.workers, self.cache = seed, workers, cache
        self.augmentations = dict(augmentations or {})
        self.languages = list(dev)
        self._resumed = (0, 0)  # epoch, and how many of its batches are done

    def setup(self, stage: str) -> None:
        self.train_rows = self._examples(self.train)
        # like lengths together: judging does not ask for an order, and short rows are not padded to the longest
        self.dev_rows = {lang: sorted(self._examples(rows), key=length_of) for lang, rows in self.dev.items()}

    def _examples(self, rows: Dataset) -> list[dict[str, Any]]:
        encoded = self.encoder(rows, self.cache)
        targets = self.encoder.task.targets(rows, encoded)
        return [
            {"teacher_rows": [], **row, **read, "labels": labels}
            for row, read, labels in zip(rows.to_list(), encoded, targets, strict=True)
        ]

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        task, stored, live = self.encoder.task, self.outputs.stored, self.outputs.live
        inputs, at = self.encoder.collate(examples)
        batch: dict[str, Any] = {
            "ids": [e["id"] for e in examples],
            "student": inputs,
            "student_at": at,
            "labels": task.collate_labels([e["labels"] for e in examples]),
            "counts": torch.tensor([task.positions(e) for e in examples]),
            "has_teacher": torch.tensor([bool(e["teacher_rows"]) for e in examples]),
        }
        if stored is not None or live is not None:
            texts: dict[tuple[str, ...], int] = {}
            batch["read"] = torch.tensor([texts.setdefault(tuple(e["teacher_rows"]), len(texts)) for e in examples])
        if self.outputs.alignment is not None:
            batch["alignment"] = self.outputs.alignment(examples)
        if stored is not None:
            answers = [
                stored(e) if e["teacher_rows"] else np.full((count, stored.width), np.nan, dtype=np.float32)
                for e, count in zip(examples, batch["counts"].tolist(), strict=True)
            ]
            batch["soft_labels"] = torch.from_numpy(np.concatenate(answers))
            if (width := stored.vector_width) is not None:
                unread = np.zeros(width, dtype=np.float32)
                vectors = [stored.vector(e) if e["teacher_rows"] else unread for e in examples]
                batch["teacher_vector"] = torch.from_numpy(np.stack(vectors))
        elif live is not None:
            # a row the teacher does not read still needs something to pad: its answer is masked out
            read = [
                e.get("teacher_reads") or (live.tokens[e["teacher_rows"][0]] if e["teacher_rows"] else task.unread(e))
                for e in examples
            ]
            batch["teacher"], batch["teacher_at"] = live.encoder.collate(read)
        return batch

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        sampler = BucketBatchSampler(
            [length_of(e) for e in self.train_rows],
            [e["lang"] for e in self.train_rows],
            self.batch_size,
            self.language_alpha,
            self.seed,
            processes=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            tell_epoch=bool(self.augmentations),
        )
        sampler.resume(*self._resumed)
        rows: Any = self.train_rows  # a list is a map-style dataset
        if self.augmentations:
            live = self.outputs.live
            for_teacher = live.encoder.changed if live is not None else None
            rows = AugmentedRows(rows, self.augmentations, self.encoder.changed, for_teacher, self.seed)
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=self.collate,
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

    def held_out_loader(self, examples: list[dict[str, Any]]) -> DataLoader:
        return DataLoader(
            examples,  # type: ignore[arg-type]
            batch_size=self.eval_batch_size,
            collate_fn=self.collate,
            pin_memory=self._pins,
            generator=torch.Generator(),
        )
