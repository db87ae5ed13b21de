"""What a run says of its rows before it trains: by what labels are hidden, and ids that look like documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.cleaning import Cleaning
from distilingua.data.protocol import Pair
from distilingua.data.rows import load_rows
from distilingua.tasks.text_classification import TextClassification

ROWS = 60  # of every split


@dataclass
class Numbered:
    """Two languages, whose rows have ids of a shape, `{}` for the row's number.

    Args:
        aside: how many rows of train are of the split "parallel" instead.
    """

    ids: str = "{lang}-{split}-{n}"
    cluster: str = ""
    aside: int = 0
    columns: dict[str, str] = field(default_factory=lambda: {"text": "text"})

    def check(self, languages: list[str]) -> None: ...

    def load(self, languages: list[str]) -> Any:
        return dataset_from_rows(
            {
                "id": self.ids.format(lang=lang, split=split, n=n, document=n // 4),
                "lang": lang,
                "split": "parallel" if split == "train" and n < self.aside else split,
                "text": f"{lang} text {n} of {split}",
                "label": "ab"[n % 2],
                "group": f"{split} {n}",
                "cluster": self.cluster and f"{self.cluster} {n}",
            }
            for lang in languages
            for split in ("train", "dev", "test")
            for n in range(ROWS)
        )


@dataclass
class WithShare(Numbered):
    parallel: float = 0.5


@dataclass
class WithSplits(Numbered):
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "parallel": "aside"})


@dataclass
class Made:
    """Of another corpus."""

    corpus: Any

    def check(self, languages: list[str]) -> None: ...

    def load(self, languages: list[str]) -> Any:
        return self.corpus.load(languages)


def notes(corpus: Any, pair: Pair | None = None, teacher: list[str] | None = None, task: Any = None) -> list[str]:
    rows = load_rows(corpus, Cleaning(), pair or Pair("en", ["de"]), teacher, task=task or TextClassification())
    return rows.cleaning.notes


@pytest.mark.parametrize(
    ("corpus", "key"),
    [
        (WithShare(aside=20), "corpus.parallel=0.5"),
        (Made(WithShare(aside=20)), "corpus.corpus.parallel=0.5"),
        (WithSplits(aside=20), "corpus.splits.parallel=aside"),
        (Numbered(aside=20), "corpus: its split=parallel"),
    ],
)
def test_the_key_that_hides_labels_is_named(corpus: Any, key: str) -> None:
    told = f"20 of 60 labels of 'en' are hidden, as their texts serve as aligned text: {key}."
    assert notes(corpus, teacher=["en"]) == [told]


def test_so_is_that_of_the_pair() -> None:
    text = ", as their texts serve as aligned text"
    pair = Pair("en", ["de"], parallel=0.5)
    assert notes(Numbered(), pair, ["en"]) == [f"30 of 60 labels of 'en' are hidden{text}: pair.parallel=0.5."]
    assert notes(Numbered(), pair) == []  # a teacher that reads German needs none
    few = Pair("en", ["de"], labels=0.5)
    assert notes(Numbered(), few) == ["30 of 60 labels of 'en' are hidden, as pair.labels=0.5 says."]


@pytest.mark.parametrize("shape", ["doc{document}-{n}", "page_{document}#{n}", "a/b/{document}:{n}", "{document}.{n}"])
def test_ids_of_documents_are_told(shape: str) -> None:
    (note,) = notes(Numbered("{lang}-{split}-" + shape))
    first = shape.format(document=0, n=0)
    assert f"'en-test-{first}', 120 test rows seem to be of 30 documents" in note
    assert note.endswith("corpus.columns.cluster=COLUMN.")
    (note,) = notes(Made(Numbered("{lang}-{split}-" + shape)))
    assert note.endswith("corpus.corpus.columns.cluster=COLUMN.")


@pytest.mark.parametrize(
    "corpus",
    [
        Numbered(),  # numbers of a file's rows
        Numbered("{lang}-{split}-row-{n}"),
        Numbered("{lang}-{split}-{n}-{document}"),  # every row begins in its own way
        Numbered("{lang}-{split}-doc{document}-{n}b"),
        Numbered("{lang}-{split}-doc{document}-{n}", cluster="speaker"),
        Numbered("{lang}-{split}-doc{document}-{n}", columns={}),
    ],
)
def test_other_ids_are_not(corpus: Numbered) -> None:
    if not corpus.columns:
        del corpus.columns  # a corpus that has no such key
    assert notes(corpus) == []
