"""What tests of your own files share: a corpus as the command line makes it, its rows, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import OmegaConf

from distilingua.corpora.files import Files
from distilingua.corpora.schema import COLUMNS, dataset_from_rows
from distilingua.errors import UserError
from distilingua.locations import conf_folder

SPLITS = ("train", "dev", "test")
Record = dict[str, Any]


def write_csv(file: Path, records: list[Record], delimiter: str = ",") -> None:
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, records[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)


def as_json(record: Any, **options: Any) -> str:
    return json.dumps(record, ensure_ascii=False, **options)


WRITERS: dict[str, Callable[[Path, list[Record]], Any]] = {
    ".csv": write_csv,
    ".tsv": lambda file, records: write_csv(file, records, "\t"),
    ".jsonl": lambda file, records: file.write_text("\n".join(map(as_json, records)) + "\n", "utf-8"),
    ".json": lambda file, records: file.write_text(as_json(records, indent=2), "utf-8"),
    ".parquet": lambda file, records: Dataset.from_list(records).to_parquet(file),
}


def full_row(**cells: str) -> dict[str, str]:
    """With empty text in all other columns."""
    return {**dict.fromkeys(COLUMNS, ""), **cells}


@dataclass
class Given:
    """A corpus of the rows it is given."""

    rows: list[dict[str, str]]
    skip_bad_rows: bool = False

    def check(self, languages: list[str]) -> None: ...

    def load(self, languages: list[str]) -> Dataset:
        return dataset_from_rows(row for row in self.rows if row["lang"] in languages)


def each_row(n: int, *languages: str, splits: Sequence[str] = SPLITS, **cells: str) -> list[dict[str, str]]:
    """Rows of every language and split; cells may have {lang}, {split} and {n} in them."""
    places = [{"lang": lang, "split": split, "n": i} for lang, split, i in product(languages, splits, range(n))]
    cells = {"id": "{lang}-{split}-{n}", "lang": "{lang}", "split": "{split}", **cells}
    return [{name: cell.format(**place) for name, cell in cells.items()} for place in places]


def files(path: Path | str, *overrides: dict[str, Any]) -> Files:
    """`conf/corpus/files.yaml`, with some keys overridden."""
    yaml = OmegaConf.load(conf_folder() / "corpus" / "files.yaml")
    return instantiate(OmegaConf.merge(yaml, {"path": str(path)}, *overrides))


def rows_of_split(corpus: Files, lang: str, split: str) -> list[dict[str, str]]:
    return [row for row in corpus.load([lang]).to_list() if row["split"] == split]


def refusal(corpus: Callable[[], Files], languages: Sequence[str], told: Sequence[str]) -> str:
    """The message of `check`, which `load` must give as well; all of `told` stands in it."""
    messages = []
    for ask in (Files.check, Files.load):
        with pytest.raises(UserError) as caught:
            ask(corpus(), list(languages))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "Traceback" not in messages[0]
    for part in told:
        assert part in messages[0]
    return messages[0]
