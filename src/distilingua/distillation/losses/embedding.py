"""The student's sentence vector drawn to the teacher's."""

from __future__ import annotations

from torch import Tensor

from distilingua.distillation.losses.hidden import vector_distance
from distilingua.distillation.losses.layers import SentenceVectors, sentence_vectors
from distilingua.distillation.losses.term import Temperature
from distilingua.distillation.signals import Signals


class SentenceEmbedding(SentenceVectors):
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

    def forward(self, signals: Signals, temperature: Temperature) -> Tensor:
        student, teacher = sentence_vectors(signals, self.projection)
        return signals.mean_of_rows(vector_distance(student, teacher, "mse"))
