"""Your own files: every kind of them, and every way they can be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from distilingua.corpora.files import Files
from distilingua.corpora.schema import COLUMNS
from distilingua.errors import UserError
from tests.corpora.own_files import SPLITS, WRITERS, Record, files, full_row, refusal, rows_of_split, write_csv

RECORDS = {
    "en": [{"text": 'turn on "the", lamp', "label": "light"}, {"text": "play a song", "label": "music"}],
    "de": [{"text": 'mach "die", Lampe an', "label": "light"}, {"text": "spiel ein Lied", "label": "music"}],
}


def lay_out(folder: Path, records: dict[str, list[Record]], suffix: str = ".csv") -> str:
    """The same records for every split; returns the `corpus.path` that leads to them."""
    for lang, found in records.items():
        for split in SPLITS:
            file = folder / lang / f"{split}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[suffix](file, found)
    return f"{folder}/{{lang}}/{{split}}{suffix}"


def corpus(path: str, **overrides: Any) -> Files:
    return files(path, overrides)


def load(path: str, lang: str = "en", split: str = "train", **overrides: Any) -> list[dict[str, str]]:
    return rows_of_split(corpus(path, **overrides), lang, split)


def refused(path: str, *told: str, languages: Sequence[str] = ("en",), **overrides: Any) -> str:
    return refusal(lambda: corpus(path, **overrides), languages, told)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file(suffix: str, tmp_path: Path) -> None:
    rows = corpus(lay_out(tmp_path, RECORDS, suffix)).load(["en", "de"]).to_list()
    assert len(rows) == 2 * 3 * 2
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0] == full_row(id="en-train-0", lang="en", split="train", text='turn on "the", lamp', label="light")
    assert [(row["lang"], row["split"], row["text"], row["label"]) for row in rows if row["lang"] == "de"] == [
        ("de", split, record["text"], record["label"]) for split in SPLITS for record in RECORDS["de"]
    ]
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("suffix", WRITERS)
def test_columns_by_name(suffix: str, tmp_path: Path) -> None:
    records = [{"nr": 7, "satz": "a", "art": "x", "paar": 70}, {"nr": 8, "satz": "b", "art": "y", "paar": 80}]
    columns = {"text": "satz", "label": "art", "group": "paar", "id": "nr"}
    rows = load(lay_out(tmp_path, {"en": records}, suffix), columns=columns)
    assert [(row["id"], row["text"], row["label"], row["group"]) for row in rows] == [
        ("en-train-7", "a", "x", "train-70"),
        ("en-train-8", "b", "y", "train-80"),
    ]


@pytest.mark.parametrize("suffix", WRITERS)
def test_sentence_pairs(suffix: str, tmp_path: Path) -> None:
    records = [{"premise": "it rains", "hypothesis": "it is wet", "label": "yes"}]
    rows = load(lay_out(tmp_path, {"en": records}, suffix), columns={"text": ["premise", "hypothesis"]})
    assert [(row["text"], row["text_pair"], row["label"]) for row in rows] == [("it rains", "it is wet", "yes")]


def test_stretches_and_sound_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    records = [{"words": ["die", "Lampe"], "same": '[["lamp", 4, 9]]', "wav": "../a.wav"}]
    path = lay_out(tmp_path / "data", {"de": records}, ".jsonl")
    columns = {"text": "words", "label": None, "spans": "same", "audio": "wav"}
    (tmp_path / "data" / "a.wav").write_bytes(b"sound")
    (row,) = load(path, "de", columns=columns)
    assert (row["text"], row["label"], row["spans"]) == ("die Lampe", "", '[["lamp", 4, 9]]')
    assert row["audio"].rpartition("#")[0] == str(tmp_path / "data" / "de" / "../a.wav")  # beside the table
    with pytest.raises(UserError, match=r"no column 'sound'.*corpus\.columns\.audio=words"):
        load(path, "de", columns={**columns, "audio": "sound"})


def test_group_row_aligns_files_line_by_line(tmp_path: Path) -> None:
    rows = corpus(lay_out(tmp_path, RECORDS), columns={"group": "row"}).load(["en", "de"]).to_list()
    groups = {(row["lang"], row["split"], row["text"]): row["group"] for row in rows}
    assert groups["en", "train", "play a song"] == groups["de", "train", "spiel ein Lied"] == "train-1"
    assert groups["en", "test", "play a song"] == "test-1"


def test_groups_and_labels_survive_a_gap_in_a_column_of_numbers(tmp_path: Path) -> None:
    """A missing value turns a column of whole numbers into 1.0, 2.0: the other language's file has 1, 2."""
    path = lay_out(
        tmp_path,
        {
            "en": [{"text": "a", "label": 1, "key": 5}, {"text": "b", "label": 0, "key": 6}],
            "de": [{"text": "c", "label": 1, "key": 5}, {"text": "d", "label": "", "key": ""}],
        },
    )
    columns = {"group": "key"}
    assert [(row["label"], row["group"]) for row in load(path, "en", columns=columns)] == [
        ("1", "train-5"),
        ("0", "train-6"),
    ]
    assert [(row["label"], row["group"]) for row in load(path, "de", columns=columns)] == [("1", "train-5"), ("", "")]
    named = load(path, "de", columns=columns, labels=["bad", "good"])
    assert [row["label"] for row in named] == ["good", ""]


def test_block_is_a_coarser_group(tmp_path: Path) -> None:
    records = [{"text": "a", "label": "x", "kind": 3}, {"text": "b", "label": "y", "kind": ""}]
    path = lay_out(tmp_path, {"en": records})
    assert [row["block"] for row in load(path, columns={"block": "kind"})] == ["3", ""]
    refused(path, "has no column 'sort'", columns={"block": "sort"})


@pytest.mark.parametrize("suffix", WRITERS)
def test_numbered_labels_get_names(suffix: str, tmp_path: Path) -> None:
    path = lay_out(tmp_path, {"en": [{"text": "a", "label": 2}, {"text": "b", "label": 0}]}, suffix)
    assert [row["label"] for row in load(path)] == ["2", "0"]
    assert [row["label"] for row in load(path, labels=["bad", "fair", "good"])] == ["good", "bad"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_words_that_look_like_missing_values_are_words(suffix: str, tmp_path: Path) -> None:
    records = [{"text": "null", "label": "None"}, {"text": "NA", "label": "nan"}]
    rows = load(lay_out(tmp_path, {"en": records}, suffix))
    assert [(row["text"], row["label"]) for row in rows] == [("null", "None"), ("NA", "nan")]


@pytest.mark.parametrize(("suffix", "nothing"), [(".csv", ""), (".jsonl", None)])
def test_unlabelled_rows(suffix: str, nothing: Any, tmp_path: Path) -> None:
    path = lay_out(tmp_path, {"en": [{"text": "a", "label": nothing}, {"text": "b", "label": "x"}]}, suffix)
    assert [(row["text"], row["label"]) for row in load(path)] == [("a", ""), ("b", "x")]


def test_byte_order_mark_blank_lines_and_line_breaks_in_quotes(tmp_path: Path) -> None:
    for split in SPLITS:
        content = '\ufefftext,label\n\n"one\ntwo",x\n\nthree,y\n'
        (tmp_path / f"en-{split}.csv").write_text(content, "utf-8")
    rows = load(f"{tmp_path}/{{lang}}-{{split}}.csv")
    assert [(row["text"], row["label"]) for row in rows] == [("one\ntwo", "x"), ("three", "y")]


def test_other_names_of_splits(tmp_path: Path) -> None:
    for theirs, text in (("training", "a"), ("valid", "b"), ("heldout", "c")):
        write_csv(tmp_path / f"en.{theirs}.csv", [{"text": text, "label": "x"}])
    splits = {"train": "training", "dev": "valid", "test": "heldout"}
    rows = corpus(f"{tmp_path}/{{lang}}.{{split}}.csv", splits=splits).load(["en"]).to_list()
    assert [(row["split"], row["text"]) for row in rows] == [("train", "a"), ("dev", "b"), ("test", "c")]


def test_a_corpus_may_bring_its_own_parallel_text(tmp_path: Path) -> None:
    path = lay_out(tmp_path, {"en": RECORDS["en"]})
    write_csv(tmp_path / "en" / "bitext.csv", [{"text": "aligned", "label": ""}])
    rows = load(path, split="parallel", splits={"parallel": "bitext"})
    assert [(row["text"], row["label"]) for row in rows] == [("aligned", "")]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = lay_out(tmp_path, RECORDS)
    assert [row["text"] for row in load(path)] == ['turn on "the", lamp', "play a song"]
    write_csv(tmp_path / "en" / "train.csv", [{"text": "something new", "label": "light"}])
    assert [row["text"] for row in load(path)] == ["something new"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lang", "split"), [("de", "dev"), ("fr", "train")])
def test_missing_file(lang: str, split: str, tmp_path: Path) -> None:
    path = lay_out(tmp_path, RECORDS)
    file = tmp_path / lang / f"{split}.csv"
    file.unlink(missing_ok=True)
    refused(path, f"{file} does not exist", f"corpus.path={path}", repr(lang), languages=["en", lang])


@pytest.mark.parametrize("suffix", WRITERS)
def test_missing_column(suffix: str, tmp_path: Path) -> None:
    records = [{"utterance": "a", "label": "x"}]
    refused(
        lay_out(tmp_path, {"en": records}, suffix),
        f"{tmp_path}/en/train{suffix} has no column 'text'; it has utterance, label.",
        "corpus.columns.text=utterance",
    )


def test_missing_column_of_a_pair_or_group(tmp_path: Path) -> None:
    path = lay_out(tmp_path, RECORDS)
    refused(path, "has no column 'second'", columns={"text": ["text", "second"]})
    refused(path, "has no column 'key'", columns={"group": "key"})


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".csv", "text,label\n"), (".tsv", "text\tlabel\n\n"), (".jsonl", ""), (".parquet", None), (".csv", "")],
)
def test_empty_split(suffix: str, content: str | None, tmp_path: Path) -> None:
    path = lay_out(tmp_path, RECORDS, suffix)
    file = tmp_path / "en" / f"dev{suffix}"
    if content is None:
        Dataset.from_list(RECORDS["en"]).select([]).to_parquet(file)
    else:
        file.write_text(content, "utf-8")
    refused(path, f"{file} is empty", "at least one row")


def test_unknown_suffix(tmp_path: Path) -> None:
    refused(f"{tmp_path}/{{lang}}/{{split}}.xlsx", "train.xlsx", ".csv, .tsv, .jsonl, .json, .parquet")


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_folder_is_enough_where_files_have_the_usual_names(tmp_path: Path, suffix: str) -> None:
    pattern = lay_out(tmp_path, RECORDS, suffix)
    assert load(str(tmp_path)) == load(pattern)


@pytest.mark.parametrize("path", ["data/{split}.csv", "data/{lang}.csv"])
def test_path_without_a_field(path: str) -> None:
    refused(path, f"corpus.path={path} must contain {{lang}} and {{split}}", "e.g. data/{lang}/{split}.csv")


def test_path_with_other_braces(tmp_path: Path) -> None:
    refused(f"{tmp_path}/{{lang}}-{{split}}-{{version}}.csv", f"{tmp_path}/en-train-{{version}}.csv does not exist")


@pytest.mark.parametrize("content", ['{"text": "a",\n"label": "x"}\n', "text,label\na,x\n", '"text"\n'])
def test_not_json(content: str, tmp_path: Path) -> None:
    path = lay_out(tmp_path, RECORDS, ".jsonl")
    (tmp_path / "en" / "train.jsonl").write_text(content, "utf-8")
    refused(path, f"{tmp_path}/en/train.jsonl is not JSON as expected", '{"text": "...", "label": "..."}')


def test_label_number_without_a_name(tmp_path: Path) -> None:
    path = lay_out(tmp_path, {"en": [{"text": "a", "label": 2}]})
    with pytest.raises(UserError, match=r"a label 2, and names for 0 to 1 only: bad, good"):
        corpus(path, labels=["bad", "good"]).load(["en"])
