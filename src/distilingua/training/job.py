"""What one run works with, and what its stages share."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from distilingua.artifacts import fingerprint, rows_fingerprint
from distilingua.columns import Encoded, column, filled, is_one_of, lists_of, strings, texts_of, where, with_columns
from distilingua.data.encoder import Encoder
from distilingua.data.rows import Rows, fingerprint_of
from distilingua.distillation.losses.layers import other_pieces
from distilingua.errors import UserError, refuse
from distilingua.models.layers import LayerReader
from distilingua.models.source import TeacherSource
from distilingua.models.teacher import load_tokenizer, outline
from distilingua.monitoring.callbacks import shaping
from distilingua.parts import Parts, read_rows
from distilingua.tasks.pieces import cut_counts, tell_cut
from distilingua.training.fitting import rehearse
from distilingua.training.inference import device_of
from distilingua.training.plan import precision


@dataclass
class Job(Parts):
    """The parts of a configuration with the rows they work on; the task knows its classes.

    Args:
        encoder: how the student reads.
        teachers: how each teacher reads; none without one.
    """

    rows: Rows
    encoder: Encoder
    teachers: dict[str, Encoder]

    @property
    def run(self) -> Path:
        return self.settings.run

    @property
    def cache(self) -> Path:
        return self.settings.cache

    @property
    def device(self) -> torch.device:
        return device_of(self.settings.trainer)

    @cached_property
    def fingerprint(self) -> str:
        """Of every row of the run, and of what of it training may see."""
        reads = list(dict.fromkeys(["id", "split", *self.task.reads, "label"]))
        seen = ["id", "label", "teacher_texts"]
        tests = [rows_fingerprint(rows, ["id", "label"]) for rows in self.rows.test.values()]
        table, train = rows_fingerprint(self.rows.texts, reads), rows_fingerprint(self.rows.train, seen)
        return fingerprint([table, train, tests])


def prepare(parts: Parts) -> Job:
    """Reads the corpus."""
    rows, task, cache = read_rows(parts), parts.task, parts.settings.cache
    members = parts.source.members if parts.objective.needs_teacher else {}
    rows = replace(rows, train=without_taught(rows.train, members.values(), parts.pair.source))
    task.fit_labels(rows.labels, (label for label in texts_of(rows.train, "label") if label))
    encoder = student_encoder(parts, rows.train, cache)
    teachers = {name: teacher_encoder(parts, source, rows.train, cache) for name, source in members.items()}
    return Job(**vars(parts), rows=rows, encoder=encoder, teachers=teachers)


def student_encoder(parts: Parts, rows: Dataset, cache: Path) -> Encoder:
    words = "text" in parts.task.points_into
    return Encoder(parts.task, parts.student.tokenizer(rows, cache, words), parts.student.prefix)


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
        UserError: what `rehearse` refuses, a student that cannot be built, a text that a model cannot read, a teacher
            whose classes, positions or layers cannot be compared with the student's.
    """
    rehearse(job.settings, job.source.members if job.teachers else {})
    task, student = job.task, job.encoder.tokenizer
    layers = not {"vector"}.issuperset(job.objective.needs)
    model = job.student.model(task, student)
    own = job.encoder(job.rows.train, job.cache)
    task.targets(job.rows.train, own)
    tell_cut("The student", task, cut_counts(own))
    for name, encoder in job.teachers.items():
        task.comparable(student, encoder.tokenizer, job.objective.same_classes)
        source = job.source.members[name]
        if source.fine_tune is None:
            check_order(job, source, encoder)
        numbers = teacher_inputs(job.rows)
        read = encoder(job.rows.numbered(numbers), job.cache)
        tell_cut(f"The {name}", task, cut_counts(read))
        teacher = outline(source, task, encoder.tokenizer)
        if layers:
            for one in (model, teacher):
                LayerReader(one, job.objective.needs)
            job.objective.connect(model.config, teacher.config)
            check_pieces(job, own, read, places_of(numbers, job.rows.table))


def check_pieces(job: Job, own: Encoded, read: Encoded, places: np.ndarray) -> None:
    """Raises UserError where a term compares piece by piece, and a live teacher reads others than the student.

    Args:
        own, read: what the student reads of the training rows, and the teacher of the texts in their place.
        places: number of a row of the corpus -> its place in `read`.
    """
    terms = job.objective.by_piece
    if not terms:
        return
    texts = lists_of(job.rows.train, "teacher_texts")
    rows = np.flatnonzero(texts.lengths)
    theirs = read.lists("input_ids")[places[texts.values[texts.offsets[rows]]]]
    each = zip(own.lists("input_ids")[rows], theirs, strict=True)
    differ = sum(not np.array_equal(*pieces) for pieces in each)
    refuse(*(str(other_pieces(name, differ, len(rows), way_out)) for name, way_out in terms.items() if differ))


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
        f"the same labels, or let it learn them: teacher/fine_tune=full."
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def without_taught(rows: Dataset, sources: Iterable[TeacherSource], source_language: str) -> Dataset:
    """Training rows of a target whose labels a teacher has learnt from are not for the student: a teacher that
    remembers them would hand the labels on."""
    taught = {lang for source in sources for lang in (source.fine_tune or {}).get("languages") or ()}
    taught -= {source_language}
    if not taught:
        return rows
    return where(rows, ~(is_one_of(rows, "lang", taught) & is_one_of(rows, "split", {"train"})))


def teacher_inputs(rows: Rows) -> np.ndarray:
    """Numbers of the texts that teachers read in place of training and dev rows, or as they are; ascending."""
    read = [lists_of(part, "teacher_texts").values for part in (rows.train, *rows.dev.values())]
    numbers = np.unique(np.concatenate(read))
    return numbers[numbers >= 0]


def places_of(numbers: np.ndarray, table: Dataset) -> np.ndarray:
    """Number of a row of the table -> its place among these numbers; -1 where it is none of them."""
    places = np.full(len(table), -1)
    places[numbers] = np.arange(len(numbers))
    return places


def with_labels(rows: Dataset, labels: Sequence[str]) -> Dataset:
    return with_columns(rows, {"label": strings(labels)})


def labelled(rows: Dataset) -> Dataset:
    return where(rows, filled(column(rows, "label")))


# --- recipes ----------------------------------------------------------------------------------------------------------


WATCHING = {  # keys of `trainer` that change no weights, or that one process which builds for others sets itself
    *("accelerator", "devices", "num_nodes", "strategy", "default_root_dir", "logger", "log_every_n_steps", "profiler"),
    *("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "enable_autolog_hparams"),
    *("limit_test_batches", "limit_predict_batches", "num_sanity_val_steps", "callbacks"),
}


def named_class(part: Any) -> Any:
    """What a configuration has made of a class and options, as plain values again."""
    if not isinstance(part, partial):
        return part
    return {"_target_": f"{part.func.__module__}.{part.func.__qualname__}", "args": part.args, **part.keywords}


def training_recipe(job: Job, dev: Iterable[Dataset]) -> dict[str, Any]:
    """What shapes every model this package trains, beside its own optimizer.

    Args:
        dev: rows that choose the weights.
    """
    settings, callbacks = job.settings, shaping(job.settings.callbacks)
    trainer = {name: value for name, value in settings.trainer.items() if name not in WATCHING}
    return {
        **({"callbacks": callbacks} if callbacks else {}),
        "labels": job.task.labels,
        "task": settings.plain["task"],
        "seed": settings.seed,
        "trainer": {**trainer, "precision": precision(settings.trainer["precision"])},
        "dev": [fingerprint_of(rows, job.task) for rows in dev],
    }
