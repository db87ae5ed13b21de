"""The teacher's logits and sentence vectors, computed once and found again by row id."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from numpy.lib.format import open_memmap
from rich.filesize import decimal
from torch import Tensor

from distilingua.artifacts import cached_by_all, whole_file
from distilingua.console import console
from distilingua.errors import NumberError, UserError, full_disk
from distilingua.tasks.task import Encoded, Example, Task

SAVE_EVERY = 20  # batches between two points where an interrupted store can go on


class Store:
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
        beside = folder / "vectors.npy"
        self.vectors = np.load(beside, mmap_mode="r") if beside.exists() else None
        index = json.loads((folder / "index.json").read_text("utf-8"))
        self.width: int = index["width"]
        starts = np.cumsum([0, *index["counts"]])
        self._span = {row_id: (starts[i], starts[i + 1]) for i, row_id in enumerate(index["ids"])}
        self._number = {row_id: i for i, row_id in enumerate(index["ids"])}

    def __call__(self, row_id: str) -> np.ndarray:
        """Logits of one text, (positions, classes), float32; NaN where the teacher did not see the position.

        What a top-k store left out shares its remaining mass evenly.

        Raises:
            KeyError: a text the teacher never read.
        """
        start, end = self._span[row_id]
        if self.classes is None or self.rest is None:
            return self.logits[start:end].astype(np.float32)
        return dense(self.logits[start:end], self.classes[start:end], self.rest[start:end], self.width)

    def vector(self, row_id: str) -> np.ndarray:
        """The sentence vector of one text, (width,), float32, in a store that holds them."""
        assert self.vectors is not None
        return self.vectors[self._number[row_id]].astype(np.float32)


class StoredSoftLabels:
    """Answers of one teacher or several: the weighted mean of the probabilities of all texts read for a row.

    Args:
        stores: of each teacher.
        weights: of each teacher, above 0.
        task: carries the answer to an aligned text over to the row.
        texts: row id -> the text that was read, see `Task.project`.
    """

    def __init__(
        self, stores: Sequence[Store], weights: Sequence[float], task: Task, texts: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.stores, self.weights, self.task, self.texts = stores, weights, task, texts

    @property
    def width(self) -> int:
        return self.stores[0].width

    @property
    def vector_width(self) -> int | None:
        vectors = self.stores[0].vectors
        return vectors.shape[1] if vectors is not None else None

    def vector(self, row: Example) -> np.ndarray:
        """The teacher's sentence vector, (width,), for a row with `teacher_rows`; the mean over the texts it read."""
        return np.mean([self.stores[0].vector(read) for read in row["teacher_rows"]], axis=0)

    def __call__(self, row: Example) -> np.ndarray:
        """Logits, (positions, classes), for a row with `teacher_rows`: the texts a single teacher read for it, or one
        text for each of several teachers, "" where one has no answer. A mean comes back as logarithms, which are logits
        again."""
        ids = row["teacher_rows"]
        alone = len(self.stores) == 1
        members = [(0 if alone else n, i) for n, i in enumerate(ids) if i]
        answers = [self._answer(n, i, row) for n, i in members]
        if len(answers) == 1:
            return answers[0]
        return mean_logits(answers, [self.weights[n] for n, _ in members], self.task.distributed)

    def _answer(self, teacher: int, read: str, row: Example) -> np.ndarray:
        cells = self.stores[teacher](read)
        same = read == row["id"] and len(cells) == self.task.positions(dict(row))
        return cells if same else self.task.project(cells, self.texts[read], row)


def mean_logits(logits: Sequence[np.ndarray], weights: Sequence[float], axis: int | None = -1) -> np.ndarray:
    """Logits of the weighted mean of the probabilities; (positions, classes) from several of them.

    Args:
        logits: (positions, classes) each.
        weights: of each, above 0.
        axis: over which probabilities sum to 1, and what comes back are logarithms of their mean; None where every
            class is yes or no by itself, and what comes back are logits of that, above 0 for yes.
    """
    stacked, shares = torch.from_numpy(np.stack(logits)), torch.tensor(weights)
    logs = (shares / shares.sum()).log()[:, None, None]
    if axis is not None:
        each = stacked.log_softmax(axis if axis < 0 else axis + 1)  # of the stack
        return torch.logsumexp(each + logs, dim=0).numpy()
    yes, no = (torch.logsumexp(F.logsigmoid(sign * stacked) + logs, dim=0) for sign in (1, -1))
    return (yes - no).numpy()


def dense(logits: np.ndarray, classes: np.ndarray, rest: np.ndarray, width: int) -> np.ndarray:
    """All logits, (positions, width), from the k largest log-probabilities, (positions, k) like their classes, and the
    logarithm of the remaining mass, (positions,)."""
    others = max(width - classes.shape[1], 1)
    full = np.repeat(rest.astype(np.float32)[:, None] - np.float32(np.log(others)), width, axis=1)
    np.put_along_axis(full, classes.astype(np.int64), logits.astype(np.float32), axis=1)
    return full


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest log-probabilities, their classes, and the logarithm of what is left; from (rows, classes)."""
    values, classes = logits.log_softmax(-1).topk(k, dim=-1)
    rest = (1 - values.exp().sum(-1)).clamp_min(1e-12).log()
    return values, classes, rest


class GivesCells(Protocol):
    """A predictor, as far as a store needs it."""

    def cells(
        self, encoded: Sequence[Encoded], title: str, start: int = 0, pooling: str | None = None
    ) -> Iterator[tuple[list[int], Tensor, Tensor | None]]: ...


def store_soft_labels(
    cache: Path,
    recipe: Mapping[str, Any],
    teacher: GivesCells,
    task: Task,
    rows: Dataset,
    encoded: Sequence[Encoded],
    dtype: str = "float32",
    keep: int | None = None,
    pooling: str | None = None,
) -> Store:
    """The store for this recipe, computed unless an earlier run or another job has it.

    Says how large it will be, and goes on where an interrupted computation stopped. Of processes that were started
    together, each asks for its share.

    Args:
        recipe: everything that shapes the logits.
        teacher: asked only when there is something to compute.
        rows: texts the teacher reads, each once.
        encoded: the same texts as the teacher reads them.
        dtype: float32 or float16, on disk.
        keep: classes to keep per position, the likeliest, with the mass of the others; None for all.
        pooling: how a sentence's vector is made, to keep it too, in float16; None for no vectors.

    Raises:
        UserError: the disk has no room for it.
    """
    recipe = {**recipe, "dtype": dtype, "top_k": keep, "vectors": pooling}

    def build(folder: Path, part: slice) -> None:
        own = range(len(encoded))[part]
        with _numbered(own):
            ask(folder, [encoded[n] for n in own], rows["id"][part])

    def ask(folder: Path, encoded: Sequence[Encoded], ids: Sequence[str]) -> None:
        counts = [task.positions(row) for row in encoded]
        starts, total = np.cumsum([0, *counts]), sum(counts)
        progress = folder / "progress.json"
        done, lost = _progress(progress)
        arrays: dict[str, np.ndarray] = {}
        for n, (texts, cells, vectors) in enumerate(teacher.cells(encoded, "Soft labels", done, pooling), 1):
            width = cells.shape[1]
            k = min(keep, width) if keep is not None else None
            if not arrays:  # the first batch tells how many classes there are
                beside = (len(encoded), vectors.shape[1]) if vectors is not None else None
                arrays = _arrays(folder, total, width, k, dtype, beside, new=not done)
            if vectors is not None:
                arrays["vectors"][texts] = vectors.numpy()
            # texts are asked in the order of their length, and stand in the store in the order of the rows
            at = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in texts])
            if k is None:
                arrays["logits"][at] = cells.numpy()
            else:
                values, classes, rest = (part.numpy() for part in top_k(cells, k))
                arrays["logits"][at], arrays["classes"][at], arrays["rest"][at] = values, classes, rest
                kept = torch.from_numpy(dense(values, classes, rest, width))
                lost += float((cells.softmax(-1) * (cells.log_softmax(-1) - kept)).nansum())
            done += len(texts)
            last = done == len(encoded)
            if last:  # before the last note of progress: with it, a store is whole but for its name
                _note_index(folder, ids, counts, width)
                if k is not None:
                    console.print(f"The {k} likeliest of {width} classes: KL from all of them {lost / total:.5f} nats")
            if last or n % SAVE_EVERY == 0:
                for array in arrays.values():
                    array.flush()  # type: ignore[attr-defined]  # a memory map
                with whole_file(progress) as file:
                    file.write_text(json.dumps([done, lost]))
        progress.unlink(missing_ok=True)

    def join(folder: Path, parts: Sequence[Path]) -> None:
        counts, stores = [task.positions(row) for row in encoded], [Store(part, recipe) for part in parts]
        starts, one = np.cumsum([0, *counts]), stores[0]
        k, vectors = one.logits.shape[1] if one.classes is not None else None, one.vectors
        beside = (len(encoded), vectors.shape[1]) if vectors is not None else None
        arrays = _arrays(folder, sum(counts), one.width, k, dtype, beside, new=True)
        for n, store in enumerate(stores):
            own = range(len(encoded))[n :: len(stores)]
            at = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in own]) if own else np.array([], dtype=int)
            for name, array in arrays.items():
                array[list(own) if name == "vectors" else at] = getattr(store, name)
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]  # a memory map
        _note_index(folder, rows["id"][:], counts, one.width)

    return Store(cached_by_all(cache, "soft_labels", recipe, build, join, resumable=True), recipe)


@contextmanager
def _numbered(own: Sequence[int]) -> Iterator[None]:
    """Numbers rows of a share as all rows are numbered."""
    try:
        yield
    except NumberError as error:
        error.rows = [own[n] for n in error.rows]
        raise


def _note_index(folder: Path, ids: Sequence[str], counts: Sequence[int], width: int) -> None:
    with whole_file(folder / "index.json") as file:
        file.write_text(json.dumps({"ids": list(ids), "counts": list(counts), "width": width}), "utf-8")


def _arrays(
    folder: Path, total: int, width: int, k: int | None, dtype: str, beside: tuple[int, int] | None, new: bool
) -> dict[str, np.ndarray]:
    """Memory-mapped files for so many positions, and for sentence vectors of this shape beside them, if there is room
    for them."""
    shapes: dict[str, tuple[tuple[int, ...], str]] = {"logits": ((total, k or width), dtype)}
    if k is not None:
        shapes |= {"classes": ((total, k), "int32"), "rest": ((total,), dtype)}
    if beside is not None:
        shapes["vectors"] = (beside, "float16")
    size = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    vectors = f" and vectors of {beside[1]}" if beside else ""
    console.print(f"Soft labels: {total} positions × {k or width} classes{vectors}, {size / 1e6:.1f} MB")
    files = {name: folder / f"{name}.npy" for name in shapes}
    if not new:
        try:
            found = [open_memmap(file, "r").shape for file in files.values()]  # "r+" would lengthen one that is cut
            if found != [shape for shape, _ in shapes.values()]:
                raise ValueError(found)
            return {name: open_memmap(file, "r+") for name, file in files.items()}
        except (OSError, ValueError):
            raise UserError(
                f"{folder} holds soft labels that were interrupted, and their files are damaged. Delete it, and they "
                f"are computed anew: rm -r {shlex.quote(str(folder))}"
            ) from None
    free = shutil.disk_usage(folder).free
    error = None
    if free >= size:
        try:
            return {name: _allocated(file, *shapes[name]) for name, file in files.items()}
        except OSError as raised:
            error = full_disk(raised)
            if error is None:
                raise
            for file in files.values():
                file.unlink(missing_ok=True)
    raise UserError(
        f"teacher.store: the soft labels need {decimal(size)} and {folder.parents[1]} has {decimal(free)} left"
        f"{f' ({error.strerror})' if error else ''}. Set teacher.store_top_k=32 or teacher.store_dtype=float16, name "
        f"another paths.cache, or set teacher.store=false."
    )


def _allocated(file: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """A memory-mapped file that has its place on the disk: a sparse one would be told by SIGBUS that there is none."""
    array = open_memmap(file, "w+", dtype=kind, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as content:
            os.posix_fallocate(content.fileno(), 0, file.stat().st_size)
    return array


def _progress(file: Path) -> tuple[int, float]:
    """How many texts an interrupted computation has stored, and what its top-k has lost; none by a damaged note."""
    try:
        done, lost = json.loads(file.read_text("utf-8"))
        return int(done), float(lost)
    except (FileNotFoundError, ValueError, TypeError):
        return 0, 0.0
