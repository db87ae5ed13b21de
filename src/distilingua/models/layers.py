"""Runs a model and keeps what it computes on the way: hidden states, attention, queries, keys and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from distilingua.distillation.losses.layers import masked_mean, precise
from distilingua.distillation.signals import Layers
from distilingua.errors import UserError

QKV = ({"query", "q_proj", "q_lin"}, {"key", "k_proj", "k_lin"}, {"value", "v_proj", "v_lin"})  # names of the linears


class LayerReader:
    """Calls one model and returns its output with the layers that are wanted.

    Hooks sit on the modules of this model alone, so that teacher and student do not collide, and what they keep is
    handed over with every call.

    Args:
        model: any transformers model.
        wanted: fields of `Layers`: hidden, attentions, qkv, vector; none costs nothing.
        pooling: what a vector is made by: "mean", or "cls", the first piece.

    Raises:
        UserError: queries, keys and values are wanted and the model's attention has no linears of these names.
    """

    def __init__(self, model: PreTrainedModel, wanted: Collection[str], pooling: str = "mean") -> None:
        self.model, self.wanted, self.pooling = model, frozenset(wanted), pooling
        self._kept: list[list[Tensor]] = [[], [], []]
        self._listening = False  # the model may also be called by others, to be judged
        if "attentions" in self.wanted:
            model.set_attn_implementation("eager")  # the fused kernels never hold the probabilities
        if "qkv" in self.wanted:
            for names, kept in zip(QKV, self._kept, strict=True):
                linears = [module for name, module in model.named_modules() if name.rpartition(".")[2] in names]
                if not linears:
                    raise UserError(
                        f"objective: {type(model).__name__} has no separate {' or '.join(sorted(names))}, which a "
                        f"term of this objective compares. Take the term out, or choose a BERT-like model."
                    )
                for linear in linears:
                    linear.register_forward_hook(self._keeper(kept))

    def _keeper(self, kept: list[Tensor]) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._listening:
                kept.append(output)

        return keep

    def __call__(
        self, inputs: Mapping[str, Tensor], windows: Tensor | None = None
    ) -> tuple[ModelOutput, Layers | None]:
        """
        Args:
            windows: see `Layers`.
        """
        if not self.wanted:
            return self.model(**inputs), None
        self._listening = True
        output = self.model(
            **inputs,
            output_hidden_states=not self.wanted.isdisjoint({"hidden", "vector"}),
            output_attentions="attentions" in self.wanted,
        )
        self._listening = False
        hidden, attentions = (  # of an encoder-decoder, the half that reads
            output.get(f"encoder_{name}") or output.get(name) or () for name in ("hidden_states", "attentions")
        )
        mask = inputs["attention_mask"].bool()
        layers = Layers(
            input_ids=inputs["input_ids"],
            mask=mask,
            hidden=tuple(hidden) if "hidden" in self.wanted else (),
            attentions=tuple(attentions),
            qkv=tuple(zip(*self._kept, strict=True)),
            windows=windows,
        )
        if "vector" in self.wanted:
            last = precise(list(hidden)[-1])
            layers.vector = layers.by_row(last[:, 0] if self.pooling == "cls" else masked_mean(last, mask))
        for kept in self._kept:
            kept.clear()
        return output, layers
