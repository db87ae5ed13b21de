"""Applies the rules of the pair: which labels stay visible, and which text the teacher reads for each row.

Every step is an operation on columns: groups, labels and languages are numbers, and who is whose partner, whose label
is hidden and why a row is left out are arrays with a place for every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from distilingua.artifacts import stable_hash
from distilingua.columns import (
    Ragged,
    codes,
    codes_of,
    column,
    filled,
    numbers_of,
    select,
    stretches,
    strings,
    with_columns,
)
from distilingua.data.cleaning import Reasons
from distilingua.data.protocol import Pair
from distilingua.errors import UserError

NO_PARTNER = "no partner"
TAUGHT = "partner is labelled training text"
HELD_BACK = "partner is dev or test"
UNSAID = "no spans that say what corresponds"
UNASKED = "no teacher answers through aligned text"
"""Why a row is dropped: it has no aligned partner, or has one, and the teacher may not read it."""


def _lot(*parts: object) -> float:
    """A number in [0, 1) drawn by hash: the same in every process and for every order of the rows."""
    return stable_hash(*parts) / 2**64


@dataclass
class PairingReport:
    """Training rows per language: all of them, those with a visible label, those a teacher can read; and those dropped.

    Args:
        without_partner: dropped because no source text has their group (or block).
        withheld: dropped although one has: why the teacher may not read it for them, `{lang: {reason: rows}}`.
        hidden: `70 of 140` labels of the source, by the key that hides them; "" for the corpus' own split "parallel".
    """

    rows: dict[str, int]
    labelled: dict[str, int]
    with_teacher: dict[str, int]
    without_partner: dict[str, int]
    withheld: dict[str, dict[str, int]] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)


Member = tuple[list[str] | None, bool]
"""One of several teachers: its languages (None for all), and whether it answers for others through aligned text."""


class Meanings:
    """Rows of a table as pairing sees them: every column a number for each row.

    Args:
        rows: of a table with the columns of the corpus schema.
        pair: the experiment's rules.
        pointing: whether labels point into the text, so that an answer to another text is worth something only where
            `spans` say which stretches of the two correspond.

    Attributes:
        numbers: of the rows in the table underneath, which is what a teacher is asked by.
        lang: number of the language in `langs`.
        key: number of what aligned rows have in common, their group or block; `no_key` for none.
        carries: whether an answer to another text can be carried over, (rows,) bool.
    """

    def __init__(self, rows: Dataset, pair: Pair, pointing: bool) -> None:
        self.rows, self.pair, self.pointing = rows, pair, pointing
        self.numbers = numbers_of(rows)
        self.lang, self.langs = codes_of(rows, "lang")
        self.split, splits = codes_of(rows, "split")
        self.splits = {name: n for n, name in enumerate(splits)}
        self.by = "group" if pair.align == "sentence" else "block"
        self.key, keys = codes_of(rows, self.by)
        self.keys = len(keys)
        self.no_key = keys.index("") if "" in keys else -1
        self.spans = filled(column(rows, "spans"))
        self.carries = self.spans if pointing else np.ones(len(rows), dtype=bool)

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, *langs: str) -> np.ndarray:
        """Which rows are in one of these languages, (rows,) bool."""
        return np.isin(self.lang, [n for n, name in enumerate(self.langs) if name in langs])

    def of_split(self, *names: str) -> np.ndarray:
        return np.isin(self.split, [self.splits[name] for name in names if name in self.splits])

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Where rows of these numbers are among those known, which stand in the table's own order."""
        return np.searchsorted(self.numbers, numbers)

    def has_key_of(self, mask: np.ndarray) -> np.ndarray:
        """Which rows have their key in common with a row of the mask, (rows,) bool."""
        known = np.zeros(self.keys, dtype=bool)
        known[self.key[mask]] = True
        return known[self.key]


class Readings:
    """Says which texts a teacher reads for a row: the row itself, or source text that means the same.

    Args:
        known: all rows of a table.
        partners: which of them, of the source, a teacher may read in place of another row, (rows,) bool: those whose
            label it has not seen.
    """

    def __init__(self, known: Meanings, partners: np.ndarray) -> None:
        self.known = known
        may = np.flatnonzero(partners & known.of(known.pair.source) & (known.key != known.no_key) & known.carries)
        order = may[np.argsort(known.key[may], kind="stable")]
        counts = np.bincount(known.key[order], minlength=known.keys)
        self.partners = Ragged.by_lengths(order, counts)
        """Numbers of rows, by key; those of one key in the order of their ids, whatever the order of the rows."""
        several = counts[known.key[order]] > 1
        ids = column(known.rows, "id").take(pa.array(order[several])).to_pylist()
        order[several] = order[several][np.lexsort((np.array(ids, dtype=str), known.key[order[several]]))]

    def __call__(self, asked: np.ndarray, languages: list[str] | None, members: Sequence[Member] = ()) -> Ragged:
        """Numbers, in the table, of the texts for some rows; with several teachers one for each, -1 where it has no
        answer. Empty without any answer.

        Args:
            asked: numbers of the rows in `known`.
        """
        if not members:
            return self._of_one(asked, languages)
        each = np.stack([self._first(self._of_one(asked, *member)) for member in members], axis=1)
        answered = (each >= 0).any(1)
        return Ragged.by_lengths(each[answered].ravel(), np.where(answered, len(members), 0))

    def _of_one(self, asked: np.ndarray, languages: list[str] | None, through_partner: bool = True) -> Ragged:
        known, pair = self.known, self.known.pair
        itself = np.ones(len(asked), dtype=bool) if languages is None else known.of(*languages)[asked]
        through = ~itself & known.carries[asked] & (known.key[asked] != known.no_key) & through_partner
        counts = np.where(through, self.partners.lengths[known.key[asked]], itself)
        starts = np.where(through, self.partners.offsets[known.key[asked]], 0)
        if pair.align == "sentence":
            several = np.flatnonzero(through & (counts > 1))
            ids = column(known.rows, "id").take(pa.array(asked[several])).to_pylist()
            lots = np.array([_lot(pair.seed, "partner", row_id) for row_id in ids])
            starts[several] += (lots * counts[several]).astype(np.int64)
            counts = np.minimum(counts, 1)
        partners = self.partners.values
        read = partners[stretches(starts, counts).clip(0, max(len(partners) - 1, 0))] if len(partners) else None
        own = np.repeat(asked, counts)
        chosen = own if read is None else np.where(np.repeat(itself, counts), own, read)
        return Ragged.by_lengths(known.numbers[chosen], counts)

    @staticmethod
    def _first(found: Ragged) -> np.ndarray:
        """The first of every list, -1 for none."""
        first = np.full(len(found), -1)
        there = found.lengths > 0
        first[there] = found.values[found.offsets[:-1][there]]
        return first


def pair_rows(
    rows: Dataset,
    pair: Pair,
    teacher_languages: list[str] | None,
    members: Sequence[Member] = (),
    stratify_by: Callable[[str], str] = str,
    pointing: bool = False,
) -> tuple[Dataset, Dataset, PairingReport, pa.Array]:
    """Training rows with the labels that may be seen and the texts the teacher reads in their place.

    Args:
        rows: clean rows of a corpus, any splits.
        pair: the experiment's rules.
        teacher_languages: what the teacher reads; None for all languages.
        members: the teachers one by one, where there are several.
        stratify_by: of a label; `few_shot` shows some of each, see `Task.stratify_by`.
        pointing: see `Meanings`.

    Returns:
        The training rows, in corpus order, with `label` emptied where it may not be seen and two new columns: `number`,
        of the row in the table underneath, and `teacher_texts`, numbers of the rows whose text the teacher reads (the
        row itself, its aligned partner, or all of its block; empty when there is none; with several teachers one for
        each, -1 where it has no answer); target rows that nobody reads, without labels, in the same columns; the
        count; and why each of `rows` is not learnt from, "" where it is, or is held out.

    Raises:
        UserError: a teacher that does not read a target, and no row of that language has an aligned partner.
    """
    known = Meanings(rows, pair, pointing)
    training = known.of_split("train", "parallel")
    through_partners = [langs for langs, through in members or [(teacher_languages, True)] if through]
    foreign = any(langs is not None and set(pair.targets) - set(langs) for langs in through_partners)
    classes, names = codes(pc.if_else(pa.array(training), column(rows, "label"), ""))
    labelled = classes != (names.index("") if "" in names else -1)
    strata = codes(pa.chunked_array([strings(stratify_by(name) for name in names)]))[0][classes]
    hidden = _hidden(known, strata, labelled, pair.parallel if foreign else 0.0)
    few = _hidden(known, strata, labelled, 0.0)  # what `pair.labels` alone hides

    source = known.of(pair.source)
    unseen = training & (hidden | known.of_split("parallel") | ~labelled)
    readings = Readings(known, unseen)
    everything = np.arange(len(rows))
    read = readings(everything, teacher_languages, members)
    shown = source & known.of_split("train") & ~hidden
    if pair.protocol == "supervised":
        shown = training
    elif pair.protocol == "translate_train":
        classes = np.where(source, classes, _carried(known, rows, classes, source & training, names))
        labelled = classes != (names.index("") if "" in names else -1)
        shown = shown | ~source
    elif pair.protocol == "few_shot":
        shown = shown | _shots(known, strata, training & ~source & labelled)
    visible = shown & labelled
    has_teacher = read.lengths > 0
    kept = training & (has_teacher | visible)

    why = _reasons(known, readings, training, kept, members)
    _check_targets(known, pair, teacher_languages, kept & has_teacher, why)

    report, own = _report(known, kept, visible, has_teacher, why), source & training & labelled
    by = {"pair.labels": few, "pair.parallel": hidden & ~few, "": known.of_split("parallel")}
    report.hidden = {key: f"{n:,} of {own.sum():,}" for key, mask in by.items() if (n := (own & mask & ~visible).sum())}

    def with_readings(chosen: np.ndarray, labels: np.ndarray, texts: Ragged) -> Dataset:
        found = strings([*names, ""]).take(pa.array(labels))
        numbers = pa.array(known.numbers[chosen], pa.int32())
        return with_columns(
            select(rows, chosen), {"label": found, "number": numbers, "teacher_texts": texts.as_column()}
        )

    lessons, unread = np.flatnonzero(kept), np.flatnonzero(training & ~source & ~kept)
    nothing = Ragged.of([[]] * len(unread))
    return (
        with_readings(lessons, np.where(visible, classes, len(names))[lessons], read[lessons]),
        with_readings(unread, np.full(len(unread), len(names)), nothing),
        report,
        why.to_arrow(),
    )


def _hidden(known: Meanings, strata: np.ndarray, labelled: np.ndarray, parallel: float) -> np.ndarray:
    """Source rows that are taken out of training's labels, (rows,) bool: they become text, as of the split "parallel".

    All but `pair.labels` of them go first. Then, as a teacher that has learnt a sentence's label would hand it on to
    the translation, rows that have an aligned one, until `parallel` of the rows are hidden; unless the corpus set some
    aside itself. Whole groups go, or a sentence's twin would tell; every class keeps one.
    """
    pair, source = known.pair, known.of(known.pair.source)
    hidden = np.zeros(len(known), dtype=bool)
    own = np.flatnonzero(source & known.of_split("train"))
    aside = parallel and not (source & known.of_split("parallel")).any()
    if pair.labels == 1 and not aside:
        return hidden
    group, ids = column(known.rows, "group"), column(known.rows, "id")
    groups, names = codes(pc.if_else(pc.equal(group, ""), ids, group).take(pa.array(own)))
    order = np.argsort(groups, kind="stable")
    members = Ragged.by_lengths(own[order], np.bincount(groups, minlength=len(names)))
    left = Counter(strata[own[labelled[own]]].tolist())
    sizes = members.lengths.tolist()
    done = 0

    def hide(candidates: np.ndarray, purpose: str, wanted: float) -> None:
        """Hides groups, in an order drawn by hash, until so many rows are hidden."""
        nonlocal done
        lots = np.array([_lot(pair.seed, purpose, names[n]) for n in candidates.tolist()])
        for n in candidates[np.argsort(lots, kind="stable")].tolist():
            if done + sizes[n] / 2 > wanted or hidden[members.values[members.offsets[n]]]:
                continue
            rows = members[n]
            taken = Counter(strata[rows[labelled[rows]]].tolist())
            if all(left[label] > count for label, count in taken.items()):
                left.subtract(taken)
                hidden[rows] = True
                done += len(rows)

    if pair.labels < 1:
        hide(np.arange(len(names)), "labels", (1 - pair.labels) * len(own))
    if aside:
        partners = known.of_split("train", "parallel") & ~source & (known.key != known.no_key)
        paired = np.unique(groups[known.has_key_of(partners)[own]])
        hide(paired, "parallel", parallel * len(own))
    return hidden


def _shots(known: Meanings, strata: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Target rows whose labels `few_shot` shows, (rows,) bool: `shots` per class and language, drawn by hash."""
    shown = np.zeros(len(known), dtype=bool)
    own = np.flatnonzero(candidates)
    ids = column(known.rows, "id").take(pa.array(own)).to_pylist()
    lots = np.array([_lot(known.pair.seed, "shot", row_id) for row_id in ids])
    order = np.lexsort((lots, strata[own], known.lang[own]))
    bins = (known.lang[own] * (int(strata.max(initial=0)) + 1) + strata[own])[order]
    first = np.flatnonzero(np.diff(bins, prepend=-1))
    place = np.arange(len(bins)) - np.repeat(first, np.diff(np.append(first, len(bins))))
    shown[own[order[place < known.pair.shots]]] = True
    return shown


def _carried(
    known: Meanings, rows: Dataset, classes: np.ndarray, source: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """What translation would carry over: the class of whatever source text a text is aligned with, (rows,)."""
    group, groups = codes_of(rows, "group")
    nothing = names.index("") if "" in names else len(names)
    of_group = np.full(len(groups), nothing)
    own = np.flatnonzero(source)
    of_group[group[own]] = classes[own]
    if "" in groups:
        of_group[groups.index("")] = nothing
    return of_group[group]


def _reasons(
    known: Meanings, readings: Readings, training: np.ndarray, kept: np.ndarray, members: Sequence[Member]
) -> Reasons:
    """Why rows of training are not learnt from, whether or not there is text that means the same."""
    source, why = known.of(known.pair.source), Reasons(len(known))
    dropped = training & ~kept
    why.give(NO_PARTNER, dropped & ((known.key == known.no_key) | ~known.has_key_of(source)))
    why.give(HELD_BACK, dropped & ~known.has_key_of(source & training))
    if members and not any(through for _, through in members):
        why.give(UNASKED, dropped)
    if known.pointing:
        why.give(UNSAID, dropped & ~(known.spans & known.has_key_of(source & training & known.spans)))
    why.give(TAUGHT, dropped)
    return why


def _check_targets(
    known: Meanings, pair: Pair, teacher_languages: list[str] | None, read: np.ndarray, why: Reasons
) -> None:
    """Raises UserError for a target that no row carries anything to: it would be trained on nothing, which looks like a
    bad student."""
    for lang in pair.targets if teacher_languages is not None else ():
        if (read & known.of(lang)).any():
            continue
        withheld = _counted(why, known.of(lang))
        languages = ", ".join(teacher_languages or ())
        if TAUGHT in withheld or HELD_BACK in withheld:
            reasons = ", ".join(f"{reason} {n}" for reason, n in withheld.items())
            raise UserError(
                f"teacher: it reads {languages}, not {lang!r}, and may read none of the {pair.source!r} text that "
                f"{lang!r} text is aligned with ({reasons}). Keep more of it for aligned pairs "
                f"(pair.parallel={min(0.9, pair.parallel + 0.3):.1f}, or split parallel), choose a teacher that reads "
                f"{lang!r} (teacher=xlmr_base), or train without one (objective=direct)."
            )
        spans = " and `spans`, as labels point into the text" if known.pointing else ""
        corresponding = ", say which stretches correspond (docs/your-data.md)" if known.pointing else ""
        raise UserError(
            f"teacher: it reads {languages}, not {lang!r}, and no {lang!r} text of this corpus is aligned with "
            f"{pair.source!r} text (column `{known.by}`{spans}). Give aligned rows the same {known.by}"
            f"{corresponding}, choose a teacher that reads {lang!r} (teacher=xlmr_base), or train without one "
            f"(objective=direct)."
        )


def _counted(why: Reasons, mask: np.ndarray) -> dict[str, int]:
    """Rows of the mask that were dropped although they have a partner, by reason."""
    counts = {name: int((why.codes[mask] == n).sum()) for n, name in enumerate(why.names)}
    return {name: n for name, n in counts.items() if n and name != NO_PARTNER}


def _report(
    known: Meanings, kept: np.ndarray, visible: np.ndarray, has_teacher: np.ndarray, why: Reasons
) -> PairingReport:
    def count(mask: np.ndarray) -> dict[str, int]:
        by_lang = np.bincount(known.lang[mask], minlength=len(known.langs))
        return {name: int(n) for name, n in zip(known.langs, by_lang, strict=True) if n}

    without = why.codes == (why.names.index(NO_PARTNER) if NO_PARTNER in why.names else -2)
    withheld = {name: _counted(why, known.of(name)) for name in known.langs}
    return PairingReport(
        rows=count(kept),
        labelled=count(kept & visible),
        with_teacher=count(kept & has_teacher),
        without_partner=count(without),
        withheld={name: reasons for name, reasons in withheld.items() if reasons},
    )
