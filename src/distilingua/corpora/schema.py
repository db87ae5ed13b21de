"""What every corpus yields: one row per text, and what is known about it.

A corpus is any object with these two methods, named by `_target_` in a YAML under `conf/corpus/`:

    check(languages)   raises UserError within a second when the corpus cannot serve them; imports nothing heavy
    load(languages)    returns the rows as a `datasets.Dataset` with the columns below
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distilingua.corpora.sound import of_cell
from distilingua.corpora.words import tagged
from distilingua.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "parallel", "dev", "test")
HELD_OUT = ("dev", "test")
NUMBER = re.compile(r"\s*-?[0-9]{1,9}(?:\.0+)?\s*")  # a class by its number, as text
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


class Corpus(Protocol):
    def check(self, languages: list[str]) -> None: ...

    def load(self, languages: list[str]) -> Dataset: ...


def notes_of(corpus: Any) -> list[str]:
    """What a corpus, and those it is made of, did with its files that somebody may not expect, in sentences."""
    inside = getattr(corpus, "corpora", None) or {k: getattr(corpus, k, None) for k in ("corpus", "answers")}
    return [*getattr(corpus, "notes", ()), *(note for one in inside.values() if one for note in notes_of(one))]


def language_code(value: Any) -> str:
    """A language as a configuration names it: YAML takes `no`, Norwegian, for false."""
    return "no" if value is False else str(value)


def each_row(rows: Dataset, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Some columns of every row. Many are read at once: one by one, as iterating over `rows` reads them, takes tens of
    times as long, and so does iterating over `rows[column]` where `rows[column][:]` is meant."""
    for batch in rows.select_columns(list(columns)).iter(1000):
        for cells in zip(*batch.values(), strict=True):
            yield dict(zip(batch, cells, strict=True))


def dataset_from_rows(rows: Iterable[dict[str, Any]]) -> Dataset:
    """Rows as a Dataset; columns that a corpus leaves out are filled with empty text."""
    from datasets import Dataset  # slow to import, and `check` must answer within a second

    return Dataset.from_list([{**dict.fromkeys(COLUMNS, ""), **row} for row in rows])


def dataset_from_table(
    table: Dataset, columns: dict[str, Any], lang: str, split: str, labels: Sequence[str] | None = None
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

    sound = columns.get("audio")
    if sound and isinstance(table.features[sound], Audio):  # else it is a path, or a file's bytes
        table = table.cast_column(sound, Audio(decode=False))  # read by soundfile, row by row
    feature = table.features.get((columns.get("label") or "").replace("{lang}", lang))
    feature = getattr(feature, "feature", feature)  # of a list of tags, that of one
    names = list(feature.names) if isinstance(feature, ClassLabel) else _named(labels)
    return table.map(
        lambda row, position: schema_row(row, position, columns, lang, split, names),
        with_indices=True,
        remove_columns=table.column_names,
        features=Features(
            {name: Value("string") for name in COLUMNS}
        ),  # or a column of theirs keeps its type by its name
        desc=f"Reading {lang} {split}",
    )


def dataset_from_cells(
    rows: Sequence[Mapping[str, Any]],
    columns: dict[str, Any],
    lang: str,
    split: str,
    labels: list[str] | None = None,
    folder: Path | None = None,
) -> Dataset:
    """The same for rows of a file of one's own: numbers may be text, as in CSV; no cache and no guess takes part.

    Args:
        folder: where paths of sound files begin.
    """
    from datasets import Dataset, Features, Value

    names = _named(labels)
    found = [schema_row(row, n, columns, lang, split, names, folder, spelt=True) for n, row in enumerate(rows)]
    features = Features({name: Value("string") for name in COLUMNS})
    return Dataset.from_dict({name: [row[name] for row in found] for name in COLUMNS}, features=features)


def schema_row(
    row: Mapping[str, Any],
    position: int,
    columns: dict[str, Any],
    lang: str,
    split: str,
    names: list[str] | None,
    folder: Path | None = None,
    spelt: bool = False,
) -> dict[str, str]:
    """A row of somebody else's table in this schema, see `dataset_from_table`.

    Args:
        names: of the classes, where labels are numbers.
        folder: where paths of sound files begin.
        spelt: whether numbers are text, as in CSV.
    """

    def cell(column: str) -> str:
        return _text(_field(row, columns[column].replace("{lang}", lang))) if columns.get(column) else ""

    texts = columns["text"] if not isinstance(columns["text"], str) else [columns["text"]]
    texts = [name.replace("{lang}", lang) for name in texts]
    label = columns.get("label")
    said = _field(row, label.replace("{lang}", lang)) if label else None
    first = _field(row, texts[0])
    if isinstance(first, list):  # tokens and their tags
        tags = [_class_name(tag, names, spelt) for tag in said] if isinstance(said, list) else _text(said).split()
        text, name = tagged([_text(token) for token in first], tags)
    else:
        text, name = _text(first), _class_name(_whole(said), names, spelt)
    aligned = str(position) if columns.get("group") == "row" else cell("group")
    sound = _field(row, columns["audio"]) if columns.get("audio") else None
    if sound and folder is not None:
        if isinstance(sound, dict) and sound.get("bytes") is None:
            sound = sound.get("path")
        sound = str(folder / sound) if isinstance(sound, str) and sound else sound
    return {
        "id": f"{lang}-{split}-{(cell('id') or f'#{position}') if columns.get('id') else position}",
        "lang": lang,
        "split": split,
        "text": text,
        "text_pair": _text(_field(row, texts[1])) if len(texts) > 1 else "",
        "label": name,
        "group": f"{split}-{aligned}" if aligned.strip() else "",
        "block": cell("block"),
        "cluster": cell("cluster"),
        "audio": of_cell(sound),
        "spans": cell("spans"),
    }


def check_columns(columns: Mapping[str, Any]) -> None:
    """Raises UserError for what `columns` cannot say, see `dataset_from_table`."""
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
        columns: schema column -> column of the table, as for `dataset_from_table`.
        found: what the table has.
        where: the table, for the message.
        optional: keys of `columns` that the table may lack.
    """
    wanted = {key: [v] if isinstance(v, str) else list(v) for key, v in columns.items() if v}
    if wanted.get("group") == ["row"]:
        del wanted["group"]
    lacking = {key: [c for c in v if c not in found] for key, v in wanted.items() if key not in optional}
    missing = [c for cs in lacking.values() for c in cs]
    if not missing:
        return
    taken = {c for cs in wanted.values() for c in cs}
    advice = []
    for key, cs in lacking.items():
        if cs:
            names: list[str] = []
            for c in wanted[key]:
                names.append(_nearest(c, found, {*taken, *names}) if c in cs else c)
            taken |= set(names)
            advice.append(f"corpus.columns.{key}={names[0] if len(names) == 1 else '[' + ','.join(names) + ']'}")
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


def require_equal_rows(rows: Mapping[str, int], blank: Mapping[str, Sequence[int]] | None = None) -> None:
    """Raises UserError for tables that are aligned line by line, and are not as long as each other.

    Args:
        rows: of each table, by its name; the first is the source's.
        blank: numbers of the lines of a table that hold nothing and are no rows, where there are any.
    """
    empty = {name: lines for name, lines in (blank or {}).items() if lines}
    if len(set(rows.values())) < 2 and not empty:
        return
    counts = ", ".join(f"{name} has {n} rows" for name, n in rows.items())
    gaps = "".join(
        f" {name} has {len(lines)} blank lines between rows, the first is line {lines[0]}."
        for name, lines in empty.items()
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
        value = [{"text": a["text"], "start": _whole(a["answer_start"])} for a in value]
    except (KeyError, TypeError, ValueError):
        pass
    return json.dumps(value, ensure_ascii=False, default=_text)


def _field(row: Mapping[str, Any], name: str) -> Any:
    """A column, or a field of one: `translation.de`. A column that has the dot in its own name is itself."""
    if name in row:
        return row[name]
    column, _, field = name.partition(".")
    inside = row.get(column)
    return inside.get(field) if isinstance(inside, dict) else None


def _text(value: Any) -> str:
    value = _whole(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"corpus: a cell of bytes is not UTF-8 ({error}). Store it as text.") from None
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=_text)
    return "" if value is None else str(value)


def _whole(value: Any) -> Any:
    """Whole numbers become floats in a column with gaps; 1.0 is 1 again, and a gap is one."""
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def _named(labels: Sequence[Any] | None) -> list[str] | None:
    """Names of classes; `[1, 2]` in YAML are names too."""
    return None if labels is None else [_text(name) for name in labels]


def _class_name(value: Any, names: list[str] | None, spelt: bool = False) -> str:
    if isinstance(value, dict) or (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
        return _answers(value)
    if names and spelt and isinstance(value, str) and NUMBER.fullmatch(value):
        value = int(value.partition(".")[0])
    if value is None or (names and isinstance(value, int) and value < 0):
        return ""  # data sets hide a label as -1
    if not names or not isinstance(value, int):
        return _text(value)
    if value >= len(names):
        raise UserError(
            f"corpus: there is a label {value}, and names for 0 to {len(names) - 1} only: {', '.join(names)}. "
            f"Name them all: corpus.labels=[{','.join([*names, '...'])}]."
        )
    return names[value]
