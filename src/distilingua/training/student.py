"""What students do in the main job: they learn alone, and they learn from a teacher."""

from __future__ import annotations

import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from torch import Tensor
from transformers import PreTrainedModel

from distilingua.artifacts import cached, code_fingerprint, note_files
from distilingua.columns import (
    BLOCK,
    Encoded,
    Ragged,
    column,
    filled,
    joined,
    lists_of,
    select,
    where,
    with_columns,
)
from distilingua.console import console
from distilingua.data.datamodule import Batch, Lessons, MultilingualDataModule, TeacherOutputs
from distilingua.data.rows import Rows, fingerprint_of
from distilingua.distillation.objective import Objective, hard_labels
from distilingua.distillation.signals import IGNORE_INDEX
from distilingua.foreign import HARMLESS
from distilingua.models.loading import load_student, note_reading
from distilingua.models.on_policy import OnPolicy
from distilingua.parts import made_of
from distilingua.tasks.task import Task
from distilingua.training.evaluate import calibrate
from distilingua.training.fitting import delete_checkpoints, fit
from distilingua.training.inference import Predictor
from distilingua.training.job import Job, labelled, training_recipe, with_labels
from distilingua.training.module import DistillationModule
from distilingua.training.plan import FROM_SCRATCH, Plan, learning_rate, make_plan, optimizer_of, process_count

BESIDE = {"on_policy", "workers", "eval_batch_size", "select"}  # keys of `training` that shape no baseline


def train_direct(job: Job) -> Predictor:
    """The student on the visible labels alone, without any teacher; kept for later runs.

    In a run with a teacher it is the baseline, and learns by the task's hard loss. In a run without, it is the student,
    and learns by what its objective says of labels; where that is the hard loss, the two are one.
    """
    settings, train_rows = job.settings, labelled(job.rows.train)
    configured = settings.plain
    objective = hard_labels(job.task.hard()) if job.objective.needs_teacher else job.objective
    recipe = {
        "objective": objective.recipe,
        "student": configured["student"],
        "origin": job.student.origin(),
        "tokenizer": job.encoder.fingerprint,
        "rows": fingerprint_of(train_rows, job.task),
        "training": {name: value for name, value in settings.training.items() if name not in BESIDE},
        "augmentation": configured["augmentation"],
        "optimizer": settings.optimizer,
        "lr_schedule": settings.lr_schedule,
        **training_recipe(job, [job.rows.dev[job.pair.source]]),
        "code": code_fingerprint(
            train_direct, job.task, *objective.terms.values(), job.student, *job.augmentations.values()
        ),
    }

    def build(folder: Path) -> None:
        # of rows that have been read already, with those that have no label
        encoded = job.encoder(job.rows.train, job.cache)[np.flatnonzero(filled(column(job.rows.train, "label")))]
        given = job, objective, train_rows, job.rows.dev, TeacherOutputs()
        module, data, plan = student_fit(*given, encoded=encoded)
        fit(settings, "direct", module, data, plan, recipe, one_device=True)
        calibrate_student(job, module.student)
        module.student.save_pretrained(folder)

    folder = cached(job.cache, "direct", recipe, build)
    delete_checkpoints(settings, "direct")
    if job.objective.needs_teacher:
        return student_predictor(job, folder)
    return deliver(job, load_student(folder, job.task), job.run / "student")


def distil(job: Job, outputs: TeacherOutputs, rows: Rows) -> tuple[Predictor, dict[str, float]] | None:
    """The student, and its agreement with the teacher per language; None in all processes of a job but the first."""
    module, data, plan = student_fit(job, job.objective, rows.train, rows.dev, outputs, process_count(job.settings))
    console.print(f"Student: {module.student.num_parameters():,} weights")
    recipe = student_recipe(job, rows.train, outputs)
    trainer = fit(job.settings, "student", module, data, plan, recipe)
    if job.pair.unpaired == "self_train" and len(rows.unpaired):
        module, trainer = self_train(job, outputs, rows, module, recipe)
    if not trainer.is_global_zero:
        return None
    calibrate_student(job, module.student)
    return deliver(job, module.student, job.run / "student"), module.last_agreement


def calibrate_student(job: Job, model: PreTrainedModel) -> None:
    calibrate(Predictor(lambda: model, job.encoder, job.device), job.rows.dev[job.pair.source], "the student")


def self_train(
    job: Job, outputs: TeacherOutputs, rows: Rows, first: DistillationModule, recipe: dict[str, Any]
) -> tuple[DistillationModule, Trainer]:
    """The student once more from where it stands, with the texts that nobody could read for it and its own answers to
    them, where it is sure of these (Lee 2013, Pseudo-Label, section 2.2)."""
    predictor = Predictor(lambda: first.student, job.encoder, job.device)
    found = predictor.predict(rows.unpaired, "The student's own labels")
    decoded = job.task.decode_all(found.answers, rows.unpaired, found.encoded, job.encoder.tokenizer)
    sure = [n for n, probability in enumerate(found.probabilities) if probability >= job.pair.sure and decoded[n]]
    console.print(f"The student labels {len(sure)} of {len(rows.unpaired)} texts without a partner")
    own = with_labels(select(rows.unpaired, sure), [decoded[n] for n in sure])
    train = joined([rows.train, own])
    processes = process_count(job.settings)
    module, data, plan = student_fit(job, job.objective, train, rows.dev, outputs, processes)
    module.load_state_dict(first.state_dict())
    return module, fit(job.settings, "self_trained", module, data, plan, {**recipe, "own": decoded})


def student_recipe(job: Job, rows: Dataset, outputs: TeacherOutputs) -> dict[str, Any]:
    """What shapes a student, beside the settings of its run."""
    return {
        "origin": job.student.origin(),
        "tokenizer": job.encoder.fingerprint,
        "rows": fingerprint_of(rows, job.task),
        "teachers": outputs.recipes,
        "dev": [fingerprint_of(each, job.task) for each in job.rows.dev.values()],
        "code": code_fingerprint(
            student_fit, fit, job.task, job.student, *job.objective.terms.values(), *job.augmentations.values()
        ),
    }


def student_fit(
    job: Job,
    objective: Objective,
    train_rows: Dataset,
    dev: dict[str, Dataset],
    outputs: TeacherOutputs,
    processes: int = 1,
    encoded: Encoded | None = None,
) -> tuple[DistillationModule, MultilingualDataModule, Plan]:
    """A fresh student, its data, and how long it trains; equal seeds give equal first weights, whatever ran before.

    Args:
        encoded: what the student reads of `train_rows`, where that is known.
    """
    settings, training = job.settings, job.settings.training
    seed_everything(settings.seed, workers=True, verbose=False)
    model = job.student.model(job.task, job.encoder.tokenizer)
    data = MultilingualDataModule(
        train_rows,
        dev,
        job.encoder,
        outputs,
        batch_size=training["batch_size"],
        eval_batch_size=training["eval_batch_size"],
        language_alpha=training["language_alpha"],
        seed=settings.seed,
        workers=training["workers"],
        cache=job.cache,
        augmentations=job.augmentations,
        encoded=encoded,
    )
    teacher = outputs.live.teacher if outputs.live is not None else None
    usual = job.student.lr or (learning_rate(model) if job.student.origin() else FROM_SCRATCH)
    optimizer, lr = optimizer_of(instantiate(settings.optimizer, _partial_=True), usual)
    width = outputs.stored.vector_width if outputs.stored is not None else None
    share = training["on_policy"] if teacher is not None else 0
    own = OnPolicy(share, job.task.max_length) if share else None
    made = model, job.task, objective, optimizer, instantiate(settings.lr_schedule)
    module = DistillationModule(*made, teacher, width, data.languages, own)
    more = {"languages": data.languages, "vector_width": width, "baseline": objective is not job.objective}
    module.save_hyperparameters(made_of(settings, model, job.task.labels, **more), logger=False)
    return module, data, make_plan(training, len(train_rows), settings.trainer, lr, processes)


def student_predictor(job: Job, folder: Path) -> Predictor:
    return Predictor(partial(load_student, folder, job.task), job.encoder, job.device, folder)


def deliver(job: Job, model: PreTrainedModel, folder: Path) -> Predictor:
    """Writes a student as a plain folder of transformers that is whole: weights, configuration, tokenizer, how it reads
    text (`OWN` in config.json), and hashes of all."""
    tokenizer = deepcopy(job.encoder.tokenizer)
    note_reading(model.config, tokenizer, job.task, reading(job))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    note_files(folder, folder.iterdir())
    return student_predictor(job, folder)


def reading(job: Job) -> dict[str, Any]:
    """How a student reads text, and what it is judged on; see `delivery.model.Delivered`."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return {
        "task": job.settings.plain["task"],
        "cleaning": job.settings.plain["cleaning"],
        "prefix": job.encoder.prefix,
        "languages": job.pair.languages,
        "overrides": [item for item in typed if HARMLESS.fullmatch(item)],
        "rows": {lang: fingerprint_of(rows, job.task) for lang, rows in job.rows.test.items()},
    }


def soft_label_accuracy(job: Job, outputs: TeacherOutputs) -> dict[str, float]:
    """Per language, the share of training rows whose stored soft label names the true class.

    It looks at labels that training may not see, and is reported only.
    """
    stored, task = outputs.stored, job.task
    if stored is None or not task.encodes_text():  # where a label is a text, no position has a true class
        return {}
    truth = job.rows.truth
    read = lists_of(job.rows.train, "teacher_texts").lengths > 0
    rows = where(with_columns(job.rows.train, {"label": truth}), read & filled(truth))
    lessons = Lessons(rows, job.encoder, job.cache)
    right: dict[str, list[Tensor]] = {}
    for lang in job.pair.languages:
        own = np.flatnonzero(lessons.languages() == lang)
        for start in range(0, len(own), BLOCK):
            batch = lessons.batch(own[start : start + BLOCK])
            right.setdefault(lang, []).append(_agreeing(task, torch.from_numpy(stored.logits(batch)), batch))
    return {lang: round(float(torch.cat(hits).mean()), 4) for lang, hits in right.items()}


def _agreeing(task: Task, answers: Tensor, batch: Batch) -> Tensor:
    """Whether answers name the true class, of every position whose class is known, (positions,) float."""
    targets: Ragged = batch.lessons.targets[batch.rows]
    if len(targets.values) == len(answers):
        pairs = [(answers, torch.from_numpy(targets.values))]
    else:  # of answers and questions: positions of a row are not those of its label
        rows = answers.split(task.positions(batch.encoded).tolist())
        pairs = [(answer, torch.from_numpy(target)) for answer, target in zip(rows, targets, strict=True)]
    found = []
    for answer, target in pairs:
        agree = task.agree(answer, target)
        found.append(agree[(target != IGNORE_INDEX).view(len(agree), -1).all(-1)].float())
    return torch.cat(found)
