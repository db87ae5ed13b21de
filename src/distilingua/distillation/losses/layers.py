"""What terms that compare layers share: which layers, which pieces, and one width for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from distilingua.distillation.losses.term import Term
from distilingua.distillation.signals import Layers, ModelShape, Signals
from distilingua.errors import UserError

LayerMap = Mapping[int, int] | Literal["even"] | None
"""Student layer -> teacher layer, counted from 1, or from the end with -1 for the last; 0 is the embeddings' output.

"even": all of the student's, with the teacher's evenly spaced. None: last with last.
"""


def precise(values: Tensor) -> Tensor:
    """At least float32: in mixed precision layers come in 16 bits, too coarse for squares and sums of them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the pieces that count; 0 for a row without any.

    Args:
        values: (rows, length) or (rows, length, width).
        mask: pieces that count, (rows, length) bool.

    Returns:
        (rows,) or (rows, width).
    """
    count = mask.sum(1).clamp_min(1)
    if values.dim() == 3:
        mask, count = mask[..., None], count[:, None]
    return torch.where(mask, values, 0.0).sum(1) / count


def check_layer_map(layers: LayerMap, option: str) -> LayerMap:
    """The map with whole numbers, whatever the configuration made of it.

    Raises:
        UserError: neither a map nor "even" nor null.
    """
    if layers is None or layers == "even":
        return layers
    try:
        numbers = {int(s): int(t) for s, t in layers.items()}
    except (AttributeError, TypeError, ValueError):
        numbers = {}
    if not numbers:
        raise UserError(
            f"{option}={layers}: expected student layer: teacher layer, such as '{{1: 2, -1: -1}}', or even, or null "
            f"for the last with the last."
        )
    return numbers


def layer_pairs(
    layers: LayerMap, student: ModelShape, teacher: ModelShape, first: int, option: str
) -> list[tuple[int, int]]:
    """Numbers of the student's and the teacher's layer, none negative.

    Args:
        layers: see `LayerMap`.
        first: the lowest layer there is: 0 with the embeddings' output, otherwise 1.
        option: how a user sets the map, for messages.

    Raises:
        UserError: a layer that a model does not have.
    """
    ours, theirs = student.num_hidden_layers, teacher.num_hidden_layers
    if layers == "even":
        # rounded up, so that last meets last and nothing meets the embeddings
        return [(i, -(-i * theirs // ours)) for i in range(1, ours + 1)]
    assert layers is None or isinstance(layers, Mapping)
    return [
        (_number(s, ours, first, "student", option), _number(t, theirs, first, "teacher", option))
        for s, t in (layers or {-1: -1}).items()
    ]


def _number(layer: int, count: int, first: int, model: str, option: str) -> int:
    number = count + 1 + layer if layer < 0 else layer
    if not first <= number <= count:
        raise UserError(
            f"{option}: the {model} has no layer {layer} to compare. Choose one of {first} to {count}; -1 is the last."
        )
    return number


class MappedLayers(Term):
    """A term that compares layers of the student with layers of the teacher.

    Args:
        weight: see `Term`.
        layers: see `LayerMap`.
    """

    option: ClassVar[str]
    """How a user sets the map, for messages."""
    first: ClassVar[int] = 1
    """The lowest layer that it can compare; 0 is the embeddings' output."""

    def __init__(self, weight: float = 1.0, layers: LayerMap = None) -> None:
        super().__init__(weight)
        self.layers = check_layer_map(layers, self.option)
        self.pairs: list[tuple[int, int]] = []

    def connect(self, student: ModelShape, teacher: ModelShape) -> None:
        self.pairs = layer_pairs(self.layers, student, teacher, self.first, self.option)


class SentenceVectors(Term):
    """A term that compares one vector a row, the student's after a learned linear projection where widths differ.

    Args:
        weight: see `Term`.
        project: whether there is a projection even when both models are equally wide.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"vector"})

    def __init__(self, weight: float = 1.0, project: bool = False) -> None:
        super().__init__(weight)
        self.project = project
        self.projection: nn.Module = nn.Identity()

    def connect(self, student: ModelShape, teacher: ModelShape) -> None:
        self.projection = projection(student, teacher, self.project)


def projection(student: ModelShape, teacher: ModelShape, always: bool) -> nn.Module:
    """Student width -> teacher width, learned with the student; nothing at all where the widths agree already."""
    if student.hidden_size == teacher.hidden_size and not always:
        return nn.Identity()
    return nn.Linear(student.hidden_size, teacher.hidden_size)


def both_layers(signals: Signals) -> tuple[Layers, Layers]:
    """The student's and the teacher's; a term that asks for layers (`Term.needs`) finds them there."""
    if signals.student_layers is None or signals.teacher_layers is None:
        raise ValueError("a term compares layers, and these signals have none")
    return signals.student_layers, signals.teacher_layers


def sentence_vectors(signals: Signals, project: nn.Module) -> tuple[Tensor, Tensor]:
    """One vector per row from each model's last layer, (rows, teacher width) both, see `Layers.vector`."""
    ours, theirs = both_layers(signals)
    assert ours.vector is not None
    assert theirs.vector is not None
    return precise(project(ours.vector)), precise(theirs.vector)


def pooled(signals: Signals, student_layer: int, teacher_layer: int, project: nn.Module) -> tuple[Tensor, Tensor]:
    """One vector per row from each model: the mean over the pieces it read itself, (rows, teacher width) both.

    Tokenizers and languages may differ: each model averages over its own pieces.
    """
    ours, theirs = both_layers(signals)
    assert ours.mask is not None
    assert theirs.mask is not None
    return (
        ours.by_row(masked_mean(precise(project(ours.hidden[student_layer])), ours.mask)),
        theirs.by_row(masked_mean(precise(theirs.hidden[teacher_layer]), theirs.mask)),
    )


def same_pieces(signals: Signals, term: str, way_out: str) -> Tensor:
    """Which pieces to compare one by one, (rows, length) bool, with the shorter padding of the two models; of windows
    where rows have them.

    Rows that the teacher did not read have none: what stands there in its place is of any length.

    Raises:
        UserError: the teacher read other pieces than the student.
    """
    ours, theirs = both_layers(signals)
    assert ours.mask is not None
    assert theirs.mask is not None
    assert ours.input_ids is not None
    assert theirs.input_ids is not None
    read = signals.row_mask if ours.windows is None else signals.row_mask.repeat_interleave(ours.windows)
    length = min(ours.mask.shape[1], theirs.mask.shape[1])
    mask = (ours.mask & read[:, None])[:, :length]
    agree = (mask == (theirs.mask & read[:, None])[:, :length]) & (
        ~mask | (ours.input_ids[:, :length] == theirs.input_ids[:, :length])
    )
    beyond = (ours.mask & read[:, None])[:, length:].any(1) | (theirs.mask & read[:, None])[:, length:].any(1)
    differ = ~agree.all(1) | beyond
    if differ.any():
        raise other_pieces(term, int(differ.sum()), int(read.sum()), way_out)
    return mask


def other_pieces(term: str, differ: int, rows: int, way_out: str) -> UserError:
    return UserError(
        f"objective.terms.{term} compares piece by piece, and in {differ} of {rows} rows teacher and student read "
        f"different pieces. {way_out}"
    )


SAME_PIECES = (
    "Use a student with the teacher's tokenizer (student=hub student.path=…) and a teacher that reads every language "
    "of the pair itself (teacher=mbert)"
)
