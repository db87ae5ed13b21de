"""What a corpus holds, before anything is trained on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from datasets import Dataset
from omegaconf import DictConfig

from distilingua.console import console, plain_table, quieten
from distilingua.corpora.schema import each_row
from distilingua.data.rows import Rows
from distilingua.monitoring.tables import show_data
from distilingua.parts import assemble, read_rows


def describe(cfg: DictConfig) -> None:
    """Prints rows, labels, examples, and how far the corpus' own ambiguity caps any model."""
    quieten()
    parts = assemble(cfg)
    rows = read_rows(cfg, parts)
    show_data(rows)
    if not set(rows.labels) >= {label for label in rows.texts["label"][:] if label}:  # tags, answers, free text
        return
    caps = ambiguity_caps(parts.corpus.load(parts.pair.languages), parts.task.spelling)
    console.print("Best accuracy any model can reach, because the same words stand under several labels:")
    console.print("  " + ", ".join(f"{lang} {100 * cap:.2f} %" for lang, cap in caps.items()))
    console.print("Test rows of a label that no training text of their language has, once paired:")
    console.print("  " + ", ".join(f"{lang} {100 * share:.1f} %" for lang, share in untaught(rows).items()))
    languages = parts.pair.languages[:2]  # more do not fit beside each other
    shown = plain_table(f"{len(rows.labels)} labels; a training sentence of each", ("label",), ())
    for lang in languages:
        shown.add_column(lang)
    examples: dict[tuple[str, str], str] = {}
    for row in each_row(rows.texts, ["lang", "split", "label", "text"]):
        if row["split"] in ("train", "parallel"):
            examples.setdefault((row["label"], row["lang"]), row["text"])
    for label in rows.labels:
        shown.add_row(label, *(examples.get((label, lang), "none") for lang in languages))
    console.print(shown)


def untaught(rows: Rows) -> dict[str, float]:
    """Per language, the share of test rows whose label occurs in no training row of that language."""
    truth = dict(zip(rows.texts["id"][:], rows.texts["label"][:], strict=True))
    taught = {(lang, truth[row_id]) for lang, row_id in zip(rows.train["lang"][:], rows.train["id"][:], strict=True)}
    return {
        lang: sum((lang, label) not in taught for label in test["label"][:]) / len(test)
        for lang, test in rows.test.items()
    }


def ambiguity_caps(rows: Dataset, spelling: Callable[[str], str] = str) -> dict[str, float]:
    """Per language, the accuracy of always naming the commonest label of a text: no model of the text can do better."""
    labels: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in each_row(rows, ["lang", "text", "text_pair", "label"]):
        labels[row["lang"], f"{row['text']}\n{row['text_pair']}".casefold()][spelling(row["label"])] += 1
    best: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for (lang, _), counts in labels.items():
        best[lang] += max(counts.values())
        total[lang] += counts.total()
    return {lang: best[lang] / total[lang] for lang in total}
