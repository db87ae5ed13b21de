"""The figures and tables of a finished run, in TensorBoard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from distilingua.monitoring.tables import escaped, markdown
from distilingua.tasks.task import Evaluation

WIDE = (  # fonts with letters that matplotlib's own has not, by system; Arabic and Hebrew it has
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai"),
    *("PingFang SC", "Hiragino Sans", "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic", "Nirmala UI"),
)
MOST = 14  # classes that can be read in a picture of a screen's size


def confusion_figure(labels: Sequence[str], truth: Sequence[str], predicted: Sequence[str], title: str) -> Figure:
    """Rows: the true class; columns: the predicted one; colour: share of the true class. See `shown_classes`."""
    shown, place = shown_classes(labels, truth, predicted)
    counts = np.zeros((len(shown), len(shown)), dtype=int)
    np.add.at(counts, ([place[label] for label in truth], [place[label] for label in predicted]), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, 0.4 * len(shown) + 2.5)
    letters: dict[str, Any] = {"fontsize": 9, "parse_math": False, "fontfamily": fonts()}  # "$" is a sign like others
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)
    axes.set_xticks(range(len(shown)), shown, rotation=90, **letters)
    axes.set_yticks(range(len(shown)), shown, **letters)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
    return figure


def shown_classes(
    labels: Sequence[str], truth: Sequence[str], predicted: Sequence[str]
) -> tuple[list[str], dict[str, int]]:
    """Names in the picture, and the place of every class among them. Only classes that occur; where these are many, the
    ones that are most often taken for another or the other way round, and all the rest as one."""
    present = {*truth, *predicted}
    occurring = [label for label in labels if label in present]
    wrong = Counter(label for pair in zip(truth, predicted, strict=True) if pair[0] != pair[1] for label in pair)
    often = {label for label, _ in wrong.most_common(MOST)} if len(occurring) > MOST + 1 else present
    shown = [label for label in occurring if label in often]
    if len(shown) < len(occurring):
        shown.append(f"{len(occurring) - len(shown)} others")
    return shown, {label: shown.index(label) if label in often else len(shown) - 1 for label in occurring}


def fonts() -> list[str]:
    """The font of matplotlib, and for letters that it has not, such as Chinese ones, what is installed here."""
    here = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in WIDE if name in here)]


def disagreement_table(teacher: Evaluation, student: Evaluation, rows: int = 40) -> str:
    """Markdown: sentences on which teacher and student differ, with the truth; evenly drawn where there are many."""
    columns = {
        "text": student.texts,
        "teacher": teacher.predicted,
        "student": student.predicted,
        "truth": student.truth,
    }
    table = pd.DataFrame(columns)
    different = table[table["teacher"] != table["student"]]
    return markdown(different[:: -(-len(different) // rows) or 1].map(escaped))


def log_evaluations(
    logger: TensorBoardLogger,
    labels: Sequence[str],
    student: Mapping[str, Evaluation],
    teacher: Mapping[str, Evaluation] | None,
) -> None:
    """Per language: the student's confusion matrix where labels are classes, and where it and the teacher disagree."""
    for lang, evaluation in student.items():
        if {*evaluation.truth, *evaluation.predicted} <= set(labels):  # one class a row
            figure = confusion_figure(labels, evaluation.truth, evaluation.predicted, f"{lang}, test")
            logger.experiment.add_figure(f"confusion/{lang}", figure)
        if teacher is not None:
            logger.experiment.add_text(f"disagreements/{lang}", disagreement_table(teacher[lang], evaluation))
