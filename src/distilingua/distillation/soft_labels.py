"""The teacher's logits, computed once and found again by row id."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from numpy.lib.format import open_memmap
from torch import Tensor
from transformers import PreTrainedModel

from distilingua.artifacts import cached
from distilingua.console import console
from distilingua.errors import UserError
from distilingua.models.inference import logit_batches
from distilingua.tasks.text_classification import TextClassification

SAVE_EVERY = 20  # batches between two points where an interrupted store can go on


class SoftLabels:
    """Logits of a teacher, without temperature, memory-mapped.

    Args:
        folder: as `store_soft_labels` wrote it.
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
        top = folder / "classes.npy"
        self.classes = np.load(top, mmap_mode="r") if top.exists() else None
        self.rest = np.load(folder / "rest.npy", mmap_mode="r") if top.exists() else None
        self.n_classes = recipe.get("classes") or self.logits.shape[-1]
        ids = json.loads((folder / "ids.json").read_text("utf-8"))
        self._position = {row_id: i for i, row_id in enumerate(ids)}
        self._means: dict[tuple[str, ...], np.ndarray] = {}

    def row(self, row_id: str) -> np.ndarray:
        """Logits of one row, (classes,), float32; what a top-k store left out shares its remaining mass evenly.

        Raises:
            KeyError: a row the teacher never read.
        """
        at = self._position[row_id]
        if self.classes is None or self.rest is None:
            return self.logits[at].astype(np.float32)
        return dense(self.logits[at], self.classes[at], self.rest[at], self.n_classes)

    def __call__(self, row_ids: Sequence[str]) -> np.ndarray:
        """Logits, (classes,), for a text of which the teacher read these rows.

        Several rows are averaged as probabilities and given back as their logarithms, which are logits again. No row
        at all gives zeros, which a mask must hide.
        """
        if len(row_ids) == 1:
            return self.row(row_ids[0])
        key = tuple(row_ids)
        if key not in self._means:
            self._means[key] = (
                mean_logits([self.row(i) for i in key]) if key else np.zeros(self.n_classes, dtype=np.float32)
            )
        return self._means[key]


class Panel:
    """Several teachers answer as one: the weighted mean of the probabilities of those that have an answer.

    Args:
        stores: of each teacher.
        weights: of each teacher, above 0.
    """

    def __init__(self, stores: Sequence[SoftLabels], weights: Sequence[float]) -> None:
        self.stores, self.weights = stores, weights

    def __call__(self, row_ids: Sequence[str]) -> np.ndarray:
        """Logits, (classes,); `row_ids` has one id for each teacher, "" where it has no answer, or none at all."""
        answers = [(store.row(i), w) for store, i, w in zip(self.stores, row_ids, self.weights, strict=False) if i]
        if not answers:
            return np.zeros(self.stores[0].n_classes, dtype=np.float32)
        return mean_logits([logits for logits, _ in answers], [weight for _, weight in answers])


def mean_logits(logits: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Logarithm of the weighted mean of the probabilities; (classes,) from several (classes,)."""
    shares = torch.tensor(weights or [1.0] * len(logits))
    stacked = torch.from_numpy(np.stack(logits)).log_softmax(-1)
    return torch.logsumexp(stacked + (shares / shares.sum()).log()[:, None], dim=0).numpy()


def dense(logits: np.ndarray, classes: np.ndarray, rest: np.ndarray, n_classes: int) -> np.ndarray:
    """All logits, (classes,), from the k largest log-probabilities and the logarithm of the remaining mass."""
    others = max(n_classes - len(classes), 1)
    full = np.full(n_classes, np.float32(rest) - np.log(others), dtype=np.float32)
    full[classes] = logits
    return full


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest log-probabilities, their classes, and the logarithm of what is left; from (rows, classes)."""
    values, classes = logits.log_softmax(-1).topk(k, dim=-1)
    rest = (1 - values.exp().sum(-1)).clamp_min(1e-12).log()
    return values, classes, rest


class HasModel(Protocol):
    @property
    def model(self) -> PreTrainedModel: ...


def store_soft_labels(
    cache: Path,
    recipe: Mapping[str, Any],
    teacher: HasModel,
    task: TextClassification,
    rows: Dataset,
    token_ids: Sequence[list[int]],
    pad_id: int,
    dtype: str = "float32",
    keep: int | None = None,
) -> SoftLabels:
    """The store for this recipe, computed unless an earlier run or another job has it.

    Says how large it will be, and goes on where an interrupted computation stopped.

    Args:
        recipe: everything that shapes the logits.
        teacher: whose `model` is asked for only when there is something to compute.
        rows: texts the teacher reads, each once.
        token_ids: the same texts in the teacher's pieces.
        dtype: float32 or float16, on disk.
        keep: classes to keep per row, the likeliest, with the mass of the others; None for all.

    Raises:
        UserError: the disk has no room for it.
    """
    n_classes = len(task.labels)
    k = min(keep, n_classes) if keep is not None else None
    recipe = {**recipe, "dtype": dtype, "top_k": k, "classes": n_classes}
    shapes: dict[str, tuple[tuple[int, ...], str]] = {"logits": ((len(rows), k or n_classes), dtype)}
    if k is not None:
        shapes |= {"classes": ((len(rows), k), "int32"), "rest": ((len(rows),), dtype)}

    def build(folder: Path) -> None:
        size = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
        console.print(f"Soft labels: {len(rows)} texts × {k or n_classes} classes, {size / 1e6:.1f} MB")
        if size > shutil.disk_usage(folder).free:
            raise UserError(
                f"teacher.store: the soft labels need {size / 1e9:.1f} GB and {cache} has "
                f"{shutil.disk_usage(folder).free / 1e9:.1f} GB left. Set teacher.store_top_k=32 or "
                f"teacher.store_dtype=float16, name another paths.cache, or set teacher.store=false."
            )
        progress = folder / "progress.json"
        done, lost = json.loads(progress.read_text()) if progress.exists() else (0, 0.0)
        arrays = {
            name: open_memmap(folder / f"{name}.npy", "r+" if done else "w+", dtype=kind, shape=shape)
            for name, (shape, kind) in shapes.items()
        }
        batches = logit_batches(teacher.model, task, token_ids, pad_id, "Soft labels", start=done)
        for n, (at, logits) in enumerate(batches, 1):
            if k is None:
                arrays["logits"][at] = logits.numpy()
            else:
                values, classes, rest = (part.numpy() for part in top_k(logits, k))
                arrays["logits"][at], arrays["classes"][at], arrays["rest"][at] = values, classes, rest
                rebuilt = [dense(*row, n_classes) for row in zip(values, classes, rest, strict=True)]
                kept = torch.from_numpy(np.stack(rebuilt))
                lost += float((logits.softmax(-1) * (logits.log_softmax(-1) - kept)).sum())
            done += len(at)
            if n % SAVE_EVERY == 0:
                for array in arrays.values():
                    array.flush()
                progress.write_text(json.dumps([done, lost]))
        if k is not None:
            console.print(f"The {k} likeliest of {n_classes} classes: KL from all of them {lost / len(rows):.5f} nats")
        (folder / "ids.json").write_text(json.dumps(rows["id"][:]))
        progress.unlink(missing_ok=True)

    return SoftLabels(cached(cache, "soft_labels", recipe, build, resumable=True), recipe)
