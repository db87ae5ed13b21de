"""Connectionist temporal classification: the hard loss where a label is shorter than what is heard."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.term import Temperature, Term
from distilingua.distillation.signals import BLANK, IGNORE_INDEX, Signals
from distilingua.errors import UserError


class CTC(Term):
    r"""`-log Σ_π Π_t softmax(student)_t[π_t]` over all paths π that spell the label, in nats per character.

    A path gives every frame a character or the blank; it spells what is left once repeated characters are merged and
    blanks are taken out. A row's loss is divided by the characters of its label, as torch's own mean does, so that it
    stays near the size of a loss per frame whatever the speed of speech; rows are then averaged as everywhere (see
    `Signals.mean`): those without a label add nothing, yet count. So does a label that its frames cannot hold: it has
    no path, and its loss would be infinite.

    Reference:
        Graves, Fernández, Gomez and Schmidhuber (2006), Connectionist Temporal Classification, equations 3 and 8.

    Relations:
        Cross-entropy needs to know which character belongs to which frame; this sums over all ways to tell. KL from a
        CTC teacher of the same frame rate does know: it hands over the teacher's own timing.
    """

    soft: ClassVar[bool] = False

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        """
        Raises:
            UserError: labels are one class per position, so there is nothing to align.
        """
        labels, row = signals.labels, signals.row
        if labels.ndim != 2 or row is None:
            raise UserError("objective: ctc is for task=speech. Other tasks want objective/terms=[ce,…].")
        characters = (labels != IGNORE_INDEX).sum(1)
        frames = row.bincount(minlength=signals.rows)
        time = torch.arange(len(row), device=row.device) - (frames.cumsum(0) - frames)[row]
        logits = signals.student.new_zeros(int(frames.max()), signals.rows, signals.student.shape[1])
        logits = logits.index_put((time, row), signals.student)
        losses = F.ctc_loss(
            logits.log_softmax(-1),
            labels.masked_fill(labels == IGNORE_INDEX, BLANK),
            frames,
            characters,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        return torch.where(characters > 0, losses / characters.clamp(min=1), 0.0).sum() / signals.rows
