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
        title + metrics["device"],
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
    first, *rest = shown.values()
    sure = ("95 %",) if any(model.get("reliability") for model in models.values()) else ()
    table = plain_table(title, ("lang", "model"), (first, *sure, *rest, *kept, "weights", "MB", "ms"))
    for lang in next(iter(models.values()))["languages"]:
        for name, model in models.items():
            scores, share = model["languages"][lang], (retention or {}).get(name, {}).get(lang)
            cells = [f"{100 * scores[metric]:.1f}" for metric in shown]
            table.add_row(
                lang,
                name,
                *cells[:1],
                *(spread(model, lang) for _ in sure),
                *cells[1:],
                *((f"{100 * share:.1f}" if share is not None else "") for _ in kept),
                f"{model['parameters'] / 1e6:.2f}M",
                f"{model['bytes'] / 1e6:.1f}",
                f"{model['latency_ms']:.1f}",
                end_section=name == list(models)[-1],
            )
    return table


def spread(model: Mapping[str, Any], lang: str) -> str:
    """The 95 % interval of a model's main score, in percent; "" where there is none."""
    low, high = model.get("reliability", {}).get(lang, {}).get("interval", (None, None))
    return "" if low is None else f"{100 * low:.1f}–{100 * high:.1f}"


DISTURBED = {"typos": "typos", "upper_case": "UPPER", "no_punctuation": "no ,.!"}


def trust_table(models: Mapping[str, Any]) -> Table | None:
    """Per language and model, in percent: the worst class and its recall, calibration error before and after one
    temperature, the share of rows that could be left to it at 95 % precision, and scores on disturbed copies of the
    test set; None where nothing of it is known.

    Args:
        models: name -> with `reliability`, see `training.reliability`.
    """
    known = {name: model["reliability"] for name, model in models.items() if any(model.get("reliability", {}).values())}
    if not known:
        return None
    heads = ("recall", "calib. error", "scaled", "alone at 95 %", *DISTURBED.values())
    table = plain_table("How far to trust them, in percent", ("lang", "model", "worst class"), heads)
    for lang in next(iter(known.values())):
        for name, each in known.items():
            told = each[lang]
            worst = told.get("worst_class") or {}
            numbers = [
                told.get(key) for key in ("calibration_error", "calibration_error_scaled", "coverage_95", *DISTURBED)
            ]
            table.add_row(
                lang,
                name,
                str(worst.get("name", "")),
                *("" if value is None else f"{100 * value:.1f}" for value in (worst.get("recall"), *numbers)),
                end_section=name == list(known)[-1],
            )
    return table


def differences_told(differences: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Paired differences in sentences, a line each."""
    return [
        f"{lang}: {pair.replace('-', ' − ', 1)} is {100 * gap['value']:+.1f} points ({100 * gap['low']:+.1f} to "
        f"{100 * gap['high']:+.1f}, p {gap['p_holm']:.3f} by Holm); this test set shows differences from "
        f"{100 * gap['detectable']:.1f} on"
        for pair, each in differences.items()
        for lang, gap in each.items()
    ]
