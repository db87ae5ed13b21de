"""In-batch contrast: which of the texts that the teacher read is this row's?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distilingua.distillation.losses.layers import SentenceVectors, sentence_vectors
from distilingua.distillation.losses.term import Temperature
from distilingua.distillation.signals import Signals
from distilingua.errors import UserError


def info_nce(student: Tensor, teacher: Tensor, negatives: Tensor, tau: float) -> Tensor:
    """`-log (exp(cos(sᵢ, tᵢ)/τ) / Σⱼ exp(cos(sᵢ, tⱼ)/τ))`, in nats, for every row i; j runs over i and its negatives.

    Args:
        student: sentence vectors s, (rows, width).
        teacher: sentence vectors t, (rows, width).
        negatives: whether j is a negative of i, (rows, rows) bool.
        tau: τ > 0; the smaller, the more the hardest negatives count.

    Returns:
        (rows,), at least 0; 0 for a row without negatives.
    """
    with torch.autocast(student.device.type, enabled=False):  # in 16 bits, cos / τ is off by several hundredths
        scores = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).mT / tau
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(~(negatives | own), torch.finfo(scores.dtype).min)
    return -scores.log_softmax(-1).diagonal()


class Contrastive(SentenceVectors):
    """`info_nce` over the rows that the teacher read.

    A vector is the mean of the last hidden states over a row's pieces, the student's after a learned linear
    projection. Negatives are the texts that the teacher read for the other rows of the batch, except where it read the
    same text (`Signals.read`): two translations of one sentence are no contrast.

    Args:
        weight: see `Term`.
        tau: see `info_nce`. Not the objective's temperature, which softens classes.
        project: whether there is a projection even when both models are equally wide.

    Reference:
        van den Oord et al. (2018), Representation Learning with Contrastive Predictive Coding, section 2.3; between a
        student and a teacher, Tian et al. (2020), Contrastive Representation Distillation. τ is that of Gao et al.
        (2021), SimCSE.

    Relations:
        `embedding` draws each row to its place, this one also pushes it from the others, which spreads the vectors
        out: for retrieval and for many classes. It depends on the batch: more rows are more negatives, so accumulated
        batches, or processes, are not one large batch here, and rows of one class push each other away too.
    """

    def __init__(self, weight: float = 1.0, tau: float = 0.05, project: bool = False) -> None:
        super().__init__(weight, project)
        if not tau > 0:
            raise UserError(f"objective.terms.contrastive.tau={tau}: it is above 0. Try 0.05.")
        self.tau = tau

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        assert signals.read is not None
        student, teacher = sentence_vectors(signals, self.projection)
        negatives = (signals.read[:, None] != signals.read) & signals.row_mask
        return signals.mean_of_rows(info_nce(student, teacher, negatives, self.tau))
