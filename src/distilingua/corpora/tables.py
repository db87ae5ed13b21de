"""Tables in files, every cell as it was written: CSV and TSV in a stated dialect, JSON with its own spellings, Parquet.

Nobody guesses types, encodings, quoting or columns: what is not as stated is refused, by file and line. Files are
opened by their name, so no pattern, cache or folder of a library takes part. Each is parsed once, a block of rows at a
time, which leaves as columns of Arrow: memory does not grow with the file.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distilingua.columns import BLOCK, strings
from distilingua.corpora.schema import AS_JSON
from distilingua.errors import UserError

DELIMITED = {".csv": ",", ".tsv": "\t"}
SEPARATORS = {",": "'corpus.separator=\",\"'", ";": "'corpus.separator=\";\"'", "\t": "corpus.separator=tab"}
SEPARATORS["|"] = "'corpus.separator=\"|\"'"
"""What files are separated by, and what to type then; ";" and "|" mean something to a shell and to Hydra."""
OTHERS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip or XLSX",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
OTHERS[b"PAR1"] = "Parquet"
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # before utf-16, which begins alike
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
NO_UTF8 = re.compile("[\udc80-\udcff]")  # what stands for bytes that are no UTF-8 where these are let through
LONGEST_CELL = 2**31 - 1  # of Python's csv, which stops at 131 072 characters unless told


@dataclass(frozen=True)
class Dialect:
    """How text files are written.

    Args:
        encoding: as Python names it; utf-8 may begin with a byte order mark.
        separator: one character, or `tab`; null: a comma in .csv, a tab in .tsv.
        quoting: whether cells may stand in quotes, so that they can hold separators and line breaks, a quote being
            written twice; null: in .csv. In .tsv a quote is then a character like any other, unless every cell that
            begins with one also ends with one and has all others doubled, as programs write them: that is said.
    """

    encoding: str = "utf-8"
    separator: str | None = None
    quoting: bool | None = None

    def check(self) -> None:
        """Raises UserError for an encoding that Python does not know, or a separator that cannot be one."""
        try:
            text = "a".encode(self.encoding).decode(self.encoding) == "a"
        except (LookupError, ValueError, TypeError):  # unknown, or none of text, such as hex
            text = False
        if not text:
            raise UserError(
                f"corpus.encoding={self.encoding} is no encoding of text. Try corpus.encoding=utf-8, latin-1, cp1252 "
                f"or utf-16."
            )
        if self.quoting not in (None, True, False):
            raise UserError(
                f"corpus.quoting={self.quoting} is neither true nor false, nor null: true in .csv, false in .tsv."
            )
        if self.separator is not None and (len(self.between(".csv")) != 1 or self.between(".csv") in '"\r\n'):
            raise UserError(
                f"corpus.separator={self.separator!r} is not one character. Type {SEPARATORS[';']}, "
                f"{SEPARATORS[chr(9)]}, or null: a comma in .csv, a tab in .tsv."
            )

    def between(self, suffix: str) -> str:
        return {"tab": "\t", "\\t": "\t", None: DELIMITED[suffix]}.get(self.separator, str(self.separator))

    def quoted(self, suffix: str) -> bool:
        return suffix == ".csv" if self.quoting is None else self.quoting


@dataclass
class Table:
    """What is read of a file; all of it is known once `blocks` has been gone through.

    Args:
        blocks: gives its rows, some thousands at a time; columns are text, of JSON cells of other types as JSON again
            (`schema.AS_JSON`), of Parquet what they are there.
        names: its columns; of JSON those of any row, fields of objects too, as `column.field`.
        length: how many rows.
        blank: numbers of the lines between rows that hold nothing, and are no rows.
        whole: whether that is all of the file.
        notes: what was read in a way that somebody may not expect, in sentences.
        classes: names of the classes that a column of Parquet numbers, as `datasets` stores them.
        problems: number of a row, from 0 -> why it cannot be read, of those that are named and not refused.
    """

    blocks: Iterator[pa.Table] = field(default_factory=lambda: iter(()))
    names: list[str] = field(default_factory=list)
    length: int = 0
    blank: list[int] = field(default_factory=list)
    whole: bool = True
    notes: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)


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
    table = Table()
    if file.suffix.lower() == ".parquet":
        _parquet(file, table, require, most, size)
    else:
        table.blocks = _Reading(file, table, dialect, require, most, name_bad_rows, size, opened).blocks()
    return table


@dataclass
class _Reading:
    """A text file that is being read; see `read_table`."""

    file: Path
    table: Table
    dialect: Dialect
    require: Callable[[list[str]], None]
    most: int | None
    name_bad_rows: bool
    size: int
    opened: Callable[..., Any]

    def __post_init__(self) -> None:
        self.suffix = self.file.suffix.lower()
        if self.suffix in DELIMITED:
            self.separator, self.quoted = self.dialect.between(self.suffix), self.dialect.quoted(self.suffix)
        # where all is in order 1.10 stays 1.10 (whole numbers are exact as they are); else it is a number as any reader
        # of JSON has it, to be written again
        own: dict[str, Any] = {} if self.name_bad_rows else {"parse_float": str, "parse_constant": _constant}
        self.decoder = json.JSONDecoder(object_pairs_hook=_once, **own)

    def blocks(self) -> Iterator[pa.Table]:
        with closing(text_lines(self.file, self.dialect.encoding, self.name_bad_rows, self.opened)) as lines:
            if self.suffix in DELIMITED:
                if self.dialect.quoting is None and not self.quoted:
                    self._take_quotes_of_a_program()
                rows: Iterator[Any] = self._records(lines)
                block_of: Callable[[list[Any]], pa.Table] = self._block_of_records
            else:
                rows, block_of = self._objects(lines), self._block_of_objects
            some = islice(rows, self.most)
            while block := list(islice(some, self.size)):
                yield block_of(block)
            table = self.table
            table.whole = next(rows, None) is None
            # a column of JSON may begin further down
            if self.suffix not in DELIMITED and table.whole and table.length and not self.name_bad_rows:
                self.require(table.names)
        if table.blank:
            count, first = len(table.blank), table.blank[0]
            table.notes.append(f"{self.file}: {count} blank lines are no rows, the first is line {first}.")

    # --- CSV and TSV --------------------------------------------------------------------------------------------------

    def _block_of_records(self, rows: list[list[str]]) -> pa.Table:
        return text_table(self.table.names, list(zip(*rows, strict=True)))

    def _records(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """The cells of every row; the header and blank lines go to `table`."""
        table, reader = self.table, _reader(lines, self.separator, self.quoted)
        pending: list[int] = []  # lines that may turn out to be between rows
        broken, end = [], 0  # rows of several lines; the last line that was read
        header: list[str] = []
        while True:
            first = end + 1
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise UserError(
                    f"corpus: {self.file}, line {first}: its quotes do not pair ({error}). A cell that begins with a "
                    f'quote ends with one, and has "" for every other. If quotes are characters like any other, set '
                    f"corpus.quoting=false."
                ) from None
            end = reader.line_num
            if not table.names:
                if len(cells) > 1 or any(cell.strip() for cell in cells):
                    table.names, header = _names(cells), cells
                    self._check_header()
                continue
            if not cells or (len(cells) == 1 < len(table.names) and not cells[0].strip()):
                pending.append(first)
                continue
            if pending:
                if len(table.names) == 1:  # an empty line is an empty cell, but at the end
                    table.length += len(pending)
                    yield from ([""] for _ in pending)
                else:
                    table.blank += pending
                pending = []
            if len(cells) != len(table.names):
                cells = self._of_another_length(first, cells)
            elif cells == header and len(cells) > 1:
                self._header_again(first)
            if end > first:
                broken.append(first)
            table.length += 1
            yield cells
        if broken:
            table.notes.append(f"{self.file}: {len(broken)} rows hold line breaks, the first in line {broken[0]}.")

    def _header_again(self, line: int) -> None:
        if not self.name_bad_rows:
            raise UserError(
                f"corpus: {self.file}, line {line} is the header once more, as where two files were joined. Take it "
                f"out."
            )
        self.table.problems[self.table.length] = "it is the header once more."

    def _of_another_length(self, line: int, cells: list[str]) -> list[str]:
        """A row that has more or fewer cells than the header, as long as that; or refused."""
        names = self.table.names
        if self.name_bad_rows:
            told = f"it has {len(cells)} cells, and the header names {len(names)} columns."
            self.table.problems[self.table.length] = told
            return [*cells, *[""] * len(names)][: len(names)]
        name = _called(self.separator)
        if len(cells) == len(names) + 1 and not cells[-1].strip():
            advice = f"The line ends in {name}, which the header lacks: take it away, or name one more column."
        elif self.quoted:
            advice = (
                f"A text that holds {name} or a line break stands in quotes, right after {name}: "
                f'"like{self.separator} this".'
            )
        else:
            advice = f"A text holds neither {name} nor a line break, unless in quotes: then set corpus.quoting=true."
        raise UserError(
            f"corpus: {self.file}, line {line} has {len(cells)} cells, and the header names {len(names)} columns "
            f"({', '.join(names)}). {advice}"
        )

    def _check_header(self) -> None:
        """Raises UserError for names that stand twice or are not the wanted ones; says which dialect has them."""
        file, names, separator, quoted = self.file, self.table.names, self.separator, self.quoted
        _once_each(file, names)
        try:
            self.require(names)
        except UserError:
            header = next(line for line in text_lines(file, self.dialect.encoding, self.name_bad_rows) if line.strip())
            for other in (separator, *(s for s in SEPARATORS if s != separator)):
                for in_quotes in (quoted, not quoted):
                    try:
                        found = _names(next(_reader([header], other, in_quotes)))
                        self.require(found)
                    except (UserError, csv.Error):
                        continue
                    wanted = [SEPARATORS[other]] * (other != separator)
                    wanted += [f"corpus.quoting={str(in_quotes).lower()}"] * (in_quotes != quoted)
                    raise UserError(
                        f"corpus: {file} has no columns such as are named under corpus.columns, unless it is read in "
                        f"another way: {', '.join(found)}. Set {' '.join(wanted)}."
                    ) from None
            other = max(SEPARATORS, key=header.count)
            if len(names) == 1 and other in header:  # whatever its columns are called
                raise UserError(
                    f"corpus: {file} has one column, {names[0]!r}, as {_called(separator)} does not stand in its first "
                    f"line, and {_called(other)} does. Set {SEPARATORS[other]}."
                ) from None
            raise

    def _take_quotes_of_a_program(self) -> None:
        """Reads cells in quotes where a program has put these, which is seen by quotes that it has doubled.

        No cell of such a table begins with a quote and is not written so; then columns and rows are the same either
        way. Whether it is one only the whole table tells, so its lines are looked at once before they are read.
        """
        count, doubled = 0, False
        with closing(text_lines(self.file, self.dialect.encoding, self.name_bad_rows)) as lines:
            next((line for line in lines if line.strip()), None)  # the header
            for line in islice(lines, self.most):
                if '"' not in line:
                    continue
                for cell in line.rstrip("\r\n").split(self.separator):
                    if not cell.startswith('"'):
                        continue
                    inner = cell[1:-1]
                    if len(cell) < 2 or not cell.endswith('"') or '"' in inner.replace('""', ""):
                        return
                    count, doubled = count + 1, doubled or '""' in inner
        if doubled:
            self.quoted = True
            self.table.notes.append(
                f"{self.file}: {count} cells stand in quotes with quotes doubled inside, which were taken off; "
                f"corpus.quoting=false keeps them."
            )

    # --- JSON ---------------------------------------------------------------------------------------------------------

    def _block_of_objects(self, rows: list[dict[str, Any]]) -> pa.Table:
        columns = dict.fromkeys(name for row in rows for name in row)
        inside = [f"{name}.{field}" for row in rows for name, v in row.items() if isinstance(v, dict) for field in v]
        self.table.names = list(dict.fromkeys([*self.table.names, *columns, *inside]))
        if not columns:  # a row without any cell is one, too
            return pa.table({"": pa.nulls(len(rows))})
        return text_table(list(columns), [[row.get(name, MISSING) for row in rows] for name in columns])

    def _objects(self, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
        """Every row; numbers of blank lines go to `table`."""
        table, pending = self.table, list[int]()
        for n, line in enumerate(lines, 1):
            if not line.strip():
                pending.append(n)
                continue
            if not table.length and line.lstrip().startswith("["):
                try:
                    values = self._parsed(line + "".join(lines))
                except ValueError as error:
                    raise _not_json(self.file, str(error)) from None
                for number, value in enumerate(values, 1):
                    yield self._object(value, f"row {number}")
                return
            table.blank += pending if table.length else []
            pending = []
            try:
                value = self._parsed(line)
            except ValueError as error:
                value = self._no_row(f"line {n}: {error}", f"it is no JSON ({error}).")
            yield self._object(value, f"line {n}")

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        row = value if isinstance(value, dict) else self._no_row(f"{where} is no object", "it is no JSON object.")
        self.table.length += 1
        return row

    def _no_row(self, told: str, problem: str) -> dict[str, Any]:
        """A row of nothing instead of one that is none; or that is refused."""
        if not self.name_bad_rows:
            raise _not_json(self.file, told)
        self.table.problems[self.table.length] = problem
        return {}

    def _parsed(self, text: str) -> Any:
        """Raises ValueError for what is no JSON."""
        try:
            value = self.decoder.decode(text)
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


def _reader(lines: Iterable[str], separator: str, quoted: bool) -> Any:
    csv.field_size_limit(LONGEST_CELL)
    if quoted:
        return csv.reader(lines, delimiter=separator, quotechar='"', doublequote=True, strict=True)
    return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().strip("\ufeff").strip() for cell in cells]


def _once_each(file: Path, names: list[str]) -> None:
    """Raises UserError for a column whose name another one has too."""
    twice = [name for n, name in enumerate(names) if name and name in names[:n]]
    if twice:
        raise UserError(
            f"corpus: {file} has two columns named {twice[0]!r} ({', '.join(names)}). Give each a name of its own."
        )


def _called(separator: str) -> str:
    return "a tab" if separator == "\t" else repr(separator)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return found


def _constant(name: str) -> str | None:
    return None if name == "NaN" else name


def _not_json(file: Path, why: str) -> UserError:
    return UserError(
        f'corpus: {file} is not JSON as expected ({why}). Write one object a line: {{"text": "...", "label": "..."}}.'
    )


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


# --- bytes to lines ---------------------------------------------------------------------------------------------------


def text_lines(
    file: Path, encoding: str, keep_bad_bytes: bool = False, opened: Callable[..., Any] = Path.open
) -> Generator[str, None, None]:
    """Lines with their ends; a file that is no text in this encoding raises UserError.

    Args:
        keep_bad_bytes: let bytes that are no UTF-8 through, as `surrogateescape` spells them, unless nearly all lines
            with other letters than ASCII's have some: then it is the file that is in another encoding.
        opened: what opens the file.
    """
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    try:
        with file.open("rb") as head:
            begins = head.read(8)
        kind = next((kind for magic, kind in OTHERS.items() if begins.startswith(magic)), None)
        if kind:
            raise UserError(f"corpus: {file} is a {kind} file by its content. Unpack it, or name it as what it is.")
        if (utf8 and _mark(begins)) or (not utf8 and _is_utf8(file.read_bytes(), encoding)):
            raise _undecodable(file, encoding)
        errors = "surrogateescape" if utf8 and keep_bad_bytes else "strict"
        known = errors == "strict"
        with opened(file, encoding="utf-8-sig" if utf8 else encoding, errors=errors, newline="") as lines:
            for n, line in enumerate(lines, 1):
                if "\0" in line:
                    raise _undecodable(file, encoding, n)
                if not known and not line.isascii() and NO_UTF8.search(line):
                    known = True
                    if _in_another_encoding(file):
                        raise _undecodable(file, encoding)
                yield line
    except UnicodeError:
        raise _undecodable(file, encoding) from None
    except OSError as error:
        raise UserError(f"corpus: {file} cannot be opened ({error.strerror}). Make it readable.") from None


def _in_another_encoding(file: Path) -> bool:
    """Whether several lines are no UTF-8, and hardly any is that has a letter which is not one of ASCII's."""
    with file.open("rb") as lines:
        each = [_decodes(line, "utf-8") for line in lines if not line.isascii()]
    return each.count(False) > 1 and each.count(True) * 9 < len(each)


def _mark(begins: bytes) -> str | None:
    return next((name for mark, name in MARKS.items() if begins.startswith(mark)), None)


def _is_utf8(data: bytes, encoding: str) -> bool:
    """Whether bytes that are said to be in another encoding are UTF-8, which no other text is by chance."""
    if b"\0" in data or (data.isascii() and "a".encode(encoding) == b"a"):
        return False
    try:
        return bool(data.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _undecodable(file: Path, encoding: str, null: int | None = None) -> UserError:
    """Says where a file stops being text in an encoding, and which it may be in.

    Args:
        null: a line with a null character, which is no text either.
    """
    data = file.read_bytes()
    line, what, text = null or 1, "there is a null character, and text has none", ""
    if not null:
        what = f"this is not {encoding}"
        try:
            data.decode(encoding)
        except UnicodeDecodeError as error:
            before = data[: error.start].decode(encoding, "ignore").replace("\r\n", "\n").replace("\r", "\n")
            line, what = before.count("\n") + 1, f"byte 0x{data[error.start]:02x} is not {encoding}"
            text = data.decode(encoding, "replace")
        except UnicodeError:  # UTF-16 without its mark
            pass
    guess = _mark(data)
    if guess is None and data[:64].count(0) > 8:
        guess = "utf-16-le" if data[1:64:2].count(0) > data[:64:2].count(0) else "utf-16-be"
    elif guess is None and null:
        return UserError(f"corpus: {file}, line {line}: {what}. Take it out.")
    elif guess is None and _is_utf8(data, encoding):
        return UserError(
            f"corpus: {file}, line {line}: this file is UTF-8, and would be misread as {encoding}. Set "
            f"corpus.encoding=utf-8, and convert files that are in another encoding."
        )
    elif guess is None:
        guess = "cp1252" if any(0x80 <= byte < 0xA0 for byte in data) and _decodes(data, "cp1252") else "latin-1"
        if text.count("\ufffd") * 9 < sum(not c.isascii() for c in text):
            return UserError(
                f"corpus: {file}, line {line}: {what}, and the rest of the file is. Mend that line; or, if all files "
                f"are in another encoding, name it: corpus.encoding={guess}, for example."
            )
    return UserError(
        f"corpus: {file}, line {line}: {what}. Name the encoding that the files were written in, it looks like "
        f"corpus.encoding={guess}."
    )


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        return bool(data.decode(encoding))
    except UnicodeDecodeError:
        return False


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet(file: Path, table: Table, require: Callable[[list[str]], None], most: int | None, size: int) -> None:
    try:
        with file.open("rb") as content:
            found = pq.ParquetFile(content)
            schema = found.schema_arrow
            _once_each(file, schema.names)
            structs = [field for field in schema if pa.types.is_struct(field.type)]
            inside = [f"{field.name}.{inner.name}" for field in structs for inner in field.type]
            table.names, table.length = [*schema.names, *inside], found.metadata.num_rows
            if table.length:
                require(table.names)
    except UserError:
        raise
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise _not_parquet(file, error) from None
    table.blocks = _parquet_blocks(file, size) if most is None else iter(())
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for name, kind in ((stored.get("info") or {}).get("features") or {}).items():
            kind = kind[0] if isinstance(kind, list) else kind.get("feature", kind)  # of a list of tags, that of one
            if isinstance(kind, dict) and kind.get("names"):
                table.classes[name] = list(kind["names"])
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError):
        raise UserError(
            f"corpus: {file} has a note `huggingface` of its columns which is not as `datasets` writes it. Write the "
            f"file anew: pandas.read_parquet(FILE).to_parquet(FILE)."
        ) from None


def _parquet_blocks(file: Path, size: int) -> Iterator[pa.Table]:
    try:
        with file.open("rb") as content:
            for batch in pq.ParquetFile(content).iter_batches(size):
                yield pa.Table.from_batches([batch])
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise _not_parquet(file, error) from None


def _not_parquet(file: Path, error: Exception) -> UserError:
    return UserError(f"corpus: {file} is not Parquet as expected ({error}). Write it anew.")
