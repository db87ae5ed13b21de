"""One way to train a model: teacher, baseline and student all go through `fit`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig

from distilingua.data.datamodule import MultilingualDataModule
from distilingua.distillation.module import DistillationModule


def fit(
    cfg: DictConfig,
    name: str,
    module: DistillationModule,
    data: MultilingualDataModule,
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
        sys.exit(f"\nInterrupted. Go on with: distilingua resume {run}")
    return trainer


def precision(wanted: str) -> str:
    """`auto` is bfloat16 where this CPU computes in it (about twice as fast here), else 32 bits."""
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
