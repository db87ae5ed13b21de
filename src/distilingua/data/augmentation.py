"""Changes what the student reads, anew in every epoch. A new kind is a class with `change` and a YAML.

The teacher's answer has to stay right for the changed text. A change that may alter the meaning therefore needs a live
teacher that reads the changed text itself; `checks.py` refuses everything else.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from hydra.utils import instantiate

from distilingua.columns import Encoded, select
from distilingua.errors import UserError

Lexicon = Mapping[str, Sequence[str]]
"""Language -> words; position n of every language means the same."""


Encode = Callable[[Sequence[dict[str, Any]]], Encoded]
"""Rows as a model reads them."""


class Augmentation(ABC):
    """One way to change a text.

    Args:
        probability: of changing a row at all, 0 to 1.
        keeps_meaning: whether the soft label of the unchanged text still holds.
    """

    def __init__(self, probability: float, keeps_meaning: bool) -> None:
        if not 0 <= probability <= 1:
            raise UserError(f"augmentation: probability={probability} is outside [0, 1]. Try 0.5.")
        self.probability, self.keeps_meaning = probability, keeps_meaning

    def connect(self, corpus: Any, languages: Sequence[str]) -> None:  # noqa: B027  # most need nothing
        """Called once, before training."""

    def __call__(self, row: dict[str, Any], rng: Random) -> dict[str, Any]:
        return self.change(row, rng) if rng.random() < self.probability else row

    @abstractmethod
    def change(self, row: dict[str, Any], rng: Random) -> dict[str, Any]:
        """The row with another `text` (and `text_pair`, where there is one); `row` itself stays as it is."""


class TextAugmentation(Augmentation):
    """A change that treats both sentences of a pair alike."""

    def change(self, row: dict[str, Any], rng: Random) -> dict[str, Any]:
        return {
            **row,
            **{name: self.text(row[name], row["lang"], rng) for name in ("text", "text_pair") if row[name]},
        }

    @abstractmethod
    def text(self, text: str, lang: str, rng: Random) -> str: ...


def words_of(text: str) -> tuple[list[str], str]:
    """Words and what joins them; the characters of a text that has no spaces."""
    words = text.split()
    return (words, " ") if len(words) > 1 else (list(text), "")


class WordDropout(TextAugmentation):
    """Leaves out every word with probability `rate`, never all of them (Iyyer et al. 2015, section 3)."""

    def __init__(self, rate: float = 0.1, probability: float = 0.5, keeps_meaning: bool = False) -> None:
        super().__init__(probability, keeps_meaning)
        self.rate = rate

    def text(self, text: str, lang: str, rng: Random) -> str:
        words, joint = words_of(text)
        kept = [word for word in words if rng.random() >= self.rate]
        return joint.join(kept or [rng.choice(words)])


class Carriers(TextAugmentation):
    """Puts words around a text, or among its own, that people say with a request and that do not change it: one or two
    of "please", "could you", "mal" by the language of the row. Texts of other languages stay as they are."""

    def __init__(self, probability: float = 0.5, keeps_meaning: bool = True) -> None:
        super().__init__(probability, keeps_meaning)
        self._known = yaml.safe_load(Path(__file__).with_name("carriers.yaml").read_text("utf-8"))

    def text(self, text: str, lang: str, rng: Random) -> str:
        if (known := self._known.get(lang.partition("-")[0])) is None:
            return text
        for place in rng.sample(sorted(known), rng.choice((1, 1, 2))):
            words, said = text.split(), rng.choice(known[place])
            at = {"before": 0, "after": len(words)}.get(place, rng.randint(min(1, len(words)), len(words)))
            text = " ".join([*words[:at], said, *words[at:]])
        return text


class SpanDeletion(TextAugmentation):
    """Leaves out one run of words, of at most `share` of the text and never all of it (Wu et al. 2020, CLEAR)."""

    def __init__(self, share: float = 0.3, probability: float = 0.5, keeps_meaning: bool = False) -> None:
        super().__init__(probability, keeps_meaning)
        self.share = share

    def text(self, text: str, lang: str, rng: Random) -> str:
        words, joint = words_of(text)
        longest = min(int(self.share * len(words)), len(words) - 1)
        if longest < 1:
            return text
        length = rng.randint(1, longest)
        start = rng.randint(0, len(words) - length)
        return joint.join(words[:start] + words[start + length :])


class CharacterNoise(TextAugmentation):
    """Typing errors: a letter doubled, left out, or swapped with its neighbour, each with probability `rate` / 3.

    First letters stay, and so do words of three letters or fewer (Belinkov and Bisk 2018, section 4).
    """

    def __init__(self, rate: float = 0.05, probability: float = 0.5, keeps_meaning: bool = True) -> None:
        super().__init__(probability, keeps_meaning)
        self.rate = rate

    def text(self, text: str, lang: str, rng: Random) -> str:
        return re.sub(r"\w{4,}", lambda word: self._mistype(word[0], rng), text)

    def _mistype(self, word: str, rng: Random) -> str:
        letters, at = list(word), 1
        while at < len(letters):
            lot = rng.random() / self.rate if self.rate else 1.0
            if lot < 1 / 3:
                letters.insert(at, letters[at])
                at += 1
            elif lot < 2 / 3:
                del letters[at]
            elif lot < 1 and at + 1 < len(letters):
                letters[at : at + 2] = reversed(letters[at : at + 2])
                at += 1
            at += 1
        return "".join(letters)


class SwapPair(Augmentation):
    """Exchanges the two sentences of a pair: right for paraphrases, wrong for inference, hence off by default there."""

    def __init__(self, probability: float = 0.5, keeps_meaning: bool = False) -> None:
        super().__init__(probability, keeps_meaning)

    def change(self, row: dict[str, Any], rng: Random) -> dict[str, Any]:
        return {**row, "text": row["text_pair"], "text_pair": row["text"]} if row["text_pair"] else row


class CodeSwitching(TextAugmentation):
    """Replaces words by those of another language of the pair, each with probability `rate` (Qin et al. 2020).

    Args:
        lexicon: a file of tab-separated words, languages in its first line, one meaning a line; null takes the
            corpus' own aligned words.
    """

    def __init__(
        self, rate: float = 0.5, probability: float = 0.5, keeps_meaning: bool = True, lexicon: str | None = None
    ) -> None:
        super().__init__(probability, keeps_meaning)
        self.rate, self.lexicon = rate, lexicon
        self.words: dict[str, dict[str, list[str]]] = {}
        self.patterns: dict[str, re.Pattern[str]] = {}

    def connect(self, corpus: Any, languages: Sequence[str]) -> None:
        lexicon = self._aligned_words(corpus, languages)
        missing = [lang for lang in languages if lang not in lexicon]
        if missing:
            raise UserError(
                f"augmentation.code_switching: the lexicon has no words in {', '.join(missing)}; it has "
                f"{', '.join(lexicon)}. Add a column, or leave code_switching out."
            )
        for lang in languages:
            others: dict[str, list[str]] = {}
            for n, word in enumerate(lexicon[lang]):
                others.setdefault(word.casefold(), []).extend(lexicon[x][n] for x in languages if x != lang)
            self.words[lang] = others
            longest_first = sorted(others, key=len, reverse=True)
            self.patterns[lang] = re.compile("|".join(map(_as_whole_word, longest_first)), re.IGNORECASE)

    def _aligned_words(self, corpus: Any, languages: Sequence[str]) -> Lexicon:
        if self.lexicon is not None:
            if not Path(self.lexicon).is_file():
                raise UserError(f"augmentation.code_switching.lexicon={self.lexicon}: no such file.")
            with Path(self.lexicon).open(encoding="utf-8-sig") as file:
                names, *lines = csv.reader(file, delimiter="\t")
            return {name: [line[n] for line in lines if len(line) == len(names)] for n, name in enumerate(names)}
        if not hasattr(corpus, "lexicon"):
            raise UserError(
                "augmentation.code_switching: this corpus brings no aligned words. Give a file: "
                "augmentation.code_switching.lexicon=words.tsv, with languages in its first line and tabs between."
            )
        return corpus.lexicon(languages)

    def text(self, text: str, lang: str, rng: Random) -> str:
        def switch(word: re.Match[str]) -> str:
            return rng.choice(self.words[lang][word[0].casefold()]) if rng.random() < self.rate else word[0]

        return self.patterns[lang].sub(switch, text)


def _as_whole_word(word: str) -> str:
    """Not inside another word; scripts that write no spaces (and others whose letters have no case) match anywhere."""
    spaced = unicodedata.category(word[0]) != "Lo"
    return rf"(?<!\w){re.escape(word)}(?!\w)" if spaced else re.escape(word)


class AugmentedRows:
    """Training rows whose text changes with the epoch; which change depends on seed, row and epoch alone.

    Args:
        lessons: the rows, see `datamodule.Lessons`.
        augmentations: by name, applied in order.
        encode: texts to the student's pieces.
        encode_for_teacher: the same for a live teacher that reads the student's text; None for all others.
        seed: of the changes.
    """

    def __init__(
        self,
        lessons: Any,
        augmentations: Mapping[str, Augmentation],
        encode: Encode,
        encode_for_teacher: Encode | None,
        seed: int,
    ) -> None:
        self.lessons, self.augmentations, self.seed = lessons, augmentations, seed
        self.encode, self.encode_for_teacher = encode, encode_for_teacher

    def __len__(self) -> int:
        return len(self.lessons)

    def __getitems__(self, indices: Sequence[tuple[int, int]]) -> Any:
        """A batch, see `datamodule.Batch`: `(row, epoch)` of each row."""
        numbers = np.array([row for row, _ in indices])
        rows = select(self.lessons.rows, numbers).to_list()
        changed, rescored = [], []
        for n, (row, (_, epoch)) in enumerate(zip(rows, indices, strict=True)):
            text, rescore = self._change(row, epoch)
            changed.append(text)
            if rescore and row.get("teacher_texts") == [row.get("number")]:
                rescored.append(n)
        teacher_reads = None
        if rescored and self.encode_for_teacher is not None:
            teacher_reads = dict(zip(rescored, self.encode_for_teacher([changed[n] for n in rescored]), strict=True))
        return self.lessons.batch(numbers, self.encode(changed), changed, teacher_reads)

    def _change(self, row: dict[str, Any], epoch: int) -> tuple[dict[str, Any], bool]:
        """The row with its text of this epoch, and whether the teacher has to read it anew."""
        before, rescore = row, False
        for name, augmentation in self.augmentations.items():
            changed = augmentation(row, Random(f"{self.seed}/{before['id']}/{epoch}/{name}"))
            rescore |= not augmentation.keeps_meaning and changed["text"] != row["text"]
            row = changed
        return row, rescore


def make_augmentations(settings: Mapping[str, Any], corpus: Any, languages: Sequence[str]) -> dict[str, Augmentation]:
    """By name, ready for use.

    Args:
        settings: `augmentation` of the configuration.
    """
    made: dict[str, Augmentation] = {name: instantiate(one) for name, one in settings.items()}
    for augmentation in made.values():
        augmentation.connect(corpus, languages)
    return made
