"""A table that is printed, as cells, for everything that is no terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table


@dataclass
class Plain:
    """A title, headings, and rows of text; the first columns name a row, the others are numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]


def plain(table: Table) -> Plain:
    """Its cells."""
    cells = [[str(cell).strip() for cell in column.cells] for column in table.columns]
    header = [str(column.header) for column in table.columns]
    return Plain(str(table.title or ""), header, [list(row) for row in zip(*cells, strict=True)])


def tables_of(group: Group) -> list[Plain]:
    """Of what `compare` returns."""
    return [plain(table) for table in group.renderables if isinstance(table, Table)]


def as_csv(tables: Sequence[Plain]) -> str:
    """All in one, with the title in the first column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = list(dict.fromkeys(name for table in tables for name in table.header))
    writer.writerow(["setting", *header])
    for table in tables:
        for row in table.rows:
            cells = dict(zip(table.header, row, strict=True))
            writer.writerow([table.title, *(cells.get(name, "") for name in header)])
    return file.getvalue()


def piped(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown, whose cells are of one line each."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_markdown(tables: Sequence[Plain]) -> str:
    titled = [f"**{table.title}**\n\n" if table.title else "" for table in tables]
    return "\n\n".join(title + piped(t.header, t.rows) for title, t in zip(titled, tables, strict=True)) + "\n"


ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"}
ESCAPES |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def as_latex(tables: Sequence[Plain]) -> str:
    """Of booktabs, whose package the document needs."""
    parts = []
    for table in tables:
        body = [" & ".join("".join(ESCAPES.get(c, c) for c in cell) for cell in row) + r" \\" for row in table.rows]
        head = " & ".join("".join(ESCAPES.get(c, c) for c in name) for name in table.header) + r" \\"
        caption = "".join(ESCAPES.get(c, c) for c in table.title)
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    rf"\caption{{{caption}}}",
                    rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
                    *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


FORMS = {"csv": as_csv, "markdown": as_markdown, "latex": as_latex}
