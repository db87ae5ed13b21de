"""The report: one page that needs nothing beside it and says what the run found."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from distilingua.delivery.pictures import curves
from distilingua.delivery.report import confusions, finished, report
from distilingua.errors import UserError
from distilingua.monitoring.tables import as_csv, as_latex, as_markdown, text_frame
from tests.delivery.conftest import read_json, write_curves
from tests.processes import run, succeed

VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """What is in it, and whether every element ends where it should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.told = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.outside.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.told += data


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_a_run_as_a_page_that_needs_nothing_beside_it(copied: Path) -> None:
    text = report(copied).read_text("utf-8")
    page = Page(text)
    assert not page.open
    assert not page.outside
    assert "script" not in page.seen
    assert page.seen.count("svg") == 2  # this run has no logger, so no curves
    assert len(page.ids) == len(set(page.ids))
    metrics = read_json(copied / "metrics.json")
    for model in metrics["models"].values():
        for lang, scores in model["languages"].items():
            assert f"{100 * scores['accuracy']:.1f}" in page.told, lang
    for name, line in metrics["yardsticks"].items():
        for scores in line["languages"].values():
            assert name in page.told
            assert f"{100 * scores['accuracy']:.1f}" in page.told
    assert "kept of the teacher, mean of targets" in page.told
    assert "de: distilled minus direct transfer is " in page.told
    assert metrics["made"]["versions"]["torch"] in page.told
    assert f"{sum(metrics['seconds'].values()):.1f}" in page.told
    assert "no label of a target was seen" in page.told


def test_what_was_mixed_up_comes_with_the_surest_sentences(copied: Path) -> None:
    file = copied / "predictions.parquet"
    rows = pd.read_parquet(file)
    german = rows.index[rows.lang == "de"][:5]
    rows["student"] = rows.truth
    truth, other = sorted(rows.truth.unique())[:2]
    rows.loc[german, ["truth", "student", "text"]] = [truth, other, "ein <b>fetter</b> Satz"]
    rows.loc[german, "student_probability"] = [0.1, 0.9, 0.5, 0.2, 0.3]
    rows.loc[german[1], "text"] = "אור & 光"
    rows.to_parquet(file)
    (found,) = confusions(finished(copied)[0], "de")
    assert (found.truth, found.answer, found.rows) == (truth, other, 5)
    assert [row["student_probability"] for row in found.sentences] == [0.9, 0.5]
    text = report(copied).read_text("utf-8")
    assert '<bdi lang="de" dir="auto">אור &amp; 光</bdi>' in text
    assert "ein &lt;b&gt;fetter&lt;/b&gt; Satz" in text
    assert not Page(text).open


def test_a_sweep_has_its_jobs_its_means_and_its_oracle(copied: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for n, protocol in enumerate(("zero_shot", "zero_shot", "supervised"), start=1):
        job = Path(shutil.copytree(copied, sweep / f"seed-{n}_{protocol}"))
        metrics = read_json(job / "metrics.json")
        metrics |= {"seed": n, "protocol": protocol, "dev": {**metrics["dev"], "score": 0.5 + n / 10}}
        metrics["models"]["student"]["languages"]["de"]["accuracy"] = 0.5 + n / 100
        (job / "metrics.json").write_text(json.dumps(metrics), "utf-8")
        (job / ".hydra/overrides.yaml").write_text(f"[seed={n}]", "utf-8")
    (sweep / "sweep.yaml").write_text("{hydra: [], task: ['seed=1,2,3'], varied: [seed]}", "utf-8")
    page = Page(report(sweep).read_text("utf-8"))
    assert "of the 3 finished runs, this is the best one by the source's dev split (seed-2_zero_shot)" in " ".join(
        page.told.split()
    )
    assert "oracle" in page.told
    assert "53.0" in page.told
    assert "best first, by score" in page.told
    assert not page.open


def test_a_folder_without_a_run_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no metrics\.json is under"):
        report(tmp_path)
    (tmp_path / "metrics.json").write_text('{"models": {}}', "utf-8")
    with pytest.raises(UserError, match="is not as a run writes it"):
        report(tmp_path)
    for typed in ([], ["a", "b"], ["--csv"], ["nowhere"]):
        told = run("report", *typed, folder=tmp_path)
        assert told.returncode == 1
        assert len(told.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["predictions.parquet", "checkpoints/settings.yaml", "checkpoints/overrides.yaml", "metrics.json"]
)
def test_a_damaged_file_of_a_run_is_named(copied: Path, name: str) -> None:
    (copied / name).write_bytes(b"\xff[")
    with pytest.raises(UserError, match=rf"{copied / name} is (damaged|not as a run writes it).*(Delete|delete)"):
        report(copied)


def test_settings_are_those_of_the_run_and_no_password_is_shown(copied: Path) -> None:
    address = "logger.mlflow.tracking_uri=http://joe:hunter2@server"
    (copied / "checkpoints/overrides.yaml").write_text(f"['{address}']", "utf-8")
    (copied / ".hydra/overrides.yaml").write_text("[of=another]", "utf-8")
    text = report(copied).read_text("utf-8")
    assert "http://***@server" in text
    assert "hunter2" not in text
    assert "of=another" not in text


def test_curves_are_those_of_tensorboard(tmp_path: Path) -> None:
    assert curves(tmp_path, "accuracy", "acc") == ""
    write_curves(tmp_path, ["en", "zh-CN"], steps=3)
    picture = curves(tmp_path, "accuracy", "acc")
    page = Page(picture)
    assert not page.open
    words = {line.strip() for line in page.told.splitlines()}
    assert {"en", "zh-CN", "distilled", "direct transfer", "step"} <= words
    assert 'aria-label="acc on the dev split by step, for en, zh-CN."' in picture


def test_there_is_a_panel_a_language_and_a_single_point_is_seen(tmp_path: Path) -> None:
    """Four languages in rows of three leave two places, which stay empty; a run of one pass has one point a curve."""
    write_curves(tmp_path, ["en", "de", "fr", "ar"], steps=1)
    picture = curves(tmp_path, "accuracy", "acc")
    panels = re.findall(r'<g id="p\d+-axes_\d+">(.*?)(?=<g id="p\d+-axes_|$)', picture, flags=re.S)
    assert len(panels) == 4
    marks = re.findall(r"<g clip-path[^>]*>\s*<use ", picture)
    assert len(marks) >= 8, "curves without a point"


def test_tables_for_papers_by_hand() -> None:
    table = text_frame("a_b, seeds: 2", [{"lang": "de", "student": "94.5 ± 1.0", "95 %": "93.1–95.9"}])
    assert as_csv([table]) == 'setting,lang,student,95 %\n"a_b, seeds: 2",de,94.5 ± 1.0,93.1–95.9\n'
    assert (
        as_markdown([text_frame("t", [{"a|b": "1", "c": "2"}])]) == "**t**\n\n| a\\|b | c |\n| --- | --- |\n| 1 | 2 |\n"
    )
    latex = as_latex([table])
    assert r"de & 94.5 $\pm$ 1.0 & 93.1--95.9 \\" in latex
    assert r"\caption{a\_b, seeds: 2}" in latex
    assert r"lang & student & 95 \% \\" in latex


@pytest.mark.parametrize("form", ["--csv", "--markdown", "--latex"])
def test_compare_for_a_file(copied: Path, form: str) -> None:
    told = succeed("compare", form, str(copied), folder=copied)
    metrics = read_json(copied / "metrics.json")
    german = f"{100 * metrics['models']['student']['languages']['de']['accuracy']:.1f}"
    assert re.search(rf"\bde\b.*{german}", told)
    assert "━" not in told
