"""The store: interrupted and resumed, in half precision, by its likeliest classes; and several teachers as one."""

from __future__ import annotations

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from distilingua import artifacts
from distilingua.columns import Encoded
from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.datamodule import Lessons
from distilingua.data.encoder import Encoder
from distilingua.errors import UserError
from distilingua.tasks.text_classification import TextClassification
from distilingua.training import inference
from distilingua.training import soft_labels as store_module
from distilingua.training.inference import Predictor
from distilingua.training.soft_labels import Store, StoredSoftLabels, dense, mean_logits, store_soft_labels, top_k
from tests.conftest import LengthEncoder, tiny_bert

LABELS = [f"class {n}" for n in range(9)]
ROWS = 700  # six batches


@pytest.fixture(autouse=True)
def as_of_a_wide_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WIDTH", 1)


@pytest.fixture
def teacher() -> Predictor:
    torch.manual_seed(0)
    config = tiny_bert(50, num_labels=len(LABELS), initializer_range=1.0)  # or every answer is alike
    model = BertForSequenceClassification(config)
    encoder = Encoder(TextClassification(), SimpleNamespace(pad_token_id=0))  # type: ignore[arg-type]
    return Predictor(lambda: model, encoder)


@pytest.fixture
def given() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    token_ids = [rng.integers(1, 50, size=rng.integers(2, 12)).tolist() for _ in range(ROWS)]
    return {
        "task": TextClassification().fit_labels(LABELS),
        "encoded": Encoded.of([{"input_ids": ids} for ids in token_ids]),
    }


RECIPE = {"teacher": "t", "tokenizer": "k", "prefix": "", "corpus": "c", "max_length": 64}


def make(cache: Path, teacher: Predictor, given: dict[str, Any], **options: Any) -> Store:
    return store_soft_labels(cache, RECIPE, teacher, **given, **options)


def test_an_interrupted_store_goes_on_where_it_stopped(
    tmp_path: Path, teacher: Predictor, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SAVE_EVERY", 1)
    whole = make(tmp_path / "whole", teacher, given)
    read: list[int] = []

    def stop_at_the_fourth(module: Any, inputs: Any, kwargs: Any) -> None:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(len(kwargs["input_ids"]))

    hook = teacher.model.register_forward_pre_hook(stop_at_the_fourth, with_kwargs=True)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", teacher, given)
    hook.remove()
    assert not list((tmp_path / "cut" / "soft_labels").glob("[!.]*/logits.npy"))  # nothing that looks finished
    read.clear()
    hook = teacher.model.register_forward_pre_hook(
        lambda module, inputs, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    resumed = make(tmp_path / "cut", teacher, given)
    hook.remove()
    assert sum(read) == ROWS - 3 * 128
    assert np.array_equal(np.asarray(resumed.logits), np.asarray(whole.logits))
    assert not list((tmp_path / "cut" / "soft_labels").glob("*/progress.json"))


def test_a_store_is_made_once_and_asks_nobody_again(tmp_path: Path, teacher: Predictor, given: dict[str, Any]) -> None:
    first = make(tmp_path, teacher, given)
    teacher.model.register_forward_pre_hook(lambda module, inputs: pytest.fail("asked again"))
    assert np.array_equal(np.asarray(make(tmp_path, teacher, given).logits), np.asarray(first.logits))


@pytest.mark.parametrize("options", [{}, {"keep": 3, "dtype": "float16", "pooling": "mean"}])
def test_processes_that_were_started_together_each_ask_for_their_share(
    tmp_path: Path, teacher: Predictor, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Three of them, of which the last one never comes: its share is taken over."""
    alone = make(tmp_path / "alone", teacher, given, **options)
    asked: dict[int, list[int]] = {0: [], 1: []}
    rank = threading.local()
    monkeypatch.setattr(artifacts, "started_together", lambda: (rank.number, 3))
    both = threading.Barrier(2)

    class Counting(Predictor):
        def cells(self, *args: Any) -> Any:
            for rows, cells, vectors in super().cells(*args):
                asked[rank.number].append(len(rows))
                if sum(asked[rank.number]) == len(rows):
                    both.wait(timeout=60)  # or the first could be done before the other one begins
                yield rows, cells, vectors

    def process(number: int) -> Store:
        rank.number = number
        return make(tmp_path / "together", Counting(lambda: teacher.model, teacher.encoder), given, **options)

    with ThreadPoolExecutor() as processes:
        stores = list(processes.map(process, range(2)))
    shares = [len(range(n, ROWS, 3)) for n in range(3)]
    assert sum(asked[0]) - shares[0] in (0, shares[2])  # whoever was first to be done took the third one's
    assert sum(asked[0]) + sum(asked[1]) == ROWS
    for store in stores:
        for name in ("logits", "classes", "rest", "vectors"):
            one, other = getattr(store, name), getattr(alone, name)
            assert (one is None) == (other is None)
            # a number of 16 bits has steps of a thousandth of itself, and two ways of rounding may be one apart
            step = 2 * np.finfo(one.dtype).eps if one is not None and one.dtype.kind == "f" else 0
            assert one is None or np.allclose(one, other, rtol=step, atol=1e-3)
    assert sorted(path.suffix for path in (tmp_path / "together/soft_labels").iterdir()) == ["", ".lock"]


def test_who_was_started_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert artifacts.started_together() == (0, 1)
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert artifacts.started_together() == (2, 4)
    monkeypatch.setenv("WORLD_SIZE", "3")  # as Lightning's own have it, and no rank
    assert artifacts.started_together() == (2, 4)
    monkeypatch.setenv("RANK", "1")
    assert artifacts.started_together() == (1, 3)


@pytest.mark.parametrize("name", list(RECIPE))
def test_a_store_of_something_else_is_refused_by_name(
    tmp_path: Path, teacher: Predictor, given: dict[str, Any], name: str
) -> None:
    make(tmp_path, teacher, given)
    (folder,) = [path.parent for path in (tmp_path / "soft_labels").glob("*/recipe.json")]
    with pytest.raises(UserError, match=f"made with another {name}\\."):
        Store(folder, {**RECIPE, name: "other"})


@pytest.mark.parametrize("name", ["logits.npy", "classes.npy", "rest.npy", "index.json"])
def test_a_flipped_bit_is_refused_by_file(tmp_path: Path, teacher: Predictor, given: dict[str, Any], name: str) -> None:
    make(tmp_path, teacher, given, keep=4)
    (file,) = (tmp_path / "soft_labels").glob(f"*/{name}")
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file} is damaged: .*rm -r {file.parent}"):
        make(tmp_path, teacher, given, keep=4)


def interrupted(cache: Path, teacher: Predictor, given: dict[str, Any]) -> Path:
    """The folder of a store that was stopped after three batches, of which each was noted."""
    read: list[int] = []

    def stop(module: Any, inputs: Any) -> None:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(1)

    hook = teacher.model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        make(cache, teacher, given)
    hook.remove()
    (folder,) = (cache / "soft_labels").glob(".*-unfinished")
    return folder


@pytest.mark.parametrize("note", ["", "[384", "null", '[1, "x"]'])
def test_a_damaged_note_of_progress_starts_again(
    tmp_path: Path, teacher: Predictor, given: dict[str, Any], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SAVE_EVERY", 1)
    whole = make(tmp_path / "whole", teacher, given)
    (interrupted(tmp_path / "cut", teacher, given) / "progress.json").write_text(note)
    assert np.array_equal(make(tmp_path / "cut", teacher, given).logits, whole.logits)


@pytest.mark.parametrize("damage", ["gone", "cut", "header"])
def test_damaged_beginnings_are_refused_by_folder(
    tmp_path: Path, teacher: Predictor, given: dict[str, Any], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SAVE_EVERY", 1)
    folder = interrupted(tmp_path, teacher, given)
    content = (folder / "logits.npy").read_bytes()
    if damage == "gone":
        (folder / "logits.npy").unlink()
    else:
        (folder / "logits.npy").write_bytes(content[:-100] if damage == "cut" else b"x" + content[1:])
    with pytest.raises(UserError, match=rf"{folder} holds soft labels that were interrupted.*: rm -r {folder}"):
        make(tmp_path, teacher, given)


def test_half_precision_keeps_three_digits(tmp_path: Path, teacher: Predictor, given: dict[str, Any]) -> None:
    full, half = make(tmp_path, teacher, given), make(tmp_path, teacher, given, dtype="float16")
    assert half.logits.nbytes * 2 == full.logits.nbytes
    for n in range(0, ROWS, 50):
        assert half(n).dtype == np.float32
        assert np.allclose(half(n), full(n), rtol=2e-3, atol=1e-3)


def test_the_likeliest_classes_by_hand() -> None:
    # probabilities 1/2, 1/4, 1/8, 1/8: two are kept, the others share the remaining quarter
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log() + 3.0
    values, classes, rest = top_k(logits, 2)
    assert classes.tolist() == [[0, 1]]
    assert values.exp().tolist()[0] == pytest.approx([0.5, 0.25])
    assert rest.exp().item() == pytest.approx(0.25)
    rebuilt = dense(values.numpy(), classes.numpy(), rest.numpy(), 4)
    assert np.exp(rebuilt)[0].tolist() == pytest.approx([0.5, 0.25, 0.125, 0.125])


@pytest.mark.parametrize("keep", [1, 4, 9, 50])
def test_a_top_k_store_keeps_the_likeliest_and_reports_what_it_lost(
    tmp_path: Path, teacher: Predictor, given: dict[str, Any], keep: int, capsys: pytest.CaptureFixture[str]
) -> None:
    full = make(tmp_path, teacher, given)
    small = make(tmp_path, teacher, given, keep=keep)
    kl = []
    for n in range(ROWS):
        p = torch.from_numpy(full(n)).log_softmax(-1)
        q = torch.from_numpy(small(n))
        assert q.exp().sum().item() == pytest.approx(1.0, abs=1e-4)
        assert p.argmax() == q.argmax()
        kl.append(float((p.exp() * (p - q)).sum()))
    reported = float(capsys.readouterr().out.rpartition("KL from all of them ")[2].split()[0])
    assert reported == pytest.approx(sum(kl) / ROWS, abs=2e-5)
    assert reported > 0.01 if keep == 1 else reported < 0.2
    assert reported < 1e-5 if keep >= 9 else reported > 1e-4


def test_a_store_that_does_not_fit_is_refused_before_it_starts(
    tmp_path: Path, teacher: Predictor, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"the soft labels need .* Set teacher\.store_top_k=32"):
        make(tmp_path, teacher, given)


def test_means_of_probabilities_by_hand() -> None:
    a, b = np.log(np.array([[0.9, 0.1]], dtype=np.float32)), np.log(np.array([[0.5, 0.5]], dtype=np.float32)) + 7
    assert np.exp(mean_logits([a, b], [1.0, 1.0]))[0].tolist() == pytest.approx([0.7, 0.3], abs=1e-6)
    assert np.exp(mean_logits([a, b], [3.0, 1.0]))[0].tolist() == pytest.approx([0.8, 0.2], abs=1e-6)


def test_means_of_decisions_by_hand() -> None:
    """Of 0.9 and 0.5 it is 0.7, whatever the other classes are; a softmax would say no to all of them."""
    a, b = np.log(np.array([[0.9 / 0.1, 0.2 / 0.8]], dtype=np.float32)), np.zeros((1, 2), dtype=np.float32)
    found = mean_logits([a, b], [1.0, 1.0], axis=None)
    assert (1 / (1 + np.exp(-found)))[0].tolist() == pytest.approx([0.7, 0.35], abs=1e-6)
    assert mean_logits([a + 200, a + 200], [1.0, 2.0], axis=None) == pytest.approx(a + 200, abs=1e-3)


def test_means_of_places_by_hand() -> None:
    """Starts are one distribution and ends another, over the characters."""
    a, b = (np.log(np.array(x, dtype=np.float32)) for x in ([[0.9, 0.2], [0.1, 0.8]], [[0.5, 0.4], [0.5, 0.6]]))
    found = np.exp(mean_logits([a + 3, b], [1.0, 1.0], axis=0))
    assert found == pytest.approx(np.array([[0.7, 0.3], [0.3, 0.7]]), abs=1e-6)


def test_a_panel_asks_those_that_have_an_answer(tmp_path: Path) -> None:
    def store(name: str, probabilities: dict[str, list[float]]) -> Store:
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "logits.npy", np.log(np.array(list(probabilities.values()), dtype=np.float32)))
        np.save(folder / "offsets.npy", np.arange(len(probabilities) + 1))
        (folder / "index.json").write_text(json.dumps({"texts": len(probabilities), "width": 2}))
        (folder / "recipe.json").write_text("{}")
        return Store(folder, {})

    english = store("english", {"en-1": [0.9, 0.1], "en-2": [0.2, 0.8]})
    german = store("german", {"de-1": [0.5, 0.5]})
    names = ["en-1", "en-2", "de-1"]
    places = [np.array([0, 1, -1]), np.array([-1, -1, 0])]
    task = TextClassification().fit_labels(["a", "b"])
    table = dataset_from_rows({"id": name} for name in names)
    panel = StoredSoftLabels([english, german], [1.0, 3.0], task, table, places)

    def answer(*read: str) -> list[float]:
        numbers = [names.index(name) if name else -1 for name in read]
        encoder: Any = LengthEncoder()
        lessons = Lessons(
            dataset_from_rows([{"id": "some row", "number": -1, "teacher_texts": numbers}]), encoder, None
        )
        return np.exp(panel.logits(lessons.batch(np.array([0]))))[0].tolist()

    assert answer("en-1", "de-1") == pytest.approx([0.6, 0.4], abs=1e-6)
    assert answer("en-2", "") == pytest.approx([0.2, 0.8], abs=1e-6)
    assert answer("", "de-1") == pytest.approx([0.5, 0.5], abs=1e-6)
    assert math.isclose(sum(answer("en-1", "de-1")), 1.0, abs_tol=1e-6)
