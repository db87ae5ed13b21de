from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from torch.utils.tensorboard import SummaryWriter

from tests.processes import succeed


def write_curves(run: Path, languages: Sequence[str], steps: int) -> None:
    """What TensorBoard keeps of the dev scores of a run."""
    for kind in ("direct", "student"):
        with SummaryWriter(str(run / "tensorboard" / kind)) as writer:
            for step in range(steps):
                for lang in languages:
                    writer.add_scalar(f"dev/{lang}/accuracy", step / 4, step)


def read_json(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def settings(kept: Path) -> list[str]:
    """A run of a few seconds, on the files corpus."""
    return [
        *("corpus=files", f"corpus.path='{kept}/data/{{lang}}/{{split}}.jsonl'", "corpus.columns.group=key"),
        *("teacher=local", f"teacher.path={kept / 'teacher'}", "teacher.languages=[en]", "objective=kd"),
        *("student=nano", "student.layers=1", "student.hidden_size=64", "student.heads=2", "student.vocabulary=200"),
        *("student.feed_forward=128", "training.epochs=8", "training.batch_size=16", "optimizer.lr=2e-3"),
        *("teacher.fine_tune.freeze=[]", "teacher.fine_tune.epochs=8", "teacher.fine_tune.lr=2e-3"),
        *("teacher.fine_tune.batch_size=16", "task.carriers=0"),
        *("trainer.precision=32-true", "cleaning.url='<link>'", "logger=[]"),  # learning rates are written nowhere
        f"paths.cache={kept / 'cache'}",
    ]


@pytest.fixture(scope="session")
def finished_run(kept: Path) -> Path:
    """The folder of a run that has come to its end; nobody writes to it."""
    folder = kept / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "metrics.json").exists():
            succeed("train", *settings(kept), f"hydra.run.dir={folder}", folder=kept)
    return folder
