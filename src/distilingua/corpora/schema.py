"""What every corpus yields: one row per text, and what is known about it.

A corpus is any object with these two methods, named by `_target_` in a YAML under `conf/corpus/`:

    check(languages)   raises UserError within a second when the corpus cannot serve them; imports nothing heavy
    load(languages)    returns the rows as a `datasets.Dataset` with the columns below
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "parallel", "dev", "test")
COLUMNS = {
    "id": "unique in the corpus, the same at every load",
    "lang": "language code as the pair spells it",
    "split": "train | parallel (text whose label training may not see, kept for aligned pairs) | dev | test",
    "text": "what the model reads",
    "text_pair": 'the second sentence of a sentence pair, or ""',
    "label": "name of the class",
    "group": 'rows of one group mean the same, whatever their language; "" where nothing is aligned',
    "block": 'a coarser group, for pair.align=block; "" where there is none',
}


class Corpus(Protocol):
    def check(self, languages: list[str]) -> None: ...

    def load(self, languages: list[str]) -> Dataset: ...


def dataset_from_rows(rows: Iterable[dict[str, Any]]) -> Dataset:
    """Rows as a Dataset; columns that a corpus leaves out are filled with empty text."""
    from datasets import Dataset  # slow to import, and `check` must answer within a second

    return Dataset.from_list([{**dict.fromkeys(COLUMNS, ""), **row} for row in rows])


def dataset_from_table(
    table: Dataset, columns: dict[str, Any], lang: str, split: str, labels: list[str] | None = None
) -> Dataset:
    """One language and split of somebody else's table, in this schema.

    Args:
        table: as `datasets.load_dataset` returned it.
        columns: schema column -> column of the table. `text` may name two columns, for sentence pairs; `group: row`
            aligns tables line by line; `id` may be left out.
        lang, split: of every row here.
        labels: class names by number, for tables whose labels are numbers without names.
    """
    from datasets import ClassLabel

    texts = columns["text"] if not isinstance(columns["text"], str) else [columns["text"]]
    label = columns["label"]
    feature = table.features[label]
    names = list(feature.names) if isinstance(feature, ClassLabel) else labels
    group = columns.get("group")

    def convert(row: dict[str, Any], position: int) -> dict[str, str]:
        own = row[columns["id"]] if columns.get("id") else position
        value = row[label]
        aligned = position if group == "row" else row[group] if group else None
        return {
            "id": f"{lang}-{split}-{own}",
            "lang": lang,
            "split": split,
            "text": row[texts[0]] or "",
            "text_pair": (row[texts[1]] or "") if len(texts) > 1 else "",
            "label": "" if value is None else names[value] if names and isinstance(value, int) else str(value),
            "group": "" if aligned is None else f"{split}-{aligned}",
            "block": "",
        }

    return table.map(convert, with_indices=True, remove_columns=table.column_names, desc=f"Reading {lang} {split}")
