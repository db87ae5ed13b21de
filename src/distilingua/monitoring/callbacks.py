"""What Lightning does not measure, and when it stops and saves."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar

from distilingua.errors import STOPS, stop

GAIN = 1e-4  # a smaller one is none


class ProgressBar(RichProgressBar):
    """Lightning's bar with an estimate of the time left, and the loss in place of the logger's version."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        loss = trainer.callback_metrics.get("train/loss")
        return {} if loss is None else {"loss": f"{float(loss):.3f}"}


class Stop(KeyboardInterrupt):
    """Ends training between two steps, in all processes at the same one."""


class StopBetweenBatches(Callback):
    """Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 wait for the end of the optimizer step, so that what is saved then resumes to
    the same weights.

    A second Ctrl-C does not wait, and nothing is saved of the step that it cuts.
    """

    asked: int | None = None
    """The signal that came."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.asked, self._usual = None, {}
        if threading.current_thread() is not threading.main_thread():
            return
        # here, because Lightning's own handlers, which may save half a step, come before this hook
        for number in (signal.SIGINT, *STOPS):
            usual = signal.getsignal(number)
            ours = number in (signal.SIGINT, signal.SIGTERM) or usual in (signal.SIG_DFL, stop)
            if ours:  # nohup ignores SIGHUP, and what starts jobs on a cluster may have plans with SIGUSR1
                self._usual[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            self.asked = self.asked or signal.SIGINT  # another process was asked
            raise Stop

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, usual in getattr(self, "_usual", {}).items():
            signal.signal(number, usual)


class BetweenSteps(ModelCheckpoint):
    """A ModelCheckpoint that never saves half a step: with `save_on_exception`, whatever ends training between two
    steps is saved there, and after what ends it elsewhere the last checkpoint stays."""

    _trained = False

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        super().on_train_batch_end(trainer, *args, **kwargs)
        self._trained = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        agreed = trainer.world_size == 1 or isinstance(exception, Stop)  # or one process waits for others, in vain
        # before the first batch, what an earlier process has left may be restored in part
        if self._trained and agreed and between_steps(trainer):
            super().on_exception(trainer, pl_module, exception)


def between_steps(trainer: Trainer) -> bool:
    """Whether training stands inside an epoch, between two steps of the optimizer."""
    epochs: Any = trainer.fit_loop.epoch_progress.current  # Lightning declares base classes
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return (
        trainer.training  # and does not judge: dev scores in part are in no checkpoint
        and epochs.started > epochs.processed
        and batches.started == batches.completed < trainer.num_training_batches
        and batches.completed % trainer.accumulate_grad_batches == 0
    )


SELECT = "dev/select"
"""What the weights that are kept are chosen by, and what training stops by: see `DistillationModule.dev_scores`."""


class KeepBest(ModelCheckpoint):
    """Keeps the weights that did best on dev, beside what a run resumes from."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", SELECT, mode="max", save_weights_only=True, enable_version_counter=False)


class StopEarly(EarlyStopping):
    """Stops after so many evaluations that gained nothing, also where a run is resumed after the last of them. None of
    the first half counts: random weights take their time, and a falling rate brings gains.

    Args:
        patience: evaluations.
    """

    def __init__(self, patience: int) -> None:
        super().__init__(SELECT, GAIN, patience, mode="max", check_on_train_epoch_end=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if 2 * trainer.global_step >= trainer.estimated_stepping_batches:
            super().on_validation_end(trainer, pl_module)


class SentencesPerSecond(Callback):
    """Logs `train/sentences_per_second`, over all processes, at the trainer's logging interval."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since, self._sentences = time.perf_counter(), 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since, self._sentences = time.perf_counter(), 0  # judging is not training

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        self._sentences += len(batch["ids"]) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            now = time.perf_counter()
            pl_module.log("train/sentences_per_second", self._sentences / (now - self._since))
            self._since, self._sentences = now, 0
