"""What a run prints."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import transformers
from rich import box
from rich.console import Console
from rich.table import Table

from distilingua.data.rows import Rows

console = Console(markup=False, highlight=False)  # text of users may hold anything, "[/b]" included


def show_data(rows: Rows) -> None:
    """Rows per language: what was read, what is left to learn from and to judge on, and why the rest was dropped."""
    table = plain_table(None, ("language",), ("read", "train", "labelled", "soft labels", "dev", "test"))
    report = rows.pairing
    for lang in rows.test:
        counts = (
            rows.cleaning.seen[lang],
            report.rows.get(lang, 0),
            report.labelled.get(lang, 0),
            report.with_teacher.get(lang, 0),
            len(rows.dev[lang]),
            len(rows.test[lang]),
        )
        table.add_row(lang, *map(str, counts))
    console.print(table)
    for note in rows.cleaning.notes:
        console.print(note)
    for lang in rows.test:
        dropped = dict(rows.cleaning.dropped.get(lang, {}))
        if lang in report.without_partner:
            dropped["no aligned partner"] = report.without_partner[lang]
        dropped |= report.withheld.get(lang, {})
        if dropped:
            console.print(f"Dropped from {lang}: " + ", ".join(f"{rule} {n}" for rule, n in dropped.items()))


def plain_table(title: str | None, words: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table that stays readable in a terminal of 80 columns: columns of words, then columns of numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in words:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def results_table(metrics: dict[str, Any]) -> Table:
    """Per language and model: scores in percent; for the student retention; per model size and speed."""
    names = {"teacher": "teacher", "direct": "direct transfer", "single": "distilled alone", "student": "distilled"}
    title = f"{metrics['task']}, {metrics['pair']}, {metrics['protocol']}, seed {metrics['seed']}"
    table = plain_table(title, ("lang", "model"), (*metrics["shown"].values(), "kept", "weights", "MB", "ms"))
    models = metrics["models"]
    for lang in models["student"]["languages"]:
        for name, model in models.items():
            scores = model["languages"][lang]
            kept = metrics["retention"].get("languages", {}).get(lang) if name == "student" else None
            table.add_row(
                lang,
                names[name],
                *(f"{100 * scores[metric]:.1f}" for metric in metrics["shown"]),
                f"{100 * kept:.1f}" if kept is not None else "",
                f"{model['parameters'] / 1e6:.2f}M",
                f"{model['bytes'] / 1e6:.1f}",
                f"{model['latency_ms']:.1f}",
                end_section=name == "student",
            )
    return table


def quieten() -> None:
    """Leaves out what libraries say about every ordinary run, and bars that only flash by."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # a new head is reported as "missing", and it should be new
    if not console.is_terminal:
        datasets.disable_progress_bars()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # batches are built in the main process on purpose: for short texts that is faster than workers
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # it is, by way of the data module's state
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # of a small corpus, the curves are short; every epoch has its dev scores all the same
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
