"""The teacher as the training sees it: frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from distilingua.models.source import TeacherSource
from distilingua.tasks.text_classification import TextClassification


class FrozenTeacher:
    """A model that answers and never changes: no gradients, always in evaluation mode.

    It is no `nn.Module` on purpose: a LightningModule that holds it neither saves it, nor counts its weights, nor
    switches it to training mode, and no strategy wraps it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> ModelOutput:
        return self.model(**inputs)


def load_tokenizer(source: TeacherSource) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(source.location, revision=source.revision)


def load_model(folder: str | Path, task: TextClassification, revision: str | None = None) -> PreTrainedModel:
    """A teacher with the task's head, which is new where the folder has none of that shape."""
    return task.model_class.from_pretrained(
        folder, revision=revision, ignore_mismatched_sizes=True, **task.model_options
    )
