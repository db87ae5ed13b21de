"""The student's sentence vector drawn to the teacher's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from distilingua.distillation.losses.hidden import vector_distance
from distilingua.distillation.losses.layers import projection, sentence_vectors
from distilingua.distillation.losses.term import Temperature, Term
from distilingua.distillation.signals import ModelShape, Signals


class SentenceEmbedding(Term):
    """`mean over the width of (W · student's vector - teacher's vector)²`, over the rows that the teacher read.

    A vector is the mean of the last hidden states over a row's pieces, or for a teacher what its `1_Pooling` says; the
    teacher's is that of the text it read: the row itself, or its aligned source sentence. So a translation ends up
    where its source is.

    Args:
        weight: see `Term`.
        project: whether W, a learned linear projection, is there even when both models are equally wide.

    Reference:
        Reimers and Gurevych (2020), Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation,
        equation 1.

    Relations:
        Needs no labels and no common tokenizer: made for aligned pairs. `hidden` is the general form, with other layers
        and distances. `contrastive` teaches which texts belong together rather than where they lie, at the price of
        depending on the batch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"vector"})

    def __init__(self, weight: float = 1.0, project: bool = False) -> None:
        super().__init__(weight)
        self.project = project
        self.projection: nn.Module = nn.Identity()

    def connect(self, student: ModelShape, teacher: ModelShape) -> None:
        self.projection = projection(student, teacher, self.project)

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        student, teacher = sentence_vectors(signals, self.projection)
        return signals.mean_of_rows(vector_distance(student, teacher, "mse"))
