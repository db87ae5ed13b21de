"""Puts finished runs side by side: means over seeds."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Group
from rich.text import Text

from distilingua.console import plain_table
from distilingua.errors import UserError, refuse
from distilingua.monitoring.sweep import failures
from distilingua.statistics.bootstrap import difference, group_sums, holm, interval, score_of

LEAST = 0.05  # p below which a gain has its star
WIDTHS = {"lang": 5, "95 %": 10, "gain": 18, "kept": 11, "sec": 4}  # of columns that hold no mean ± deviation


def compare(folders: list[Path]) -> Group:
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
    found: dict[str, dict[Any, tuple[float, dict[str, Any], Path]]] = defaultdict(dict)
    again: Counter[str] = Counter()
    damaged: list[str] = []
    for file in sorted({path.resolve() for folder in folders for path in folder.rglob("metrics.json")}):
        try:
            metrics = metrics_of(file)
            setting, seed, written = _setting(file.parent, metrics), metrics["seed"], file.stat().st_mtime
        except UserError as error:
            damaged.append(str(error))
            continue
        again[setting] += seed in found[setting]
        if seed not in found[setting] or written > found[setting][seed][0]:  # a copy, or a run that was repeated
            found[setting][seed] = written, metrics, file
    refuse(*damaged)
    runs = {setting: [metrics for _, metrics, _ in seeds.values()] for setting, seeds in found.items()}
    files = {setting: [file for *_, file in seeds.values()] for setting, seeds in found.items()}
    failed = [f"{job.name} {why}" for job, why in failures(*folders).items()]
    if not runs:
        raise UserError(
            "\n".join(
                [f"no metrics.json under {', '.join(map(str, folders))}. Name a folder of finished runs.", *failed]
            )
        )
    common = set.intersection(*(set(setting.split()) for setting in runs)) if len(runs) > 1 else set()
    known = {setting: _sure(files[setting], next(iter(seeds[0]["shown"]))) for setting, seeds in runs.items()}
    sure_of = ("95 %", "gain") if any(sure for sure, _ in known.values()) else ()
    tables = []
    for setting, seeds in runs.items():
        score = next(iter(seeds[0]["shown"]))
        names = [name for name in ("teacher", "direct", "single", "student") if name in seeds[0]["models"]]
        table = plain_table(
            f"{' '.join(part for part in setting.split() if part not in common)}, seeds: {len(seeds)}"
            + (f" (again: {again[setting]})" if again[setting] else ""),
            ("lang",),
            (*names, *sure_of, "kept", "read right", "sec"),
        )
        for column in table.columns:
            column.min_width = WIDTHS.get(str(column.header), 10)  # the tables line up
        sure, gains = known[setting]
        for lang in seeds[0]["models"]["student"]["languages"]:
            scores = {
                name: [run["models"][name]["languages"][lang][score] for run in seeds if name in run["models"]]
                for name in names
            }
            table.add_row(
                lang,
                *(_spread(values) for values in scores.values()),
                *((sure.get(lang, ""), gains.get(lang, "")) if sure_of else ()),
                _spread([run["retention"]["languages"][lang] for run in seeds if run["retention"]]),
                _spread([run["soft_labels"][lang] for run in seeds if lang in run["soft_labels"]]),
                f"{statistics.mean(_seconds(run) for run in seeds):.0f}",
            )
        tables.append(table)
    return Group(*tables, *(Text(told) for told in failed))


def _sure(files: list[Path], metric: str) -> tuple[dict[str, str], dict[str, str]]:
    """Per language, the student's interval and its gain over direct transfer, both in words; nothing for runs whose
    predictions do not say what their scores are made of, or that were judged on other rows than each other."""
    read = [_counts(file.with_name("predictions.parquet")) for file in files]
    sure, gaps = {}, {}
    for lang in read[0] if read else ():
        if any(one.get(lang) is None or one[lang]["id"] != read[0][lang]["id"] for one in read):
            continue
        clusters = read[0][lang]["cluster"]
        sums = {
            name: np.stack([group_sums(np.array(one[lang][name], dtype=float), clusters) for one in read])
            for name in ("student_counts", "direct_counts")
            if all(name in one[lang] for one in read)
        }
        if "student_counts" in sums:
            score = score_of(metric, sums["student_counts"].shape[-1])
            low, high = interval(sums["student_counts"], score)
            sure[lang] = f"{100 * low:.1f}–{100 * high:.1f}"
        if len(sums) == 2:
            gaps[lang] = difference(sums["student_counts"], sums["direct_counts"], score)
    corrected = holm({lang: gap.p for lang, gap in gaps.items()})
    return sure, {
        lang: f"{100 * gap.value:+.1f} ({100 * gap.low:.1f}–{100 * gap.high:.1f}){' *'[corrected[lang] < LEAST]}"
        for lang, gap in gaps.items()
    }


def _counts(file: Path) -> dict[str, dict[str, Any]]:
    """Per language, the columns of a run's predictions that say what its scores are made of."""
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet as pq

    wanted = ["id", "lang", "cluster", "student_counts", "direct_counts"]
    try:
        names = set(pq.read_schema(file).names)
        if not {"id", "lang", "cluster"} <= names:
            return {}
        table = pq.read_table(file, columns=[name for name in wanted if name in names])
    except (OSError, pa.ArrowException):  # of an older run, or moved away
        return {}
    return {
        lang: table.filter(pa.compute.equal(table["lang"], lang)).to_pydict()
        for lang in pa.compute.unique(table["lang"]).to_pylist()
    }


def metrics_of(file: Path) -> dict[str, Any]:
    """What a run found; raises UserError for a file that is not as `train` writes it."""
    try:
        metrics: dict[str, Any] = json.loads(file.read_text("utf-8"))
        score = next(iter(metrics["shown"]))
        shares = [scores[score] for model in metrics["models"].values() for scores in model["languages"].values()]
        shares += [*metrics["soft_labels"].values(), *metrics["retention"].get("languages", {}).values()]
        sum([*shares, *metrics["seconds"].values()])  # they are numbers
        hash((metrics["seed"], metrics["task"], metrics["pair"]))
        _ = metrics["models"]["student"], metrics["dev"]["score"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise UserError(
            f"{file} is not as a run writes it ({type(error).__name__}: {error}). Delete it; `distilingua resume "
            f"{file.parent}` writes it anew, where the run's checkpoints are."
        ) from None
    return metrics


def _setting(run: Path, metrics: dict[str, Any]) -> str:
    """Everything that was typed for this run, but its seed and its place."""
    typed = [folder / ".hydra" / "overrides.yaml" for folder in (run, run.parent)]  # a task among several has no own
    found = next((file for file in typed if file.is_file()), None)
    try:
        overrides = [str(item) for item in yaml.safe_load(found.read_text("utf-8"))] if found else []
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        raise UserError(
            f"{found} is damaged, and says what was typed for that run. Mend it (a line `- pair=en-de` for each), or "
            f"delete the folder of the run."
        ) from None
    own = [f"task={metrics['task']}"] if found == typed[1] else []
    kept = [item for item in overrides if not item.startswith(("seed=", "paths.", "hydra."))]
    return " ".join(sorted([*own, *kept])) or f"pair={metrics['pair']}"


def _seconds(run: dict[str, Any]) -> float:
    """For the student; without a teacher, it is the baseline."""
    taken: dict[str, float] = run["seconds"]
    return taken.get("student", taken.get("direct", 0.0))


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"
