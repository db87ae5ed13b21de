"""The main job for several tasks: one student with one encoder and a head for each, beside students of one task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datasets import concatenate_datasets
from lightning import seed_everything
from omegaconf import DictConfig

from distilingua.checks import tasks_of
from distilingua.console import console, quieten, show_data
from distilingua.data.several import SeveralData
from distilingua.distillation.several import SeveralTasks, share_encoder
from distilingua.evaluate import Reader, Readers
from distilingua.fitting import check_settings, fit, keep_settings
from distilingua.stages import Answers, Job, distil, prepare, rehearse, save, student_fit, student_reader, train_direct
from distilingua.teaching import as_one, ask, label_anew, teach
from distilingua.train import Clock, conclude


def train_several(cfg: DictConfig) -> dict[str, Any]:
    """Runs the job in `cfg.paths.run`, with a `metrics.json` in a folder for every task; returns them by task.

    In them, `single` is the student of this task alone, and `student` the one that shares its encoder.
    """
    quieten()
    check_settings(cfg)
    models: dict[str, dict[str, Reader | Readers]] = {}
    answers: dict[str, Answers] = {}

    with (shared := Clock())("data"):
        jobs = prepare_all(cfg)
        for job in jobs.values():
            show_data(job.rows)
            rehearse(job)
        keep_settings(cfg)
    clocks = {name: Clock(name) for name in jobs}
    for name, job in jobs.items():
        models[name] = {}
        with clocks[name]("teacher"):
            teachers = {member: teach(job, member, source) for member, source in job.source.members.items()}
            models[name]["teacher"] = as_one(teachers, job.source)
        with clocks[name]("soft_labels"):
            lessons = label_anew(job, teachers)
            answers[name] = ask(job, teachers, lessons)
        with clocks[name]("direct"):
            models[name]["direct"] = train_direct(job)
        with clocks[name]("single"):
            distilled = distil(job, answers[name], lessons)
            if distilled is None:
                return {}
            models[name]["single"] = distilled[0]
    with shared("student"):
        readers = distil_several(cfg, jobs, answers)
    found = {}
    for name, job in jobs.items():
        models[name]["student"] = readers[name]
        clocks[name].seconds |= shared.seconds
        found[name] = conclude(job, models[name], answers[name], {}, clocks[name])
    console.print(f"Written to {cfg.paths.run}/*/metrics.json; the students are beside them.", soft_wrap=True)
    return found


def prepare_all(cfg: DictConfig) -> dict[str, Job]:
    """A job for every task; their students read with one tokenizer."""
    jobs = {name: prepare(alone) for name, alone in tasks_of(cfg).items()}
    texts = concatenate_datasets([job.rows.train.select_columns(["text", "text_pair"]) for job in jobs.values()])
    first = next(iter(jobs.values()))
    tokenizer = first.student.tokenizer(texts, first.cache)
    return {name: replace(job, tokenizer=tokenizer) for name, job in jobs.items()}


def distil_several(cfg: DictConfig, jobs: dict[str, Job], answers: dict[str, Answers]) -> dict[str, Reader]:
    """The shared student, as one model a task."""
    fits = {name: student_fit(job, job.objective, job.rows.train, answers[name]) for name, job in jobs.items()}
    modules = {name: module for name, (module, _) in fits.items()}
    share_encoder(modules)
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = SeveralData({name: part for name, (_, part) in fits.items()}, cfg.several.tau)
    fit(cfg, "student", SeveralTasks(modules), data, cfg.training.epochs)
    readers = {}
    for name, job in jobs.items():
        folder = job.run / "student_of_all"
        save(modules[name], job.tokenizer, folder)
        readers[name] = student_reader(job, folder)
    return readers
