"""The teacher's logits, computed once and found again by row id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from distilingua.artifacts import cached
from distilingua.errors import UserError
from distilingua.models.inference import logits_of
from distilingua.models.teacher import FrozenTeacher
from distilingua.tasks.text_classification import TextClassification


class SoftLabels:
    """Logits of a teacher, without temperature, memory-mapped.

    Args:
        folder: as `compute` wrote it.
        expected: what must have shaped them; a store made by another teacher, tokenizer, corpus or length is refused.

    Raises:
        UserError: the store's recipe differs from `expected`; the message names what differs.
    """

    def __init__(self, folder: Path, expected: Mapping[str, Any]) -> None:
        recipe = json.loads((folder / "recipe.json").read_text("utf-8"))
        different = [name for name, value in expected.items() if recipe.get(name) != value]
        if different:
            raise UserError(
                f"soft labels in {folder} were made with another {', another '.join(different)}. "
                f"Delete the folder, or restore what made it."
            )
        self.logits = np.load(folder / "logits.npy", mmap_mode="r")
        ids = json.loads((folder / "ids.json").read_text("utf-8"))
        self._position = {row_id: i for i, row_id in enumerate(ids)}
        self._means: dict[tuple[str, ...], np.ndarray] = {}

    def __call__(self, row_ids: Sequence[str]) -> np.ndarray:
        """Logits, (classes,), for a text of which the teacher read these rows.

        Several rows are averaged as probabilities and given back as their logarithms, which are logits again. No row
        at all gives zeros, which a mask must hide.

        Raises:
            KeyError: a row the teacher never read.
        """
        if len(row_ids) == 1:
            return self.logits[self._position[row_ids[0]]]
        key = tuple(row_ids)
        if key not in self._means:
            if not key:
                mean = np.zeros(self.logits.shape[1:], dtype=self.logits.dtype)
            else:
                logits = torch.from_numpy(self.logits[[self._position[i] for i in key]])
                mean = (torch.logsumexp(logits.log_softmax(-1), dim=0) - np.log(len(key))).numpy()
            self._means[key] = mean
        return self._means[key]


def store_soft_labels(
    cache: Path,
    recipe: Mapping[str, Any],
    teacher: FrozenTeacher,
    task: TextClassification,
    rows: Dataset,
    token_ids: Sequence[list[int]],
    pad_id: int,
) -> SoftLabels:
    """The store for this recipe, computed unless an earlier run or another job has it.

    Args:
        recipe: everything that shapes the logits.
        rows: texts the teacher reads, each once.
        token_ids: the same texts in the teacher's pieces.
    """

    def build(folder: Path) -> None:
        logits = logits_of(teacher.model, task, token_ids, pad_id, "Soft labels")
        np.save(folder / "logits.npy", logits.numpy())
        (folder / "ids.json").write_text(json.dumps(rows["id"][:]))

    return SoftLabels(cached(cache, "soft_labels", recipe, build), recipe)
