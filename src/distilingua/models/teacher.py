"""The teacher as the training sees it: frozen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from distilingua.distillation.signals import Layers
from distilingua.models.layers import LayerReader
from distilingua.models.source import TeacherSource
from distilingua.tasks.text_classification import TextClassification


class FrozenTeacher:
    """A model that answers and never changes: no gradients, always in evaluation mode.

    It is no `nn.Module` on purpose: a LightningModule that holds it neither saves it, nor counts its weights, nor
    switches it to training mode, and no strategy wraps it.

    Args:
        wanted: what to hand over beside the output, see `LayerReader`.
    """

    def __init__(self, model: PreTrainedModel, wanted: Collection[str] = ()) -> None:
        self.model = model.eval().requires_grad_(False)
        self._read = LayerReader(model, wanted)

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[ModelOutput, Layers | None]:
        return self._read(inputs)


def load_tokenizer(source: TeacherSource) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(source.location, revision=source.revision)


def load_model(folder: str | Path, task: TextClassification, revision: str | None = None) -> PreTrainedModel:
    """A teacher with the task's head, which is new where the folder has none of that shape."""
    return task.model_class.from_pretrained(
        folder, revision=revision, ignore_mismatched_sizes=True, **task.model_options
    )
