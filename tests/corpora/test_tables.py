"""Text files are text: cells as they were written, in a stated dialect, and what does not fit by file and line."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import ClassLabel, Dataset, Features, Value
from hydra.core.override_parser.overrides_parser import OverridesParser

from distilingua.console import console
from distilingua.corpora.files import Files
from distilingua.corpora.hub import Hub
from distilingua.corpora.schema import notes_of
from distilingua.corpora.sound import waveform
from distilingua.corpora.translations import Joined
from distilingua.data.cleaning import Cleaning
from distilingua.data.protocol import Pair
from distilingua.data.rows import Rows, load_rows
from distilingua.describe import ambiguity_caps
from distilingua.errors import UserError
from distilingua.monitoring.tables import show_data
from distilingua.tasks.multi_label import MultiLabel
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from distilingua.tasks.translation import Translation
from tests.corpora.own_files import SPLITS, WRITERS, files, refusal, rows_of_split

N = 220
TEXTS = {"en": "sentence number {} of {}", "de": "Satz Nummer {} von {}"}


def lines_of(lang: str, split: str, separator: str = ",", n: int = N) -> list[str]:
    """A header, and rows of key, text and topic."""
    topics = ["music", "light", "weather"]
    rows = [(f"k{i}", TEXTS[lang].format(i, split), topics[i % 3]) for i in range(n)]
    return [separator.join(row) for row in [("key", "text", "topic"), *rows]]


SEPARATORS = {".csv": ",", ".tsv": "\t"}


def lay_out(folder: Path, suffix: str = ".csv", separator: str = "", n: int = N) -> Path:
    for lang, split in product(TEXTS, SPLITS):
        write(folder / lang / f"{split}{suffix}", lines_of(lang, split, separator or SEPARATORS.get(suffix, ","), n))
    return folder


@pytest.fixture
def usual(tmp_path: Path) -> Path:
    return lay_out(tmp_path)


def write(file: Path, lines: list[str], encoding: str = "utf-8") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(line + "\n" for line in lines).encode(encoding))


def each_split(folder: Path, suffix: str, lines: list[str], languages: Iterable[str] = ("en",)) -> None:
    """The same lines for every split."""
    for lang, split in product(languages, SPLITS):
        write(folder / lang / f"{split}{suffix}", lines)


def each_parquet(folder: Path, columns: dict[str, Any], languages: Iterable[str] = ("en",)) -> None:
    """The same table for every split."""
    for lang, split in product(languages, SPLITS):
        (folder / lang).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / lang / f"{split}.parquet")


def corpus(folder: Path | str, **overrides: Any) -> Files:
    """With columns key, text and topic."""
    return files(folder, {"columns": {"label": "topic", "group": "key"}}, overrides)


def load(folder: Path | str, lang: str = "en", split: str = "train", **overrides: Any) -> list[dict[str, str]]:
    return rows_of_split(corpus(folder, **overrides), lang, split)


def refused(folder: Path | str, *told: str, languages: Sequence[str] = ("en", "de"), **overrides: Any) -> str:
    return refusal(lambda: corpus(folder, **overrides), languages, told)


def rows_of(folder: Path, teacher: list[str] | None = None, task: Any = TextClassification, **overrides: Any) -> Rows:
    return load_rows(corpus(folder, **overrides), Cleaning(), Pair("en", ["de"]), teacher, task=task)


def printed(rows: Rows) -> str:
    with console.capture() as found:
        show_data(rows)
    return " ".join(found.get().split())


# --- fields -----------------------------------------------------------------------------------------------------------


def instead(lang: str, split: str, rows: dict[int, str], separator: str = ",") -> list[str]:
    """The usual lines, but for some by their numbers from 0."""
    return [rows.get(n, line) for n, line in enumerate(lines_of(lang, split, separator))]


def ends_in(separator: str) -> list[str]:
    """As spreadsheets write rows: every column moved by one, and user names were learnt as texts."""
    header, *rows = lines_of("de", "train", separator)
    return [header, *(row + separator for row in rows)]


def twice(separator: str) -> list[str]:
    """As `cat one.csv two.csv` leaves it."""
    return 2 * lines_of("de", "train", separator)


MOVED = (
    "line 2 has 4 cells, and the header names 3 columns (key, text, topic)",
    "which the header lacks: take it away",
)
KINDS = ["key,text,topic", "", 'k0,"one', "two", 'three",music', "k1,four,light", "k2,five,six,light"]


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        ("de/train.csv", ends_in(","), MOVED),
        ("de/train.tsv", ends_in("\t"), MOVED),
        (
            "en/test.csv",
            instead("en", "test", {150: "k7,one, two,music"}),
            ("line 151 has 4 cells", "stands in quotes"),
        ),
        ("en/test.csv", instead("en", "test", {150: "k7,music"}), ("line 151 has 2 cells", "stands in quotes")),
        ("en/test.csv", instead("en", "test", {150: "k7"}), ("line 151 has 1 cells", "stands in quotes")),
        ("en/train.csv", KINDS, ("line 7 has 4 cells",)),  # as an editor counts lines
        ("en/dev.csv", [*lines_of("en", "dev"), 'k,"and then,music'], (f"line {N + 2}: its quotes do not pair",)),
        ("en/train.tsv", ['"key"\t"text"\t"topic"', '"k0"\t"a\tb"\t"light"'], ("Set corpus.quoting=true",)),
        ("en/train.tsv", ["key\ttext\ttopic", 'k\t"a\tb"\tx'], ("line 2 has 4 cells", "corpus.quoting=true")),
        ("en/train.csv", ["key,text,topic, text", "a,b,c,d"], ("has two columns named 'text'",)),
        ("en/train.csv", ["key;text;topic;notes, if any", "a;b;c;d"], ("'corpus.separator=\";\"'",)),
        ("de/train.csv", twice(","), (f"line {N + 2} is the header once more",)),
        ("de/train.tsv", twice("\t"), (f"line {N + 2} is the header once more",)),
    ],
)
def test_a_file_that_is_not_as_stated(name: str, lines: list[str], told: Sequence[str], tmp_path: Path) -> None:
    file = lay_out(tmp_path, Path(name).suffix) / name
    write(file, lines)
    assert str(file) in refused(tmp_path, *told)


def test_a_bad_row_beyond_what_check_reads_is_found_by_load(usual: Path) -> None:
    write(usual / "en" / "train.csv", [*lines_of("en", "train", n=30_000), "k,one, two,music"])
    corpus(usual).check(["en"])
    with pytest.raises(UserError, match=r"en/train\.csv, line 30002 has 4 cells"):
        corpus(usual).load(["en"])


@pytest.mark.parametrize("quoted", ['"so she said', '"That" is what she said', '"so', '"'])
def test_texts_that_begin_with_a_quote(quoted: str, tmp_path: Path) -> None:
    """Two of them swallowed what stood between."""
    lay_out(tmp_path, ".tsv")
    odd = {n: f"k{n - 1}\t{quoted} {n}\tmusic" for n in (20, 70)}
    write(tmp_path / "de" / "train.tsv", instead("de", "train", odd, "\t"))
    rows = load(tmp_path, "de")
    assert rows[19]["text"] == f"{quoted} 20"
    assert [row["group"] for row in rows] == [f"train-k{i}" for i in range(N)]


def test_quotes_in_csv_pair_or_are_refused_by_their_line(usual: Path) -> None:
    odd = {20: 'k19,"so she said,music', 70: 'k69,"and so did he,music'}
    write(usual / "de" / "train.csv", instead("de", "train", odd))
    refused(usual, f"{usual}/de/train.csv, line 21: its quotes do not pair", "corpus.quoting=false")
    rows = load(usual, "de", quoting=False)
    assert len(rows) == N
    assert rows[19]["text"] == '"so she said'


def test_quotes_of_a_program_in_a_tsv(tmp_path: Path) -> None:
    """Excel and Python's csv put quotes around cells with quotes: seen by those that are doubled, and said."""
    lay_out(tmp_path, ".tsv")
    write(tmp_path / "en" / "train.tsv", ["key\ttext\ttopic", 'k0\t"a ""big"" lamp"\tlight', 'k1\t6" nails\tlight'])
    made = corpus(tmp_path)
    assert made.load(["en"])["text"][:2] == ['a "big" lamp', '6" nails']
    assert any("en/train.tsv: 1 cells stand in quotes" in note and "quoting=false" in note for note in made.notes)
    assert load(tmp_path, quoting=False)[0]["text"] == '"a ""big"" lamp"'
    write(tmp_path / "en" / "train.tsv", ['"key"\t"text"\t"topic"', '"k0"\t"tab\there"\t"light"'])
    assert [row["text"] for row in load(tmp_path, quoting=True)] == ["tab\there"]  # where that is stated


@pytest.mark.parametrize(
    ("lines", "texts", "note"),
    [
        (['k0,"one', 'two",music', "k1,x,light"], ["one\ntwo", "x"], "1 rows hold line breaks, the first in line 2."),
        (
            ["", "k0,a,music", " ", "", "k1,b,light", ""],
            ["a", "b"],
            "3 blank lines are no rows, the first is line 2.",
        ),
    ],
)
def test_line_breaks_and_blank_lines_are_counted(lines: list[str], texts: list[str], note: str, usual: Path) -> None:
    write(usual / "en" / "train.csv", ["key,text,topic", *lines])
    made = corpus(usual)
    assert [row["text"] for row in made.load(["en"]) if row["split"] == "train"] == texts
    assert made.notes == [f"{usual}/en/train.csv: {note}"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_of_every_system(ending: str, usual: Path) -> None:
    (usual / "en" / "train.csv").write_bytes(ending.join(lines_of("en", "train")).encode())
    assert [row["label"] for row in load(usual)][:3] == ["music", "light", "weather"]


def test_other_line_separators_are_characters(tmp_path: Path) -> None:
    for suffix, separator in ((".tsv", "\t"), (".jsonl", "")):
        folder = lay_out(tmp_path / suffix, ".tsv", "\t")
        for split in SPLITS:
            if not separator:
                (folder / "en" / f"{split}.tsv").unlink()
                record = {"key": "k", "text": "one\u2028two\x85three", "topic": "music"}
                write(folder / "en" / f"{split}{suffix}", [json.dumps(record, ensure_ascii=False)])
            else:
                write(folder / "en" / f"{split}.tsv", ["key\ttext\ttopic", "k\tone\u2028two\x85three\tmusic"])
        assert [row["text"] for row in load(folder)] == ["one\u2028two\x85three"]


def test_a_cell_of_any_length(usual: Path) -> None:
    write(usual / "en" / "train.csv", ["key,text,topic", f"k0,{'x' * 300_000},music"])
    assert len(load(usual)[0]["text"]) == 300_000


# --- cells ------------------------------------------------------------------------------------------------------------


def records(folder: Path, suffix: str, rows: list[tuple[str, str, str]]) -> None:
    """The same rows of key, text and topic for every split, as text or as bare numbers of JSON."""
    if suffix.startswith(".js"):
        lines = [f'{{"key": {k or "null"}, "text": "{t}", "topic": {c or "null"}}}' for k, t, c in rows]
        lines = lines if suffix == ".jsonl" else ["[", ",\n".join(lines), "]"]
    else:
        lines = [{".csv": ",", ".tsv": "\t"}[suffix].join(row) for row in [("key", "text", "topic"), *rows]]
    each_split(folder, suffix, lines, TEXTS)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_keys_that_look_like_numbers(suffix: str, tmp_path: Path) -> None:
    keys = [f"1.{i}" for i in range(N)]  # 1.1 and 1.10
    records(tmp_path, suffix, [(key, f"text {n}", "1") for n, key in enumerate(keys)])
    assert [row["group"] for row in load(tmp_path)] == [f"train-{key}" for key in keys]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_long_ids_with_a_gap(suffix: str, tmp_path: Path) -> None:
    keys = [str(1234567890123456700 + i) for i in range(N)]
    keys[100] = ""
    records(tmp_path, suffix, [(key, f"text {n}", "1") for n, key in enumerate(keys)])
    rows = load(tmp_path, columns={"id": "key"})
    assert [row["group"] for row in rows] == [f"train-{key}" if key else "" for key in keys]
    assert len({row["id"] for row in rows}) == N


def test_classes_that_begin_with_a_nought(tmp_path: Path) -> None:
    for suffix in (".csv", ".tsv"):
        records(tmp_path / suffix, suffix, [("a", "x", "011"), ("b", "y", "11"), ("c", "z", "1e3")])
        assert [row["label"] for row in load(tmp_path / suffix)] == ["011", "11", "1e3"]


@pytest.mark.parametrize("word", ["007", "1.10", "True", "NA", "null", "nan", "inf", "2024-01-02", " ", "1,5"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_cells_stay_as_they_are(word: str, suffix: str, tmp_path: Path) -> None:
    cell = f'"{word}"' if "," in word and suffix == ".csv" else word
    records(tmp_path, suffix, [("k1", cell, "x"), ("k2", cell, "x")])
    assert [row["text"] for row in load(tmp_path)] == [word, word]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_labels_that_look_like_truth_values(suffix: str, tmp_path: Path) -> None:
    labels = ["true", "false", "half-true"]
    rows = [(f"{i}", f"text {i}", labels[i % 3]) for i in range(60)]
    quoted = [(k, t, f'"{c}"' if suffix.startswith(".js") and c == "half-true" else c) for k, t, c in rows]
    records(tmp_path, suffix, quoted)
    for lang in TEXTS:  # the last is absent from dev, which made it a column of truth values
        lines = [row for row in quoted if "half-true" not in row[2]]
        records(tmp_path / "dev", suffix, lines)
        (tmp_path / lang / f"dev{suffix}").write_bytes((tmp_path / "dev" / lang / f"dev{suffix}").read_bytes())
    found = load_rows(corpus(tmp_path), Cleaning(duplicates=False), Pair("en", ["de"]), None)
    assert found.labels == ["false", "half-true", "true"]
    assert set(found.dev["de"]["label"]) == {"false", "true"}


def test_numbers_of_json_keep_their_spelling(tmp_path: Path) -> None:
    keys = ["10000000000000000000000000000001", "1.10", "1E5", "-0.0", "3"]
    records(tmp_path, ".jsonl", [(key, f"text {n}", key) for n, key in enumerate(keys)])
    assert [row["label"] for row in load(tmp_path)] == keys
    write(tmp_path / "en" / "train.jsonl", ['{"key": NaN, "text": "a", "topic": NaN}'])
    assert [(row["group"], row["label"]) for row in load(tmp_path)] == [("", "")]


def test_json_with_lists_and_objects_in_its_cells(tmp_path: Path) -> None:
    lay_out(tmp_path, ".jsonl")
    answers = {"text": ["in the hall"], "answer_start": [17]}
    record = {"text": ["where?", "the lamp stands in the hall"], "topic": answers, "key": 1, "s": [["hall", 20, 24]]}
    flat = {"q": "where?", "c": "the lamp stands in the hall", **{k: record[k] for k in ("topic", "key", "s")}}
    each_split(tmp_path, ".jsonl", [json.dumps(flat)])
    (row,) = load(tmp_path, columns={"text": ["q", "c"], "spans": "s"})
    assert json.loads(row["label"]) == [{"text": "in the hall", "start": 17}]
    assert json.loads(row["spans"]) == [["hall", 20, 24]]
    tagged = {"text": ["the", "hall"], "topic": ["O", "B-room"], "key": 1}
    each_split(tmp_path, ".jsonl", [json.dumps(tagged), json.dumps({"text": "x", "topic": ["a", "b"]})])
    tokens, several = load(tmp_path)
    assert (tokens["text"], tokens["label"]) == ("the hall", "O B-room")
    assert MultiLabel.classes([several["label"]]) == ["a", "b"]
    nested = {"translation": {"en": "hall", "de": "Diele"}, "key": 1}
    each_split(tmp_path, ".jsonl", [json.dumps(nested)])
    columns = {"text": "translation.{lang}", "label": "translation.de"}
    assert [(row["text"], row["label"]) for row in load(tmp_path, columns=columns)] == [("hall", "Diele")]


def test_a_column_that_only_later_lines_have(tmp_path: Path) -> None:
    lay_out(tmp_path, ".jsonl")
    each_split(tmp_path, ".jsonl", ['{"text": "a"}', '{"key": 7, "text": "b", "topic": "x", "more": 1}'])
    assert [(row["group"], row["label"]) for row in load(tmp_path)] == [("", ""), ("train-7", "x")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": "a", "text": "b"}', "'text' stands twice"),
        ('{"text": "\\ud800 a"}', "is half of a character"),
        ('{"text": "a"', "line 2: "),
        ("[" * 100_000, "line 2: "),
        ('["a", "x"]', "line 2 is no object"),
        ('{"text": ' + "1" * 5000 + "}", "line 2: "),
    ],
)
def test_lines_that_are_no_json(line: str, why: str, tmp_path: Path) -> None:
    lay_out(tmp_path, ".jsonl")
    each_split(tmp_path, ".jsonl", ['{"text": "a", "key": 1, "topic": "x"}'], TEXTS)
    write(tmp_path / "de" / "train.jsonl", ['{"text": "a", "key": 1, "topic": "x"}', line])
    refused(tmp_path, f"{tmp_path}/de/train.jsonl is not JSON as expected (line 2", why)


def test_numbers_and_gaps_of_parquet(tmp_path: Path) -> None:
    keys = [1234567890123456789, None, 3]
    table = {
        "key": pa.array(keys, pa.int64()),
        "text": pa.array(["a", "b", "c"], pa.large_string()),
        "topic": pa.array([0.0, None, float("nan")], pa.float64()),
        "kind": pa.array(["x", "x", "y"]).dictionary_encode(),
        "yes": pa.array([True, None, False]),
        "raw": pa.array([b"x", None, "ä".encode()]),
    }
    each_parquet(tmp_path, table)
    rows = load(tmp_path, columns={"block": "kind"})
    assert [row["group"] for row in rows] == ["train-1234567890123456789", "", "train-3"]
    assert [row["label"] for row in rows] == ["0", "", ""]
    assert [row["block"] for row in rows] == ["x", "x", "y"]
    assert [row["label"] for row in load(tmp_path, columns={"label": "yes"})] == ["true", "", "false"]
    assert [row["label"] for row in load(tmp_path, columns={"label": "raw"})] == ["x", "", "ä"]
    assert [row["label"] for row in load(tmp_path, labels=["bad", "good"])] == ["bad", "", ""]


def test_class_names_that_datasets_stores_in_parquet(tmp_path: Path) -> None:
    features = Features({"key": Value("int64"), "text": Value("string"), "topic": ClassLabel(names=["bad", "good"])})
    table = Dataset.from_dict({"key": [1, 2, 3], "text": ["a", "b", "c"], "topic": [1, 0, -1]}, features=features)
    (tmp_path / "en").mkdir()
    for split in SPLITS:
        table.to_parquet(tmp_path / "en" / f"{split}.parquet")
    assert [row["label"] for row in load(tmp_path)] == ["good", "bad", ""]


def test_gaps_among_numbers_of_a_hub_table(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "key": pa.array([1.0, float("nan")])})
    pq.write_table(table, tmp_path / "train.parquet")
    made = Hub(str(tmp_path), {"en": "default"}, {"text": "text", "group": "key"}, {"train": "train"})
    assert made.load(["en"])["group"][:] == ["train-1", ""]


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_named(encoding: str, suffix: str, tmp_path: Path) -> None:
    word = "schön – gut" if encoding == "cp1252" else "schön"
    records(tmp_path, suffix, [(str(n), word, "1") for n in range(40)])
    for file in tmp_path.rglob("*.*"):
        file.write_bytes(file.read_text("utf-8").encode(encoding))
    refused(tmp_path, f"{tmp_path}/en/train{suffix}, line ", f"corpus.encoding={encoding}")
    assert [row["text"] for row in load(tmp_path, encoding=encoding)] == [word] * 40


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_one_such_byte_far_down(suffix: str, tmp_path: Path) -> None:
    records(tmp_path, suffix, [(str(n), f"schön {n}", "1") for n in range(20_000)])
    file = tmp_path / "de" / f"train{suffix}"
    lines = file.read_bytes().split(b"\n")
    lines[15_000] = lines[15_000].replace("ö".encode(), b"\xf6")
    file.write_bytes(b"\n".join(lines))
    refused(
        tmp_path,
        f"{file}, line 15001: byte 0xf6 is not utf-8, and the rest of the file is. Mend that line",
        "corpus.encoding=latin-1",
    )


def test_a_byte_order_mark_is_no_part_of_a_name(usual: Path) -> None:
    for encoding in ("utf-8-sig", "utf-8"):
        write(usual / "en" / "train.csv", lines_of("en", "train"), encoding)
        assert len(load(usual)) == N
    write(usual / "en" / "train.csv", [" key , text, topic\u00a0", "k,a,b"])
    assert [(row["group"], row["text"], row["label"]) for row in load(usual)] == [("train-k", "a", "b")]


def test_utf8_is_not_misread_as_something_else(tmp_path: Path) -> None:
    records(tmp_path, ".csv", [("1", "schön", "ä")])
    for encoding in ("latin-1", "cp1252", "utf-16", "utf-16-le", "gbk"):
        refused(
            tmp_path, f"{tmp_path}/en/train.csv, line 1: this file is UTF-8", "corpus.encoding=utf-8", encoding=encoding
        )
    lay_out(tmp_path / "ascii")
    assert len(load(tmp_path / "ascii", encoding="latin-1")) == N


def test_what_is_no_text(usual: Path) -> None:
    file = usual / "de" / "dev.csv"
    content = file.read_bytes()
    file.write_bytes(gzip.compress(content))
    refused(usual, f"{file} is a gzip file by its content")
    lines = content.split(b"\n")
    lines[99] += b"\0"
    file.write_bytes(b"\n".join(lines))
    refused(usual, f"{file}, line 100: there is a null character")
    file.unlink()
    parquet = usual / "de" / "dev.parquet"
    pq.write_table(pa.table({"key": ["k"], "text": ["a"], "topic": ["x"]}), parquet)
    damaged = parquet.read_bytes().replace(b"topic", b"top\xffc")
    for written in (content, damaged, damaged[:-20], b""):
        parquet.write_bytes(written)
        refused(usual, "de/dev.parquet is not Parquet as expected")


# --- separators and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "separator", "typed"),
    [
        (".csv", ";", "'corpus.separator=\";\"'"),
        (".csv", "|", "'corpus.separator=\"|\"'"),
        (".csv", "\t", "corpus.separator=tab"),
        (".tsv", ",", "'corpus.separator=\",\"'"),
    ],
)
def test_another_separator_is_found_out(suffix: str, separator: str, typed: str, tmp_path: Path) -> None:
    lay_out(tmp_path, suffix, separator)
    refused(tmp_path, f"Set {typed}.")
    value = OverridesParser.create().parse_override(typed.strip("'")).value()  # what a shell leaves of it
    rows = load(tmp_path, "de", separator=value)
    assert [row["group"] for row in rows] == [f"train-k{i}" for i in range(N)]


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_another_separator_is_found_out_whatever_the_columns_are_called(separator: str, usual: Path) -> None:
    write(usual / "en" / "train.csv", [separator.join(cells) for cells in (["nr", "review", "stars"], ["1", "a", "2"])])
    message = refused(usual, "en/train.csv has one column", "corpus.separator=")
    assert "corpus.columns.text=" not in message
    with pytest.raises(UserError, match="it has nr, review, stars"):
        corpus(usual, separator="tab" if separator == "\t" else separator).check(["en"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        *(({"encoding": code}, f"corpus.encoding={code} is no encoding") for code in ("utf8000", "hex", "rot13", "")),
        ({"quoting": "maybe"}, "corpus.quoting=maybe is neither true nor false"),
        *(({"separator": s}, f"corpus.separator={s!r} is not one character") for s in ("||", '"', "", "\n")),
        *(({"dev_share": n}, f"corpus.dev_share={n} is not between 0 and 1") for n in (0, 1, -0.1)),
        ({"splits": {"valid": "dev"}}, "corpus.splits.valid is no split. Choose from train"),
        ({"columns": {"text": None}}, "corpus.columns.text names no column"),
        ({"columns": {"text": 0}}, "corpus.columns.text=0 is not the name of one or two columns"),
        (
            {"columns": {"text": ["a", "b", "c"]}},
            "corpus.columns.text=['a', 'b', 'c'] is not the name of one or two columns",
        ),
        ({"columns": {"label": ["topic", "key"]}}, "corpus.columns.label=['topic', 'key'] is not the name of a column"),
        ({"columns": {"label": 1}}, "'corpus.columns.label=\"1\"'"),
        ({"columns": {"text_pair": "text"}}, "corpus.columns.text=[FIRST,SECOND]"),
        ({"columns": {"labels": "topic"}}, "corpus.columns.labels is not known. Choose from text, label"),
    ],
)
def test_options_that_cannot_be(overrides: dict[str, Any], message: str, usual: Path) -> None:
    refused(usual, message, **overrides)


def test_names_of_columns_and_classes_that_look_like_numbers(tmp_path: Path) -> None:
    each_split(tmp_path, ".csv", ["0,1,2", "k,a,1", "l,b,0"])
    columns = {"text": "1", "label": "2", "group": "0"}
    assert [row["label"] for row in load(tmp_path, columns=columns, labels=[10, True])] == ["true", "10"]


def test_a_corpus_of_two_folders(tmp_path: Path) -> None:
    """One to train on, another to be judged by; neither misses the other's files, and dev is not drawn from train."""
    lay_out(tmp_path / "a")
    lay_out(tmp_path / "b")
    one = Files(str(tmp_path / "a"), {"text": "text", "label": "topic"}, {"train": "train"})
    other = Files(str(tmp_path / "b"), {"text": "text", "label": "topic"}, {"dev": "dev", "test": "test"})
    other.separator = "tab"
    with pytest.raises(UserError, match=r"corpus\.separator"):
        Joined({"one": one, "other": other}).check(["en", "de"])
    other.separator = None
    found = Joined({"one": one, "other": other}).load(["en", "de"])
    assert Counter(found["split"]) == {"train": 2 * N, "dev": 2 * N, "test": 2 * N}
    one.splits = {"train": "train", "dev": "nowhere"}
    one.load(["en"])
    assert len(notes_of(Joined({"one": one, "other": other}))) == 1


def test_two_columns_of_one_name_in_parquet(usual: Path) -> None:
    (usual / "en" / "train.csv").unlink()
    table = pa.table([["k"], ["a"], ["b"], ["x"]], names=["key", "text", "text", "topic"])
    pq.write_table(table, usual / "en" / "train.parquet")
    refused(usual, f"{usual}/en/train.parquet has two columns named 'text'")


@pytest.mark.parametrize(
    ("header", "columns", "advice"),
    [
        ("key,text,Topic", {}, "corpus.columns.label=Topic."),
        ("topic_id,key,text,topics", {}, "corpus.columns.label=topics."),
        ("key,topic,sentence,texts", {}, "corpus.columns.text=texts."),
        ("topic,key,sentence", {}, "corpus.columns.text=sentence."),
        ("text,key,zzz", {}, "corpus.columns.label=zzz."),
        ("id,text,topic,keys", {}, "corpus.columns.group=keys."),
        ("ky,txt,topik", {}, "corpus.columns.text=txt corpus.columns.label=topik corpus.columns.group=ky."),
        ("key,topic,sentence1,sentence2", {"text": ["sent1", "sent2"]}, "corpus.columns.text=[sentence1,sentence2]."),
        ("key,topic,first,premise2", {"text": ["first", "premise"]}, "corpus.columns.text=[first,premise2]."),
    ],
)
def test_advice_names_the_nearest_column(header: str, columns: dict[str, Any], advice: str, usual: Path) -> None:
    write(usual / "en" / "train.csv", [header, ",".join("x" for _ in header.split(","))])
    assert refused(usual, columns=columns).endswith(f"e.g. {advice}")


def test_advice_for_a_hub_table_names_the_nearest_column(tmp_path: Path) -> None:
    Dataset.from_dict({"idx": ["1"], "lable": ["x"], "text": ["a"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"corpus\.columns\.label=lable\."):
        Hub(str(tmp_path), {"en": "default"}, {"text": "text", "label": "label"}, {"train": "train"}).load(["en"])


def test_two_files_of_one_split(usual: Path) -> None:
    write(usual / "de" / "train.tsv", lines_of("de", "train", "\t"))
    refused(
        usual,
        f"{usual}/de/train is there as train.csv, train.tsv",
        f"corpus.path='{usual}/{{lang}}/{{split}}.csv'",
    )


# --- what libraries decide by themselves ------------------------------------------------------------------------------


def test_names_that_are_patterns_elsewhere(tmp_path: Path) -> None:
    for name in ("data [v2]", "what*", "lang=en", "a?b", "sp ace%20"):
        folder = lay_out(tmp_path / name, n=3)
        assert [row["label"] for row in load(folder)] == ["music", "light", "weather"]
        pattern = f"{folder}/{{lang}}/{{split}}.csv"
        assert len(load(pattern, "de")) == 3
    partition = tmp_path / "lang=xx"  # which it would be read as
    each_parquet(partition, {"key": ["k"], "text": ["a"], "topic": ["x"]})
    assert len(load(partition)) == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_neither_caches_nor_a_home_nor_the_locale_take_part(suffix: str, tmp_path: Path) -> None:
    """Nothing is written, and the same file is read everywhere."""
    columns = "columns={'text': 'text', 'label': 'topic', 'group': 'key'}"
    for lang, split in product(TEXTS, SPLITS):
        (tmp_path / "data" / lang).mkdir(parents=True, exist_ok=True)
        file = tmp_path / "data" / lang / f"{split}{suffix}"
        WRITERS[suffix](file, [{"key": "1", "text": "schön", "topic": "ä"}])
    code = f"""
from pathlib import Path
from distilingua.corpora.files import Files
rows = Files({str(tmp_path / "data")!r}, {columns}).load(["en", "de"])
assert [row["text"] for row in rows.to_list()] == ["sch\\xf6n"] * 6
assert not any(Path(file["filename"]).exists() for file in rows.cache_files)
"""
    hidden = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LC_", "LANG", "XDG_", "PYTHONUTF8"))}
    away = {**hidden, "HOME": "/proc/nowhere", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", code], env=away, check=True, timeout=1800)


def test_a_refusal_waits_for_no_library(usual: Path) -> None:
    code = f"""
import sys
from distilingua.corpora.files import Files
Files({str(usual)!r}, {{"text": "text", "label": "topic"}}).check(["en", "de"])
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1800)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_sound_files_from_every_kind_of_table(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    soundfile.write(tmp_path / "en" / "a.wav", 0.3 * np.sin(np.arange(16_000) / 20), 16_000)
    both = {"key": [1, 2], "text": ["a", "b"], "topic": ["x", "x"], "wav": pa.array(["a.wav", None], "large_string")}
    each_parquet(tmp_path, both)
    for split in SPLITS if suffix != ".parquet" else ():
        (tmp_path / "en" / f"{split}.parquet").unlink()
        WRITERS[suffix](tmp_path / "en" / f"{split}{suffix}", pa.table(both).to_pylist())
    first, second = load(tmp_path, columns={"audio": "wav"})
    assert first["audio"].startswith(f"{tmp_path}/en/a.wav#")
    assert len(waveform(first["audio"])) == 16_000
    assert second["audio"] == ""


# --- classes ----------------------------------------------------------------------------------------------------------


def labelled(folder: Path, change: dict[int, str], suffix: str = ".csv") -> Path:
    """The usual files, with the labels of some rows of English train spelt in another way."""
    separator = {".csv": ",", ".tsv": "\t"}[suffix]
    lay_out(folder, suffix, separator)
    lines = lines_of("en", "train", separator)
    for n, label in change.items():
        lines[n] = lines[n].rpartition(separator)[0] + separator + label
    write(folder / "en" / f"train{suffix}", lines)
    return folder


@pytest.mark.parametrize("space", ["music ", " music", "music\u00a0", "\u3000music", "music\u200b", "music \u2009"])
def test_white_space_makes_no_class(space: str, tmp_path: Path) -> None:
    rows = rows_of(labelled(tmp_path, {1: space, 4: space, 7: space}))
    assert rows.labels == ["light", "music", "weather"]
    assert Counter(rows.texts["label"])["music"] == 2 * 3 * 74
    assert f"Label spelling: 3 rows of {space!r} read as 'music'." in rows.cleaning.notes
    assert "Label spelling: 3 rows of" in printed(rows)


def test_white_space_alone_is_no_label(tmp_path: Path) -> None:
    rows = rows_of(labelled(tmp_path, {1: " "}))
    assert rows.labels == ["light", "music", "weather"]
    assert "Label spelling: 1 rows of ' ' read as ''." in rows.cleaning.notes


def test_look_alikes_are_warned_of(tmp_path: Path) -> None:
    rows = rows_of(labelled(tmp_path, {1: "Music", 4: "ｍusic", 2: "li ght"}))
    assert set(rows.labels) >= {"music", "Music", "ｍusic", "li ght", "light"}
    told = " ".join(rows.cleaning.notes)
    assert "look alike are kept apart: 'Music' (1 rows), 'music' (442 rows), 'ｍusic' (1 rows)." in told
    assert "'li ght' (1 rows), 'light' (" in told


def test_a_look_alike_that_is_refused_is_said_to_be_one(tmp_path: Path) -> None:
    labelled(tmp_path, {})
    lines = lines_of("de", "dev")
    lines[1] = lines[1].replace("music", "Music")
    write(tmp_path / "de" / "dev.csv", lines)
    with pytest.raises(
        UserError, match=r"labels that no 'en' training row has.*look alike: 'Music' \(1 rows\), 'music'"
    ):
        rows_of(tmp_path)


def test_labels_of_several_classes_and_labels_that_are_texts(tmp_path: Path) -> None:
    folder = labelled(tmp_path, {1: '["music ", "light"]', 2: "light "}, ".tsv")
    assert rows_of(folder, task=MultiLabel).labels == ["light", "music", "weather"]
    labelled(tmp_path, {1: '["music", '}, ".tsv")
    with pytest.raises(UserError, match=r"row 'en-train-0': '\[\"music\",' begins as a JSON list and is none"):
        rows_of(tmp_path, task=MultiLabel)
    rows = rows_of(labelled(tmp_path, {1: " a translation "}, ".tsv"), task=Translation)
    assert " a translation " in rows.texts["label"][:]
    assert rows.cleaning.notes == []
    assert TokenClassification.spelling("O  B-x ") == "O  B-x "


def test_the_cap_of_ambiguity_knows_one_class(tmp_path: Path) -> None:
    labelled(tmp_path, {1: "music "})
    lines = (tmp_path / "en" / "train.csv").read_text("utf-8").split("\n")
    lines[2] = lines[1].replace("k0", "k1").replace("music ", "music")
    (tmp_path / "en" / "train.csv").write_text("\n".join(lines), "utf-8")
    rows = corpus(tmp_path).load(["en"])
    assert ambiguity_caps(rows, TextClassification.spelling) == {"en": 1.0}


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("null", [True, False])
def test_without_dev_a_share_of_train_is_taken_by_group(null: bool, tmp_path: Path) -> None:
    lay_out(tmp_path, n=400)
    for lang in TEXTS:
        if not null:
            (tmp_path / lang / "dev.csv").unlink()
    overrides: dict[str, Any] = {"splits": {"dev": None}} if null else {}
    corpus(tmp_path, **overrides).check(["en", "de"])
    rows = rows_of(tmp_path, **overrides)
    groups = {
        split: {row["group"] for row in rows.texts if row["split"] == split and row["lang"] == lang}
        for split in ("train", "dev")
        for lang in TEXTS
    }
    assert not groups["train"] & groups["dev"]
    assert 20 <= len(groups["dev"]) <= 60
    assert {row["group"] for row in rows.dev["en"]} == {row["group"] for row in rows.dev["de"]}
    (note,) = rows.cleaning.notes
    assert note.startswith("There are no files for dev: 10% of the groups of train were drawn (corpus.dev_share)")
    assert f"en {len(rows.dev['en'])}, de {len(rows.dev['de'])}" in note
    assert "There are no files for dev" in printed(rows)


def test_dev_of_the_source_depends_on_nothing_else(tmp_path: Path) -> None:
    lay_out(tmp_path, n=400)
    write(tmp_path / "de" / "train.csv", lines_of("de", "train", n=100))
    both = corpus(tmp_path, splits={"dev": None}).load(["en", "de"]).to_list()
    alone = corpus(tmp_path, splits={"dev": None}).load(["en"]).to_list()
    assert [row for row in both if row["lang"] == "en"] == alone
    more = load(tmp_path, split="dev", splits={"dev": None}, dev_share=0.5)
    assert {row["id"] for row in alone if row["split"] == "dev"} < {row["id"] for row in more}


def test_rows_of_a_group_are_taken_together_and_rare_classes_stay(tmp_path: Path) -> None:
    header, *_ = lines_of("en", "train")
    for lang in TEXTS:
        for split in SPLITS:
            lines = [f"k{i // 4},{lang} text {i} {split},c{min(i // 4, 40)}" for i in range(4 * 400)]
            write(tmp_path / lang / f"{split}.csv", [header, *lines])
    rows = corpus(tmp_path, splits={"dev": None}).load(["en", "de"]).to_list()
    sizes = Counter(row["group"] for row in rows if row["split"] == "dev")
    assert sizes
    assert set(sizes.values()) == {8}
    taught = {row["label"] for row in rows if row["split"] == "train" and row["lang"] == "en"}
    assert taught == {f"c{i}" for i in range(41)}  # 40 of them have a single group


def test_labels_that_are_texts_are_all_rare(usual: Path) -> None:
    for lang in TEXTS:
        for split in SPLITS:
            write(usual / lang / f"{split}.csv", ["key,text,topic", *(f"k{i},t {i} {split},t{i}" for i in range(N))])
    assert 8 <= len(load(usual, split="dev", splits={"dev": None})) <= 40


def test_a_share_that_takes_nothing_or_is_none(tmp_path: Path) -> None:
    lay_out(tmp_path, n=2)
    with pytest.raises(
        UserError, match=r"corpus\.dev_share=0\.01: of 2 'en' rows of train none.*corpus\.splits\.dev=dev"
    ):
        corpus(tmp_path, splits={"dev": None}, dev_share=0.01).load(["en"])


def test_a_dev_file_that_one_language_has_is_wanted_of_all(usual: Path) -> None:
    (usual / "de" / "dev.csv").unlink()
    refused(usual, f"{usual}/de/dev.csv does not exist")


@pytest.mark.parametrize("split", ["test", "train"])
def test_other_splits_cannot_be_left_out(split: str, usual: Path) -> None:
    refused(usual, f"corpus.splits.{split}=null", f"corpus.splits.{split}={split}", splits={split: None})
    (usual / "de" / f"{split}.csv").unlink()
    refused(usual, f"{usual}/de/{split}.csv does not exist")


def test_target_text_without_a_column_for_labels(usual: Path) -> None:
    write(usual / "de" / "train.csv", [line.rpartition(",")[0] for line in lines_of("de", "train")])
    corpus(usual).check(["en", "de"])
    rows = rows_of(usual, teacher=["en"])
    assert rows.pairing.with_teacher["de"] > 0
    assert rows.pairing.labelled.get("de") is None
    hidden = "88 of 220 labels of 'en' are hidden, as their texts serve as aligned text: pair.parallel=0.4."
    bare = f"{usual}/de/train.csv: there is no column 'topic', so its rows are without labels."
    assert rows.cleaning.notes == [bare, hidden]
    assert hidden in printed(rows)
    refused(usual, "'topic'; it has key, text", languages=("de", "en"))
    write(usual / "de" / "dev.csv", [line.rpartition(",")[0] for line in lines_of("de", "dev")])
    refused(usual, f"{usual}/de/dev.csv has no column 'topic'")
    refused(
        usual,
        f"{usual}/de/train.csv has no column 'topic', and no language has a file for dev",
        "corpus.splits.dev=dev",
        splits={"dev": None},
    )


# --- alignment --------------------------------------------------------------------------------------------------------


BY_ROW = {"columns": {"group": "row"}}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("fault", ["blank", "missing", "spaces", "extra"])
def test_line_by_line_means_as_many_lines(fault: str, suffix: str, tmp_path: Path) -> None:
    separator = "\t" if suffix == ".tsv" else ","
    lay_out(tmp_path, suffix, separator)
    if suffix == ".jsonl":
        records(tmp_path, suffix, [(str(n), f"text {n}", "1") for n in range(N)])
    file = tmp_path / "de" / f"train{suffix}"
    lines = file.read_text("utf-8").splitlines()
    changed = {"blank": [""], "missing": [], "spaces": ["  "], "extra": [lines[96], lines[96]]}[fault]
    write(file, [*lines[:96], *changed, *lines[97:]])
    message = refused(
        tmp_path,
        "corpus.columns.group=row aligns tables line by line",
        f"{tmp_path}/en/train{suffix} has {N} rows",
        f"{file} has {N + 1 if fault == 'extra' else N - 1} rows",
        **BY_ROW,
    )
    assert ("blank lines between rows, the first is line 97" in message) == (fault in ("blank", "spaces"))


def test_a_blank_line_is_refused_even_where_counts_agree(usual: Path) -> None:
    lines = lines_of("de", "train")
    lines.insert(50, "")
    write(usual / "de" / "train.csv", lines)
    refused(usual, "has 1 blank lines between rows, the first is line 51", **BY_ROW)
    assert len(load(usual, "de")) == N  # by key it is no matter
    write(usual / "de" / "train.csv", [*lines_of("de", "train"), "", ""])  # at the end it shifts nothing
    assert len(corpus(usual, **BY_ROW).load(["en", "de"])) == 6 * N


def test_an_empty_line_of_a_single_column_is_an_empty_cell(usual: Path) -> None:
    lines = ["text", *(f"Satz {i}" for i in range(N))]
    lines[97] = ""
    write(usual / "de" / "train.csv", lines)
    rows = rows_of(usual, **BY_ROW)
    texts = {row["group"]: row["text"] for row in rows.texts if row["lang"] == "de" and row["split"] == "train"}
    assert texts["train-97"] == "Satz 97"
    assert "train-96" not in texts
    assert rows.cleaning.dropped["de"] == {"empty": 1}
    write(usual / "de" / "train.csv", [*lines[:97], *lines[98:]])
    refused(usual, f"de/train.csv has {N - 1} rows", **BY_ROW)


def test_long_files_are_counted_when_they_are_read(usual: Path) -> None:
    write(usual / "en" / "train.csv", lines_of("en", "train", n=25_000))
    write(usual / "de" / "train.csv", lines_of("de", "train", n=24_999))
    with pytest.raises(UserError, match=r"en/train\.csv has 25000 rows, .*de/train\.csv has 24999 rows"):
        corpus(usual, **BY_ROW).load(["en", "de"])


def test_parquet_and_hub_tables_are_counted_too(tmp_path: Path) -> None:
    for lang, n in (("en", 5), ("de", 4)):
        for split in SPLITS:
            (tmp_path / lang).mkdir(exist_ok=True)
            rows = {"text": [f"{lang} {split} {i}" for i in range(n)], "topic": ["x"] * n}
            pq.write_table(pa.table(rows), tmp_path / lang / f"{split}.parquet")
    refused(tmp_path, f"{tmp_path}/de/train.parquet has 4 rows", **BY_ROW)
    made = Hub(
        "parquet",
        dict.fromkeys(TEXTS, "default"),
        {"text": "text", "label": "topic", "group": "row"},
        {"train": "train"},
        parts={f"{lang}/train": {"data_files": {"train": f"{tmp_path}/{lang}/train.parquet"}} for lang in TEXTS},
    )
    with pytest.raises(UserError, match=r"aligns tables line by line: en train has 5 rows, de train has 4 rows"):
        made.load(["en", "de"])


def test_only_rows_without_a_partner_are_said_to_have_none(usual: Path) -> None:
    rows = rows_of(usual, teacher=["en"])
    assert rows.pairing.without_partner == {}
    kept = rows.pairing.rows["de"]
    shown = printed(rows)
    assert "no aligned partner" not in shown
    assert f"Dropped from de: partner is labelled training text {N - kept}" in shown


@pytest.mark.parametrize("mark", ["\u200f", "\u202b", "\u200b", "\ufeff", "\u061c", "\u00ad", "\u200d"])
def test_labels_and_keys_are_what_they_look_like(mark: str, usual: Path) -> None:
    """Editors leave signs of direction behind words, and a Mac takes accents apart in names of files."""
    write(usual / "en" / "dev.csv", ["key,text,topic", f"caf\u00e9-1,one,music{mark}", "k2,two,music"])
    write(usual / "de" / "dev.csv", ["key,text,topic", f"cafe\u0301-1{mark},eins,{mark}music", "k2,zwei,music"])
    rows = rows_of(usual)
    assert {label for part in rows.dev.values() for label in part["label"]} == {"music"}
    assert set(rows.dev["en"]["group"]) == set(rows.dev["de"]["group"])
