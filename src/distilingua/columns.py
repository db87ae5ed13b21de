"""Rows as columns: tables on disk that are read by column, and columns of lists as flat arrays with offsets.

A table is a `datasets.Dataset`: Arrow files, memory-mapped, and a list of the row numbers that belong to it. Nothing
here makes a Python object per row, unless a function of the caller's asks for one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from datasets.table import ConcatenationTable, InMemoryTable

BLOCK = 20_000
"""Rows that are in memory at a time where a table is gone through."""


# --- tables -----------------------------------------------------------------------------------------------------------


def on_disk(blocks: Iterable[pa.Table], schema: pa.Schema, file: Path | None = None) -> Dataset:
    """Writes blocks of rows to an Arrow file and maps it into memory.

    Args:
        schema: of every block.
        file: to keep; None for one in the folder for temporary files, which goes away with the table.
    """
    place = file
    if place is None:
        handle, name = tempfile.mkstemp(suffix=".arrow", prefix="distilingua-")
        os.close(handle)
        place = Path(name)
    try:
        with pa.OSFile(str(place), "wb") as out, pa.ipc.new_stream(out, schema) as writer:
            for block in blocks:
                writer.write_table(block, max_chunksize=BLOCK)
        return Dataset.from_file(str(place))
    finally:
        if file is None:
            with suppress(OSError):  # where an open file cannot lose its name, the system clears its folder
                place.unlink()


def numbers_of(rows: Dataset) -> np.ndarray:
    """Which rows of the table underneath these are, (rows,) int64."""
    chosen = rows._indices
    return np.arange(len(rows)) if chosen is None else chosen.column(0).to_numpy().astype(np.int64)


def select(rows: Dataset, numbers: np.ndarray | Sequence[int]) -> Dataset:
    """These of the rows, in this order; nothing but their numbers is copied."""
    chosen = numbers_of(rows)[np.asarray(numbers, dtype=np.int64)]
    indices = InMemoryTable(pa.table({"indices": pa.array(chosen, pa.uint64())}))
    return Dataset(rows.data, rows.info.copy(), indices_table=indices, fingerprint=generate_random_fingerprint())


def where(rows: Dataset, mask: np.ndarray) -> Dataset:
    """The rows for which `mask`, (rows,) bool, is true."""
    return rows if mask.all() else select(rows, np.flatnonzero(mask))


def column(rows: Dataset, name: str) -> pa.ChunkedArray:
    """A column of the rows, in memory."""
    found = rows.data.column(name)
    return found if rows._indices is None else _taken(found, numbers_of(rows))


def texts_of(rows: Dataset, name: str) -> list[str]:
    """A column of text as Python has it; for columns that are short, or wanted whole."""
    return column(rows, name).to_pylist()


def blocks(rows: Dataset, columns: Sequence[str], size: int = BLOCK) -> Iterator[pa.Table]:
    """Some columns of all rows, so many rows at a time."""
    table = rows.data.table.select(list(columns))
    chosen = None if rows._indices is None else numbers_of(rows)
    for start in range(0, len(rows), size):
        if chosen is None:
            yield table.slice(start, size)
        else:
            yield _taken(table, chosen[start : start + size])


def _taken(cells: Any, numbers: np.ndarray) -> Any:
    """Rows of a table or column. Only the stretch they lie in is looked at: Arrow goes through the chunks of all."""
    first, end = (int(numbers.min()), int(numbers.max()) + 1) if len(numbers) else (0, 0)
    near = cells.slice(first, end - first)
    whole = len(numbers) == end - first and np.array_equal(numbers, np.arange(first, end))
    return near if whole else near.take(pa.array(numbers - first))


def with_columns(rows: Dataset, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> Dataset:
    """The rows with these columns beside their own, or in place of those of the same name.

    The others stay where they are on disk.
    """
    table, chosen = rows.data, None
    if rows._indices is not None:
        chosen = np.full(len(table), -1)
        chosen[numbers_of(rows)] = np.arange(len(rows))
        if len(np.unique(numbers_of(rows))) < len(rows):  # rows that stand twice have two values
            table, chosen = on_disk(blocks(rows, rows.column_names), table.schema).data, None
    own = {}
    for name, values in columns.items():
        flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        own[name] = flat if chosen is None else flat.take(pa.array(chosen, mask=chosen < 0))
    parts = [table.select([name for name in table.column_names if name not in own]), InMemoryTable(pa.table(own))]
    order = [*table.column_names, *(name for name in own if name not in table.column_names)]
    beside = ConcatenationTable.from_tables(parts, axis=1).select(order)
    return Dataset(
        beside.replace_schema_metadata(None),  # or features of before would be taken from it
        indices_table=None if chosen is None else rows._indices,
        fingerprint=generate_random_fingerprint(),
    )


def joined(parts: Sequence[Dataset]) -> Dataset:
    """Rows of tables one after the other, in the columns of the first; only what is in memory anyway is copied."""
    names = parts[0].column_names
    schema = pa.schema([(name, parts[0].data.schema.field(name).type) for name in names])
    return on_disk((block.cast(schema) for part in parts for block in blocks(part, names)), schema)


def strings(values: Iterable[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def values_of(cells: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The cells as Python has them; dates and times beyond its calendar as the numbers that stand in the file."""
    try:
        return cells.to_pylist()
    except (ValueError, OverflowError):
        return cells.cast(_timeless(cells.type)).to_pylist()


def _timeless(kind: pa.DataType) -> pa.DataType:
    """The type with integers for dates and times, in lists and structs too."""
    if pa.types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_timeless(field.type)) for field in kind])
    return pa.list_(_timeless(kind.value_type)) if pa.types.is_list(kind) else kind


# --- columns of text --------------------------------------------------------------------------------------------------


def codes(values: pa.ChunkedArray) -> tuple[np.ndarray, list[Any]]:
    """A number for every cell, (rows,) int64, and the different values by number, in order of first occurrence."""
    found = pc.dictionary_encode(values, null_encoding="encode")
    if not found.num_chunks:
        return np.empty(0, np.int64), []
    numbers = np.concatenate([chunk.indices.to_numpy() for chunk in found.chunks])
    return numbers.astype(np.int64), values_of(found.chunk(0).dictionary)


def codes_of(rows: Dataset, name: str) -> tuple[np.ndarray, list[Any]]:
    """See `codes`, of a column."""
    return codes(column(rows, name))


def by_value(values: pa.ChunkedArray, function: Callable[[Any], str]) -> pa.ChunkedArray:
    """A function's answer to every cell; it is asked once for each different value."""
    numbers, different = codes(values)
    answers = strings(function(value) for value in different)
    return pa.chunked_array([answers.take(pa.array(numbers))], pa.string())


def is_one_of(rows: Dataset, name: str, values: Collection[str]) -> np.ndarray:
    """Which rows have one of these in a column, (rows,) bool."""
    number, names = codes_of(rows, name)
    return np.isin(number, [n for n, value in enumerate(names) if value in values])


def filled(values: pa.ChunkedArray) -> np.ndarray:
    """Which cells are not empty, (rows,) bool."""
    return np.asarray(pc.not_equal(values, "").to_numpy(zero_copy_only=False), dtype=bool)


def first_places(keys: np.ndarray) -> np.ndarray:
    """Where the first row with the key of each row is, (rows,); keys are whole numbers from 0."""
    first = np.empty(int(keys.max(initial=-1)) + 1, np.int64)
    first[keys[::-1]] = np.arange(len(keys))[::-1]  # of equal keys, the last one written stays
    found: np.ndarray = first[keys]
    return found


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """Which rows are the first with their key, (rows,) bool; keys are whole numbers from 0."""
    return first_places(keys) == np.arange(len(keys))


# --- columns of lists -------------------------------------------------------------------------------------------------


class Ragged(Sequence[np.ndarray]):
    """Lists of different lengths: all values in one line, and where each list begins.

    Args:
        values: (values, …), possibly memory-mapped.
        offsets: (lists + 1,); list n is `values[offsets[n]:offsets[n + 1]]`.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets

    @classmethod
    def of(cls, lists: Iterable[Sequence[Any] | np.ndarray], dtype: Any = np.int32) -> Ragged:
        lists = list(lists)
        if lists and isinstance(lists[0], np.ndarray):
            values = np.concatenate(lists).astype(dtype, copy=False)
        else:
            values = np.fromiter(chain.from_iterable(lists), dtype)
        return cls.by_lengths(values, [len(one) for one in lists])

    @classmethod
    def by_lengths(cls, values: np.ndarray, lengths: Sequence[int] | np.ndarray) -> Ragged:
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))

    @classmethod
    def of_column(cls, values: pa.ChunkedArray) -> Ragged:
        """An Arrow column of lists of whole numbers."""
        flat = values.combine_chunks()
        if isinstance(flat, pa.ChunkedArray):  # of no chunk at all
            return cls.of([])
        return cls.by_lengths(flat.flatten().to_numpy(), pc.list_value_length(flat).fill_null(0).to_numpy())

    def as_column(self) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.array(self.values, pa.int32()))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        """One list; or several, by a slice, by their numbers or by a mask, as `Ragged`."""
        if isinstance(index, int | np.integer):
            if index < 0:
                index += len(self)
            if not 0 <= index < len(self):
                raise IndexError(index)
            return self.values[self.offsets[index] : self.offsets[index + 1]]
        chosen = isinstance(index, slice) or (isinstance(index, np.ndarray) and index.dtype == bool)
        numbers = np.arange(len(self))[index] if chosen else np.asarray(index, dtype=np.int64)
        starts, lengths = self._stretches(numbers)
        return Ragged.by_lengths(self.values[stretches(starts, lengths)], lengths)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Where the values of these lists stand, in one line; costs by what is asked for, not by all lists."""
        return stretches(*self._stretches(numbers))

    def _stretches(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = self.offsets[numbers]
        return starts, self.offsets[numbers + 1] - starts

    @property
    def lengths(self) -> np.ndarray:
        """(lists,)"""
        return np.diff(self.offsets)

    def padded(self, value: Any) -> np.ndarray:
        """All lists under one another, the shorter ones filled up: (lists, longest)."""
        lengths = self.lengths
        full = np.full((len(self), int(lengths.max(initial=0)), *self.values.shape[1:]), value, self.values.dtype)
        full[np.arange(full.shape[1]) < lengths[:, None]] = self.values[self.offsets[0] : self.offsets[-1]]
        return full


def lists_of(rows: Dataset, name: str) -> Ragged:
    """A column of lists of whole numbers."""
    return Ragged.of_column(column(rows, name))


def stretches(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start on, so many of them, in one line."""
    before = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


Lists = TypeVar("Lists", Ragged, np.ndarray)


class Encoded(Sequence[dict[str, Any]]):
    """Rows as a model reads them, by column: lists of pieces, or a number a row.

    `encoded[3]` is one row as plain values (arrays of fractions stay arrays), for people and for what is done row by
    row; `encoded[numbers]` gathers rows by slices.

    Args:
        columns: name -> `Ragged`, or an array of one number a row.
    """

    def __init__(self, columns: Mapping[str, Ragged | np.ndarray]) -> None:
        self.columns = dict(columns)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Encoded:
        """Of rows one by one; lists become `Ragged`, what is no list a number."""
        found: dict[str, Ragged | np.ndarray] = {}
        for name, first in rows[0].items() if rows else ():
            values = [row[name] for row in rows]
            if isinstance(first, np.ndarray):
                found[name] = Ragged.of(values, first.dtype)
            else:
                found[name] = Ragged.of(values) if isinstance(first, Sequence) else np.asarray(values)
        return cls(found)

    @classmethod
    def join(cls, parts: Sequence[Encoded]) -> Encoded:
        """Parts one after the other."""
        if len(parts) == 1:
            return parts[0]
        found: dict[str, Ragged | np.ndarray] = {}
        for name, first in parts[0].columns.items():
            if isinstance(first, Ragged):
                lengths = np.concatenate([part.lists(name).lengths for part in parts])
                found[name] = Ragged.by_lengths(np.concatenate([part.lists(name).values for part in parts]), lengths)
            else:
                found[name] = np.concatenate([part.numbers(name) for part in parts])
        return cls(found)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            row = {name: values[index] for name, values in self.columns.items()}
            return {name: value if value.dtype.kind == "f" else value.tolist() for name, value in row.items()}
        return Encoded({name: values[index] for name, values in self.columns.items()})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[n] for n in range(len(self)))

    def __contains__(self, name: object) -> bool:
        """Whether there is a column of this name."""
        return name in self.columns

    def lists(self, name: str) -> Ragged:
        found = self.columns[name]
        assert isinstance(found, Ragged)
        return found

    def numbers(self, name: str) -> np.ndarray:
        found = self.columns[name]
        assert isinstance(found, np.ndarray)
        return found

    @property
    def lengths(self) -> np.ndarray:
        """By which rows of a batch are alike, (rows,): frames of sound, or pieces."""
        if not self.columns:  # of no rows
            return np.empty(0, np.int64)
        return self.numbers("frames") if "frames" in self else self.lists("input_ids").lengths

    def batches(self, size: int, start: int = 0) -> list[np.ndarray]:
        """Numbers of so many rows each, or of rows with so many windows, those of like length together; without the
        first `start` rows of this order."""
        order = np.argsort(self.lengths, kind="stable")[start:]
        windows = self.lists("lengths").lengths if "lengths" in self else np.ones(len(self), np.int64)
        full = (np.cumsum(windows[order]) - 1) // size
        return np.split(order, np.flatnonzero(np.diff(full)) + 1) if len(order) else []

    # --- on disk ------------------------------------------------------------------------------------------------------
    @staticmethod
    def write(folder: Path, parts: Iterable[Encoded]) -> None:
        """Writes parts one after the other, of which there is one at least."""
        files: dict[str, Any] = {}
        lengths: dict[str, list[np.ndarray]] = {}
        for part in parts:
            for name, values in part.columns.items():
                flat = values.values if isinstance(values, Ragged) else values
                if name not in files:
                    files[name] = (folder / f"{name}.{flat.dtype.name}").open("wb")
                flat.tofile(files[name])
                if isinstance(values, Ragged):
                    lengths.setdefault(name, []).append(values.lengths)
        for file in files.values():
            file.close()
        for name, each in lengths.items():
            np.save(folder / f"{name}.offsets.npy", Ragged.by_lengths(np.empty(0), np.concatenate(each)).offsets)

    @classmethod
    def read(cls, folder: Path) -> Encoded:
        """What `write` has written, memory-mapped."""
        found: dict[str, Ragged | np.ndarray] = {}
        for file in sorted(folder.iterdir()):
            name, _, kind = file.name.partition(".")
            if kind in ("json", "offsets.npy"):
                continue
            values = np.memmap(file, kind, "r") if file.stat().st_size else np.empty(0, kind)
            offsets = folder / f"{name}.offsets.npy"
            found[name] = Ragged(values, np.load(offsets, mmap_mode="r")) if offsets.exists() else values
        return cls(found)
