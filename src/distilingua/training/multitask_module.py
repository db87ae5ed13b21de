"""Several tasks at once: a LightningModule made of one for each, which share an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from distilingua.models.layers import LayerReader
from distilingua.training.module import Batch, DistillationModule


class MultitaskModule(DistillationModule):
    """Every batch is of one task, `batch["task"]`, and is learnt from as that task's own module does.

    Args:
        parts: task -> its module; their students already share an encoder, see `share_encoder`.
    """

    def __init__(self, parts: Mapping[str, DistillationModule]) -> None:
        LightningModule.__init__(self)
        first = next(iter(parts.values()))
        self.make_optimizer, self.lr_schedule = first.make_optimizer, first.lr_schedule
        self.parts = nn.ModuleDict(parts)
        self.loaders = [(name, n) for name, part in parts.items() for n in range(len(part.languages))]

    def part(self, name: str) -> DistillationModule:
        part = self.parts[name]
        assert isinstance(part, DistillationModule)
        return part

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        part = self.part(batch["task"])
        signals = part.signals(batch)
        loss = part.objective(signals, self.progress)
        part.check_numbers(batch, loss.total)
        logs = {f"train/{batch['task']}/{name}": value for name, value in loss.logs.items()}
        self.log_dict({"train/loss": loss.total.detach(), **logs}, batch_size=signals.rows, sync_dist=True)
        return loss.total

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        name, language = self.loaders[dataloader_idx]
        self.part(name).watch(batch, language)

    def dev_scores(self) -> dict[str, Tensor]:
        scores = {name: self.part(name).dev_scores() for name in self.parts}
        selects = torch.stack([found.pop("select") for found in scores.values()])
        found = {f"{name}/{score}": value for name, part in scores.items() for score, value in part.items()}
        return {**found, "select": selects.mean()}

    @property
    def last_agreement(self) -> Any:
        """Of every task."""
        return {name: self.part(name).last_agreement for name in self.parts}

    @last_agreement.setter
    def last_agreement(self, found: Any) -> None:
        for name in self.parts:
            self.part(name).last_agreement = found[name]

    def on_fit_start(self) -> None:
        for name in self.parts:
            self.part(name).on_fit_start()


def share_encoder(modules: Mapping[str, DistillationModule]) -> None:
    """Gives every student the encoder of the first; what is left to each of its own is its head."""
    first, *others = modules.values()
    for module in others:
        encoder: Any = first.student.base_model
        setattr(module.student, module.student.base_model_prefix, encoder)
        # what reads its layers had listened to the encoder that is gone
        module.read_student = LayerReader(module.student, module.objective.needs)
