"""Rows out of and into files of any length: a chunk is in memory at a time, and order is kept.

Files are read as those of a corpus are, see `corpora.tables`: what was trained on can be answered, too.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
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


def of_texts(texts: Sequence[str], pairs: bool) -> Source:
    """Texts as they were typed.

    Args:
        pairs: whether what stands behind a tab is a text of its own, `text_pair`.
    """
    return _of_lines(lambda bar: texts, pairs, CHUNK)


def of_pipe(lines: IO[str], pairs: bool) -> Source:
    """Every line is a row, an empty one too, so that answers stand line by line beside them; see `of_texts`."""
    return _of_lines(lambda bar: lines, pairs, 1 if lines.isatty() else FROM_PIPE)


def of_file(file: Path, pairs: bool, dialect: Dialect, require: Require) -> Source:
    """A table by its suffix: .csv, .tsv, .jsonl, .json, .parquet; or .txt, a row a line.

    Args:
        pairs: of lines, see `of_texts`.
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
            return _of_lines(partial(_lines, file, dialect.encoding), pairs, CHUNK)
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


def _of_lines(lines: Callable[[Progress], Iterable[str]], pairs: bool, size: int) -> Source:
    names = LINES[: 1 + pairs]

    def chunks(bar: Progress) -> Iterator[Chunk]:
        rest = (line.rstrip("\r\n") for line in lines(bar))
        while some := list(islice(rest, size)):
            rows = [[*line.split("\t", 1), MISSING][:2] if pairs else [line] for line in some]
            yield Chunk(text_table(names, list(zip(*rows, strict=True))), [None] * len(some))

    return Source(chunks, names)


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
        as_lines = set(added) == {"answer", "probability"}
        yield _terminal_writer(source) if as_lines else _json_writer(sys.stdout, source)
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
        content: IO[str] = open_files.enter_context(unfinished.open("w", newline="", **ENCODING))
        yield _json_writer(content, source) if kind == ".jsonl" else _delimited_writer(content, file, source, added)


def _named(source: Source, table: pa.Table) -> pa.Table:
    """The table with a name for every column, as kinds of files need that find them by it."""
    if source.names is None or all(source.names):
        return table
    return table.rename_columns([name or f"column {n}" for n, name in enumerate(source.names, 1)])


def _columns(table: pa.Table, source: Source) -> list[list[Any]]:
    """The cells of every column; of text files `MISSING` for those that are not there."""
    if source.schema:
        return [values_of(cells) for cells in table.columns]
    return [
        [MISSING if cell is None else json.loads(cell) if is_json(kind) else cell for cell in cells.to_pylist()]
        for kind, cells in zip(table.schema, table.columns, strict=True)
    ]


def _terminal_writer(source: Source) -> Write:
    def write(chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        texts = chunk.table.select([name for name in LINES if name in chunk.table.column_names])
        cells_of_rows = zip(added["answer"], added["probability"], *_columns(texts, source), strict=True)
        for answer, probability, *cells in cells_of_rows:
            sure = "" if probability is None else f"{probability:.4f}"
            line = [answer, sure, *(cell for cell in cells if cell is not MISSING)]
            print(*(_in_a_line(str(cell)) for cell in line), sep="\t", flush=True)

    return write


def _json_writer(content: IO[str], source: Source) -> Write:
    def write(chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        table = _named(source, chunk.table)
        names = [*table.column_names, *added]
        for cells in zip(*_columns(table, source), *added.values(), strict=True):
            row = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not MISSING}
            line = json.dumps(row, ensure_ascii=False, default=str)
            try:
                line.encode(**ENCODING)
            except UnicodeEncodeError:  # half of a character, which JSON can spell and UTF-8 cannot
                line = json.dumps(row, default=str)
            content.write(line + "\n")
        content.flush()

    return write


def _delimited_writer(content: IO[str], file: Path, source: Source, added: Mapping[str, str]) -> Write:
    if file.suffix.lower() == ".csv":
        plain, careful = (
            csv.writer(content, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )

        def write_row(cells: list[str]) -> None:
            # Python leaves a carriage return bare, which ends a line for whoever reads it
            (careful if any("\r" in cell for cell in cells) else plain).writerow(cells)
    else:
        told = False

        def write_row(cells: list[str]) -> None:
            # as it is read: a quote is a character like any other, and a line is a row
            nonlocal told
            row = [_in_a_line(cell) for cell in cells]
            content.write("\t".join(row) + "\n")
            if row != cells and not told:
                told = True
                print(f"{file}: tabs and line breaks in cells are written as spaces; .csv keeps them.", file=sys.stderr)

    def write(chunk: Chunk, values: Mapping[str, Sequence[Any]]) -> None:
        for cells in zip(*_columns(chunk.table, source), *values.values(), strict=True):
            write_row(list(map(_cell, cells)))

    write_row([*(source.names or ()), *added])
    return write


def _in_a_line(cell: str) -> str:
    return re.sub(r"\r\n|[\t\r\n]", " ", cell)


def _cell(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None or value is MISSING else str(value)


def _parquet_writer(file: Path, source: Source, added: Mapping[str, str], open_files: ExitStack) -> Write:
    empty = pa.schema([(name, pa.string()) for name in source.names or ()]).empty_table()
    own = source.schema or _named(source, empty).schema
    new = [pa.field(name, pa.type_for_alias(kind)) for name, kind in added.items()]
    schema = pa.schema([*own, *new], own.metadata)
    writer = open_files.enter_context(pq.ParquetWriter(file, schema))

    def write(chunk: Chunk, values: Mapping[str, Sequence[Any]]) -> None:
        columns = chunk.table.columns
        if source.schema is None:  # no text of Arrow holds bytes that are no UTF-8
            texts = [map(_cell, cells) for cells in _columns(chunk.table, source)]
            columns = [strings(cell.encode(errors="replace").decode() for cell in cells) for cells in texts]
        cells = [map(_cell, values[one.name]) if pa.types.is_string(one.type) else values[one.name] for one in new]
        parts = [pa.array(each, one.type) for each, one in zip(cells, new, strict=True)]
        writer.write_table(pa.Table.from_arrays([*columns, *parts], schema=schema))

    return write
