"""The main job: read the corpus, teach the teacher, distil, compare."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig
from rich.text import Text

from distilingua.console import console, quieten, results_table, show_data
from distilingua.evaluate import Judgement, Reader, Readers, judge, latency, retention
from distilingua.fitting import check_settings, keep_settings
from distilingua.monitoring.results import log_results
from distilingua.stages import Answers, Job, distil, prepare, read_right, rehearse, train_direct
from distilingua.teaching import as_one, ask, label_anew, teach


def train(cfg: DictConfig) -> dict[str, Any]:
    """Runs the main job in `cfg.paths.run` and returns what it writes to `metrics.json` there.

    Expects a configuration that `checks.check` has passed. A run that was interrupted goes on where it stopped.
    """
    quieten()
    check_settings(cfg)
    clock = Clock()
    models: dict[str, Reader | Readers] = {}
    answers: Answers = {}
    agreement: dict[str, float] = {}

    with clock("data"):
        job = prepare(cfg)
        show_data(job.rows)
        rehearse(job)
        keep_settings(cfg)
    if job.objective.needs_teacher:
        with clock("teacher"):
            teachers = {name: teach(job, name, source) for name, source in job.source.members.items()}
            models["teacher"] = as_one(teachers, job.source)
        with clock("soft_labels"):
            lessons = label_anew(job, teachers)
            answers = ask(job, teachers, lessons)
    with clock("direct"):
        models["direct"] = student = train_direct(job)  # without a teacher, the student is the baseline
    if job.objective.needs_teacher:
        with clock("student"):
            distilled = distil(job, answers, lessons)
            if distilled is None:
                return {}
            student, agreement = distilled
    models["student"] = student
    metrics = conclude(job, models, answers, agreement, clock)
    console.print(f"Written to {job.run / 'metrics.json'}; the student is in {student.folder}.", soft_wrap=True)
    return metrics


def conclude(
    job: Job,
    models: Mapping[str, Reader | Readers],
    answers: Answers,
    agreement: Mapping[str, float],
    clock: Clock,
) -> dict[str, Any]:
    """Judges all models; prints, logs and returns what it writes to the run's `metrics.json`.

    Args:
        models: by name; `student` is what the run is for.
        answers: what the student learnt from.
        agreement: of the student with the teacher on dev, per language.
        clock: of the run so far.
    """
    with clock("evaluation"):
        judgements = {name: judge(model, job.task, job.rows.test, name) for name, model in models.items()}
        source_dev = {job.pair.source: job.rows.dev[job.pair.source]}
        dev = judge(models["student"], job.task, source_dev, "student")[job.pair.source]
        milliseconds = latency(models, job.task, job.rows.test[job.pair.source])
    metrics = {
        **summary(job, models, judgements, milliseconds),
        "soft_labels": read_right(job, answers),
        "dev": {"score": dev.scores[job.task.score], "agreement": agreement},
        "seconds": clock.seconds,
    }
    (job.run / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False))
    log_results(job.cfg, job.task, metrics, judgements)
    console.print(results_table(metrics))
    if job.task.note:
        console.print(job.task.note)
    return metrics


def summary(
    job: Job,
    models: Mapping[str, Reader | Readers],
    judgements: dict[str, dict[str, Judgement]],
    milliseconds: dict[str, float],
) -> dict[str, Any]:
    """The part of `metrics.json` that compares the models."""
    kept = {}
    if "teacher" in models:
        kept = retention(
            judgements["teacher"], judgements["student"], job.task.score, job.pair.source, job.source.languages
        )
    return {
        "task": job.task.name,
        "pair": job.pair.name,
        "protocol": job.pair.protocol,
        "seed": job.cfg.seed,
        "shown": dict(job.task.shown),
        "models": {
            name: {
                "parameters": model.parameters,
                "bytes": model.bytes,
                "latency_ms": milliseconds[name],
                "languages": {lang: judgement.scores for lang, judgement in judgements[name].items()},
            }
            for name, model in models.items()
        },
        "retention": kept,
        "note": job.task.note,
    }


class Clock:
    """Announces stages, and adds up their seconds.

    Args:
        of: what they are of, in what is announced.
    """

    def __init__(self, of: str = "") -> None:
        self.of = of
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        console.rule(Text(f"{self.of} {stage.replace('_', ' ')}".strip(), "bold"), align="left")
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 1)
