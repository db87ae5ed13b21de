"""Puts finished runs side by side: means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Group
from rich.text import Text

from distilingua.errors import Problems, UserError, masked
from distilingua.locations import overrides_file, typed_of
from distilingua.monitoring.sweep import failures, metrics_of, shares_of
from distilingua.monitoring.tables import for_terminal, percent
from distilingua.statistics.bootstrap import SIGNIFICANT, difference, group_sums, holm, interval, score_of

WIDTHS = {"lang": 5, "gain": 18, "sec": 4}  # of columns, so that the tables line up; 10 of all others
MODELS = ("teacher", "direct", "single", "student")


@dataclass
class Comparison:
    """A table per setting, and in words the jobs that failed; rich prints both."""

    tables: list[pd.DataFrame]
    failed: list[str]

    def __rich__(self) -> Group:
        tables = [for_terminal(frame) for frame in self.tables]
        for column in (column for table in tables for column in table.columns):
            column.min_width = WIDTHS.get(str(column.header), 10)
        return Group(*tables, *map(Text, self.failed))


def compare(folders: list[Path]) -> Comparison:
    """A table per setting, a row per language: the main score in percent as mean ± standard deviation over seeds.

    `95 %` is the student's interval over groups of test rows and seeds, `gain` what it is better than direct transfer
    on the same rows and seeds, with its interval; a star says that chance alone would not do it, by Holm's correction
    over languages.
    `kept` is student / teacher, `read right` the share of training rows whose soft label names the true class. Below
    are the jobs that failed, and why.

    Args:
        folders: searched for `metrics.json` at any depth.

    Raises:
        UserError: no finished run in them; files of a run that are damaged, a line each.
    """
    runs = read_runs(folders)
    failed = [f"{job.name} {why}" for job, why in failures(*folders).items()]
    if runs.empty:
        nothing = f"no metrics.json under {', '.join(map(str, folders))}. Name a folder of finished runs."
        raise UserError("\n".join([nothing, *failed]))
    words = [set(setting.split()) for setting in runs["setting"].unique()]
    common = set.intersection(*words) if len(words) > 1 else set()
    tables = []
    for setting, all_runs in runs.groupby("setting", sort=False):
        # of a copy, or a run that was repeated, the latest counts
        seeds = all_runs.sort_values("written", kind="stable").drop_duplicates("seed", keep="last").sort_index()
        tables.append(table_of_seeds(list(seeds["metrics"]), confidence(seeds)))
        title = f"{' '.join(word for word in setting.split() if word not in common)}, seeds: {len(seeds)}"
        again = len(all_runs) - len(seeds)
        tables[-1].attrs["title"] = f"{title} (again: {again})" if again else title
    if not any(table["95 %"].ne("").any() for table in tables):
        for table in tables:
            del table["95 %"], table["gain"]
    return Comparison(tables, failed)


def read_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """A row per finished run: `setting`, `seed`, `metrics`, their `file`, and when it was `written`."""
    problems, runs = Problems(), []
    for file in sorted({path.resolve() for folder in folders for path in folder.rglob("metrics.json")}):
        with problems:
            metrics = metrics_of(file)
            runs.append((_setting(file.parent, metrics), metrics["seed"], metrics, file, file.stat().st_mtime))
    problems.tell()
    return pd.DataFrame(runs, columns=["setting", "seed", "metrics", "file", "written"])


def table_of_seeds(runs: Sequence[Mapping[str, Any]], sure: pd.DataFrame) -> pd.DataFrame:
    """A row per language, in text.

    Args:
        runs: `metrics.json` of each seed.
        sure: see `confidence`.
    """
    models = [name for name in MODELS if name in runs[0]["models"]]
    languages = list(runs[0]["models"]["student"]["languages"])
    shares = pd.DataFrame([one for run in runs for one in shares_of(run)], columns=["lang", "column", "share"])
    cells = shares.groupby(["lang", "column"])["share"].agg(_mean_and_deviation).unstack()
    # for the student; without a teacher, it is the baseline
    seconds = [run["seconds"].get("student", run["seconds"].get("direct", 0.0)) for run in runs]
    table = cells.join(sure).assign(sec=f"{np.mean(seconds):.0f}")
    columns = [*models, "95 %", "gain", "kept", "read right", "sec"]
    return table.reindex(index=languages, columns=columns).fillna("").rename_axis("lang").reset_index()


def _mean_and_deviation(shares: pd.Series) -> str:
    """Over seeds, in percent."""
    return percent(shares.mean()) + (f" ± {percent(shares.std())}" if len(shares) > 1 else "")


def confidence(seeds: pd.DataFrame) -> pd.DataFrame:
    """Per language, the student's interval and its gain over direct transfer, both in words; nothing for runs whose
    predictions do not say what their scores are made of, or that were judged on other rows than each other.

    Args:
        seeds: see `read_runs`.
    """
    metric = next(iter(seeds["metrics"].iloc[0]["shown"]))
    read = [read_counts(file.with_name("predictions.parquet")) for file in seeds["file"]]
    intervals, gains = {}, {}
    for lang in read[0]:
        sums = sums_of_seeds([one.get(lang, {}) for one in read])
        if (student := sums.get("student_counts")) is None:
            continue
        score = score_of(metric, student.shape[-1])
        low, high = interval(student, score)
        intervals[lang] = f"{percent(low)}–{percent(high)}"
        if "direct_counts" in sums:
            gains[lang] = difference(student, sums["direct_counts"], score)
    p = holm({lang: gain.p for lang, gain in gains.items()})
    told = {
        lang: f"{100 * gain.value:+.1f} ({percent(gain.low)}–{percent(gain.high)}){' *'[p[lang] < SIGNIFICANT]}"
        for lang, gain in gains.items()
    }
    return pd.DataFrame({"95 %": intervals, "gain": told}, dtype=object)


def sums_of_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Model -> (seeds, groups, counts), of one language; nothing where rows differ.

    Args:
        runs: see `read_counts`.
    """
    first = runs[0]
    return {
        model: np.stack([group_sums(np.array(one[model], dtype=float), first["cluster"]) for one in runs])
        for model in ("student_counts", "direct_counts")
        if all(one.get("id") == first["id"] and model in one for one in runs)
    }


def read_counts(file: Path) -> dict[str, dict[str, Any]]:
    """Per language, the columns of a run's predictions that say what its scores are made of."""
    try:
        names = {"id", "lang", "cluster", "student_counts", "direct_counts"} & {*pq.read_schema(file).names}
        if not {"id", "lang", "cluster"} <= names:
            return {}
        rows = pd.DataFrame(pq.read_table(file, columns=sorted(names)).to_pydict())
    except (OSError, pa.ArrowException):  # of an older run, or moved away
        return {}
    return {str(lang): of_lang.to_dict("list") for lang, of_lang in rows.groupby("lang", sort=False)}


def _setting(run: Path, metrics: dict[str, Any]) -> str:
    """Everything that was typed for this run, but its seed and its place."""
    typed = typed_of(run)
    own = [f"task={metrics['task']}"] if typed and overrides_file(run) is None else []  # one among several
    kept = [masked(item) for item in typed if not item.startswith(("seed=", "paths.", "hydra."))]
    return " ".join(sorted([*own, *kept])) or f"pair={metrics['pair']}"
