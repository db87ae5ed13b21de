"""The stages of the main job, in the order in which `train.py` calls them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distilingua.artifacts import cached, code_fingerprint, folder_fingerprint, rows_fingerprint
from distilingua.checks import needs_live_teacher
from distilingua.console import console
from distilingua.corpora.schema import Corpus
from distilingua.data.augmentation import Augmentation, make_augmentations
from distilingua.data.datamodule import MultilingualDataModule, encode_rows, tokenise, tokenizer_fingerprint
from distilingua.data.protocol import Pair
from distilingua.data.rows import Rows, load_rows
from distilingua.distillation.module import DistillationModule
from distilingua.distillation.objective import Objective, hard_labels
from distilingua.distillation.soft_labels import Panel, store_soft_labels
from distilingua.errors import UserError
from distilingua.evaluate import Reader, Readers
from distilingua.fitting import fit
from distilingua.models.anatomy import anatomy
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.models.student import Student, load_student
from distilingua.models.teacher import FrozenTeacher, load_model, load_tokenizer
from distilingua.tasks.text_classification import TextClassification

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
    task: TextClassification
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
    rows = load_rows(corpus, instantiate(cfg.cleaning), pair, reads, panel)
    task: TextClassification = instantiate(cfg.task, labels=rows.labels)
    tokenizer = student.tokenizer(rows.train, Path(cfg.paths.cache))
    return Job(cfg, pair, source, objective, student, augmentations, rows, task, tokenizer)


def teach(job: Job, name: str, source: TeacherSource) -> Reader:
    """A teacher that knows the task: fine-tuned on the source's labels, unless it knows it already."""
    cfg, task, rows = job.cfg, job.task, job.rows
    tokenizer = load_tokenizer(source)
    if source.fine_tune is None:
        order = source.label_order()
        if order is not None and order != task.labels:
            raise UserError(
                f"teacher.path={source.path}: its labels are {', '.join(order[:6])} …; the corpus has "
                f"{', '.join(task.labels[:6])} … in this order. Soft labels would be misread. Give a teacher with the "
                f"same labels, or let it learn them: teacher/fine_tune=default."
            )
        load = partial(load_model, source.location, task, tokenizer, source.revision)
        return Reader(load, tokenizer, source.prefix, source.local, str(source.precision))
    settings = source.fine_tune
    lessons = labelled(rows.train).filter(lambda row: row["lang"] == job.pair.source)
    recipe = {
        "base": folder_fingerprint(source.local) if source.local else [source.location, source.revision],
        "rows": rows_fingerprint(lessons, ["id", "text", "text_pair", "label"]),
        "labels": task.labels,
        "fine_tune": settings,
        "prefix": source.prefix,
        "max_length": task.max_length,
        **training_recipe(cfg, lr=settings["lr"], weight_decay=settings["weight_decay"]),
    }

    def build(folder: Path) -> None:
        console.print(f"Fine-tuning on {len(lessons)} labelled {job.pair.source!r} sentences; kept for later runs")
        seed_everything(cfg.seed, workers=True, verbose=False)
        model = load_model(source.location, task, tokenizer, source.revision)
        for part in settings["freeze"]:
            part_of(model, part).requires_grad_(False)
        data = MultilingualDataModule(
            lessons.remove_columns("teacher_rows"),
            {job.pair.source: rows.dev[job.pair.source].remove_columns("teacher_rows")},
            task,
            tokenizer,
            prefix=source.prefix,
            batch_size=settings["batch_size"],
            seed=cfg.seed,
            workers=cfg.training.workers,
            cache=job.cache,
        )
        optimizer = instantiate(cfg.optimizer, lr=settings["lr"], weight_decay=settings["weight_decay"])
        module = DistillationModule(
            model, task, hard_labels(), optimizer, settings["lr_schedule"], languages=data.languages
        )
        fit(cfg, name, module, data, settings["epochs"], one_device=True)
        model.save_pretrained(folder)

    folder = cached(job.cache, "teachers", recipe, build)
    load = partial(load_model, folder, task, tokenizer)
    return Reader(load, tokenizer, source.prefix, folder, str(source.precision))


def part_of(model: PreTrainedModel, name: str) -> nn.Module:
    """A part of the encoder by name; `embeddings` is there in every model, whatever its own name for it."""
    if name == "embeddings" and not hasattr(model.base_model, name):
        return model.get_input_embeddings()
    return model.base_model.get_submodule(name)


def ask(job: Job, teachers: Mapping[str, Reader]) -> Answers:
    """The teachers' answers: from stores, or from a live teacher.

    Args:
        teachers: by name, as `job.source.members`.
    """
    source, task, rows = job.source, job.task, job.rows
    reads = [r for part in (rows.train, *rows.dev.values()) for r in part["teacher_rows"]]
    columns: list[Any] = list(zip(*(r for r in reads if r), strict=True)) if isinstance(source, Ensemble) else [None]
    stores = []
    for (name, reader), column in zip(teachers.items(), columns, strict=True):
        member = source.members[name]
        ids = {i for i in column if i} if column is not None else {i for r in reads for i in r}
        texts = rows.texts.select([i for i, row_id in enumerate(rows.texts["id"]) if row_id in ids])
        token_ids = tokenise(texts, task, reader.tokenizer, reader.prefix, job.cache)
        pad_id = reader.tokenizer.pad_token_id
        if member.store is False:
            live = {
                "teacher_tokens": dict(zip(texts["id"], token_ids, strict=True)),
                "teacher_pad_id": pad_id,
                "teacher_encode": partial(encode_rows, task=task, tokenizer=reader.tokenizer, prefix=reader.prefix),
            }
            return {"data": live, "teacher": FrozenTeacher(reader.model, job.objective.needs)}
        recipe = {
            "teacher": folder_fingerprint(reader.folder) if reader.folder else [member.location, member.revision],
            "tokenizer": tokenizer_fingerprint(reader.tokenizer),
            "prefix": reader.prefix,
            "corpus": rows_fingerprint(texts, ["id", "text", "text_pair"]),
            "max_length": task.max_length,
            "precision": str(member.precision),
        }
        options = member.store_dtype, member.store_top_k
        stores.append(store_soft_labels(job.cache, recipe, reader, task, texts, token_ids, pad_id, *options))
    answers = stores[0] if isinstance(source, TeacherSource) else Panel(stores, member_weights(source))
    return {"data": {"soft_labels": answers}, "teacher": None}


def member_weights(source: Ensemble) -> list[float]:
    return [float(source.weights[name]) if source.weights else 1.0 for name in source.teachers]


def as_one(teachers: Mapping[str, Reader], source: TeacherSource | Ensemble) -> Reader | Readers:
    """The teachers as they are judged."""
    if isinstance(source, TeacherSource):
        return next(iter(teachers.values()))
    return Readers([(teachers[n], member.languages) for n, member in source.members.items()], member_weights(source))


def train_direct(job: Job) -> Reader:
    """The baseline: the same student on the visible labels alone, without any teacher; kept for later runs."""
    cfg, lessons = job.cfg, labelled(job.rows.train)
    recipe = {
        "student": OmegaConf.to_container(cfg.student, resolve=True),
        "origin": job.student.origin(),
        "tokenizer": tokenizer_fingerprint(job.tokenizer),
        "rows": rows_fingerprint(lessons, ["id", "text", "text_pair", "label"]),
        "labels": job.task.labels,
        "max_length": job.task.max_length,
        "training": OmegaConf.to_container(cfg.training, resolve=True),
        "augmentation": OmegaConf.to_container(cfg.augmentation, resolve=True),
        "lr_schedule": OmegaConf.to_container(cfg.lr_schedule, resolve=True),
        **training_recipe(cfg),
    }

    def build(folder: Path) -> None:
        module, data = student_fit(job, hard_labels(), lessons, {})
        fit(cfg, "direct", module, data, cfg.training.epochs, one_device=True)
        save(module, job.tokenizer, folder)

    return student_reader(job, cached(job.cache, "direct", recipe, build))


def distil(job: Job, answers: Answers) -> tuple[Reader, dict[str, float]] | None:
    """The student, and its agreement with the teacher per language; None in all processes of a job but the first."""
    module, data = student_fit(job, job.objective, job.rows.train, answers)
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
    soft_labels = answers.get("data", {}).get("soft_labels")
    if soft_labels is None:
        return {}
    truth = dict(zip(job.rows.texts["id"], job.rows.texts["label"], strict=True))
    right: dict[str, list[bool]] = {}
    for row in job.rows.train.select_columns(["id", "lang", "teacher_rows"]):
        if row["teacher_rows"] and truth[row["id"]]:
            named = job.task.labels[int(soft_labels(row["teacher_rows"]).argmax())]
            right.setdefault(row["lang"], []).append(named == truth[row["id"]])
    return {lang: round(statistics.mean(hits), 4) for lang, hits in right.items()}


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
