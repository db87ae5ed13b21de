"""Where every weight of a student comes from."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from distilingua.console import plain_table
from distilingua.models.depth import layer_list


def weight_origins(model: PreTrainedModel) -> Table:
    """Per part of the student: its first weights' origin, how many, how large; and what every cut has saved.

    Reads what `Pretrained.model` or `Static.model` has noted in the configuration. A student without a note is random.
    """
    note: dict[str, Any] = getattr(model.config, "first_weights", None) or {}
    copied = f", copied from {note['path']}" if note else ", all random"
    table = plain_table(f"Student: {_weights(model):,} weights{copied}", ("part", "first weights"), ("weights", "MB"))
    new = set(note.get("new", ()))
    parts: dict[str, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    place, reads = layer_list(model), model.main_input_name == "input_ids"  # a model that hears has no pieces
    pieces = {id(p) for p in model.get_input_embeddings().parameters()} if reads else set()
    for name, weight in model.named_parameters():
        parts["pieces" if id(weight) in pieces else _part(name, model.base_model_prefix, place)].append((name, weight))
    for part, named in parts.items():
        fresh = [weight for name, weight in named if name in new or not note]
        origin = "random" if len(fresh) == len(named) else _origin(part, note, model)
        if fresh and origin != "random":
            origin += f", {sum(w.numel() for w in fresh):,} random"
        table.add_row(part, origin, *_size(sum(w.numel() for _, w in named), _in_memory(w for _, w in named)))
    if any(note.get("saved_bytes", ())):
        table.add_section()
        size = next(model.parameters()).element_size()
        for cut, saved in zip(_cuts(note, model), note["saved_bytes"], strict=True):
            if saved:
                table.add_row("saved", cut, *_size(saved // size, saved))
    return table


def _part(name: str, base: str, place: str | None) -> str:
    if place is not None and name.startswith(f"{place}."):
        return f"layer {name.removeprefix(f'{place}.').partition('.')[0]}"
    first, _, rest = name.partition(".")
    if first != base:
        return "head"
    inside = rest.partition(".")[0]
    return "positions, norm" if inside == "embeddings" else inside


def _origin(part: str, note: dict[str, Any], model: PreTrainedModel) -> str:
    if part.startswith("layer "):
        return f"copied from layer {note['layers'][int(part.removeprefix('layer '))]}"
    if part != "pieces":
        return "copied"
    if "pieces" in note:
        return str(note["pieces"])
    rank, kept, total = getattr(model.config, "embedding_rank", None), model.config.vocab_size, note["of_pieces"]
    rows = f"{kept:,} of {total:,} rows"
    return f"SVD of {rows}, rank {rank}" if rank else f"copied, {rows}"


def _cuts(note: dict[str, Any], model: PreTrainedModel) -> tuple[str, str, str]:
    return (
        f"{len(note['layers'])} of {note['of_layers']} layers",
        f"{model.config.vocab_size:,} of {note['of_pieces']:,} pieces",
        f"embedding of rank {getattr(model.config, 'embedding_rank', None)}",
    )


def _weights(model: PreTrainedModel) -> int:
    return sum(p.numel() for p in model.parameters())


def _in_memory(weights: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _size(weights: int, size: int) -> tuple[str, str]:
    return f"{weights:,}", f"{size / 1e6:.1f}"
