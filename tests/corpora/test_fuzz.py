# ruff: noqa: E501, RUF005  # tables of values read better in long lines
"""Nothing that a file holds is a traceback: small corpora of every kind, damaged in every way we know, for every task.

The same 2,100 in every run, and 10,000 with `make test-fuzz`. What comes out is rows, or a UserError. Making a `Dataset` costs
more than all the rest, so one in `THROUGH` of the corpora that load goes through cleaning and pairing as well.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import os
import shutil
import tempfile
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from distilingua.corpora.files import Files
from distilingua.data.cleaning import Cleaning
from distilingua.data.protocol import Pair
from distilingua.data.rows import load_rows
from distilingua.errors import UserError
from distilingua.tasks.multi_label import MultiLabel
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.speech import SpeechRecognition
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from distilingua.tasks.translation import Translation

EXAMPLES = int(os.environ.get("EXAMPLES", "2100"))
THROUGH = 10
QA = '[{"text": "hall", "start": 7}]'
TASKS: dict[str, tuple[Callable[[], Task], dict[str, Any], list[dict[str, Any]]]] = {
    "intent": (
        lambda: TextClassification("intent"),
        {"text": "text", "label": "label"},
        [{"text": "lamp on", "label": "light"}, {"text": "louder", "label": "music"}],
    ),
    "ordinal": (
        lambda: TextClassification("sentiment", ordinal=True, class_weights="balanced"),
        {"text": ["text", "pair"], "label": "label"},
        [{"text": "fine", "pair": "so", "label": 1}, {"text": "awful", "pair": "no", "label": 0}],
    ),
    "labels": (
        lambda: MultiLabel("labels"),
        {"text": "text", "label": "label", "id": "key"},
        [{"text": "lamp on", "label": ["light", "on"], "key": 1}, {"text": "louder", "label": [], "key": 2}],
    ),
    "slots": (
        lambda: TokenClassification("slots"),
        {"text": "text", "label": "label", "spans": "spans"},
        [
            {"text": ["lamp", "on"], "label": ["B-x", "O"], "spans": '[["lamp", 0, 4]]'},
            {"text": ["louder"], "label": ["O"], "spans": ""},
        ],
    ),
    "answers": (
        lambda: QuestionAnswering("answers"),
        {"text": ["question", "context"], "label": "answers"},
        [
            {"question": "where", "context": "in the hall", "answers": {"text": ["hall"], "answer_start": [7]}},
            {"question": "who", "context": "nobody knows", "answers": {"text": [], "answer_start": []}},
        ],
    ),
    "translation": (
        lambda: Translation("translation"),
        {"text": "translation.en", "label": "translation.de", "group": "row"},
        [{"translation": {"en": "lamp", "de": "Lampe"}}, {"translation": {"en": "louder", "de": "lauter"}}],
    ),
    "speech": (
        lambda: SpeechRecognition("speech", alphabet=None),
        {"text": "text", "label": "text", "audio": "audio"},
        [{"text": "lamp on", "audio": "one.wav"}, {"text": "louder", "audio": "two.wav"}],
    ),
}


def flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As CSV has them: lists are words, objects are JSON, fields are columns."""
    found: list[dict[str, Any]] = []
    for row in rows:
        cells: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, dict) and name == "translation":
                cells |= {f"{name}.{inner}": cell for inner, cell in value.items()}
            elif isinstance(value, list) and name != "label":
                cells[name] = " ".join(map(str, value))
            else:
                cells[name] = QA if name == "answers" else value
        found.append(cells)
    return found


# --- what is hostile --------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    [
        *("", " ", "\t", "\r", "a\nb", "\u2028", "\x85", "\x1c", "\0", "\ufeff", "\u200b", "\u202e", "\ufffd", "\U0010ffff"),
        *("1", "1.0", "-1", "10" * 15, "1e999", "nan", "NaN", "Infinity", "true", "null", "٣", "²", "1_000", "0x10"),
        *("[", "]", "[]", "[[]]", "{}", '["a"', '["a", 1]', '["a", ["b"]]', '{"a": 1}', '"', "'", '""', '"a', "a,b", ";"),
        *("[" * 3000, '{"text": []}', '{"text": ["x"], "answer_start": [0]}', '[{"text": "x", "start": 1e400}]'),
        *('[{"text": "x", "start": null}]', '[{"text": null, "start": 0}]', '[{"start": 0}]', "[null]", "[1]", "3", '"x"'),
        *('[["a", 0, 1]]', '[["a", 0, 1e999]]', '[["a", null, 2]]', '[["a"]]', "[[{}, 0, 1]]", '[["a", 0.5, 1]]', "[0]"),
        *("O", "B-x I-x", "I-x", "B-", "-", "B-x " * 3, "$\\foo$", "<b>", "|", "a" * 3000, "espeak:en:1:1:x", "espeak:x"),
        *("espeak::::", "x#y", "/", "/dev/null", "..", "missing.wav", "one.wav\0", "é", "e\u0301", "的", "\u0e01\u0e31", "🙂"),
    ]
)  # fmt: skip
LONE = ["\ud800", "a\udfffb"]
NUMBERS = st.sampled_from([0, 1, -1, 7, 2**63, 10**30, -(10**30), 0.0, 1.0, 1.5, -0.0, 1e308, 5e-324, True, False, None])  # fmt: skip
SCALARS = TEXTS | NUMBERS | st.sampled_from([float("nan"), float("inf"), -float("inf")]) | st.text(max_size=4)
FIELDS = st.sampled_from(["text", "answer_start", "start", "en", "de", "path", "bytes", ""])
VALUES = st.recursive(
    SCALARS | st.sampled_from(LONE),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(FIELDS, inside, max_size=3),
    max_leaves=4,
)
JSON_LITERALS = st.sampled_from(
    [
        *("1e400", "-1e400", "NaN", "-Infinity", '"\\ud800"', '"\\udc00x"', "1.10", "-0", "1" * 5000, "1" * 400 + ".5", "[" * 2000),
        *('{"a": 1, "a": 2}', '"\\u0000"', "01", "'a'", "", '{"\\ud800": 1}', '"a', "nul", "{}", "[[]]", "[" * 90 + "]" * 90),
    ]
)  # fmt: skip
COLUMN_NAMES = st.sampled_from(["text", "label", "", " ", "\ufeff", "label.x", "text.", ".", "row", "extra", "\ud800", "\0"])  # fmt: skip
TYPES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.string(), ["a", "", None]),
    (pa.large_string(), ["a", "1.0"]),
    (pa.binary(), [b"a", b"\xff\xfe", b"", None]),
    (pa.int64(), [0, -1, 2**62, None]),
    (pa.uint64(), [2**64 - 1]),
    (pa.float64(), [1.0, float("nan"), float("inf"), -float("inf"), 1e308, None]),
    (pa.float16(), [1.0]),
    (pa.bool_(), [True, None]),
    (pa.null(), [None]),
    (pa.timestamp("ns"), [0, 2**62]),
    (pa.timestamp("s", tz="Europe/Berlin"), [0]),
    (pa.timestamp("s"), [2**62]),
    (pa.date32(), [0, 2**30]),
    (pa.time64("ns"), [1]),
    (pa.duration("ns"), [1]),
    (pa.decimal128(38, 2), [None]),
    (pa.list_(pa.string()), [["a"], [], None, [None]]),
    (pa.list_(pa.int64()), [[0, 1], [-1], [2**40]]),
    (pa.list_(pa.float64()), [[1.0], [float("nan")]]),
    (pa.list_(pa.list_(pa.string())), [[["a"], None], [[]]]),
    (pa.list_(pa.binary()), [[b"\xff"]]),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1)], [], None]),
    (pa.map_(pa.string(), pa.string()), [[("en", "x"), ("de", "y")], [("text", "x"), ("answer_start", "0")]]),
    (pa.list_(pa.map_(pa.string(), pa.int64())), [[[("a", 1)]]]),
    (pa.struct([("en", pa.string()), ("de", pa.string())]), [{"en": "x", "de": "y"}, None]),
    (pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int64()))]), [{"text": ["x"], "answer_start": None}]),
    (pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.float64()))]), [{"text": ["x"], "answer_start": [0.0]}]),
    (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), [{"bytes": b"RIFF", "path": "a/b\0c"}, {"bytes": None, "path": None}]),
    (pa.struct([("a", pa.map_(pa.string(), pa.binary()))]), [{"a": [("k", b"\xff")]}]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None]),
]  # fmt: skip
STORED = st.sampled_from(
    [
        *(b"{", b"[]", b"null", b"\xff", b'{"info": 3}', b'{"info": {"features": []}}', b'{"info": {"features": {"label": 3}}}'),
        *(b'{"info": {"features": {"label": {"names": 5}}}}', b'{"info": {"features": {"label": {"names": [1, null]}}}}'),
        *(b'{"info": {"features": {"label": []}}}', b'{"info": {"features": {"label": [{"names": ["a"]}]}}}', b"[" * 5000),
    ]
)  # fmt: skip
ENCODINGS = st.sampled_from(
    [*("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "latin-1", "cp1252", "shift_jis", "hz", "iso2022_jp")]
    + [*("utf-8-sig", "cp037", "ascii", "gb18030", "big5", "punycode", "idna", "unicode_escape", "raw_unicode_escape")]
    + [*("hex", "rot13", "none", "undefined", "\0", "")]
)


def wav(samples: int) -> bytes:
    """Noise at 16 kHz."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(range(1, 251)) * (samples // 125 + 1))
    return content.getvalue()


SOUND = wav(2000)


@dataclass
class Made:
    """A corpus as it is written: bytes of its files, and the options that read it."""

    kind: str
    suffix: str
    train: bytes
    test: bytes
    sound: bytes = field(repr=False)
    options: dict[str, Any]


@st.composite
def corpora(draw: st.DrawFn, kind: str) -> Made:
    _, columns, rows = TASKS[kind]
    suffix = draw(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
    rows = [dict(row) for row in rows * draw(st.integers(0, 2))] + [dict(row) for row in rows]
    if suffix in (".csv", ".tsv"):
        rows = flat(rows)
    names = list(rows[0])
    columns = dict(columns)
    likely = st.sampled_from([*names, *names[1:], *names[1:]])  # the first is text, which may be nearly anything
    if draw(st.integers(0, 5)) == 0:
        columns[draw(st.sampled_from(["id", "group", "block", "spans", "label", "audio"]))] = draw(
            st.sampled_from(names)
        )
    options: dict[str, Any] = {"columns": columns}
    if draw(st.integers(0, 3)) == 0:
        options["labels"] = draw(st.sampled_from([["a", "b"], [1, 2], [], [None], ["a", "a"]]))
    if draw(st.integers(0, 3)) == 0:
        options["skip_bad_rows"] = True
    how = draw(st.sampled_from(["cell", "cell", "cell", "column", "literal", "bytes", "dialect"]))
    parquet = suffix == ".parquet"
    arrays: dict[str, pa.Array] = {}
    if parquet:
        for name in names:
            with contextlib.suppress(pa.ArrowException):
                arrays[name] = pa.array([row.get(name) for row in rows])
    if how == "cell" and parquet:
        hit, (type_, values) = draw(likely), draw(st.sampled_from(TYPES))
        chosen = [draw(st.sampled_from(values)) for _ in rows]
        arrays[hit] = pa.array(chosen, type_)
    elif how == "cell":
        for _ in range(draw(st.integers(1, 2))):
            row = draw(st.sampled_from(rows))
            row[draw(likely)] = draw(TEXTS if suffix in (".csv", ".tsv") else VALUES)
    elif how == "column":
        hit, name = draw(st.sampled_from(names)), draw(COLUMN_NAMES)
        arrays = {name if key == hit else key: array for key, array in arrays.items()}
        touched = rows if draw(st.booleans()) else rows[:1]
        for row in touched:
            row[name] = row.pop(hit, None)
    if parquet:
        meta = {b"huggingface": draw(STORED)} if how == "literal" else None
        content = io.BytesIO()
        try:
            pq.write_table(pa.table(arrays).replace_schema_metadata(meta), content)
        except (pa.ArrowException, UnicodeEncodeError):  # what Parquet cannot hold nobody can give us
            content = io.BytesIO(b"PAR1")
        data = content.getvalue()
    else:
        data = written(draw, suffix, rows, how)
    if how == "bytes":
        data = damaged(draw, data)
    if how == "dialect":
        options["encoding"] = draw(ENCODINGS)
        options["separator"] = draw(st.sampled_from([None, ",", ";", "\t", "|", "a", '"', "", "\n", "ab"]))
        options["quoting"] = draw(st.sampled_from([None, True, False, 3]))
        if draw(st.booleans()) and not parquet:
            with contextlib.suppress(LookupError, ValueError, TypeError):
                data = data.decode().encode(options["encoding"])
    sound = SOUND
    if kind == "speech" and draw(st.booleans()):
        sound = damaged(draw, SOUND) if draw(st.booleans()) else wav(draw(st.sampled_from([0, 1, 100, 1600])))
    clean = written(None, ".jsonl", TASKS[kind][2], "") if suffix in (".jsonl", ".json") else data
    return Made(kind, suffix, data, clean if draw(st.booleans()) else data, sound, options)


def written(draw: Any, suffix: str, rows: list[dict[str, Any]], how: str) -> bytes:
    if suffix in (".jsonl", ".json"):
        lines = [json.dumps(row, ensure_ascii=draw is None or draw(st.booleans())) for row in rows]
        if how == "literal":
            name = draw(st.sampled_from(list(rows[0])))
            lines[-1] = f'{{"{name}": {draw(JSON_LITERALS)}{draw(st.sampled_from(["}", "", "}}", "}{}", ", }"]))}'
        text = "[" + ",".join(lines) + "]" if suffix == ".json" else "\n".join(lines)
    else:
        between = "," if suffix == ".csv" else "\t"
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [[*names], *([str(row.get(name, "")) for name in names] for row in rows)]
        quote = suffix == ".csv" and draw(st.integers(0, 3)) > 0
        cells = [[f'"{c.replace(chr(34), chr(34) * 2)}"' if quote else c for c in line] for line in lines]
        text = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])).join(between.join(line) for line in cells)
        if how == "literal":
            text = text.replace(between, draw(st.sampled_from(['"', between * 2, " ", '"' + between, "\0"])), 1)
    return text.encode("utf-8", "surrogatepass")


SPLINTERS = [b"\xff", b"\0", b"\r", b"\xed\xa0\x80", b"\xc3", b'"', b"\xe2\x80\xa8"]
MAGIC = [b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"BZh", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"]
DAMAGES: dict[str, Callable[[Any, bytes, int], bytes]] = {
    "gzip": lambda draw, data, at: gzip.compress(data, 1),
    "utf-16": lambda draw, data, at: data.decode("utf-8", "replace").encode("utf-16"),
    "utf-32": lambda draw, data, at: data.decode("utf-8", "replace").encode("utf-32"),
    "cut": lambda draw, data, at: data[:at],
    "flip": lambda draw, data, at: data[:at] + bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in data[at : at + 1]) + data[at + 1 :],
    "noise": lambda draw, data, at: draw(st.binary(max_size=40)),
    "empty": lambda draw, data, at: b"",
    "insert": lambda draw, data, at: data[:at] + draw(st.sampled_from(SPLINTERS)) + data[at:],
    "magic": lambda draw, data, at: draw(st.sampled_from(MAGIC)) + data,
    "latin": lambda draw, data, at: data + "ä ö".encode("latin-1"),
}  # fmt: skip


def damaged(draw: Any, data: bytes) -> bytes:
    way = draw(st.sampled_from(list(DAMAGES)))
    return DAMAGES[way](draw, data, draw(st.integers(0, max(len(data) - 1, 0))))


# --- what comes of it -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """`datasets` hashes every table and every function, for a cache that nothing here has, and copies every type of a
    column deeply whenever it is asked for them: most of the time goes there."""
    for place in (datasets.arrow_dataset, datasets.fingerprint):
        monkeypatch.setattr(place, "generate_fingerprint", lambda *_, **__: "0")
        monkeypatch.setattr(place, "update_fingerprint", lambda *_, **__: "0")
    monkeypatch.setattr(datasets.fingerprint.Hasher, "update", lambda *_: None)
    monkeypatch.setattr(datasets.Features, "copy", lambda types: datasets.Features(types))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")  # where sound of a table goes
    datasets.disable_progress_bars()


@dataclass
class Loaded:
    """A corpus that has been read already."""

    rows: Dataset
    skip_bad_rows: bool

    def load(self, languages: list[str]) -> Dataset:
        return self.rows


def tried(kind: str, made: Made, root: Path, through: bool) -> str:
    """What became of a corpus: refused, read, or paired."""
    (root / "en" / f"train{made.suffix}").write_bytes(made.train)
    (root / "en" / f"test{made.suffix}").write_bytes(made.test)
    (root / "en" / "one.wav").write_bytes(made.sound)
    task = TASKS[kind][0]()
    try:
        files = Files(
            f"{root}/{{lang}}/{{split}}{made.suffix}", splits={"train": "train", "test": "test"}, **made.options
        )
        rows = files.load(["en"])
        if not through:
            return "read"
        dev = rows.select([i for i, split in enumerate(rows["split"]) if split == "test"]).to_list()
        dev = [{**row, "split": "dev", "id": f"dev {row['id']}"} for row in dev]
        rows = datasets.concatenate_datasets([rows, Dataset.from_list(dev, features=rows.features)])
        loaded: Any = Loaded(rows, files.skip_bad_rows)
        pair = Pair("en", [], parallel=0.0)
        found = load_rows(loaded, Cleaning(duplicates=False), pair, None, task=task)
        task.fit_labels(found.labels, (label for label in found.train["label"] if label))
    except UserError as error:
        return "refused" if str(error).strip() else "refused without a word"
    return "paired"


@pytest.mark.parametrize("kind", list(TASKS))
def test_nothing_that_a_file_holds_is_a_traceback(kind: str, folder: Path, quick: None) -> None:
    root = folder / kind
    (root / "en").mkdir(parents=True)
    (root / "en" / "two.wav").write_bytes(SOUND)
    count = itertools.count()
    came: Counter[str] = Counter()

    @settings(
        max_examples=-(-EXAMPLES // len(TASKS)),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(corpora(kind))
    def fuzz(made: Made) -> None:
        came[tried(kind, made, root, through=next(count) % THROUGH == 0)] += 1

    fuzz()
    assert set(came) == {"refused", "read", "paired"}, came
    assert min(came.values()) > EXAMPLES // 1000, came  # or it looks at one side alone
