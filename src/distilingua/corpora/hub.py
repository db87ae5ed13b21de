"""Any classification data set of the Hugging Face Hub that stores Parquet, JSON or CSV (`datasets` runs no scripts)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distilingua.corpora.schema import dataset_from_table
from distilingua.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Hub:
    """A data set with one configuration per language.

    Args:
        path: repository on the hub, or a local folder with the same files.
        languages: language code -> configuration of the data set.
        columns: see `dataset_from_table`.
        splits: our split -> theirs.
        labels: class names by number, where the labels are plain numbers; null takes names from the data set.
        limit: rows per language and split, for a quick look; null for all.
    """

    path: str
    languages: dict[str, str]
    columns: dict[str, Any]
    splits: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"},
    )
    labels: list[str] | None = None
    limit: int | None = None

    def check(self, languages: list[str]) -> None:
        """Raises UserError for a language without a configuration."""
        for lang in languages:
            if lang not in self.languages:
                raise UserError(
                    f"corpus: {self.path} has no language {lang!r}. Choose from: {', '.join(self.languages)}, or name "
                    f"its configuration: +corpus.languages.{lang}=CONFIGURATION."
                )

    def load(self, languages: list[str]) -> Dataset:
        from datasets import concatenate_datasets, load_dataset

        self.check(languages)
        parts = []
        for lang in languages:
            for split, theirs in self.splits.items():
                table = load_dataset(self.path, self.languages[lang], split=theirs)
                _require_columns(self.columns, table.column_names, f"{self.path} ({self.languages[lang]})")
                if self.limit is not None:
                    table = table.select(range(min(self.limit, len(table))))
                parts.append(dataset_from_table(table, self.columns, lang, split, self.labels))
        return concatenate_datasets(parts)


def _require_columns(columns: dict[str, Any], found: list[str], where: str) -> None:
    wanted = [c for value in columns.values() if value for c in ([value] if isinstance(value, str) else value)]
    missing = [c for c in wanted if c not in found and c != "row"]
    if missing:
        raise UserError(
            f"corpus: {where} has no column {', '.join(map(repr, missing))}; it has {', '.join(found)}. "
            f"Name the right ones under corpus.columns, e.g. corpus.columns.text={found[0]}."
        )
