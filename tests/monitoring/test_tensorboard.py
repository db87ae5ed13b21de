"""The figure and the table of a finished run."""

from __future__ import annotations

import numpy as np

from distilingua.monitoring.tensorboard import confusion_figure, disagreement_table
from distilingua.training.evaluate import Evaluation


def evaluation(predicted: list[str]) -> Evaluation:
    texts = [f"sentence {n} | with a bar" for n in range(len(predicted))]
    return Evaluation({}, texts, ["on"] * len(predicted), predicted)


def test_disagreements_are_drawn_evenly_and_kept_in_one_cell() -> None:
    table = disagreement_table(evaluation(["on"] * 100), evaluation(["off", "on"] * 50), rows=10)
    lines = table.splitlines()[2:]
    assert len(lines) == 10
    assert [int(line.split()[2]) for line in lines] == list(range(0, 100, 10))
    assert lines[0] == r"| sentence 0 \| with a bar | on | off | on |"


def test_no_disagreement_is_an_empty_table() -> None:
    assert len(disagreement_table(evaluation(["on"] * 3), evaluation(["on"] * 3)).splitlines()) == 2


def test_the_confusion_figure_counts_and_shows_shares() -> None:
    truth, predicted = ["a", "a", "a", "b"], ["a", "a", "c", "b"]
    (axes,) = confusion_figure(["a", "b", "c", "unused"], truth, predicted, "de").axes
    shares = np.asarray(axes.images[0].get_array())
    assert np.allclose(shares, [[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0, 0]])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "2", (2, 0): "1", (1, 1): "1"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
