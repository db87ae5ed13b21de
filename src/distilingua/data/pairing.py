"""Applies the rules of the pair: which labels stay visible, and which text the teacher reads for each row."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from distilingua.data.protocol import Pair
from distilingua.errors import UserError


def _lot(*parts: object) -> float:
    """A number in [0, 1) drawn by hash: the same in every process and for every order of the rows."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass
class PairingReport:
    """Training rows per language: all of them, those with a visible label, those a teacher can read."""

    rows: dict[str, int]
    labelled: dict[str, int]
    with_teacher: dict[str, int]
    without_partner: dict[str, int]

    def __str__(self) -> str:
        return "; ".join(
            f"{lang}: {n} rows, {self.labelled.get(lang, 0)} labelled, {self.with_teacher.get(lang, 0)} read by the "
            f"teacher, {self.without_partner.get(lang, 0)} dropped for want of a partner"
            for lang, n in self.rows.items()
        )


def pair_rows(rows: Dataset, pair: Pair, teacher_languages: list[str] | None) -> tuple[Dataset, PairingReport]:
    """Training rows with the labels that may be seen and the ids of the texts the teacher reads in their place.

    Args:
        rows: clean rows of a corpus, any splits.
        pair: the experiment's rules.
        teacher_languages: what the teacher reads; None for all languages.

    Returns:
        The training rows, in corpus order, with `label` emptied where it may not be seen and a new column
        `teacher_rows`: ids of the rows whose text the teacher reads (the row itself, its aligned partner, or all of
        its block; empty when there is none); and the count.

    Raises:
        UserError: a teacher that does not read a target, and no row of that language has an aligned partner.
    """
    train = [
        {name: row[name] for name in ("id", "lang", "split", "label", "group", "block")}
        for row in rows.select_columns(["id", "lang", "split", "label", "group", "block"])
        if row["split"] in ("train", "parallel")
    ]
    if not any(row["split"] == "parallel" for row in train if row["lang"] == pair.source):
        for row in train:
            if row["lang"] == pair.source and _lot(pair.seed, "parallel", row["group"] or row["id"]) < pair.parallel:
                row["split"] = "parallel"
    partners = _partners(train, pair)
    # what translation would carry over: the label of whatever source text a target text is aligned with
    carried = {row["group"]: row["label"] for row in train if row["lang"] == pair.source and row["group"]}
    shown = _shots(train, pair) if pair.protocol == "few_shot" else set()

    changes: dict[str, dict[str, Any]] = {}
    without_partner: Counter[str] = Counter()
    for row in train:
        is_source = row["lang"] == pair.source
        reads_itself = is_source or teacher_languages is None or row["lang"] in teacher_languages
        aligned = partners[row["group"] if pair.align == "sentence" else row["block"]]
        partner = aligned[int(_lot(pair.seed, "partner", row["id"]) * len(aligned))] if aligned else None
        if reads_itself:
            teacher_rows = [row["id"]]
        elif partner and pair.align == "sentence":
            teacher_rows = [partner]
        else:
            teacher_rows = aligned
        label = ""
        if pair.protocol == "translate_train" and not is_source:
            label = carried.get(row["group"], "")
        elif pair.protocol == "supervised" or (is_source and row["split"] == "train") or row["id"] in shown:
            label = row["label"]
        if not teacher_rows and not label:
            without_partner[row["lang"]] += 1
            continue
        changes[row["id"]] = {"label": label, "teacher_rows": teacher_rows}
    key = "group" if pair.align == "sentence" else "block"
    read = {row["lang"] for row in train if changes.get(row["id"], {}).get("teacher_rows")}
    for lang in pair.targets:
        if teacher_languages is not None and lang not in read:
            raise UserError(
                f"teacher: it reads {', '.join(teacher_languages)}, not {lang!r}, and no {lang!r} text of this "
                f"corpus is aligned with {pair.source!r} text (column `{key}`). Give aligned rows the same {key}, "
                f"choose a teacher that reads {lang!r} (teacher=xlmr_base), or train without one (objective=direct)."
            )
    visible_rows = rows.select([i for i, row_id in enumerate(rows["id"]) if row_id in changes])
    columns = {name: visible_rows[name][:] for name in visible_rows.column_names}
    columns["label"] = [changes[row_id]["label"] for row_id in columns["id"]]
    columns["teacher_rows"] = [changes[row_id]["teacher_rows"] for row_id in columns["id"]]
    paired = Dataset.from_dict(columns)
    return paired, PairingReport(
        rows=dict(Counter(paired["lang"])),
        labelled=dict(Counter(lang for lang, label in zip(paired["lang"], paired["label"], strict=True) if label)),
        with_teacher=dict(Counter(lang for lang, t in zip(paired["lang"], paired["teacher_rows"], strict=True) if t)),
        without_partner=dict(without_partner),
    )


def _partners(train: list[dict[str, Any]], pair: Pair) -> dict[str, list[str]]:
    """Group or block -> ids of the source rows a target row may be paired with: text the teacher has no label for."""
    key = "group" if pair.align == "sentence" else "block"
    partners: dict[str, list[str]] = defaultdict(list)
    for row in train:
        if row["lang"] == pair.source and row["split"] == "parallel" and row[key]:
            partners[row[key]].append(row["id"])
    for ids in partners.values():
        ids.sort()  # whatever the order of the rows
    return partners


def _shots(train: list[dict[str, Any]], pair: Pair) -> set[str]:
    """Ids of the target rows whose labels `few_shot` shows: `shots` per class and language, drawn by hash."""
    classes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in train:
        if row["lang"] != pair.source:
            classes[row["lang"], row["label"]].append(row["id"])
    return {
        row_id
        for ids in classes.values()
        for row_id in sorted(ids, key=lambda i: _lot(pair.seed, "shot", i))[: pair.shots]
    }
