"""LibreOffice's help: paragraphs that people wrote in English and translated into some 35 languages (MPL-2.0)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from distilingua.columns import on_disk
from distilingua.corpora.schema import COLUMNS, SCHEMA
from distilingua.errors import UserError, listed
from distilingua.extras import check_installed

ENGLISH = "en-US"
UNPACKED = "usr/share/libreoffice/help"  # inside of Debian's packages
KINDS = "|".join(f"//p[@class='{kind}'][starts-with(@id, 'par_')]" for kind in ("paragraph", "listitem"))


@dataclass
class LibreOfficeHelp:
    """Paragraphs with the program that their page is about as label: writer, calc, impress, … by their folders' names.

    Pages of equal name, and paragraphs of equal id in them, are translations of each other. A page is in one split,
    the same in all languages; its paragraphs stand and fall together (`cluster`).

    Args:
        path: the folder into which packages `libreoffice-help-*` of Debian were unpacked.
        shortest, longest: characters of a paragraph; shorter ones are headings, longer ones mostly tables.
        held_out: share of the pages that dev has, and the same share that test has.
        without: folders of pages that belong to no program.
    """

    path: str
    shortest: int = 20
    longest: int = 600
    held_out: float = 0.1
    without: list[str] = field(default_factory=lambda: ["shared"])
    notes: list[str] = field(default_factory=list, init=False)

    def check(self, languages: list[str]) -> None:
        """Raises UserError where a language is not unpacked, English included: what equals it is not translated."""
        check_installed("corpus=libreoffice_help", ["lxml.html"], "pages")
        for lang in [ENGLISH, *languages]:
            self._folder(lang)

    def load(self, languages: list[str]) -> Dataset:
        self.check(languages)
        self.notes = []
        english = dict(self._paragraphs(self._folder(ENGLISH)))
        return on_disk((self._rows(lang, self._folder(lang), english) for lang in languages), SCHEMA)

    def _folder(self, lang: str) -> Path:
        """Pages of a language; `en` is en-US, and every other code the one that begins so, if there is one alone."""
        roots = [root for root in (Path(self.path) / UNPACKED, Path(self.path)) if root.is_dir()]
        there = sorted(folder.parent for root in roots[:1] for folder in root.glob("*/text"))
        names = [folder.name.casefold() for folder in there]
        alike = [folder for folder, name in zip(there, names, strict=True) if name.startswith(f"{lang.casefold()}-")]
        if lang.casefold() in names:
            return there[names.index(lang.casefold())] / "text"
        if len(alike) == 1:
            return alike[0] / "text"
        package = f"libreoffice-help-{'en-us' if lang in ('en', ENGLISH) else lang.casefold()}"
        raise UserError(
            f"corpus.path={self.path}: expected the unpacked help of {lang!r}, and there is "
            f"{listed([folder.name for folder in there]) if there else 'no help of any language'}. Unpack Debian's "
            f"package there: apt-get download {package} && dpkg-deb -x {package}_*.deb {self.path}."
        )

    def _rows(self, lang: str, folder: Path, english: dict[str, str]) -> pa.Table:
        foreign = folder.parent.name != ENGLISH
        rows, left_out = [], Counter[str]()
        for key, text in self._paragraphs(folder) if foreign else english.items():
            if foreign and english.get(key) == text:
                left_out["as in English"] += 1
            elif not self.shortest <= len(text) <= self.longest:
                left_out[f"of fewer than {self.shortest} or more than {self.longest} characters"] += 1
            else:
                rows.append(self._row(lang, key, text))
        if told := ", ".join(f"{count} {why}" for why, count in sorted(left_out.items())):
            self.notes.append(f"Paragraphs left out of {lang}: {told}.")
        return pa.Table.from_pylist(rows, SCHEMA)

    def _row(self, lang: str, key: str, text: str) -> dict[str, Any]:
        page, label = key.partition("#")[0], key.partition("/")[0]
        place = int.from_bytes(sha256(page.encode()).digest()[:4], "big") / 2**32
        split = "test" if place < self.held_out else "dev" if place < 2 * self.held_out else "train"
        known = {"id": f"{lang}/{key}", "lang": lang, "split": split, "text": text, "label": label}
        return {**dict.fromkeys(COLUMNS, ""), **known, "group": key, "cluster": page}

    def _paragraphs(self, folder: Path) -> Iterator[tuple[str, str]]:
        """`PAGE#PARAGRAPH` and its text, of all pages of programs."""
        from lxml import html

        for file in sorted(folder.rglob("*.html")):
            page = file.relative_to(folder).with_suffix("").as_posix()
            if page.partition("/")[0] in self.without or "/" not in page:
                continue
            texts: dict[str, str] = {}
            for paragraph in html.parse(file, html.HTMLParser(encoding="utf-8")).xpath(KINDS):
                # what a page includes twice has its id twice
                texts.setdefault(f"{page}#{paragraph.get('id')}", " ".join(paragraph.text_content().split()))
            yield from texts.items()
