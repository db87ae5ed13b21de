"""The tables of a run: what its rows are, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from distilingua.console import console
from distilingua.monitoring.frames import for_terminal, text_frame

if TYPE_CHECKING:  # slow to import, and an export that is refused at once makes no rows
    from distilingua.data.rows import Rows


def show_data(rows: Rows) -> None:
    """Rows per language: what was read, what is left to learn from and to judge on, and why the rest was dropped."""
    report = rows.pairing
    counts = [
        {
            "language": lang,
            "read": rows.cleaning.seen[lang],
            "train": report.rows.get(lang, 0),
            "labelled": report.labelled.get(lang, 0),
            "soft labels": report.with_teacher.get(lang, 0),
            "dev": len(rows.dev[lang]),
            "test": len(rows.test[lang]),
        }
        for lang in rows.test
    ]
    console.print_whole(for_terminal(text_frame(None, counts)))
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
        retention: per model and language.
    """
    rows = []
    for lang in next(iter(models.values()))["languages"]:
        for name, model in models.items():
            main, *others = ((heading, percent(model["languages"][lang][metric])) for metric, heading in shown.items())
            row = {"lang": lang, "model": name, **dict([main, ("95 %", spread(model, lang)), *others])}
            row["kept"] = percent((retention or {}).get(name, {}).get(lang))
            size = {"weights": f"{model['parameters'] / 1e6:.2f}M", "MB": f"{model['bytes'] / 1e6:.1f}"}
            rows.append({**row, **size, "ms": f"{model['latency_ms']:.1f}"})
    table = text_frame(title, rows)
    return for_terminal(table.loc[:, table.ne("").any()], words=2, section="lang")


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def spread(model: Mapping[str, Any], lang: str) -> str:
    """The 95 % interval of a model's main score, in percent; "" where there is none."""
    low, high = model.get("reliability", {}).get(lang, {}).get("interval", (None, None))
    return "" if low is None else f"{percent(low)}–{percent(high)}"


DISTURBED = {"typos": "typos", "upper_case": "UPPER", "no_punctuation": "no ,.!"}


def trust_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """How far to trust models, and one more than another; those tables of the two that have anything to say.

    Args:
        metrics: with `models`, whose `reliability` is that of `training.reliability`, and `differences`.
    """
    heads, rows = trust_rows({name: model.get("reliability", {}) for name, model in metrics["models"].items()})
    table = text_frame("How far to trust them, in percent", (dict(zip(heads, row, strict=True)) for row in rows))
    known = [for_terminal(table, words=3, section="lang")] if rows else []
    return [*known, *([differences_table(gaps)] if (gaps := metrics.get("differences")) else [])]


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
            found = each.get(lang, {})
            worst = found.get("worst_class") or {}
            numbers = [worst.get("recall"), *(found.get(key) for key in keys)]
            rows.append([lang, name, str(worst.get("name", "")), *map(percent, numbers)])
    return heads, rows


def differences_table(differences: Mapping[str, Mapping[str, Any]]) -> Table:
    """What one model is better than another on the same rows, in points: per language, with its 95 % interval, p by
    Holm's correction over languages, and the smallest difference that this test set could show.

    Args:
        differences: see `training.reliability.differences`.
    """
    rows = [
        {
            "lang": lang,
            "models": pair,
            "points": f"{100 * gap['value']:+.1f}",
            "95 %": f"{100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}",
            "p": f"{gap['p_holm']:.3f}",
            "shows from": percent(gap["detectable"]),
        }
        for pair, each in differences.items()
        for lang, gap in each.items()
    ]
    return for_terminal(text_frame("Differences, in points", rows), words=2, section="models")
