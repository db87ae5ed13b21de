"""How long a model trains and how fast: by its rows and its size, unless the configuration says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, get_scheduler

PASSES = 5  # over the rows, where these are neither few nor many
PATIENCE = 4  # evaluations
EVALUATIONS = 12  # of a training of many short passes
BETWEEN = 500  # steps between two evaluations at most, where a pass is long
TUNED_RATE, TUNED_WEIGHTS = 4e-4, 10.6e6  # of all-MiniLM-L6-v2's encoder, on English dev
LARGEST_RATE = 1e-3
FROM_SCRATCH = 1e-3  # of small encoders of random weights


@dataclass(frozen=True)
class Plan:
    """What one training does.

    Args:
        epochs: passes over the rows.
        steps: of the optimizer, in all.
        lr: peak learning rate; None for an optimizer that has none.
        patience: evaluations without gain on dev, in its second half, after which it stops; None for never.
        evaluate_epochs: passes between two evaluations.
        evaluate_share: share of a pass between two evaluations, where a pass is long.
    """

    epochs: int
    steps: int
    lr: float | None
    patience: int | None
    evaluate_epochs: int = 1
    evaluate_share: float = 1.0

    def __str__(self) -> str:
        told = f"{self.steps} steps at most ({self.epochs} passes)"
        return (
            told
            + (f", rate {self.lr:.2g}" if self.lr is not None else "")
            + (f", stops after {self.patience} evaluations without gain in its second half" if self.patience else "")
        )


def make_plan(
    settings: Mapping[str, Any], rows: int, trainer: Mapping[str, Any], lr: float | None, processes: int
) -> Plan:
    """
    Args:
        settings: `epochs`, `batch_size`, `min_steps`, `max_steps` and `patience`. Without epochs, it is five passes, as
            many more as make `min_steps`, or as few as `max_steps` allow; one at least. So many as are typed are made
            to the end, unless patience is typed, too.
        rows: to learn from.
        trainer: `accumulate_grad_batches`, `limit_train_batches` and `max_steps` of the configuration.
        lr: peak learning rate.
        processes: that share the rows.
    """
    size = min(settings["batch_size"], max(rows // processes, 1))
    batches = max(rows // (size * processes), 1)
    limit = trainer.get("limit_train_batches") or 1.0
    batches = min(batches, limit) if isinstance(limit, int) else max(int(batches * limit), 1)
    steps = math.ceil(batches / trainer["accumulate_grad_batches"])
    epochs, every = settings.get("epochs"), 1
    if epochs is None:
        least, most = settings.get("min_steps") or 1, settings.get("max_steps") or math.inf
        wanted = min(max(PASSES * steps, least), most)
        epochs = max(round(wanted / steps), 1)
        every = max(epochs // EVALUATIONS, 1)
        epochs = math.ceil(epochs / every) * every  # the last pass is evaluated too
    share = 1 / math.ceil(steps / BETWEEN)
    patience = settings.get("patience") or (PATIENCE if settings.get("epochs") is None else None)
    most = trainer.get("max_steps", -1)  # all there is, by Lightning's -1
    return Plan(epochs, epochs * steps if most < 0 else min(epochs * steps, most), lr, patience, every, share)


def optimizer_of(make: Any, usual: float) -> tuple[Any, float | None]:
    """An optimizer of a configuration with its peak learning rate: its own, if one stands there, else the usual one.

    Args:
        make: a partial of its class; a kind without a key `lr` has none.
    """
    if "lr" not in make.keywords:
        return make, None
    lr = make.keywords["lr"] or usual
    return partial(make, lr=lr), lr


def schedule_of(settings: Any, optimizer: Any, steps: int) -> Any:
    """What moves the learning rate, step by step.

    Args:
        settings: `name` of a transformers schedule and `warmup` as a share of all steps; or a partial of any scheduler
            of torch, in which a value `steps` stands for their number.
    """
    if not isinstance(settings, partial):
        return get_scheduler(settings["name"], optimizer, round(settings["warmup"] * steps), steps)
    given = {key: steps if value == "steps" else value for key, value in settings.keywords.items()}
    return settings.func(optimizer, *settings.args, **given)


def learning_rate(model: PreTrainedModel) -> float:
    """The peak learning rate of a pretrained model: in inverse proportion to the weights of its layers, which gives
    4e-4 for six layers of 384 units, 5e-5 for BERT's size, and 1.4e-5 for XLM-R large, near what each was published
    with."""
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    vectors = {id(weights) for table in tables for weights in table.parameters()}
    layers = sum(weights.numel() for weights in model.parameters() if id(weights) not in vectors)
    return float(f"{min(TUNED_RATE * TUNED_WEIGHTS / layers, LARGEST_RATE):.2g}")


def process_count(settings: Any) -> int:
    """That train together.

    Args:
        settings: what has a `trainer`: `Settings`, or a whole configuration.
    """
    trainer = settings.trainer
    devices = trainer["devices"]
    if isinstance(devices, str) and devices.lstrip("-").isdecimal():
        devices = int(devices)
    if devices in ("auto", -1):  # as Lightning counts them
        on_gpus = trainer["accelerator"] in ("gpu", "cuda", "auto") and torch.cuda.is_available()
        devices = torch.cuda.device_count() if on_gpus else 1
    here = devices if isinstance(devices, int) else len(devices.split(",") if isinstance(devices, str) else devices)
    return max(here, 1) * trainer.get("num_nodes", 1)


def precision(wanted: str) -> str:
    """`auto` is bfloat16 where this CPU computes in it (about twice as fast here), else 32 bits."""
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
