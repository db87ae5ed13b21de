"""Any data set of the Hugging Face Hub that stores Parquet, JSON or CSV (`datasets` runs no scripts)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, load_dataset

from distilingua.columns import BLOCK, on_disk
from distilingua.corpora.schema import (
    SCHEMA,
    check_columns,
    language_code,
    require_columns,
    require_equal_rows,
    schema_blocks,
)
from distilingua.errors import UserError, full_disk


@dataclass
class Hub:
    """A data set with one configuration per language.

    Its CSV and JSON files are typed by pandas and pyarrow, as `datasets` has them; your own are better read by `Files`.

    Args:
        path: repository on the hub, or a local folder with the same files.
        languages: language code -> configuration of the data set.
        columns: see `schema_blocks`.
        splits: our split -> theirs, or a share of it, `validation[60%:70%]`; null leaves it out.
        labels: class names by number, where the labels are plain numbers; null takes names from the data set.
        limit: rows per language and split, for a quick look; null for all.
        skip_bad_rows: leave rows out that cannot be read or whose label cannot be right, and count them; else the first
            one is refused.
        load_options: arguments of `datasets.load_dataset` in place of `path`, the configuration as `name`, and the
            split; `{config}` stands for the configuration.
        parts: `split` or `language/split` -> such arguments for this part alone.
        begins: column by which languages in one table are told apart: it begins with the configuration.
    """

    path: str
    languages: dict[str, str]
    columns: dict[str, Any]
    splits: dict[str, str | None] = field(
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"},
    )
    labels: list[str] | None = None
    limit: int | None = None
    skip_bad_rows: bool = False
    load_options: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    begins: str | None = None

    def __post_init__(self) -> None:
        self.languages = {language_code(lang): language_code(config) for lang, config in self.languages.items()}

    def check(self, languages: list[str]) -> None:
        """Raises UserError for a language without a configuration."""
        check_columns(self.columns)
        for lang in languages:
            if lang not in self.languages:
                raise UserError(
                    f"corpus: {self.path} has no language {lang!r}. Choose from: {', '.join(self.languages)}, or name "
                    f"its configuration: +corpus.languages.{lang}=CONFIGURATION."
                )

    def load(self, languages: list[str]) -> Dataset:
        self.check(languages)
        return on_disk(self._blocks(languages), SCHEMA)

    def _blocks(self, languages: list[str]) -> Iterator[pa.Table]:
        lengths: dict[str, dict[str, tuple[int, list[int]]]] = {split: {} for split in self.splits}
        for lang in languages:
            for split, theirs in self.splits.items():
                if theirs is None:
                    continue
                table = self._table(lang, split, theirs)
                require_columns(self.columns, _names(table, lang), f"{self.path} ({self.languages[lang]})")
                if self.limit is not None:
                    table = table.select(range(min(self.limit, len(table))))
                lengths[split][f"{lang} {split}"] = len(table), []
                names = class_names(table, self.columns, lang) or self.labels
                parts = table.with_format("arrow").iter(BLOCK)
                yield from schema_blocks(parts, self.columns, lang, split, names)
        for found in lengths.values() if self.columns.get("group") == "row" else ():
            require_equal_rows(found)

    def _table(self, lang: str, split: str, theirs: str) -> Dataset:
        config = self.languages[lang]
        own = {**self.load_options, **self.parts.get(split, {}), **self.parts.get(f"{lang}/{split}", {})}
        own = {name: v.replace("{config}", config) if isinstance(v, str) else v for name, v in own.items()}
        options = {"path": self.path, "name": config, "split": theirs, **own}
        name, first, last = _share(options.pop("split"))
        try:
            table = load_dataset(**options, split=name)
        except Exception as error:  # there is no end to what is raised for a file, a name or a network
            if full_disk(error) or isinstance(error, MemoryError):
                raise
            told = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
            raise UserError(
                f"corpus: {self.path}, {split} of {lang!r}: `datasets` cannot load it ({told[:300]}). Check the names "
                f"in corpus.path, corpus.splits and corpus.languages, the network, and the files that they lead to."
            ) from error
        if self.begins is not None and self.begins in table.column_names:
            table = table.filter(lambda value: value.startswith(config), input_columns=self.begins)
        sound = self.columns.get("audio")
        if sound and isinstance(table.features.get(sound), Audio):  # else it is a path, or a file's bytes
            table = table.cast_column(sound, Audio(decode=False))  # read by soundfile, row by row
        return table.select(range(round(first * len(table)), round(last * len(table))))


def class_names(table: Dataset, columns: Mapping[str, Any], lang: str) -> list[str] | None:
    """Of the column of labels, where the data set has them."""
    feature = table.features.get((columns.get("label") or "").replace("{lang}", lang))
    feature = getattr(feature, "feature", feature)  # of a list of tags, that of one
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _share(split: str) -> tuple[str, float, float]:
    """`validation[60%:]` is validation from 0.6 to 1."""
    found = re.fullmatch(r"(\w+)(?:\[(?:(\d+)%)?:(?:(\d+)%)?\])?", split)
    if found is None:
        raise UserError(f"corpus.splits: {split!r} is no split. Write validation, or a share: validation[60%:70%].")
    return found[1], int(found[2] or 0) / 100, int(found[3] or 100) / 100


def _names(table: Dataset, lang: str) -> list[str]:
    """What `columns` may name: the columns, and the fields of those that have some, this language's as `{lang}` too."""
    fields = {name: getattr(kind, "languages", kind) for name, kind in table.features.items()}  # `Translation` has some
    inside = [f"{name}.{field}" for name, kind in fields.items() if isinstance(kind, dict | list) for field in kind]
    inside += [f"{name.removesuffix(lang)}{{lang}}" for name in inside if name.endswith(f".{lang}")]
    return [*table.column_names, *inside]
