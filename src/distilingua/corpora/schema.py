"""What every corpus yields: one row per text, and what is known about it.

A corpus is any object with these two methods, named by `_target_` in a YAML under `conf/corpus/`:

    check(languages)   raises UserError within a second when the corpus cannot serve them; imports nothing heavy
    load(languages)    returns the rows as a `datasets.Dataset` with the columns below
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from distilingua.columns import blocks, by_value, strings, values_of
from distilingua.corpora.sound import of_cell
from distilingua.corpora.words import parsed, tagged
from distilingua.errors import UserError

SPLITS = ("train", "parallel", "dev", "test")
HELD_OUT = ("dev", "test")
NUMBER = re.compile(r"\s*-?[0-9]{1,9}(?:\.0+)?\s*")  # a class by its number, as text
UNSEEN = re.compile(  # signs of direction and of no width; joiners inside of a word stay, some scripts need them
    "[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]|(?<!\\S)[\u200c\u200d]+|[\u200c\u200d]+(?!\\S)"
)
COLUMNS = {
    "id": "unique in the corpus, the same at every load",
    "lang": "language code as the pair spells it",
    "split": "train | parallel (text whose label training may not see, kept for aligned pairs) | dev | test",
    "text": "what the model reads",
    "text_pair": 'the second sentence of a sentence pair, or ""',
    "label": 'what is to be learnt, as the task spells it: a class, tags, an answer, a text; "" for unknown',
    "group": 'rows of one group mean the same, whatever their language; "" where nothing is aligned',
    "block": 'a coarser group, for pair.align=block; "" where there is none',
    "cluster": "what stands and falls together, such as the rows of a template or a speaker: intervals are over these; "
    '"" where nothing is known',
    "audio": 'where sound comes from, see corpora/sound.py; "" for text',
    "spans": "JSON, [[value, start, end], …], in characters of the text (of text_pair, where there is one): stretches "
    'that mean the same wherever aligned rows have an equal value; "" where nothing is known',
}

SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
AS_JSON = {b"distilingua": b"json"}
"""Of a field of Arrow: its text is JSON, of cells that have no type in common."""


class Corpus(Protocol):
    def check(self, languages: list[str]) -> None: ...

    def load(self, languages: list[str]) -> Dataset: ...


def notes_of(corpus: Any) -> list[str]:
    """What a corpus, and those it is made of, did with its files that somebody may not expect, in sentences."""
    inside = getattr(corpus, "corpora", None) or {k: getattr(corpus, k, None) for k in ("corpus", "answers")}
    return [*getattr(corpus, "notes", ()), *(note for one in inside.values() if one for note in notes_of(one))]


def option_of(corpus: Any, name: str, key: str = "corpus") -> tuple[str, Any] | None:
    """Key and value of an option of a corpus, or of the one it is made from, such as `corpus.corpus.parallel`."""
    while corpus is not None and not hasattr(corpus, name):
        corpus, key = getattr(corpus, "corpus", None), f"{key}.corpus"
    return None if corpus is None else (f"{key}.{name}", getattr(corpus, name))


def language_code(value: Any) -> str:
    """A language as a configuration names it: YAML takes `no`, Norwegian, for false."""
    return "no" if value is False else str(value)


def each_row(rows: Dataset, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Some columns of every row, for what can only be done row by row; read by the block, as reading row by row takes
    tens of times as long."""
    for block in blocks(rows, list(columns)):
        yield from block.to_pylist()


def dataset_from_rows(rows: Iterable[dict[str, Any]]) -> Dataset:
    """Rows as a Dataset; columns that a corpus leaves out are filled with empty text."""
    found = [{**dict.fromkeys(COLUMNS, ""), **row} for row in rows]
    return Dataset.from_dict({name: [row[name] for row in found] for name in (found[0] if found else COLUMNS)})


def schema_blocks(
    parts: Iterable[pa.Table],
    columns: Mapping[str, Any],
    lang: str,
    split: str,
    names: Sequence[Any] | None = None,
    folder: Path | None = None,
    as_text: bool = False,
) -> Iterator[pa.Table]:
    """One language and split of somebody else's table, in this schema, part by part.

    Args:
        parts: of the table; a column of text whose field says so (`AS_JSON`) holds JSON.
        columns: schema column -> column of the table. `text` may name two columns, for sentence pairs, or one of
            tokens, whose `label` is a list of tags; `label` may be answers as SQuAD has them; `group: row` aligns
            tables line by line; `id` and `label` may be left out. A dot leads into a column of fields, and `{lang}`
            stands for the language: `translation.{lang}`.
        lang, split: of every row here.
        names: of the classes by number, for tables whose labels are numbers without names.
        folder: where paths of sound files begin.
        as_text: whether numbers are text, as in CSV.
    """
    wanted = named(columns, lang)
    classes = None if names is None else [as_cell(name) for name in names]
    first = 0
    for part in parts:
        read = partial(_cells, part, wanted)
        texts, label = read("text"), read("label", lambda value: class_name(value, classes, as_text))
        if tokens := _lists(part, wanted["text"][0]):
            texts, label = _tagged(part, wanted, tokens, classes, as_text)
        places = pa.chunked_array([pa.array(np.arange(first, first + len(part))).cast(pa.string())])
        ids = pc.if_else(pc.equal(read("id"), ""), pc.binary_join_element_wise("#", places, ""), read("id"))
        key = places if wanted.get("group") == ["row"] else _visible(read("group"))
        in_split = pc.binary_join_element_wise(f"{split}-", key, "")
        found = {
            "id": pc.binary_join_element_wise(f"{lang}-{split}-", ids if "id" in wanted else places, ""),
            "lang": _all(lang, part),
            "split": _all(split, part),
            "text": texts,
            "text_pair": read("text", which=1),
            "label": label,
            "group": pc.if_else(pc.equal(pc.utf8_trim_whitespace(key), ""), "", in_split),
            "block": _visible(read("block")),
            "cluster": _visible(read("cluster")),
            "audio": read("audio", partial(of_cell, folder=folder)),
            "spans": read("spans"),
        }
        first += len(part)
        yield pa.table([found[name] for name in COLUMNS], SCHEMA)


def named(columns: Mapping[str, Any], lang: str = "{lang}") -> dict[str, list[str]]:
    """Columns of a table, as they are called for a language, by that of the schema, see `schema_blocks`."""
    lists = {key: [value] if isinstance(value, str) else value for key, value in columns.items() if value}
    return {key: [name.replace("{lang}", lang) for name in names] for key, names in lists.items()}


def visible(name: str) -> str:
    """A name or key as it looks: without what nobody sees, which would keep rows and classes apart, and with accents
    composed, as a Mac's names of files have them not."""
    return unicodedata.normalize("NFC", UNSEEN.sub("", name))


def _visible(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    return keys if pc.all(pc.string_is_ascii(keys)).as_py() else by_value(keys, visible)


def _all(value: str, part: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(value), len(part))])


def _cells(
    part: pa.Table, wanted: Mapping[str, Sequence[str]], key: str, function: Any = None, which: int = 0
) -> pa.ChunkedArray:
    """A column of the schema as text; "" where the table has none.

    Args:
        function: of a cell's value; None for the value as text.
        which: of the columns that are named for it.
    """
    values, value_of = _field(part, dict(enumerate(wanted.get(key, ()))).get(which))
    if function is None and value_of is None and pa.types.is_string(values.type):
        return values.fill_null("")
    of_cell = as_cell if function is None else function
    whole = of_cell if value_of is None else lambda value: of_cell(value_of(value))
    if pa.types.is_nested(values.type):
        return pa.chunked_array([strings(map(whole, values_of(values)))])
    return by_value(values, whole)


def _field(part: pa.Table, name: str | None) -> tuple[pa.ChunkedArray, Callable[[Any], Any] | None]:
    """A column, or a field of one, `translation.de`, and how its cells become values, where they are not these already.
    A column that has the dot in its own name is itself; of one that is not there, every cell is null."""
    inner = ""
    if name is not None and name not in part.column_names:
        name, _, inner = name.partition(".")
    if name not in part.column_names:
        return pa.chunked_array([pa.nulls(len(part), pa.string())]), None
    values, as_json = part.column(name), is_json(part.schema.field(name))
    if pa.types.is_large_string(values.type) or pa.types.is_dictionary(values.type):
        values = values.cast(pa.string() if pa.types.is_large_string(values.type) else values.type.value_type)

    def value_of(cell: Any) -> Any:
        value = json.loads(cell) if as_json and cell is not None else cell
        return (value.get(inner) if isinstance(value, dict) else None) if inner else value

    return values, value_of if as_json or inner else None


def is_json(column: pa.Field) -> bool:
    """Whether the text of a column is JSON."""
    return AS_JSON.items() <= (column.metadata or {}).items()


def cells_of(part: pa.Table, name: str) -> list[Any]:
    """A column, or a field of one, `translation.de`; None for every row of a table that has no such column."""
    values, value_of = _field(part, name)
    return values_of(values) if value_of is None else list(map(value_of, values_of(values)))


def _lists(part: pa.Table, name: str) -> list[Any] | None:
    """The cells of a column of tokens; None for one of text."""
    values, value_of = _field(part, name)
    if value_of is None and not pa.types.is_list(values.type):
        return None
    cells = cells_of(part, name)
    return cells if any(isinstance(cell, list) for cell in cells) else None


def _tagged(
    part: pa.Table, wanted: Mapping[str, Sequence[str]], tokens: list[Any], classes: list[str] | None, as_text: bool
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Texts and labels of rows of tokens and tags."""
    pairs = []
    for words, said in zip(tokens, cells_of(part, wanted.get("label", [""])[0]), strict=True):
        if not isinstance(words, list):
            pairs.append((as_cell(words), class_name(said, classes, as_text)))
            continue
        tags = [class_name(tag, classes, as_text) for tag in said] if isinstance(said, list) else as_cell(said).split()
        pairs.append(tagged([as_cell(word) for word in words], tags))
    texts, labels = (pa.chunked_array([strings(column)]) for column in zip(*pairs, strict=True))
    return texts, labels


def check_columns(columns: Mapping[str, Any]) -> None:
    """Raises UserError for what `columns` cannot say, see `schema_blocks`."""
    unknown = [key for key in columns if key not in COLUMNS or key in ("lang", "split", "text_pair")]
    if unknown:
        raise UserError(
            f"corpus.columns.{unknown[0]} is not known. Choose from text, label, group, block, cluster, id, audio, "
            f"spans; two texts are corpus.columns.text=[FIRST,SECOND]."
        )
    for key, value in columns.items():
        two = key == "text" and isinstance(value, Sequence) and len(value) in (1, 2)
        if value is not None and not isinstance(value, str) and not (two and all(isinstance(c, str) for c in value)):
            wanted = "one or two columns" if key == "text" else "a column"
            raise UserError(
                f"corpus.columns.{key}={value} is not the name of {wanted}. A name that looks like a "
                f"number stands in quotes: 'corpus.columns.{key}=\"1\"'."
            )
    if not columns.get("text"):
        raise UserError("corpus.columns.text names no column. Name the one with the text: corpus.columns.text=text.")


def require_columns(
    columns: Mapping[str, Any], found: Sequence[str], where: str, optional: Collection[str] = ()
) -> None:
    """Raises UserError for columns that a table does not have.

    Args:
        columns: schema column -> column of the table, as for `schema_blocks`.
        found: what the table has.
        where: the table, for the message.
        optional: keys of `columns` that the table may lack.
    """
    wanted = named(columns)
    if wanted.get("group") == ["row"]:
        del wanted["group"]
    lacking = {key: names for key, names in wanted.items() if key not in optional and not {*names} <= {*found}}
    missing = [name for names in lacking.values() for name in names if name not in found]
    if not missing:
        return
    taken = {name for names in wanted.values() for name in names}
    advice = []
    for key, names in lacking.items():
        nearest: list[str] = []
        for name in names:
            nearest.append(name if name in found else _nearest(name, found, {*taken, *nearest}))
        taken |= {*nearest}
        advice.append(f"corpus.columns.{key}={nearest[0] if len(nearest) == 1 else '[' + ','.join(nearest) + ']'}")
    raise UserError(
        f"corpus: {where} has no column {', '.join(map(repr, missing))}; it has {', '.join(found)}. "
        f"Name the right ones under corpus.columns, e.g. {' '.join(advice)}."
    )


def _nearest(name: str, found: Sequence[str], taken: Collection[str]) -> str:
    """The column whose name is spelt most alike, rather one that is not in use; without any likeness, a free one."""
    spelt = {c.casefold(): c for c in reversed(found)}
    free = {low: c for low, c in spelt.items() if c not in taken}
    for few, least in ((free, 0.3), (spelt, 0.3), (free, 0.0)):
        if close := get_close_matches(name.casefold(), few, 1, least):
            return few[close[0]]
    return found[0] if found else "COLUMN"


def require_equal_rows(tables: Mapping[str, tuple[int, Sequence[int]]]) -> None:
    """Raises UserError for tables that are aligned line by line, and are not as long as each other.

    Args:
        tables: by name, the source's first: how many rows each has, and numbers of its lines that hold nothing and are
            no rows.
    """
    if len({rows for rows, _ in tables.values()}) < 2 and not any(blank for _, blank in tables.values()):
        return
    counts = ", ".join(f"{name} has {rows} rows" for name, (rows, _) in tables.items())
    gaps = "".join(
        f" {name} has {len(blank)} blank lines between rows, the first is line {blank[0]}."
        for name, (_, blank) in tables.items()
        if blank
    )
    raise UserError(
        f"corpus.columns.group=row aligns tables line by line: {counts}.{gaps} A line too many or too few shifts all "
        f"that follow. Write one row for each, or align them by a column: corpus.columns.group=KEY."
    )


def _answers(value: dict[str, Any] | list[dict[str, Any]]) -> str:
    """Answers of a row in the style of SQuAD, as the label of a question; what is none stays, for `problem` to find."""
    try:
        if isinstance(value, dict):
            value = [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
        value = [{"text": a["text"], "start": without_fraction(a["answer_start"])} for a in value]
    except (KeyError, TypeError, ValueError):
        pass
    return json.dumps(value, ensure_ascii=False, default=as_cell)


def as_cell(value: Any) -> str:
    """A value of somebody else's table as text."""
    value = without_fraction(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"corpus: a cell of bytes is not UTF-8 ({error}). Store it as text.") from None
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=as_cell)
    return "" if value is None else str(value)


def without_fraction(value: Any) -> Any:
    """Whole numbers become floats in a column with gaps; 1.0 is 1 again, and a gap is one."""
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def _classes(values: list[Any], names: Sequence[str]) -> list[Any]:
    """Names of several classes, which come by number, or one-hot; what is neither stays, for `problem` to find."""
    numbers = [int(value) if isinstance(value, bool) else without_fraction(value) for value in values]
    if not all(isinstance(number, int) for number in numbers):
        return values
    if len(numbers) != len(names) or not {0, 1}.issuperset(numbers):
        return [class_name(number, names) for number in numbers]
    if numbers == [0, 1] and not isinstance(values[0], bool):
        raise UserError("corpus: a label [0, 1] may be both of two classes, or one-hot the second. Write their names.")
    return [name for name, number in zip(names, numbers, strict=True) if number]


def class_name(value: Any, names: Sequence[str] | None, as_text: bool = False) -> str:
    """A label as text: a class by its number, answers as JSON.

    Args:
        names: of the classes, where labels are numbers.
        as_text: whether these numbers may be text.
    """
    value = without_fraction(value)
    if isinstance(value, dict) or (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
        return _answers(value)
    if names and as_text and isinstance(value, str):
        value = _number_or_list(value)
    if names and isinstance(value, list):
        value = _classes(value, names)
    if not names or not isinstance(value, int):
        return as_cell(value)
    if value >= len(names):
        raise UserError(
            f"corpus: there is a label {value}, and names for 0 to {len(names) - 1} only: {', '.join(names)}. "
            f"Name them all: corpus.labels=[{','.join([*names, '...'])}]."
        )
    return names[value] if value >= 0 else ""  # data sets hide a label as -1


def _number_or_list(value: str) -> Any:
    """What a text spells of these two; else the text."""
    if NUMBER.fullmatch(value):
        return int(value.partition(".")[0])
    with suppress(ValueError):
        return parsed(value) if value.startswith("[") else value
    return value
