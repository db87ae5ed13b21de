"""Several tasks at once: how batches are drawn, what is shared, and a whole run."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from distilingua.checks import check
from distilingua.console import console
from distilingua.data.batching import BucketBatchSampler
from distilingua.data.multitask import TaskSampler
from distilingua.distillation.losses.minilm import MiniLM
from distilingua.distillation.objective import Objective
from distilingua.distillation.schedules import Constant, Schedules
from distilingua.errors import UserError
from distilingua.monitoring.compare import compare
from distilingua.tasks.text_classification import TextClassification
from distilingua.training.module import DistillationModule
from distilingua.training.multitask_module import share_encoder
from tests.conftest import Compose, tiny_bert
from tests.small_jobs import train as train_multitask


def sampler(tau: float, processes: int = 1, rank: int = 0) -> TaskSampler:
    """A task of 40 batches and one of 10."""

    def of(rows: int) -> BucketBatchSampler:
        return BucketBatchSampler([5] * rows, ["en"] * rows, 4 // processes, 1.0, 0, processes, rank)

    return TaskSampler([of(160), of(40)], tau, seed=3)


def tasks(batches: list[list[int]]) -> Counter[str]:
    return Counter("large" if max(batch) < 160 else "small" if min(batch) >= 160 else "both" for batch in batches)


@pytest.mark.parametrize(("tau", "small"), [(1.0, 10), (0.0, 25), (0.5, round(50 / 3))])
def test_batches_of_a_task_are_drawn_by_its_size_to_the_tau(tau: float, small: int) -> None:
    batches = sampler(tau).plan(0)
    assert len(batches) == len(sampler(tau)) == 50
    assert tasks(batches) == {"large": 50 - small, "small": small}
    assert sampler(tau).plan(0) == batches != sampler(tau).plan(1)


def test_a_task_sees_all_its_rows_before_any_twice() -> None:
    seen: list[int] = []
    drawn = sampler(0.5)
    for epoch in range(6):  # 33 batches of 40 each time
        seen += [row for batch in drawn.plan(epoch) for row in batch if row < 160]
    assert set(Counter(seen).values()) <= {4, 5}
    assert len(seen) == 6 * 33 * 4


def test_processes_share_every_step() -> None:
    one, two = (list(sampler(0.5, 2, rank)) for rank in (0, 1))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert tasks([a]) == tasks([b])  # or a head would get its gradient from one process alone
        assert not set(a) & set(b)


def test_layers_of_a_shared_encoder_are_read_for_every_task() -> None:
    """Those of the encoder that learns, not of the one whose place it has taken."""
    task = TextClassification().fit_labels(["a", "b"])
    always = Schedules(Constant(), Constant(), Constant())
    modules = {}
    for name in ("one", "two"):
        objective = Objective({"minilm": MiniLM(relation_heads=2)}, 1.0, always)
        student, optimizer = BertForSequenceClassification(tiny_bert(50)), partial(torch.optim.SGD, lr=0.1)
        modules[name] = DistillationModule(student, task, objective, optimizer, {})
    share_encoder(modules)
    text = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    both = [module.eval().read_student(text)[1] for module in modules.values()]
    for one, other in zip(*(layers.qkv for layers in both if layers is not None), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(layers is not None and layers.qkv for layers in both)


@pytest.fixture
def two_tasks(tiny_run, files_corpus: Path) -> DictConfig:  # type: ignore[no-untyped-def]
    """What a text is about, and whether it is a request; both in one file."""
    for file in files_corpus.rglob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for row in rows:
            polite = row["text"].startswith(("please", "bitte"))
            row["kind"] = "request" if polite else "order" if row["text"][0] in "tj" else "note"
        file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    small = [f"{part}.batch_size=16" for part in ("training", "teacher.fine_tune")]
    cfg = tiny_run("corpus.columns.block=null", *small, "optimizer.lr=2e-3", "teacher.fine_tune.lr=2e-3")
    OmegaConf.set_struct(cfg, False)
    named = {}
    for name, column in (("about", "label"), ("kind", "kind")):
        corpus: Any = OmegaConf.to_container(cfg.corpus)
        corpus["columns"]["label"] = column
        named[name] = {"task": cfg.task, "corpus": corpus}
    cfg.multitask = {"tau": 0.5, "tasks": named}
    return cfg


@pytest.mark.long
def test_one_encoder_learns_two_tasks(two_tasks: DictConfig) -> None:
    check(two_tasks)
    found = train_multitask(two_tasks)
    assert set(found) == {"about", "kind"}
    run = Path(two_tasks.paths.run)
    german = found["about"]["models"]
    assert set(german) == {"teacher", "direct", "single", "student"}
    scores = {name: model["languages"]["de"]["accuracy"] for name, model in german.items()}
    assert scores["student"] > scores["direct"] + 0.15
    assert found["about"]["retention"]["worst"] > 0.7
    models = [AutoModelForSequenceClassification.from_pretrained(run / name / "student_of_all") for name in found]
    encoders = [model.base_model.state_dict() for model in models]
    assert encoders[0].keys() == encoders[1].keys()
    assert all(torch.equal(encoders[0][name], encoders[1][name]) for name in encoders[0])
    assert not torch.equal(models[0].classifier.weight, models[1].classifier.weight)
    words = [AutoTokenizer.from_pretrained(run / name / "student_of_all").get_vocab() for name in found]
    assert words[0] == words[1]
    with console.capture() as shown:
        console.print(compare([run]))
    assert "single" in shown.get()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("multitask.tau", 2, r"multitask\.tau=2 is outside \[0, 1\]"),
        ("multitask.tasks", {"one": {}}, "fewer than two tasks"),
        ("trainer.devices", 2, r"in one process. Set trainer\.devices=1"),
        ("augmentation", {"char_noise": {}}, r"augmentation=\[\]"),
        (
            "multitask.tasks.kind.task._target_",
            "distilingua.tasks.speech.SpeechRecognition",
            "share an encoder of text",
        ),
        ("multitask.tasks.kind.corpus.columns.label", "sort", "has no column 'sort'"),
    ],
)
def test_what_cannot_work_is_refused(two_tasks: DictConfig, key: str, value: Any, message: str) -> None:
    OmegaConf.update(two_tasks, key, value, merge=False)
    with pytest.raises(UserError, match=message):
        check(two_tasks)


def test_without_a_teacher_nobody_trains_or_judges_one(two_tasks: DictConfig, tiny_run: Compose) -> None:
    direct = tiny_run("objective=direct")
    two_tasks.objective, two_tasks.training.epochs = direct.objective, 1
    check(two_tasks)
    found = train_multitask(two_tasks)
    assert {name: set(metrics["models"]) for name, metrics in found.items()} == {
        name: {"direct", "student"} for name in ("about", "kind")
    }
    assert not (Path(two_tasks.paths.cache) / "teachers").exists()
