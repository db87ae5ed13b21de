"""A folder of CSV, JSONL or Parquet files: your own corpus."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilingua.corpora.schema import dataset_from_table, require_columns
from distilingua.errors import UserError
from distilingua.locations import location

if TYPE_CHECKING:
    from datasets import Dataset

READERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass
class Files:
    """One file per language and split.

    Args:
        path: a folder with files such as `de/train.csv`, or a pattern for other names: `data/{split}.{lang}.jsonl`.
            `package:NAME/FOLDER` for files that a Python package carries.
        columns: see `dataset_from_table`. Paths of sound files are relative to the file that names them.
        splits: our split -> what stands for `{split}` in the path.
        labels: class names by number, where the labels are plain numbers.
        skip_bad_rows: leave rows out whose label cannot be right, and count them; else the first one is refused.
    """

    path: str
    columns: dict[str, Any] = field(default_factory=lambda: {"text": "text", "label": "label"})
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "dev": "dev", "test": "test"})
    labels: list[str] | None = None
    skip_bad_rows: bool = False

    def _file(self, lang: str, split: str) -> Path:
        path = location(self.path, "corpus.path")
        if "{lang}" in path:
            return Path(path.replace("{lang}", lang).replace("{split}", self.splits[split]))
        stem = Path(path) / lang / self.splits[split]
        found = [stem.with_name(stem.name + suffix) for suffix in READERS]
        return next((file for file in found if file.is_file()), found[0])

    def check(self, languages: list[str]) -> None:
        """Raises UserError for a file that is missing, empty, of an unknown kind, or short of a column."""
        if ("{lang}" in self.path) != ("{split}" in self.path):
            raise UserError(
                f"corpus.path={self.path} must contain {{lang}} and {{split}}, e.g. data/{{lang}}/{{split}}.csv, or be "
                f"a folder with a folder for every language."
            )
        for lang in languages:
            for split in self.splits:
                file = self._file(lang, split)
                if file.suffix not in READERS:
                    raise UserError(f"corpus.path: {file.name} is none of {', '.join(READERS)}.")
                if not file.is_file():
                    raise UserError(f"corpus: {file} does not exist. corpus.path={self.path} leads there for {lang!r}.")
                require_columns(self.columns, _header(file), str(file))

    def load(self, languages: list[str]) -> Dataset:
        from datasets import concatenate_datasets, load_dataset

        self.check(languages)
        parts = []
        for lang in languages:
            for split in self.splits:
                file = self._file(lang, split)
                options: dict[str, Any] = {}
                if READERS[file.suffix] == "csv":  # only an empty field is missing: "None" and "NA" may be classes
                    options = {
                        "sep": "\t" if file.suffix == ".tsv" else ",",
                        "keep_default_na": False,
                        "na_values": [""],
                    }
                table = load_dataset(READERS[file.suffix], data_files=str(file), split="train", **options)
                if sound := self.columns.get("audio"):
                    table = table.map(
                        lambda row, at=file.parent, name=sound: {name: str(at / row[name]) if row[name] else None}
                    )
                parts.append(dataset_from_table(table, self.columns, lang, split, self.labels))
        return concatenate_datasets(parts)


def _header(file: Path) -> list[str]:
    """Column names, from the first line or the file's own schema; a file without rows raises UserError."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        if not pq.read_metadata(file).num_rows:
            raise UserError(f"corpus: {file} is empty. Every split of every language needs at least one row.")
        return list(pq.read_schema(file).names)
    with file.open(encoding="utf-8-sig") as file_lines:
        lines = (line for line in file_lines if line.strip())
        first = next(lines, "")
        if file.suffix in (".csv", ".tsv"):
            names, filled = (
                next(csv.reader([first], delimiter="\t" if file.suffix == ".tsv" else ","), []),
                next(lines, ""),
            )
        else:
            names, filled = _keys(file, first), first
    if not filled:
        raise UserError(f"corpus: {file} is empty. Every split of every language needs at least one row.")
    return names


def _keys(file: Path, first: str) -> list[str]:
    """Column names of the first object in a file of JSON lines, or of one JSON list."""
    try:
        found = json.loads(file.read_text("utf-8-sig") if first.lstrip().startswith("[") else first or "{}")
        return list(dict((found or [{}])[0] if isinstance(found, list) else found))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"corpus: {file} is not JSON as expected ({error}). "
            f'Write one object a line: {{"text": "...", "label": "..."}}.'
        ) from error
