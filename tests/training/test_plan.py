"""How long and how fast a model trains where nobody says so, when it stops, and which weights it keeps."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import BertConfig, BertModel

from distilingua.checks import check
from distilingua.errors import UserError
from distilingua.parts import Settings
from distilingua.training.fitting import delete_checkpoints, rehearse
from distilingua.training.plan import learning_rate, make_plan, optimizer_of, process_count, schedule_of
from tests.conftest import Compose
from tests.small_jobs import train

TRAINER = {"accumulate_grad_batches": 1}
AUTO = {"epochs": None, "batch_size": 50, "min_steps": 600, "max_steps": 6000, "patience": None}


@pytest.mark.parametrize(
    ("rows", "epochs", "every", "steps"),
    [
        (200, 156, 12, 624),  # a floor: many short passes, of which every 12th is judged, the last one too
        (18_000, 5, 1, 1800),  # five passes
        (200_000, 2, 1, 8000),  # as few whole passes as come nearest to 6,000 steps
        (2_000_000, 1, 1, 40_000),  # all rows are read once, whatever that takes
        (1, 600, 50, 600),
    ],
)
def test_steps_follow_the_rows_within_bounds(rows: int, epochs: int, every: int, steps: int) -> None:
    plan = make_plan(AUTO, rows, TRAINER, 1e-3, processes=1)
    assert (plan.epochs, plan.evaluate_epochs, plan.steps) == (epochs, every, steps)
    assert plan.epochs % plan.evaluate_epochs == 0
    assert plan.evaluate_share * plan.steps / plan.epochs <= 500  # a long pass is judged on the way


def test_what_was_typed_wins() -> None:
    plan = make_plan({**AUTO, "epochs": 3, "patience": None}, 200, TRAINER, 1e-3, processes=1)
    assert (plan.epochs, plan.steps, plan.evaluate_epochs, plan.evaluate_share) == (3, 12, 1, 1.0)
    assert str(plan) == "12 steps at most (3 passes), rate 0.001"
    assert make_plan({**AUTO, "epochs": 3, "patience": 7}, 200, TRAINER, 1e-3, processes=1).patience == 7
    assert make_plan(AUTO, 200, TRAINER, 1e-3, processes=1).patience == 4


@pytest.mark.parametrize(
    ("trainer", "processes", "steps"),
    [
        ({"accumulate_grad_batches": 4}, 1, 450),
        ({"accumulate_grad_batches": 1}, 4, 450),
        ({"accumulate_grad_batches": 1, "limit_train_batches": 20}, 1, 100),
        ({"accumulate_grad_batches": 1, "limit_train_batches": 0.5}, 1, 900),
    ],
)
def test_steps_are_those_of_the_optimizer(trainer: dict[str, Any], processes: int, steps: int) -> None:
    assert make_plan({**AUTO, "min_steps": 1}, 18_000, trainer, 1e-3, processes).steps == steps


@pytest.mark.parametrize(
    ("layers", "hidden", "rate"),
    [(6, 384, 4e-4), (12, 384, 2e-4), (12, 768, 5e-5), (24, 1024, 1.4e-5), (1, 64, 1e-3)],
)
def test_the_rate_follows_the_size_of_the_layers_alone(layers: int, hidden: int, rate: float) -> None:
    for vocabulary in (100, 30_000):
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            intermediate_size=4 * hidden,
        )
        with torch.device("meta"):
            model = BertModel(config)
        assert learning_rate(model) == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs=0", "training.epochs=0"),
        ("training.patience=0", "training.patience=0"),
        ("training.min_steps=7000", "training: min_steps=7000 is more than max_steps=6000"),
        ("teacher.fine_tune.max_steps=3", "teacher.fine_tune: min_steps=400 is more than max_steps=3"),
        ("teacher.seeds=0", "teacher.seeds=0"),
    ],
)
def test_lengths_of_no_use_are_refused_by_name(compose_run: Any, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check(compose_run(override))


@pytest.mark.long
def test_training_stops_when_nothing_is_gained_and_keeps_the_best_weights(next_run, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A rate that wrecks the weights in the end: what is kept is what was there before."""
    kept: list[dict[str, torch.Tensor]] = []

    def remember(settings: Settings, name: str | None = None) -> None:
        best = settings.run / "checkpoints/student/best/best.ckpt"
        if best.exists():
            kept.append(torch.load(best, weights_only=True)["state_dict"])
        delete_checkpoints(settings, name)

    monkeypatch.setattr("distilingua.training.train.delete_checkpoints", remember)
    wrecking = ["lr_schedule.name=constant", "optimizer.lr=3e-2"]
    cfg = next_run("training.epochs=12", "training.patience=2", "training.batch_size=32", *wrecking)
    train(cfg)
    events = EventAccumulator(str(Path(cfg.paths.run) / "tensorboard/student")).Reload()
    select = [event.value for event in events.Scalars("dev/select")]
    assert 6 <= len(select) < 12  # never in the first half
    assert max(select[-2:]) <= max(select[5:]) + 1e-4
    saved = load_file(Path(cfg.paths.run) / "student/model.safetensors")
    divided = json.loads((Path(cfg.paths.run) / "student/config.json").read_text("utf-8"))["calibrated"]
    for name, weights in saved.items():
        before = kept[-1][f"student.{name}"]
        torch.testing.assert_close(weights, before / divided if name.startswith("classifier.") else before)


def test_no_label_of_a_target_chooses_weights(tiny_run) -> None:  # type: ignore[no-untyped-def]
    """`dev/select` is the mean of the source's score and of the agreement with the teacher."""
    cfg = tiny_run("training.epochs=2", "training.batch_size=64", "teacher.fine_tune.epochs=2")
    train(cfg)
    events = EventAccumulator(str(Path(cfg.paths.run) / "tensorboard/student")).Reload()
    last = {
        name: events.Scalars(f"dev/{name}")[-1].value
        for name in ("select", "en/accuracy", "en/agreement", "de/agreement")
    }
    assert last.pop("select") == pytest.approx(sum(last.values()) / 3, abs=2e-5)
    baseline = EventAccumulator(str(Path(cfg.paths.run) / "tensorboard/direct")).Reload()
    assert baseline.Scalars("dev/select")[-1].value == pytest.approx(
        baseline.Scalars("dev/en/accuracy")[-1].value, abs=2e-5
    )


def rehearsed(cfg: DictConfig) -> None:
    (parts,) = check(cfg).values()
    rehearse(Settings.of(cfg), parts.source.members)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["+trainer.max_time=soon"], "trainer cannot be made .*not a valid duration"),
        (["trainer.accelerator=quantum"], "trainer cannot be made .*invalid accelerator name"),
        (["+trainer.foo=1"], "trainer.foo is set, and Trainer has no such option"),
        (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val=-1: expected a number of at least 0"),
        (["+callbacks.own._target_=nobody.knows.It"], "callbacks cannot be made"),
        (["optimizer._target_=torch.optim.SGD"], "optimizer cannot be made .*'betas'.*leave out .*~optimizer.KEY"),
        (
            ["optimizer._target_=torch.optim.Muon", "~optimizer.betas", "~optimizer.fused"],
            "only supports 2D parameters",
        ),
        (["teacher.fine_tune.optimizer.betas=[2,2]"], "teacher.fine_tune.optimizer cannot be made .*Invalid beta"),
    ],
)
def test_what_a_training_could_not_be_made_of_is_refused_before_any(
    compose_run: Compose, typed: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        rehearsed(compose_run(*typed))


def own(cfg: DictConfig, place: str, kind: str, **keys: Any) -> None:
    """A file of somebody's own in place of one of ours."""
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, place, {"_target_": kind, "_partial_": True, **keys}, merge=False)


def test_optimizers_and_schedules_of_ones_own_leave_those_of_the_teacher(compose_run: Compose) -> None:
    cfg = compose_run()
    own(cfg, "optimizer", "torch.optim.SGD", lr=0.1)
    own(cfg, "lr_schedule", "torch.optim.lr_scheduler.LinearLR", end_factor=0.0, total_iters="steps")
    rehearsed(cfg)
    teacher = check(cfg)["intent"].source.members["teacher"].fine_tune
    assert teacher is not None
    assert teacher["optimizer"].func is torch.optim.AdamW
    assert teacher["lr_schedule"] == {"name": "linear", "warmup": 0.1}
    make, lr = optimizer_of(instantiate(cfg.optimizer), 1e-3)
    optimizer = make([torch.nn.Parameter(torch.ones(1))])
    schedule = schedule_of(instantiate(cfg.lr_schedule), optimizer, 10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert (lr, schedule.get_last_lr()) == (0.1, pytest.approx([0.1 / 6]))
    own(cfg, "lr_schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau")
    with pytest.raises(UserError, match=r"lr_schedule cannot be made .*it waits for scores"):
        rehearsed(cfg)


def test_an_optimizer_without_a_rate_has_its_own(compose_run: Compose) -> None:
    cfg = compose_run()
    own(cfg, "optimizer", "torch.optim.Adafactor", weight_decay=0.1)
    rehearsed(cfg)
    assert optimizer_of(instantiate(cfg.optimizer), 1e-3)[1] is None
    assert "rate" not in str(make_plan(AUTO, 10, TRAINER, None, processes=1))


def test_steps_of_lightning_are_those_of_the_plan() -> None:
    assert make_plan(AUTO, 200, {**TRAINER, "max_steps": 3}, 1e-3, processes=1).steps == 3


def test_processes_are_counted_however_devices_are_spelt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    expected = {"auto": 4, -1: 4, "-1": 4, "2": 2, 2: 2, "0,3": 2}
    for devices, processes in expected.items():
        trainer = {"devices": devices, "num_nodes": 3, "accelerator": "gpu"}
        assert process_count(SimpleNamespace(trainer=trainer)) == 3 * processes, devices
    assert process_count(SimpleNamespace(trainer={"devices": "auto", "accelerator": "cpu"})) == 1
    assert process_count(SimpleNamespace(trainer={"devices": [0, 2], "accelerator": "gpu"})) == 2
