"""What one run works with, and what its stages share."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Value
from omegaconf import DictConfig, OmegaConf

from distilingua.artifacts import code_fingerprint, fingerprint, rows_fingerprint
from distilingua.data.encoder import Encoder
from distilingua.data.rows import Rows
from distilingua.errors import UserError
from distilingua.models.source import TeacherSource
from distilingua.models.teacher import load_tokenizer
from distilingua.parts import Parts, assemble, read_rows
from distilingua.training.inference import device_of


@dataclass
class Job(Parts):
    """The parts of a configuration with the rows they work on; the task knows its classes.

    Args:
        encoder: how the student reads.
        teachers: how each teacher reads; none without one.
    """

    cfg: DictConfig
    rows: Rows
    encoder: Encoder
    teachers: dict[str, Encoder]

    @property
    def run(self) -> Path:
        return Path(self.cfg.paths.run)

    @property
    def cache(self) -> Path:
        return Path(self.cfg.paths.cache)

    @property
    def device(self) -> torch.device:
        return device_of(self.cfg.trainer)


def prepare(cfg: DictConfig) -> Job:
    """Builds what the configuration names, and reads the corpus."""
    parts, cache = assemble(cfg), Path(cfg.paths.cache)
    rows, task = read_rows(cfg, parts), parts.task
    members = parts.source.members if parts.objective.needs_teacher else {}
    rows = replace(rows, train=without_taught(rows.train, members.values(), parts.pair.source))
    task.fit_labels(rows.labels, (label for label in rows.train["label"][:] if label))
    encoder = Encoder(task, parts.student.tokenizer(rows.train, cache), parts.student.prefix)
    teachers = {name: teacher_encoder(parts, source, rows.train, cache) for name, source in members.items()}
    return Job(**vars(parts), cfg=cfg, rows=rows, encoder=encoder, teachers=teachers)


def teacher_encoder(parts: Parts, source: TeacherSource, rows: Dataset, cache: Path) -> Encoder:
    if source.scratch is not None:
        tokenizer = source.scratch.tokenizer(rows, cache)
    else:
        tokenizer = load_tokenizer(source, hears="audio" in parts.task.reads)
    return Encoder(parts.task, tokenizer, source.prefix)


def dry_run(job: Job) -> None:
    """What can only be known once rows are read, and should be before anything is trained. Tokens are kept, so no time
    is lost.

    Raises:
        UserError: a student that cannot be built, a text that a model cannot read, a teacher whose classes or positions
            are not the student's.
    """
    task, student = job.task, job.encoder.tokenizer
    if job.student.origin() is None:
        job.student.model(task, student)
    task.targets(job.rows.train, job.encoder(job.rows.train, job.cache))
    for name, encoder in job.teachers.items():
        task.comparable(student, encoder.tokenizer, job.objective.same_classes)
        source = job.source.members[name]
        if source.fine_tune is None:
            check_order(job, source, encoder)
        encoder(asked(job.rows), job.cache)


def check_order(job: Job, source: TeacherSource, encoder: Encoder) -> None:
    """Raises UserError where a teacher that knows the task means other classes by its logits."""
    order = getattr(encoder.tokenizer, "labels", None) or source.label_order()  # what hears names its characters itself
    labels = job.task.labels
    if order is None or not labels or order == labels:
        return
    way_out = ""
    if sorted(order) == sorted(labels) and "order" in inspect.signature(type(job.task)).parameters:
        way_out = f"Take its order: task.order=[{','.join(order)}]. Or give"
    elif len(order) == len(labels):
        named = {name.casefold(): name for name in labels}
        same = all(name.casefold() in named for name in order)
        pairs = (f"{name}: {named[name.casefold()] if same else '…'}" for name in order)
        way_out = f"Say which is which: 'teacher.labels={{{', '.join(pairs)}}}'. Or give"
    raise UserError(
        f"teacher.path={source.path}: its labels are {', '.join(order[:6])} …; the corpus has "
        f"{', '.join(labels[:6])} … in this order. Soft labels would be misread. {way_out or 'Give'} a teacher with "
        f"the same labels, or let it learn them: teacher/fine_tune=default."
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def without_taught(rows: Dataset, sources: Iterable[TeacherSource], source_language: str) -> Dataset:
    """Training rows of a target whose labels a teacher has learnt from are not for the student: a teacher that
    remembers them would hand the labels on."""
    taught = {lang for source in sources for lang in (source.fine_tune or {}).get("languages") or ()}
    taught -= {source_language}
    if not taught:
        return rows
    marks = zip(rows["lang"][:], rows["split"][:], strict=True)
    return rows.select([i for i, (lang, split) in enumerate(marks) if lang not in taught or split != "train"])


def asked(rows: Rows) -> Dataset:
    """The texts that teachers read in place of training and dev rows, or as they are."""
    parts = (rows.train, *rows.dev.values())
    return with_ids(rows.texts, {i for part in parts for read in part["teacher_rows"][:] for i in read})


def with_ids(texts: Dataset, ids: Collection[str]) -> Dataset:
    return texts.select([n for n, row_id in enumerate(texts["id"][:]) if row_id in ids])


def with_labels(rows: Dataset, labels: list[str]) -> Dataset:
    return rows.remove_columns("label").add_column("label", labels, feature=Value("string"))


def labelled(rows: Dataset) -> Dataset:
    return rows.select([i for i, label in enumerate(rows["label"][:]) if label])


# --- recipes ----------------------------------------------------------------------------------------------------------


def rows_of(job: Job) -> str:
    """A fingerprint of every row of a run, and of what of it training may see."""
    reads = list(dict.fromkeys(["id", "split", *job.task.reads, "label"]))
    seen = ["id", "label", *(["teacher_rows"] if "teacher_rows" in job.rows.train.column_names else [])]
    tests = [rows_fingerprint(rows, ["id", "label"]) for rows in job.rows.test.values()]
    return fingerprint([rows_fingerprint(job.rows.texts, reads), rows_fingerprint(job.rows.train, seen), tests])


def plain(part: Any) -> Any:
    """A part of the configuration as plain values."""
    return OmegaConf.to_container(part, resolve=True)


def training_recipe(job: Job, **optimizer: float) -> dict[str, Any]:
    """What shapes every model this package trains, with what this model's own optimizer has of its own."""
    cfg = job.cfg
    stops = cfg.callbacks.get("early_stopping")  # the one callback that says how long a model learns
    return {
        **({"early_stopping": plain(stops)} if stops else {}),
        "labels": job.task.labels,
        "task": plain(cfg.task),
        "seed": cfg.seed,
        "optimizer": {**plain(cfg.optimizer), **optimizer},
        "trainer": {name: cfg.trainer[name] for name in ("precision", "gradient_clip_val", "accumulate_grad_batches")},
        "code": code_fingerprint(job.task, job.task.hard(), job.student, *job.augmentations.values()),
    }
