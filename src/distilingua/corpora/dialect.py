"""How text files are written: their encoding, which is never guessed but in a message, and what is between cells."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilingua.errors import UserError

DELIMITED = {".csv": ",", ".tsv": "\t"}
SEPARATORS = {
    ",": "'corpus.separator=\",\"'",
    ";": "'corpus.separator=\";\"'",
    "\t": "corpus.separator=tab",
    "|": "'corpus.separator=\"|\"'",
}
"""What files are separated by, and what to type then; ";" and "|" mean something to a shell and to Hydra."""
OTHERS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip or XLSX",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "Parquet",
}
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # before utf-16, which begins alike
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
NO_UTF8 = re.compile("[\udc80-\udcff]")  # what stands for bytes that are no UTF-8 where these are let through


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
    unsure = utf8 and keep_bad_bytes
    how = {"encoding": "utf-8-sig" if utf8 else encoding, "errors": "surrogateescape" if unsure else "strict"}
    try:
        _check_kind(file, encoding, utf8)
        with opened(file, newline="", **how) as lines:
            for n, line in enumerate(lines, 1):
                if "\0" in line:
                    raise _undecodable(file, encoding, n)
                if unsure and not line.isascii() and NO_UTF8.search(line):
                    unsure = False
                    if _in_another_encoding(file):
                        raise _undecodable(file, encoding)
                yield line
    except UnicodeError:
        raise _undecodable(file, encoding) from None
    except OSError as error:
        raise UserError(f"corpus: {file} cannot be opened ({error.strerror}). Make it readable.") from None


def _check_kind(file: Path, encoding: str, utf8: bool) -> None:
    with file.open("rb") as content:
        begins = content.read(8)
    if kind := next((kind for magic, kind in OTHERS.items() if begins.startswith(magic)), None):
        raise UserError(f"corpus: {file} is a {kind} file by its content. Unpack it, or name it as what it is.")
    if _mark(begins) if utf8 else _is_utf8(file.read_bytes(), encoding):
        raise _undecodable(file, encoding)


def _decodes(data: bytes, encoding: str) -> bool:
    """Whether these bytes are some text in this encoding."""
    try:
        return bool(data.decode(encoding))
    except UnicodeDecodeError:
        return False


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
    return _decodes(data, "utf-8")


def _undecodable(file: Path, encoding: str, null: int | None = None) -> UserError:
    """Says where a file stops being text in an encoding, and which it may be in.

    Args:
        null: a line with a null character, which is no text either.
    """
    data = file.read_bytes()
    line, what, alone = null or 1, "there is a null character, and text has none", False
    if not null:
        line, what, alone = _first_bad_byte(data, encoding)
    told = f"corpus: {file}, line {line}: "
    guess = _mark(data)
    if guess is None and data[:64].count(0) > 8:
        guess = "utf-16-le" if data[1:64:2].count(0) > data[:64:2].count(0) else "utf-16-be"
    if guess is None and null:
        return UserError(f"{told}{what}. Take it out.")
    if guess is None and _is_utf8(data, encoding):
        return UserError(
            f"{told}this file is UTF-8, and would be misread as {encoding}. Set corpus.encoding=utf-8, and convert "
            f"files that are in another encoding."
        )
    if guess is None:
        guess = "cp1252" if any(0x80 <= byte < 0xA0 for byte in data) and _decodes(data, "cp1252") else "latin-1"
        if alone:
            return UserError(
                f"{told}{what}, and the rest of the file is. Mend that line; or, if all files are in another encoding, "
                f"name it: corpus.encoding={guess}, for example."
            )
    return UserError(
        f"{told}{what}. Name the encoding that the files were written in, it looks like corpus.encoding={guess}."
    )


def _first_bad_byte(data: bytes, encoding: str) -> tuple[int, str, bool]:
    """The line of the first byte that is no text, what to say of it, and whether hardly any other one is like it."""
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore").replace("\r\n", "\n").replace("\r", "\n")
        text = data.decode(encoding, "replace")
        alone = text.count("\ufffd") * 9 < sum(not c.isascii() for c in text)
        return before.count("\n") + 1, f"byte 0x{data[error.start]:02x} is not {encoding}", alone
    except UnicodeError:  # UTF-16 without its mark
        pass
    return 1, f"this is not {encoding}", False
