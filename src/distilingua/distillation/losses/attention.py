"""Where the layers look: attention maps."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from distilingua.distillation.losses.layers import (
    SAME_PIECES,
    MappedLayers,
    both_layers,
    masked_mean,
    precise,
    same_pieces,
)
from distilingua.distillation.losses.term import Temperature
from distilingua.distillation.signals import Signals


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """`Σ over keys of (mean over heads of student - mean over heads of teacher)²`, for every query.

    The sum, where TinyBERT has a mean: attention is a distribution over the keys, so a mean would shrink with the
    length of the sentence.

    Args:
        student: probabilities, (rows, heads, queries, keys).
        teacher: probabilities, (rows, other heads, queries, keys).

    Returns:
        (rows, queries), between 0 and 2; 0 with a vanishing gradient where both look at the same pieces.
    """
    return (student.mean(1) - teacher.mean(1)).square().sum(-1)


class AttentionTransfer(MappedLayers):
    """`mean over mapped layers and pieces of attention_distance`, over the rows that the teacher read.

    The numbers of heads may differ: heads are averaged first, which also frees the student from their order. The
    student's maps come after its attention dropout, as transformers hands them over.

    Args:
        weight: see `Term`.
        layers: see `LayerMap`; 0, the embeddings, has no attention.

    Reference:
        Jiao et al. (2020), TinyBERT, section 3.1, on probabilities instead of scores; the mean over heads takes the
        place of the mean over channels of Zagoruyko and Komodakis (2017), Paying More Attention to Attention, section
        3.1.

    Relations:
        Both models must have read the same pieces. `minilm` teaches the same and what goes with the values, head by
        head, in one layer; it is the stronger of the two, and this the cheaper to understand: its maps can be looked
        at. Both slow the teacher down: fused kernels keep no attention maps.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"attentions"})
    option: ClassVar[str] = "objective.terms.attention.layers"
    by_piece = f"{SAME_PIECES}, or another term."

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        ours, theirs = both_layers(signals)
        mask = same_pieces(signals, "attention", self.by_piece)
        length = mask.shape[1]
        losses = []
        for s, t in self.pairs:
            student, teacher = precise(ours.attentions[s - 1]), precise(theirs.attentions[t - 1])
            distance = attention_distance(student[..., :length, :length], teacher[..., :length, :length])
            losses.append(ours.by_row(masked_mean(distance, mask)))
        return signals.mean_of_rows(torch.stack(losses).mean(0))
