"""The teacher as the training sees it: frozen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from distilingua.distillation.signals import Layers
from distilingua.errors import UserError
from distilingua.models.folder import readable
from distilingua.models.layers import LayerReader
from distilingua.models.loading import load_with_head
from distilingua.models.processors import check_tokens, read_tokenizer
from distilingua.models.source import TeacherSource
from distilingua.tasks.task import Task, model_class


class FrozenTeacher:
    """A model that answers and never changes: no gradients, always in evaluation mode.

    It is no `nn.Module` on purpose: a LightningModule that holds it neither saves it, nor counts its weights, nor
    switches it to training mode, and no strategy wraps it.

    Args:
        wanted, pooling: what to hand over beside the output, see `LayerReader`.
    """

    def __init__(self, model: PreTrainedModel, wanted: Collection[str] = (), pooling: str = "mean") -> None:
        self.model = model.eval().requires_grad_(False)
        self._read = LayerReader(model, wanted, pooling)

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def __call__(
        self, inputs: Mapping[str, Tensor], windows: Tensor | None = None
    ) -> tuple[ModelOutput, Layers | None]:
        return self._read(inputs, windows)


def load_tokenizer(source: TeacherSource, hears: bool = False) -> PreTrainedTokenizerBase:
    return read_tokenizer(source.given, source.location, source.local, source.revision, hears)


def outline(source: TeacherSource, task: Task, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A teacher without weights, to look at what it is made of before it is trained.

    Raises:
        UserError: it cannot be made; its tokenizer is another model's.
    """
    with torch.device("meta"), readable(source.given, source.local):
        if source.scratch is not None:
            return source.scratch.model(task, tokenizer)
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
        model: PreTrainedModel = model_class(task).from_config(config)
    if not task.hears():
        check_tokens(model, tokenizer, source.given)
    return model


def load_model(
    folder: str | Path,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    revision: str | None = None,
    complete: bool = False,
) -> PreTrainedModel:
    """A teacher with the task's head, see `load_with_head`.

    Args:
        complete: whether every weight has to be in the folder, head included: whoever is not taught must know already.

    Raises:
        UserError: weights are missing; what `load_with_head` refuses.
    """
    model, new = load_with_head("teacher", folder, task, tokenizer, tokenizer, revision)
    if complete and new:
        raise UserError(
            f"teacher.path={folder}: it has no {', '.join(new[:3])}{' …' if len(new) > 3 else ''} of the shape that "
            f"task={task.name} needs, so its answers would be random. Give a teacher that was trained for this task, "
            f"or let it learn: teacher/fine_tune=full."
        )
    return model


def in_precision(model: PreTrainedModel, precision: str) -> PreTrainedModel:
    """The same model computing in 32, bf16 or 16 bits, or with int8 linear layers (on a CPU).

    Measured with the embedded teacher on a CPU with AVX-512: bf16 1.7 times as fast with every decision unchanged,
    int8 2.2 times with 0.2 % of them changed.
    """
    if precision == "int8":
        for name, layer in list(model.named_modules()):
            if type(layer) is torch.nn.Linear:
                model.set_submodule(name, Int8Linear(layer))
        return model
    return model.to({"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[precision])


class Int8Linear(torch.nn.Module):
    """A linear layer with weights in 8 bits, a scale for every output, whose inputs are rounded as they come.

    By torch's own kernels, which `torch.ao` called too: torchao, which follows it, needs a compiler to be any faster
    than 32 bits on a CPU.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scales = weight.abs().amax(1).clamp(min=1e-12).double() / 127
        zeros = torch.zeros(len(scales), dtype=torch.long)
        rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(rounded, None if layer.bias is None else layer.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, inputs) -> (…, outputs)."""
        outputs: Tensor = torch.ops.quantized.linear_dynamic(inputs, self.packed, True)
        return outputs
