"""Tables in files, every cell as it was written: CSV and TSV in a stated dialect, JSON with its own spellings, Parquet.

Nobody guesses types, encodings, quoting or columns: what is not as stated is refused, by file and line. Files are
opened by their name, so no pattern, cache or folder of a library takes part. Each is parsed once, a block of rows at a
time, which leaves as columns of Arrow: memory does not grow with the file.
"""

from __future__ import annotations

import csv
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distilingua.columns import BLOCK, strings
from distilingua.corpora.dialect import DELIMITED, SEPARATORS, Dialect, text_lines
from distilingua.corpora.schema import AS_JSON
from distilingua.errors import UserError

IN_QUOTES = re.compile('"(?:[^"]|"")*"')  # a cell, as programs write it
LONGEST_CELL = 2**31 - 1  # of Python's csv, which stops at 131 072 characters unless told


@dataclass
class Table(ABC):
    """What is read of a file, see `read_table`; all of it is known once `blocks` has been gone through."""

    file: Path
    dialect: Dialect
    require: Callable[[list[str]], None]
    most: int | None
    name_bad_rows: bool
    size: int
    opened: Callable[..., Any]

    def __post_init__(self) -> None:
        self.blocks = self._blocks()
        """Its rows, some thousands at a time; columns are text, of JSON cells of other types as JSON again
        (`schema.AS_JSON`), of Parquet what they are there."""
        self.names: list[str] = []
        """Its columns; of JSON those of any row, fields of objects too, as `column.field`."""
        self.length = 0
        """How many rows."""
        self.blank: list[int] = []
        """Numbers of the lines between rows that hold nothing, and are no rows."""
        self.whole = True
        """Whether that is all of the file."""
        self.notes: list[str] = []
        """What was read in a way that somebody may not expect, in sentences."""
        self.classes: dict[str, list[str]] = {}
        """Names of the classes that a column of Parquet numbers, as `datasets` stores them."""
        self.problems: dict[int, str] = {}
        """Number of a row, from 0 -> why it cannot be read, of those that are named and not refused."""

    @abstractmethod
    def _blocks(self) -> Iterator[pa.Table]: ...

    def _check_names(self) -> None:
        """Raises UserError for a column whose name another one has too."""
        twice = [name for n, name in enumerate(self.names) if name and name in self.names[:n]]
        if twice:
            raise UserError(
                f"corpus: {self.file} has two columns named {twice[0]!r} ({', '.join(self.names)}). Give each a name "
                f"of its own."
            )


def read_table(
    file: Path,
    dialect: Dialect,
    require: Callable[[list[str]], None],
    most: int | None = None,
    name_bad_rows: bool = False,
    size: int = BLOCK,
    opened: Callable[..., Any] = Path.open,
) -> Table:
    """A CSV, TSV, JSON or Parquet file, to be read by its `blocks`.

    Args:
        require: raises UserError where column names are not the wanted ones.
        most: rows to read at most, of Parquet none; null for all.
        name_bad_rows: go on after a row that has too many or too few cells, or is no JSON: it stays in its place, with
            what it has of cells, and `problems` says why. Bytes that are no UTF-8 and halves of characters stand in
            their cells then; rows of JSON may have columns of their own each.
        size: rows of a block.
        opened: what opens a text file instead of `Path.open`.

    Raises:
        UserError: what is not in this dialect; `blocks` do, too.
    """
    kinds: dict[str, type[Table]] = {".parquet": _Parquet, **dict.fromkeys(DELIMITED, _Delimited)}
    kind = kinds.get(file.suffix.lower(), _Json)
    return kind(file, dialect, require, most, name_bad_rows, size, opened)


class _Text(Table):
    def _blocks(self) -> Iterator[pa.Table]:
        with closing(text_lines(self.file, self.dialect.encoding, self.name_bad_rows, self.opened)) as lines:
            rows = self._rows(lines)
            some = islice(rows, self.most)
            while block := list(islice(some, self.size)):
                yield self._block(block)
            self.whole = next(rows, None) is None
        self._finish()
        if self.blank:
            self.notes.append(
                f"{self.file}: {len(self.blank)} blank lines are no rows, the first is line {self.blank[0]}."
            )

    @abstractmethod
    def _rows(self, lines: Iterator[str]) -> Iterator[Any]:
        """Every row; what else is known of the file is noted on the way."""

    @abstractmethod
    def _block(self, rows: list[Any]) -> pa.Table: ...

    def _finish(self) -> None:
        """Asked once all that is wanted has been read."""

    def _bad_row(self, problem: str, error: UserError) -> None:
        """Notes what is wrong with the next row, or refuses it."""
        if not self.name_bad_rows:
            raise error from None
        self.problems[self.length] = problem


# --- CSV and TSV ------------------------------------------------------------------------------------------------------


class _Delimited(_Text):
    def _rows(self, lines: Iterator[str]) -> Iterator[list[str]]:
        between: list[int] = []  # lines that may turn out to be between rows
        broken: list[int] = []  # where rows of several lines begin
        for place, cells in self._records(lines):
            if not cells or (len(cells) == 1 < len(self.names) and not cells[0].strip()):
                between.append(place.start)
                continue
            if len(self.names) == 1:  # an empty line is an empty cell, but at the end
                self.length += len(between)
                yield from ([""] for _ in between)
            else:
                self.blank += between
            between = []
            if len(cells) != len(self.names):
                cells = self._of_another_length(place.start, cells)
            elif cells == self.header and len(cells) > 1:
                told = f"line {place.start} is the header once more, as where two files were joined. Take it out."
                self._bad_row("it is the header once more.", UserError(f"corpus: {self.file}, {told}"))
            broken += [place.start] * (len(place) > 1)
            self.length += 1
            yield cells
        if broken:
            self.notes.append(f"{self.file}: {len(broken)} rows hold line breaks, the first in line {broken[0]}.")

    def _records(self, lines: Iterator[str]) -> Iterator[tuple[range, list[str]]]:
        """The lines of every record after the header, and its cells."""
        suffix = self.file.suffix.lower()
        self.separator, self.quoted = self.dialect.between(suffix), self.dialect.quoted(suffix)
        if self.dialect.quoting is None and not self.quoted:
            self._take_quotes_of_a_program()
        reader, first = _reader(lines, self.separator, self.quoted), 1
        try:
            for cells in reader:
                if self.names:
                    yield range(first, reader.line_num + 1), cells
                elif len(cells) > 1 or any(cell.strip() for cell in cells):
                    self.names, self.header = _names(cells), cells
                    self._check_header()
                first = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"corpus: {self.file}, line {first}: its quotes do not pair ({error}). A cell that begins with a "
                f'quote ends with one, and has "" for every other. If quotes are characters like any other, set '
                f"corpus.quoting=false."
            ) from None

    def _block(self, rows: list[list[str]]) -> pa.Table:
        return text_table(self.names, list(zip(*rows, strict=True)))

    def _of_another_length(self, line: int, cells: list[str]) -> list[str]:
        """A row that has more or fewer cells than the header, as long as that; or refused."""
        name, wanted = _called(self.separator), len(self.names)
        if len(cells) == wanted + 1 and not cells[-1].strip():
            advice = f"The line ends in {name}, which the header lacks: take it away, or name one more column."
        elif self.quoted:
            advice = (
                f"A text that holds {name} or a line break stands in quotes, right after {name}: "
                f'"like{self.separator} this".'
            )
        else:
            advice = f"A text holds neither {name} nor a line break, unless in quotes: then set corpus.quoting=true."
        told = f"has {len(cells)} cells, and the header names {wanted} columns"
        self._bad_row(
            f"it {told}.", UserError(f"corpus: {self.file}, line {line} {told} ({', '.join(self.names)}). {advice}")
        )
        return [*cells, *[""] * wanted][:wanted]

    def _check_header(self) -> None:
        """Raises UserError for names that stand twice or are not the wanted ones; says which dialect has them."""
        self._check_names()
        try:
            self.require(self.names)
        except UserError:
            header = next(line for line in self._lines_again() if line.strip())
            separators = [self.separator, *(each for each in SEPARATORS if each != self.separator)]
            for separator, quoted in product(separators, (self.quoted, not self.quoted)):
                try:
                    found = _names(next(_reader([header], separator, quoted)))
                    self.require(found)
                except (UserError, csv.Error):
                    continue
                wanted = [SEPARATORS[separator]] if separator != self.separator else []
                wanted += [f"corpus.quoting={str(quoted).lower()}"] * (quoted != self.quoted)
                raise UserError(
                    f"corpus: {self.file} has no columns such as are named under corpus.columns, unless it is read in "
                    f"another way: {', '.join(found)}. Set {' '.join(wanted)}."
                ) from None
            other = max(SEPARATORS, key=header.count)
            if len(self.names) == 1 and other in header:  # whatever its columns are called
                raise UserError(
                    f"corpus: {self.file} has one column, {self.names[0]!r}, as {_called(self.separator)} does not "
                    f"stand in its first line, and {_called(other)} does. Set {SEPARATORS[other]}."
                ) from None
            raise

    def _take_quotes_of_a_program(self) -> None:
        """Reads cells in quotes where a program has put these, which is seen by quotes that it has doubled.

        No cell of such a table begins with a quote and is not written so; then columns and rows are the same either
        way. Whether it is one only the whole table tells, so its lines are looked at once before they are read.
        """
        count, doubled = 0, False
        with closing(self._lines_again()) as lines:
            next((line for line in lines if line.strip()), None)  # the header
            for line in islice(lines, self.most):
                for cell in line.rstrip("\r\n").split(self.separator) if '"' in line else ():
                    if cell.startswith('"'):
                        if not IN_QUOTES.fullmatch(cell):
                            return
                        count, doubled = count + 1, doubled or '""' in cell[1:-1]
        if doubled:
            self.quoted = True
            self.notes.append(
                f"{self.file}: {count} cells stand in quotes with quotes doubled inside, which were taken off; "
                f"corpus.quoting=false keeps them."
            )

    def _lines_again(self) -> Generator[str, None, None]:
        return text_lines(self.file, self.dialect.encoding, self.name_bad_rows)


def _reader(lines: Iterable[str], separator: str, quoted: bool) -> Any:
    csv.field_size_limit(LONGEST_CELL)
    return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True)


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().strip("\ufeff").strip() for cell in cells]


def _called(separator: str) -> str:
    return "a tab" if separator == "\t" else repr(separator)


# --- JSON -------------------------------------------------------------------------------------------------------------


class _Json(_Text):
    def _rows(self, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
        between: list[int] = []
        for n, line in enumerate(lines, 1):
            if not line.strip():
                between.append(n)
                continue
            if not self.length and line.lstrip().startswith("["):
                try:
                    values = self._parsed(line + "".join(lines))
                except ValueError as error:
                    raise self._not_json(str(error)) from None
                yield from (self._object(value, f"row {number}") for number, value in enumerate(values, 1))
                return
            self.blank += between if self.length else []
            between, value = [], dict[str, Any]()
            try:
                value = self._parsed(line)
            except ValueError as error:
                self._bad_row(f"it is no JSON ({error}).", self._not_json(f"line {n}: {error}"))
            yield self._object(value, f"line {n}")

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        row: dict[str, Any] = value if isinstance(value, dict) else {}
        if row is not value:
            self._bad_row("it is no JSON object.", self._not_json(f"{where} is no object"))
        self.length += 1
        return row

    def _block(self, rows: list[dict[str, Any]]) -> pa.Table:
        columns = dict.fromkeys(name for row in rows for name in row)
        inside = [f"{name}.{field}" for row in rows for name, v in row.items() if isinstance(v, dict) for field in v]
        self.names = list(dict.fromkeys([*self.names, *columns, *inside]))
        if not columns:  # a row without any cell is one, too
            return pa.table({"": pa.nulls(len(rows))})
        return text_table(list(columns), [[row.get(name, MISSING) for row in rows] for name in columns])

    def _finish(self) -> None:
        if self.whole and self.length and not self.name_bad_rows:  # a column may begin further down
            self.require(self.names)

    @cached_property
    def _decoder(self) -> json.JSONDecoder:
        # where all is in order 1.10 stays 1.10 (whole numbers are exact as they are); else it is a number as any reader
        # of JSON has it, to be written again
        own: dict[str, Any] = {} if self.name_bad_rows else {"parse_float": str, "parse_constant": _constant}
        return json.JSONDecoder(object_pairs_hook=_once, **own)

    def _parsed(self, text: str) -> Any:
        """Raises ValueError for what is no JSON."""
        try:
            value = self._decoder.decode(text)
        except RecursionError as error:
            raise ValueError(error) from None
        if "\\u" in text:
            try:  # names of columns in any case
                "".join(value if self.name_bad_rows else [json.dumps(value, ensure_ascii=False)]).encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"\\u{ord(error.object[error.start]):x} is half of a character") from None
            except TypeError:  # no object
                pass
        return value

    def _not_json(self, why: str) -> UserError:
        return UserError(
            f"corpus: {self.file} is not JSON as expected ({why}). Write one object a line: "
            f'{{"text": "...", "label": "..."}}.'
        )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return found


def _constant(name: str) -> str | None:
    return None if name == "NaN" else name


MISSING = object()
"""In place of a cell that a row does not have; null is one."""


def text_table(names: Sequence[str], columns: Iterable[Sequence[Any]]) -> pa.Table:
    """Columns as text; as JSON (`schema.AS_JSON`) where a cell is no text, or none that Arrow can hold."""
    spelt = [name.encode(errors="replace").decode() for name in names]  # a name may be half a character, too
    made = [_column(name, cells) for name, cells in zip(spelt, columns, strict=True)]
    return pa.table([cells for _, cells in made], pa.schema([kind for kind, _ in made]))


def _column(name: str, cells: Sequence[Any]) -> tuple[pa.Field, pa.Array]:
    if all(cell is MISSING or isinstance(cell, str) for cell in cells):
        with suppress(UnicodeEncodeError):  # of half a character
            return pa.field(name, pa.string()), strings(None if cell is MISSING else cell for cell in cells)
    as_json = strings(None if cell is MISSING else json.dumps(cell) for cell in cells)
    return pa.field(name, pa.string(), metadata=AS_JSON), as_json


# --- Parquet ----------------------------------------------------------------------------------------------------------


class _Parquet(Table):
    """Its names and length are known at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        with self._opened() as found:
            schema: pa.Schema = found.schema_arrow
            self.names = schema.names
            self._check_names()
            structs = [column for column in schema if pa.types.is_struct(column.type)]
            self.names += [f"{column.name}.{inner.name}" for column in structs for inner in column.type]
            self.length = found.metadata.num_rows
            if self.length:
                self.require(self.names)
        try:
            self.classes = _class_names(schema)
        except (ValueError, TypeError, AttributeError, IndexError, RecursionError):
            raise UserError(
                f"corpus: {self.file} has a note `huggingface` of its columns which is not as `datasets` writes it. "
                f"Write the file anew: pandas.read_parquet(FILE).to_parquet(FILE)."
            ) from None

    def _blocks(self) -> Iterator[pa.Table]:
        with self._opened() as found:
            for batch in found.iter_batches(self.size) if self.most is None else ():
                yield pa.Table.from_batches([batch])

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        try:
            with self.file.open("rb") as content:
                yield pq.ParquetFile(content)
        except UserError:
            raise
        except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
            raise UserError(f"corpus: {self.file} is not Parquet as expected ({error}). Write it anew.") from None


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    found = {}
    stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    for name, kind in ((stored.get("info") or {}).get("features") or {}).items():
        kind = kind[0] if isinstance(kind, list) else kind.get("feature", kind)  # of a list of tags, that of one
        if isinstance(kind, dict) and kind.get("names"):
            found[name] = list(kind["names"])
    return found
