"""The teacher's logits and sentence vectors, computed once and found again by the number of a text."""

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
from distilingua.columns import Encoded, Ragged
from distilingua.console import console
from distilingua.data.datamodule import Batch
from distilingua.errors import NumberError, UserError, full_disk
from distilingua.tasks.task import Task

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
        self.width: int = json.loads((folder / "index.json").read_text("utf-8"))["width"]
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __call__(self, places: np.ndarray | int) -> np.ndarray:
        """Logits of texts, one after the other, (positions, classes), float32; NaN where the teacher did not see the
        position. What a top-k store left out shares its remaining mass evenly.

        Args:
            places: of the texts in the store, which are in the order of the rows that it was made of.
        """
        own = np.atleast_1d(places)
        at = Ragged(self.logits, self.offsets).places(own)
        if self.classes is None or self.rest is None:
            return self.logits[at].astype(np.float32)
        return dense(self.logits[at], self.classes[at], self.rest[at], self.width)

    def vector(self, places: np.ndarray) -> np.ndarray:
        """Sentence vectors of texts, (texts, width), float32, in a store that holds them."""
        assert self.vectors is not None
        return self.vectors[places].astype(np.float32)


class StoredSoftLabels:
    """Answers of one teacher or several: the weighted mean of the probabilities of all texts read for a row.

    Args:
        stores: of each teacher.
        weights: of each teacher, above 0.
        task: carries the answer to an aligned text over to the row.
        table: rows of the corpus by number, among them the texts that were read, see `Task.project`.
        places: of each teacher, number of a row of the corpus -> its place in the store.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        weights: Sequence[float],
        task: Task,
        table: Dataset,
        places: Sequence[np.ndarray],
    ) -> None:
        self.stores, self.weights, self.task, self.table, self.places = stores, weights, task, table, places

    @property
    def vector_width(self) -> int | None:
        vectors = self.stores[0].vectors
        return vectors.shape[1] if vectors is not None else None

    def vectors(self, batch: Batch) -> np.ndarray:
        """See `SoftLabels`; the mean over the texts that were read for a row."""
        texts = batch.teacher_texts
        each = self.stores[0].vector(self.places[0][texts.values])
        row = np.repeat(np.arange(len(texts)), texts.lengths)
        found = np.zeros((len(texts), each.shape[1]), np.float32)
        np.add.at(found, row, each)
        return found / np.maximum(texts.lengths, 1)[:, None].astype(np.float32)

    def logits(self, batch: Batch) -> np.ndarray:
        """See `SoftLabels`. Where a row is given the answer to one text as it stands, which is most often so, all rows
        are gathered at once; a mean comes back as logarithms, which are logits again."""
        counts = self.task.positions(batch.encoded).copy()
        simple = self._as_they_stand(batch, counts)
        others = {n: self._of_row(batch, n) for n in np.flatnonzero(batch.has_teacher & ~simple).tolist()}
        for n, answer in others.items():
            counts[n] = len(answer)  # in the teacher's own positions, where there is an alignment
        found = np.full((int(counts.sum()), self.stores[0].width), np.nan, np.float32)
        rows = Ragged.by_lengths(found, counts)
        places = self.places[0][batch.first_text[simple]]
        found[rows.places(np.flatnonzero(simple))] = self.stores[0](places)
        for n, answer in others.items():
            rows[n][:] = answer
        return found

    def _as_they_stand(self, batch: Batch, counts: np.ndarray) -> np.ndarray:
        """Which rows are given one teacher's answer to one text without a change, (rows,) bool."""
        one = (batch.teacher_texts.lengths == 1) & (len(self.stores) == 1)
        first = np.where(one, batch.first_text, 0)
        place, offsets = np.where(one, self.places[0][first], 0), self.stores[0].offsets
        fits = offsets[place + 1] - offsets[place] == counts
        unchanged = type(self.task).project is Task.project
        return one & fits & (unchanged | (first == batch.numbers))

    def _of_row(self, batch: Batch, n: int) -> np.ndarray:
        """Logits, (positions, classes): of the texts a single teacher read for a row, or one text for each of several
        teachers, -1 where one has no answer."""
        row = batch.row(n)
        single = len(self.stores) == 1
        members = [(0 if single else k, text) for k, text in enumerate(batch.teacher_texts[n].tolist()) if text >= 0]
        answers = []
        for k, text in members:
            cells = self.stores[k](self.places[k][text])
            same = text == batch.numbers[n] and len(cells) == self.task.positions(batch.encoded[n : n + 1])[0]
            answers.append(cells if same else self.task.project(cells, self.table[text], row))
        if len(answers) == 1:
            return answers[0]
        return mean_logits(answers, [self.weights[k] for k, _ in members], self.task.distributed)


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
        self, encoded: Encoded, title: str, start: int = 0, pooling: str | None = None
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor | None]]: ...


def store_soft_labels(
    cache: Path,
    recipe: Mapping[str, Any],
    teacher: GivesCells,
    task: Task,
    encoded: Encoded,
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
        encoded: texts as the teacher reads them, each once.
        dtype: float32 or float16, on disk.
        keep: classes to keep per position, the likeliest, with the mass of the others; None for all.
        pooling: how a sentence's vector is made, to keep it too, in float16; None for no vectors.

    Raises:
        UserError: the disk has no room for it.
    """
    recipe = {**recipe, "dtype": dtype, "top_k": keep, "vectors": pooling}

    def build(folder: Path, part: slice) -> None:
        own = np.arange(len(encoded))[part]
        with _numbered(own):
            ask(folder, encoded[own])

    def ask(folder: Path, encoded: Encoded) -> None:
        texts_at = Ragged.by_lengths(np.empty(0), task.positions(encoded))
        total, progress = int(texts_at.offsets[-1]), folder / "progress.json"
        done, lost = _progress(progress)
        arrays: dict[str, np.ndarray] = {}
        for n, (texts, cells, vectors) in enumerate(teacher.cells(encoded, "Soft labels", done, pooling), 1):
            width = cells.shape[1]
            k = min(keep, width) if keep is not None else None
            if not arrays:  # the first batch tells how many classes there are
                beside = (len(encoded), vectors.shape[1]) if vectors is not None else None
                shapes = _shapes(total, width, k, dtype, beside)
                arrays = _opened(folder, shapes) if done else _made(folder, shapes)
            if vectors is not None:
                arrays["vectors"][texts] = vectors.numpy()
            # texts are asked in the order of their length, and stand in the store in the order of the rows
            lost += _put(arrays, texts_at.places(texts), cells, k)
            done += len(texts)
            last = done == len(encoded)
            if last:  # before the last note of progress: with it, a store is whole but for its name
                _write_index(folder, texts_at, width)
                if k is not None:
                    console.print(f"The {k} likeliest of {width} classes: KL from all of them {lost / total:.5f} nats")
            if last or n % SAVE_EVERY == 0:
                _flush(arrays)
                with whole_file(progress) as file:
                    file.write_text(json.dumps([done, lost]))
        progress.unlink(missing_ok=True)

    def join(folder: Path, parts: Sequence[Path]) -> None:
        texts_at, stores = (
            Ragged.by_lengths(np.empty(0), task.positions(encoded)),
            [Store(one, recipe) for one in parts],
        )
        one = stores[0]
        k, vectors = one.logits.shape[1] if one.classes is not None else None, one.vectors
        beside = (len(encoded), vectors.shape[1]) if vectors is not None else None
        arrays = _made(folder, _shapes(int(texts_at.offsets[-1]), one.width, k, dtype, beside))
        for n, store in enumerate(stores):
            own = np.arange(n, len(encoded), len(stores))
            at = texts_at.places(own)
            for name, array in arrays.items():
                array[own if name == "vectors" else at] = getattr(store, name)
        _flush(arrays)
        _write_index(folder, texts_at, one.width)

    return Store(cached_by_all(cache, "soft_labels", recipe, build, join, resumable=True), recipe)


def _put(arrays: Mapping[str, np.ndarray], at: np.ndarray, cells: Tensor, k: int | None) -> float:
    """Writes answers to positions, of which k classes or all are kept; how much is lost by that, in nats."""
    if k is None:
        arrays["logits"][at] = cells.numpy()
        return 0.0
    values, classes, rest = (part.numpy() for part in top_k(cells, k))
    arrays["logits"][at], arrays["classes"][at], arrays["rest"][at] = values, classes, rest
    kept = torch.from_numpy(dense(values, classes, rest, cells.shape[1]))
    return float((cells.softmax(-1) * (cells.log_softmax(-1) - kept)).nansum())


def _flush(arrays: Mapping[str, np.ndarray]) -> None:
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]  # a memory map


@contextmanager
def _numbered(own: np.ndarray) -> Iterator[None]:
    """Numbers rows of a share as all rows are numbered."""
    try:
        yield
    except NumberError as error:
        error.rows = own[error.rows].tolist()
        raise


def _write_index(folder: Path, texts_at: Ragged, width: int) -> None:
    np.save(folder / "offsets.npy", texts_at.offsets)
    with whole_file(folder / "index.json") as file:
        file.write_text(json.dumps({"texts": len(texts_at), "width": width}), "utf-8")


Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""File of a store -> shape and type of its array."""


def _shapes(total: int, width: int, k: int | None, dtype: str, beside: tuple[int, int] | None) -> Shapes:
    """For so many positions, and for sentence vectors of this shape beside them; says how large they are."""
    shapes: dict[str, tuple[tuple[int, ...], str]] = {"logits": ((total, k or width), dtype)}
    if k is not None:
        shapes |= {"classes": ((total, k), "int32"), "rest": ((total,), dtype)}
    if beside is not None:
        shapes["vectors"] = (beside, "float16")
    vectors = f" and vectors of {beside[1]}" if beside else ""
    size = _bytes(shapes) / 1e6
    console.print(f"Soft labels: {total} positions × {k or width} classes{vectors}, {size:.1f} MB")
    return shapes


def _bytes(shapes: Shapes) -> int:
    return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())


def _opened(folder: Path, shapes: Shapes) -> dict[str, np.ndarray]:
    """The memory-mapped files that an interrupted computation has left.

    Raises:
        UserError: one is gone, or is not of its shape.
    """
    files = {name: folder / f"{name}.npy" for name in shapes}
    try:
        found = [open_memmap(file, "r").shape for file in files.values()]  # "r+" would lengthen one that is cut
        if found != [shape for shape, _ in shapes.values()]:
            raise ValueError(found)
        return {name: open_memmap(file, "r+") for name, file in files.items()}
    except (OSError, ValueError):
        raise UserError(
            f"{folder} holds soft labels that were interrupted, and their files are damaged. Delete it, and they are "
            f"computed anew: rm -r {shlex.quote(str(folder))}"
        ) from None


def _made(folder: Path, shapes: Shapes) -> dict[str, np.ndarray]:
    """New memory-mapped files.

    Raises:
        UserError: the disk has no room for them.
    """
    files = {name: folder / f"{name}.npy" for name in shapes}
    size, free, error = _bytes(shapes), shutil.disk_usage(folder).free, None
    try:
        if free >= size:
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
