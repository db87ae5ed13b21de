"""A folder of CSV, JSONL or Parquet files: your own corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from distilingua.artifacts import stable_hash
from distilingua.columns import codes, codes_of, column, on_disk, with_columns
from distilingua.corpora.schema import (
    HELD_OUT,
    SCHEMA,
    SPLITS,
    check_columns,
    named,
    require_columns,
    require_equal_rows,
    schema_blocks,
)
from distilingua.corpora.tables import Dialect, Table, read_table
from distilingua.errors import UserError
from distilingua.locations import location

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
CHECKED = 20_000  # rows of a file that `check` reads, in some tenths of a second


@dataclass
class Files:
    """One file per language and split.

    Args:
        path: a folder with files such as `de/train.csv`, or a pattern for other names: `data/{split}.{lang}.jsonl`.
            `package:NAME/FOLDER` for files that a Python package carries.
        columns: see `schema_blocks`. Paths of sound files are relative to the file that names them.
        splits: our split -> what stands for `{split}` in the path; null for no such files. What is not named here is
            not looked for, such as the splits that another corpus of `Joined` brings.
        labels: class names by number, where the labels are plain numbers.
        skip_bad_rows: leave rows out whose label cannot be right, and count them; else the first one is refused.
        encoding, separator, quoting: of text files, see `Dialect`.
        dev_share: share of the groups of train that becomes dev where no language has a file for it.
    """

    path: str
    columns: dict[str, Any] = field(default_factory=lambda: {"text": "text", "label": "label"})
    splits: dict[str, str | None] = field(default_factory=lambda: {"train": "train", "dev": "dev", "test": "test"})
    labels: list[str] | None = None
    skip_bad_rows: bool = False
    encoding: str = "utf-8"
    separator: str | None = None
    quoting: bool | None = None
    dev_share: float = 0.1
    notes: list[str] = field(default_factory=list, init=False)
    """What the last `load` did that somebody may not expect, in sentences."""

    def check(self, languages: list[str]) -> None:
        """Raises UserError for a file that is missing, empty, of an unknown kind, short of a column, or not as stated.

        Args:
            languages: the source first; training text of the others may come without labels.
        """
        for *_, table in self._tables(languages, CHECKED):
            for _ in table.blocks:
                pass  # what is wrong has been raised

    def load(self, languages: list[str]) -> Dataset:
        """The rows; where there is no file for dev, a share of train is.

        Raises:
            UserError: see `check`, which does not read the whole of a long file.
        """
        rows = on_disk(self._blocks(languages), SCHEMA)
        return self._with_dev(rows, languages) if self._drawn(self._splits(languages)) else rows

    def _blocks(self, languages: list[str]) -> Iterator[pa.Table]:
        tables = []
        for lang, split, file, table in self._tables(languages):
            tables.append(table)
            names = table.classes.get(str(self.columns.get("label"))) or self.labels
            try:
                yield from schema_blocks(table.blocks, self.columns, lang, split, names, file.parent, as_text=True)
            except UserError:
                raise
            except (ValueError, OverflowError) as error:  # a moment that Python knows no name for
                raise UserError(f"corpus: {file} has a cell that cannot be read ({error}). Store it as text.") from None
        self.notes = [note for table in tables for note in table.notes]

    def _drawn(self, splits: list[str]) -> bool:
        """Whether dev is drawn from train: it is meant to be there, and has no files."""
        return "dev" in self.splits and "dev" not in splits

    def _splits(self, languages: list[str]) -> list[str]:
        """Those with files; raises UserError for what `splits` cannot say."""
        unknown = [split for split in self.splits if split not in SPLITS]
        if unknown:
            raise UserError(f"corpus.splits.{unknown[0]} is no split. Choose from {', '.join(SPLITS)}.")
        for split in ("train", "test"):
            if self.splits.get(split, split) is None:
                raise UserError(
                    f"corpus.splits.{split}=null: every language needs files for {split}. Name them: "
                    f"corpus.splits.{split}={split}, what stands for {{split}} in corpus.path."
                )
        found = [split for split, theirs in self.splits.items() if theirs is not None]
        if "dev" in found and not any(self._file(lang, "dev").exists() for lang in languages):
            found.remove("dev")
        return found

    def _file(self, lang: str, split: str) -> Path:
        path, name = location(self.path, "corpus.path"), str(self.splits[split])
        if "{lang}" in path:
            return Path(path.replace("{lang}", lang).replace("{split}", name))
        stem = Path(path) / lang / name
        files = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
        found = [file for file in files if file.is_file()]
        if len(found) > 1:
            raise UserError(
                f"corpus: {stem} is there as {', '.join(file.name for file in found)}. Leave one, or say which: "
                f"corpus.path='{self.path}/{{lang}}/{{split}}{found[0].suffix}'."
            )
        return found[0] if found else files[0]

    def _tables(self, languages: list[str], most: int | None = None) -> Iterator[tuple[str, str, Path, Table]]:
        """Language, split, file and content of every file, `most` rows of each; whoever asks for the next one has gone
        through the blocks of the last."""
        dialect = Dialect(self.encoding, self.separator, self.quoting)
        self._check_options(dialect)
        splits = self._splits(languages)
        # zero-shot: what is only trained on needs no labels
        wanted = {(languages[0], "train"), *product(languages, HELD_OUT)}
        tables: dict[str, dict[str, Table]] = {split: {} for split in splits}
        for lang, split in product(languages, splits):
            file, columns = self._existing(lang, split), named(self.columns, lang)
            bare = (lang, split) not in wanted
            require = partial(require_columns, columns, where=str(file), optional=("label",) if bare else ())
            table = tables[split][str(file)] = read_table(file, dialect, require, most)
            yield lang, split, file, table
            if not table.length and table.whole:
                raise UserError(f"corpus: {file} is empty. Every split of every language needs at least one row.")
            if bare and table.whole and not {*columns.get("label", ())} <= {*table.names}:
                self._without_labels(file, table, split == "train" and self._drawn(splits))
        for found in tables.values() if self.columns.get("group") == "row" else ():
            if all(table.whole for table in found.values()):
                require_equal_rows({name: (table.length, table.blank) for name, table in found.items()})

    def _check_options(self, dialect: Dialect) -> None:
        if ("{lang}" in self.path) != ("{split}" in self.path):
            raise UserError(
                f"corpus.path={self.path} must contain {{lang}} and {{split}}, e.g. data/{{lang}}/{{split}}.csv, or be "
                f"a folder with a folder for every language."
            )
        if not 0 < self.dev_share < 1:
            raise UserError(f"corpus.dev_share={self.dev_share} is not between 0 and 1. Try corpus.dev_share=0.1.")
        dialect.check()
        check_columns(self.columns)

    def _existing(self, lang: str, split: str) -> Path:
        file = self._file(lang, split)
        if file.suffix.lower() not in SUFFIXES:
            raise UserError(f"corpus.path: {file.name} is none of {', '.join(SUFFIXES)}.")
        if not file.is_file():
            raise UserError(f"corpus: {file} does not exist. corpus.path={self.path} leads there for {lang!r}.")
        return file

    def _without_labels(self, file: Path, table: Table, becomes_dev: bool) -> None:
        """A file that needs no labels has none, which is noted; or refused where some of its rows would be dev."""
        label = self.columns["label"]
        if becomes_dev:
            raise UserError(
                f"corpus: {file} has no column {label!r}, and no language has a file for dev, which a "
                f"share of train would be. Name files with labels: corpus.splits.dev=dev; or the column: "
                f"corpus.columns.label={label}."
            )
        table.notes.append(f"{file}: there is no column {label!r}, so its rows are without labels.")

    def _with_dev(self, rows: Dataset, languages: list[str]) -> Dataset:
        """Rows with a share of train as dev, the same groups in every language.

        Groups are drawn by hash, so the source's do not depend on the targets. A group that alone has its label in the
        source stays in train, unless labels are texts and all are alone.
        """
        group, ids = column(rows, "group"), column(rows, "id")
        keys, names = codes(pc.if_else(pc.equal(group, ""), ids, group))
        lang, known = codes_of(rows, "lang")
        split, splits = codes_of(rows, "split")
        label, labels = codes_of(rows, "label")
        train, source = split == splits.index("train"), lang == known.index(languages[0])
        lots = np.array([stable_hash("dev", name) / 2**64 for name in names])
        drawn = np.zeros(len(names), dtype=bool)
        drawn[keys[train]] = True
        drawn &= lots < self.dev_share
        # by class: whether a group that stays in train teaches it
        teaching = source & train & (np.array(labels, dtype=object)[label] != "")
        taught = np.zeros(len(labels), dtype=bool)
        taught[label[teaching & ~drawn[keys]]] = True
        alone = np.unique(keys[teaching & drawn[keys] & ~taught[label]])
        if 2 * len(alone) < drawn.sum():
            drawn[alone] = False
        dev = train & drawn[keys]
        for code, name in enumerate(known):
            if not (dev & (lang == code)).any():
                raise UserError(
                    f"corpus.dev_share={self.dev_share}: of {(train & (lang == code)).sum()} {name!r} rows of train "
                    f"none was drawn for dev. Draw more, e.g. corpus.dev_share=0.3, or name files: "
                    f"corpus.splits.dev=dev."
                )
        drawn_rows = ", ".join(f"{name} {(dev & (lang == known.index(name))).sum()}" for name in languages)
        self.notes.append(
            f"There are no files for dev: {self.dev_share:.0%} of the groups of train were drawn (corpus.dev_share), "
            f"rows: {drawn_rows}."
        )
        return with_columns(rows, {"split": pc.if_else(pa.array(dev), "dev", column(rows, "split"))})
