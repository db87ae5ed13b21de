"""What Lightning does not measure by itself."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's bar with an estimate of the time left, and the loss in place of the logger's version."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        loss = trainer.callback_metrics.get("train/loss")
        return {} if loss is None else {"loss": f"{float(loss):.3f}"}


class StopBetweenBatches(Callback):
    """Ctrl-C waits for the end of the optimizer step, so that what is saved then resumes to the same weights.

    A second Ctrl-C does not wait.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._asked = False
        self._usual = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._asked and batch_idx % trainer.accumulate_grad_batches == 0:
            raise KeyboardInterrupt

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._usual)


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
