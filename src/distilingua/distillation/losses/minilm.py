"""How pieces relate to one another in the attention's queries, keys and values."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from distilingua.distillation.losses.kl import kl_divergence
from distilingua.distillation.losses.layers import (
    SAME_PIECES,
    MappedLayers,
    both_layers,
    masked_mean,
    precise,
    same_pieces,
)
from distilingua.distillation.losses.term import Temperature
from distilingua.distillation.signals import ModelShape, Signals
from distilingua.errors import UserError


def relation(vectors: Tensor, heads: int, mask: Tensor) -> Tensor:
    """`A Aᵀ / √(width / heads)` for every relation head: the logits of how strongly pieces relate.

    Args:
        vectors: queries, keys or values A, (rows, length, width).
        heads: relation heads; they need not be the model's own, and only divide the width.
        mask: pieces that count, (rows, length) bool; the others are out of reach.

    Returns:
        (rows, heads, length, length).
    """
    rows, length, width = vectors.shape
    vectors = precise(vectors).view(rows, length, heads, width // heads).transpose(1, 2)
    with torch.autocast(vectors.device.type, enabled=False):  # which would round the products to 16 bits again
        scores = vectors @ vectors.mT / math.sqrt(width // heads)
    # the lowest finite number: with -inf, 0 · (-inf + inf) would make the divergence NaN
    return scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min)


def relation_kl(student: Tensor, teacher: Tensor, heads: int, mask: Tensor) -> Tensor:
    """`KL(softmax(teacher's relation) ‖ softmax(student's relation))`, the mean over heads and pieces, in nats.

    Args:
        student: queries, keys or values, (rows, length, width).
        teacher: the same of the teacher, (rows, length, other width).
        heads: relation heads, the same number for both: that is what makes different widths comparable.
        mask: pieces that count, (rows, length) bool.

    Returns:
        (rows,), at least 0; 0 with a vanishing gradient where the relations agree.
    """
    divergence = kl_divergence(relation(student, heads, mask), relation(teacher, heads, mask), 1.0)
    return masked_mean(divergence.mean(1), mask)


class MiniLM(MappedLayers):
    """`(Q-Q + K-K + V-V) / 3`, each a `relation_kl` between one layer of each model, over rows the teacher read.

    Args:
        weight: see `Term`.
        relation_heads: more of them teach finer relations; divides the width of both models.
        student_layer: counted from 1, or from the end with -1 for the last.
        teacher_layer: the same; of a large teacher of 24 layers the paper takes an upper middle one.

    Reference:
        Wang et al. (2021), MiniLMv2: Multi-Head Self-Attention Relation Distillation, section 3.

    Relations:
        Neither heads nor widths need to agree, and nothing is projected: the student is free in what it holds as long
        as its pieces relate as the teacher's do. Both must have read the same pieces. It teaches the body and not the
        head, so give it `kl` or `ce` beside it. `attention` is the simpler neighbour, `hidden` with pool=mean the one
        for teachers with another tokenizer or language.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"qkv"})
    option: ClassVar[str] = "objective.terms.minilm"
    by_piece = f"{SAME_PIECES}, or another term."

    def __init__(
        self, weight: float = 1.0, relation_heads: int = 16, student_layer: int = -1, teacher_layer: int = -1
    ) -> None:
        super().__init__(weight, {student_layer: teacher_layer})
        if relation_heads < 1:
            raise UserError(f"objective.terms.minilm.relation_heads={relation_heads}: at least 1 is needed; try 16.")
        self.relation_heads = relation_heads

    def connect(self, student: ModelShape, teacher: ModelShape) -> None:
        super().connect(student, teacher)
        for name, config in (("student", student), ("teacher", teacher)):
            if config.hidden_size % self.relation_heads:
                common = math.gcd(student.hidden_size, teacher.hidden_size)
                raise UserError(
                    f"objective.terms.minilm.relation_heads={self.relation_heads} does not divide the {name}'s width "
                    f"of {config.hidden_size}. Choose a divisor of {common}, which both widths share."
                )

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        ours, theirs = both_layers(signals)
        mask = same_pieces(signals, "minilm", self.by_piece)
        length = mask.shape[1]
        ((s, t),) = self.pairs
        relations = zip(ours.qkv[s - 1], theirs.qkv[t - 1], strict=True)
        losses = [relation_kl(a[:, :length], b[:, :length], self.relation_heads, mask) for a, b in relations]
        return signals.mean_of_rows(ours.by_row(torch.stack(losses).mean(0)))
