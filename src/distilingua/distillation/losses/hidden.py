"""Hidden states of chosen layers, as sentence vectors or piece by piece."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilingua.distillation.losses.layers import (
    SAME_PIECES,
    LayerMap,
    MappedLayers,
    both_layers,
    masked_mean,
    pooled,
    precise,
    projection,
    same_pieces,
)
from distilingua.distillation.losses.term import Temperature
from distilingua.distillation.signals import ModelShape, Signals
from distilingua.errors import UserError


def vector_distance(student: Tensor, teacher: Tensor, distance: Literal["mse", "cosine"]) -> Tensor:
    """`mean over the width of (student - teacher)²`, or `1 - cos(student, teacher)`.

    Args:
        student: (..., width).
        teacher: (..., width).
        distance: "mse" also teaches lengths, "cosine" directions alone.

    Returns:
        (...), at least 0; 0 with a vanishing gradient where both agree.
    """
    if distance == "mse":
        return (student - teacher).square().mean(-1)
    return 1 - F.cosine_similarity(student, teacher, dim=-1)


class HiddenStates(MappedLayers):
    r"""`mean over mapped layers of distance(W · student's layer, teacher's layer)` over rows that the teacher read.

    W is a learned linear projection, one for each mapped layer, trained with the student and needed no more afterwards.

    Args:
        weight: see `Term`.
        layers: see `LayerMap`.
        distance: see `vector_distance`.
        pool: "mean" compares the mean over the pieces of a row, whatever pieces and language each model read;
            "pieces" compares piece by piece, so both must have read the same ones.
        project: whether W is there even when both models are equally wide.

    Reference:
        Jiao et al. (2020), TinyBERT, section 3.1 ("mse", pieces); Sanh et al. (2019), DistilBERT, section 3 ("cosine").

    Relations:
        More to learn from than logits alone, so it helps most with little data or a new head. `embedding` is the
        special case of the last layers, pooled. `attention` and `minilm` teach how pieces relate rather than what they
        hold, and need no projection. Middle layers of different architectures have little in common: start with null.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hidden"})
    option: ClassVar[str] = "objective.terms.hidden.layers"
    first: ClassVar[int] = 0

    def __init__(
        self,
        weight: float = 1.0,
        layers: LayerMap = None,
        distance: Literal["mse", "cosine"] = "mse",
        pool: Literal["mean", "pieces"] = "mean",
        project: bool = False,
    ) -> None:
        super().__init__(weight, layers)
        if distance not in ("mse", "cosine"):
            raise UserError(f"objective.terms.hidden.distance={distance}: choose mse or cosine.")
        if pool not in ("mean", "pieces"):
            raise UserError(f"objective.terms.hidden.pool={pool}: choose mean or pieces.")
        self.distance, self.pool, self.project = distance, pool, project
        if pool == "pieces":
            self.by_piece = f"Set objective.terms.hidden.pool=mean. Or: {SAME_PIECES}."
        self.projections = nn.ModuleList()

    def connect(self, student: ModelShape, teacher: ModelShape) -> None:
        super().connect(student, teacher)
        self.projections = nn.ModuleList(projection(student, teacher, self.project) for _ in self.pairs)

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        ours, theirs = both_layers(signals)
        losses = []
        if self.pool == "mean":
            for (s, t), project in zip(self.pairs, self.projections, strict=True):
                losses.append(vector_distance(*pooled(signals, s, t, project), self.distance))
        else:
            mask = same_pieces(signals, "hidden", self.by_piece)
            length = mask.shape[1]
            for (s, t), project in zip(self.pairs, self.projections, strict=True):
                student, teacher = precise(project(ours.hidden[s])), precise(theirs.hidden[t])
                distance = vector_distance(student[:, :length], teacher[:, :length], self.distance)
                losses.append(ours.by_row(masked_mean(distance, mask)))
        return signals.mean_of_rows(torch.stack(losses).mean(0))
