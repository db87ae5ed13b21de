"""A student that reads long texts in windows: alike in its run, in its folder, in ONNX, and in every command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from distilingua.delivery.model import find, known_task
from distilingua.delivery.predict import predict
from distilingua.delivery.runtime import predictor_of
from distilingua.models.folder import OWN
from tests.delivery.conftest import read_json, settings
from tests.processes import refused, succeed

SHORT = ("task.max_length=6", "training.epochs=1", "teacher.fine_tune.epochs=1")
CUT = r"[\d,]+ of [\d,]+ texts are cut at task\.max_length=6 pieces: \d+\.\d % of their pieces are lost"
LONG = "the light in room 4 and the lamp of floor 7 and the rain " * 3


@pytest.fixture(scope="session")
def runs(kept: Path) -> dict[str, Path]:
    """Folders of two runs and what each said: texts in windows, and by their heads."""
    found = {long: kept / f"long_{long}" for long in ("windows", "head")}
    with FileLock(f"{kept}_long.lock"):
        for long, folder in found.items():
            if not (folder / "metrics.json").exists():
                typed = *settings(kept), *SHORT, f"task.long={long}", f"hydra.run.dir={folder}"
                (kept / f"{long}.txt").write_text(succeed("train", *typed, folder=kept))
    return found


def test_every_command_says_what_is_cut(
    runs: dict[str, Path], kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = r"\(task\.max_length=N or, of a text that stands alone, task\.long=windows reads them whole\)"
    assert re.search(rf"The student: {CUT} {keys}", (kept / "head.txt").read_text())
    assert "are cut at" not in (kept / "windows.txt").read_text()
    assert re.search(rf"The student: {CUT} {keys}", succeed("corpus", *settings(kept), *SHORT, folder=tmp_path))
    assert re.search(rf"^student: {CUT} {keys}", succeed("evaluate", str(runs["head"]), folder=tmp_path))
    predict([str(runs["head"]), LONG, "light"])
    told = capsys.readouterr()
    assert re.search(rf"{runs['head']}: 1 of 2 texts are cut at .* {keys}", told.err)
    assert "are cut at" not in told.out
    assert "format=web reads the beginning" in refused("export", str(runs["windows"]), "format=[web]", folder=tmp_path)
    predict([str(runs["windows"]), LONG])
    assert not capsys.readouterr().err


def test_a_folder_is_read_as_it_was_judged(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = runs["windows"]
    assert read_json(folder / "student/config.json")[OWN]["task"]["long"] == "windows"
    judged = pd.read_parquet(folder / "predictions.parquet")
    given = tmp_path / "in.jsonl"
    given.write_text("".join(json.dumps({"text": text}) + "\n" for text in judged.text))
    predict([str(folder / "student"), "--from", str(given), "--to", str(tmp_path / "out.jsonl")])
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in found] == judged.student.tolist()
    model = find(str(folder))
    task = known_task(model.settings, "x")
    assert task is not None
    assert task.recipe == [6, "windows", 1]


def test_an_onnx_file_reads_in_windows_too(runs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    typed = "format=[hub,onnx]", "sentences=1", f"hydra.run.dir={tmp_path}"
    succeed("export", str(runs["windows"]), *typed, folder=tmp_path)
    assert read_json(tmp_path / "export.json")["models"]["onnx"]["parity"] < 1e-4
    answers = []
    for given in (str(tmp_path), str(tmp_path / "onnx/model.onnx"), str(runs["windows"])):
        model = find(given)
        task = known_task(model.settings, given)
        assert task is not None
        predictor = predictor_of(model, task)
        encoded = predictor.encoder.changed([{"text": LONG, "text_pair": ""}])
        assert encoded.lists("lengths").lengths.tolist()[0] > 5
        answers.append(predictor.answers(encoded, "").answers[0])
    torch.testing.assert_close(answers[0], answers[2], atol=1e-6, rtol=0)
    torch.testing.assert_close(answers[1], answers[2], atol=1e-4, rtol=0)
    assert "reads them whole" in (tmp_path / "README.md").read_text("utf-8")
