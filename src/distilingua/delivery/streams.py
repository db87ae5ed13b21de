"""Rows out of and into files of any length: a chunk is in memory at a time, and order is kept."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from distilingua.artifacts import whole_file
from distilingua.corpora.tables import DELIMITED, LONGEST_CELL
from distilingua.errors import UserError

CHUNK = 1024  # rows: enough for texts of like length to share a batch, little enough to forget
FROM_PIPE = 128  # rows: whoever waits at the other end sees the first answers early
LINES = ["text", "text_pair"]
TABLES = (*DELIMITED, ".jsonl", ".parquet")
WHOLE = "utf-8", "surrogateescape"  # what is no UTF-8 is noticed in its row, and written back as it was

Cells = dict[str, Any]


@dataclass
class Chunk:
    """Some rows of a source.

    Args:
        cells: by column, of every row.
        problems: why a row cannot be read; None where it can.
        done: share of the source up to here, in [0, 1]; None where its length is not known.
        table: the same rows as Arrow has them, with their types; None for other files.
    """

    cells: list[Cells]
    problems: list[str | None]
    done: float | None = None
    table: Any = None


@dataclass
class Source:
    """Rows to read, once.

    Args:
        chunks: gives them.
        names: of the columns; None where every row has its own, as in JSON.
        kind: suffix of the file, "" for lines of text.
        schema: of Arrow, for Parquet.
    """

    chunks: Callable[[], Iterator[Chunk]]
    names: list[str] | None
    kind: str = ""
    schema: Any = None


def of_texts(texts: Sequence[str], pairs: bool) -> Source:
    """Texts as they were typed.

    Args:
        pairs: whether what stands behind a tab is a text of its own, `text_pair`.
    """
    return Source(lambda: _chunks((_line(text, pairs) for text in texts), CHUNK), LINES[: 1 + pairs])


def of_pipe(lines: IO[str], pairs: bool) -> Source:
    """Every line is a row, an empty one too, so that answers stand line by line beside them; see `of_texts`."""
    size = 1 if lines.isatty() else FROM_PIPE
    return Source(lambda: _chunks((_line(line.rstrip("\r\n"), pairs) for line in lines), size), LINES[: 1 + pairs])


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
        return Source(lambda: _chunks(_objects(file), CHUNK), None, kind)
    if kind == ".txt":
        rows = ((_line(line, pairs)[0], None, at) for line, at in _lines(file))
        return Source(lambda: _chunks(rows, CHUNK), LINES[: 1 + pairs])
    if kind not in DELIMITED:
        raise UserError(f"--from {file}: expected a file that ends in {', '.join((*TABLES, '.txt'))}.")
    with file.open(encoding=WHOLE[0], errors=WHOLE[1], newline="") as content:
        header: list[str] = next(_reader(content, kind), [])
    names = [name.strip().strip("\ufeff") for name in header]
    if not any(names):
        raise UserError(f"--from {file}: it has no header. Its first line names the columns, such as text.")
    if len(set(names)) < len(names):
        raise UserError(f"--from {file}: two columns have one name ({', '.join(names)}). Give each its own.")
    return Source(lambda: _chunks(_records(file, kind, names), CHUNK), names, kind)


def _line(text: str, pairs: bool) -> tuple[Cells, str | None, float | None]:
    first, tab, second = text.partition("\t") if pairs else (text, "", "")
    return {"text": first, **({"text_pair": second} if tab else {})}, None, None


def _lines(file: Path) -> Iterator[tuple[str, float]]:
    size = max(file.stat().st_size, 1)
    with file.open("rb") as content:
        for line in content:
            yield line.decode(*WHOLE).rstrip("\r\n").removeprefix("\ufeff"), content.tell() / size


def _objects(file: Path) -> Iterator[tuple[Cells, str | None, float | None]]:
    for line, at in _lines(file):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            problem = None if isinstance(found, dict) else "it is no JSON object."
        except (ValueError, RecursionError) as error:
            found, problem = {}, f"it is no JSON ({error})."
        yield (found if problem is None else {}), problem, at


def _records(file: Path, kind: str, names: Sequence[str]) -> Iterator[tuple[Cells, str | None, float | None]]:
    size = max(file.stat().st_size, 1)
    with file.open("rb") as raw:
        lines = (line.decode(*WHOLE) for line in raw)
        reader = _reader(lines, kind)
        next(reader)
        for cells in reader:
            if not cells:  # an empty line
                continue
            wrong = len(cells) != len(names)
            problem = f"it has {len(cells)} cells, and the header names {len(names)} columns." if wrong else None
            padded = [*cells, *[""] * len(names)]
            yield dict(zip(names, padded, strict=False)), problem, raw.tell() / size


def _reader(lines: Any, kind: str) -> Any:
    csv.field_size_limit(LONGEST_CELL)
    if kind == ".csv":
        return csv.reader(lines)
    return csv.reader(lines, delimiter=DELIMITED[kind], quoting=csv.QUOTE_NONE)  # a quote is a character like any other


def _chunks(rows: Iterator[tuple[Cells, str | None, float | None]], size: int) -> Iterator[Chunk]:
    while found := list(islice(rows, size)):
        cells, problems, done = zip(*found, strict=True)
        yield Chunk(list(cells), list(problems), done[-1])


def _of_parquet(file: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--from {file}: it is no Parquet ({str(error).splitlines()[0]}).") from None

    def chunks() -> Iterator[Chunk]:
        with pq.ParquetFile(file) as content:
            seen, total = 0, max(content.metadata.num_rows, 1)
            for batch in content.iter_batches(CHUNK):
                seen += batch.num_rows
                cells = batch.to_pylist()
                yield Chunk(cells, [None] * len(cells), seen / total, pa.Table.from_batches([batch]))

    return Source(chunks, schema.names, ".parquet", schema)


# --- out --------------------------------------------------------------------------------------------------------------


@dataclass
class Sink:
    """Where rows go with what was answered.

    Args:
        write: takes a chunk and, per new column, its values.
        close: writes what is still to be written.
    """

    write: Callable[[Chunk, Mapping[str, Sequence[Any]]], None]
    close: Callable[[], None] = field(default=lambda: None)


@contextmanager
def sink(file: Path | None, source: Source, added: Mapping[str, Any]) -> Iterator[Sink]:
    """A file, which has its name once it is whole; or the standard output.

    Args:
        added: names of the new columns, and the Arrow type of each, "string" or "double".

    Raises:
        UserError: a column of that name is there already; a kind of file that these rows do not fit into.
    """
    taken = sorted(set(added) & set(source.names or ()))
    if taken:
        raise UserError(f"--from has a column {taken[0]!r} already. Name the new one: --name answer2.")
    if file is None:
        yield Sink(_to_terminal if set(added) == {"answer", "probability"} else _to_json(sys.stdout))
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
            made = _to_parquet(unfinished, source, added)
        else:
            options = {"encoding": WHOLE[0], "errors": WHOLE[1]}
            content: IO[str] = open_files.enter_context(unfinished.open("w", newline="", **options))  # type: ignore[call-overload]
            made = Sink(_to_json(content)) if kind == ".jsonl" else _to_delimited(content, kind, source, added)
        yield made
        made.close()


def _to_terminal(chunk: Chunk, found: Mapping[str, Sequence[Any]]) -> None:
    for cells, answer, probability in zip(chunk.cells, *found.values(), strict=True):
        sure = "" if probability is None else f"{probability:.4f}"
        text = "\t".join(str(cells[name]) for name in ("text", "text_pair") if name in cells)
        print(answer, sure, *([text] if text else []), sep="\t", flush=True)


def _to_json(content: IO[str]) -> Callable[[Chunk, Mapping[str, Sequence[Any]]], None]:
    def write(chunk: Chunk, found: Mapping[str, Sequence[Any]]) -> None:
        for n, cells in enumerate(chunk.cells):
            row = {**cells, **{name: values[n] for name, values in found.items()}}
            line = json.dumps(row, ensure_ascii=False, default=str)
            try:
                line.encode(*WHOLE)
            except UnicodeEncodeError:  # half of a character, which JSON can spell and UTF-8 cannot
                line = json.dumps(row, default=str)
            content.write(line + "\n")
        content.flush()

    return write


def _to_delimited(content: IO[str], kind: str, source: Source, added: Mapping[str, Any]) -> Sink:
    assert source.names is not None
    names = [*source.names, *added]
    if kind == ".csv":
        writer = csv.writer(content, lineterminator="\n")
    else:  # as they are read: a quote is a character like any other
        writer = csv.writer(content, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
    writer.writerow(names)

    def write(chunk: Chunk, found: Mapping[str, Sequence[Any]]) -> None:
        for n, cells in enumerate(chunk.cells):
            row = {**cells, **{name: values[n] for name, values in found.items()}}
            writer.writerow([_cell(row.get(name)) for name in names])

    return Sink(write)


def _cell(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)


def _to_parquet(file: Path, source: Source, added: Mapping[str, str]) -> Sink:
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = source.schema or pa.schema([(name, pa.string()) for name in source.names or ()])
    schema = own
    for name, kind in added.items():
        schema = schema.append(pa.field(name, pa.type_for_alias(kind)))
    writer = pq.ParquetWriter(file, schema)

    def write(chunk: Chunk, found: Mapping[str, Sequence[Any]]) -> None:
        table = chunk.table
        if table is None:
            rows = [{name: _cell(cells.get(name)) for name in own.names} for cells in chunk.cells]
            table = pa.Table.from_pylist(rows, schema=own)
        for name, values in found.items():
            kind = schema.field(name).type
            cells = [_cell(value) for value in values] if pa.types.is_string(kind) else list(values)
            table = table.append_column(schema.field(name), pa.array(cells, kind))
        writer.write_table(table)

    return Sink(write, writer.close)


def progress(shown: bool) -> AbstractContextManager[Callable[[float | None], None]]:
    """A bar on the standard error, out of the way of answers: called with the share that is done."""
    if not shown:
        return nullcontext(lambda done: None)
    return _bar()


@contextmanager
def _bar() -> Iterator[Callable[[float | None], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Answering", total=1.0)
        yield lambda done: bar.update(task, completed=done or 0.0)
