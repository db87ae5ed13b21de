"""Any corpus of text, spoken by eSpeak NG: speech without a download."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from datasets import Dataset

from distilingua.artifacts import stable_hash
from distilingua.corpora import espeak
from distilingua.corpora.schema import COLUMNS, SPLITS, Corpus, dataset_from_rows, each_row
from distilingua.corpora.sound import spoken
from distilingua.errors import UserError
from distilingua.extras import check_speech

SAYABLE = re.compile(r"[^\W\d_]+(?:[ '’-]+[^\W\d_]+)*")  # words and nothing else: "20 %" is said in a way nobody wrote


@dataclass
class Spoken:
    """The sentences of another corpus, each said in a voice, at a speed and at a pitch drawn by hash.

    What is said becomes the label. Sentences with digits or signs are left out: eSpeak says "20" in words that the
    text does not have.

    Args:
        corpus: where the sentences come from.
        voices: split -> variants of eSpeak NG; `parallel` speaks as `train` does. Voices of test and dev that are
            not among those of train tell whether a model has learnt speech or a speaker.
        speeds: words per minute, drawn from.
        pitches: 0 to 100, drawn from.
        limit: split -> sentences per language at most, those with the lowest hash.
        renditions: how often a sentence of train and parallel is said, in another voice every time. It costs less than
            new sentences, and a model that hears every word in many voices finds it again in a strange one.
        labels: keep only sentences with these labels in the other corpus: a narrower domain; null for all.
        max_characters: longer sentences are left out: what training costs grows with them.
        languages: language code -> eSpeak's, where it has another name.
    """

    corpus: Corpus
    voices: Mapping[str, Sequence[str]]
    speeds: Sequence[int] = (175,)
    pitches: Sequence[int] = (50,)
    limit: Mapping[str, int] = field(default_factory=dict)
    renditions: int = 1
    labels: Sequence[str] | None = None
    max_characters: int = 40
    languages: Mapping[str, str] = field(default_factory=lambda: {"zh-CN": "cmn", "pt-BR": "pt-br"})

    def check(self, languages: list[str]) -> None:
        """Raises UserError for a missing extra, a language the corpus lacks, or voices that eSpeak NG lacks."""
        check_speech()
        self.corpus.check(languages)
        for split in ("train", "dev", "test"):
            if not self.voices.get(split):
                raise UserError(f"corpus.voices has none for {split}. Name some: corpus.voices.{split}=[m1,f1].")
        for split, names in self.voices.items():
            unknown = [name for name in names if name not in espeak.variants()]
            if unknown:
                raise UserError(
                    f"corpus.voices.{split}={','.join(names)}: eSpeak NG has no variant {', '.join(unknown)}. "
                    f"Choose from: {', '.join(espeak.variants())}."
                )
        for name, values, least, most in (("speeds", self.speeds, 80, 450), ("pitches", self.pitches, 0, 100)):
            if not values or not all(least <= value <= most for value in values):
                raise UserError(f"corpus.{name}={list(values)}: expected numbers from {least} to {most}.")

    def load(self, languages: list[str]) -> Dataset:
        self.check(languages)
        return dataset_from_rows(self._rows(languages))

    def _rows(self, languages: list[str]) -> Iterator[dict[str, Any]]:
        kept: dict[tuple[str, str], dict[str, tuple[int, dict[str, Any]]]] = {
            (lang, split): {} for lang in languages for split in SPLITS
        }
        texts = self.corpus.load(languages)
        for row in each_row(texts, [name for name in COLUMNS if name in texts.column_names]):
            wanted = self.labels is None or row["label"] in self.labels
            if wanted and len(row["text"]) <= self.max_characters and SAYABLE.fullmatch(row["text"]):
                kept[row["lang"], row["split"]].setdefault(row["text"], (stable_hash(row["id"]), row))
        for (_, split), rows in kept.items():
            voices = self.voices["train" if split == "parallel" else split]
            chosen = [row for _, row in sorted(rows.values(), key=lambda entry: entry[0])[: self.limit.get(split)]]
            for row, turn in product(chosen, range(self.renditions if split in ("train", "parallel") else 1)):
                drawn = stable_hash(row["id"], turn)
                # another voice every time, while there are any
                variant = voices[(stable_hash(row["id"]) + turn) % len(voices)]
                speed, pitch = self.speeds[drawn % len(self.speeds)], self.pitches[(drawn >> 32) % len(self.pitches)]
                voice = f"{self.languages.get(row['lang'], row['lang'])}+{variant}"
                audio = spoken(row["text"], voice, int(speed), int(pitch))
                yield {**row, "id": f"{row['id']}-{turn}", "label": row["text"], "audio": audio}
