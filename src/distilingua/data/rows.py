"""From a corpus to the rows a run works with: load, clean, pair. Each step is one call."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset, List, Value

from distilingua.corpora.schema import Corpus, each_row, notes_of
from distilingua.corpora.words import parsed
from distilingua.data.cleaning import Cleaning, CleaningReport
from distilingua.data.pairing import Member, PairingReport, Readings, pair_rows
from distilingua.data.protocol import Pair
from distilingua.errors import UserError
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification

MENTIONED = 5  # spellings in a note


@dataclass
class Rows:
    """Everything a run reads.

    Args:
        train: what training may see, see `pair_rows`.
        unpaired: target text that no teacher reads, without labels, in the columns of train.
        dev, test: per language, with labels, for judging only; dev with a column `teacher_rows` as in train.
        texts: clean rows of all splits, where the teacher's rows are found by id.
        labels: names of the classes, sorted; empty where classes have no names.
        cleaning, pairing: what these steps did, in numbers.
    """

    train: Dataset
    unpaired: Dataset
    dev: dict[str, Dataset]
    test: dict[str, Dataset]
    texts: Dataset
    labels: list[str]
    cleaning: CleaningReport
    pairing: PairingReport


def load_rows(
    corpus: Corpus,
    cleaning: Cleaning,
    pair: Pair,
    teacher_languages: list[str] | None,
    members: Sequence[Member] = (),
    task: Task | None = None,
) -> Rows:
    """Loads, cleans and pairs.

    Args:
        task: what labels are, and where they point; its own labels are not looked at. None takes one class a text.

    Raises:
        UserError: a row whose label cannot be right; repeated ids; an empty split; labels that no training row of the
            source has, and so no teacher.
    """
    task = task or TextClassification()
    texts, cleaning_report = cleaning(corpus.load(pair.languages), task.points_into)
    texts = _spelt(texts, task, cleaning_report)  # before classes are counted, or "bad " would be one
    cleaning_report.notes += notes_of(corpus)
    texts = _sound(texts, task, cleaning_report, skip=getattr(corpus, "skip_bad_rows", False))
    repeated = [row_id for row_id, n in Counter(texts["id"][:]).items() if n > 1]
    if repeated:
        raise UserError(
            f"corpus: the id {repeated[0]!r} stands for {Counter(texts['id'])[repeated[0]]} rows. Soft labels are "
            f"found by id, so it must be unique: name another column, or corpus.columns.id=null to count the rows."
        )
    langs, splits, names = texts["lang"][:], texts["split"][:], texts["label"][:]
    marks = list(zip(langs, splits, names, strict=True))
    alike = _alike(names, task)
    cleaning_report.notes += [
        f"Labels that look alike are kept apart: {told}. Write them alike if they are one class." for told in alike
    ]
    labels = task.classes(name for lang, split, name in marks if (lang, split) == (pair.source, "train"))
    # what is judged needs a label; what is only trained on does not
    counts = Counter((lang, split) for lang, split, name in marks if name or split == "train")
    for lang in pair.languages:
        for split in ("train", "dev", "test"):
            if not counts[lang, split]:
                raise UserError(
                    f"corpus: no {split} rows{'' if split == 'train' else ' with a label'} for {lang!r} are left after "
                    f"cleaning ({cleaning_report}). Every language needs train, dev and test, the latter two labelled."
                )
    # labels that are hidden from training count here: they are what is judged
    for lang in pair.languages:
        unknown = sorted(set(task.classes(name for here, _, name in marks if here == lang)) - set(labels))
        if unknown:
            raise UserError(
                f"corpus: {lang!r} has labels that no {pair.source!r} training row has, so the teacher does not know "
                f"them: {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}. The labels it knows are "
                f"{', '.join(labels[:5])}{' …' if len(labels) > 5 else ''}. Rename them, or leave those rows out."
                + "".join(f" These look alike: {told}." for told in alike)
            )
    pointing = bool(task.points_into)
    train, unpaired, pairing_report = pair_rows(texts, pair, teacher_languages, members, task.stratify_by, pointing)

    def held_out(split: str) -> dict[str, Dataset]:
        return {
            lang: texts.select([i for i, mark in enumerate(marks) if mark[:2] == (lang, split) and mark[2]])
            for lang in pair.languages
        }

    # dev rows get what the teacher reads for them, too: agreement with it is watched where labels may not be. Partners
    # are text that it has not learnt
    dev = held_out("dev")
    known = ("id", "lang", "split", "group", "block", "spans")  # no label
    readings = Readings((row for row in each_row(texts, known) if row["split"] in ("parallel", "dev")), pair, pointing)
    for lang, rows in dev.items():
        dev[lang] = rows.add_column(
            "teacher_rows",
            [readings(row, teacher_languages, members) for row in each_row(rows, known)],
            feature=List(Value("string")),
        )
    return Rows(train, unpaired, dev, held_out("test"), texts, labels, cleaning_report, pairing_report)


def _spelt(texts: Dataset, task: Task, report: CleaningReport) -> Dataset:
    """Rows with labels as the task compares them; what that changed is counted in the report's notes."""
    found = texts["label"][:]
    spelt = [task.spelling(label) for label in found]
    changed = Counter((a, b) for a, b in zip(found, spelt, strict=True) if a != b)
    if not changed:
        return texts
    common = "; ".join(f"{n} rows of {a!r} read as {b!r}" for (a, b), n in changed.most_common(MENTIONED))
    rest = sum(changed.values()) - sum(n for _, n in changed.most_common(MENTIONED))
    report.notes.append(f"Label spelling: {common}{f'; {rest} more rows' if rest else ''}.")
    texts_spelt = texts.remove_columns("label").add_column("label", spelt, feature=Value("string"))
    return texts_spelt.select_columns(texts.column_names)


def _alike(labels: Sequence[str], task: Task) -> list[str]:
    """Classes that differ in case, width or spaces alone, and the rows of each, in words."""
    rows: Counter[str] = Counter()
    for label, n in Counter(labels).items():
        for name in task.classes([label]) if label else ():
            rows[name] += n
    looks: dict[str, list[str]] = defaultdict(list)
    for name in sorted(rows):
        looks["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    return [", ".join(f"{name!r} ({rows[name]} rows)" for name in names) for names in looks.values() if len(names) > 1]


def _sound(texts: Dataset, task: Task, report: CleaningReport, skip: bool) -> Dataset:
    """Rows that can be read and whose label can be right; the others are counted as `bad`, or refused by name."""
    kept = []
    columns = dict.fromkeys(["id", "lang", "text", "text_pair", "label", "spans", *task.reads])
    for n, row in enumerate(each_row(texts, columns)):
        problem = task.problem(row)
        if problem is None and task.points_into:
            problem = _bad_spans(row)
        if problem is None:
            kept.append(n)
        elif not skip:
            raise UserError(f"corpus: row {row['id']!r}: {problem} Mend it, or set corpus.skip_bad_rows=true.")
        else:
            rules = report.dropped.setdefault(row["lang"], {})
            rules["bad"] = rules.get("bad", 0) + 1
    return texts if len(kept) == len(texts) else texts.select(kept)


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
