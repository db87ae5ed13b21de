"""The LightningModule: forward, objective, log. It knows neither corpora nor languages nor which task it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from transformers import PretrainedConfig, PreTrainedModel

from distilingua.distillation.objective import Objective
from distilingua.distillation.schedules import Progress
from distilingua.distillation.signals import Layers, Signals
from distilingua.errors import NumberError, listed
from distilingua.models.layers import LayerReader
from distilingua.models.on_policy import OnPolicy
from distilingua.models.teacher import FrozenTeacher
from distilingua.parts import module_parts
from distilingua.tasks.task import Task, no_numbers, rows_at, windows_of
from distilingua.training.plan import schedule_of
from distilingua.training.processes import shards

Batch = dict[str, Any]
LATER = 1e-5  # less than any row of a dev split counts


class DistillationModule(LightningModule):
    """Trains a student on the objective, with a frozen teacher, with stored soft labels, or with neither.

    Args:
        student: the model that learns; the only one in the checkpoint.
        task: which logits count, and how they are judged.
        objective: the weighted sum of terms.
        optimizer: makes an optimizer of parameters, e.g. a partial of `torch.optim.AdamW`.
        lr_schedule: see `schedule_of`.
        teacher: answers live; None when batches carry stored soft labels, or when there is no teacher.
        vector_width: of the teacher's sentence vectors, where batches carry these too.
        languages: names of the validation loaders, in order.
        on_policy: puts the student's own texts in place of some batches' for a live teacher to score; None for never.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        task: Task,
        objective: Objective,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        lr_schedule: Any,
        teacher: FrozenTeacher | None = None,
        vector_width: int | None = None,
        languages: Iterable[str] = (),
        on_policy: OnPolicy | None = None,
    ) -> None:
        super().__init__()
        # transformers loads models in evaluation mode, and Lightning keeps the mode it finds
        self.student, self.task, self.objective = student.train(), task, objective
        self.make_optimizer, self.lr_schedule, self.teacher = optimizer, lr_schedule, teacher
        self.on_policy = on_policy
        self.read_student = LayerReader(student, objective.needs)
        if teacher is not None:
            objective.connect(student.config, teacher.model.config)
        elif vector_width is not None:
            objective.connect(student.config, PretrainedConfig(hidden_size=vector_width))
        self.languages = list(languages)
        self.dev_metrics = nn.ModuleList(task.metrics() for _ in self.languages)
        self.agreement = nn.ModuleList(MeanMetric() for _ in self.languages)
        self.last_agreement: dict[str, float] = {}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **given: Any
    ) -> DistillationModule:
        """The module of a checkpoint of a run, with the weights that it has. It has no teacher, unless one is given.

        Args:
            given: arguments in place of those that the checkpoint says, or where it says none, as one of a module that
                was not made by `student_fit`.

        Raises:
            UserError: it names a class that no file of conf/ names.
        """
        kept = torch.load(checkpoint_path, map_location=map_location, weights_only=True)
        module = cls(**{**(module_parts(kept["hyper_parameters"]) if "hyper_parameters" in kept else {}), **given})
        known = module.state_dict()  # a term's projection belongs to the teacher, which is not there
        weights = {
            name: one for name, one in kept["state_dict"].items() if name in known or not name.startswith("objective.")
        }
        module.load_state_dict(weights)
        return module

    @property
    def progress(self) -> Progress:
        return Progress(self.global_step, int(self.trainer.estimated_stepping_batches))

    def signals(self, batch: Batch) -> Signals:
        """The batch as the objective sees it; asks the teacher where no soft labels came with the batch."""
        own = batch["student"]
        windows = windows_of(batch["student_at"], own)
        output, student_layers = self.read_student(own, windows)
        soft, vector = batch.get("soft_labels"), batch.get("teacher_vector")
        teacher_layers = Layers(vector=vector) if vector is not None else None
        self._wrong: dict[str, tuple[Tensor, Tensor | None]] = {}
        if soft is None and self.teacher is not None:
            other = batch["teacher"]
            theirs = windows_of(batch["teacher_at"], other)
            answer, teacher_layers = self.teacher(other, theirs)
            soft = self.task.cells(answer, batch["teacher_at"], theirs)
            self._wrong["teacher"] = no_numbers(soft, batch["teacher_at"]), batch["teacher_at"]
        cells = self.task.cells(output, batch["student_at"], windows)
        self._wrong["student"] = no_numbers(cells, batch["student_at"]), batch["student_at"]
        found = self.task.signals(cells, soft, batch)
        return replace(found, student_layers=student_layers, teacher_layers=teacher_layers)

    def rewritten(self, batch: Batch) -> Batch:
        """The batch, or the student's own texts in its place, see `OnPolicy`."""
        if self.on_policy is None or self.teacher is None:
            return batch
        return self.on_policy(batch, self.student, self.teacher.model)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        signals = self.signals(self.rewritten(batch))
        loss = self.objective(signals, self.progress)
        self.check_numbers(batch, loss.total)
        self.log_dict({f"train/{k}": v for k, v in loss.logs.items()}, batch_size=signals.rows, sync_dist=True)
        return loss.total

    def check_numbers(self, batch: Batch, loss: Tensor | None = None) -> None:
        """Stops before anything is learnt from what is no number.

        Raises:
            NumberError: names the rows, and whose answer it is, or the loss.
        """
        found = [wrong.any() for wrong, _ in self._wrong.values()]
        if not torch.stack(found if loss is None else [*found, ~loss.isfinite()]).any():  # a GPU is waited for once
            return
        rows, whose = batch["rows"], "the loss of"
        for name, (wrong, at) in self._wrong.items():
            if wrong.any():
                rows, whose = batch["rows"][rows_at(wrong, at)], f"the {name}'s answer to"
                break
        data: Any = getattr(self.trainer, "datamodule", None)
        names = [f"row {n}" for n in rows.tolist()] if data is None else data.ids(batch, rows.cpu().numpy())
        way_out = (
            "Its weights hold NaN or infinity, or it overflows: try teacher.precision=32."
            if whose.startswith("the teacher")
            else "Lower the learning rate, or look at these rows."
        )
        raise NumberError(f"{whose} {listed(names)} is no number. {way_out}")

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.watch(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        scores = self.dev_scores()
        if self.trainer.state.fn == TrainerFn.FITTING:  # of equal weights, the later ones are kept
            scores["select"] = scores["select"] + LATER * self.progress.fraction
        self.log_dict({f"dev/{name}": value for name, value in scores.items()}, sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.watch(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        scores = self.dev_scores()
        self.log_dict({f"test/{name}": value for name, value in scores.items() if name != "select"}, sync_dist=True)

    def watch(self, batch: Batch, language: int) -> None:
        """Adds a dev batch to the scores of a language, by its number."""
        signals = self.signals(batch)
        self.check_numbers(batch)
        metrics, agreement = self.dev_metrics[language], self.agreement[language]
        assert isinstance(metrics, MetricCollection)
        assert isinstance(agreement, MeanMetric)
        self.task.watch(metrics, signals, batch)
        if signals.teacher is not None and signals.has_teacher.any():
            same = self.task.agree(signals.student, signals.teacher)
            agreement.update(same[signals.has_teacher].float())

    def dev_scores(self) -> dict[str, Tensor]:
        """`LANGUAGE/METRIC` of what was watched, how often the student decides as the teacher does, which needs no
        label, and `select`, by which weights are chosen; begins anew.

        `select` is the mean of the main score in the source and of the agreement in every language: no label of a
        target is in it.
        """
        found: dict[str, Tensor] = {}
        chosen_by: list[Tensor] = []
        for language, metrics, agreement in zip(self.languages, self.dev_metrics, self.agreement, strict=True):
            assert isinstance(metrics, MetricCollection)
            assert isinstance(agreement, MeanMetric)
            scores = metrics.compute()
            if language == self.languages[0]:
                chosen_by.append(next(scores[name] for name in (*self.task.shown, "accuracy") if name in scores))
            if agreement.update_called:
                scores["agreement"] = agreement.compute()
                chosen_by.append(scores["agreement"])
                self.last_agreement[language] = round(float(scores["agreement"]), 4)
            found |= {f"{language}/{name}": value for name, value in scores.items()}
            metrics.reset()
            agreement.reset()
        return {**found, "select": torch.stack([score.float().to(self.device) for score in chosen_by]).mean()}

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = schedule_of(self.lr_schedule, optimizer, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning refuses to clip for fused optimizers in mixed precision; without a gradient scaler it is safe. It
        refuses for shards too, whose norm only all processes together know."""
        plugin = self.trainer.precision_plugin
        if shards(self.trainer) and gradient_clip_algorithm in (None, "norm"):
            if gradient_clip_val:
                self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[operator, union-attr]
        elif isinstance(plugin, MixedPrecision) and plugin.scaler is None and gradient_clip_algorithm in (None, "norm"):
            if gradient_clip_val:
                nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Torch's random state, so that a resumed run draws the same dropout masks; and what was judged last, which
        nobody judges again after the last epoch."""
        checkpoint["torch_rng_state"], checkpoint["agreement"] = torch.get_rng_state(), self.last_agreement

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng_state, self.last_agreement = checkpoint["torch_rng_state"], checkpoint["agreement"]

    def on_train_start(self) -> None:
        # after Lightning's own sanity check and set-up, which draw random numbers too
        state = self.__dict__.pop("_rng_state", None)
        if state is not None:
            torch.set_rng_state(state)
