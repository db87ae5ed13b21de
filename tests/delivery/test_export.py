"""`distilingua export`: what others load answers as the student does, and says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from filelock import FileLock
from huggingface_hub import ModelCard
from transformers import AutoTokenizer, BertForQuestionAnswering, BertForTokenClassification, pipeline

from distilingua import extras
from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.encoder import Encoder
from distilingua.delivery.formats import Format, Hub, Onnx, Student, sample_inputs
from distilingua.delivery.judge import changed, clock, parity
from distilingua.locations import conf_folder
from distilingua.models.factorise import FactorisedEmbedding
from distilingua.models.seq2seq import Seq2Seq
from distilingua.models.static import Static
from distilingua.models.student import Pretrained
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from distilingua.tasks.translation import Translation
from distilingua.training.evaluate import Judged
from distilingua.training.inference import Predictions
from tests.conftest import tiny_bert
from tests.processes import run

pytest.importorskip("onnxruntime")
TEXTS = ["the light in room 4", "please check the song of floor 99", "rain number 7 now", "lamp"]
EIGHT_BITS = ("onnx_int8", "web")
FORMATS = sorted(path.stem for path in (conf_folder() / "format").glob("*.yaml"))


@pytest.fixture(scope="session")
def exported(finished_run: Path, kept: Path) -> Path:
    """In every format that has a YAML; nobody writes to it."""
    folder = kept / "exported"
    options = [
        f"format=[{','.join(FORMATS)}]",
        "format.web.assets=cdn",  # which needs no npm; the other way is tested in a browser
        "sentences=4",
        "temperature=true",
        f"hydra.run.dir={folder}",
        "license=mit",
    ]
    with FileLock(f"{folder}.lock"):
        if not (folder / "export.json").exists():
            answer = run("export", str(finished_run), *options, folder=kept)
            assert answer.returncode == 0, answer.stderr
            assert "logit" in answer.stdout
    return folder


@pytest.mark.long
def test_every_artefact_is_judged_beside_teacher_and_student(exported: Path, finished_run: Path) -> None:
    found = json.loads((exported / "export.json").read_text("utf-8"))
    assert list(found["models"])[:3] == ["teacher", "student", "hub"]
    assert set(found["models"]) == {"teacher", "student", *FORMATS}
    metrics = json.loads((finished_run / "metrics.json").read_text("utf-8"))
    for name in ("teacher", "student"):
        assert found["models"][name]["languages"] == metrics["models"][name]["languages"]
    for name in FORMATS:
        model = found["models"][name]
        assert set(model["languages"]) == {"en", "de"}
        assert 0 <= model["changed"] <= 0.1
        assert model["parity"] < (0.5 if name in EIGHT_BITS else 1e-4), name
        assert model["bytes"] > 10_000
        for lang, sure in model["reliability"].items():
            low, high = sure["interval"]
            assert low <= model["languages"][lang]["accuracy"] <= high
        assert (f"{name} - student" in found["differences"]) == (model["changed"] > 0)
    assert found["models"]["onnx"]["changed"] == 0
    assert found["models"]["onnx_int8"]["parity"] > 0  # it is another computation
    assert found["models"]["onnx_int8"]["bytes"] < 0.6 * found["models"]["onnx"]["bytes"]
    for model in found["models"].values():
        assert "1" in model["speed"]
        for speed in model["speed"].values():
            assert 0 < speed["median"] <= speed["p95"]
            assert speed["per_second"] > 0


@pytest.mark.long
def test_files_lie_where_others_look_for_them(exported: Path) -> None:
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    expected = {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "README.md",
        "export.json",
    }
    expected |= {"onnx/model.onnx", "onnx/model_quantized.onnx", "export.log", "web/index.html"}
    expected |= {f"web/student/{name}" for name in ("config.json", "tokenizer.json", "tokenizer_config.json")}
    expected |= {"web/student/onnx/model_quantized.onnx"}
    assert names == expected  # and no model.onnx.data beside them


@pytest.mark.long
def test_a_pipeline_cuts_a_long_text_and_knows_the_labels(exported: Path, finished_run: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert config["id2label"] == {"0": "light", "1": "music", "2": "weather"}
    assert AutoTokenizer.from_pretrained(exported).model_max_length == 64
    pipe = pipeline("text-classification", str(exported))
    (long,) = pipe(["the light in room 4 " * 500], truncation=True)
    assert long["label"] in config["label2id"]
    own = pipeline("text-classification", str(finished_run / "student"))
    assert pipe(TEXTS) == own(TEXTS)


@pytest.mark.long
@pytest.mark.parametrize("file", ["", "onnx/model.onnx", "onnx/model_quantized.onnx", "web/student"])
def test_an_exported_folder_is_judged_and_used_like_its_run(
    file: str, exported: Path, finished_run: Path, tmp_path: Path, kept: Path
) -> None:
    """On the rows of the run, where its own corpus is typed, whose path it does not carry."""
    eight_bits = "quantized" in file or "web" in file
    corpus = ["corpus=files", f"corpus.path='{kept}/data/{{lang}}/{{split}}.jsonl'", "corpus.columns.group=key"]
    answer = run("evaluate", str(exported / file), *corpus, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    (found,) = tmp_path.glob("outputs/*/*/predictions.parquet")
    own = pd.read_parquet(finished_run / "predictions.parquet")
    theirs = pd.read_parquet(found)
    assert list(theirs["id"]) == list(own["id"])  # cleaned alike, by what config.json says
    assert (theirs["student"] == own["student"]).mean() >= (0.9 if eight_bits else 1)
    answers = [
        run("predict", str(model), *TEXTS, "--all", folder=tmp_path) for model in (exported / file, finished_run)
    ]
    ours, runs = ([json.loads(line) for line in answer.stdout.splitlines()] for answer in answers)
    temperature = json.loads((exported / "config.json").read_text())["distilingua"]["temperature"]
    assert temperature == json.loads((finished_run / "metrics.json").read_text())["temperature"]
    for one, other in zip(ours, runs, strict=True):  # what was asked for is in the exported folder, and not in the run
        logits = np.log(list(other["probabilities"].values())) / temperature
        expected = dict(zip(other["probabilities"], np.exp(logits) / np.exp(logits).sum(), strict=True))
        assert one["probabilities"] == pytest.approx(expected, abs=0.05 if eight_bits else 2e-4)
        assert one["probability"] == pytest.approx(max(one["probabilities"].values()), abs=1e-6)


@pytest.mark.long
def test_the_card_says_what_it_is_and_nothing_of_this_machine(exported: Path, finished_run: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert card.data.language == ["en", "de"]
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "text-classification"
    scores = json.loads((finished_run / "metrics.json").read_text())["models"]["student"]["languages"]
    stated = {(one.dataset_config, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert stated == {(lang, name): value for lang, each in scores.items() for name, value in each.items()}
    for heading in (
        "How good it is",
        "How far to trust it",
        "Labels",
        "How it was made",
        "How to use it",
        "Limits",
        "How to cite",
    ):
        assert f"## {heading}" in card.text
    assert "`light`, `music`, `weather`" in card.text
    low, high = json.loads((exported / "export.json").read_text())["models"]["student"]["reliability"]["de"]["interval"]
    assert f"({100 * low:.1f}–{100 * high:.1f}) |" in card.text
    for name in ("README.md", "config.json", "tokenizer_config.json"):
        assert str(finished_run.parent) not in (exported / name).read_text("utf-8"), name
    config = json.loads((exported / "config.json").read_text())["distilingua"]
    assert config["cleaning"]["url"] == "<link>"
    assert "corpus=files" in config["overrides"]
    assert not [item for item in config["overrides"] if "/" in item]


# --- students of every kind -------------------------------------------------------------------------------------------


def kinds() -> dict[str, Callable[[Path], tuple[Any, Encoder, Dataset]]]:
    """A model, how it reads, and rows; of every kind that is no plain encoder from scratch."""
    rows = dataset_from_rows(
        [{"id": str(n), "lang": "en", "text": text, "text_pair": ""} for n, text in enumerate(TEXTS)]
    )

    def cut(kept: Path, **cuts: Any) -> tuple[Any, Encoder, Dataset]:
        source = Pretrained(str(kept / "teacher"), **cuts)
        tokenizer = source.tokenizer(rows, kept / "cache")
        task = TextClassification(max_length=32).fit_labels(["light", "music", "weather"])
        return source.model(task, tokenizer).eval(), Encoder(task, tokenizer), rows

    def head(kind: Any, task: Task, of: Dataset) -> tuple[Any, Encoder, Dataset]:
        torch.manual_seed(0)
        tokenizer = train_tokenizer(TEXTS, 100)
        options = task.model_options if task.labels else {}
        return kind(tiny_bert(len(tokenizer), **options)).eval(), Encoder(task, tokenizer), of

    tags = TokenClassification().fit_labels(["O", "B-a", "I-a"])
    pairs = rows.remove_columns(["text", "text_pair"]).add_column("text", ["light"] * 4).add_column("text_pair", TEXTS)
    return {
        "layers": lambda kept: cut(kept, layers="first:1"),
        "trimmed": lambda kept: cut(kept, trim_vocabulary=True),
        "factorised": lambda kept: cut(kept, embedding_rank=8),
        "static": lambda kept: bag(kept),
        "tags": lambda kept: head(BertForTokenClassification, tags, rows),
        "answers": lambda kept: head(BertForQuestionAnswering, QuestionAnswering(), pairs),
        "speech": lambda kept: hearing(kept),
        "translation": lambda kept: writing(kept),
    }


def bag(kept: Path) -> tuple[Any, Encoder, Dataset]:
    torch.manual_seed(0)
    rows = dataset_from_rows([{"id": text, "lang": "en", "text": text} for text in TEXTS])
    source = Static(vocabulary=60, hidden_size=16, feed_forward=16)
    tokenizer = source.tokenizer(rows, kept / "cache")
    task = TextClassification(max_length=32).fit_labels(["light", "music", "weather"])
    return source.model(task, tokenizer).eval(), Encoder(task, tokenizer), rows


def writing(kept: Path) -> tuple[Any, Encoder, Dataset]:
    torch.manual_seed(0)
    rows = dataset_from_rows([{"id": text, "lang": "en", "text": text, "label": text[::-1]} for text in TEXTS])
    source = Seq2Seq(1, 32, 2, 32, vocabulary=60, positions=64, decoder_layers=1)
    tokenizer = source.tokenizer(rows, kept / "cache")
    task = Translation(max_length=32, beams=2)
    model = source.model(task, tokenizer)
    task.prepare_model(model, tokenizer)
    return model.eval(), Encoder(task, tokenizer), rows


def hearing(kept: Path) -> tuple[Any, Encoder, Dataset]:
    pytest.importorskip("espeakng_loader")
    from distilingua.corpora.sound import spoken
    from distilingua.models.speech import SpeechScratch
    from distilingua.tasks.speech import SpeechRecognition

    torch.manual_seed(0)
    alphabet = " abcdefghijklmnopqrstuvwxyz"
    shape = {"layers": 1, "hidden_size": 32, "heads": 2, "feed_forward": 32, "kernel": 5, "mels": 16}
    student = SpeechScratch(**shape, dropout=0.0, alphabet=alphabet)  # type: ignore[arg-type]
    rows = dataset_from_rows(
        {"id": text, "lang": "en", "text": text, "audio": spoken(text, "en+m1", 180, 50)} for text in TEXTS
    )
    listener = student.tokenizer(rows, kept / "cache")
    task = SpeechRecognition(alphabet=alphabet)
    return student.model(task, listener).eval(), Encoder(task, listener), rows


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        pytest.param(kind, form, id=f"{kind}-{type(form).__name__}", marks=marks)
        for kind in kinds()
        for form, marks in ((Hub(), ()), (Onnx("onnx/model.onnx"), pytest.mark.long))
        if kind != "translation" or isinstance(form, Hub)  # see below
    ],
)
def test_students_of_every_kind_answer_alike_once_exported(kind: str, form: Format, kept: Path, tmp_path: Path) -> None:
    from distilingua.training.inference import Predictor

    torch.manual_seed(1)
    model, encoder, rows = kinds()[kind](kept)
    if kind == "factorised":
        assert isinstance(model.get_input_embeddings(), FactorisedEmbedding)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    own = Predictor(lambda: model, encoder).predict(rows, "").answers
    student = Student(lambda: again(model, weights, kind, kept), encoder, sample_inputs(encoder, rows), 1)
    assert form.check(encoder.task) is None
    made = form.write(student, tmp_path)
    theirs = form.predictor(made, student, threads=1).predict(rows, "").answers
    for a, b in zip(own, theirs, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-3 if kind == "speech" else 1e-5, equal_nan=True)
    assert not list(tmp_path.rglob("*.data"))


def again(model: Any, weights: dict[str, torch.Tensor], kind: str, kept: Path) -> Any:
    """The model anew, as formats may change what they get."""
    other = kinds()[kind](kept)[0]
    other.load_state_dict(weights)
    return other.eval()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_writes_piece_by_piece_is_refused_by_name() -> None:
    told = Onnx("onnx/model.onnx").check(Translation())
    assert told is not None
    assert told.startswith("format: task=translation writes piece by piece")
    assert told.endswith("Type format=[hub].")
    assert Hub().check(Translation()) is None


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "ONNX", ("runtime9",))
    told = Onnx("onnx/model.onnx").check(TextClassification())
    assert told == "ONNX needs runtime9. Install the extra: pip install 'distilingua[onnx]'."


def test_what_cannot_be_exported_is_told_at_once(finished_run: Path, tmp_path: Path) -> None:
    from tests.test_cli import all_refused

    own = str(finished_run)
    place = f"hydra.run.dir={tmp_path}/out"
    told = {
        (): "no model is named",
        (own, own + "/student"): "several models are named",
        (f"{tmp_path}/nowhere", place): "nowhere is not there",
        (own, "format=[]", place): "format=[] names none",
        (own, "sentences=0", place): "sentences=0: expected a whole number of at least 1",
        (own, "push=alone", place): "push=alone: names no organisation",
    }
    all_refused("export", told, tmp_path)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_parity_and_changed_decisions() -> None:
    def judged(told: list[str], *answers: torch.Tensor) -> Judged:
        return Judged({}, [], [], told, [], Predictions(list(answers), [], []))

    zero = torch.zeros(1, 2)
    one = {"en": judged(["a", "b"], zero, zero), "de": judged(["a", "a"], zero, zero)}
    other = {"en": one["en"], "de": judged(["a", "b"], zero, torch.tensor([[0.25, -0.5]]))}
    assert parity(other, one) == 0.5
    assert changed(other, one) == 0.25
    assert parity(one, one) == changed(one, one) == 0
    pieces = {"en": judged(["a"], torch.tensor([1, 2]))}
    assert parity(pieces, pieces) is None


def test_the_clock_tells_a_large_model_from_a_small_one(kept: Path) -> None:
    from transformers import BertForSequenceClassification

    from distilingua.training.inference import Predictor

    tokenizer = train_tokenizer(TEXTS, 100)
    task = TextClassification().fit_labels(["a", "b"])
    encoder = Encoder(task, tokenizer)
    rows = dataset_from_rows([{"id": str(n), "lang": "en", "text": TEXTS[n % 4]} for n in range(40)])
    sizes = {"small": 1, "large": 12}
    loaders = {
        name: lambda threads, n=n: Predictor(
            lambda: BertForSequenceClassification(tiny_bert(len(tokenizer), num_hidden_layers=n)).eval(), encoder
        )
        for name, n in sizes.items()
    }
    before = torch.get_num_threads()
    speeds = clock(loaders, rows, sentences=20, threads=1)
    assert torch.get_num_threads() == before
    assert speeds["large"].median > 2 * speeds["small"].median
    assert speeds["small"].per_second > 1.5 * speeds["large"].per_second
