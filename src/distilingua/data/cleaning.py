"""Text cleaning, and an account of what it dropped."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import ftfy
from datasets import Dataset

from distilingua.corpora.schema import HELD_OUT

MARKUP = re.compile(r"<[a-zA-Z/!][^<>]*>")
URL = re.compile(r"(?:https?://|www\.)[!-~]+")  # ASCII: in scripts without spaces, the sentence goes on right behind it


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

    def __call__(self, rows: Dataset, untouched: Collection[str] = ()) -> tuple[Dataset, CleaningReport]:
        """Clean rows, in the same order, and what was dropped.

        Args:
            untouched: columns that stay letter for letter, because labels point into them.
        """
        mended = [name for name in ("text", "text_pair") if name not in untouched]
        if mended:
            rows = rows.map(
                lambda batch: {name: [self.text(t) for t in batch[name]] for name in mended},
                batched=True,
                desc="Cleaning",
            )
        dropped: dict[str, Counter[str]] = {}
        keep: list[int] = []
        held_out: set[tuple[str, str]] = set()
        trained: dict[tuple[str, str], str] = {}  # the split it is in
        heard: set[tuple[str, ...]] = set()  # texts, each with its sound, if it has one
        sounds = rows["audio"][:] if "audio" in rows.column_names else [""] * len(rows)
        langs, splits = rows["lang"][:], rows["split"][:]  # lists: a column is slow to index
        texts = [(a.casefold(), b.casefold()) for a, b in zip(rows["text"][:], rows["text_pair"][:], strict=True)]
        order = {"test": 0, "dev": 1, "train": 2, "parallel": 3}
        turn = {lang: n for n, lang in enumerate(dict.fromkeys(langs))}
        # who comes first keeps a text: what is judged before what is trained on, earlier languages before later ones
        for i in sorted(range(len(texts)), key=lambda i: (turn[langs[i]], order[splits[i]])):
            lang, key = langs[i], texts[i]
            length = len(key[0]) + len(key[1])
            rule = None
            if not key[0]:
                rule = "empty"
            elif length < self.min_characters:
                rule = "too_short"
            elif length > self.max_characters:
                rule = "too_long"
            elif self.duplicates:
                if splits[i] in HELD_OUT:
                    # languages are judged apart: the same words may stand in the test sets of two of them
                    again = (lang, *key, sounds[i]) in heard
                    rule = "duplicate" if again else "in_training" if key in trained else None
                    if rule is None:
                        held_out.add(key)
                        heard.add((lang, *key, sounds[i]))
                else:
                    again = trained.get(key, splits[i]) != splits[i] or (*key, sounds[i]) in heard
                    rule = "in_test_or_dev" if key in held_out else "duplicate" if again else None
                    if rule is None:
                        trained[key] = splits[i]
                        heard.add((*key, sounds[i]))
            if rule:
                dropped.setdefault(lang, Counter())[rule] += 1
            else:
                keep.append(i)
        report = CleaningReport(dict(Counter(langs)), {lang: dict(rules) for lang, rules in dropped.items()})
        return rows.select(sorted(keep)), report
