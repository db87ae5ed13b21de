"""The tables of a run: what its rows are, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from distilingua.console import console, plain_table

if TYPE_CHECKING:  # slow to import, and what makes no rows needs none
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


def trust_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """How far to trust models, and one more than another; those tables of the two that have anything to say.

    Args:
        metrics: with `models`, whose `reliability` is that of `training.reliability`, and `differences`.
    """
    tables = []
    known = {name: model.get("reliability", {}) for name, model in metrics["models"].items()}
    heads, rows = trust_rows(known)
    if rows:
        tables.append(plain_table("How far to trust them, in percent", heads[:3], heads[3:]))
        for n, row in enumerate(rows, 1):
            tables[0].add_row(*row, end_section=n == len(rows) or rows[n][0] != row[0])
    return [*tables, *([differences_table(gaps)] if (gaps := metrics.get("differences")) else [])]


def trust_rows(known: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and a row per language and model, in percent: the worst class and its recall, calibration error (`ECE`)
    before and after one temperature, the share of rows that could be left to it alone at 95 % precision, and its score
    on disturbed copies of the test set.

    Args:
        known: model -> language -> see `training.reliability.reliability`.
    """
    heads = ["lang", "model", "worst class", "recall", "ECE", "scaled", "alone", *DISTURBED.values()]
    keys = ("calibration_error", "calibration_error_scaled", "coverage_95", *DISTURBED)
    rows = []
    for lang in dict.fromkeys(lang for each in known.values() for lang in each):
        for name, each in known.items():
            told = each.get(lang, {})
            worst = told.get("worst_class") or {}
            numbers = [worst.get("recall"), *(told.get(key) for key in keys)]
            cells = ("" if value is None else f"{100 * value:.1f}" for value in numbers)
            rows.append([lang, name, str(worst.get("name", "")), *cells])
    return heads, rows


def differences_table(differences: Mapping[str, Mapping[str, Any]]) -> Table:
    """What one model is better than another on the same rows, in points: per language, with its 95 % interval, p by
    Holm's correction over languages, and the smallest difference that this test set could show.

    Args:
        differences: see `training.reliability.differences`.
    """
    table = plain_table("Differences, in points", ("lang", "models"), ("points", "95 %", "p", "shows from"))
    for pair, each in differences.items():
        for lang, gap in each.items():
            table.add_row(
                lang,
                pair,
                f"{100 * gap['value']:+.1f}",
                f"{100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}",
                f"{gap['p_holm']:.3f}",
                "" if gap["detectable"] is None else f"{100 * gap['detectable']:.1f}",
                end_section=lang == list(each)[-1],
            )
    return table
