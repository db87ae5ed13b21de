"""Distributions over what is written in several steps, where two models write the same text in different pieces."""

from __future__ import annotations

import torch
from torch import Tensor


def merged(logits: Tensor, written: Tensor, span: Tensor) -> Tensor:
    """`log P(y | before) + Σⱼ log P(wⱼ | before, w₁ … wⱼ₋₁)` for every class y of a span's first position, with j over
    its other positions; and as one class more `log(1 - Πⱼ P(wⱼ | …))`, so that the whole is a distribution again.

    For the piece that was written it is the probability of the span's text, by the chain rule. For another piece y it
    takes what follows to be as likely as after the written one, which nobody knows.

    Args:
        logits: (positions, classes).
        written: classes w that the text is made of, (positions,).
        span: number of the position where the span of a position begins, (positions,); -1 outside of any.

    Returns:
        Log-probabilities, (positions, classes + 1); of use only where a span begins.
    """
    each = logits.log_softmax(-1)
    here = torch.arange(len(span), device=span.device)
    later = (span >= 0) & (span != here)
    choice = each.gather(-1, written.clamp(min=0)[:, None]).squeeze(-1)
    follows = torch.zeros_like(choice).index_add(0, span[later], choice[later])
    long = torch.zeros_like(later).index_fill(0, span[later], True)
    # a span of one piece has nothing beyond it; where what follows is certain, 1 - 1 has no logarithm to learn from
    certain = follows.clamp(max=-torch.finfo(follows.dtype).eps)
    beyond = torch.where(long, (-certain.expm1()).log(), -torch.inf)
    return torch.cat([each + follows[:, None], beyond[:, None]], -1)
