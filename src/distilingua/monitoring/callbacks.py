"""What Lightning does not measure, and when it stops and saves."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from distilingua.console import console
from distilingua.errors import STOPS, stop

GAIN = 1e-4  # a smaller one is none
SIGUSR2 = getattr(signal, "SIGUSR2", None)  # Windows has none


OWN = "ProgressBar", "Speed", "OneChartForAllLanguages", "StopBetweenBatches", "BetweenSteps"
OF_LIGHTNING = "ModelCheckpoint", "LearningRateMonitor", "DeviceStatsMonitor", "RichProgressBar", "TQDMProgressBar"
WATCHING = {  # callbacks that change nothing of what is learnt
    *(f"distilingua.monitoring.callbacks.{name}" for name in OWN),
    *(f"lightning.pytorch.callbacks.{name}" for name in OF_LIGHTNING),
}


def shaping(callbacks: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of the group `callbacks`, as plain values, that may change what is learnt: all that are not known to
    watch."""
    return {key: one for key, one in (callbacks or {}).items() if (one or {}).get("_target_") not in WATCHING}


class ProgressBar(RichProgressBar):
    """Lightning's bar with an estimate of the time left, and the loss in place of the logger's version; a line now and
    then where the output is no terminal.

    Args:
        every_seconds: between two lines.
    """

    def __init__(self, every_seconds: float = 60) -> None:
        super().__init__()
        self._every = every_seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._told = time.perf_counter()
        self._from = trainer.global_step
        if console.is_terminal:
            super().on_train_start(trainer, pl_module)
        else:
            self.disable()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        now, step = time.perf_counter(), trainer.global_step
        if self.is_enabled or not trainer.is_global_zero or now - self._told < self._every or step == self._from:
            return
        self._told, steps = now, int(trainer.estimated_stepping_batches)
        left = (steps - step) * (now - self._began) / (step - self._from)
        loss = self.get_metrics(trainer, pl_module).get("loss", "")
        console.print(f"step {step} of {steps}, loss {loss}, {timedelta(seconds=round(left))} left at most")

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        loss = trainer.callback_metrics.get("train/loss")
        return {} if loss is None else {"loss": f"{float(loss):.3f}"}


class Stop(KeyboardInterrupt):
    """Ends training between two steps, in all processes at the same one."""


class StopBetweenBatches(Callback):
    """Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 wait for the end of the optimizer step, so that what is saved then resumes to
    the same weights.

    A second Ctrl-C does not wait, and nothing is saved of the step that it cuts.

    What runs jobs on a cluster and has a plan for SIGUSR2 (submitit queues the job again) waits too, and its plan is
    carried out for all of these but Ctrl-C.
    """

    asked: int | None = None
    """The signal that came."""
    queue_again: Any = None
    """The cluster's plan: a handler of SIGUSR2."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.asked, self.queue_again, self._usual = None, None, {}
        if threading.current_thread() is not threading.main_thread():
            return
        # here, because Lightning's own handlers, which may save half a step, come before this hook
        for number in (signal.SIGINT, *STOPS):
            usual = signal.getsignal(number)
            ours = number in (signal.SIGINT, signal.SIGTERM) or usual in (signal.SIG_DFL, stop)
            if ours:  # nohup ignores SIGHUP, and what starts jobs on a cluster may have plans with SIGUSR1
                self._usual[number] = signal.signal(number, self._ask)
        if SIGUSR2 is not None and callable(plan := signal.getsignal(SIGUSR2)):
            self.queue_again = self._usual[SIGUSR2] = plan
            signal.signal(SIGUSR2, self._ask)

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


class OneChartForAllLanguages(Callback):
    """Lays the curves of all languages over each other, a chart for every dev score: TensorBoard's CUSTOM SCALARS."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        languages: Any = getattr(pl_module, "languages", ())
        metrics: Any = getattr(pl_module, "dev_metrics", ())
        names = (*metrics[0], "agreement") if metrics and trainer.is_global_zero else ()
        charts = {name: [f"dev/{re.escape(lang)}/{re.escape(name)}$" for lang in languages] for name in names}
        for logger in trainer.loggers if charts else ():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars({"dev": {name: ["Multiline", of] for name, of in charts.items()}})


class Speed(Callback):
    """Logs, at the trainer's logging interval: `train/sentences_per_second` over all processes; `train/share_waiting`
    of the time in which no batch was there to train on; `train/memory_gb`, the most so far, of the GPU or the process.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()  # judging is not training

    def _begin(self) -> None:
        self._since = self._ended = time.perf_counter()
        self._sentences, self._waited = 0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        self._ended = time.perf_counter()
        self._sentences += len(batch["rows"]) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            seconds = self._ended - self._since
            pl_module.log("train/sentences_per_second", self._sentences / seconds)
            pl_module.log("train/share_waiting", self._waited / seconds)
            if (most := memory(pl_module.device)) is not None:
                pl_module.log("train/memory_gb", most / 1e9)
            self._begin()


def memory(device: torch.device) -> int | None:
    """Bytes that were in use at most so far, on a GPU, or by this process; None where nobody counts them."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
