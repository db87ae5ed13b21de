"""The report as one reads it: on a desk, on a phone, on paper, in every script, and by ear."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from selenium.webdriver.common.by import By

from distilingua.delivery.report import report
from tests.browser.conftest import Browser
from tests.delivery.conftest import read_json, write_curves

SENTENCES = {
    "אור בחדר 4 בבקשה": "rtl",
    "أطفئ الضوء في المطبخ 4": "rtl",
    "请把客厅的灯打开": "ltr",
    "電気を消して": "ltr",
}
LETTER = """
const [element, n] = arguments, range = document.createRange()
range.setStart(element.firstChild, n)
range.setEnd(element.firstChild, n + 1)
return range.getBoundingClientRect().x
"""


@pytest.fixture(scope="module")
def pages(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of a run, with sentences of many scripts where student and teacher differ, and of a sweep."""
    folder = tmp_path_factory.mktemp("reports")
    run = Path(shutil.copytree(finished_run, folder / "run"))
    rows = pd.read_parquet(run / "predictions.parquet")
    some = rows.index[rows.lang == "de"][: len(SENTENCES)]
    truth, other = sorted(rows.truth.unique())[:2]
    rows.loc[some, "text"] = list(SENTENCES)
    rows.loc[some, ["truth", "teacher", "student", "student_probability"]] = [truth, truth, other, 1.0]
    rows.to_parquet(run / "predictions.parquet")
    write_curves(run, ["en", "de"], steps=3)
    for n in (1, 2):
        job = Path(shutil.copytree(run, folder / "sweep" / f"seed-{n}"))
        metrics = read_json(job / "metrics.json")
        (job / "metrics.json").write_text(json.dumps({**metrics, "seed": n}), "utf-8")
        (job / ".hydra/overrides.yaml").write_text(f"[seed={n}]", "utf-8")
    (folder / "sweep/sweep.yaml").write_text("{hydra: [], task: ['seed=1,2'], varied: [seed]}", "utf-8")
    return {name: report(folder / name) for name in ("run", "sweep")}


@pytest.mark.parametrize("name", ["run", "sweep"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everybody_can_read_it(name: str, width: int, browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages[name], width)
    assert browser.violations() == []
    assert browser.sticks_out() == []
    assert browser.requested() == [pages[name].as_uri()], "something is loaded from elsewhere"
    pictures = browser.find_elements(By.TAG_NAME, "svg")
    assert len(pictures) == 3
    assert all(one.rect["width"] > 500 for one in pictures), "letters in it could not be read"


def test_every_script_runs_its_own_way(browser: Browser, pages: dict[str, Path]) -> None:
    """By where its first letter stands, and its last one."""
    browser.show(pages["run"])
    for sentence, direction in SENTENCES.items():
        (first, *_) = [e for e in browser.find_elements(By.CSS_SELECTOR, "td bdi[lang]") if e.text == sentence]
        begin, end = (browser.execute_script(LETTER, first, n) for n in (0, len(sentence) - 1))
        assert (begin > end) == (direction == "rtl"), sentence


def test_it_prints(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["run"], width=718)  # A4 without its margins, at 96 dots per inch
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.sticks_out() == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = base64.b64decode(browser.print_page())
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") > 1


def test_what_is_wrong_is_seen(browser: Browser, tmp_path: Path) -> None:
    """By axe, and by the other looks that tests take at a page."""
    page = tmp_path / "page.html"
    picture = '<img src="http://127.0.0.1:9/none.png">'
    page.write_text(f"<!doctype html><p style='color:#eee; width: 900px'>pale, wide</p>{picture}", "utf-8")
    browser.show(page, 360)
    rules = {one.split(":")[0] for one in browser.violations()}
    assert {"color-contrast", "image-alt", "html-has-lang", "document-title"} <= rules
    assert browser.sticks_out()
    assert "http://127.0.0.1:9/none.png" in browser.requested()
