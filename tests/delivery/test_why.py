"""Every cause is planted in a tenth of the rows of a run that was judged: its line rises by that, and no other does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from distilingua.corpora.schema import dataset_from_rows
from distilingua.delivery.model import find, known_task
from distilingua.delivery.report import report
from distilingua.delivery.runtime import predictor_of
from distilingua.delivery.why import CAUSES, evidence, itemised, mislabelled, under
from distilingua.errors import UserError
from distilingua.training.inference import Predictor
from tests.processes import refused, succeed

LANG = "de"


@pytest.fixture(scope="module")
def predictor(finished_run: Path) -> Predictor:
    model = find(str(finished_run))
    task = known_task(model.settings, model.given)
    assert task is not None
    return predictor_of(model, task)


@pytest.fixture
def answers(finished_run: Path, predictor: Predictor) -> pd.DataFrame:
    """Of rows that teacher and student answer rightly, and that nothing can be shown for; often enough for a tenth."""
    found = pd.read_parquet(finished_run / "predictions.parquet").query("lang == @LANG")
    right = found[(found.student == found.truth) & (found.teacher == found.truth) & (found.teacher_text != "")]
    shown = evidence(predictor, right.reset_index(drop=True), rows_of(right), set(predictor.encoder.task.labels))
    right = right[~np.any([holds for cause, holds in shown.items() if cause != "student"], axis=0)]
    several = pd.concat([right] * (100 // len(right) + 1), ignore_index=True).head(100)
    return several.assign(id=[str(n) for n in range(100)], cluster=[str(n) for n in range(100)])


def rows_of(answers: pd.DataFrame) -> Dataset:
    known = answers.rename(columns={"truth": "label"})[["id", "lang", "text", "label"]]
    return dataset_from_rows(known.assign(split="test").to_dict("records"))


def another(name: str, classes: list[str]) -> str:
    return next(other for other in classes if other != name)


def plant(cause: str, answers: pd.DataFrame, classes: list[str], taught: set[str]) -> np.ndarray:
    """Changes a tenth of the rows so that the student is wrong for this cause; which they are."""
    of_one = answers[answers.truth == answers.truth.mode()[0]]
    chosen = of_one.nlargest(10, "student_probability").index  # surest, as of rows whose label alone is wrong
    wrong = [another(name, classes) for name in answers.loc[chosen, "truth"]]
    if cause == "other label":  # both models were right: it is the label that is not
        answers.loc[chosen, "truth"] = wrong
        return chosen.to_numpy()
    answers.loc[chosen, "student"] = wrong
    if cause == "other text":
        far = answers[~answers.truth.isin(answers.loc[chosen, "truth"])].teacher_text.iloc[0]
        answers.loc[chosen, "teacher_text"] = far
    elif cause == "never taught":
        taught -= set(answers.loc[chosen, "truth"])
    elif cause == "cut":
        answers.loc[chosen, "text"] = [" ".join([text] * 40) for text in answers.loc[chosen, "text"]]
        answers.loc[chosen, "teacher_text"] = answers.loc[chosen, "text"]
    elif cause == "pieces":
        answers.loc[chosen, "text"] = [f"{text} ꙮ𓀀" for text in answers.loc[chosen, "text"]]
        answers.loc[chosen, "teacher_text"] = answers.loc[chosen, "text"]
    elif cause == "teacher":
        answers.loc[chosen, "teacher"] = wrong
        answers.loc[chosen, "student"] = [
            next(c for c in classes if c not in pair) for pair in zip(wrong, answers.loc[chosen, "truth"], strict=True)
        ]
    return chosen.to_numpy()


@pytest.mark.parametrize("cause", CAUSES)
def test_a_planted_cause_is_found_in_its_own_line(cause: str, predictor: Predictor, answers: pd.DataFrame) -> None:
    classes = predictor.encoder.task.labels
    taught = set(classes)
    before = itemised(answers, evidence(predictor, answers, rows_of(answers), taught))
    assert {name: one["rows"] for name, one in before["causes"].items()} == dict.fromkeys(CAUSES, 0)
    planted = plant(cause, answers, classes, taught)
    after = itemised(answers, evidence(predictor, answers, rows_of(answers), taught))
    rows = {name: one["rows"] for name, one in after["causes"].items()}
    assert rows.pop(cause) == len(planted) == 10
    assert set(rows.values()) == {0}
    assert sum(one["share"] for one in after["causes"].values()) == pytest.approx(1 - after["student"])
    low, high = after["causes"][cause]["interval"]
    assert low < 0.1 < high


def test_the_command_writes_what_it_prints(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert "Points to 100 %" not in report(run).read_text("utf-8")
    shown = succeed("why", str(run), folder=tmp_path)
    found = json.loads((run / "why.json").read_text("utf-8"))
    assert list(found) == ["en", "de"]
    for lang, one in found.items():
        assert f"{lang}: student {100 * one['student']:.1f}, teacher {100 * one['teacher']:.1f}" in shown
        assert sum(cause["share"] for cause in one["causes"].values()) == pytest.approx(1 - one["student"], abs=1e-3)
        for cause in one["causes"].values():
            assert all(row["student"] != row["truth"] for row in cause["examples"])
    left = ", ".join(f"{lang} {100 * (1 - one['student']):.1f}" for lang, one in found.items())
    assert f"Points to 100 %: {left}." in report(run).read_text("utf-8")
    (run / "why.json").write_text("[]")
    with pytest.raises(UserError, match=r"why\.json is not as a run writes it"):
        report(run)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "predictions.parquet").unlink(), "expected a finished run, with predictions.parquet"),
        (lambda run: answered(run, lambda rows: rows.drop(columns="teacher")), "this run has no teacher"),
        (lambda run: answered(run, lambda rows: rows.iloc[1:]), "the corpus has other test rows in 'en'"),
        (lambda run: (run / "predictions.parquet").write_bytes(b"PAR1"), "is not as a run writes it"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    finished_run: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    spoil(run)
    assert message in refused("why", str(run), folder=tmp_path)


def answered(run: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    file = run / "predictions.parquet"
    change(pd.read_parquet(file)).to_parquet(file)


def test_confident_learning_by_hand() -> None:
    given = np.array([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.15, 0.85]])
    # on average 0.8 for the first class where it is the label; (0.1 + 0.9 + 0.8) / 3 = 0.6 … of the second, 0.617
    assert mislabelled(given, [0, 0, 1, 1, 1]).tolist() == [False] * 5
    assert mislabelled(given, [1, 0, 1, 1, 1]).tolist() == [True, False, False, False, False]


def test_far_under_the_rest() -> None:
    values = np.array([0.9, 0.91, 0.89, 0.9, 0.92, 0.1])
    assert under(values).tolist() == [False] * 5 + [True]
    assert not under(values, np.zeros(6, dtype=bool)).any()
    assert not under(np.full(4, 0.5)).any()
