"""The end of a sweep: its jobs in a table, best first, as a CSV file, as a picture, and in TensorBoard."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from distilingua.artifacts import whole_file
from distilingua.console import console
from distilingua.errors import UserError, masked
from distilingua.locations import typed_of
from distilingua.monitoring.sweep import (
    differing,
    failures,
    final_scores,
    key_of,
    metrics_of,
    objective,
    results_in,
    three_digits,
)
from distilingua.monitoring.tables import escaped, for_terminal, markdown, percent, text_frame
from distilingua.parts import OBJECTIVES

COSTS = {"bytes": (1e6, "MB"), "latency_ms": (1, "ms for one sentence")}
"""What a student costs: objective -> its unit, and what an axis says."""


@dataclass
class JobOfSweep:
    """A job as it stands in a table.

    Args:
        varied: key -> value, of what the sweep varies.
        results: the content of its `metrics.json`, or of those of its tasks; empty where it has not come to its end.
        status: `finished`, `unfinished`, or why it failed.
        values: objective -> value.
    """

    folder: Path
    overrides: list[str]
    varied: dict[str, str]
    results: list[dict[str, Any]]
    status: str
    values: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """What varies, with three digits."""
        return {key: three_digits(value) for key, value in self.varied.items()}

    @property
    def beside_others(self) -> bool:
        """Whether its milliseconds are those of a busy machine."""
        return any(metrics.get("ms_beside_other_jobs") for metrics in self.results)

    def tasks(self) -> list[tuple[str, dict[str, Any]]]:
        """Results with the name of their task, which is "" where there is one alone."""
        return [(metrics["task"] if len(self.results) > 1 else "", metrics) for metrics in self.results]

    def row(self) -> dict[str, Any]:
        """Of the CSV file: targets before the source."""
        cells: dict[str, Any] = {**self.varied, **self.values}
        for task, metrics in self.tasks():
            cells |= {f"{task}/{name}".lstrip("/"): value for name, value in final_scores(metrics).items()}
        if self.results:
            cells["ms_beside_other_jobs"] = self.beside_others
        seconds = sum(sum(metrics["seconds"].values()) for metrics in self.results)
        return {**cells, "seconds": round(seconds, 1), "status": self.status, "folder": self.folder.name}

    def scores(self) -> dict[str, str]:
        """The student's main score in every target, and the mean share of the teacher's that it keeps, in percent."""
        shares: dict[str, float] = {}
        for task, metrics in self.tasks():
            main, languages = next(iter(metrics["shown"])), metrics["models"]["student"]["languages"]
            shares |= {f"{task} {lang}": languages[lang][main] for lang in list(languages)[1:]}
            shares |= {f"{task} kept": metrics["retention"]["mean"]} if metrics["retention"] else {}
        return {name.strip(): percent(share) for name, share in shares.items()}


def jobs_of(sweep: Path, select: Sequence[str]) -> list[JobOfSweep]:
    """Every job of a sweep, best first by the first objective, those without a result last.

    Args:
        select: objectives; size and speed are added to them.
    """
    jobs, failed = [], failures(sweep)
    for file in sorted(sweep.glob("*/.hydra/overrides.yaml")):
        folder = file.parents[1]
        overrides = typed_of(folder)
        varied = {key_of(item): item.partition("=")[2] for item in differing(sweep, overrides)}
        why = failed.get(folder.resolve())
        results = [] if why else [metrics_of(path) for path in results_in(folder)]
        job = JobOfSweep(folder, overrides, varied, results, why or ("finished" if results else "unfinished"))
        for by in (*select, *COSTS) if results else ():
            try:
                job.values[by] = objective(results, by)
            except UserError as error:  # no agreement where nothing compares
                job.status = str(error)
        jobs.append(job)
    sign = -1 if OBJECTIVES[select[0]] == "maximize" else 1
    return sorted(jobs, key=lambda job: (select[0] not in job.values, sign * job.values.get(select[0], 0), job.folder))


def leaderboard(jobs: Sequence[JobOfSweep], select: Sequence[str]) -> pd.DataFrame:
    """Best first: what varies, the objectives, the main score in every target and the share kept, in percent."""
    rows = []
    for job in jobs:
        cells = {**job.settings, **{by: f"{job.values[by]:.4g}" for by in select if by in job.values}, **job.scores()}
        if job.values:
            cells |= {"MB": f"{job.values['bytes'] / 1e6:.1f}", "ms": f"{job.values['latency_ms']:.1f}"}
        else:
            cells[select[0]] = job.status.partition(" ")[0]
        rows.append(cells)
    return text_frame(f"best first, by {' and '.join(select)} (no target label)", rows)


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
        points = [(job.values[cost] / unit, job.values[by]) for job in jobs]
        front = front_of(points)
        axes.scatter(*zip(*points, strict=True), color="tab:grey")
        axes.plot(*zip(*(points[n] for n in front), strict=True), color="tab:blue", marker="o", drawstyle="steps-post")
        for n in front:
            label = " ".join(jobs[n].settings.values())
            axes.annotate(label, points[n], (4, -10), textcoords="offset points", fontsize=8, parse_math=False)
        busy = cost == "latency_ms" and any(job.beside_others for job in jobs)
        axes.set(xlabel=f"{title}, beside other jobs" if busy else title, ylabel=by)
        axes.grid(alpha=0.3)
        axes.margins(0.15)
    return figure


def conclude_sweep(sweep: Path, select: Sequence[str]) -> None:
    """Prints the jobs of a sweep and the command of the best one; writes `sweep.csv`, `pareto.png`, and events for
    TensorBoard in `summary/`."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and a report has no need of it

    jobs = jobs_of(sweep, select)
    everything = text_frame(None, (job.row() for job in jobs))
    with whole_file(sweep / "sweep.csv") as path:
        everything.to_csv(path, index=False)
    finished = [job for job in jobs if select[0] in job.values]
    if not finished:
        return
    console.print_whole(for_terminal(leaderboard(jobs, select), words=len(finished[0].varied)))
    if any(job.beside_others for job in finished):
        console.print("ms was measured beside other jobs; `distilingua evaluate FOLDER` measures one alone.")
    best = masked(shlex.join(["distilingua", "train", *finished[0].overrides]))
    console.print(f"The best: {best}", soft_wrap=True)
    figure = pareto_figure(finished, select[0])
    with whole_file(sweep / "pareto.png") as path:
        figure.savefig(path, format="png", dpi=120)
    with SummaryWriter(str(sweep / "summary")) as writer_of_events:
        writer_of_events.add_figure("sweep/pareto", figure)
        writer_of_events.add_text("sweep/jobs", markdown(everything.map(escaped)))
        writer_of_events.add_text("sweep/best", f"    {best}")
    place = shlex.quote(str(sweep))
    console.print(f"{sweep / 'sweep.csv'} has all of it; tensorboard --logdir {place} its curves.", soft_wrap=True)
