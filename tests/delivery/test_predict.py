"""`distilingua predict`: what the pipelines of transformers say, of rows in order, without one getting lost."""

from __future__ import annotations

import csv
import json
import subprocess
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    pipeline,
)

from distilingua.corpora.words import words_of
from distilingua.data.cleaning import Cleaning
from distilingua.delivery import streams
from distilingua.delivery.predict import predict
from distilingua.errors import UserError
from distilingua.models.folder import OWN
from distilingua.models.speech import SpeechScratch
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.speech import SpeechRecognition
from distilingua.tasks.token_classification import TokenClassification
from tests.delivery import students
from tests.delivery.conftest import read_json
from tests.delivery.students import head, rows_of, writing
from tests.processes import ENVIRONMENT, SCRIPT
from tests.test_cli import all_refused

TEXTS = students.TEXTS * 3


def answers(capsys: pytest.CaptureFixture[str], model: Path, *arguments: str) -> list[dict[str, Any]]:
    """Of texts as they are typed, as JSON."""
    predict([str(model), *arguments, "--all"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def lines(capsys: pytest.CaptureFixture[str], model: Path, *arguments: str) -> list[list[str]]:
    predict([str(model), *arguments])
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def made(folder: Path, model: Any, task: str, tokenizer: Any, **options: Any) -> Path:
    """A folder as it is exported, with the task it says it was trained for."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = read_json(folder / "config.json")
    config[OWN] = {"task": {"_target_": f"distilingua.tasks.{task}", **options}, "cleaning": {"url": "<link>"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- the same answers as the pipelines --------------------------------------------------------------------------------


def test_a_class_and_its_probability(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answers(capsys, finished_run, *TEXTS)
    asked = pipeline("text-classification", str(finished_run / "student"), top_k=None)(TEXTS)
    assert len({one["answer"] for one in found}) > 1
    for own, theirs in zip(found, asked, strict=True):
        assert own["answer"] == theirs[0]["label"]
        assert own["probability"] == pytest.approx(theirs[0]["score"], abs=1e-5)
        assert own["probabilities"] == pytest.approx({one["label"]: one["score"] for one in theirs}, abs=1e-5)


def test_options_stand_anywhere_and_mistakes_are_told_in_a_line(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in (["--raw", "lamp", "-5 rain"], ["lamp", "--raw", "--", "-5 rain"], ["--raw", "--", "lamp", "-5 rain"]):
        assert [line[2] for line in lines(capsys, finished_run, *typed)] == ["lamp", "-5 rain"]
    for typed in ([], [str(finished_run), "--lang"], [str(finished_run), "--from"], ["--nonsense"]):
        with pytest.raises(SystemExit) as ended:
            predict(typed)
        told = capsys.readouterr().err
        assert ended.value.code == 2
        assert told.startswith("distilingua predict: ")
        assert "distilingua predict MODEL [TEXT …]" in told
        assert len(told.splitlines()) == 1
    with pytest.raises(UserError, match="nowhere is no folder here, and the hub cannot be reached"):
        predict(["nowhere", "lamp"])


def test_texts_are_cleaned_as_in_training(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the pipeline reads what was typed; training has read what is left of it, a URL of its own included."""
    dirty = "<b>the&nbsp;light</b> in\u3000room 4 https://example.com/a?b=rain"
    clean = Cleaning(url="<link>").text(dirty)
    assert clean == "the light in room 4 <link>"
    own, again, raw = (answers(capsys, finished_run, *a)[0] for a in ([dirty], [clean, "--raw"], [dirty, "--raw"]))
    assert own["probability"] == again["probability"]
    assert raw["probability"] == pytest.approx(
        pipeline("text-classification", str(finished_run / "student"))(dirty)[0]["score"], abs=1e-5
    )
    assert raw["probability"] != own["probability"]


def test_any_number_of_classes(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = BertForSequenceClassification.from_pretrained(kept / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(kept / "teacher")
    folder = made(tmp_path / "m", model, "multi_label.MultiLabel", tokenizer)
    asked = pipeline("text-classification", str(folder), top_k=None, function_to_apply="sigmoid")(TEXTS)
    for own, theirs in zip(answers(capsys, folder, *TEXTS), asked, strict=True):
        shares = {one["label"]: one["score"] for one in theirs}
        assert own["probabilities"] == pytest.approx(shares, abs=1e-5)
        assert json.loads(own["answer"]) == [name for name in sorted(shares) if shares[name] > 0.5]


def test_a_tag_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = TokenClassification().fit_labels(["O", "B-thing", "I-thing", "B-number", "I-number"])
    model, encoder, _ = head(BertForTokenClassification, tags, None, tmp_path, TEXTS)
    folder = made(tmp_path / "m", model, "token_classification.TokenClassification", encoder.tokenizer)
    asked = pipeline("token-classification", str(folder), ignore_labels=[])(TEXTS)
    found = answers(capsys, folder, *TEXTS)
    for text, own, theirs in zip(TEXTS, found, asked, strict=True):
        words = words_of(text)
        first = [next(p for p in theirs if p["end"] > start) for start, _ in words]  # a word is its first piece
        assert own["answer"].split() == [piece["entity"] for piece in first]
        assert own["probability"] == pytest.approx(np.prod([piece["score"] for piece in first]), rel=1e-3)
        assert [max(one, key=one.get) for one in own["probabilities"]] == own["answer"].split()
    assert len({tag for one in found for tag in one["answer"].split()}) > 1


def test_an_answer_in_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, encoder, _ = head(BertForQuestionAnswering, QuestionAnswering(), None, tmp_path, TEXTS)
    tokenizer = encoder.tokenizer
    folder = made(tmp_path / "m", model, "question_answering.QuestionAnswering", tokenizer, max_answer=15)
    pairs = [("light", "the light in room 4"), ("song", "please check the song of floor 99 &amp; rain")]
    found = lines(capsys, folder, *map("\t".join, pairs))
    for (question, context), (answer, *_) in zip(pairs, found, strict=True):
        read = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets, parts = read.pop("offset_mapping")[0].tolist(), read.sequence_ids(0)
        with torch.inference_mode():
            output = model.eval()(**read)
        starts, ends = output.start_logits[0], output.end_logits[0]
        pieces = tokenizer.convert_ids_to_tokens(read["input_ids"][0])
        inside = [n for n, part in enumerate(parts) if part == 1 and pieces[n] != "▁"]  # a space begins no answer
        spans = {(i, j): float(starts[i] + ends[j]) for i in inside for j in inside if i <= j}
        spans = {at: score for at, score in spans.items() if offsets[at[1]][1] - offsets[at[0]][0] <= 15}
        first, last = max(spans, key=lambda at: spans[at])
        nothing = spans[first, last] <= float(starts[0] + ends[0])
        assert answer == ("" if nothing else context[offsets[first][0] : offsets[last][1]].strip())
    assert any(answer for answer, *_ in found)
    assert "&amp;" in pairs[1][1]  # it is not cleaned, as answers point into it letter for letter


def test_a_translation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, encoder, _ = writing(tmp_path)
    tokenizer = encoder.tokenizer
    folder = made(tmp_path / "m", model, "translation.Translation", tokenizer, beams=2, max_length=12)
    read = tokenizer(TEXTS[:4], return_tensors="pt", padding=True)
    search = {"num_beams": 2, "max_new_tokens": 12, "early_stopping": False}
    written = model.generate(read["input_ids"], attention_mask=read["attention_mask"], **search)
    theirs = [tokenizer.decode(one, skip_special_tokens=True).strip() for one in written]
    assert any(theirs)
    assert [one[0] for one in lines(capsys, folder, *TEXTS[:4])] == theirs
    with pytest.raises(UserError, match="--all: answers of task=translation are texts"):
        predict([str(folder), "x", "--all"])


def test_a_transcript(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("soundfile")
    torch.manual_seed(0)
    shape = {"layers": 1, "hidden_size": 16, "heads": 2, "feed_forward": 16}
    student = SpeechScratch(**shape, sound="waveform", frame_ms=20, alphabet=" abc")
    listener = student.tokenizer(rows_of(["x"], label=lambda _: "a b c"), tmp_path)
    task = SpeechRecognition(alphabet=" abc")
    model = student.model(task, listener).eval()
    folder = made(tmp_path / "m", model, "speech.SpeechRecognition", listener, alphabet=" abc")
    sound = (np.sin(np.arange(16000) * np.linspace(0.05, 0.5, 16000)) * 8000).astype(np.int16)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16000, len(sound), "NONE", ""))
        file.writeframes(sound.tobytes())
    processor = AutoProcessor.from_pretrained(folder)
    heard = processor(sound / 2**15, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        path = AutoModelForCTC.from_pretrained(folder)(**heard).logits.argmax(-1)
    theirs = processor.batch_decode(path)[0].lower().strip()
    found = lines(capsys, folder, str(tmp_path / "a.wav"), str(tmp_path / "none.wav"))
    assert found[0][0] == theirs
    assert theirs
    assert found[1][:2] == ["", ""]


# --- files ------------------------------------------------------------------------------------------------------------

ROWS = [
    {"id": "1", "text": "the light in room 4"},
    {"id": "2", "text": ""},
    {"id": "3", "text": 'a "quoted", song\nof two lines'},
    {"id": "4", "text": "rain number 7 now"},
]


def write(file: Path, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    table = pd.DataFrame(rows)
    if file.suffix == ".parquet":
        table.to_parquet(file)
    elif file.suffix == ".jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_csv(file, index=False)
    return file


def read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    with file.open(newline="") as content:
        return [{**row, "probability": float(row["probability"] or "nan")} for row in csv.DictReader(content)]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        *((kind, kind) for kind in (".csv", ".jsonl", ".parquet")),
        *((".csv", ".parquet"), (".parquet", ".csv"), (".csv", ".jsonl")),
    ],
)
def test_files_come_out_as_they_went_in_with_answers(
    given: str, wanted: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"out{wanted}"
    predict([str(finished_run), "--from", str(write(tmp_path / f"in{given}")), "--to", str(out)])
    told = capsys.readouterr().err
    assert told == "row 2: its 'text' is empty. Its answer is empty.\n1 of 4 rows have no answer.\n"
    found = read(out)
    assert [(row["id"], row["text"]) for row in found] == [(row["id"], row["text"]) for row in ROWS]
    one_by_one = [one for row in ROWS for one in answers(capsys, finished_run, row["text"] or "\x00")]
    for own, alone in zip(found, one_by_one, strict=True):
        assert own["answer"] == alone["answer"]
        if alone["answer"]:
            assert own["probability"] == pytest.approx(alone["probability"], abs=1e-5)
        else:
            assert own["probability"] is None or own["probability"] != own["probability"]
    assert sum(row["answer"] == "" for row in found) == 1


def test_parquet_keeps_its_types(finished_run: Path, tmp_path: Path) -> None:
    table = pa.table(
        {"when": pa.array([1, 2], pa.timestamp("ms")), "text": ["light", "song"], "n": pa.array([1, 2], pa.int8())}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    predict([str(finished_run), "--from", str(tmp_path / "in.parquet"), "--to", str(tmp_path / "out.parquet")])
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.select(table.column_names).equals(table)
    assert out.schema.field("answer").type == pa.string()
    assert out.schema.field("probability").type == pa.float64()


def test_times_beyond_the_calendar_are_written_as_their_numbers(finished_run: Path, tmp_path: Path) -> None:
    table = pa.table({"text": ["light"], "day": pa.array([2**30], pa.int32()).view(pa.date32())})
    pq.write_table(table, tmp_path / "in.parquet")
    predict([str(finished_run), "--from", str(tmp_path / "in.parquet"), "--to", str(tmp_path / "out.jsonl")])
    assert read(tmp_path / "out.jsonl")[0]["day"] == 2**30


def test_order_is_kept_over_chunks_of_texts_of_any_length(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CHUNK", 7)
    rows = [{"n": n, "text": f"the {'very ' * (n * 7 % 23)}light in room {n}"} for n in range(40)]
    predict([str(finished_run), "--from", str(write(tmp_path / "in.jsonl", rows)), "--to", str(tmp_path / "out.jsonl")])
    found = read(tmp_path / "out.jsonl")
    assert [{"n": row["n"], "text": row["text"]} for row in found] == rows
    theirs = pipeline("text-classification", str(finished_run / "student"), max_length=64, truncation=True)(
        [row["text"] for row in rows]
    )
    assert [row["answer"] for row in found] == [one["label"] for one in theirs]
    assert [row["probability"] for row in found] == pytest.approx([one["score"] for one in theirs], abs=1e-5)


def test_bad_rows_are_named_by_number_and_kept(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ['{"text": "light"}', "no json", '{"text": null}', '{"other": 1}', '{"text": ["a"]}']
    given += ['{"text": "\\ud800"}', "[]", '{"text": 5}', '{"text": "song"}']
    (tmp_path / "in.jsonl").write_text("\n".join(given))
    predict([str(finished_run), "--from", str(tmp_path / "in.jsonl"), "--to", str(tmp_path / "out.jsonl")])
    told = capsys.readouterr().err.splitlines()
    found = read(tmp_path / "out.jsonl")
    assert [bool(row["answer"]) for row in found] == [True, *[False] * 6, True, True]
    assert [line.split(":")[0] for line in told[:-1]] == [f"row {n}" for n in range(2, 8)]
    assert told[-1] == "6 of 9 rows have no answer."
    (tmp_path / "in.csv").write_bytes(b"text,n\nlight,1\nsong,2,3\n\xff\xfe,4\nrain,5\n")
    predict([str(finished_run), "--from", str(tmp_path / "in.csv"), "--to", str(tmp_path / "out.csv")])
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "row 2: it has 3 cells, and the header names 2 columns. Its answer is empty."
    assert told[1] == "row 3: its 'text' is no UTF-8. Its answer is empty."
    assert b"\xff\xfe,4,," in (tmp_path / "out.csv").read_bytes()


# --- files of other programs ------------------------------------------------------------------------------------------

LINES = ["id,text", "1,the light in room 4", "2,rain tomorrow"]
BOTH = ["the light in room 4", "rain tomorrow"]


@pytest.mark.parametrize(
    ("name", "content", "typed"),
    [
        ("marked.csv", b'\xef\xbb\xbf"id","text"\r\n"1","the light in room 4"\r\n"2","rain tomorrow"\r\n', ""),
        ("mac.csv", "\r".join(LINES).encode(), ""),
        ("marked.txt", b"\xef\xbb\xbf" + "\r\n".join(BOTH).encode(), ""),
        ("half.csv", "\n".join(LINES).replace(",", ";").encode(), "--separator ;"),
        ("wide.csv", "\n".join(LINES).replace(",", "\t").encode("utf-16"), "--encoding utf-16 --separator tab"),
        ("wide.txt", "\n".join(BOTH).encode("utf-16"), "--encoding utf-16"),
        ("spreadsheet.tsv", b'id\ttext\n1\t"the light in room 4"\n2\t"rain tomorrow"\n', "--quoting true"),
        ("array.json", json.dumps([{"text": text} for text in BOTH], indent=1).encode(), ""),
        ("unnamed.csv", b",text,\n0,the light in room 4,\n1,rain tomorrow,\n", ""),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_what_can_be_trained_on_can_be_answered(
    name: str, content: bytes, typed: str, finished_run: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    wanted = [".jsonl"] if name.endswith(".json") else [".csv", ".jsonl", ".parquet"]
    for out in (tmp_path / f"out{kind}" for kind in wanted):
        predict([str(finished_run), "--from", str(tmp_path / name), *typed.split(), "--to", str(out)])
        found = read(out)
        assert [row["text"] for row in found] == BOTH
        assert all(row["answer"] for row in found)
    if name == "unnamed.csv":  # columns without a name stay where they are, or get one
        assert (tmp_path / "out.csv").read_text().splitlines()[0] == ",text,,answer,probability"
        assert list(found[0]) == ["column 1", "text", "column 3", "answer", "probability"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("inches.csv", b'id,text\n1,lamp\n2,"12 inch\n3,song\n4,a 10" bag\n', "line 3: its quotes do not pair"),
        ("open.csv", b'text\nlamp\n"so it goes\nrain\n', "line 3: its quotes do not pair.*--quoting false"),
        ("sql.csv", b'text\n"he said \\"no, thanks\\" twice"\nlamp\n', "line 2: its quotes do not pair"),
        ("half.csv", b"id;text\n1;lamp\n", r"Set --separator ';'\."),
        ("tabs.csv", b"id\ttext\n1\tlamp\n", r"Set --separator tab\."),
        ("latin.csv", "text\nétage\nçà\nplain\n".encode("latin-1"), "line 2: .*it looks like --encoding latin-1"),
        ("latin.txt", "étage\nçà\n".encode("latin-1"), "line 1: .*it looks like --encoding latin-1"),
        ("wide.csv", "text\nlamp\n".encode("utf-16"), "it looks like --encoding utf-16"),
        ("packed.csv", b"\x1f\x8b\x08\x00 and more", "is a gzip file by its content. Unpack it"),
        ("nothing.csv", b"text\nla\0mp\n", "line 2: there is a null character"),
        ("twice.csv", b"text,text\na,b\n", "--from .*two columns named 'text'"),
        ("none.parquet", b"PAR1", "--from .*is not Parquet"),
        ("cut.json", b'[{"text": "lamp"}, {"te', "--from .*is not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) and "line" not in value else "",
)
def test_what_is_not_as_stated_is_refused_by_file_and_line(
    name: str, content: bytes, told: str, finished_run: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told) as refused:
        predict([str(finished_run), "--from", str(tmp_path / name), "--to", str(tmp_path / "out.jsonl")])
    assert str(tmp_path / name) in str(refused.value)
    assert "corpus" not in str(refused.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_options_of_a_file_that_cannot_be_meant(finished_run: Path, tmp_path: Path) -> None:
    for typed, told in (
        (["--encoding", "utf-7.5"], "--encoding utf-7.5 is no encoding of text. Try --encoding utf-8"),
        (["--separator", ";;"], "--separator ';;' is not one character. Type --separator ';', --separator tab"),
    ):
        with pytest.raises(UserError, match=told):
            predict([str(finished_run), "--from", str(write(tmp_path / "in.csv")), *typed])


def test_quotes_of_a_program_in_a_tsv_are_none_of_its_texts(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text('text\n"a ""big"" lamp"\nrain\n')
    predict([str(finished_run), "--from", str(tmp_path / "in.tsv"), "--to", str(tmp_path / "out.csv")])
    assert [row["text"] for row in read(tmp_path / "out.csv")] == ['a "big" lamp', "rain"]
    (tmp_path / "in.tsv").write_text('text\n"a ""big"" lamp"\n"rain\n')  # then they are
    predict([str(finished_run), "--from", str(tmp_path / "in.tsv"), "--to", str(tmp_path / "out.csv")])
    assert [row["text"] for row in read(tmp_path / "out.csv")] == ['"a ""big"" lamp"', '"rain']


def test_a_text_of_several_lines_is_one_row_of_every_kind(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["lamp\r\non", "rain\tnow", 'a 12" song', "light\rthere", "lamp"]
    given = write(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    table = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": texts, "more": [{"a\tb": [1]}] * 5}), table)
    predict([str(finished_run), "--from", str(table), "--to", str(tmp_path / "out.csv")])
    assert [row["text"] for row in read(tmp_path / "out.csv")] == texts
    assert capsys.readouterr().err == ""
    predict([str(finished_run), "--from", str(table), "--to", str(tmp_path / "out.tsv")])
    lines_of_file = (tmp_path / "out.tsv").read_text().splitlines()
    assert [line.count("\t") for line in lines_of_file] == [3] * 6
    first = [line.split("\t")[0] for line in lines_of_file[1:]]
    assert first == ["lamp on", "rain now", 'a 12" song', "light there", "lamp"]
    told = f"{tmp_path}/out.tsv: tabs and line breaks in cells are written as spaces; .csv keeps them.\n"
    assert capsys.readouterr().err == told
    predict([str(finished_run), "--from", str(given)])
    assert [line.count("\t") for line in capsys.readouterr().out.splitlines()] == [2] * 5


def test_rows_of_json_come_out_as_they_went_in(finished_run: Path, tmp_path: Path) -> None:
    given = [
        {"text": "lamp", "n": 10**30, "share": 0.5, "more": {"a": [None, True]}},
        {"none": None, "text": "half \ud83d", "né": "é"},
        {"text": 12, "n": "12"},
    ]
    (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, given)) + "\n")
    predict([str(finished_run), "--from", str(tmp_path / "in.jsonl"), "--to", str(tmp_path / "out.jsonl")])
    found = read(tmp_path / "out.jsonl")
    assert [bool(row.pop("answer")) for row in found] == [True, False, True]
    assert [bool(row.pop("probability")) for row in found] == [True, False, True]
    assert found == given


def test_bytes_that_are_no_utf_8_in_one_row_are_its_own_matter(finished_run: Path, tmp_path: Path) -> None:
    """And of a file where many other rows are UTF-8; what cannot be written in Parquet is replaced there."""
    rows = [f"Tür {n},{n}".encode() for n in range(40)]
    (tmp_path / "in.csv").write_bytes(b"\n".join([b"text,n", *rows[:20], b"T\xfcr,x", *rows[20:]]))
    for kind in (".csv", ".parquet"):
        predict([str(finished_run), "--from", str(tmp_path / "in.csv"), "--to", str(tmp_path / f"out{kind}")])
    lines_of_file = (tmp_path / "out.csv").read_bytes().splitlines()
    assert lines_of_file[21] == b"T\xfcr,x,,"
    assert len(lines_of_file) == 42
    assert pq.read_table(tmp_path / "out.parquet")["text"][20].as_py() == "T?r"


def test_fields_of_columns_and_texts_of_an_own_type(finished_run: Path, tmp_path: Path) -> None:
    table = pa.table({"both": [{"en": "lamp", "de": "Lampe"}, {"en": "rain", "de": None}]})
    table = table.append_column("kind", pa.array(["song", "light"]).dictionary_encode())
    pq.write_table(table, tmp_path / "in.parquet")
    for column, answered in (("both.en", 2), ("both.de", 1), ("kind", 2)):
        out = tmp_path / "out.parquet"
        predict([str(finished_run), "--from", f"{tmp_path}/in.parquet", "--column", f"text={column}", "--to", str(out)])
        found = pq.read_table(out)
        assert found.select(table.column_names).equals(table)
        assert sum(map(bool, found["answer"].to_pylist())) == answered


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_an_output_of_another_encoding_loses_no_row(encoding: str, finished_run: Path, tmp_path: Path) -> None:
    """As Windows gives it to a program whose output goes into a file; and UTF-8 that is not lenient."""
    given = "lamp\nдождь 👍\nétage\n".encode() + b"qu\xe9\n"
    command = [SCRIPT, "predict", str(finished_run)]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**ENVIRONMENT, "PYTHONIOENCODING": encoding}, input=given, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    assert [line.split(b"\t")[2] for line in ended.stdout.splitlines()] == given.splitlines()


@pytest.mark.long
def test_the_first_answers_come_before_the_last_texts_are_there(finished_run: Path, tmp_path: Path) -> None:
    command = [SCRIPT, "predict", str(finished_run)]
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdin=-1, stdout=-1, text=True) as job:
        assert job.stdin is not None
        assert job.stdout is not None
        job.stdin.write("the light in room 4\n" * streams.FROM_PIPE)
        job.stdin.flush()
        first = [job.stdout.readline() for _ in range(streams.FROM_PIPE)]  # while the pipe stays open
        job.stdin.write("rain\n")
        job.stdin.close()
        rest = job.stdout.readlines()
    assert all(line.endswith("\tthe light in room 4\n") for line in first)
    assert [line.split("\t")[2] for line in rest] == ["rain\n"]


def test_half_a_file_never_has_the_name_of_a_whole_one(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distilingua.delivery.predict.Answering.decode", broken)
    with pytest.raises(KeyboardInterrupt):
        predict([str(finished_run), "--from", str(write(tmp_path / "in.csv")), "--to", str(tmp_path / "out.csv")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


def test_what_cannot_be_meant_is_refused_at_once(finished_run: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.csv")
    write(tmp_path / "in.jsonl")
    write(tmp_path / "twice.csv", [{"text": "a", "answer": "b"}])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "in.xlsx").write_text("")
    own = str(finished_run)
    told = {
        ("nowhere/at/all", "x"): "nowhere/at/all is not there. Name the folder of a run",
        (own, "x", "--from", f"{tmp_path}/in.csv"): "texts were typed, and --from",
        (own, "--from", "none.csv"): "--from none.csv: no such file",
        (own, "--from", f"{tmp_path}/in.xlsx"): "expected a file that ends in .csv, .tsv, .jsonl, .parquet, .txt",
        (own, "--from", f"{tmp_path}/empty.csv"): "it has no header",
        (own, "--from", f"{tmp_path}/in.csv", "--column", "text=words"): "has no column 'words'; it has id, text.",
        (own, "--from", f"{tmp_path}/in.csv", "--column", "label=text"): "this model reads text, text_pair",
    }
    all_refused("predict", told, tmp_path)
    for arguments, message in {
        ("--from", f"{tmp_path}/twice.csv", "--to", f"{tmp_path}/out.csv"): "has a column 'answer' already",
        ("--from", f"{tmp_path}/in.jsonl", "--to", f"{tmp_path}/out.csv"): "Write them to a .jsonl",
        ("--from", f"{tmp_path}/in.csv", "--to", f"{tmp_path}/out.xml"): "expected a file that ends in",
        ("--from", f"{tmp_path}/in.csv", "--to", f"{tmp_path}/no/out.csv"): "Make it first",
    }.items():
        with pytest.raises(UserError, match=message):
            predict([own, *arguments])
