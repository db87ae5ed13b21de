"""Where teacher and student put sentences that mean the same."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from distilingua.columns import lists_of, texts_of
from distilingua.training.inference import AnyPredictor, Predictor, vectors_of
from distilingua.training.job import Job

MOST = 100  # sentences per language: what one can look at


Found = tuple[np.ndarray, list[list[str]]]
"""Vectors, (sentences, width), with language, label and text of each sentence."""


def sentence_vectors(job: Job, teacher: AnyPredictor, student: AnyPredictor) -> dict[str, Found]:
    """The student's vectors of dev sentences in every language, and the teacher's of what it reads in their place, by
    model; none for objectives that compare no vectors, whose models need not have any."""
    members = job.source.members
    if "vector" not in job.objective.needs or len(members) != 1 or not isinstance(student, Predictor):
        return {}
    pooling = next(iter(members.values())).pooling
    parts = [rows.select(range(min(MOST, len(rows)))) for rows in job.rows.dev.values()]
    read = [lists_of(rows, "teacher_texts") for rows in parts]
    texts = job.rows.numbered(
        np.unique(np.concatenate([each.values[each.offsets[:-1][each.lengths > 0]] for each in read]))
    )
    own = [_vectors(student, rows, pooling) for rows in parts]
    return {
        "teacher": _vectors(teacher, texts, pooling),
        "student": (np.concatenate([values for values, _ in own]), [told for _, each in own for told in each]),
    }


def _vectors(model: AnyPredictor, rows: Dataset, pooling: str) -> Found:
    columns = zip(texts_of(rows, "lang"), texts_of(rows, "label"), texts_of(rows, "text"), strict=True)
    sentences = [[" ".join(str(cell).split()) for cell in cells] for cells in columns]
    return vectors_of(model, model.encoder(rows, cache=None), "", pooling), sentences
