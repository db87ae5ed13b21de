"""The stages of the main job, in the order in which `train.py` calls them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, List, Value, concatenate_datasets
from hydra.utils import get_class, instantiate
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
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


def teach(job: Job, name: str, source: TeacherSource) -> Reader:
    """A teacher that knows the task: fine-tuned on the source's labels, unless it knows it already."""
    cfg, task, rows = job.cfg, job.task, job.rows
    tokenizer = (
        source.scratch.tokenizer(rows.train, job.cache)
        if source.scratch
        else load_tokenizer(source, "audio" in task.reads)
    )
    task.meet(job.tokenizer, tokenizer)
    if source.fine_tune is None:
        order = task.order_of(source.label_order(), tokenizer)
        if order is not None and task.labels and order != task.labels:
            raise UserError(
                f"teacher.path={source.path}: its labels are {', '.join(order[:6])} …; the corpus has "
                f"{', '.join(task.labels[:6])} … in this order. Soft labels would be misread. Give a teacher with the "
                f"same labels, or let it learn them: teacher/fine_tune=default."
            )
        load = partial(load_model, source.location, task, tokenizer, source.revision)
        return Reader(load, tokenizer, source.prefix, source.local, str(source.precision))
    settings = source.fine_tune
    lessons = lessons_of(job, source)
    recipe = {
        "base": job.cfg.teacher.scratch if source.scratch else source.origin(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "rows": rows_fingerprint(lessons, ["id", *task.reads, "label"]),
        "labels": task.labels,
        "fine_tune": settings,
        "prefix": source.prefix,
        "task": OmegaConf.to_container(cfg.task, resolve=True),
        **training_recipe(cfg, lr=settings["lr"], weight_decay=settings["weight_decay"]),
    }

    def build(folder: Path) -> None:
        langs = ", ".join(dict.fromkeys(lessons["lang"]))
        console.print(f"Training the teacher on {len(lessons)} labelled rows ({langs}); kept for later runs")
        seed_everything(cfg.seed, workers=True, verbose=False)
        if source.scratch:
            model = source.scratch.model(task, tokenizer)
        else:
            model = load_model(source.location, task, tokenizer, source.revision)
        for part in settings["freeze"]:
            part_of(model, part).requires_grad_(False)
        data = MultilingualDataModule(
            lessons,
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
            model, task, hard_labels(task.hard()), optimizer, settings["lr_schedule"], languages=data.languages
        )
        fit(cfg, name, module, data, settings["epochs"], one_device=True)
        model.save_pretrained(folder)

    folder = cached(job.cache, "teachers", recipe, build)
    load = partial(load_model, folder, task, tokenizer)
    return Reader(load, tokenizer, source.prefix, folder, str(source.precision))


def lessons_of(job: Job, source: TeacherSource) -> Dataset:
    """What a teacher learns from: the source's visible labels, and the training labels of any language it is given."""
    assert source.fine_tune is not None
    own = labelled(job.rows.train).filter(lambda row: row["lang"] == job.pair.source).remove_columns("teacher_rows")
    others = set(source.fine_tune.get("languages") or ()) - {job.pair.source}
    more = labelled(job.rows.texts).filter(lambda row: row["split"] == "train" and row["lang"] in others)
    return concatenate_datasets([own, more]) if others else own


def part_of(model: PreTrainedModel, name: str) -> nn.Module:
    """A part of the encoder by name; `embeddings` is there in every model, whatever its own name for it."""
    if name == "embeddings" and not hasattr(model.base_model, name):
        return model.get_input_embeddings()
    return model.base_model.get_submodule(name)


def label_anew(job: Job, teachers: Mapping[str, Reader]) -> Dataset:
    """Training rows with the teacher's own answer as the label of those that have none, where the task makes labels.

    The answers are kept for later runs: a beam search over a corpus takes as long as an epoch.
    """
    rows, task = job.rows, job.task
    if not task.makes_labels:
        return read_along(rows, rows.train) if "label" in task.reads else rows.train
    ((name, reader),) = teachers.items()
    wanted = {r["teacher_rows"][0] for r in rows.train.select_columns(["label", "teacher_rows"]) if not r["label"]}
    texts = rows.texts.select([i for i, row_id in enumerate(rows.texts["id"]) if row_id in wanted])
    texts = with_labels(texts, [""] * len(texts))
    recipe = {**answer_recipe(job, name, reader, texts), "task": OmegaConf.to_container(job.cfg.task, resolve=True)}

    def build(folder: Path) -> None:
        answers, encoded = reader.answers(texts, task, "The teacher's own labels")
        labels = {
            row["id"]: task.pseudo_label(answer, row, e, reader.tokenizer)
            for row, answer, e in zip(texts.to_list(), answers, encoded, strict=True)
        }
        (folder / "labels.json").write_text(json.dumps(labels, ensure_ascii=False), "utf-8")

    labels = json.loads((cached(job.cache, "pseudo_labels", recipe, build) / "labels.json").read_text("utf-8"))
    console.print(f"The teacher labelled {len(labels)} texts; {sum(map(bool, labels.values()))} answers are kept")
    marks = zip(rows.train["label"][:], rows.train["teacher_rows"][:], strict=True)
    lessons = with_labels(rows.train, [label or labels.get(read[0] if read else "", "") for label, read in marks])
    return read_along(rows, labelled(lessons)) if "label" in task.reads else lessons


def read_along(rows: Rows, lessons: Dataset) -> Dataset:
    """For teachers that read a text along with a label: the text once more for every label of a row it is read for.

    Args:
        rows: gets the new texts, and dev rows whose `teacher_rows` name them.

    Returns:
        The lessons, with `teacher_rows` that name them.
    """
    number = {row_id: n for n, row_id in enumerate(rows.texts["id"])}
    along: dict[str, tuple[int, str]] = {}

    def renamed(part: Dataset) -> Dataset:
        readings = []
        for label, read in zip(part["label"][:], part["teacher_rows"][:], strict=True):
            named = {row_id: f"{row_id}|{label}" if row_id else "" for row_id in read}
            along.update({name: (number[row_id], label) for row_id, name in named.items() if row_id})
            readings.append(list(named.values()))
        return part.remove_columns("teacher_rows").add_column("teacher_rows", readings, feature=List(Value("string")))

    lessons, rows.dev = renamed(lessons), {lang: renamed(part) for lang, part in rows.dev.items()}
    texts = rows.texts.select([n for n, _ in along.values()])
    texts = with_labels(texts, [label for _, label in along.values()])
    texts = texts.remove_columns("id").add_column("id", list(along), feature=Value("string"))
    rows.texts = concatenate_datasets([rows.texts, texts.select_columns(rows.texts.column_names)])
    return lessons


def with_labels(rows: Dataset, labels: list[str]) -> Dataset:
    return rows.remove_columns("label").add_column("label", labels, feature=Value("string"))


def answer_recipe(job: Job, name: str, reader: Reader, texts: Dataset) -> dict[str, Any]:
    """What shapes a teacher's answer to texts."""
    member = job.source.members[name]
    return {
        "teacher": folder_fingerprint(reader.folder) if reader.folder else [member.location, member.revision],
        "tokenizer": tokenizer_fingerprint(reader.tokenizer),
        "prefix": reader.prefix,
        "corpus": rows_fingerprint(texts, ["id", *job.task.reads]),
        "max_length": job.task.recipe,
        "precision": str(member.precision),
    }


def ask(job: Job, teachers: Mapping[str, Reader], lessons: Dataset) -> Answers:
    """The teachers' answers: from stores, or from a live teacher.

    Args:
        teachers: by name, as `job.source.members`.
        lessons: the student's training rows.
    """
    source, task, rows = job.source, job.task, job.rows
    if not job.objective.compares:
        return {"data": {}, "teacher": None}
    for reader in teachers.values():
        task.comparable(job.tokenizer, reader.tokenizer)
    # a text is read along with the label that its row learns from; only some tasks look at it
    labels = {
        i: row["label"]
        for part in (lessons, *rows.dev.values())
        for row in part.select_columns(["label", "teacher_rows"])
        for i in row["teacher_rows"]
    }
    reads = [r for part in (lessons, *rows.dev.values()) for r in part["teacher_rows"]]
    columns: list[Any] = list(zip(*(r for r in reads if r), strict=True)) if isinstance(source, Ensemble) else [None]
    stores = []
    for (name, reader), column in zip(teachers.items(), columns, strict=True):
        member = source.members[name]
        ids = {i for i in column if i} if column is not None else {i for r in reads for i in r}
        texts = rows.texts.select([i for i, row_id in enumerate(rows.texts["id"]) if row_id in ids])
        texts = with_labels(texts, [labels[row_id] for row_id in texts["id"]])
        encoded = tokenise(texts, task, reader.tokenizer, reader.prefix, job.cache)
        pad_id = reader.tokenizer.pad_token_id
        if member.store is False:
            live = {
                "teacher_tokens": dict(zip(texts["id"], encoded, strict=True)),
                "teacher_pad_id": pad_id,
                "teacher_encode": partial(encode_rows, task=task, tokenizer=reader.tokenizer, prefix=reader.prefix),
            }
            return {"data": live, "teacher": FrozenTeacher(reader.model, job.objective.needs)}
        recipe = answer_recipe(job, name, reader, texts)
        options = member.store_dtype, member.store_top_k
        stores.append(store_soft_labels(job.cache, recipe, reader, task, texts, encoded, pad_id, *options))
    read = {row["id"]: row for row in rows.texts.select_columns(["id", "text", "text_pair", "spans"]).to_list()}
    panel = Panel(stores, member_weights(source) if isinstance(source, Ensemble) else [1.0], task, read)
    return {"data": {"soft_labels": panel}, "teacher": None}


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
