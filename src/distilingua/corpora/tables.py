"""Tables in files, every cell as it was written: CSV and TSV in a stated dialect, JSON with its own spellings, Parquet.

Nobody guesses types, encodings, quoting or columns: what is not as stated is refused, by file and line. Files are
opened by their name, so no pattern, cache or folder of a library takes part. Each is parsed once, a block of rows at a
time, which leaves as columns of Arrow: memory does not grow with the file.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
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
    """

    blocks: Iterator[pa.Table] = field(default_factory=lambda: iter(()))
    names: list[str] = field(default_factory=list)
    length: int = 0
    blank: list[int] = field(default_factory=list)
    whole: bool = True
    notes: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)


def read_table(file: Path, dialect: Dialect, require: Callable[[list[str]], None], most: int | None = None) -> Table:
    """A CSV, TSV, JSON or Parquet file, to be read by its `blocks`.

    Args:
        require: raises UserError where column names are not the wanted ones.
        most: rows to read at most, of Parquet none; null for all.

    Raises:
        UserError: what is not in this dialect; `blocks` do, too.
    """
    table = Table()
    if file.suffix.lower() == ".parquet":
        _parquet(file, table, require, most)
    else:
        table.blocks = _text_blocks(file, table, dialect, require, most)
    return table


def _text_blocks(
    file: Path, table: Table, dialect: Dialect, require: Callable[[list[str]], None], most: int | None
) -> Iterator[pa.Table]:
    with closing(_lines(file, dialect.encoding)) as lines:
        if file.suffix.lower() in DELIMITED:
            yield from _delimited(file, lines, table, dialect, require, most)
        else:
            yield from _json(file, lines, table, require, most)
    if table.blank:
        table.notes.append(f"{file}: {len(table.blank)} blank lines are no rows, the first is line {table.blank[0]}.")


# --- bytes to lines ---------------------------------------------------------------------------------------------------


def _lines(file: Path, encoding: str) -> Generator[str, None, None]:
    """Lines with their ends; a file that is no text in this encoding raises UserError."""
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    try:
        with file.open("rb") as head:
            begins = head.read(8)
        kind = next((kind for magic, kind in OTHERS.items() if begins.startswith(magic)), None)
        if kind:
            raise UserError(f"corpus: {file} is a {kind} file by its content. Unpack it, or name it as what it is.")
        if (utf8 and _mark(begins)) or (not utf8 and _is_utf8(file.read_bytes(), encoding)):
            raise _undecodable(file, encoding)
        with file.open(encoding="utf-8-sig" if utf8 else encoding, newline="") as lines:
            for n, line in enumerate(lines, 1):
                if "\0" in line:
                    raise _undecodable(file, encoding, n)
                yield line
    except UnicodeError:
        raise _undecodable(file, encoding) from None
    except OSError as error:
        raise UserError(f"corpus: {file} cannot be opened ({error.strerror}). Make it readable.") from None


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


# --- CSV and TSV ------------------------------------------------------------------------------------------------------


def _reader(lines: Iterable[str], separator: str, quoted: bool) -> Any:
    csv.field_size_limit(LONGEST_CELL)
    if quoted:
        return csv.reader(lines, delimiter=separator, quotechar='"', doublequote=True, strict=True)
    return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().strip("\ufeff").strip() for cell in cells]


def _delimited(
    file: Path,
    lines: Iterator[str],
    table: Table,
    dialect: Dialect,
    require: Callable[[list[str]], None],
    most: int | None,
) -> Iterator[pa.Table]:
    suffix = file.suffix.lower()
    separator, quoted = dialect.between(suffix), dialect.quoted(suffix)
    rows = _records(
        file, lines, table, separator, quoted, partial(_check_header, file, dialect=dialect, require=require)
    )
    found: Iterator[pa.Table] = (
        pa.table([strings(cells) for cells in zip(*block, strict=True)], table.names) for block in _batched(rows, most)
    )
    if dialect.quoting is None and not quoted:
        # whether quotes are a program's or the text's own only the whole table tells
        found = iter(_unquoted(file, table, list(found)))
    yield from found
    table.whole = next(rows, None) is None


def _batched(rows: Iterator[Any], most: int | None) -> Iterator[list[Any]]:
    """Rows by the block, so many in all."""
    some = islice(rows, most)
    while block := list(islice(some, BLOCK)):
        yield block


def _records(
    file: Path,
    lines: Iterator[str],
    table: Table,
    separator: str,
    quoted: bool,
    check_header: Callable[[list[str]], None],
) -> Iterator[list[str]]:
    """The cells of every row; the header and blank lines go to `table`."""
    reader = _reader(lines, separator, quoted)
    pending: list[int] = []  # lines that may turn out to be between rows
    broken, end = [], 0  # rows of several lines; the last line that was read
    while True:
        first = end + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(
                f"corpus: {file}, line {first}: its quotes do not pair ({error}). A cell that begins with a quote ends "
                f'with one, and has "" for every other. If quotes are characters like any other, set '
                f"corpus.quoting=false."
            ) from None
        end = reader.line_num
        if not table.names:
            if len(cells) > 1 or any(cell.strip() for cell in cells):
                table.names = _names(cells)
                check_header(table.names)
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
        if len(cells) > 1 and _names(cells) == table.names:
            raise UserError(
                f"corpus: {file}, line {first} is the header once more, as where two files were joined. Take it out."
            )
        if len(cells) != len(table.names):
            raise UserError(_miscounted(file, first, cells, table.names, separator, quoted))
        if end > first:
            broken.append(first)
        table.length += 1
        yield cells
    if broken:
        table.notes.append(f"{file}: {len(broken)} rows hold line breaks, the first in line {broken[0]}.")


def _check_header(file: Path, names: list[str], *, dialect: Dialect, require: Callable[[list[str]], None]) -> None:
    """Raises UserError for names that stand twice or are not the wanted ones; says which dialect has them."""
    _once_each(file, names)
    try:
        require(names)
    except UserError:
        suffix = file.suffix.lower()
        separator, quoted = dialect.between(suffix), dialect.quoted(suffix)
        header = next(line for line in _lines(file, dialect.encoding) if line.strip())
        for other in (separator, *(s for s in SEPARATORS if s != separator)):
            for in_quotes in (quoted, not quoted):
                try:
                    found = _names(next(_reader([header], other, in_quotes)))
                    require(found)
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


def _once_each(file: Path, names: list[str]) -> None:
    """Raises UserError for a column whose name another one has too."""
    twice = [name for n, name in enumerate(names) if name and name in names[:n]]
    if twice:
        raise UserError(
            f"corpus: {file} has two columns named {twice[0]!r} ({', '.join(names)}). Give each a name of its own."
        )


def _called(separator: str) -> str:
    return "a tab" if separator == "\t" else repr(separator)


def _miscounted(file: Path, line: int, cells: list[str], names: list[str], separator: str, quoted: bool) -> str:
    name = _called(separator)
    if len(cells) == len(names) + 1 and not cells[-1].strip():
        advice = f"The line ends in {name}, which the header lacks: take it away, or name one more column."
    elif quoted:
        advice = (
            f'A text that holds {name} or a line break stands in quotes, right after {name}: "like{separator} this".'
        )
    else:
        advice = f"A text holds neither {name} nor a line break, unless in quotes: then set corpus.quoting=true."
    return (
        f"corpus: {file}, line {line} has {len(cells)} cells, and the header names {len(names)} columns "
        f"({', '.join(names)}). {advice}"
    )


def _unquoted(file: Path, table: Table, parts: list[pa.Table]) -> list[pa.Table]:
    """Takes quotes off where a program has put them, which is seen by quotes that it has doubled.

    No cell of such a table begins with a quote and is not written so; then columns and rows are the same either way.
    """
    quoted = [
        cell
        for part in parts
        for cells in part.columns
        for cell in cells.filter(pc.starts_with(cells, '"')).to_pylist()
    ]
    inner = [cell[1:-1] for cell in quoted]
    written = all(len(cell) > 1 and cell.endswith('"') for cell in quoted)
    if not written or not any('""' in cell for cell in inner) or any('"' in cell.replace('""', "") for cell in inner):
        return parts
    table.notes.append(
        f"{file}: {len(quoted)} cells stand in quotes with quotes doubled inside, which were taken off; "
        f"corpus.quoting=false keeps them."
    )

    def without(cells: pa.ChunkedArray) -> pa.ChunkedArray:
        bare = pc.replace_substring(pc.utf8_slice_codeunits(cells, 1, -1), '""', '"')
        return pc.if_else(pc.starts_with(cells, '"'), bare, cells)

    return [pa.table([without(cells) for cells in part.columns], part.column_names) for part in parts]


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json(
    file: Path, lines: Iterator[str], table: Table, require: Callable[[list[str]], None], most: int | None
) -> Iterator[pa.Table]:
    rows = _objects(file, lines, table)
    names: dict[str, None] = {}
    for block in _batched(rows, most):
        table.length += len(block)
        for row in block:
            for name, value in row.items():
                names[name] = None
                if isinstance(value, dict):
                    names |= dict.fromkeys(f"{name}.{inner}" for inner in value)
        table.names = list(names)
        columns = dict.fromkeys(name for row in block for name in row)
        cells = {name: [row.get(name) for row in block] for name in columns}
        fields = [pa.field(name, pa.string(), metadata=None if _texts(cells[name]) else AS_JSON) for name in columns]
        as_text = [cells[f.name] if f.metadata is None else map(_json_text, cells[f.name]) for f in fields]
        # a row without any cell is one, too
        yield pa.table([strings(values) for values in as_text], pa.schema(fields)) if fields else _nothing(len(block))
    table.whole = next(rows, None) is None
    if table.whole and table.length:  # a column may begin further down
        require(table.names)


def _texts(cells: list[Any]) -> bool:
    return all(cell is None or isinstance(cell, str) for cell in cells)


def _json_text(cell: Any) -> str | None:
    return None if cell is None else json.dumps(cell, ensure_ascii=False)


def _nothing(rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(rows)})


def _objects(file: Path, lines: Iterator[str], table: Table) -> Iterator[dict[str, Any]]:
    """Every row; numbers of blank lines go to `table`."""
    pending: list[int] = []
    began = False
    for n, line in enumerate(lines, 1):
        if not line.strip():
            pending.append(n)
            continue
        if not began and line.lstrip().startswith("["):
            for number, value in enumerate(_parse(file, line + "".join(lines), ""), 1):
                if not isinstance(value, dict):
                    raise _not_json(file, f"row {number} is no object")
                yield value
            return
        row = _parse(file, line, f"line {n}: ")
        if not isinstance(row, dict):
            raise _not_json(file, f"line {n} is no object")
        table.blank += pending if began else []
        pending, began = [], True
        yield row


def _parse(file: Path, text: str, where: str) -> Any:
    try:
        # 1.10 stays 1.10; whole numbers are exact as they are
        value = json.loads(text, parse_float=str, parse_constant=_constant, object_pairs_hook=_once)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _not_json(file, f"{where}\\u{ord(error.object[error.start]):x} is half of a character") from None
    except (ValueError, RecursionError) as error:
        raise _not_json(file, f"{where}{error}") from None
    return value


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


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet(file: Path, table: Table, require: Callable[[list[str]], None], most: int | None) -> None:
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
    table.blocks = _parquet_blocks(file) if most is None else iter(())
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


def _parquet_blocks(file: Path) -> Iterator[pa.Table]:
    try:
        with file.open("rb") as content:
            for batch in pq.ParquetFile(content).iter_batches(BLOCK):
                yield pa.Table.from_batches([batch])
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise _not_parquet(file, error) from None


def _not_parquet(file: Path, error: Exception) -> UserError:
    return UserError(f"corpus: {file} is not Parquet as expected ({error}). Write it anew.")
