"""What tests of your own files share: a corpus as the command line makes it, its rows, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from distilingua.corpora.files import Files
from distilingua.corpora.schema import COLUMNS
from distilingua.errors import UserError
from distilingua.locations import conf_folder

SPLITS = ("train", "dev", "test")


def full_row(**cells: str) -> dict[str, str]:
    """With empty text in all other columns."""
    return {**dict.fromkeys(COLUMNS, ""), **cells}


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
