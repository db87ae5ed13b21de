"""The main job for several tasks: one student with one encoder and a head for each, beside students of one task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning import seed_everything

from distilingua.artifacts import fingerprint
from distilingua.columns import joined
from distilingua.console import console, quieten
from distilingua.data.multitask import MultitaskData
from distilingua.monitoring.tables import show_data
from distilingua.parts import Parts, Settings
from distilingua.training.fitting import (
    check_rows,
    check_settings,
    delete_checkpoints,
    finished,
    fit,
    keep_settings,
)
from distilingua.training.inference import Predictor
from distilingua.training.job import Job, dry_run, labelled, prepare
from distilingua.training.multitask_module import MultitaskModule, share_encoder
from distilingua.training.plan import make_plan
from distilingua.training.student import calibrate_student, deliver, distil, student_fit, student_recipe
from distilingua.training.train import Clock, Taught, conclude, identity, teach


def train_multitask(settings: Settings, parts: Mapping[str, Parts]) -> dict[str, Any]:
    """Runs the job in its folder, with a `metrics.json` in a folder for every task; returns them by task.

    In them, `single` is the student of this task alone (without a teacher that is `direct`), and `student` the one that
    shares its encoder.
    """
    quieten()
    check_settings(settings)
    kept = settings.run / "checkpoints"
    with (shared := Clock(kept / "seconds.json"))("data"):
        jobs = prepare_all(parts)
        rows = fingerprint({name: job.fingerprint for name, job in jobs.items()})
        check_rows(settings, rows)
        if known := finished(settings, *map(identity, jobs.values())):
            return dict(zip(jobs, known, strict=True))
        for job in jobs.values():
            show_data(job.rows)
            dry_run(job)
        keep_settings(settings, rows)
    clocks = {name: Clock(kept / f"seconds-{name}.json", name) for name in jobs}
    taught = {}
    for name, job in jobs.items():
        taught[name] = teach(job, clocks[name])
        if job.objective.needs_teacher:
            with clocks[name]("single"):
                distilled = distil(job, taught[name].outputs, taught[name].rows)
            if distilled is None:
                return {}
            taught[name].models["single"] = distilled[0]
    with shared("student"):
        students, agreement = distil_multitask(settings, jobs, taught)
    found = {}
    for name, job in jobs.items():
        clocks[name].seconds |= shared.seconds
        models = {**taught[name].models, "student": students[name]}
        found[name] = conclude(job, models, taught[name].outputs, agreement[name], clocks[name])
    delete_checkpoints(settings)
    console.print(f"Written to {settings.run}/*/metrics.json; the students are beside them.", soft_wrap=True)
    return found


def prepare_all(parts: Mapping[str, Parts]) -> dict[str, Job]:
    """A job for every task; their students read with one tokenizer, and texts as they are: see `checks`."""
    jobs = {name: prepare(one) for name, one in parts.items()}
    texts = joined([job.rows.train.select_columns(["text", "text_pair"]) for job in jobs.values()])
    first = next(iter(jobs.values()))
    words = any("text" in job.task.points_into for job in jobs.values())
    tokenizer = first.student.tokenizer(texts, first.cache, words)
    return {
        name: replace(job, encoder=replace(job.encoder, tokenizer=tokenizer), augmentations={})
        for name, job in jobs.items()
    }


def distil_multitask(
    settings: Settings, jobs: dict[str, Job], taught: dict[str, Taught]
) -> tuple[dict[str, Predictor], dict[str, dict[str, float]]]:
    """The shared student, as one model a task, and its agreement with the teacher of each per language."""
    fits, recipes = {}, {}
    for name, job in jobs.items():
        rows = taught[name].rows
        train_rows = rows.train if job.objective.needs_teacher else labelled(rows.train)
        fits[name] = student_fit(job, job.objective, train_rows, rows.dev, taught[name].outputs)
        recipes[name] = student_recipe(job, train_rows, taught[name].outputs)
    modules = {name: module for name, (module, *_) in fits.items()}
    share_encoder(modules)
    seed_everything(settings.seed, workers=True, verbose=False)
    data = MultitaskData({name: part for name, (_, part, _) in fits.items()}, settings.plain["multitask"]["tau"])
    shared = MultitaskModule(modules)
    lr = next(plan.lr for *_, plan in fits.values())
    plan = make_plan(
        settings.training, sum(len(part.train) for _, part, _ in fits.values()), settings.trainer, lr, processes=1
    )
    fit(settings, "student", shared, data, plan, recipes)
    students = {}
    for name, job in jobs.items():
        calibrate_student(job, modules[name].student)
        students[name] = deliver(job, modules[name].student, job.run / "student_of_all")
    return students, shared.last_agreement
