"""The sentiment corpus that comes with the package: three languages, aligned, balanced, nothing twice."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import datasets
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import distilingua
from distilingua.corpora.files import Files
from distilingua.errors import UserError
from distilingua.locations import conf_folder

FOLDER = Path(distilingua.__file__).parent / "corpora" / "feelings"
LANGUAGES = ("en", "de", "zh-CN")
SIZES = {"train": 300, "dev": 60, "test": 90}


def rows(lang: str, split: str) -> list[dict[str, str]]:
    with (FOLDER / lang / f"{split}.tsv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("split", SIZES)
def test_size_and_balance(lang: str, split: str) -> None:
    found = rows(lang, split)
    assert list(found[0]) == ["text", "label", "key"]
    assert len(found) == SIZES[split]
    assert Counter(row["label"] for row in found) == dict.fromkeys(
        ("negative", "neutral", "positive"), SIZES[split] // 3
    )


@pytest.mark.parametrize("lang", LANGUAGES[1:])
@pytest.mark.parametrize("split", SIZES)
def test_the_same_key_has_the_same_label_in_every_language(lang: str, split: str) -> None:
    english = {row["key"]: row["label"] for row in rows("en", split)}
    assert {row["key"]: row["label"] for row in rows(lang, split)} == english
    assert len(english) == SIZES[split]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_text_and_no_key_stands_twice(lang: str) -> None:
    found = [row for split in SIZES for row in rows(lang, split)]
    assert len({row["text"].casefold() for row in found}) == len({row["key"] for row in found}) == sum(SIZES.values())
    assert all(row["text"] == row["text"].strip() != "" for row in found)


def test_chinese_is_written_in_chinese_and_german_is_no_copy() -> None:
    for split in SIZES:
        assert all("\u4e00" <= row["text"][0] <= "\u9fff" for row in rows("zh-CN", split))
        assert not {row["text"] for row in rows("de", split)} & {row["text"] for row in rows("en", split)}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.chdir(tmp_path)  # it is found wherever the command is typed
    return instantiate(OmegaConf.load(conf_folder() / "corpus" / "feelings.yaml"))


def test_the_configuration_finds_it_in_the_package(corpus: Files) -> None:
    corpus.check(list(LANGUAGES))
    found = corpus.load(list(LANGUAGES)).to_list()
    assert len(found) == 3 * sum(SIZES.values())
    groups = Counter(row["group"] for row in found)
    assert set(groups.values()) == {3}
    assert len({row["id"] for row in found}) == len(found)


def test_a_language_it_does_not_have(corpus: Files) -> None:
    with pytest.raises(UserError, match=r"fr/train.csv does not exist.*leads there for 'fr'"):
        corpus.check(["en", "fr"])


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(UserError, match=r"corpus.path=package:no_such/data: .*'no_such' is not installed.*no-such"):
        Files("package:no_such/data").check(["en"])
