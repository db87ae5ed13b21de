"""What a run prints."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import datasets
import transformers
from rich.console import Console
from rich.table import Table

from distilingua.data.rows import Rows

console = Console()


def show_data(rows: Rows) -> None:
    """Rows per language: what was read, what is left to learn from and to judge on, and why the rest was dropped."""
    table = Table(title="Rows", title_justify="left")
    for column in ("language", "read", "train", "labelled", "soft labels", "dev", "test"):
        table.add_column(column, justify="left" if column == "language" else "right")
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
    for lang in rows.test:
        dropped = dict(rows.cleaning.dropped.get(lang, {}))
        if lang in report.without_partner:
            dropped["no aligned partner"] = report.without_partner[lang]
        if dropped:
            console.print(f"Dropped from {lang}: " + ", ".join(f"{rule} {n}" for rule, n in dropped.items()))


def results_table(metrics: dict[str, Any]) -> Table:
    """Per language and model: scores in percent; for the student retention; per model size and speed."""
    names = {"teacher": "teacher", "direct": "direct transfer", "student": "distilled"}
    title = f"{metrics['task']}, {metrics['pair']}, {metrics['protocol']}, seed {metrics['seed']}"
    table = Table(title=title, title_justify="left")
    for column in ("lang", "model"):
        table.add_column(column, no_wrap=True)
    for column in ("acc", "prec", "rec", "F1", "kept", "weights", "MB", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    models = metrics["models"]
    for lang in models["student"]["languages"]:
        for name, model in models.items():
            scores = model["languages"][lang]
            kept = metrics["retention"].get("languages", {}).get(lang) if name == "student" else None
            table.add_row(
                lang,
                names[name],
                *(f"{100 * scores[metric]:.1f}" for metric in ("accuracy", "precision", "recall", "f1")),
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
