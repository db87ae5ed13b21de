"""The main job: read the corpus, teach the teacher, distil, compare."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from distilingua.checks import needs_live_teacher
from distilingua.console import console, quieten, results_table, show_data
from distilingua.corpora.schema import Corpus
from distilingua.data.augmentation import make_augmentations
from distilingua.data.protocol import Pair
from distilingua.data.rows import load_rows
from distilingua.distillation.objective import Objective
from distilingua.evaluate import Reader, Readers, judge, latency, retention
from distilingua.fitting import fit
from distilingua.models.anatomy import anatomy
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.models.student import Student, load_student
from distilingua.monitoring.results import log_results
from distilingua.stages import (
    as_one,
    read_right,
    save,
    soft_label_source,
    student_fit,
    teach,
    train_direct,
)
from distilingua.tasks.text_classification import TextClassification


def train(cfg: DictConfig) -> dict[str, Any]:
    """Runs the main job in `cfg.paths.run` and returns what it writes to `metrics.json` there.

    Expects a configuration that `checks.check` has passed. A run that was interrupted goes on where it stopped.
    """
    quieten()
    run, cache, clock = Path(cfg.paths.run), Path(cfg.paths.cache), Clock()
    pair: Pair = instantiate(cfg.pair)
    source: TeacherSource | Ensemble = instantiate(cfg.teacher, _convert_="all")
    objective: Objective = instantiate(cfg.objective, schedules=instantiate(cfg.schedule))
    student: Student = instantiate(cfg.student)
    corpus: Corpus = instantiate(cfg.corpus)
    augmentations = make_augmentations(cfg.augmentation, corpus, pair.languages)
    source.settle(live=needs_live_teacher(objective, augmentations))
    readers: dict[str, Reader | Readers] = {}

    with clock("data"):
        reads = source.languages if objective.needs_teacher else None
        panel = source.panel if objective.needs_teacher else []
        rows = load_rows(corpus, instantiate(cfg.cleaning), pair, reads, panel)
        task: TextClassification = instantiate(cfg.task, labels=rows.labels)
        tokenizer = student.tokenizer(rows.train, cache)
        show_data(rows)

    sources: dict[str, Any] = {}
    if objective.needs_teacher:
        with clock("teacher"):
            teachers = {name: teach(cfg, name, one, pair, task, rows, cache) for name, one in source.members.items()}
            readers["teacher"] = as_one(teachers, source)
        with clock("soft_labels"):
            sources = soft_label_source(teachers, source, task, rows, cache, objective.needs)

    with clock("direct"):
        direct = train_direct(cfg, student, tokenizer, task, rows, cache, augmentations)
        readers["direct"] = Reader(partial(load_student, direct, task), tokenizer, student.prefix, direct)

    agreement: dict[str, float] = {}
    with clock("student"):
        folder = direct  # without a teacher, the student is the baseline
        if objective.needs_teacher:
            folder = run / "student"
            module, data = student_fit(
                cfg, student, tokenizer, task, objective, rows.train, rows, cache, sources, augmentations
            )
            console.print(anatomy(module.student))
            trainer = fit(cfg, "student", module, data, cfg.training.epochs)
            if not trainer.is_global_zero:
                return {}
            save(module, tokenizer, folder)
            agreement = module.last_agreement
        readers["student"] = Reader(partial(load_student, folder, task), tokenizer, student.prefix, folder)

    with clock("evaluation"):
        judgements = {name: judge(reader, task, rows.test, name) for name, reader in readers.items()}
        dev = judge(readers["student"], task, {pair.source: rows.dev[pair.source]}, "student")[pair.source].scores
        milliseconds = latency(readers, task, rows.test[pair.source])

    metrics = {
        "task": task.name,
        "pair": pair.name,
        "protocol": pair.protocol,
        "seed": cfg.seed,
        "models": {
            name: {
                "parameters": reader.parameters,
                "bytes": reader.bytes,
                "latency_ms": milliseconds[name],
                "languages": {lang: judgement.scores for lang, judgement in judgements[name].items()},
            }
            for name, reader in readers.items()
        },
        "retention": {},
        "soft_labels": read_right(rows, task, sources["data"]["soft_labels"]) if source.store and sources else {},
        "dev": {"accuracy": dev["accuracy"], "agreement": agreement},
        "seconds": clock.seconds,
    }
    if "teacher" in judgements:
        metrics["retention"] = retention(judgements["teacher"], judgements["student"], pair.source, source.languages)
    (run / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False))
    log_results(cfg, task, metrics, judgements)
    console.print(results_table(metrics))
    console.print(f"Written to {run / 'metrics.json'}; the student is in {folder}.")
    return metrics


class Clock:
    """Announces stages, and adds up their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        console.rule(f"[bold]{stage.replace('_', ' ')}", align="left")
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 1)
