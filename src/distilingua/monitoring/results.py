"""The final scores of a run, in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from distilingua.monitoring.tensorboard import log_evaluations
from distilingua.tasks.task import Evaluation, Task


def log_results(
    cfg: DictConfig, task: Task, metrics: dict[str, Any], evaluations: Mapping[str, Mapping[str, Evaluation]]
) -> None:
    """Final scores beside the settings (TensorBoard's HPARAMS tab), confusion matrices, disagreements."""
    logger = instantiate(cfg.logger, version="student") if cfg.get("logger") else None
    if logger is None:
        return
    languages = metrics["models"]["student"]["languages"]
    scores = {f"test/{lang}/{name}": languages[lang][name] for lang in languages for name in metrics["shown"]}
    if metrics["retention"]:
        scores |= {f"retention/{name}": metrics["retention"][name] for name in ("mean", "worst")}
    logger.log_hyperparams(hyperparameters(cfg), scores)
    log_evaluations(logger, task.labels, evaluations["student"], evaluations.get("teacher"))
    logger.finalize("success")


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """The settings that runs differ in, as plain values."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    groups = ("task", "corpus", "teacher", "student", "objective", "schedule")
    return {
        **{group: choices[group] for group in groups if group in choices},
        "pair": f"{cfg.pair.source}-{'+'.join(cfg.pair.targets)}",
        "protocol": cfg.pair.protocol,
        "align": cfg.pair.align,
        "temperature": cfg.objective.temperature,
        "alpha": cfg.objective.get("alpha", 0.0),
        "lr": cfg.optimizer.lr or "by size",
        "batch_size": cfg.training.batch_size,
        "epochs": cfg.training.epochs or "by rows",
        "seed": cfg.seed,
    }
