"""The stages of the main job that are the student's; teaching.py has those of its teachers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Value
from hydra.utils import get_class, instantiate
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distilingua.artifacts import cached, code_fingerprint, rows_fingerprint
from distilingua.checks import needs_live_teacher
from distilingua.console import console
from distilingua.corpora.schema import Corpus
from distilingua.data.augmentation import Augmentation, make_augmentations
from distilingua.data.datamodule import MultilingualDataModule, tokenise, tokenizer_fingerprint
from distilingua.data.protocol import Pair
from distilingua.data.rows import Rows, load_rows
from distilingua.distillation.module import DistillationModule
from distilingua.distillation.objective import Objective, hard_labels
from distilingua.evaluate import Reader
from distilingua.fitting import fit
from distilingua.models.anatomy import anatomy
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.models.student import Student, load_student
from distilingua.tasks.task import Task

Answers = dict[str, Any]
"""How batches get the teacher's logits: arguments of the data module under "data", a live teacher under "teacher"."""


@dataclass
class Job:
    """What one run works with."""

    cfg: DictConfig
    pair: Pair
    source: TeacherSource | Ensemble
    objective: Objective
    student: Student
    augmentations: dict[str, Augmentation]
    rows: Rows
    task: Task
    tokenizer: PreTrainedTokenizerBase

    @property
    def run(self) -> Path:
        return Path(self.cfg.paths.run)

    @property
    def cache(self) -> Path:
        return Path(self.cfg.paths.cache)


def prepare(cfg: DictConfig) -> Job:
    """Builds what the configuration names, and reads the corpus."""
    pair: Pair = instantiate(cfg.pair)
    source: TeacherSource | Ensemble = instantiate(cfg.teacher, _convert_="all")
    objective: Objective = instantiate(cfg.objective, schedules=instantiate(cfg.schedule))
    student: Student = instantiate(cfg.student)
    corpus: Corpus = instantiate(cfg.corpus)
    augmentations = make_augmentations(cfg.augmentation, corpus, pair.languages)
    source.settle(live=needs_live_teacher(objective, augmentations))
    reads, panel = (source.languages, source.panel) if objective.needs_teacher else (None, [])
    rows = load_rows(corpus, instantiate(cfg.cleaning), pair, reads, panel, get_class(cfg.task._target_))
    if objective.needs_teacher:
        rows.train = without_lessons(rows.train, source, pair)
    task: Task = instantiate(cfg.task, labels=rows.labels)
    task.learn(label for label in rows.train["label"] if label)
    tokenizer = student.tokenizer(rows.train, Path(cfg.paths.cache))
    return Job(cfg, pair, source, objective, student, augmentations, rows, task, tokenizer)


def rehearse(job: Job) -> None:
    """Raises UserError for a student that cannot be built, or a text that it cannot read, before anything is trained.

    Tokens are kept, so no time is lost.
    """
    rows, student = job.rows.train, job.student
    if student.origin() is None:
        student.model(job.task, job.tokenizer)
    job.task.targets(rows, tokenise(rows, job.task, job.tokenizer, student.prefix, job.cache))


def without_lessons(rows: Dataset, source: TeacherSource | Ensemble, pair: Pair) -> Dataset:
    """Training rows of a target whose labels a teacher has learnt from are not for the student: a teacher that
    remembers them would hand the labels on."""
    taught = {
        lang for member in source.members.values() for lang in (member.fine_tune or {}).get("languages") or ()
    } - {pair.source}
    if not taught:
        return rows
    marks = zip(rows["lang"][:], rows["split"][:], strict=True)
    return rows.select([i for i, (lang, split) in enumerate(marks) if lang not in taught or split != "train"])


def train_direct(job: Job) -> Reader:
    """The baseline: the same student on the visible labels alone, without any teacher; kept for later runs."""
    cfg, lessons = job.cfg, labelled(job.rows.train)
    recipe = {
        "student": OmegaConf.to_container(cfg.student, resolve=True),
        "origin": job.student.origin(),
        "tokenizer": tokenizer_fingerprint(job.tokenizer),
        "rows": rows_fingerprint(lessons, ["id", *job.task.reads, "label"]),
        "labels": job.task.labels,
        "task": OmegaConf.to_container(cfg.task, resolve=True),
        "training": OmegaConf.to_container(cfg.training, resolve=True),
        "augmentation": OmegaConf.to_container(cfg.augmentation, resolve=True),
        "lr_schedule": OmegaConf.to_container(cfg.lr_schedule, resolve=True),
        **training_recipe(cfg),
    }

    def build(folder: Path) -> None:
        module, data = student_fit(job, hard_labels(job.task.hard()), lessons, {})
        fit(cfg, "direct", module, data, cfg.training.epochs, one_device=True)
        save(module, job.tokenizer, folder)

    return student_reader(job, cached(job.cache, "direct", recipe, build))


def distil(job: Job, answers: Answers, lessons: Dataset) -> tuple[Reader, dict[str, float]] | None:
    """The student, and its agreement with the teacher per language; None in all processes of a job but the first."""
    module, data = student_fit(job, job.objective, lessons, answers)
    console.print(anatomy(module.student))
    trainer = fit(job.cfg, "student", module, data, job.cfg.training.epochs)
    if not trainer.is_global_zero:
        return None
    save(module, job.tokenizer, job.run / "student")
    return student_reader(job, job.run / "student"), module.last_agreement


def student_fit(
    job: Job, objective: Objective, lessons: Dataset, answers: Answers
) -> tuple[DistillationModule, MultilingualDataModule]:
    """A fresh student with its data; equal seeds give equal first weights, whatever ran before."""
    cfg = job.cfg
    seed_everything(cfg.seed, workers=True, verbose=False)
    model = job.student.model(job.task, job.tokenizer)
    data = MultilingualDataModule(
        lessons,
        job.rows.dev,
        job.task,
        job.tokenizer,
        prefix=job.student.prefix,
        batch_size=cfg.training.batch_size,
        eval_batch_size=cfg.training.eval_batch_size,
        language_alpha=cfg.training.language_alpha,
        seed=cfg.seed,
        workers=cfg.training.workers,
        cache=job.cache,
        augmentations=job.augmentations,
        **answers.get("data", {}),
    )
    optimizer = instantiate(cfg.optimizer)
    module = DistillationModule(
        model, job.task, objective, optimizer, cfg.lr_schedule, answers.get("teacher"), data.languages
    )
    return module, data


def student_reader(job: Job, folder: Path) -> Reader:
    return Reader(partial(load_student, folder, job.task), job.tokenizer, job.student.prefix, folder)


def save(module: DistillationModule, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A plain transformers folder: weights, configuration and tokenizer."""
    module.student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_right(job: Job, answers: Answers) -> dict[str, float]:
    """Per language, the share of training rows whose stored soft label names the true class.

    It looks at labels that training may not see, and is reported only.
    """
    soft_labels, task = answers.get("data", {}).get("soft_labels"), job.task
    if soft_labels is None or not task.positional:
        return {}
    truth = dict(zip(job.rows.texts["id"], job.rows.texts["label"], strict=True))
    marks = zip(job.rows.train["id"][:], job.rows.train["teacher_rows"][:], strict=True)
    lessons = job.rows.train.select([i for i, (row_id, read) in enumerate(marks) if read and truth[row_id]])
    lessons = with_labels(lessons, [truth[row_id] for row_id in lessons["id"]])
    encoded = tokenise(lessons, task, job.tokenizer, job.student.prefix, job.cache)
    right: dict[str, list[Tensor]] = {}
    for row, e, target in zip(lessons, encoded, task.targets(lessons, encoded), strict=True):
        answer = torch.from_numpy(soft_labels({**row, **e}))
        right.setdefault(row["lang"], []).append(task.right(answer, target).float())
    return {lang: round(float(torch.cat(hits).mean()), 4) for lang, hits in right.items()}


def with_labels(rows: Dataset, labels: list[str]) -> Dataset:
    return rows.remove_columns("label").add_column("label", labels, feature=Value("string"))


def labelled(rows: Dataset) -> Dataset:
    return rows.select([i for i, label in enumerate(rows["label"]) if label])


def training_recipe(cfg: DictConfig, **optimizer: float) -> dict[str, Any]:
    """What shapes every model this package trains, with what this model's own optimizer has of its own."""
    return {
        "seed": cfg.seed,
        "optimizer": {**OmegaConf.to_container(cfg.optimizer, resolve=True), **optimizer},  # type: ignore[dict-item]
        "trainer": {name: cfg.trainer[name] for name in ("precision", "gradient_clip_val", "accumulate_grad_batches")},
        "code": code_fingerprint(),
    }
