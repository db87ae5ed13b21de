"""Applies the rules of the pair: which labels stay visible, and which text the teacher reads for each row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, Features, List, Value

from distilingua.artifacts import stable_hash
from distilingua.corpora.schema import each_row
from distilingua.data.protocol import Pair
from distilingua.errors import UserError

TAUGHT = "partner is labelled training text"
HELD_BACK = "partner is dev or test"
UNSAID = "no spans that say what corresponds"
UNASKED = "no teacher answers through aligned text"
"""Why a row that has an aligned partner is dropped all the same."""


def _lot(*parts: object) -> float:
    """A number in [0, 1) drawn by hash: the same in every process and for every order of the rows."""
    return stable_hash(*parts) / 2**64


@dataclass
class PairingReport:
    """Training rows per language: all of them, those with a visible label, those a teacher can read; and those dropped.

    Args:
        without_partner: dropped because no source text has their group (or block).
        withheld: dropped although one has: why the teacher may not read it for them, `{lang: {reason: rows}}`.
    """

    rows: dict[str, int]
    labelled: dict[str, int]
    with_teacher: dict[str, int]
    without_partner: dict[str, int]
    withheld: dict[str, dict[str, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        return "; ".join(
            f"{lang}: {n} rows, {self.labelled.get(lang, 0)} labelled, {self.with_teacher.get(lang, 0)} read by the "
            f"teacher, {self.without_partner.get(lang, 0)} dropped for want of a partner"
            + "".join(f", {count} dropped: {reason}" for reason, count in self.withheld.get(lang, {}).items())
            for lang, n in self.rows.items()
        )


Member = tuple[list[str] | None, bool]
"""One of several teachers: its languages (None for all), and whether it answers for others through aligned text."""


class Readings:
    """Says which texts a teacher reads for a row: the row itself, or source text that means the same.

    Args:
        rows: `{id, lang, split, group, block, spans}`, and `label` where there are any of train; source rows whose
            label the teacher has not seen become partners.
        pointing: whether labels point into the text, so that an answer to another text is worth something only where
            `spans` say which stretches of the two correspond.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], pair: Pair, pointing: bool = False) -> None:
        self.pair, self.key = pair, "group" if pair.align == "sentence" else "block"
        self.pointing = pointing
        self.partners: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            unseen = row["split"] != "train" or row.get("label") == ""
            if row["lang"] == pair.source and unseen and row[self.key] and self._carries(row):
                self.partners[row[self.key]].append(row["id"])
        for ids in self.partners.values():
            ids.sort()  # whatever the order of the rows

    def __call__(self, row: dict[str, Any], languages: list[str] | None, members: Sequence[Member] = ()) -> list[str]:
        """Ids of the texts; with several teachers one for each, "" where it has no answer. Empty without any answer."""
        if members:
            each = [self._one(row, *member) for member in members]
            return [ids[0] if ids else "" for ids in each] if any(each) else []
        return self._one(row, languages)

    def _one(self, row: dict[str, Any], languages: list[str] | None, through_partner: bool = True) -> list[str]:
        if languages is None or row["lang"] in languages:
            return [row["id"]]
        aligned = self.partners[row[self.key]] if through_partner and self._carries(row) else []
        if aligned and self.pair.align == "sentence":
            return [aligned[int(_lot(self.pair.seed, "partner", row["id"]) * len(aligned))]]
        return aligned

    def _carries(self, row: dict[str, Any]) -> bool:
        return not self.pointing or bool(row["spans"])


def pair_rows(
    rows: Dataset,
    pair: Pair,
    teacher_languages: list[str] | None,
    members: Sequence[Member] = (),
    stratify_by: Callable[[str], str] = str,
    pointing: bool = False,
) -> tuple[Dataset, Dataset, PairingReport]:
    """Training rows with the labels that may be seen and the ids of the texts the teacher reads in their place.

    Args:
        rows: clean rows of a corpus, any splits.
        pair: the experiment's rules.
        teacher_languages: what the teacher reads; None for all languages.
        members: the teachers one by one, where there are several.
        stratify_by: of a label; `few_shot` shows some of each, see `Task.stratify_by`.
        pointing: see `Readings`.

    Returns:
        The training rows, in corpus order, with `label` emptied where it may not be seen and a new column
        `teacher_rows`: ids of the rows whose text the teacher reads (the row itself, its aligned partner, or all of
        its block; empty when there is none; with several teachers one id for each, "" where it has no answer); target
        rows that nobody reads, without labels, in the same columns; and the count.

    Raises:
        UserError: a teacher that does not read a target, and no row of that language has an aligned partner.
    """
    train = [
        row
        for row in each_row(rows, ["id", "lang", "split", "label", "group", "block", "spans"])
        if row["split"] in ("train", "parallel")
    ]
    through_partners = [langs for langs, through in members or [(teacher_languages, True)] if through]
    foreign = any(langs is not None and set(pair.targets) - set(langs) for langs in through_partners)
    _hide(train, pair, stratify_by, pair.parallel if foreign else 0.0)
    readings = Readings(train, pair, pointing)
    # what translation would carry over: the label of whatever source text a target text is aligned with
    carried = {row["group"]: row["label"] for row in train if row["lang"] == pair.source and row["group"]}
    shown = _shots(train, pair, stratify_by) if pair.protocol == "few_shot" else set()

    changes: dict[str, dict[str, Any]] = {}
    # source text that means the same, whether or not a teacher may read it in a row's place
    trained_on = {row[readings.key] for row in train if row["lang"] == pair.source}
    carrying = {row[readings.key] for row in train if row["lang"] == pair.source and row["spans"]}
    known = {key for key, lang in zip(rows[readings.key][:], rows["lang"][:], strict=True) if lang == pair.source}
    without_partner: Counter[str] = Counter()
    withheld: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        is_source = row["lang"] == pair.source
        teacher_rows = readings(row, teacher_languages, members)
        label = ""
        if pair.protocol == "translate_train" and not is_source:
            label = carried.get(row["group"], "")
        elif pair.protocol == "supervised" or (is_source and row["split"] == "train") or row["id"] in shown:
            label = row["label"]
        if not teacher_rows and not label:  # nothing to learn from it; the report says why
            key = row[readings.key]
            if not key or key not in known:
                without_partner[row["lang"]] += 1
            elif key not in trained_on:
                withheld[row["lang"]][HELD_BACK] += 1
            elif members and not any(through for _, through in members):
                withheld[row["lang"]][UNASKED] += 1
            elif pointing and not (row["spans"] and key in carrying):
                withheld[row["lang"]][UNSAID] += 1
            else:
                withheld[row["lang"]][TAUGHT] += 1
            continue
        changes[row["id"]] = {"label": label, "teacher_rows": teacher_rows}
    # a target that no row carries anything to would be trained on nothing, which looks like a bad student
    read = {row["lang"] for row in train if changes.get(row["id"], {}).get("teacher_rows")}
    for lang in pair.targets:
        if teacher_languages is not None and lang not in read:
            reasons = withheld[lang]
            if TAUGHT in reasons or HELD_BACK in reasons:
                told = ", ".join(f"{reason} {n}" for reason, n in reasons.items())
                raise UserError(
                    f"teacher: it reads {', '.join(teacher_languages)}, not {lang!r}, and may read none of the "
                    f"{pair.source!r} text that {lang!r} text is aligned with ({told}). Keep more of it for aligned "
                    f"pairs (pair.parallel={min(0.9, pair.parallel + 0.3):.1f}, or split parallel), choose a teacher "
                    f"that reads {lang!r} (teacher=xlmr_base), or train without one (objective=direct)."
                )
            spans = " and `spans`, as labels point into the text" if pointing else ""
            corresponding = ", say which stretches correspond (docs/your-data.md)" if pointing else ""
            raise UserError(
                f"teacher: it reads {', '.join(teacher_languages)}, not {lang!r}, and no {lang!r} text of this corpus "
                f"is aligned with {pair.source!r} text (column `{readings.key}`{spans}). Give aligned rows the same "
                f"{readings.key}{corresponding}, choose a teacher that reads {lang!r} (teacher=xlmr_base), or train "
                f"without one (objective=direct)."
            )

    def changed(changes: dict[str, dict[str, Any]]) -> Dataset:
        columns = rows.select([i for i, row_id in enumerate(rows["id"][:]) if row_id in changes])[:]
        for name in ("label", "teacher_rows"):
            columns[name] = [changes[row_id][name] for row_id in columns["id"]]
        return Dataset.from_dict(columns, Features({**rows.features, "teacher_rows": List(Value("string"))}))

    paired = changed(changes)
    langs = paired["lang"][:]
    nothing = {"label": "", "teacher_rows": []}
    unread = {row["id"]: nothing for row in train if row["lang"] != pair.source and row["id"] not in changes}
    return (
        paired,
        changed(unread),
        PairingReport(
            rows=dict(Counter(langs)),
            labelled=dict(Counter(lang for lang, label in zip(langs, paired["label"][:], strict=True) if label)),
            with_teacher=dict(Counter(lang for lang, t in zip(langs, paired["teacher_rows"][:], strict=True) if t)),
            without_partner=dict(without_partner),
            withheld={lang: dict(reasons) for lang, reasons in withheld.items() if reasons},
        ),
    )


def _hide(train: list[dict[str, Any]], pair: Pair, stratify_by: Callable[[str], str], parallel: float) -> None:
    """Takes source rows out of training's labels: they become text, of the split "parallel".

    All but `pair.labels` of them go first. Then, as a teacher that has learnt a sentence's label would hand it on to
    the translation, rows that have an aligned one, until `parallel` of the rows are hidden; unless the corpus set some
    aside itself. Whole groups go, or a sentence's twin would tell; every class keeps one.
    """
    source = [row for row in train if row["lang"] == pair.source]
    own = any(row["split"] == "parallel" for row in source)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in source:
        if row["split"] == "train":
            groups[row["group"] or row["id"]].append(row)
    left = Counter(stratify_by(row["label"]) for rows in groups.values() for row in rows if row["label"])
    total = sum(map(len, groups.values()))

    def hide(names: Iterable[str], wanted: float) -> None:
        for name in names:
            if total - sum(map(len, groups.values())) + len(groups[name]) / 2 > wanted:
                continue
            classes = Counter(stratify_by(row["label"]) for row in groups[name] if row["label"])
            if all(left[label] > n for label, n in classes.items()):
                left.subtract(classes)
                for row in groups.pop(name):
                    row["split"] = "parallel"

    hide(sorted(groups, key=lambda name: _lot(pair.seed, "labels", name)), (1 - pair.labels) * total)
    if parallel and not own:
        key = "group" if pair.align == "sentence" else "block"
        partners = {row[key] for row in train if row["lang"] != pair.source and row[key]}
        paired = [name for name, rows in groups.items() if any(row[key] in partners for row in rows)]
        hide(sorted(paired, key=lambda name: _lot(pair.seed, "parallel", name)), parallel * total)


def _shots(train: list[dict[str, Any]], pair: Pair, stratify_by: Callable[[str], str]) -> set[str]:
    """Ids of the target rows whose labels `few_shot` shows: `shots` per class and language, drawn by hash."""
    classes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in train:
        if row["lang"] != pair.source and row["label"]:
            classes[row["lang"], stratify_by(row["label"])].append(row["id"])
    return {
        row_id
        for ids in classes.values()
        for row_id in sorted(ids, key=lambda i: _lot(pair.seed, "shot", i))[: pair.shots]
    }
