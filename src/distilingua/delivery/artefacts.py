"""What an export writes, and what it is worth: every artefact is read again as others would, judged and timed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from omegaconf import DictConfig

from distilingua.console import console
from distilingua.data.rows import Rows
from distilingua.delivery.card import BATCH
from distilingua.delivery.evaluate import check_classes
from distilingua.delivery.formats import Format, Student
from distilingua.delivery.model import Delivered, open_exported
from distilingua.delivery.runtime import load_weights, predictor_of
from distilingua.errors import UserError
from distilingua.models.loading import note_reading
from distilingua.models.source import TeacherSource
from distilingua.models.teacher import load_model
from distilingua.monitoring.callbacks import shaping
from distilingua.parts import Benchmark, Settings, assemble
from distilingua.parts import read_rows as read_train_rows
from distilingua.tasks.task import Evaluation, Task
from distilingua.training.evaluate import calibrating, evaluate, figures, trust
from distilingua.training.inference import AnyPredictor, EnsemblePredictor, Predictor
from distilingua.training.job import prepare as prepare_job
from distilingua.training.job import teacher_encoder
from distilingua.training.teacher import train_teacher

WARM = 2  # calls in every turn before the clock counts
TURN = 10  # sentences, or batches, that a model reads before the next one does
ROUNDS = 20  # batches that are timed
SECONDS = 30.0  # for the sentences of all models together, and for their batches

Loader = Callable[[], AnyPredictor]
"""Gives a model anew, which computes with as many threads as torch does then."""


# --- what is written --------------------------------------------------------------------------------------------------


def student_of(cfg: DictConfig, model: Delivered, benchmark: Benchmark, rows: Rows) -> Student:
    """The model as formats take it.

    Raises:
        UserError: classes of the corpus that it does not know; a temperature for answers that are no classes.
    """
    predictor = predictor_of(model, benchmark.task, prefix=cfg.student.get("prefix", ""))
    encoder = predictor.encoder
    check_classes(model.given, encoder.task, rows.test)
    temperature = calibrating(predictor, rows.dev[benchmark.pair.source], "student")
    if cfg.temperature and temperature is None:
        raise UserError(f"temperature=true: answers of task={encoder.task.name} are no classes. Leave it out.")
    load = partial(load_weights, model, encoder.task, encoder.tokenizer)
    return Student(load, encoder, next(iter(rows.test.values())), predictor.parameters, temperature)


def describe(cfg: DictConfig, model: Delivered, student: Student, folder: Path) -> None:
    """Writes what all formats share: config.json with how the model reads, and a tokenizer that cuts long texts."""
    task, tokenizer = student.encoder.task, student.encoder.tokenizer
    config = student.load_plain().config
    own = {**model.settings, "prefix": student.encoder.prefix, "parameters": student.parameters}
    if cfg.temperature and student.temperature is not None:
        own["temperature"] = student.temperature
    note_reading(config, tokenizer, task, own)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write(name: str, form: Format, student: Student, folder: Path) -> Path:
    """What computes, see `Format.write`."""
    console.print(f"Writing {name}")
    shared = (folder / "config.json").read_bytes()
    made = form.write(student, folder)
    (folder / "config.json").write_bytes(shared)  # which a format may have written anew, without what we say there
    return made


# --- the teacher ------------------------------------------------------------------------------------------------------


def shape_of_teacher(cfg: DictConfig, labels: Sequence[str]) -> Loader:
    """A model of the teacher's shape for the clock, as weights do not change how long a model takes.

    Args:
        labels: the student's classes, which are the teacher's too.
    """
    parts = assemble(cfg)
    parts.task.fit_labels(labels)
    # a tokenizer of its own is learnt from what it reads, others are there
    own = any(source.scratch is not None for source in parts.source.members.values())
    train: Any = read_train_rows(parts).train if own else None

    def load() -> AnyPredictor:
        members = []
        for source in parts.source.members.values():
            encoder = teacher_encoder(parts, source, train, parts.settings.cache)
            shape = partial(untrained, source, parts.task, encoder.tokenizer)
            members += [Predictor(shape, encoder, precision=str(source.precision))] * source.seeds
        return members[0] if len(members) == 1 else EnsemblePredictor([(one, None) for one in members], [])

    return load


def untrained(source: TeacherSource, task: Task, tokenizer: Any) -> Any:
    if source.scratch:
        return source.scratch.model(task, tokenizer)
    return load_model(source.location, task, tokenizer, source.revision)


def fetch_teacher(cfg: DictConfig, model: Delivered, folder: Path) -> Student:
    """The teacher of a run as formats take it, described in a folder; found in the cache, or trained again."""
    with TemporaryDirectory() as run:
        parts, settings = assemble(cfg), Settings.of(cfg)
        kept = shaping(settings.callbacks)  # of its training, nothing is shown
        parts.settings = replace(settings, run=Path(run), loggers={}, callbacks=kept)
        job = prepare_job(parts)
        ((name, source),) = job.source.members.items()
        predictor = train_teacher(job, name, source)
    assert isinstance(predictor, Predictor)
    test = next(iter(job.rows.test.values()))
    teacher = Student(predictor.load, predictor.encoder, test, predictor.parameters)
    languages = source.languages or job.pair.languages
    describe(cfg, replace(model, settings={**model.settings, "languages": languages}), teacher, folder)
    return teacher


# --- what it is worth -------------------------------------------------------------------------------------------------


def judge(
    model: Delivered,
    student: Student,
    written: Mapping[str, Path],
    rows: Rows,
    sentences: int,
    teacher: Mapping[str, Any] | None = None,
    shape: Loader | None = None,
) -> dict[str, Any]:
    """Teacher, student and every artefact, side by side; and by how much artefacts that answer otherwise than the
    student are better.

    Args:
        written: name of an artefact -> the file or folder that computes.
        sentences: how many are timed one by one.
        teacher, shape: what the run measured of it, and a model that takes as long.
    """
    models = {"student": model, **{name: open_exported(str(path), path) for name, path in written.items()}}
    task, prefix = student.encoder.task, student.encoder.prefix
    loaders: dict[str, Loader] = {name: partial(predictor_of, one, task, prefix=prefix) for name, one in models.items()}
    predictors = {name: load() for name, load in loaders.items()}
    evaluations = {name: evaluate(one, rows.test, name) for name, one in predictors.items()}
    shares = {name: changed(evaluations[name], evaluations["student"]) for name in written}
    pairs = [(name, "student") for name, share in shares.items() if share]
    temperatures = dict.fromkeys(predictors, student.temperature)
    trusted = trust(predictors, evaluations, rows.test, temperatures, ["student"], pairs)
    if teacher is not None and shape is not None:
        loaders = {"teacher": shape, **loaders}
    speeds = clock(loaders, student.rows, sentences)
    milliseconds = {name: speed["1"]["median"] for name, speed in speeds.items()}
    judged = {"teacher": teacher, **figures(predictors, evaluations, milliseconds, trusted)}
    return {
        "models": {
            name: {
                **judged[name],
                "latency_ms": milliseconds[name],
                "parity": parity(evaluations[name], evaluations["student"]) if name in written else None,
                "changed": shares.get(name),
                "speed": speed,
            }
            for name, speed in speeds.items()
        },
        "differences": trusted.differences,
        "temperature": student.temperature,
    }


def parity(own: Mapping[str, Evaluation], reference: Mapping[str, Evaluation]) -> float | None:
    """The largest difference between a logit and the reference's; None where answers are no logits.

    Args:
        own, reference: language -> what was answered to the same rows.
    """
    pairs = [
        (a, b)
        for lang in own
        for a, b in zip(own[lang].outputs.answers, reference[lang].outputs.answers, strict=True)
        if a.is_floating_point()
    ]
    return max((float((a - b).nan_to_num().abs().max()) for a, b in pairs if a.numel()), default=None)


def changed(own: Mapping[str, Evaluation], reference: Mapping[str, Evaluation]) -> float:
    """Share of rows that are answered otherwise than by the reference, see `parity`."""
    pairs = [pair for lang in own for pair in zip(own[lang].predicted, reference[lang].predicted, strict=True)]
    return sum(a != b for a, b in pairs) / len(pairs)


def clock(loaders: Mapping[str, Loader], rows: Dataset, sentences: int) -> dict[str, dict[str, dict[str, float]]]:
    """How fast models are side by side, see `turns`: by model and how many threads they may use, one and all,
    milliseconds for one sentence, everything included, their `median` and 95th percentile (`p95`), and how many
    sentences they answer in batches of 32 (`per_second`).

    Args:
        rows: sentences of one language.
        sentences: how many of them are timed one by one.
    """
    sample = rows.select(range(min(sentences, len(rows))))
    size = min(BATCH, len(rows))
    starts = [n * size % (len(rows) - size + 1) for n in range(ROUNDS)]
    speeds: dict[str, dict[str, dict[str, float]]] = {name: {} for name in loaders}
    for threads in sorted({1, all_threads()}):
        with limited(threads), torch.inference_mode():
            models = {name: load() for name, load in loaders.items()}
            singles = turns(models, [sample[n : n + 1] for n in range(len(sample))])
            batches = turns(models, [rows[n : n + size] for n in starts])
        for name in models:
            median, p95 = (round(1000 * float(np.percentile(singles[name], share)), 3) for share in (50, 95))
            per_second = round(size / statistics.median(batches[name]), 1)
            speeds[name][str(threads)] = {"median": median, "p95": p95, "per_second": per_second}
    return speeds


def turns(
    models: Mapping[str, AnyPredictor], parts: Sequence[Mapping[str, Any]], most: float = SECONDS
) -> dict[str, list[float]]:
    """Seconds that each model takes for each part, tokenising included.

    They take turns every few parts, so that whatever else the machine is doing hits them alike, and warm up in each
    turn, so that each finds its own weights in the caches, as where it works alone.

    Args:
        most: seconds after which the clock stops, whatever is left; two turns are always taken.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    began = time.perf_counter()
    for first in range(0, len(parts), TURN):
        if first > TURN and time.perf_counter() - began > most:
            break
        turn = parts[first : first + TURN]
        for name, model in models.items():
            for n in range(-WARM, len(turn)):
                start = time.perf_counter()
                model.predict_one(turn[max(n, 0)])
                if n >= 0:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Torch with so many threads, and what ONNX Runtime opens meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def all_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
