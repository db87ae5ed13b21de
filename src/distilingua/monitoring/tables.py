"""The tables of a run: what its rows are, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from distilingua.console import console, plain_table
from distilingua.data.rows import Rows


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
    console.print_whole(table)
    for note in rows.cleaning.notes:
        console.print(note)
    for lang in rows.test:
        dropped = dict(rows.cleaning.dropped.get(lang, {}))
        if lang in report.without_partner:
            dropped["no aligned partner"] = report.without_partner[lang]
        dropped |= report.withheld.get(lang, {})
        if dropped:
            console.print(f"Dropped from {lang}: " + ", ".join(f"{rule} {n}" for rule, n in dropped.items()))


def results_table(metrics: dict[str, Any]) -> Table:
    """Per language and model: scores in percent; for the student retention; per model size and speed."""
    names = {"teacher": "teacher", "direct": "direct transfer", "single": "distilled alone", "student": "distilled"}
    models = dict(metrics["models"])
    if "teacher" not in models and models["direct"] == models["student"]:  # nobody was distilled: one model, not two
        names["student"] = names["direct"]
        del models["direct"]
    elif "teacher" not in models:
        names["student"] = "one for all tasks"
    title = f"{metrics['task']}, {metrics['pair']}, {metrics['protocol']}, seed {metrics['seed']}; ms on "
    return models_table(
        title + metrics["device"] + (" beside other jobs" if metrics.get("ms_beside_other_jobs") else ""),
        {names[name]: model for name, model in models.items()},
        metrics["shown"],
        {names["student"]: metrics["retention"].get("languages", {})},
    )


def models_table(
    title: str,
    models: Mapping[str, Any],
    shown: Mapping[str, str],
    retention: Mapping[str, Mapping[str, float]] | None = None,
) -> Table:
    """Per language and model: scores in percent; size and speed.

    Args:
        models: as `training.evaluate.figures` has them.
        shown: metric -> heading.
        retention: per model and language; None leaves the column out.
    """
    kept = ("kept",) if retention is not None else ()
    table = plain_table(title, ("lang", "model"), (*shown.values(), *kept, "weights", "MB", "ms"))
    for lang in next(iter(models.values()))["languages"]:
        for name, model in models.items():
            scores, share = model["languages"][lang], (retention or {}).get(name, {}).get(lang)
            table.add_row(
                lang,
                name,
                *(f"{100 * scores[metric]:.1f}" for metric in shown),
                *((f"{100 * share:.1f}" if share is not None else "") for _ in kept),
                f"{model['parameters'] / 1e6:.2f}M",
                f"{model['bytes'] / 1e6:.1f}",
                f"{model['latency_ms']:.1f}",
                end_section=name == list(models)[-1],
            )
    return table
