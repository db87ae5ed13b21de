"""One way to train a model: teacher, baseline and student all go through `fit`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from omegaconf import DictConfig, OmegaConf

from distilingua.artifacts import whole_file
from distilingua.errors import UserError
from distilingua.training.module import DistillationModule


def fit(
    cfg: DictConfig,
    name: str,
    module: DistillationModule,
    data: LightningDataModule,
    epochs: int,
    one_device: bool = False,
) -> Trainer:
    """Trains `module.student`, and goes on from `checkpoints/NAME/last.ckpt` where an interrupted run left one.

    Args:
        cfg: the whole configuration; `trainer`, `callbacks`, `logger` and `paths` are used.
        name: of the model, in TensorBoard and among the checkpoints.
        one_device: for what one process builds while others wait for it, see `artifacts.cached`.
    """
    run = Path(cfg.paths.run)
    checkpoints = run / "checkpoints" / name
    callbacks = [
        instantiate(callback, **({"dirpath": str(checkpoints)} if key == "checkpoint" else {}))
        for key, callback in cfg.callbacks.items()
    ]
    trainer: Trainer = instantiate(
        cfg.trainer,
        max_epochs=epochs,
        precision=precision(cfg.trainer.precision),
        logger=instantiate(cfg.logger, version=name) if cfg.get("logger") else False,
        callbacks=callbacks,
        default_root_dir=str(run),
        **({"devices": 1, "num_nodes": 1, "strategy": "auto"} if one_device else {}),
    )
    last = checkpoints / "last.ckpt"
    try:
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    except SystemExit:  # how Lightning ends on Ctrl-C, after its callbacks have saved
        sys.exit(f"\nInterrupted. Go on with: distilingua resume '{run}'")
    return trainer


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """What shapes a run, as plain values."""
    everything: Any = OmegaConf.to_container(cfg, resolve=True)
    return {name: value for name, value in everything.items() if name not in ("paths", "logger", "callbacks")}


def check_settings(cfg: DictConfig) -> None:
    """A run never goes on with other settings than its own.

    Raises:
        UserError: the folder holds checkpoints of a run with other settings.
    """
    checkpoints = Path(cfg.paths.run) / "checkpoints"
    file = checkpoints / "settings.yaml"
    if file.exists() and yaml.safe_load(file.read_text("utf-8")) != settings_of(cfg):
        raise UserError(
            f"{cfg.paths.run} holds a run with other settings. Name another folder (hydra.run.dir=…), or delete "
            f"{checkpoints} to start again."
        )


def keep_settings(cfg: DictConfig) -> None:
    """Writes the settings beside the checkpoints, and what was typed for them, which `resume` types again."""
    checkpoints = Path(cfg.paths.run) / "checkpoints"
    file = checkpoints / "settings.yaml"
    if file.exists():
        return
    checkpoints.mkdir(parents=True, exist_ok=True)
    typed = Path(cfg.paths.run) / ".hydra" / "overrides.yaml"
    if typed.is_file():
        shutil.copy(typed, checkpoints)
    with whole_file(file) as unfinished:
        unfinished.write_text(yaml.safe_dump(settings_of(cfg), allow_unicode=True), "utf-8")


def precision(wanted: str) -> str:
    """`auto` is bfloat16 where this CPU computes in it (about twice as fast here), else 32 bits."""
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
