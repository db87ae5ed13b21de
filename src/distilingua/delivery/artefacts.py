"""What an export writes, and what it is worth: every artefact is read again as others would, judged and timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig

from distilingua.console import console
from distilingua.data.rows import Rows
from distilingua.delivery.evaluate import check_classes
from distilingua.delivery.formats import Format, Student
from distilingua.delivery.model import Delivered, open_exported
from distilingua.delivery.runtime import load_weights, predictor_of
from distilingua.models.loading import note_reading
from distilingua.monitoring.callbacks import shaping
from distilingua.parts import Benchmark, assemble
from distilingua.tasks.task import Evaluation
from distilingua.training.evaluate import evaluate, figures, latency, trust
from distilingua.training.inference import Predictor
from distilingua.training.job import prepare as prepare_job
from distilingua.training.teacher import train_teacher

# --- what is written --------------------------------------------------------------------------------------------------


def student_of(cfg: DictConfig, model: Delivered, benchmark: Benchmark, rows: Rows) -> Student:
    """The model as formats take it.

    Raises:
        UserError: classes of the corpus that it does not know.
    """
    predictor = predictor_of(model, benchmark.task, prefix=cfg.student.get("prefix", ""))
    encoder = predictor.encoder
    check_classes(model.given, encoder.task, rows.test)
    load = partial(load_weights, model, encoder.task, encoder.tokenizer)
    return Student(load, encoder, next(iter(rows.test.values())), predictor.parameters)


def describe(cfg: DictConfig, model: Delivered, student: Student, folder: Path) -> None:
    """Writes what all formats share: config.json with how the model reads, and a tokenizer that cuts long texts."""
    task, tokenizer = student.encoder.task, student.encoder.tokenizer
    config = student.load_plain().config
    own = {**model.settings, "prefix": student.encoder.prefix, "parameters": student.parameters}
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


def fetch_teacher(cfg: DictConfig, model: Delivered, folder: Path) -> Student:
    """The teacher of a run as formats take it, described in a folder; found in the cache, or trained again."""
    with TemporaryDirectory() as run:
        parts = assemble(cfg)
        kept = shaping(parts.settings.callbacks)  # of its training, nothing is shown
        parts.settings = replace(parts.settings, run=Path(run), loggers={}, callbacks=kept)
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
    model: Delivered, student: Student, written: Mapping[str, Path], rows: Rows, sentences: int
) -> dict[str, Any]:
    """Student and every artefact, side by side; and by how much artefacts that answer otherwise than the student are
    better.

    Args:
        written: name of an artefact -> the file or folder that computes.
        sentences: how many are timed one by one.
    """
    models = {"student": model, **{name: open_exported(str(path), path) for name, path in written.items()}}
    task, prefix = student.encoder.task, student.encoder.prefix
    predictors = {name: predictor_of(one, task, prefix=prefix) for name, one in models.items()}
    evaluations = {name: evaluate(one, rows.test, name) for name, one in predictors.items()}
    shares = {name: changed(evaluations[name], evaluations["student"]) for name in written}
    pairs = [(name, "student") for name, share in shares.items() if share]
    trusted = trust(predictors, evaluations, rows.test, ["student"], pairs)
    judged = figures(predictors, evaluations, latency(predictors, student.rows, sentences), trusted)
    for name, share in shares.items():
        judged[name] |= {"parity": parity(evaluations[name], evaluations["student"]), "changed": share}
    return {"models": judged, "differences": trusted.differences}


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
