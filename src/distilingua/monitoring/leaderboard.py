"""The end of a sweep: its jobs in a table, best first, as a CSV file, as a picture, and in TensorBoard."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from distilingua.artifacts import whole_file
from distilingua.console import console, plain_table
from distilingua.errors import UserError
from distilingua.locations import typed_for
from distilingua.monitoring.plain import piped
from distilingua.monitoring.sweep import FAILED, OBJECTIVES, first_line, key_of, objective, rounded, varying

COSTS = {"bytes": (1e6, "MB"), "latency_ms": (1, "ms for one sentence")}
"""What a student costs: objective -> its unit, and what an axis says."""


@dataclass
class JobOfSweep:
    """A job as it stands in a table.

    Args:
        varied: key -> value, of what the sweep varies.
        found: the content of its `metrics.json`, or of those of its tasks; empty where it has not come to its end.
        status: `finished`, `unfinished`, or why it failed.
        values: objective -> value.
    """

    folder: Path
    overrides: list[str]
    varied: dict[str, str]
    found: list[dict[str, Any]]
    status: str
    values: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return " ".join(self.cells())

    @property
    def beside_others(self) -> bool:
        """Whether its milliseconds are those of a busy machine."""
        return any(metrics.get("ms_beside_other_jobs") for metrics in self.found)

    def cells(self, keys: Sequence[str] | None = None) -> list[str]:
        """What varies, with three digits."""
        return [rounded(self.varied.get(key, "")) for key in keys or self.varied]

    def row(self) -> dict[str, Any]:
        """Of the CSV file: targets before the source."""
        several = len(self.found) > 1
        cells: dict[str, Any] = {**self.varied, **self.values}
        for metrics in self.found:
            task = f"{metrics['task']}/" if several else ""
            languages = metrics["models"]["student"]["languages"]
            for lang in [*list(languages)[1:], *list(languages)[:1]]:
                cells |= {f"{task}test/{lang}/{name}": languages[lang][name] for name in metrics["shown"]}
            kept = metrics["retention"]
            cells |= {f"{task}retention/{name}": kept[name] for name in ("mean", "worst") if kept}
        if self.found:
            cells["ms_beside_other_jobs"] = self.beside_others
        seconds = sum(sum(metrics["seconds"].values()) for metrics in self.found)
        return {**cells, "seconds": round(seconds, 1), "status": self.status, "folder": self.folder.name}


def jobs_of(sweep: Path, select: Sequence[str]) -> list[JobOfSweep]:
    """Every job of a sweep, best first by the first objective, those without a result last.

    Args:
        select: objectives; size and speed are added to them.
    """
    jobs = []
    for file in sorted(sweep.glob("*/.hydra/overrides.yaml")):
        folder = file.parents[1]
        overrides = typed_for(file) or []
        varied = {key_of(item): item.partition("=")[2] for item in varying(sweep, overrides)}
        failed = first_line(folder / FAILED) if (folder / FAILED).exists() else ""
        files = [] if failed else sorted(folder.glob("metrics.json")) or sorted(folder.glob("*/metrics.json"))
        found = [json.loads(path.read_text("utf-8")) for path in files]
        jobs.append(JobOfSweep(folder, overrides, varied, found, failed or ("finished" if found else "unfinished")))
        for by in (*select, *COSTS) if found else ():
            try:
                jobs[-1].values[by] = objective(found, by)
            except UserError as error:  # no agreement where nothing compares
                jobs[-1].status = str(error)
    sign = -1 if OBJECTIVES[select[0]] == "maximize" else 1
    return sorted(jobs, key=lambda job: (select[0] not in job.values, sign * job.values.get(select[0], 0), job.folder))


def table_of(jobs: Sequence[JobOfSweep], select: Sequence[str]) -> Table:
    """Best first: what varies, the objectives, the main score in every target and the share kept, in percent."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.varied))
    results = {id(job): scores_of(job) for job in jobs}
    names = list(dict.fromkeys(name for scores in results.values() for name in scores))
    table = plain_table(f"best first, by {' and '.join(select)} (no target label)", keys, (*select, *names, "MB", "ms"))
    for job in jobs:
        if not job.values:
            table.add_row(*job.cells(keys), job.status.partition(" ")[0])
            continue
        table.add_row(
            *job.cells(keys),
            *(f"{job.values[by]:.4g}" if by in job.values else "" for by in select),
            *(f"{100 * results[id(job)][name]:.1f}" if name in results[id(job)] else "" for name in names),
            f"{job.values['bytes'] / 1e6:.1f}",
            f"{job.values['latency_ms']:.1f}",
        )
    return table


def scores_of(job: JobOfSweep) -> dict[str, float]:
    """The student's main score in every target, and the mean share of the teacher's that it keeps."""
    scores: dict[str, float] = {}
    for metrics in job.found:
        task = f"{metrics['task']} " if len(job.found) > 1 else ""
        main, languages = next(iter(metrics["shown"])), metrics["models"]["student"]["languages"]
        scores |= {f"{task}{lang}": languages[lang][main] for lang in list(languages)[1:]}
        scores |= {f"{task}kept": metrics["retention"]["mean"]} if metrics["retention"] else {}
    return scores


def front_of(points: Sequence[tuple[float, float]]) -> list[int]:
    """Those of (cost, gain) that no other one beats or equals in both, by rising cost."""
    front: list[int] = []
    for n in sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1])):
        if not front or points[n][1] > points[front[-1]][1]:
            front.append(n)
    return front


def pareto_figure(jobs: Sequence[JobOfSweep], by: str) -> Figure:
    """What a student gains against its size and its speed; those that nothing beats in both are joined and named."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (cost, (unit, title)) in zip(figure.subplots(1, len(COSTS), sharey=True), COSTS.items(), strict=True):
        _draw(axes, [(job.values[cost] / unit, job.values[by]) for job in jobs], [job.label for job in jobs])
        busy = cost == "latency_ms" and any(job.beside_others for job in jobs)
        axes.set(xlabel=f"{title}, beside other jobs" if busy else title, ylabel=by)
    return figure


def _draw(axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    front = front_of(points)
    axes.scatter(*zip(*points, strict=True), color="tab:grey")
    axes.plot(*zip(*(points[n] for n in front), strict=True), color="tab:blue", marker="o", drawstyle="steps-post")
    for n in front:
        axes.annotate(labels[n], points[n], (4, -10), textcoords="offset points", fontsize=8, parse_math=False)
    axes.grid(alpha=0.3)
    axes.margins(0.15)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for TensorBoard's text."""
    from distilingua.monitoring.tensorboard import as_it_is

    keys = list(dict.fromkeys(key for row in rows for key in row))
    return piped(keys, ([as_it_is(str(row.get(key, ""))) for key in keys] for row in rows))


def conclude(sweep: Path, select: Sequence[str]) -> None:
    """Prints the jobs of a sweep and the command of the best one; writes `sweep.csv`, `pareto.png`, and events for
    TensorBoard in `summary/`."""
    jobs = jobs_of(sweep, select)
    rows = [job.row() for job in jobs]
    with whole_file(sweep / "sweep.csv") as path, path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    finished = [job for job in jobs if select[0] in job.values]
    if not finished:
        return
    console.print_whole(table_of(jobs, select))
    if any(job.beside_others for job in finished):
        console.print("ms was measured beside other jobs; `distilingua evaluate FOLDER` measures one alone.")
    best = shlex.join(["distilingua", "train", *finished[0].overrides])
    console.print(f"The best: {best}", soft_wrap=True)
    figure = pareto_figure(finished, select[0])
    with whole_file(sweep / "pareto.png") as path:
        figure.savefig(path, format="png", dpi=120)
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(sweep / "summary")) as writer_of_events:
        writer_of_events.add_figure("sweep/pareto", figure)
        writer_of_events.add_text("sweep/jobs", markdown(rows))
        writer_of_events.add_text("sweep/best", f"    {best}")
    place = shlex.quote(str(sweep))
    console.print(f"{sweep / 'sweep.csv'} has all of it; tensorboard --logdir {place} its curves.", soft_wrap=True)
