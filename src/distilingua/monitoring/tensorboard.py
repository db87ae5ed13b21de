"""The figures and tables of a finished run, in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from distilingua.tasks.task import Evaluation


def confusion_figure(labels: Sequence[str], truth: Sequence[str], predicted: Sequence[str], title: str) -> Figure:
    """Rows: the true class; columns: the predicted one; colour: share of the true class. Only classes that occur."""
    shown = [label for label in labels if label in set(truth) | set(predicted)]
    index = {label: i for i, label in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown)), dtype=int)
    for t, p in zip(truth, predicted, strict=True):
        counts[index[t], index[p]] += 1
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, 0.28 * len(shown) + 2.5)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(shown)), shown, rotation=90, fontsize=7)
    axes.set_yticks(range(len(shown)), shown, fontsize=7)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=6, color=colour)
    return figure


def disagreement_table(teacher: Evaluation, student: Evaluation, rows: int = 40) -> str:
    """Markdown: sentences on which teacher and student differ, with the truth; evenly drawn where there are many."""
    columns = zip(student.texts, teacher.predicted, student.predicted, student.truth, strict=True)
    different = [(text, t, s, truth) for text, t, s, truth in columns if t != s]
    shown = different[:: -(-len(different) // rows) or 1]
    lines = ["| text | teacher | student | truth |", "| --- | --- | --- | --- |"]
    lines += ["| {} | {} | {} | {} |".format(text.replace("|", "\\|"), *names) for text, *names in shown]
    return "\n".join(lines)


def log_evaluations(
    logger: TensorBoardLogger,
    labels: Sequence[str],
    student: dict[str, Evaluation],
    teacher: dict[str, Evaluation] | None,
) -> None:
    """Per language: the student's confusion matrix where labels are classes, and where it and the teacher disagree."""
    for lang, evaluation in student.items():
        if {*evaluation.truth, *evaluation.predicted} <= set(labels):  # one class a row
            figure = confusion_figure(labels, evaluation.truth, evaluation.predicted, f"{lang}, test")
            logger.experiment.add_figure(f"confusion/{lang}", figure)
        if teacher is not None:
            logger.experiment.add_text(f"disagreements/{lang}", disagreement_table(teacher[lang], evaluation))
