"""Inference on the device that was asked for, without one: a model notes where it was sent and where inputs lay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from omegaconf import OmegaConf
from torch import nn

from distilingua.checks import check
from distilingua.data.encoder import Encoder
from distilingua.errors import UserError
from distilingua.tasks.text_classification import TextClassification
from distilingua.training import inference
from distilingua.training.evaluate import evaluate, latency
from distilingua.training.inference import Predictor, device_of
from distilingua.training.soft_labels import store_soft_labels
from distilingua.training.student import student_predictor
from distilingua.training.teacher import train_teacher
from tests.small_jobs import prepare, train

ELSEWHERE = torch.device("meta")  # a device that every torch has


class Recorder(nn.Module):
    """Answers class 1, wherever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.sent: list[str] = []
        self.lay: set[str] = set()
        self.rows: list[int] = []

    def to(self, *where: Any, **more: Any) -> Recorder:  # type: ignore[override]
        self.sent += [str(x) for x in where if isinstance(x, torch.device)]
        return self

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        self.lay |= {input_ids.device.type, attention_mask.device.type}
        self.rows.append(len(input_ids))
        return SimpleNamespace(logits=torch.tensor([[0.0, 2.0]]).repeat(len(input_ids), 1))


class Characters:
    """A tokenizer of characters."""

    pad_token_id = 0

    def __call__(self, texts: list[str], pairs: Any = None, **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1 + ord(c) % 50 for c in text] for text in texts]}

    def get_vocab(self) -> dict[str, int]:
        return {"x": 1}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def predictor(recorder: Recorder) -> Predictor:
    task = TextClassification().fit_labels(["a", "b"])
    return Predictor(lambda: recorder, Encoder(task, Characters()), ELSEWHERE)  # type: ignore[arg-type, return-value]


ROWS = Dataset.from_dict(
    {
        "id": [str(n) for n in range(600)],
        "lang": ["en"] * 600,
        "text": [f"text {n}" for n in range(600)],
        "text_pair": [""] * 600,
        "label": ["b"] * 600,
    }
)


def test_judging_and_the_clock_read_on_the_device(recorder: Recorder, predictor: Predictor) -> None:
    scores = evaluate(predictor, {"en": ROWS}, "recorder")["en"].scores
    assert scores["accuracy"] == 1
    assert recorder.sent == ["meta"]
    assert recorder.lay == {"meta"}
    assert recorder.rows[0] == 512  # larger batches than on a CPU
    latency({"recorder": predictor}, ROWS, 3)
    assert recorder.lay == {"meta"}
    assert recorder.sent == ["meta"]  # once, not for every sentence


def test_on_a_cpu_batches_are_small(recorder: Recorder, predictor: Predictor) -> None:
    predictor.device = inference.CPU
    predictor.predict(ROWS, "x")
    assert recorder.rows[0] == 128
    assert recorder.lay == {"cpu"}
    recorder.config = SimpleNamespace(hidden_size=128)  # half as wide, twice as many
    predictor.predict(ROWS, "x")
    assert 256 in recorder.rows


def test_a_store_is_filled_on_the_device_and_the_teacher_leaves_it(
    recorder: Recorder, predictor: Predictor, tmp_path: Path
) -> None:
    encoded = predictor.encoder(ROWS, None)
    store = store_soft_labels(tmp_path, {}, predictor, predictor.encoder.task, encoded)
    assert store(7).tolist() == [[0.0, 2.0]]
    assert recorder.lay == {"meta"}
    predictor.release()
    predictor.release()
    assert recorder.sent == ["meta", "cpu"]
    predictor.predict(ROWS, "x")  # asked again, it comes back
    assert recorder.sent == ["meta", "cpu", "meta"]


@pytest.mark.parametrize(
    ("trainer", "rank", "expected"),
    [
        ({"accelerator": "cpu", "devices": 2}, "1", "cpu"),
        ({"accelerator": "gpu", "devices": 1}, "0", "cuda:0"),
        ({"accelerator": "cuda", "devices": 4}, "3", "cuda:3"),
        ({"accelerator": "gpu", "devices": "auto"}, "2", "cuda:2"),
        ({"accelerator": "gpu", "devices": [5, 7]}, "1", "cuda:7"),
        ({"accelerator": "mps", "devices": 1}, "0", "mps"),
    ],
)
def test_the_device_is_the_trainer_s(
    trainer: dict[str, Any], rank: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert device_of(OmegaConf.create(trainer)) == torch.device(expected)  # type: ignore[arg-type]


def test_every_predictor_of_a_job_has_its_device(tiny_run: Any) -> None:
    cfg = tiny_run("teacher.fine_tune=null", "trainer.accelerator=mps")
    job = prepare(cfg)
    assert train_teacher(job, "teacher", job.source).device == torch.device("mps")  # type: ignore[arg-type]
    assert student_predictor(job, Path("nowhere")).device == torch.device("mps")


@pytest.mark.long
def test_a_run_sends_its_teacher_away_once_its_store_is_written(tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    release = Predictor.release

    def noted(self: Predictor) -> None:
        released.append(str(self.device))
        release(self)

    monkeypatch.setattr(Predictor, "release", noted)
    metrics = train(tiny_run("training.epochs=1", "teacher.fine_tune.epochs=1"))
    assert released == ["cpu"]
    assert metrics["device"] == "cpu"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.precision=16"], r"teacher\.precision=16: half precision is for GPUs.*Set teacher\.precision=bf16"),
        (["teacher.precision=int8", "trainer.accelerator=mps"], r"teacher\.precision=int8: .*device=mps"),
        (["teacher.precision=int8", "device=gpu"], r"teacher\.precision=int8: .*device=gpu"),
    ],
)
def test_precisions_that_a_device_has_not(tiny_run: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tiny_run(*overrides))
