"""The main job: read the corpus, train the teacher, distil, compare."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from distilingua.artifacts import as_written, fingerprint, whole_file, write_json
from distilingua.console import console, quieten
from distilingua.data.datamodule import TeacherOutputs
from distilingua.data.rows import Rows
from distilingua.errors import listed
from distilingua.monitoring.loggers import log_results
from distilingua.monitoring.provenance import provenance
from distilingua.monitoring.sweep import beside_others
from distilingua.monitoring.tables import results_table, show_data, trust_tables
from distilingua.parts import Parts
from distilingua.statistics.bootstrap import SIGNIFICANT
from distilingua.tasks.task import Evaluation, Task
from distilingua.training.evaluate import (
    evaluate,
    figures,
    latency,
    predictions,
    retention,
    through_aligned,
    trust,
    yardsticks,
)
from distilingua.training.fitting import (
    check_rows,
    check_settings,
    delete_checkpoints,
    finished,
    keep_settings,
    settings_of,
)
from distilingua.training.inference import AnyPredictor
from distilingua.training.job import Job, dry_run, prepare
from distilingua.training.plan import make_plan
from distilingua.training.reliability import MINUS
from distilingua.training.student import distil, soft_label_accuracy, train_direct
from distilingua.training.teacher import as_one, pseudo_label_rows, teacher_outputs, teacher_train_rows, train_teacher
from distilingua.training.vectors import sentence_vectors


def train(parts: Parts) -> dict[str, Any]:
    """Runs the main job in its folder and returns what it writes to `metrics.json` there.

    A run that was interrupted goes on where it stopped; one that was finished has its result already.

    Args:
        parts: what `checks.check` has made of a configuration.
    """
    quieten()
    settings = parts.settings
    check_settings(settings)
    clock = Clock(settings.run / "checkpoints" / "seconds.json")
    with clock("data"):
        job = prepare(parts)
        rows = job.fingerprint
        check_rows(settings, rows)
        if known := finished(settings, identity(job)):
            console.print_whole(results_table(known[0]))
            return known[0]
        show_data(job.rows)
        dry_run(job)
        keep_settings(settings, rows)
    taught = teach(job, clock)
    agreement: dict[str, float] = {}
    student = taught.models["direct"]  # without a teacher, the student is the baseline
    if job.objective.needs_teacher:
        with clock("student"):
            distilled = distil(job, taught.outputs, taught.rows)
        if distilled is None:
            return {}
        student, agreement = distilled
    metrics = conclude(job, {**taught.models, "student": student}, taught.outputs, agreement, clock)
    where = getattr(student, "folder", None)
    delete_checkpoints(settings)
    console.print(f"Written to {job.run / 'metrics.json'}; the student is in {where}.", soft_wrap=True)
    return metrics


@dataclass
class Taught:
    """What a student learns from and is compared with.

    Args:
        rows: the student's.
        outputs: the teacher's answers to them.
        models: `teacher`, where there is one, and `direct`.
    """

    rows: Rows
    outputs: TeacherOutputs = field(default_factory=TeacherOutputs)
    models: dict[str, AnyPredictor] = field(default_factory=dict)


def teach(job: Job, clock: Clock) -> Taught:
    """All that comes before the student: teachers, their answers, and the baseline."""
    taught = Taught(job.rows)
    if job.objective.needs_teacher:
        with clock("teacher"):
            teachers = {name: train_teacher(job, name, source) for name, source in job.source.members.items()}
            taught.models["teacher"] = as_one(teachers, job.source)
        with clock("soft_labels"):
            taught.rows = pseudo_label_rows(job, teachers)
            taught.outputs = teacher_outputs(job, teachers, taught.rows)
    with clock("direct"):
        taught.models["direct"] = train_direct(job)
    return taught


def conclude(
    job: Job,
    models: Mapping[str, AnyPredictor],
    outputs: TeacherOutputs,
    agreement: Mapping[str, float],
    clock: Clock,
) -> dict[str, Any]:
    """Judges all models; prints, logs and returns what it writes to the run's `metrics.json`, beside
    `predictions.parquet`.

    Args:
        models: by name; `student` is what the run is for.
        outputs: what the student learnt from.
        agreement: of the student with the teacher on dev, per language.
        clock: of the run so far.
    """
    student = models["student"]
    with clock("evaluation"):
        evaluations = {name: evaluate(model, job.rows.test, name) for name, model in models.items()}
        source = job.pair.source
        dev = evaluate(student, {source: job.rows.dev[source]}, "student")[source]
        speed = latency(models, job.rows.test[source])
        trusted = trust(
            models,
            evaluations,
            job.rows.test,
            ["student"],
            [("student", name) for name in ("direct", "single") if models.get(name, student) is not student],
        )
        teacher = models.get("teacher")
        aligned = {lang: through_aligned(job, teacher, rows) for lang, rows in job.rows.test.items() if teacher}
        with whole_file(job.run / "predictions.parquet") as file:
            predictions(job.rows.test, evaluations, aligned, trusted).to_parquet(str(file))
    metrics = {
        **summary(job, models, evaluations, figures(models, evaluations, speed, trusted)),
        "yardsticks": yardsticks(job, student, evaluations["student"], aligned, trusted),
        "advice": advice(job, evaluations) or worse_than_alone(trusted.differences.get(f"student{MINUS}direct", {})),
        "differences": trusted.differences,
        "soft_labels": soft_label_accuracy(job, outputs),
        "dev": {"score": dev.scores[main_score(job.task)], "agreement": agreement},
        "seconds": clock.seconds,
        "identity": identity(job),
    }
    # before what is drawn, which may fail; whoever resumes takes it for the end, see `finished`
    write_json(job.run / "metrics.json", metrics)
    for table in (results_table(metrics), *trust_tables(metrics)):
        console.print_whole(table)
    vectors = sentence_vectors(job, teacher, models["student"]) if teacher and job.settings.loggers else {}
    log_results(job.settings.plain, job.task, metrics, evaluations, vectors)
    for told in (job.task.note, metrics["advice"]):
        if told:
            console.print(told)
    return metrics


def identity(job: Job) -> str:
    """What a result is of: settings and rows."""
    return fingerprint([settings_of(job.settings), job.fingerprint])


def advice(job: Job, evaluations: Mapping[str, Mapping[str, Evaluation]]) -> str:
    """What to change where the teacher has nothing to teach; "" where it has."""
    source, score = job.pair.source, main_score(job.task)
    found = {name: evaluations[name][source].scores[score] for name in ("teacher", "direct") if name in evaluations}
    if "teacher" not in found or found["teacher"] > found["direct"] or found["teacher"] == 1:
        return ""
    numbers = f"{100 * found['teacher']:.1f} to {100 * found['direct']:.1f}"
    told = (
        f"The teacher is no better in {source!r} than the student alone ({numbers}), so its soft labels hold it back. "
    )
    passes = [
        make_plan(one.fine_tune, len(teacher_train_rows(job, one)), job.settings.trainer, lr=0.0, processes=1).epochs
        for one in job.source.members.values()
        if one.fine_tune
    ]
    if not passes:
        return told + "Choose a stronger one."
    return told + (
        f"Let it learn longer (teacher.fine_tune.epochs={2 * max(passes)}), from more labels (pair.parallel=0 if it "
        f"reads the targets), from several seeds (teacher.seeds=3), or choose a stronger one."
    )


def worse_than_alone(gaps: Mapping[str, Mapping[str, Any]]) -> str:
    """What to change where the student lost to itself without a teacher; "" where it did not, as far as can be told.

    Args:
        gaps: by language, see `reliability.differences`.
    """
    lost = [lang for lang, gap in gaps.items() if gap["value"] < 0 and gap["p_holm"] < SIGNIFICANT]
    if not lost:
        return ""
    return (
        f"The student is worse than without its teacher in {listed(lost)}. Let it learn longer "
        f"(training.min_steps=N), or weigh labels more, where the objective has the key (objective.alpha=0.5)."
    )


def summary(
    job: Job,
    models: Mapping[str, AnyPredictor],
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    found: dict[str, Any],
) -> dict[str, Any]:
    """The part of `metrics.json` that compares the models."""
    kept = {}
    if "teacher" in models:
        kept = retention(
            evaluations["teacher"], evaluations["student"], main_score(job.task), job.pair.source, job.source.languages
        )
    return {
        "task": job.task.name,
        "pair": job.pair.name,
        "protocol": job.pair.protocol,
        "seed": job.settings.seed,
        "device": str(job.device),
        "ms_beside_other_jobs": beside_others(),
        "shown": dict(job.task.shown),
        "models": found,
        "retention": kept,
        "made": provenance(),
        "note": job.task.note,
    }


def main_score(task: Task) -> str:
    """The metric that retention is computed from."""
    return next(iter(task.shown))


class Clock:
    """Announces stages, and adds up their seconds, those of an interrupted run included.

    Args:
        file: keeps them beside the checkpoints, once the run has a folder for these.
        of: what they are of, in what is announced.
    """

    def __init__(self, file: Path, of: str = "") -> None:
        self.file, self.of = file, of
        self.seconds: dict[str, float] = {}
        if file.exists():
            way_out = "Delete it: what is lost is how long the run has taken so far."
            with as_written(file, way_out):
                self.seconds, running = json.loads(file.read_text("utf-8"))
                sum([*self.seconds.values(), *running.values()])  # they are numbers
            saved = [path.stat().st_mtime for path in file.parent.glob("*/*.ckpt")]
            for stage, began in running.items():  # killed: what counts is what was saved of it
                self.seconds[stage] = round(self.seconds.get(stage, 0.0) + max([0, *(t - began for t in saved)]), 1)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        console.rule(Text(f"{self.of} {stage.replace('_', ' ')}".strip(), "bold"), align="left")
        start = time.perf_counter()
        self._keep({stage: time.time()})
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 1)
            self._keep({})

    def _keep(self, running: dict[str, float]) -> None:
        if self.file.parent.exists():
            with suppress(OSError), whole_file(self.file) as unfinished:  # of a full disk, others tell
                unfinished.write_text(json.dumps([self.seconds, running]), "utf-8")
