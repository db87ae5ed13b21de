"""A model with some of the layers of another one."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from distilingua.errors import UserError

RULE = re.compile(r"(first|last|even):([1-9]\d*)")


def chosen_layers(layers: str | Sequence[int] | None, total: int) -> list[int]:
    """Numbers of the layers to keep, counted from 0.

    Args:
        layers: null for all, a list of numbers, or `first:N`, `last:N`, `even:N` (evenly spaced, both ends included).
        total: layers there are.

    Raises:
        UserError: another form, no layer at all, or one that does not exist.
    """
    if layers is None:
        return list(range(total))
    if isinstance(layers, str):
        match = RULE.fullmatch(layers)
        if match is None:
            raise UserError(
                f"student.layers={layers}: expected null, a list like [0,3,5], or first:N, last:N, even:N. "
                f"Type student.layers=even:3."
            )
        rule, n = match[1], int(match[2])
        if n > total:
            raise UserError(f"student.layers={layers}: there are {total} layers. Type student.layers={rule}:{total}.")
        if rule == "even":
            return [round(i * (total - 1) / max(n - 1, 1)) for i in range(n)]
        return list(range(n)) if rule == "first" else list(range(total - n, total))
    numbers = list(layers)
    if not numbers or not all(isinstance(i, int) and 0 <= i < total for i in numbers):
        raise UserError(
            f"student.layers={numbers}: expected numbers of layers from 0 to {total - 1}. "
            f"Type student.layers=[0,{total - 1}], or null for all of them."
        )
    return numbers


def layer_list(model: PreTrainedModel) -> str | None:
    """Name of the model's list of layers; None when it has none of that length (ALBERT repeats one layer)."""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers
    }
    if not lists or model.config.is_encoder_decoder:
        return None
    return max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()))


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model with these layers of `model`; what `model` has nothing for is random.

    It is built from a shorter configuration, not by taking modules out, because some models make their first layer in
    another way (ModernBERT's has no norm): so what is saved is what loads.

    Raises:
        UserError: there is no list of layers to choose from.
    """
    place = layer_list(model)
    if place is None:
        raise UserError(
            f"student.layers: {type(model).__name__} has no list of {model.config.num_hidden_layers} layers to choose "
            f"from. Set student.layers=null, or choose a BERT-like encoder."
        )
    small = type(model)(_shorter(model.config, layers))
    whole = model.state_dict().items()
    weights = {new: weight for name, weight in whole for new in _places(name, place, layers)}
    small.load_state_dict(weights, strict=False)
    return small


def _places(name: str, place: str, layers: Sequence[int]) -> list[str]:
    """Where a weight of the whole model stands in the one with fewer layers: nowhere, once, or once per copy."""
    if not name.startswith(f"{place}."):
        return [name]
    number, _, rest = name.removeprefix(f"{place}.").partition(".")
    return [f"{place}.{new}.{rest}" for new, old in enumerate(layers) if old == int(number)]


def _shorter(config: PreTrainedConfig, layers: Sequence[int]) -> PreTrainedConfig:
    """The configuration of a model with these layers; lists with an entry per layer are cut along."""
    config, total = copy.deepcopy(config), config.num_hidden_layers
    lists = {name: value for name, value in config.to_dict().items() if isinstance(value, (list, tuple))}
    config.num_hidden_layers = len(layers)
    for name, value in lists.items():
        if "layer" in name and len(value) == total:
            setattr(config, name, [value[i] for i in layers])
    return config
