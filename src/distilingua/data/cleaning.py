"""Text cleaning, and an account of what it dropped."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import ftfy
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from distilingua.artifacts import cached, code_fingerprint, rows_fingerprint
from distilingua.columns import (
    blocks,
    codes,
    codes_of,
    column,
    filled,
    first_of_each,
    first_places,
    on_disk,
    strings,
    with_columns,
)

MARKUP = re.compile(r"<[a-zA-Z/!][^<>]*>")
URL = re.compile(r"(?:https?://|www\.)[!-~]+")  # ASCII: in scripts without spaces, the sentence goes on right behind it
SIMPLE, MARKED = r"^([!-~]+( [!-~]+)*)?$", r"[<&]|://|www\."
KEY = 16  # bytes
ORDER = {"test": 0, "dev": 1, "train": 2, "parallel": 3}


@dataclass
class CleaningReport:
    """Rows seen, rows dropped by each rule, `{lang: {rule: rows}}`, and what else was done to them, in sentences."""

    seen: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = []
        for lang, seen in self.seen.items():
            rules = ", ".join(f"{rule} {n}" for rule, n in self.dropped.get(lang, {}).items()) or "nothing"
            parts.append(f"{lang}: {seen} rows, dropped {rules}")
        return "; ".join(parts)

    def count(self, lang: str, names: Sequence[str], found: np.ndarray) -> None:
        """Adds rows of a language that were dropped, by the number of the rule."""
        for n, name in enumerate(names):
            if dropped := int((found == n).sum()):
                rules = self.dropped.setdefault(lang, {})
                rules[name] = rules.get(name, 0) + dropped


@dataclass
class Cleaning:
    """Rules for the text of every row, in this order. Labels stay as they are, translations too: models are to write,
    and are judged by, what people write, such as full-width commas.

    Args:
        repair: mend mojibake (ftfy) and unify compatible characters (Unicode NFKC).
        markup: take out HTML/XML tags and unescape entities.
        url: what a URL becomes; null leaves URLs alone.
        min_characters, max_characters: rows outside are dropped (`too_short`, `too_long`).
        duplicates: drop a row whose text (case folded) occurred before with the same
            sound, if any: two recordings of a text are two rows. Within a language, test goes first, then dev,
            then train, then parallel, so a held-out text is never trained on, and text kept for aligned pairs was
            never seen with its label. Between languages, the earlier one goes first, and no text of one is both
            trained on and held out. So the first language, the source, does not depend on the others, and one teacher
            serves every pair.
    """

    repair: bool = True
    markup: bool = True
    url: str | None = "<url>"
    min_characters: int = 1
    max_characters: int = 2000
    duplicates: bool = True

    def text(self, text: str) -> str:
        if self.markup:
            text = html.unescape(MARKUP.sub(" ", text))
        if self.repair:
            text = unicodedata.normalize("NFKC", ftfy.fix_text(text))
        if self.url is not None:
            text = URL.sub(self.url, text)
        # Cc: control, Cs: surrogate, Co: private use. Zero-width joiners (Cf) stay: Indic scripts and emoji need them.
        text = "".join(c if unicodedata.category(c) not in ("Cc", "Cs", "Co") else " " for c in text)
        return " ".join(text.split())

    def __call__(
        self, rows: Dataset, untouched: Collection[str] = (), cache: Path | None = None
    ) -> tuple[Dataset, CleaningReport]:
        """All rows, in the same order, with clean text and a column `why`: the rule by which a row is dropped, "" where
        it stays; and how many each rule dropped.

        Args:
            untouched: columns that stay letter for letter, because labels point into them.
            cache: keeps clean text, which takes longer to make than to read.
        """
        mended = [name for name in ("text", "text_pair") if name not in untouched]
        clean = self._cleaned(rows, mended, cache)
        why, notes = self._dropped_by(clean)
        found = with_columns(clean.remove_columns("key"), {"why": why.to_arrow()})
        lang, langs = codes_of(rows, "lang")
        report = CleaningReport({name: int((lang == n).sum()) for n, name in enumerate(langs)}, notes=notes)
        for n, name in enumerate(langs):
            report.count(name, why.names, why.codes[lang == n])
        return found, report

    def _cleaned(self, rows: Dataset, mended: Sequence[str], cache: Path | None) -> Dataset:
        """The rows with clean text, and `key`: a hash of what two rows have in common that say the same."""
        schema = rows.data.schema.remove_metadata().append(pa.field("key", pa.binary(KEY)))

        def written() -> Iterator[pa.Table]:
            for block in blocks(rows, rows.column_names):
                for name in mended:
                    place = block.column_names.index(name)
                    block = block.set_column(place, name, self._clean_column(block.column(name)))
                pairs = zip(block.column("text").to_pylist(), block.column("text_pair").to_pylist(), strict=True)
                keys = pa.array((_key(*pair) for pair in pairs), pa.binary(KEY))
                yield block.append_column("key", keys).cast(schema)

        if cache is None:
            return on_disk(written(), schema)
        settings = {name: getattr(self, name) for name in ("repair", "markup", "url")}
        recipe = {"rows": rows_fingerprint(rows, rows.column_names), "mended": mended, **settings}
        recipe["code"] = code_fingerprint(self)
        folder = cached(cache, "rows", recipe, lambda place: on_disk(written(), schema, place / "rows.arrow"))
        return Dataset.from_file(str(folder / "rows.arrow"))

    def _clean_column(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """Most text needs nothing: words of ASCII with single spaces between them, in which no rule finds a thing."""
        simple = pc.and_(pc.match_substring_regex(texts, SIMPLE), pc.invert(pc.match_substring_regex(texts, MARKED)))
        if pc.all(simple).as_py():
            return texts
        found = texts.to_pylist()
        for n in np.flatnonzero(~np.asarray(simple)):
            found[n] = self.text(found[n])
        return pa.chunked_array([strings(found)])

    def _dropped_by(self, rows: Dataset) -> tuple[Reasons, list[str]]:
        """The rule by which each row is dropped, and in sentences what may be a surprise."""
        texts = column(rows, "text")
        length = pc.add(pc.utf8_length(texts), pc.utf8_length(column(rows, "text_pair"))).to_numpy()
        why = Reasons(len(rows))
        why.give("empty", ~filled(texts))
        why.give("too_short", length < self.min_characters)
        why.give("too_long", length > self.max_characters)
        keys = {"too_short": "min_characters", "too_long": "max_characters"}
        counts = {name: int((why.codes == why.names.index(name)).sum()) for name in keys}
        notes = [
            f"{n} rows are {name.replace('_', ' ')} and left out: cleaning.{keys[name]}={getattr(self, keys[name])}."
            for name, n in counts.items()
            if n
        ]
        if self.duplicates and (lost := self._drop_duplicates(rows, why)):
            notes.append(
                f"{lost} rows have a text that an earlier row has with another label, and are left out. If a text has "
                f"several labels, write one row with a list of them (task=labels); cleaning.duplicates=false keeps all."
            )
        return why, notes

    def _drop_duplicates(self, rows: Dataset, why: Reasons) -> int:
        """Who comes first keeps a text: what is judged before what is trained on, earlier languages before later ones.
        What the first row with a text is decides what may become of the others.

        Returns:
            How many of those that are dropped have another label than the first.
        """
        split, splits = codes_of(rows, "split")
        lang, _ = codes_of(rows, "lang")  # numbered in the order in which they come
        turn = np.array([ORDER[name] for name in splits], dtype=np.int64)[split]
        order = np.lexsort((turn, lang))
        order = order[why.codes[order] < 0]
        text, sound = codes_of(rows, "key")[0][order], codes_of(rows, "audio")[0][order]
        lang, turn = lang[order], turn[order]
        held_out = turn < ORDER["train"]
        first = first_places(text)
        began_held_out, began_as = held_out[first], turn[first]
        # the same words in another recording are another row; held-out rows of two languages are judged apart
        spoken = _numbered(text, sound)
        again = ~first_of_each(_numbered(spoken, np.where(held_out, 1 + lang, 0)))
        for name, mask in (
            ("duplicate", held_out & began_held_out & again),
            ("in_training", held_out & ~began_held_out),
            ("in_test_or_dev", ~held_out & began_held_out),
            ("duplicate", ~held_out & ~began_held_out & (again | (turn != began_as))),
        ):
            found = np.zeros(len(rows), dtype=bool)
            found[order[mask]] = True
            why.give(name, found)
        label = codes(pc.utf8_trim_whitespace(column(rows, "label")))[0][order]
        return int(((label != label[first]) & (why.codes[order] >= 0) & filled(column(rows, "label"))[order]).sum())


class Reasons:
    """Why each row is not used, as a column that is filled step by step: the first reason stays.

    Attributes:
        names: the reasons.
        codes: (rows,) which of them, -1 for none.
    """

    def __init__(self, rows: int) -> None:
        self.names: list[str] = []
        self.codes = np.full(rows, -1, np.int64)

    def give(self, name: str, mask: np.ndarray) -> None:
        """Gives a reason to rows that have none yet."""
        if name not in self.names:
            self.names.append(name)
        self.codes[mask & (self.codes < 0)] = self.names.index(name)

    def to_arrow(self) -> pa.Array:
        """As text, "" for none."""
        return strings(["", *self.names]).take(pa.array(self.codes + 1))


def _key(text: str, pair: str) -> bytes:
    """Of what is compared: two texts, whatever their case. 128 bits: no two texts ever share them."""
    return blake2b(f"{text.casefold()}\0{pair.casefold()}".encode("utf-8", "surrogatepass"), digest_size=KEY).digest()


def _numbered(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A number for every combination of two numbers, from 0 on."""
    joined = one.astype(np.int64) * (int(other.max(initial=0)) + 1) + other
    return codes(pa.chunked_array([pa.array(joined)]))[0]
