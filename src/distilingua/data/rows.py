"""From a corpus to the rows a run works with: load, clean, pair. Each step is one call on columns."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from distilingua.artifacts import rows_fingerprint
from distilingua.columns import (
    by_value,
    codes,
    codes_of,
    column,
    filled,
    numbers_of,
    select,
    strings,
    texts_of,
    where,
    with_columns,
)
from distilingua.corpora.schema import Corpus, each_row, notes_of, option_of
from distilingua.corpora.words import parsed
from distilingua.data.cleaning import Cleaning, CleaningReport, Reasons
from distilingua.data.pairing import Meanings, Member, PairingReport, Readings, pair_rows
from distilingua.data.protocol import Pair
from distilingua.errors import UserError
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification

MENTIONED = 5  # spellings in a note
FEWEST = 10  # documents that a guess is made of
PART = re.compile(r"(.+)[-_:#/.][0-9]+")  # of a document, by its id


def fingerprint_of(rows: Dataset, task: Task) -> str:
    """The content of rows as a task sees it: ids, what a model reads, and labels; order included."""
    return rows_fingerprint(rows, ["id", *task.reads, "label"])


@dataclass
class Rows:
    """Everything a run reads.

    Args:
        table: every row that the corpus has, with clean text, and `why` it is not used, "" where it is. A row's number
            is its place here.
        train: what training may see, see `pair_rows`.
        unpaired: target text that no teacher reads, without labels, in the columns of train.
        dev, test: per language, with labels, for judging only; dev with `number` and `teacher_texts` as in train.
        labels: names of the classes, sorted; empty where classes have no names.
        cleaning, pairing: what these steps did, in numbers.
    """

    table: Dataset
    train: Dataset
    unpaired: Dataset
    dev: dict[str, Dataset]
    test: dict[str, Dataset]
    labels: list[str]
    cleaning: CleaningReport
    pairing: PairingReport

    @cached_property
    def texts(self) -> Dataset:
        """Clean rows of all splits."""
        return where(self.table, ~filled(column(self.table, "unusable")))

    @property
    def truth(self) -> pa.ChunkedArray:
        """Labels of the training rows, those included that training may not see: for judging only."""
        return column(self.numbered(column(self.train, "number").to_numpy()), "label")

    def numbered(self, numbers: np.ndarray | Sequence[int]) -> Dataset:
        """Rows by their numbers."""
        return select(self.table, numbers)


def load_rows(
    corpus: Corpus,
    cleaning: Cleaning,
    pair: Pair,
    teacher_languages: list[str] | None,
    members: Sequence[Member] = (),
    task: Task | None = None,
    cache: Path | None = None,
    judge: bool = False,
) -> Rows:
    """Loads, cleans and pairs.

    Args:
        task: what labels are, and where they point; its own labels are not looked at. None takes one class a text.
        cache: keeps clean text for later runs.
        judge: only to judge with, by a model that has learnt elsewhere: training rows are left out, and nobody asks for
            rows but those of test.

    Raises:
        UserError: a row whose label cannot be right; repeated ids; an empty split; labels that no training row of the
            source has, and so no teacher.
    """
    task = task or TextClassification()
    table, report = cleaning(corpus.load(pair.languages), task.points_into, cache)
    table = _with_spelling(table, task, report)  # before classes are counted, or "bad " would be one
    report.notes += notes_of(corpus)
    table = _without_bad_rows(table, task, report, skip=getattr(corpus, "skip_bad_rows", False))
    texts = where(table, ~filled(column(table, "why")))
    _check_ids(texts)
    lang, langs = codes_of(texts, "lang")
    split, splits = codes_of(texts, "split")
    label, names = codes_of(texts, "label")

    def is_in(wanted_lang: str, wanted_split: str) -> np.ndarray:
        known = wanted_lang in langs and wanted_split in splits
        return (lang == langs.index(wanted_lang)) & (split == splits.index(wanted_split)) if known else lang < 0

    alike = _look_alike(names, np.bincount(label, minlength=len(names)), task)
    report.notes += [
        f"Labels that look alike are kept apart: {each}. Write them alike if they are one class." for each in alike
    ]
    labels = task.classes(names[n] for n in np.unique(label[is_in(pair.source, "train")]))
    labelled = np.array([bool(name) for name in names], dtype=bool)[label]
    for each, part in product(pair.languages, ("test",) if judge else ("train", "dev", "test")):
        # what is judged needs a label; what is only trained on does not
        if not (is_in(each, part) & (labelled | (part == "train"))).any():
            raise _missing(each, part, report, judge)

    def held_out(part: str) -> dict[str, Dataset]:
        return {each: select(texts, np.flatnonzero(is_in(each, part) & labelled)) for each in pair.languages}

    if judge:
        nothing = select(texts, [])
        told = PairingReport({}, {}, {}, {}, {})
        return Rows(table, nothing, nothing, {}, held_out("test"), labels, report, told)
    for each in pair.languages:
        there = np.unique(label[lang == langs.index(each)])  # hidden from training or not: they are what is judged
        _check_classes(each, task.classes(names[n] for n in there), labels, pair.source, alike)
    pointing = bool(task.points_into)
    paired = pair_rows(texts, pair, teacher_languages, members, task.stratify_by, pointing)
    train, unpaired, pairing_report, not_learnt = paired
    report.notes += [*_hidden_labels(pairing_report, pair, corpus), *_documents(held_out("test"), task, corpus)]

    # agreement with the teacher is watched where labels may not be; partners are text that it has not learnt
    known = Meanings(texts, pair, pointing)
    readings = Readings(known, known.of_split("parallel", "dev"))

    def with_readings(rows: Dataset) -> Dataset:
        numbers = numbers_of(rows)
        read = readings(known.places(numbers), teacher_languages, members)
        return with_columns(rows, {"number": pa.array(numbers, pa.int32()), "teacher_texts": read.as_column()})

    dev = {each: with_readings(rows) for each, rows in held_out("dev").items()}
    unusable = column(table, "why")
    why = np.array(unusable.to_numpy(zero_copy_only=False), dtype=object)
    why[numbers_of(texts)] = not_learnt.to_numpy(zero_copy_only=False)
    table = with_columns(table, {"why": strings(why), "unusable": unusable})
    return Rows(table, train, unpaired, dev, held_out("test"), labels, report, pairing_report)


def _missing(lang: str, part: str, report: CleaningReport, judge: bool) -> UserError:
    """What to say where a language has no such rows."""
    needed = "test, labelled." if judge else "train, dev and test, the latter two labelled."
    return UserError(
        f"corpus: no {part} rows{'' if part == 'train' else ' with a label'} for {lang!r} are left after cleaning "
        f"({report}). Every language needs {needed}" + "".join(f" {note}" for note in report.notes)
    )


def _hidden_labels(report: PairingReport, pair: Pair, corpus: Corpus) -> list[str]:
    """How many of the source's labels training does not see, and the key that decides it, in sentences."""
    key, share = option_of(corpus, "parallel") or option_of(corpus, "splits") or ("corpus: its split", "parallel")
    if isinstance(share, Mapping):
        key, share = f"{key}.parallel", share.get("parallel")
    text = "as their texts serve as aligned text"
    of_pair = {"pair.labels": f"as pair.labels={pair.labels} says", "pair.parallel": f"{text}: {pair.parallel=}"}
    told = {of_pair.get(by, f"{text}: {key}={share}"): n for by, n in report.hidden.items()}
    return [f"{n} labels of {pair.source!r} are hidden, {reason}." for reason, n in told.items()]


def _documents(test: Mapping[str, Dataset], task: Task, corpus: Corpus) -> list[str]:
    """Says where ids look like those of parts of documents, `doc12-3`, and nothing says that these belong together. It
    is a guess, as rows may be numbered by class; those of a file, `row-1`, begin all alike."""
    found = option_of(corpus, "columns")
    known = list(task.points_into) == ["text_pair"] or any(any(texts_of(rows, "cluster")) for rows in test.values())
    ids = [row_id for rows in test.values() for row_id in texts_of(rows, "id")]
    documents = {part[1] if (part := PART.fullmatch(row_id)) else "" for row_id in ids}
    if found is None or known or "" in documents or not FEWEST * len(test) <= len(documents) <= len(ids) / 2:
        return []
    told = (
        f"By ids such as {ids[0]!r}, {len(ids):,} test rows seem to be of {len(documents):,} documents. Intervals take"
    )
    return [f"{told} them for independent: name the column of the document, {found[0]}.cluster=COLUMN."]


def _check_ids(texts: Dataset) -> None:
    ids, different = codes_of(texts, "id")
    if len(different) < len(ids):
        counts = np.bincount(ids)
        repeated = int(np.argmax(counts > 1))
        raise UserError(
            f"corpus: the id {different[repeated]!r} stands for {counts[repeated]} rows. Soft labels are "
            f"found by id, so it must be unique: name another column, or corpus.columns.id=null to count the rows."
        )


def _check_classes(lang: str, found: Sequence[str], labels: Sequence[str], source: str, alike: Sequence[str]) -> None:
    unknown = sorted(set(found) - set(labels))
    if unknown:
        raise UserError(
            f"corpus: {lang!r} has labels that no {source!r} training row has, so the teacher does not know "
            f"them: {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}. The labels it knows are "
            f"{', '.join(labels[:5])}{' …' if len(labels) > 5 else ''}. Rename them, or leave those rows out."
            + "".join(f" These look alike: {each}." for each in alike)
        )


def _with_spelling(table: Dataset, task: Task, report: CleaningReport) -> Dataset:
    """Rows with labels as the task compares them; what that changed is counted in the report's notes."""
    used = pa.array(~filled(column(table, "why")))
    number, names = codes(pc.if_else(used, column(table, "label"), ""))
    spelling = {name: task.spelling(name) for name in names}
    rows = np.bincount(number, minlength=len(names))
    changed = Counter({name: int(n) for name, n in zip(names, rows, strict=True) if spelling[name] != name})
    if not changed:
        return table
    common = "; ".join(f"{n} rows of {a!r} read as {spelling[a]!r}" for a, n in changed.most_common(MENTIONED))
    rest = changed.total() - sum(n for _, n in changed.most_common(MENTIONED))
    report.notes.append(f"Label spelling: {common}{f'; {rest} more rows' if rest else ''}.")
    return with_columns(table, {"label": by_value(column(table, "label"), task.spelling)})


def _look_alike(labels: Sequence[str], rows: np.ndarray, task: Task) -> list[str]:
    """Classes that differ in case, width or spaces alone, and the rows of each, in words."""
    count: Counter[str] = Counter()
    for label, n in zip(labels, rows.tolist(), strict=True):
        for name in task.classes([label]) if label else ():
            count[name] += n
    looks: dict[str, list[str]] = defaultdict(list)
    for name in sorted(count):
        looks["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    return [", ".join(f"{name!r} ({count[name]} rows)" for name in names) for names in looks.values() if len(names) > 1]


def _without_bad_rows(table: Dataset, task: Task, report: CleaningReport, skip: bool) -> Dataset:
    """Marks rows that cannot be read or whose label cannot be right as `bad`, or refuses the first of them by name."""
    if task.problem is Task.problem and not task.points_into:
        return table
    used = np.flatnonzero(~filled(column(table, "why")))
    why = Reasons(len(table))
    columns = dict.fromkeys(["id", "lang", "text", "text_pair", "label", "spans", *task.reads])
    bad = np.zeros(len(table), dtype=bool)
    for n, row in zip(used, each_row(select(table, used), columns), strict=True):
        problem = task.problem(row) or (_bad_spans(row) if task.points_into else None)
        if problem is not None and not skip:
            raise UserError(f"corpus: row {row['id']!r}: {problem} Mend it, or set corpus.skip_bad_rows=true.")
        bad[n] = problem is not None
    if not bad.any():
        return table
    why.give("bad", bad)
    langs = np.array(texts_of(table, "lang"))
    for lang in np.unique(langs[bad]):
        report.count(str(lang), why.names, why.codes[langs == lang])
    return with_columns(table, {"why": pc.if_else(pa.array(bad), "bad", column(table, "why"))})


def _bad_spans(row: Mapping[str, str]) -> str | None:
    """What is wrong with the column `spans`, in a sentence; None for nothing."""
    text = row["text_pair"] or row["text"]
    try:
        spans = [(value, a, b) for value, a, b in parsed(row["spans"] or "[]")]
        if not all(type(at) is int for _, *ends in spans for at in ends):
            raise ValueError(spans)
        outside = [(value, a, b) for value, a, b in spans if not 0 <= a < b <= len(text)]
    except (TypeError, ValueError):
        return f'spans {row["spans"][:60]!r} are not as expected: JSON, such as [["kitchen", 15, 22]].'
    return f"spans: {list(outside[0])} is outside of a text of {len(text)} characters." if outside else None
