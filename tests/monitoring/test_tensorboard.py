"""The figure and the table of a finished run."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tensorboard.plugin_util import markdown_to_safe_html

from distilingua.monitoring.tensorboard import confusion_figure, disagreement_table
from distilingua.training.evaluate import Evaluation


def evaluation(predicted: list[str]) -> Evaluation:
    texts = [f"sentence {n} | with a bar" for n in range(len(predicted))]
    return Evaluation({}, texts, ["on"] * len(predicted), predicted)


def test_disagreements_are_drawn_evenly_and_kept_in_one_cell() -> None:
    table = disagreement_table(evaluation(["on"] * 100), evaluation(["off", "on"] * 50), rows=10)
    lines = table.splitlines()[2:]
    assert [int(line.split()[2]) for line in lines] == list(range(0, 100, 10))
    assert lines[0] == "| sentence 0 &#124; with a bar | on | off | on |"
    assert len(disagreement_table(evaluation(["on"] * 3), evaluation(["on"] * 3)).splitlines()) == 2  # none


def test_the_confusion_figure_counts_and_shows_shares() -> None:
    truth, predicted = ["a", "a", "a", "b"], ["a", "a", "c", "b"]
    (axes,) = confusion_figure(["a", "b", "c", "unused"], truth, predicted, "de").axes
    shares = np.asarray(axes.images[0].get_array())
    assert np.allclose(shares, [[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0, 0]])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "2", (2, 0): "1", (1, 1): "1"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]


def test_letters_come_from_another_font_where_one_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """STIXGeneral, which matplotlib brings, stands for a font that has them."""
    monkeypatch.setattr("distilingua.monitoring.tensorboard.WIDE", ("No Such Font", "STIXGeneral"))
    (axes,) = confusion_figure(["灯", "b"], ["灯", "b"], ["b", "b"], "zh-CN").axes
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        assert label.get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]


def test_of_many_classes_the_most_confused_are_drawn_and_the_rest_summed() -> None:
    labels = [f"class {n:02}" for n in range(42)]
    truth = labels * 3
    predicted = [*labels, *labels, *labels[:6], *(f"class {(n + 1) % 6 + 6:02}" for n in range(6)), *labels[12:]]
    (axes,) = confusion_figure(labels, truth, predicted, "de").axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert set(labels[6:12]) < set(names)
    assert names[-1].endswith(" others")
    assert len(names) <= 15
    assert sum(int(text.get_text()) for text in axes.texts) == len(truth)
    assert int(names[-1].split()[0]) + len(names) - 1 == 42


HOSTILE = [
    *(r"$\foo$", "$x", "a_b_c", "**b**", "`x|y`", "a|b", "<b>x</b>", "<script>alert(1)</script>"),
    *("![x](http://y/z.png)", "[x](javascript:alert(1))", "&amp;", "# x", "\\|", "x\ny", "~~x~~", "<!-- x", "&#124;"),
    *("^x^", "{x}", "1. x", "- x"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_sign_by_sign(text: str) -> None:
    """By TensorBoard's own renderer: one row of four cells, in each of them what was written, and nothing else."""
    teacher, student = Evaluation({}, [text], [text], [text]), Evaluation({}, [text], [text], [f"{text} not"])
    shown = markdown_to_safe_html(disagreement_table(teacher, student))
    body = shown.partition("<tbody>")[2]
    assert set(re.findall(r"<(/?\w+)", body)) == {"tr", "td", "/tr", "/td", "/tbody", "/table"}
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", body, re.S)]
    plain = " ".join(text.split())
    assert cells == [plain, plain, f"{plain} not", plain]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_name_of_a_class_can_be_drawn(text: str) -> None:
    figure = confusion_figure([text, "b"], [text, "b"], ["b", "b"], text)
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_xticklabels()[0].get_text() == text
