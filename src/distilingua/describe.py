"""What a corpus holds, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset

from distilingua.columns import texts_of
from distilingua.console import console, quieten
from distilingua.data.rows import Rows
from distilingua.errors import UserError
from distilingua.monitoring.tables import for_terminal, show_data, text_frame
from distilingua.parts import Parts, read_rows
from distilingua.tasks.pieces import cut_counts, tell_cut
from distilingua.training.job import student_encoder


def describe(parts: Parts) -> None:
    """Prints rows, labels, examples, and how far the corpus' own ambiguity caps any model."""
    quieten()
    rows = read_rows(parts)
    show_data(rows)
    try:
        if not parts.task.hears():
            with TemporaryDirectory() as nowhere:
                encoder = student_encoder(parts, rows.train, Path(nowhere))
            tell_cut("The student", parts.task, cut_counts(encoder(rows.texts, cache=None)))
    except UserError as error:  # about a student, which whoever looks at a corpus may not have yet
        console.print(f"The student cannot read these texts: {error}", markup=False)
    texts = rows.texts.select_columns(["lang", "split", "label", "text"]).to_pandas()
    if parts.task.distributed is None:  # several classes a text
        counts = Counter(name for label in texts["label"] if label for name in parts.task.classes([label]))
        of_each = [{"label": name, "rows": counts[name]} for name in rows.labels]
        console.print(for_terminal(text_frame(f"{len(rows.labels)} labels", of_each)))
        return
    if not set(rows.labels) >= {label for label in texts["label"].unique() if label}:  # tags, answers, free text
        return
    caps = ambiguity_caps(parts.corpus.load(parts.pair.languages), parts.task.spelling)
    console.print("Best accuracy any model can reach, because the same words stand under several labels:")
    console.print("  " + ", ".join(f"{lang} {100 * cap:.2f} %" for lang, cap in caps.items()))
    console.print("Test rows of a label that no training text of their language has, once paired:")
    console.print("  " + ", ".join(f"{lang} {100 * share:.1f} %" for lang, share in unseen_labels(rows).items()))
    trained = texts[texts["split"].isin(["train", "parallel"])].drop_duplicates(["label", "lang"])
    examples = {(row.label, row.lang): row.text for row in trained.itertuples()}
    languages = parts.pair.languages[:2]  # more do not fit beside each other
    shown = [
        {"label": label} | {lang: examples.get((label, lang), "none") for lang in languages} for label in rows.labels
    ]
    title = f"{len(rows.labels)} labels; a training sentence of each"
    table = for_terminal(text_frame(title, shown), words=1 + len(languages))
    for column in table.columns[1:]:
        column.no_wrap = False
    console.print(table)


def unseen_labels(rows: Rows) -> dict[str, float]:
    """Per language, the share of test rows whose label occurs in no training row of that language."""
    truth = dict(zip(texts_of(rows.texts, "id"), texts_of(rows.texts, "label"), strict=True))
    taught = {
        (lang, truth[row_id])
        for lang, row_id in zip(texts_of(rows.train, "lang"), texts_of(rows.train, "id"), strict=True)
    }
    return {
        lang: sum((lang, label) not in taught for label in texts_of(test, "label")) / len(test)
        for lang, test in rows.test.items()
    }


def ambiguity_caps(rows: Dataset, spelling: Callable[[str], str] = str) -> dict[str, float]:
    """Per language, the accuracy of always naming the commonest label of a text: no model of the text can do better."""
    texts = rows.select_columns(["lang", "text", "text_pair", "label"]).to_pandas()
    words = (texts["text"] + "\n" + texts["text_pair"]).str.casefold()
    counts = texts.groupby(["lang", words, texts["label"].map(spelling)], sort=False).size()
    best = counts.groupby(level=[0, 1], sort=False).max().groupby(level=0, sort=False).sum()
    return (best / counts.groupby(level=0, sort=False).sum()).to_dict()
