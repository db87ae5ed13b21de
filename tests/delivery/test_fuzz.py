"""Nothing in a stranger's model folder, or in a file that `predict` reads, is a traceback, is silent, or is run.

420 of each in every run, and 2,000 of each with `make test-fuzz`.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from transformers import BertForSequenceClassification

from distilingua.artifacts import note_files
from distilingua.delivery.predict import predict
from distilingua.delivery.streams import ENCODING
from distilingua.errors import UserError
from distilingua.models.folder import OWN
from distilingua.models.vocabulary import train_tokenizer
from tests.conftest import tiny_bert
from tests.corpora.test_fuzz import Made, corpora

EXAMPLES = int(os.environ.get("EXAMPLES", "2100")) // 5  # of corpora there are more
TEXTS = ["the light in room 4", "please check the song of floor 99", "rain number 7 now", "lamp", "weather weather"]
CANARY = "CANARY"
CODE = {"_target_": "pathlib.Path.touch", "self": CANARY}
NUMBERS = [None, True, -1, 0, 1, 3, 2**31, 10**12, 1e400, float("nan"), 0.5]
NESTED = [[], [[]], ["a"], [None], [3], {}, {"a": 1}, {"0": "a"}, [CODE], CODE]
NESTED += [{"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}]
WORDS = ["", "x", "../x", "/etc/passwd", "${oc.env:HOME}", "a" * 3000, "\ud800", "os.system", "evil.Evil"]
WORDS += ["bert", "bag", "gelu", "float16", "int8", "single_label_classification", "multi_label_classification"]
ODD: list[Any] = [*NUMBERS, *NESTED, *WORDS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student as a run writes it, and code of its own beside it, which only somebody who runs it can notice."""
    folder = tmp_path_factory.mktemp("stranger") / "model"
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 100)
    tokenizer.model_max_length = 32
    made = BertForSequenceClassification(tiny_bert(len(tokenizer), id2label={0: "light", 1: "music"}))
    task = {"_target_": "distilingua.tasks.text_classification.TextClassification", "name": "intent", "max_length": 32}
    cleaning = {"unicode": "NFC", "url": "<link>", "max_characters": 100, "markup": True}
    own = {"task": task, "cleaning": cleaning, "prefix": "a ", "languages": ["en", "de"], "parameters": 9, "rows": {}}
    setattr(made.config, OWN, {**own, "overrides": ["pair=en-de"]})
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("hubconf", "evil", "configuration_bert", "modeling_bert"):
        (folder / f"{name}.py").write_text(f"open({CANARY!r}, 'w')\nclass Evil: pass\n")
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in nested values something stands; of long lists the first few places."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))


def mutated(value: Any, rng: random.Random) -> Any:
    """With one to three places replaced, taken away, named otherwise, or new."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        where = list(places(value))
        if not where:
            return odd(rng)
        *path, last = rng.choice(where)
        holder = value
        for key in path:
            holder = holder[key]
        way = rng.choice(("replace", "replace", "replace", "remove", "rename", "add"))
        if way == "remove":
            del holder[last]
        elif way == "replace" or not isinstance(holder, dict):
            holder[last] = odd(rng)
        elif way == "rename":
            holder[str(odd(rng))[:40]] = holder.pop(last)
        else:
            new = ("auto_map", "_target_", "quantization_config", "embedding_rank", "dtype", "problem_type", "prefix")
            holder[rng.choice(new)] = odd(rng)
    return value


def damage(folder: Path, rng: random.Random) -> None:
    """One file of a model's folder is not what it was."""
    name = rng.choice(
        ("config.json",) * 4 + ("tokenizer.json", "tokenizer_config.json", "model.safetensors", "files.json")
    )
    file = folder / name
    if name == "files.json":
        note_files(folder, folder.glob("*.json"))
    content = file.read_bytes()
    if rng.random() < 0.15:
        at = rng.randrange(len(content))
        way = rng.choice(("cut", "flip", "insert", "empty", "folder", "link", "pipe"))
        if way in ("folder", "link", "pipe"):
            file.unlink()
            {"folder": file.mkdir, "link": lambda: file.symlink_to(name), "pipe": lambda: os.mkfifo(file)}[way]()
            return
        new = {"cut": content[:at], "empty": b"", "insert": content[:at] + b"\xff\0" + content[at:]}
        file.write_bytes(new.get(way, content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]))
    elif name == "model.safetensors":
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(mutated(json.loads(content[8 : 8 + size]), rng)).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    else:
        file.write_text(json.dumps(mutated(json.loads(content), rng)), "utf-8")


def test_a_strangers_model_is_answered_by_or_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    came: Counter[str] = Counter()
    for number in range(EXAMPLES):
        shutil.copytree(model, tmp_path / "model")
        damage(tmp_path / "model", random.Random(number))
        try:
            predict(["model", "--raw", "the light", "rain"] if number % 3 == 0 else ["model", "the light", "rain"])
            came["answered"] += 1
            assert len(capsys.readouterr().out.splitlines()) == 2, number
        except UserError as error:
            came["refused" if str(error).strip() else "silent"] += 1
        except Exception as error:
            raise AssertionError(f"number {number}") from error
        assert not Path(CANARY).exists(), number
        shutil.rmtree(tmp_path / "model")
    assert set(came) == {"answered", "refused"}, came
    assert min(came.values()) > EXAMPLES // 10, came


def test_what_predict_reads_is_answered_row_by_row_or_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    came: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(corpora("intent"))
    def fuzz(made: Made) -> None:
        file = tmp_path / f"rows{made.suffix}"
        file.write_bytes(made.train)
        capsys.readouterr()
        dialect = [
            f"--{key}={value}" for key, value in made.options.items() if key in ("encoding", "separator") and value
        ]
        if isinstance(made.options.get("quoting"), bool):
            dialect.append(f"--quoting={str(made.options['quoting']).lower()}")
        try:
            predict([str(model), "--from", str(file), "--to", "answers.jsonl", *dialect])
        except UserError as error:
            came["refused" if str(error).strip() else "silent"] += 1
            return
        came["answered"] += 1
        rows = [json.loads(line) for line in Path("answers.jsonl").read_text(**ENCODING).split("\n")[:-1]]
        assert all({"answer", "probability"} <= row.keys() for row in rows)
        told = capsys.readouterr().err
        empty = sum(row["probability"] is None for row in rows)
        assert empty == len(re.findall(r"^row \d+: ", told, re.MULTILINE)), told

    fuzz()
    assert set(came) == {"answered", "refused"}, came
    assert min(came.values()) > EXAMPLES // 10, came
