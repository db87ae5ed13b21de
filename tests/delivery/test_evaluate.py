"""`distilingua evaluate`: the figures of a run again, from its files alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from distilingua.delivery.evaluate import names_of
from distilingua.delivery.model import find, for_its_task, known_task, overrides_of
from distilingua.errors import UserError
from distilingua.models.folder import OWN
from tests.conftest import Compose
from tests.delivery.conftest import read_json, settings
from tests.processes import run, succeed
from tests.test_cli import all_refused


def judged(folder: Path) -> dict[str, Any]:
    (found,) = folder.glob("outputs/*/*_evaluate-*/evaluation.json")
    return {**read_json(found), "answers": pd.read_parquet(found.with_name("predictions.parquet"))}


def test_a_run_is_judged_as_it_judged_itself(finished_run: Path, tmp_path: Path) -> None:
    printed = succeed("evaluate", str(finished_run), folder=tmp_path)
    found, student = judged(tmp_path), read_json(finished_run / "metrics.json")["models"]["student"]
    assert found["models"]["student"]["languages"] == student["languages"]
    assert found["models"]["student"]["bytes"] == student["bytes"]
    whole = pd.read_parquet(finished_run / "predictions.parquet")
    columns = ["id", "lang", "text", "truth", "student", "student_probability"]
    pd.testing.assert_frame_equal(found["answers"][columns], whole[columns], rtol=1e-4)
    assert len(whole) > 100
    assert student["languages"]["de"]["accuracy"] > 0.6  # or it would be chance alone
    row = next(line for line in printed.splitlines() if line.split()[:2] == ["de", "student"])
    assert f"{100 * student['languages']['de']['accuracy']:.1f}" in row.split()
    assert not list(tmp_path.glob("outputs/*/*/.hydra"))  # or `resume` would take it for a run


@pytest.mark.long
def test_a_run_reports_how_sure_it_is(finished_run: Path, kept: Path, tmp_path: Path) -> None:
    printed = succeed("train", *settings(kept), "seed=2", f"hydra.run.dir={tmp_path}/second", folder=tmp_path)
    assert "How far to trust them" in printed
    assert "student - direct" in printed
    metrics = read_json(tmp_path / "second/metrics.json")
    for model in metrics["models"].values():
        for lang, told in model["reliability"].items():
            low, high = told["interval"]
            assert low <= model["languages"][lang]["accuracy"] <= high
            assert 0 < high - low < 0.5
    student = metrics["models"]["student"]["reliability"]["de"]
    assert {"typos", "upper_case", "no_punctuation", "coverage_95", "calibration_error"} <= set(student)
    assert read_json(tmp_path / "second/student/config.json")["calibrated"] > 0
    gap = metrics["differences"]["student - direct"]["de"]
    scores = {name: model["languages"]["de"]["accuracy"] for name, model in metrics["models"].items()}
    assert gap["value"] == pytest.approx(scores["student"] - scores["direct"], abs=2e-4)
    assert gap["low"] <= gap["value"] <= gap["high"]
    assert gap["p"] <= gap["p_holm"] <= 1
    answers = pd.read_parquet(tmp_path / "second/predictions.parquet")
    assert {"cluster", "student_counts", "direct_counts", "teacher_counts"} <= set(answers.columns)
    own = answers[answers["lang"] == "de"]
    right, all_of_them = np.stack(own["student_counts"].to_list()).sum(0)
    assert right / all_of_them == pytest.approx(scores["student"], abs=1e-4)

    compared = succeed("compare", "second", str(finished_run), folder=tmp_path)
    assert "seeds: 2" in compared
    line = next(line for line in compared.splitlines() if line.strip().startswith("de "))
    assert "–" in line
    assert re.search(r" \+\d+\.\d \(-?\d+\.\d–\d+\.\d\)\*", line)


def test_several_models_are_judged_on_the_same_rows_and_on_another_pair(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run / "student", tmp_path / "copy", ignore=shutil.ignore_patterns("files.json"))
    weights = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.weight"] = -tensors["classifier.weight"]  # the least likely class first
    save_file(tensors, weights, {"format": "pt"})
    both = "evaluate", str(finished_run), "copy", "pair.source=de"
    assert run(*both, "pair.targets=[]", folder=tmp_path).returncode == 1  # a source needs a target
    succeed(*both, "pair.targets=[en]", folder=tmp_path)
    found = judged(tmp_path)
    assert list(found["models"]) == ["finished", "copy"]
    answers = found["answers"]
    assert list(answers["lang"].unique()) == ["de", "en"]
    for name in ("finished", "copy"):
        for lang, part in answers.groupby("lang"):
            right = (part[name] == part["truth"]).mean()
            assert found["models"][name]["languages"][lang]["accuracy"] == pytest.approx(right, abs=1e-4)
    assert (answers["finished"] != answers["copy"]).mean() > 0.5


def test_what_is_no_model_is_refused_at_once(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(finished_run / "student", tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(finished_run / "student", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    (tmp_path / "begun" / ".hydra").mkdir(parents=True)
    (tmp_path / "begun" / ".hydra" / "overrides.yaml").write_text("[]")
    rows = [item for item in settings(finished_run.parent) if item.startswith("corpus.path=")]
    told = {
        (): "no model is named",
        ("corpus=files",): "no model is named",
        (f"{tmp_path}/nowhere",): "nowhere is not there. Name the folder of a run",
        (f"{tmp_path}/empty",): "holds no model (no config.json, no student/ in it)",
        (f"{tmp_path}/bare", *rows): "the folder has no weights",
        (f"{tmp_path}/cut", *rows): "model.safetensors is damaged (it has",
        (f"{tmp_path}/begun",): "this run has no student/ yet. Finish it: distilingua resume",
        (str(finished_run), str(finished_run)): "is named twice",
        (str(finished_run), "pair.targets=de"): "Give a list: pair.targets=[de]",
        (str(finished_run), "task=slots"): "it was trained for task=intent, and task=slots needs another head",
    }
    all_refused("evaluate", told, tmp_path)


def test_a_corpus_whose_classes_a_model_does_not_know(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run / "student", tmp_path / "alone")
    answer = run("evaluate", "alone", "corpus=feelings", "task=sentiment", folder=tmp_path)
    assert answer.returncode == 1
    assert "alone: it does not know " in answer.stderr
    assert "its classes are light, music, weather" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_student_of_one_of_several_tasks_is_judged_on_its_own(compose_run: Compose, tmp_path: Path) -> None:
    (tmp_path / "run" / "slots" / "student_of_all").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "overrides.yaml").write_text('["experiment=multitask", "paths.cache=x"]')
    given = str(tmp_path / "run" / "slots")
    assert overrides_of("evaluate", given, []) == ["experiment=multitask"]
    cfg = compose_run("experiment=multitask")
    assert cfg.corpus.label != "slots"
    own = for_its_task(cfg, given, ["experiment=multitask"])
    assert (own.task._target_, own.corpus.label) == (cfg.multitask.tasks.slots.task._target_, "slots")
    assert for_its_task(cfg, given, ["experiment=multitask", "corpus=massive"]) is cfg
    assert for_its_task(compose_run(), given, []).corpus.label != "slots"


def test_what_was_typed_for_a_run_is_not_guessed_where_its_note_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "run/student").mkdir(parents=True)
    (tmp_path / "run/checkpoints").mkdir()
    (tmp_path / "run/checkpoints/overrides.yaml").write_text("")
    with pytest.raises(UserError, match=r"overrides\.yaml is damaged"):
        overrides_of("evaluate", str(tmp_path / "run"), [])


def test_names_tell_models_apart() -> None:
    assert names_of(["a/b/c"]) == ["student"]
    assert names_of(["runs/one", "org/two"]) == ["one", "two"]
    assert names_of(["x/one/export", "x/two/export"]) == ["one/export", "two/export"]


def test_a_file_of_others_sets_values_and_names_no_code(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    shutil.copytree(finished_run / "student", folder)
    harmful = ["task._target_=os.system", "+task={_target_: os.system}"]
    harmful += ["corpus.path=${oc.env:HOME}", "hydra.run.dir=x"]
    harmless = ["pair=en-fr", "task.max_length=32"]
    config = read_json(folder / "config.json")
    config[OWN] = {"overrides": [*harmful, *harmless, 3], "task": {"_target_": "os.system", "command": "true"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json is damaged: .* accept the folder as it is: rm .*files\.json"):
        find(str(folder))
    (folder / "files.json").unlink()
    assert overrides_of("evaluate", str(folder), []) == harmless
    with pytest.raises(UserError, match=r"its task is 'os\.system', which no file of conf/task/ names"):
        known_task(find(str(folder)).settings, "foreign")
    assert known_task({}, "foreign") is None
