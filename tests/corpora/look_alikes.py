"""Tables and folders as data sets of the hub have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset


def table(n: int, **columns: Any) -> Dataset:
    """Rows of cells: functions of the row's number, texts in which `#` stands for it, or the same in every row."""
    return Dataset.from_dict({name: [_cell(cell, i) for i in range(n)] for name, cell in columns.items()})


def _cell(cell: Any, row: int) -> Any:
    return cell(row) if callable(cell) else cell.replace("#", str(row)) if isinstance(cell, str) else cell


def hub_folder(folder: Path, tables: Mapping[str, Mapping[str, Dataset]], readme: bool = True) -> Path:
    """Parquet files per configuration and split, and the README that declares them."""
    declared = []
    for config, splits in tables.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            rows.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
        files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        declared.append({"config_name": config, "data_files": files})
    if readme:
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': declared})}---\n", "utf-8")
    return folder
