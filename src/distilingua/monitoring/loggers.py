"""Where curves and final scores go: one logger or several."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from distilingua.extras import check_installed
from distilingua.monitoring.sweep import differing, final_scores, in_a_sweep, settings_in, short_keys
from distilingua.monitoring.tensorboard import log_evaluations
from distilingua.tasks.task import Evaluation, Task

IN_SIGHT = ("lr", "objective", "student")
"""Settings that single runs are compared by; jobs of a sweep are by what varies."""
Vectors = Mapping[str, tuple[np.ndarray, Sequence[Sequence[str]]]]
"""Model -> sentence vectors, (sentences, width), with language, label and text of each sentence."""


def make_loggers(loggers: Mapping[str, Any], model: str, without: Collection[str] = ()) -> list[Logger]:
    """Those of the group `logger`; none where it is left out.

    Args:
        loggers: by key, what each is made of.
        model: what is logged: `teacher`, `direct`, `student`.
        without: keys that are not wanted.
    """
    return [instantiate(one, version=model) for key, one in loggers.items() if key not in without]


def wandb(version: str, save_dir: str, **options: Any) -> WandbLogger:
    """A run of Weights & Biases for a model: named after it and its run, and grouped by the latter.

    Args:
        version: the model.
        save_dir: of the run.
        options: of `wandb.init`.
    """
    check_installed("logger=wandb", ["wandb"], "loggers")
    os.environ.setdefault("WANDB_SILENT", "true")  # or its login prints the address, password and all
    from wandb import Settings

    run = Path(save_dir).name
    # a run has several models, each with curves of its own: without this, they would share the first one's
    own = Settings(reinit="create_new", silent=True)
    return WandbLogger(name=f"{run}/{version}", group=run, save_dir=save_dir, settings=own, **options)


def mlflow(version: str, save_dir: str, **options: Any) -> MLFlowLogger:
    """A run of MLflow for a model, named after it and its run; `options` are those of Lightning's logger."""
    check_installed("logger=mlflow", ["mlflow"], "loggers")
    for name, value in {"MAX_RETRIES": "2", "TIMEOUT": "30"}.items():  # or a server that is gone is asked for minutes
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    return MLFlowLogger(run_name=f"{Path(save_dir).name}/{version}", **options)


# --- the final scores of a run ----------------------------------------------------------------------------------------


def log_results(
    configured: Mapping[str, Any],
    task: Task,
    metrics: dict[str, Any],
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    vectors: Vectors,
) -> None:
    """Final scores beside the settings (TensorBoard's HPARAMS tab), confusion matrices, disagreements, vectors.

    Args:
        configured: the whole configuration, as plain values.
    """
    settings, scores = hyperparameters(configured), final_scores(metrics)
    loggers = configured.get("logger") or {}
    # of TensorBoard beside the student's curves; others would begin these anew, and get a place of their own
    others = set(loggers) - {"tensorboard"}
    for logger in (*make_loggers(loggers, "student", others), *make_loggers(loggers, "scores", {"tensorboard"})):
        if isinstance(logger, TensorBoardLogger):
            log_hparams(logger, settings, scores, shown={*typed_values(), *(() if in_a_sweep() else IN_SIGHT)})
            log_evaluations(logger, task.labels, evaluations["student"], evaluations.get("teacher"))
            for model, (values, sentences) in vectors.items():
                header = ["lang", "label", "text"]
                logger.experiment.add_embedding(values, [*map(list, sentences)], tag=model, metadata_header=header)
        else:
            logger.log_hyperparams(settings)
            logger.log_metrics(scores)
        logger.finalize("success")


def log_hparams(
    logger: TensorBoardLogger, settings: dict[str, Any], scores: dict[str, float], shown: Collection[str]
) -> None:
    """As `logger.log_hyperparams` does, and says that what is to be shown differs: TensorBoard has these columns first,
    and others by their names, of which five are ticked."""
    logger.log_metrics(scores)
    experiment, start, end = hparams(settings, scores)
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in shown
    plugin.content = content.SerializeToString()
    for summary in (experiment, start, end):
        logger.experiment._get_file_writer().add_summary(summary)


def hyperparameters(configured: Mapping[str, Any]) -> dict[str, Any]:
    """What differs in this sweep, or else what was typed for this run, beside the choices that say what it is."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    groups = ("task", "corpus", "teacher", "student", "objective", "schedule")
    pair, objective, training = (configured[name] for name in ("pair", "objective", "training"))
    usual = {
        **{group: choices[group] for group in groups if group in choices},
        "pair": f"{pair['source']}-{'+'.join(pair['targets'])}",
        "protocol": pair["protocol"],
        "align": pair["align"],
        "temperature": objective["temperature"],
        "alpha": objective.get("alpha", 0.0),
        "lr": configured["optimizer"].get("lr") or "by size",
        "batch_size": training["batch_size"],
        "epochs": training["epochs"] or "by rows",
        "seed": configured["seed"],
    }
    return {**usual, **typed_values()}


def typed_values() -> dict[str, Any]:
    """Key -> value of what a sweep varies, or of what was typed for a single run: numbers as numbers, and keys as short
    as they can be."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    typed = hydra.overrides.task
    overrides = differing(Path(hydra.sweep.dir), typed) if in_a_sweep() else settings_in(typed)
    parsed = [one for one in OverridesParser.create().parse_overrides(overrides) if not one.is_delete()]
    short = short_keys({one.key_or_group for one in parsed})
    known = {short[one.key_or_group]: (one.value(), one.get_value_string()) for one in parsed}
    return {key: value if isinstance(value, int | float | bool) else text for key, (value, text) in known.items()}
