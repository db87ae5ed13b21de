"""Tables of text, as data frames: for a terminal, and as CSV, Markdown and LaTeX. `attrs["title"]` stands above."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from distilingua.console import plain_table


def text_frame(title: str | None, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of text, from column -> cell of each row; what a row does not have is ""."""
    frame = pd.DataFrame(list(rows), dtype=object).map(lambda cell: "" if pd.isna(cell) else str(cell))
    frame.attrs["title"] = title or ""
    return frame


def for_terminal(frame: pd.DataFrame, words: int = 1, section: str = "") -> Table:
    """A table to print.

    Args:
        words: how many columns, the first ones, hold words; the others hold numbers.
        section: a line stands where this column changes.
    """
    table = plain_table(frame.attrs["title"] or None, list(frame.columns[:words]), list(frame.columns[words:]))
    ends = frame[section].ne(frame[section].shift(-1)) if section else [False] * len(frame)
    for cells, last in zip(frame.to_numpy(), ends, strict=True):
        table.add_row(*cells, end_section=bool(last))
    return table


def as_csv(frames: Sequence[pd.DataFrame]) -> str:
    """All in one, with the title in the first column."""
    titled = [frame.assign(setting=frame.attrs["title"]) for frame in frames]
    together = pd.concat(titled).set_index("setting")
    return str(together.to_csv(lineterminator="\n"))


MARKUP = re.compile(r"[\\`*_{}\[\]<>&#+|~$!^]")


def escaped(text: str) -> str:
    """Text in a cell of a Markdown table, which shows it sign by sign: neither markup nor HTML, and on one line."""
    return MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", " ".join(text.split()))


def piped(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown, whose cells are of one line each. (pandas' own does not escape what divides cells.)"""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_markdown(frames: Sequence[pd.DataFrame]) -> str:
    titles = [f"**{frame.attrs['title']}**\n\n" if frame.attrs["title"] else "" for frame in frames]
    tables = [piped(frame.columns, frame.to_numpy()) for frame in frames]
    return "\n\n".join(map("".join, zip(titles, tables, strict=True))) + "\n"


ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"}
LATEX = str.maketrans(ESCAPES | {sign: f"\\{sign}" for sign in "&%$#_{}"})


def as_latex(frames: Sequence[pd.DataFrame]) -> str:
    """Of booktabs, whose package the document needs."""
    tables = []
    for frame in frames:
        escaped = frame.map(lambda cell: cell.translate(LATEX)).rename(columns=lambda name: name.translate(LATEX))
        columns = "l" + "r" * (frame.shape[1] - 1)
        caption = frame.attrs["title"].translate(LATEX)
        tables.append(escaped.to_latex(index=False, caption=caption, column_format=columns, escape=False))
    return "\n".join(tables)


FORMS = {"csv": as_csv, "markdown": as_markdown, "latex": as_latex}
