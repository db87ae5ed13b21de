"""`distilingua report`: a run or a sweep as one page of HTML, for somebody who was not there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, UndefinedError

from distilingua.artifacts import as_written, whole_file
from distilingua.console import console
from distilingua.delivery import pictures
from distilingua.errors import UserError, masked
from distilingua.locations import SEARCHPATH, read_yaml, typed_of
from distilingua.monitoring.compare import compare
from distilingua.monitoring.leaderboard import jobs_of, leaderboard
from distilingua.monitoring.sweep import failures, metrics_of
from distilingua.monitoring.tables import models_frame
from distilingua.parts import objectives

AGAIN = "Restore it, or delete it and resume the run, which judges its student again."
CONFUSIONS, SENTENCES, WRONG = 8, 2, 10  # how many are shown per language


@dataclass
class Run:
    """A finished run.

    Args:
        folder: of its metrics.json; of several tasks, one for each.
        metrics: what that file holds.
    """

    folder: Path
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def metric(self) -> str:
        return next(iter(self.metrics["shown"]))

    @property
    def heading(self) -> str:
        return str(self.metrics["shown"][self.metric])

    @property
    def languages(self) -> list[str]:
        return list(self.metrics["models"]["student"]["languages"])

    def score(self, kind: str) -> float:
        """Mean over the targets; over the source where there is none."""
        scores = self.metrics["models"][kind]["languages"]
        return statistics.mean(scores[lang][self.metric] for lang in self.languages[1:] or self.languages)

    def point(self, kind: str, name: str) -> pictures.Point:
        model = self.metrics["models"][kind]
        return pictures.Point(name, kind, self.score(kind), model["bytes"] / 1e6, model["latency_ms"])

    @cached_property
    def predictions(self) -> pd.DataFrame:
        file = self.folder / "predictions.parquet"
        with as_written(file, "Delete it: the page has no sentences then."):
            return pd.read_parquet(file) if file.exists() else pd.DataFrame()

    @property
    def overrides(self) -> list[str]:
        """What was typed for it, as it may be shown."""
        return [masked(item) for item in typed_of(self.folder) if not item.startswith(SEARCHPATH)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What shaped it: its own file, or of an older run Hydra's."""
        names = "checkpoints/settings.yaml", ".hydra/config.yaml"
        files = [folder / name for folder in (self.folder, self.folder.parent) for name in names]
        file = next((file for file in files if file.is_file()), None)
        with as_written(file or self.folder, "Delete it: the page leaves these settings out then."):
            return dict(read_yaml(file)) if file else {}


class Confusion(NamedTuple):
    """What was taken for what, how often, and the surest sentences of it."""

    truth: str
    answer: str
    rows: int
    sentences: list[dict[str, Any]]


def report(folder: Path) -> Path:
    """Writes `report.html` into the folder of a run or a sweep, and returns where it is.

    Raises:
        UserError: no finished run is in there, or a damaged one.
    """
    runs = finished(folder)
    sweep = len(runs) > 1
    oracles = [run for run in runs if run.metrics.get("protocol") == "supervised"]
    distilled = [run for run in runs if run not in oracles and "teacher" in run.metrics["models"]]
    # by the source's dev split: no target label chooses
    best = max(distilled or runs, key=lambda run: run.metrics["dev"]["score"] or 0)
    models = with_oracle(best, oracles)
    page = Environment(loader=PackageLoader("distilingua.delivery", "."), autoescape=True, trim_blocks=True)
    with as_written(best.folder / "metrics.json", AGAIN, UndefinedError):
        text = page.get_template("report.html.j2").render(
            title=f"{best.metrics['task']}, {best.metrics['pair']}",
            run=best,
            metrics=best.metrics,
            sweep=sweep,
            runs=runs,
            failed={job.name: why for job, why in failures(folder).items()},
            names=pictures.NAMES,
            scores=scores(best, models),
            languages_picture=pictures.languages(models, best.metric, best.heading),
            cost_picture=pictures.size_and_speed(points(best, distilled), best.heading),
            causes_picture=causes_of(best),
            curves_picture=pictures.curves(best.folder, best.metric, best.heading),
            tables=compare([folder]).tables if sweep else [],  # means over seeds
            leaderboard=jobs_table(folder, best) if sweep else None,
            confusions={lang: confusions(best, lang) for lang in best.languages},
            disagreements={lang: disagreements(best, lang) for lang in best.languages},
            configuration=masked(yaml.safe_dump(best.settings, allow_unicode=True, sort_keys=False)),
        )
    with whole_file(folder / "report.html") as file:
        file.write_text(text, "utf-8")
    console.print(f"Written to {folder / 'report.html'}.", soft_wrap=True)
    return folder / "report.html"


def causes_of(run: Run) -> str:
    """A picture of what `distilingua why` has found; "" where nobody asked."""
    file = run.folder / "why.json"
    with as_written(file, "Delete it, or type distilingua why again."):
        return pictures.causes(json.loads(file.read_text("utf-8"))) if file.exists() else ""


def finished(folder: Path) -> list[Run]:
    files = sorted(folder.rglob("metrics.json"))
    if not files:
        raise UserError(
            f"no metrics.json is under {folder}. Name the folder of a finished run or sweep: distilingua report "
            f"outputs/DATE/TIME-OVERRIDES"
        )
    return [Run(file.parent, metrics_of(file)) for file in files]


def with_oracle(run: Run, oracles: Sequence[Run]) -> dict[str, Any]:
    """The models of a run, and beside them a student of the same task that saw every label, where the sweep has one."""
    models = {kind: run.metrics["models"][kind] for kind in ("teacher", "direct") if kind in run.metrics["models"]}
    models["student"] = run.metrics["models"]["student"]
    languages: dict[str, Any] = {}
    for oracle in oracles:
        if oracle.metrics["task"] == run.metrics["task"]:
            languages |= oracle.metrics["models"]["student"]["languages"]
    return {**models, "oracle": {"languages": languages}} if languages else models


def scores(run: Run, models: Mapping[str, Any]) -> pd.DataFrame:
    """Per language and model, every score in percent, the main one with its interval."""
    kept = {pictures.NAMES["student"]: run.metrics["retention"].get("languages", {})}
    named = {pictures.NAMES[kind]: model for kind, model in models.items()} | run.metrics.get("yardsticks", {})
    table = models_frame("Scores in percent", named, run.metrics["shown"], kept)
    return table.rename(columns={"lang": "language"}).drop(columns=["weights", "MB", "ms"])


def points(best: Run, runs: Sequence[Run]) -> list[pictures.Point]:
    """Models of a run; of a sweep, the students of its jobs too."""
    kinds = [kind for kind in ("teacher", "direct") if kind in best.metrics["models"]]
    students = [run.point("student", run.name) for run in runs if len(runs) > 1]
    students = students or [best.point("student", "distilled")]
    return [*(best.point(kind, pictures.NAMES[kind]) for kind in kinds), *students]


def jobs_table(folder: Path, best: Run) -> pd.DataFrame | None:
    """The jobs, best first, by what the sweep compared; no target label takes part."""
    select = objectives(best.settings.get("training", {}).get("select", "score"))
    jobs = jobs_of(folder, select)
    return leaderboard(jobs, select) if jobs else None


def confusions(run: Run, lang: str) -> list[Confusion]:
    """What the student takes for what most often, with the sentences it was surest of; empty where labels are texts."""
    rows = run.predictions
    if rows.empty or rows.truth.nunique() > max(100, len(rows) // 4):
        return []
    wrong = rows[(rows.lang == lang) & (rows.student != rows.truth)]
    surest_first = wrong.sort_values("student_probability", ascending=False)
    mixed_up = [
        Confusion(str(truth), str(answer), len(part), part.head(SENTENCES).to_dict("records"))
        for (truth, answer), part in surest_first.groupby(["truth", "student"])
    ]
    return sorted(mixed_up, key=lambda one: -one.rows)[:CONFUSIONS]


def disagreements(run: Run, lang: str) -> list[Mapping[str, Any]]:
    """Rows on which the student is surest, and not what the teacher is: of the text that the teacher reads in place of
    another language's where it reads one."""
    rows = run.predictions
    if rows.empty or "teacher" not in rows:
        return []
    other = rows[(rows.lang == lang) & (rows.teacher != rows.student)]
    return other.sort_values("student_probability", ascending=False).head(WRONG).to_dict("records")
