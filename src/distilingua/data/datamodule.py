"""The LightningDataModule: two tokenizers, one batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from distilingua.artifacts import fingerprint, rows_fingerprint
from distilingua.data.augmentation import Augmentation, AugmentedRows, Encode
from distilingua.data.batching import BucketBatchSampler
from distilingua.data.collate import pad
from distilingua.tasks.text_classification import TextClassification


def tokenise(
    rows: Dataset, task: TextClassification, tokenizer: PreTrainedTokenizerBase, prefix: str, cache: Path | None
) -> list[list[int]]:
    """Piece ids of every row; `datasets` keeps them on disk under an address made of text, tokenizer and length."""
    address = fingerprint(
        [rows_fingerprint(rows, ["text", "text_pair"]), tokenizer_fingerprint(tokenizer), prefix, task.max_length]
    )
    if cache is not None:
        (cache / "tokens").mkdir(parents=True, exist_ok=True)
    tokens = rows.select_columns(["text", "text_pair"]).map(
        lambda batch: {"input_ids": task.tokenise(batch, tokenizer, prefix)},
        batched=True,
        remove_columns=["text", "text_pair"],
        cache_file_name=str(cache / "tokens" / f"{address}.arrow") if cache is not None else None,
        new_fingerprint=address,
        desc="Tokenising",
    )
    return tokens["input_ids"][:]


def encode_rows(
    rows: Sequence[dict[str, Any]], task: TextClassification, tokenizer: PreTrainedTokenizerBase, prefix: str
) -> list[list[int]]:
    """Piece ids of rows that an augmentation has changed."""
    columns = {name: [row[name] for row in rows] for name in ("text", "text_pair")}
    return task.tokenise(columns, tokenizer, prefix)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """What shapes its pieces. Truncation and padding are left out: they are the traces of its last call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return fingerprint(sorted(tokenizer.get_vocab().items()))
    state = json.loads(backend.to_str())
    return fingerprint({name: part for name, part in state.items() if name not in ("truncation", "padding")})


class MultilingualDataModule(LightningDataModule):
    """Batches for a student, with what the teacher reads beside them.

    A training batch is `{"student": {input_ids, attention_mask}, "labels": (rows,), "has_teacher": (rows,), "read":
    (rows,) numbers of the texts the teacher read, "ids": names of the rows}` and either `"soft_labels"` (rows, classes)
    from a store or `"teacher"` {input_ids, attention_mask} for a live one.

    Args:
        train: rows to learn from; with a column `teacher_rows` when there is a teacher.
        dev: rows to watch, per language.
        task, tokenizer, prefix: how text becomes pieces for the model that learns.
        batch_size, eval_batch_size: rows per batch and process.
        language_alpha: see `BucketBatchSampler`.
        seed: of the order of the batches.
        workers: processes that build batches; the batches do not depend on it.
        cache: folder for tokenised text.
        soft_labels: looks stored logits up by row ids.
        teacher_tokens: row id -> piece ids for a live teacher.
        teacher_pad_id: its padding piece.
        teacher_encode: rows to its pieces, for text that an augmentation has changed.
        augmentations: by name, see `AugmentedRows`.
    """

    def __init__(
        self,
        train: Dataset,
        dev: dict[str, Dataset],
        task: TextClassification,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prefix: str = "",
        batch_size: int = 64,
        eval_batch_size: int = 256,
        language_alpha: float = 1.0,
        seed: int = 0,
        workers: int = 0,
        cache: Path | None = None,
        soft_labels: Callable[[Sequence[str]], np.ndarray] | None = None,
        teacher_tokens: dict[str, list[int]] | None = None,
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

    def _examples(self, rows: Dataset, token_ids: list[list[int]]) -> list[dict[str, Any]]:
        teacher_rows = rows["teacher_rows"][:] if "teacher_rows" in rows.column_names else [[]] * len(rows)
        labels = self.task.targets(rows)
        columns = [rows[name][:] for name in ("id", "lang", "text", "text_pair")]
        names = ("id", "lang", "text", "text_pair", "input_ids", "label", "teacher_rows")
        return [
            dict(zip(names, values, strict=True))
            for values in zip(*columns, token_ids, labels, teacher_rows, strict=True)
        ]

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            "ids": [e["id"] for e in examples],
            "student": pad([e["input_ids"] for e in examples], self.tokenizer.pad_token_id),
            "labels": torch.stack([e["label"] for e in examples]),
            "has_teacher": torch.tensor([bool(e["teacher_rows"]) for e in examples]),
        }
        if self.soft_labels is not None or self.teacher_tokens is not None:
            texts: dict[tuple[str, ...], int] = {}
            batch["read"] = torch.tensor([texts.setdefault(tuple(e["teacher_rows"]), len(texts)) for e in examples])
        if self.soft_labels is not None:
            batch["soft_labels"] = torch.from_numpy(np.stack([self.soft_labels(e["teacher_rows"]) for e in examples]))
        elif self.teacher_tokens is not None:
            # a row the teacher does not read still needs something to pad: its answer is masked out
            read = [
                e.get("teacher_ids") or (self.teacher_tokens[e["teacher_rows"][0]] if e["teacher_rows"] else [0])
                for e in examples
            ]
            batch["teacher"] = pad(read, self.teacher_pad_id)
        return batch

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        sampler = BucketBatchSampler(
            [len(e["input_ids"]) for e in self.train_rows],
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
