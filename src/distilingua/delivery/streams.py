"""Rows out of and into files of any length: a chunk is in memory at a time, and order is kept.

Files are read as those of a corpus are, see `corpora.tables`: what was trained on can be answered, too.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from distilingua.artifacts import whole_file
from distilingua.columns import strings, values_of
from distilingua.corpora.dialect import text_lines
from distilingua.corpora.schema import is_json
from distilingua.corpora.tables import DELIMITED, MISSING, Dialect, read_table, text_table
from distilingua.errors import UserError

CHUNK = 1024  # rows: enough for texts of like length to share a batch, little enough to forget
FROM_PIPE = 128  # rows: whoever waits at the other end sees the first answers early
LINES = ["text", "text_pair"]
TABLES = (*DELIMITED, ".jsonl", ".parquet")
ENCODING: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
"""What is no UTF-8 is noticed in its row, and written back as it was."""

Require = Callable[[list[str]], None]
Write = Callable[["Chunk", Mapping[str, Sequence[Any]]], None]
"""Takes a chunk and, per new column, its values."""
Line = Callable[[Sequence[str], Sequence[Any]], str]
"""Names of columns and the cells of a row -> the row as it is written."""


@dataclass
class Chunk:
    """Some rows of a source.

    Args:
        table: their cells; columns of text may be JSON, see `schema.AS_JSON`, whose nulls are cells that are not there.
        problems: why a row cannot be read; None where it can.
    """

    table: pa.Table
    problems: Sequence[str | None]


@dataclass
class Source:
    """Rows to read, once.

    Args:
        chunks: gives them, and shows on a bar how far it is.
        names: of the columns; None where every row has its own, as in JSON.
        schema: of Arrow, for Parquet; None for other files, whose cells are text.
    """

    chunks: Callable[[Progress], Iterator[Chunk]]
    names: list[str] | None
    schema: pa.Schema | None = None


def of_lines(lines: Callable[[Progress], Iterable[str]], pairs: bool, size: int) -> Source:
    """Every line is a row, an empty one too, so that answers stand line by line beside them.

    Args:
        pairs: whether what stands behind a tab is a text of its own, `text_pair`.
        size: rows of a chunk.
    """
    names = LINES[: 1 + pairs]

    def chunks(bar: Progress) -> Iterator[Chunk]:
        rest = (line.rstrip("\r\n") for line in lines(bar))
        while some := list(islice(rest, size)):
            rows = [[*line.split("\t", 1), MISSING][:2] if pairs else [line] for line in some]
            yield Chunk(text_table(names, list(zip(*rows, strict=True))), [None] * len(some))

    return Source(chunks, names)


def of_file(file: Path, pairs: bool, dialect: Dialect, require: Require) -> Source:
    """A table by its suffix: .csv, .tsv, .jsonl, .json, .parquet; or .txt, a row a line.

    Args:
        pairs: of lines, see `of_lines`.
        dialect: of text files.
        require: raises UserError for columns that are not the wanted ones.

    Raises:
        UserError: no such file, another kind, a table without a header, what is not in the dialect.
    """
    if not file.is_file():
        raise UserError(f"--from {file}: no such file.")
    kind = file.suffix.lower()
    if kind not in (*TABLES, ".txt", ".json"):
        raise UserError(f"--from {file}: expected a file that ends in {', '.join(TABLES)}, .txt or .json.")
    with _own_options():
        dialect.check()
        if kind == ".txt":
            return of_lines(partial(_lines, file, dialect.encoding), pairs, CHUNK)
        head = read_table(file, dialect, require, most=0, name_bad_rows=True)
        for _ in head.blocks:  # reads the names of the columns, and what a first row tells
            pass
    if kind in DELIMITED and not head.names:
        raise UserError(f"--from {file}: it has no header. Its first line names the columns, such as text.")
    schema = pq.read_schema(file) if kind == ".parquet" else None
    names = head.names if kind in DELIMITED else schema.names if schema else None
    return Source(partial(_chunks, file, dialect, require), names, schema)


def _chunks(file: Path, dialect: Dialect, require: Require, bar: Progress) -> Iterator[Chunk]:
    first = 0
    with _own_options():
        table = read_table(file, dialect, require, None, True, CHUNK, partial(bar.open, description="Answering"))
        blocks: Iterable[pa.Table] = table.blocks
        if table.length:  # is known before it has been read
            blocks = bar.track(blocks, table.length / CHUNK, description="Answering")
        for block in blocks:
            yield Chunk(block, [table.problems.pop(first + n, None) for n in range(len(block))])
            first += len(block)


def _lines(file: Path, encoding: str, bar: Progress) -> Iterator[str]:
    with _own_options():
        yield from text_lines(file, encoding, True, partial(bar.open, description="Answering"))


@contextmanager
def _own_options() -> Iterator[None]:
    """What the reader of a corpus refuses, with the options of this command in place of keys of a configuration."""
    try:
        yield
    except UserError as error:
        told = str(error).replace("corpus: ", "--from ", 1).replace("are named under corpus.columns", "are asked for")
        told = re.sub(r"""'corpus\.separator="(.)"'""", r"--separator '\1'", told)
        raise UserError(re.sub(r"corpus\.(encoding|separator|quoting)=", r"--\1 ", told)) from None


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
        # as files are: what encoding a system takes for the output of a program may lack the letters of an answer
        with suppress(AttributeError, OSError):  # in a notebook it is no stream that can
            sys.stdout.reconfigure(**ENCODING)  # type: ignore[union-attr]
        line: Line = _terminal_line if set(added) == {"answer", "probability"} else _json_line
        yield _writer_of_lines(sys.stdout, line, source)
        return
    kind = file.suffix.lower()
    if kind not in TABLES:
        raise UserError(f"--to {file}: expected a file that ends in {', '.join(TABLES)}.")
    if source.names is None and kind != ".jsonl":
        raise UserError(f"--to {file}: rows of JSON have columns of their own each. Write them to a .jsonl.")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--to {file}: the folder {file.absolute().parent} is not there. Make it first.")
    with whole_file(file) as unfinished:
        if kind == ".parquet":
            with _parquet_writer(unfinished, source, added) as write:
                yield write
            return
        with unfinished.open("w", newline="", **ENCODING) as content:
            line = {".csv": _csv_line, ".tsv": _tsv_line(file), ".jsonl": _json_line}[kind]
            if kind in DELIMITED:
                header = [*(source.names or ()), *added]
                content.write(line(header, header) + "\n")
            yield _writer_of_lines(content, line, source)


def _names(source: Source, table: pa.Table) -> list[str]:
    """One for every column, as kinds of files need that find them by it."""
    if source.names is None:
        return list(table.column_names)
    return [name or f"column {n}" for n, name in enumerate(source.names, 1)]


def _columns(table: pa.Table, source: Source) -> list[list[Any]]:
    """The cells of every column; of text files `MISSING` for those that are not there."""
    if source.schema:
        return [values_of(cells) for cells in table.columns]
    return [
        [MISSING if cell is None else json.loads(cell) if is_json(kind) else cell for cell in cells.to_pylist()]
        for kind, cells in zip(table.schema, table.columns, strict=True)
    ]


def _writer_of_lines(content: IO[str], line: Line, source: Source) -> Write:
    def write(chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        names = [*_names(source, chunk.table), *added]
        for cells in zip(*_columns(chunk.table, source), *added.values(), strict=True):
            content.write(line(names, cells) + "\n")
        content.flush()

    return write


def _terminal_line(names: Sequence[str], cells: Sequence[Any]) -> str:
    row = dict(zip(names, cells, strict=True))
    sure = "" if row["probability"] is None else f"{row['probability']:.4f}"
    texts = (row[name] for name in LINES if row.get(name, MISSING) is not MISSING)
    return "\t".join(_in_a_line(str(cell)) for cell in (row["answer"], sure, *texts))


def _json_line(names: Sequence[str], cells: Sequence[Any]) -> str:
    row = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not MISSING}
    line = json.dumps(row, ensure_ascii=False, default=str)
    try:
        line.encode(**ENCODING)
    except UnicodeEncodeError:  # half of a character, which JSON can spell and UTF-8 cannot
        line = json.dumps(row, default=str)
    return line


# with this end of a line, Python puts quotes around a carriage return, which ends a line for whoever reads it
CSV = csv.writer(SimpleNamespace(write=str), lineterminator="\r\n")


def _csv_line(names: Sequence[str], cells: Sequence[Any]) -> str:
    return str(CSV.writerow(map(_cell, cells))).removesuffix("\r\n")


def _tsv_line(file: Path) -> Line:
    """As it is read: a quote is a character like any other, and a line is a row."""
    tell = cache(lambda told: print(told, file=sys.stderr))  # once

    def line(names: Sequence[str], cells: Sequence[Any]) -> str:
        texts = list(map(_cell, cells))
        row = list(map(_in_a_line, texts))
        if row != texts:
            tell(f"{file}: tabs and line breaks in cells are written as spaces; .csv keeps them.")
        return "\t".join(row)

    return line


def _in_a_line(cell: str) -> str:
    return re.sub(r"\r\n|[\t\r\n]", " ", cell)


def _cell(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None or value is MISSING else str(value)


@contextmanager
def _parquet_writer(file: Path, source: Source, added: Mapping[str, str]) -> Iterator[Write]:
    own = source.schema or pa.schema([(name, pa.string()) for name in _names(source, pa.table({}))])
    new = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in added.items()])
    schema = pa.schema([*own, *new], own.metadata)

    def write(chunk: Chunk, values: Mapping[str, Sequence[Any]]) -> None:
        columns = chunk.table.columns
        if source.schema is None:  # no text of Arrow holds bytes that are no UTF-8
            texts = [map(_cell, cells) for cells in _columns(chunk.table, source)]
            columns = [strings(cell.encode(errors="replace").decode() for cell in cells) for cells in texts]
        answers = [map(_cell, values[one.name]) if pa.types.is_string(one.type) else values[one.name] for one in new]
        columns += [pa.array(cells, one.type) for cells, one in zip(answers, new, strict=True)]
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    with pq.ParquetWriter(file, schema) as writer:
        yield write
