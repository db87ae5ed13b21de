"""What is printed while something takes its time."""

from __future__ import annotations

import io
import re

import pytest

from distilingua.console import Printer


@pytest.mark.parametrize(("title", "every", "lines"), [("Soft labels", 0, 3), ("Soft labels", 3600, 0), ("", 0, 0)])
def test_a_line_now_and_then_where_there_is_no_terminal(title: str, every: float, lines: int) -> None:
    printer = Printer()
    printer.file = io.StringIO()
    assert list(printer.steps(range(0, 12, 4), title, every)) == [0, 4, 8]
    told = printer.file.getvalue().splitlines()
    assert len(told) == lines
    assert all(re.fullmatch(r"Soft labels: [123] of 3 batches, 0:00:00 left", line) for line in told)
