"""Where curves and scores go: one logger or several."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from distilingua.extras import check_installed


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
