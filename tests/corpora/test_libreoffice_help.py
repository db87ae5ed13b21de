"""Small pages of the make of LibreOffice's help, as Debian's packages unpack them."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from distilingua.corpora.libreoffice_help import UNPACKED, LibreOfficeHelp
from distilingua.errors import UserError

ENGLISH = {
    "swriter/01/fields": {
        "par_id1": "Inserts a field at the <b>cursor</b>\n position.",
        "par_id2": "=SUM(A1:A9) and so on",
    },
    "scalc/guide/sort": {"par_id1": "Sorts the selected rows of a sheet by a column.", "par_id9": "Short."},
    "shared/01/about": {"par_id1": "What belongs to no program is left out of it."},
}
GERMAN = {
    "swriter/01/fields": {
        "par_id1": "Fügt an der Position des Cursors ein Feld ein.",
        "par_id2": "=SUM(A1:A9) and so on",
    },
    "scalc/guide/sort": {"par_id1": "Sortiert die gewählten Zeilen einer Tabelle.", "par_id9": "Kurz."},
    "shared/01/about": {"par_id1": "Was zu keinem Programm gehört, bleibt draußen."},
}


def page(paragraphs: dict[str, str]) -> str:
    kinds = ["listitem" if name == "par_id9" else "paragraph" for name in paragraphs]
    body = "".join(
        f'<p id="{name}" class="{kind}" dir="auto"><span class="avis">{text}</span></p>\n'
        for kind, (name, text) in zip(kinds, paragraphs.items(), strict=True)
    )
    twice = "".join(f'<p id="{name}" class="paragraph">{text}</p>' for name, text in [*paragraphs.items()][:1])
    head = '<!DOCTYPE html>\n<html lang="en-US">\n<head><title>x</title></head>'
    others = '<p dir="auto">LibreOffice Help</p><h1 id="hd_1">No paragraph</h1><p id="bm_1" class="paragraph">no</p>'
    return f"{head}<body>{others}{body}{twice}</body></html>"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    for lang, pages in {
        "en-US": ENGLISH,
        "de": GERMAN,
        "pt-BR": GERMAN,
        "pt": GERMAN,
        "zh-CN": {},
        "zh-TW": {},
    }.items():
        (tmp_path / UNPACKED / lang / "text").mkdir(parents=True)
        for name, paragraphs in pages.items():
            file = tmp_path / UNPACKED / lang / "text" / f"{name}.html"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(page(paragraphs), "utf-8")
    return tmp_path


def by_id(rows: Dataset) -> dict[str, dict[str, str]]:
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("inside", ["", UNPACKED])
def test_paragraphs_are_aligned_by_page_and_name_and_labelled_by_program(unpacked: Path, inside: str) -> None:
    corpus = LibreOfficeHelp(str(unpacked / inside))
    rows = by_id(corpus.load(["en", "de"]))
    assert set(rows) == {
        *("en/swriter/01/fields#par_id1", "en/swriter/01/fields#par_id2", "en/scalc/guide/sort#par_id1"),
        *("de/swriter/01/fields#par_id1", "de/scalc/guide/sort#par_id1"),
    }
    own, other = rows["en/swriter/01/fields#par_id1"], rows["de/swriter/01/fields#par_id1"]
    assert own["text"] == "Inserts a field at the cursor position."
    assert own["label"] == other["label"] == "swriter"
    assert own["group"] == other["group"] == "swriter/01/fields#par_id1"
    assert own["cluster"] == other["cluster"] == "swriter/01/fields"
    assert own["split"] == other["split"]
    assert corpus.notes == [
        "Paragraphs left out of en: 1 of fewer than 20 or more than 600 characters.",
        "Paragraphs left out of de: 1 as in English, 1 of fewer than 20 or more than 600 characters.",
    ]


def test_pages_are_held_out_whole_and_alike_in_all_languages(unpacked: Path) -> None:
    rows = LibreOfficeHelp(str(unpacked), held_out=0.5, without=[]).load(["en", "de", "pt-BR"])
    splits = {}
    for row in rows:
        assert splits.setdefault(row["cluster"], row["split"]) == row["split"]
    assert set(splits.values()) <= {"dev", "test"}
    assert {row["split"] for row in LibreOfficeHelp(str(unpacked), held_out=0.0).load(["de"])} == {"train"}


@pytest.mark.parametrize("lang", ["pt", "pt-BR", "PT-br", "en-US"])
def test_a_language_is_its_own_folder_first(unpacked: Path, lang: str) -> None:
    assert {row["lang"] for row in LibreOfficeHelp(str(unpacked)).load([lang])} == {lang}


@pytest.mark.parametrize(
    ("path", "lang", "message"),
    [
        ("", "fr", "unpacked help of 'fr', and there is de, en-US, pt, pt-BR, zh-CN"),
        ("", "zh", "unpacked help of 'zh'"),  # which of two?
        ("nowhere", "de", "there is no help of any language. Unpack .* libreoffice-help-en-us && dpkg-deb -x"),
    ],
)
def test_what_is_not_unpacked_is_refused_with_its_package(unpacked: Path, path: str, lang: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LibreOfficeHelp(str(unpacked / path)).check([lang])
