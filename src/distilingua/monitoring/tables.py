"""Tables of text, as data frames whose `attrs["title"]` stands above: for a terminal, as CSV, Markdown and LaTeX; and
those of a run: what its rows are, and what came out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table

from distilingua.console import console, plain_table

if TYPE_CHECKING:  # slow to import, and an export that is refused at once makes no rows
    from distilingua.data.rows import Rows


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


def markdown(frame: pd.DataFrame) -> str:
    """Cells are of one line each. (pandas' own does not escape what divides them.)"""
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_markdown(frames: Sequence[pd.DataFrame]) -> str:
    titles = (f"**{frame.attrs['title']}**\n\n" if frame.attrs["title"] else "" for frame in frames)
    return "\n\n".join(title + markdown(frame) for title, frame in zip(titles, frames, strict=True)) + "\n"


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


# --- of a run ---------------------------------------------------------------------------------------------------------


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
        {names[name]: model for name, model in models.items()} | metrics.get("yardsticks", {}),
        metrics["shown"],
        {names["student"]: metrics["retention"].get("languages", {})},
    )


def models_table(*described: Any) -> Table:
    """See `models_frame`."""
    return for_terminal(models_frame(*described), words=2, section="lang")


def models_frame(
    title: str,
    models: Mapping[str, Any],
    shown: Mapping[str, str],
    retention: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Per language and model: scores in percent, and of what was exported how much its answers changed; size and speed,
    where they are known.

    Args:
        models: as `training.evaluate.figures` has them.
        shown: metric -> heading.
        retention: per model and language.
    """
    rows = []
    for lang in dict.fromkeys(lang for model in models.values() for lang in model["languages"]):
        for name, model in sorted(models.items(), key=lambda one: one[0][:7] != "teacher"):  # whatever it reads
            if (scores := model["languages"].get(lang)) is None:
                continue
            main, *others = ((heading, percent(scores[metric])) for metric, heading in shown.items())
            scored, of = model.get("rows", {}).get(lang, (0, 0))
            name += f" ({scored:,} of {of:,} rows)" if scored < of else ""
            row = {"lang": lang, "model": name, **dict([main, ("95 %", spread(model, lang)), *others])}
            row["kept"] = percent((retention or {}).get(name, {}).get(lang))
            if "changed" in model:
                parity = "" if model["parity"] is None else f"{model['parity']:.1g}"
                row |= {"Δ logit": parity, "changed %": f"{100 * model['changed']:.2f}"}
            if "bytes" in model:
                row |= {"weights": f"{model['parameters'] / 1e6:.2f}M", "MB": f"{model['bytes'] / 1e6:.1f}"}
                row["ms"] = f"{model['latency_ms']:.1f}"
            rows.append(row)
    table = text_frame(title, rows)
    return table.loc[:, table.ne("").any()]


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
    table = trust_frame({name: model.get("reliability", {}) for name, model in metrics["models"].items()})
    known = [] if table.empty else [for_terminal(table, words=3, section="lang")]
    return [*known, *([differences_table(gaps)] if (gaps := metrics.get("differences")) else [])]


def trust_frame(known: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row per language and model, in percent: the worst class and its recall, calibration error (`ECE`), the share of
    rows that could be left to it alone at 95 % precision, and its score on disturbed copies of the test set.

    Args:
        known: model -> language -> see `training.reliability.reliability`.
    """
    shares = {"ECE": "calibration_error", "alone": "coverage_95"}
    shares |= {heading: kind for kind, heading in DISTURBED.items()}
    rows = []
    for lang in dict.fromkeys(lang for each in known.values() for lang in each):
        for name, each in known.items():
            found = each.get(lang, {})
            worst = found.get("worst_class") or {}
            row = {
                "lang": lang,
                "model": name,
                "worst class": worst.get("name"),
                "recall": percent(worst.get("recall")),
            }
            rows.append(row | {heading: percent(found.get(key)) for heading, key in shares.items()})
    return text_frame("How far to trust them, in percent", rows)


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
