"""The LightningDataModule: two tokenizers, one batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from distilingua.artifacts import fingerprint, rows_fingerprint
from distilingua.data.augmentation import Augmentation, AugmentedRows, Encode
from distilingua.data.batching import BucketBatchSampler
from distilingua.tasks.task import Encoded, Example, Task


def tokenise(
    rows: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, prefix: str, cache: Path | None
) -> list[Encoded]:
    """Every row as a model reads it; `datasets` keeps it on disk, addressed by text, tokenizer and length."""
    address = fingerprint(
        [rows_fingerprint(rows, task.reads), tokenizer_fingerprint(tokenizer), prefix, type(task).__name__, task.recipe]
    )
    if cache is not None:
        (cache / "tokens").mkdir(parents=True, exist_ok=True)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        encoded = task.encode(batch, tokenizer, prefix)
        return {name: [row[name] for row in encoded] for name in encoded[0]}

    tokens = rows.select_columns(list(task.reads)).map(
        encode,
        batched=True,
        remove_columns=list(task.reads),
        cache_file_name=str(cache / "tokens" / f"{address}.arrow") if cache is not None else None,
        new_fingerprint=address,
        desc="Tokenising",
    )
    return tokens.to_list()


def encode_rows(
    rows: Sequence[dict[str, Any]], task: Task, tokenizer: PreTrainedTokenizerBase, prefix: str
) -> list[Encoded]:
    """Rows that an augmentation has changed, as a model reads them."""
    return task.encode({name: [row[name] for row in rows] for name in task.reads}, tokenizer, prefix)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """What shapes its pieces. Truncation and padding are left out: they are the traces of its last call."""
    if hasattr(tokenizer, "state"):  # it hears
        return fingerprint(tokenizer.state)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return fingerprint(sorted(tokenizer.get_vocab().items()))
    state = json.loads(backend.to_str())
    return fingerprint({name: part for name, part in state.items() if name not in ("truncation", "padding")})


class SoftLabels(Protocol):
    """Where a row's soft labels come from."""

    @property
    def width(self) -> int:
        """Classes."""

    def __call__(self, row: Example) -> np.ndarray:
        """The teacher's logits for a row that it read, (positions, classes)."""


class MultilingualDataModule(LightningDataModule):
    """Batches for a student, with what the teacher reads beside them.

    A training batch is `{"student": {input_ids, attention_mask}, "student_at": where in its output the positions are,
    "labels": (positions,), "counts": (rows,) positions per row, "has_teacher": (rows,), "read": (rows,) numbers of the
    texts the teacher read, "ids": names of the rows}` and either `"soft_labels"` (positions, classes) from a store or
    `"teacher"` and `"teacher_at"` for a live one. See `Task` for positions.

    Args:
        train: rows to learn from; with a column `teacher_rows` when there is a teacher.
        dev: rows to watch, per language.
        task, tokenizer, prefix: how text becomes pieces for the model that learns.
        batch_size, eval_batch_size: rows per batch and process.
        language_alpha: see `BucketBatchSampler`.
        seed: of the order of the batches.
        workers: processes that build batches; the batches do not depend on it.
        cache: folder for tokenised text.
        soft_labels: a row's logits from a store, (positions, classes).
        teacher_tokens: row id -> what a live teacher reads.
        teacher_pad_id: its padding piece.
        teacher_encode: rows to its pieces, for text that an augmentation has changed.
        augmentations: by name, see `AugmentedRows`.
    """

    def __init__(
        self,
        train: Dataset,
        dev: dict[str, Dataset],
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prefix: str = "",
        batch_size: int = 64,
        eval_batch_size: int = 256,
        language_alpha: float = 1.0,
        seed: int = 0,
        workers: int = 0,
        cache: Path | None = None,
        soft_labels: SoftLabels | None = None,
        teacher_tokens: dict[str, Encoded] | None = None,
        teacher_pad_id: int = 0,
        teacher_encode: Encode | None = None,
        augmentations: Mapping[str, Augmentation] | None = None,
    ) -> None:
        super().__init__()
        self.train, self.dev, self.task, self.tokenizer = train, dev, task, tokenizer
        self.prefix, self.batch_size, self.eval_batch_size = prefix, batch_size, eval_batch_size
        self.language_alpha, self.seed, self.workers, self.cache = language_alpha, seed, workers, cache
        self.soft_labels, self.teacher_tokens, self.teacher_pad_id = soft_labels, teacher_tokens, teacher_pad_id
        self.teacher_encode, self.augmentations = teacher_encode, dict(augmentations or {})
        self.languages = list(dev)
        self._resume_at = 0

    def setup(self, stage: str) -> None:
        encode = partial(tokenise, task=self.task, tokenizer=self.tokenizer, prefix=self.prefix, cache=self.cache)
        self.train_rows = self._examples(self.train, encode(self.train))
        self.dev_rows = {lang: self._examples(rows, encode(rows)) for lang, rows in self.dev.items()}

    def _examples(self, rows: Dataset, encoded: list[Encoded]) -> list[dict[str, Any]]:
        targets = self.task.targets(rows, encoded)
        return [
            {"teacher_rows": [], **row, **read, "labels": labels}
            for row, read, labels in zip(rows.to_list(), encoded, targets, strict=True)
        ]

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        inputs, at = self.task.collate(examples, self.tokenizer.pad_token_id)
        batch: dict[str, Any] = {
            "ids": [e["id"] for e in examples],
            "student": inputs,
            "student_at": at,
            "labels": self.task.collate_labels([e["labels"] for e in examples]),
            "counts": torch.tensor([self.task.positions(e) for e in examples]),
            "has_teacher": torch.tensor([bool(e["teacher_rows"]) for e in examples]),
        }
        if self.soft_labels is not None or self.teacher_tokens is not None:
            texts: dict[tuple[str, ...], int] = {}
            batch["read"] = torch.tensor([texts.setdefault(tuple(e["teacher_rows"]), len(texts)) for e in examples])
        if self.soft_labels is not None:
            answers = [
                self.soft_labels(e)
                if e["teacher_rows"]
                else np.full((count, self.soft_labels.width), np.nan, dtype=np.float32)
                for e, count in zip(examples, batch["counts"].tolist(), strict=True)
            ]
            batch["soft_labels"] = torch.from_numpy(np.concatenate(answers))
        elif self.teacher_tokens is not None:
            # a row the teacher does not read still needs something to pad: its answer is masked out
            known = self.teacher_tokens
            read = [
                e.get("teacher_reads") or (known[e["teacher_rows"][0]] if e["teacher_rows"] else self.task.unread(e))
                for e in examples
            ]
            batch["teacher"], batch["teacher_at"] = self.task.collate(read, self.teacher_pad_id)
        return batch

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        sampler = BucketBatchSampler(
            [self.task.length(e) for e in self.train_rows],
            [e["lang"] for e in self.train_rows],
            self.batch_size,
            self.language_alpha,
            self.seed,
            processes=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            tell_epoch=bool(self.augmentations),
        )
        sampler.skip = self._resume_at % len(sampler)  # a whole epoch: the next one starts at its beginning
        rows: Any = self.train_rows  # a list is a map-style dataset
        if self.augmentations:
            encode = partial(encode_rows, task=self.task, tokenizer=self.tokenizer, prefix=self.prefix)
            rows = AugmentedRows(rows, self.augmentations, encode, self.teacher_encode, self.seed)
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=self.collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # or every pass would draw from the state that dropout goes on from
        )

    def state_dict(self) -> dict[str, int]:
        """How many batches of the running epoch have been trained on; Lightning keeps it in every checkpoint."""
        assert self.trainer is not None
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return {"batches": done.processed}  # type: ignore[attr-defined]  # Lightning declares a base class

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resume_at = state_dict["batches"]

    def val_dataloader(self) -> list[DataLoader]:
        return [self.held_out_loader(rows) for rows in self.dev_rows.values()]

    def held_out_loader(self, examples: list[dict[str, Any]]) -> DataLoader:
        return DataLoader(
            examples,  # type: ignore[arg-type]
            batch_size=self.eval_batch_size,
            collate_fn=self.collate,
            generator=torch.Generator(),
        )
