"""What every corpus yields: one row per text, and what is known about it.

A corpus is any object with these two methods, named by `_target_` in a YAML under `conf/corpus/`:

    check(languages)   raises UserError within a second when the corpus cannot serve them; imports nothing heavy
    load(languages)    returns the rows as a `datasets.Dataset` with the columns below
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from distilingua.corpora.sound import of_cell
from distilingua.corpora.words import tagged
from distilingua.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "parallel", "dev", "test")
HELD_OUT = ("dev", "test")
COLUMNS = {
    "id": "unique in the corpus, the same at every load",
    "lang": "language code as the pair spells it",
    "split": "train | parallel (text whose label training may not see, kept for aligned pairs) | dev | test",
    "text": "what the model reads",
    "text_pair": 'the second sentence of a sentence pair, or ""',
    "label": 'what is to be learnt, as the task spells it: a class, tags, an answer, a text; "" for unknown',
    "group": 'rows of one group mean the same, whatever their language; "" where nothing is aligned',
    "block": 'a coarser group, for pair.align=block; "" where there is none',
    "audio": 'where sound comes from, see corpora/sound.py; "" for text',
    "spans": "JSON, [[value, start, end], …], in characters of the text (of text_pair, where there is one): stretches "
    'that mean the same wherever aligned rows have an equal value; "" where nothing is known',
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
        columns: schema column -> column of the table. `text` may name two columns, for sentence pairs, or one of
            tokens, whose `label` is a list of tags; `label` may be answers as SQuAD has them; `group: row` aligns
            tables line by line; `id` and `label` may be left out. A dot leads into a column of fields, and `{lang}`
            stands for the language: `translation.{lang}`.
        lang, split: of every row here.
        labels: class names by number, for tables whose labels are numbers without names.
    """
    from datasets import Audio, ClassLabel, Features, Value

    if columns.get("audio"):
        table = table.cast_column(columns["audio"], Audio(decode=False))  # read by soundfile, row by row
    texts = columns["text"] if not isinstance(columns["text"], str) else [columns["text"]]
    texts = [name.replace("{lang}", lang) for name in texts]
    label = (columns.get("label") or "").replace("{lang}", lang)
    feature = table.features.get(label)
    feature = getattr(feature, "feature", feature)  # of a list of tags, that of one
    names = list(feature.names) if isinstance(feature, ClassLabel) else labels
    group = columns.get("group")

    def convert(row: dict[str, Any], position: int) -> dict[str, str]:
        own = _whole(row[columns["id"]]) if columns.get("id") else position
        first, said = _field(row, texts[0]), _field(row, label) if label else None
        if isinstance(first, list):  # tokens and their tags
            text, name = tagged([_text(token) for token in first], [_class_name(tag, names) for tag in said or ()])
        else:
            text, name = _text(first), _class_name(_whole(said), names)
        sound = columns.get("audio")
        aligned = position if group == "row" else _whole(row[group]) if group else None
        return {
            "id": f"{lang}-{split}-{own}",
            "lang": lang,
            "split": split,
            "text": text,
            "text_pair": _text(_field(row, texts[1])) if len(texts) > 1 else "",
            "label": name,
            "group": "" if aligned is None else f"{split}-{aligned}",
            "block": _text(_whole(row[columns["block"]])) if columns.get("block") else "",
            "audio": of_cell(row[sound]) if sound else "",
            "spans": _text(row[columns["spans"]]) if columns.get("spans") else "",
        }

    return table.map(
        convert,
        with_indices=True,
        remove_columns=table.column_names,
        features=Features(
            {name: Value("string") for name in COLUMNS}
        ),  # or a column of theirs keeps its type by its name
        desc=f"Reading {lang} {split}",
    )


def require_columns(columns: dict[str, Any], found: list[str], where: str) -> None:
    """Raises UserError for columns that a table does not have.

    Args:
        columns: schema column -> column of the table, as for `dataset_from_table`.
        found: what the table has.
        where: the table, for the message.
    """
    named = [(key, c) for key, v in columns.items() if v for c in ([v] if isinstance(v, str) else v)]
    missing = {c: key for key, c in named if c not in found and c != "row"}
    if missing:
        raise UserError(
            f"corpus: {where} has no column {', '.join(map(repr, missing))}; it has {', '.join(found)}. "
            f"Name the right ones under corpus.columns, e.g. corpus.columns.{next(iter(missing.values()))}={found[0]}."
        )


def _answers(value: dict[str, Any] | list[dict[str, Any]]) -> str:
    """Answers of a row in the style of SQuAD, as the label of a question; what is none stays, for `problem` to find."""
    try:
        if isinstance(value, dict):
            value = [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
        value = [{"text": a["text"], "start": a["answer_start"]} for a in value]
    except (KeyError, TypeError, ValueError):
        pass
    return json.dumps(value, ensure_ascii=False)


def _field(row: dict[str, Any], name: str) -> Any:
    """A column, or a field of one: `translation.de`. A column that has the dot in its own name is itself."""
    if name in row:
        return row[name]
    column, _, field = name.partition(".")
    return row[column][field]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _whole(value: Any) -> Any:
    """Whole numbers become floats in a column with gaps; 1.0 is 1 again."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _class_name(value: Any, names: list[str] | None) -> str:
    if isinstance(value, dict) or (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
        return _answers(value)
    if value is None or (names and isinstance(value, int) and value < 0):
        return ""  # data sets hide a label as -1
    if not names or not isinstance(value, int):
        return str(value)
    if value >= len(names):
        raise UserError(
            f"corpus: there is a label {value}, and names for 0 to {len(names) - 1} only: {', '.join(names)}. "
            f"Name them all: corpus.labels=[{','.join([*names, '...'])}]."
        )
    return names[value]
