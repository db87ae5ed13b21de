"""Rows out of and into files of any length: a chunk is in memory at a time, and order is kept."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from distilingua.artifacts import whole_file
from distilingua.corpora.tables import DELIMITED, LONGEST_CELL
from distilingua.errors import UserError

CHUNK = 1024  # rows: enough for texts of like length to share a batch, little enough to forget
FROM_PIPE = 128  # rows: whoever waits at the other end sees the first answers early
LINES = ["text", "text_pair"]
TABLES = (*DELIMITED, ".jsonl", ".parquet")
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}
"""What is no UTF-8 is noticed in its row, and written back as it was."""

Cells = dict[str, Any]
Row = tuple[Cells, str | None]
"""Cells by column, and why they cannot be read, or None."""
Write = Callable[["Chunk", Mapping[str, Sequence[Any]]], None]
"""Takes a chunk and, per new column, its values."""


@dataclass
class Chunk:
    """Some rows of a source.

    Args:
        cells: by column, of every row.
        problems: why a row cannot be read; None where it can.
        table: the same rows as Arrow has them, with their types; None for other files.
    """

    cells: Sequence[Cells]
    problems: Sequence[str | None]
    table: pa.Table | None = None


@dataclass
class Source:
    """Rows to read, once.

    Args:
        chunks: gives them, and shows on a bar how far it is where that is known.
        names: of the columns; None where every row has its own, as in JSON.
        kind: suffix of the file, "" for lines of text.
        schema: of Arrow, for Parquet.
    """

    chunks: Callable[[Progress], Iterator[Chunk]]
    names: list[str] | None
    kind: str = ""
    schema: pa.Schema | None = None


def of_texts(texts: Sequence[str], pairs: bool) -> Source:
    """Texts as they were typed.

    Args:
        pairs: whether what stands behind a tab is a text of its own, `text_pair`.
    """
    return _of_lines(lambda bar: texts, pairs, CHUNK)


def of_pipe(lines: IO[str], pairs: bool) -> Source:
    """Every line is a row, an empty one too, so that answers stand line by line beside them; see `of_texts`."""
    return _of_lines(lambda bar: (line.rstrip("\r\n") for line in lines), pairs, 1 if lines.isatty() else FROM_PIPE)


def of_file(file: Path, pairs: bool) -> Source:
    """A table by its suffix: .csv, .tsv, .jsonl, .parquet; or .txt, a row a line.

    Args:
        pairs: of lines, see `of_texts`.

    Raises:
        UserError: no such file, another kind, a table without a header.
    """
    if not file.is_file():
        raise UserError(f"--from {file}: no such file.")
    kind = file.suffix.lower()
    if kind == ".parquet":
        return _of_parquet(file)
    if kind == ".jsonl":
        return Source(lambda bar: _chunks(_objects(file, bar), CHUNK), None, kind)
    if kind == ".txt":
        return _of_lines(partial(_lines, file), pairs, CHUNK)
    if kind not in DELIMITED:
        raise UserError(f"--from {file}: expected a file that ends in {', '.join((*TABLES, '.txt'))}.")
    with file.open(newline="", **ENCODING) as content:  # type: ignore[call-overload]
        header = next(_reader(content, kind), [])
    names = [name.strip().strip("\ufeff") for name in header]
    if not any(names):
        raise UserError(f"--from {file}: it has no header. Its first line names the columns, such as text.")
    if len(set(names)) < len(names):
        raise UserError(f"--from {file}: two columns have one name ({', '.join(names)}). Give each its own.")
    return Source(lambda bar: _chunks(_records(file, kind, names, bar), CHUNK), names, kind)


def _of_lines(lines: Callable[[Progress], Iterable[str]], pairs: bool, size: int) -> Source:
    def rows(bar: Progress) -> Iterator[Row]:
        for line in lines(bar):
            yield dict(zip(LINES, line.split("\t", 1) if pairs else [line], strict=False)), None

    return Source(lambda bar: _chunks(rows(bar), size), LINES[: 1 + pairs])


def _lines(file: Path, bar: Progress) -> Iterator[str]:
    with bar.open(file, "rb", description="Answering") as content:
        for line in content:
            yield line.decode(**ENCODING).rstrip("\r\n").removeprefix("\ufeff")


def _objects(file: Path, bar: Progress) -> Iterator[Row]:
    for line in filter(str.strip, _lines(file, bar)):
        try:
            cells = json.loads(line)
            yield (cells, None) if isinstance(cells, dict) else ({}, "it is no JSON object.")
        except (ValueError, RecursionError) as error:
            yield {}, f"it is no JSON ({error})."


def _records(file: Path, kind: str, names: Sequence[str], bar: Progress) -> Iterator[Row]:
    with bar.open(file, "rb", description="Answering") as content:
        reader = _reader((line.decode(**ENCODING) for line in content), kind)
        next(reader)
        for cells in filter(None, reader):  # an empty line is no row
            wrong = len(cells) != len(names)
            problem = f"it has {len(cells)} cells, and the header names {len(names)} columns." if wrong else None
            yield dict(zip(names, [*cells, *[""] * len(names)], strict=False)), problem


def _reader(lines: Iterable[str], kind: str) -> Iterator[list[str]]:
    csv.field_size_limit(LONGEST_CELL)
    if kind == ".csv":
        return csv.reader(lines)
    return csv.reader(lines, delimiter=DELIMITED[kind], quoting=csv.QUOTE_NONE)  # a quote is a character like any other


def _chunks(rows: Iterator[Row], size: int) -> Iterator[Chunk]:
    while some := list(islice(rows, size)):
        yield Chunk(*zip(*some, strict=True))


def _of_parquet(file: Path) -> Source:
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--from {file}: it is no Parquet ({str(error).splitlines()[0]}).") from None

    def chunks(bar: Progress) -> Iterator[Chunk]:
        with pq.ParquetFile(file) as content:
            total = content.metadata.num_rows / CHUNK
            for batch in bar.track(content.iter_batches(CHUNK), total, description="Answering"):
                table = pa.Table.from_batches([batch])
                yield Chunk(table.to_pylist(), [None] * table.num_rows, table)

    return Source(chunks, schema.names, ".parquet", schema)


# --- out --------------------------------------------------------------------------------------------------------------


@contextmanager
def sink(file: Path | None, source: Source, added: Mapping[str, str]) -> Iterator[Write]:
    """Where rows go with what was answered: a file, which has its name once it is complete; or the standard output.

    Args:
        added: names of the new columns, and the Arrow type of each, "string" or "double".

    Raises:
        UserError: a column of that name is there already; a kind of file that these rows do not fit into.
    """
    taken = sorted(set(added) & set(source.names or ()))
    if taken:
        raise UserError(f"--from has a column {taken[0]!r} already. Name the new one: --name answer2.")
    if file is None:
        yield _write_to_terminal if set(added) == {"answer", "probability"} else _json_writer(sys.stdout)
        return
    kind = file.suffix.lower()
    if kind not in TABLES:
        raise UserError(f"--to {file}: expected a file that ends in {', '.join(TABLES)}.")
    if source.names is None and kind != ".jsonl":
        raise UserError(f"--to {file}: rows of JSON have columns of their own each. Write them to a .jsonl.")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--to {file}: the folder {file.absolute().parent} is not there. Make it first.")
    with ExitStack() as open_files:
        unfinished = open_files.enter_context(whole_file(file))
        if kind == ".parquet":
            yield _parquet_writer(unfinished, source, added, open_files)
            return
        content: IO[str] = open_files.enter_context(unfinished.open("w", newline="", **ENCODING))  # type: ignore[call-overload]
        yield _json_writer(content) if kind == ".jsonl" else _delimited_writer(content, kind, source, added)


def _rows(chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> Iterator[Cells]:
    for cells, *values in zip(chunk.cells, *added.values(), strict=True):
        yield {**cells, **dict(zip(added, values, strict=True))}


def _write_to_terminal(chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
    for row in _rows(chunk, added):
        sure = "" if row["probability"] is None else f"{row['probability']:.4f}"
        texts = "\t".join(str(row[name]) for name in LINES if name in row)
        print(row["answer"], sure, *([texts] if texts else []), sep="\t", flush=True)


def _json_writer(content: IO[str]) -> Write:
    def write(chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        for row in _rows(chunk, added):
            line = json.dumps(row, ensure_ascii=False, default=str)
            try:
                line.encode(**ENCODING)
            except UnicodeEncodeError:  # half of a character, which JSON can spell and UTF-8 cannot
                line = json.dumps(row, default=str)
            content.write(line + "\n")
        content.flush()

    return write


def _delimited_writer(content: IO[str], kind: str, source: Source, added: Mapping[str, str]) -> Write:
    names = [*(source.names or ()), *added]
    # a tab-separated file is written as it is read: a quote is a character like any other
    as_read: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    writer = csv.writer(content, lineterminator="\n", **({} if kind == ".csv" else as_read))
    writer.writerow(names)
    return lambda chunk, values: writer.writerows(
        [_cell(row.get(name)) for name in names] for row in _rows(chunk, values)
    )


def _cell(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)


def _parquet_writer(file: Path, source: Source, added: Mapping[str, str], open_files: ExitStack) -> Write:
    own = source.schema or pa.schema([(name, pa.string()) for name in source.names or ()])
    new = [pa.field(name, pa.type_for_alias(kind)) for name, kind in added.items()]
    writer = open_files.enter_context(pq.ParquetWriter(file, pa.schema([*own, *new], own.metadata)))

    def write(chunk: Chunk, values: Mapping[str, Sequence[Any]]) -> None:
        table = chunk.table
        if table is None:
            rows = [{name: _cell(cells.get(name)) for name in own.names} for cells in chunk.cells]
            table = pa.Table.from_pylist(rows, schema=own)
        for column in new:
            cells = values[column.name]
            as_text = pa.types.is_string(column.type)
            table = table.append_column(column, pa.array(map(_cell, cells) if as_text else cells, column.type))
        writer.write_table(table)

    return write
