"""Sentences whose label is their translation into one language, from any corpora that align by `group`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from distilingua.artifacts import fingerprint
from distilingua.columns import by_value, codes, codes_of, column, filled, texts_of, where, with_columns
from distilingua.corpora.schema import HELD_OUT, Corpus, each_row
from distilingua.errors import UserError


@dataclass
class Translations:
    """Rows of one corpus, labelled with what a sentence of equal `group` says in another language.

    A group may offer several translations; one is chosen by hash, by the templates' names within a block where ids are
    `TEMPLATE-DRAW`, so that a block is always translated in the same way. Rows without any are left out. Splits are
    those of the sentences that are translated.

    Args:
        corpus: the sentences to translate.
        answers: where translations come from; may be the same corpus, with other settings.
        into: the language of all translations.
        unseen: leave training rows out whose translation a dev or test row has too, so that what is judged has to be
            put together anew. A block that would lose all its rows in a language keeps them: "what time is it" can be
            said in one way only.
    """

    corpus: Corpus
    answers: Corpus
    into: str
    unseen: bool = True

    def check(self, languages: list[str]) -> None:
        """Raises UserError for what either corpus refuses, and for a language that would be translated into itself."""
        if self.into in languages:
            others = [lang for lang in languages if lang != self.into]
            raise UserError(
                f"corpus.into={self.into}: sentences of {self.into!r} would be their own translation. The pair is who "
                f"is translated ({', '.join(others) or 'nobody'}): leave {self.into!r} out of it, or choose another "
                f"corpus.into."
            )
        self.corpus.check(languages)
        self.answers.check([self.into])

    def load(self, languages: list[str]) -> Dataset:
        """
        Raises:
            UserError: see `check`; and no row of a language has a translation.
        """
        self.check(languages)
        best: dict[str, tuple[tuple[str, str], str]] = {}
        for row in each_row(self.answers.load([self.into]), ["id", "group", "block", "text"]):
            rank = fingerprint([row["block"], row["id"].rpartition("-")[0]]), row["id"]
            if row["group"] and row["text"] and (row["group"] not in best or rank < best[row["group"]][0]):
                best[row["group"]] = rank, row["text"]
        rows = self.corpus.load(languages)
        found = by_value(column(rows, "group"), lambda group: best[group][1] if group in best else "")
        keep = filled(found)
        langs, known = codes_of(rows, "lang")
        for lang in languages:
            if lang not in known or not keep[langs == known.index(lang)].any():
                raise UserError(
                    f"corpus.into={self.into}: no {lang!r} row has the group of a {self.into!r} row, so nothing is a "
                    f"translation. Give rows that mean the same an equal group (corpus.corpus.columns.group=KEY)."
                )
        if self.unseen:
            texts, _ = codes(found)
            held_out = np.isin(texts_of(rows, "split"), HELD_OUT)
            seen = keep & ~held_out & np.isin(texts, texts[keep & held_out])
            blocks, _ = codes(pc.binary_join_element_wise(column(rows, "lang"), column(rows, "block"), "\0"))
            others = np.zeros(len(rows), dtype=bool)  # by block: whether rows of it are left
            others[blocks[keep & ~held_out & ~seen]] = True
            keep &= ~(seen & others[blocks])
        return where(with_columns(rows, {"label": found}), keep)


@dataclass
class Joined:
    """Several corpora as one, such as one to train on and another to be judged by.

    Args:
        corpora: by any names; no two may have a row of the same id.
    """

    corpora: dict[str, Corpus]

    def check(self, languages: list[str]) -> None:
        for corpus in self.corpora.values():
            corpus.check(languages)

    def load(self, languages: list[str]) -> Dataset:
        return concatenate_datasets([corpus.load(languages) for corpus in self.corpora.values()])
