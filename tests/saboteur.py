"""What goes wrong in tests of faults, at an exact point; once, so that what is resumed goes on."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from distilingua.corpora.files import Files
from distilingua.training.module import DistillationModule


class Saboteur(Callback):
    """Does something to its own process while a model is trained.

    Args:
        how: signals by name (`SIGINT SIGINT` for two of them), `raise`, `nan` (in the student's weights), or `wait`
            until there is a file `go`.
        batch: of the whole training, from 0; or -1 for its end, after the last checkpoint.
        done: a file that says it has been done.
        model: whose training, by the folder of its checkpoints.
    """

    def __init__(self, how: str, batch: int, done: str, model: str = "student") -> None:
        self.how, self.batch, self.done, self.model = how, batch, Path(done), model

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Inside of a step: between the gradient and the optimizer."""
        if trainer.fit_loop.total_batch_idx == self.batch:
            self._act(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.batch == -1:
            self._act(trainer, pl_module)

    def _act(self, trainer: Trainer, module: LightningModule) -> None:
        folders = {Path(str(one.dirpath)).name for one in trainer.checkpoint_callbacks}  # type: ignore[attr-defined]
        if self.model not in folders or self.done.exists():
            return
        self.done.touch()
        if self.how == "raise":
            raise RuntimeError("a planted fault")
        if self.how == "nan":
            assert isinstance(module, DistillationModule)
            next(module.student.parameters()).data.fill_(float("nan"))
        if self.how == "wait":
            while not self.done.with_name("go").exists():
                time.sleep(0.02)
        for name in self.how.split():
            if name.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, name))
                time.sleep(0.01)  # Python handles it between two of its own instructions


class KillsItself(Callback):
    """One process of several dies in the middle of a step.

    Args:
        rank: which.
        batch: of the whole training, from 0.
    """

    def __init__(self, rank: int, batch: int) -> None:
        self.rank, self.batch = rank, batch

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == self.rank and trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


class FilesOnAFullDisk(Files):
    """Files, after which nothing more can be written, once."""

    def load(self, *args: Any, **kwargs: Any) -> Any:
        found = super().load(*args, **kwargs)
        if os.environ.get("DISK_IS_FULL"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return found
