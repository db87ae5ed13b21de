"""The page that runs the student, as far as it needs no browser: what it loads, and what is refused."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from distilingua.artifacts import TOLD
from distilingua.delivery.artefacts import fetch_teacher
from distilingua.delivery.formats import Student
from distilingua.delivery.model import Delivered
from distilingua.delivery.web import Web, from_npm
from distilingua.errors import UserError
from distilingua.locations import conf_folder
from distilingua.tasks.multi_label import MultiLabel
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from distilingua.tasks.translation import Translation
from tests.conftest import Compose
from tests.delivery.conftest import read_json
from tests.test_cli import all_refused

CHOSEN = yaml.safe_load((conf_folder() / "format/web.yaml").read_text("utf-8"))["web"]


def page(assets: str, pairs: bool = False) -> str:
    encoder = type("Reads", (), {"task": TextClassification("topic & co")})
    student = Student(lambda: None, encoder, {"text_pair": ["", "b" if pairs else ""]}, 1_790_000)
    web: Web = instantiate(CHOSEN, assets=assets)
    return web.page(student, {"distilingua": {"languages": ["en", "de"]}})


def test_a_page_asks_its_own_folder_or_one_other_place_for_exact_versions() -> None:
    for assets, place in (("npm", "./assets/"), ("cdn", "https://cdn.jsdelivr.net/npm/")):
        text = page(assets)
        (found,) = re.findall(r'<script type="importmap">(.*?)</script>', text)
        addresses = json.loads(found)["imports"].values()
        assert all(address.startswith(place) for address in addresses)
        policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
        assert "default-src 'none'" in policy
        assert set(re.findall(r"https?:[^\s;]*", policy)) == (
            {"https://cdn.jsdelivr.net"} if assets == "cdn" else set()
        )
        for name, version in CHOSEN["versions"].items():
            assert re.fullmatch(r"\d+\.\d+\.\d+(-[\w.-]+)?", version), "not exact"
            assert (f"{place}{name}@{version}/" in text) == (assets == "cdn")
    assert "<title>topic &amp; co, en, de</title>" in text
    assert 'id="pair"' not in text
    assert 'id="pair"' in page("npm", pairs=True)


def test_a_teacher_that_is_gone_is_trained_again(
    tiny_run: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the callbacks and the logger of an ordinary run; and once."""
    cfg = tiny_run("teacher.fine_tune.epochs=1")
    weights = []
    for told in ("Training the teacher", "Reused: teachers"):
        teacher = fetch_teacher(cfg, Delivered("a run", tmp_path), tmp_path / "page")
        weights.append(teacher.load().state_dict())
        assert told in " ".join(capsys.readouterr().out.split())
        TOLD.clear()
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    config = read_json(tmp_path / "page/config.json")
    assert config["distilingua"]["languages"] == ["en"]
    assert list(config["id2label"].values()) == ["light", "music", "weather"]
    assert not (tmp_path / "run").exists(), "it is no run"


@pytest.mark.parametrize("task", [TokenClassification(), QuestionAnswering(), Translation()])
def test_what_gives_no_classes_is_refused_by_name(task: Task) -> None:
    told = instantiate(CHOSEN, assets="cdn").check(task)
    assert f"task={task.name} gives none for a text" in told
    assert instantiate(CHOSEN, assets="cdn").check(TextClassification()) is None
    assert instantiate(CHOSEN, assets="cdn").check(MultiLabel()) is None


@pytest.mark.parametrize("long", ["windows", "head_tail"])
def test_a_page_reads_the_beginning_of_a_text_alone(long: str) -> None:
    told = instantiate(CHOSEN, assets="cdn").check(MultiLabel(long=long))
    assert f"task.long={long}" in told
    assert told.endswith("Leave it out: format=[hub,onnx,onnx_int8].")


def test_without_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = instantiate(CHOSEN).check(TextClassification())
    assert told.startswith("format.web.assets=npm: there is no npm here")
    assert told.endswith("format.web.assets=cdn")


def test_an_npm_that_gets_nothing_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nprintf 'npm error code E404\\n\\nnpm error no such version\\n' >&2\nexit 1\n")
    npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(UserError) as told:
        from_npm("a", "9.9.9", ["a.js"], tmp_path / "assets")
    assert str(told.value).startswith("npm cannot get a@9.9.9 (npm error code E404 npm error no such version).")
    assert not list((tmp_path / "assets").iterdir())


def test_what_cannot_be_a_page_is_told_at_once(finished_run: Path, tmp_path: Path) -> None:
    own, place = str(finished_run), f"hydra.run.dir={tmp_path}/out"
    options = (place, "format=[web]", "format.web.assets=cdn")
    told = {
        (own, *options, "format.web.assets=disk"): "format.web.assets=disk is not known. Choose one of: npm, cdn.",
        (own, *options, "format.web.teacher=maybe"): "format.web.teacher=maybe: expected true or false.",
        (own, *options, "~format.web.versions.onnxruntime-web"): "format.web.versions: name @huggingface/transformers",
        (own, *options, "task=slots"): "it was trained for task=intent, and task=slots needs another head",
        (f"{own}/checkpoints", *options): "holds no model",
    }
    all_refused("export", told, tmp_path)
