"""The teacher as the training sees it: frozen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from distilingua.distillation.signals import Layers
from distilingua.errors import UserError
from distilingua.models.layers import LayerReader
from distilingua.models.source import TeacherSource, check_pieces, check_positions, read_tokenizer, readable
from distilingua.models.trimming import reserved_positions
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
    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[ModelOutput, Layers | None]:
        return self._read(inputs)


def load_tokenizer(source: TeacherSource, hears: bool = False) -> PreTrainedTokenizerBase:
    return read_tokenizer(f"teacher.path={source.path}", source.location, source.local, source.revision, hears)


def load_model(
    folder: str | Path,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    revision: str | None = None,
    whole: bool = False,
) -> PreTrainedModel:
    """A teacher with the task's head, which is new where the folder has none of that shape. Encoder or decoder.

    Args:
        whole: whether every weight has to be in the folder, head included: whoever is not taught must know already.

    Raises:
        UserError: weights are missing; texts may be longer than the model's positions.
    """
    with readable(f"teacher.path={folder}", Path(folder) if Path(folder).is_dir() else None):
        model, report = model_class(task).from_pretrained(
            folder,
            revision=revision,
            dtype=torch.float32,  # it may be trained; some files hold half precision, and `in_precision` comes later
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            **task.model_options,
        )
    new = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if whole and new:
        raise UserError(
            f"teacher.path={folder}: it has no {', '.join(new[:3])}{' …' if len(new) > 3 else ''} of the shape that "
            f"task={task.name} needs, so its answers would be random. Give a teacher that was trained for this task, "
            f"or let it learn: teacher/fine_tune=default."
        )
    if task.backbone != "speech encoder":
        check_pieces(model, tokenizer, f"teacher.path={folder}")
        positions = getattr(model.config, "max_position_embeddings", None)
        check_positions(task.max_length, positions, reserved_positions(model), "teacher")
    if model.config.pad_token_id is None:  # a decoder looks for the last piece that is not padding
        model.config.pad_token_id = tokenizer.pad_token_id
    task.prepare_model(model, tokenizer)
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
