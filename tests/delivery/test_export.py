"""`distilingua export`: what others load answers as the student does, and says what it is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from transformers import AutoTokenizer, pipeline

from distilingua import extras
from distilingua.delivery.artefacts import changed, parity
from distilingua.delivery.export import publish
from distilingua.delivery.formats import Format, Hub, Onnx, Student
from distilingua.delivery.model import open_exported
from distilingua.delivery.runtime import predictor_of
from distilingua.locations import conf_folder
from distilingua.models.factorise import FactorisedEmbedding
from distilingua.tasks.task import Evaluation
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.translation import Translation
from distilingua.training.inference import Predictions, Predictor
from tests.delivery.conftest import read_json
from tests.delivery.students import KINDS, TEXTS
from tests.processes import succeed
from tests.test_cli import all_refused

pytest.importorskip("onnxruntime")
EIGHT_BITS = ("onnx_int8", "web")
FORMATS = sorted(path.stem for path in (conf_folder() / "format").glob("*.yaml"))


@pytest.fixture(scope="session")
def exported(finished_run: Path, kept: Path) -> Path:
    """In every format that has a YAML; nobody writes to it."""
    folder = kept / "exported"
    options = [f"format=[{','.join(FORMATS)}]", "sentences=4", "license=mit"]
    # the page needs no npm so; the other way is tested in a browser
    options += ["format.web.assets=cdn", f"hydra.run.dir={folder}"]
    with FileLock(f"{folder}.lock"):
        if not (folder / "export.json").exists():
            assert "logit" in succeed("export", str(finished_run), *options, folder=kept)
    return folder


@pytest.mark.long
def test_every_artefact_is_judged_beside_teacher_and_student(exported: Path, finished_run: Path) -> None:
    found, metrics = read_json(exported / "export.json"), read_json(finished_run / "metrics.json")
    assert list(found["models"])[:3] == ["teacher", "student", "hub"]
    assert set(found["models"]) == {"teacher", "student", *FORMATS}
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
    assert all(model["latency_ms"] > 0 for model in found["models"].values())


@pytest.mark.long
def test_files_lie_where_others_look_for_them(exported: Path) -> None:
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    read_by = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    expected = read_by | {"model.safetensors", "README.md", "export.json", "export.log", "web/index.html"}
    expected |= {"onnx/model.onnx", "onnx/model_quantized.onnx", "web/student/onnx/model_quantized.onnx"}
    expected |= {f"web/student/{name}" for name in read_by}
    assert names == expected  # and no model.onnx.data beside them


@pytest.mark.long
def test_a_pipeline_cuts_a_long_text_and_knows_the_labels(exported: Path, finished_run: Path) -> None:
    config = read_json(exported / "config.json")
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
    succeed("evaluate", str(exported / file), *corpus, folder=tmp_path)
    (found,) = tmp_path.glob("outputs/*/*/predictions.parquet")
    own = pd.read_parquet(finished_run / "predictions.parquet")
    theirs = pd.read_parquet(found)
    assert list(theirs["id"]) == list(own["id"])  # cleaned alike, by what config.json says
    assert (theirs["student"] == own["student"]).mean() >= (0.9 if eight_bits else 1)
    ours, runs = (
        [json.loads(line) for line in succeed("predict", str(model), *TEXTS, "--all", folder=tmp_path).splitlines()]
        for model in (exported / file, finished_run)
    )
    assert (
        read_json(exported / "config.json")["calibrated"]
        == read_json(finished_run / "student/config.json")["calibrated"]
    )
    for one, other in zip(ours, runs, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=0.05 if eight_bits else 2e-4)
        assert one["probability"] == pytest.approx(max(one["probabilities"].values()), abs=1e-6)


@pytest.mark.long
def test_the_card_says_what_it_is_and_nothing_of_this_machine(exported: Path, finished_run: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert card.data.language == ["en", "de"]
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "text-classification"
    scores = read_json(finished_run / "metrics.json")["models"]["student"]["languages"]
    stated = {(one.dataset_config, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert stated == {(lang, name): value for lang, each in scores.items() for name, value in each.items()}
    headings = ["good it is", "far to trust it", "it was made", "to use it", "to cite"]
    for heading in ("Labels", "Limits", *(f"How {heading}" for heading in headings)):
        assert f"## {heading}" in card.text
    assert "`light`, `music`, `weather`" in card.text
    low, high = read_json(exported / "export.json")["models"]["student"]["reliability"]["de"]["interval"]
    assert f"| {100 * low:.1f}–{100 * high:.1f} |" in card.text
    for name in ("README.md", "config.json", "tokenizer_config.json"):
        assert str(finished_run.parent) not in (exported / name).read_text("utf-8"), name
    config = read_json(exported / "config.json")["distilingua"]
    assert config["cleaning"]["url"] == "<link>"
    assert "corpus=files" in config["overrides"]
    assert not [item for item in config["overrides"] if "/" in item]


# --- students of every kind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        pytest.param(kind, form, id=f"{kind}-{type(form).__name__}", marks=marks)
        for kind in KINDS
        for form, marks in ((Hub(), ()), (Onnx("onnx/model.onnx"), pytest.mark.long))
        if kind != "translation" or isinstance(form, Hub)  # see below
    ],
)
def test_students_of_every_kind_answer_alike_once_exported(kind: str, form: Format, kept: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, encoder, rows = KINDS[kind](kept)
    if kind == "factorised":
        assert isinstance(model.get_input_embeddings(), FactorisedEmbedding)
    own = Predictor(lambda: model, encoder).predict(rows, "").answers
    student = Student(lambda: copy.deepcopy(model), encoder, rows, 1)  # formats may change what they get
    assert form.check(encoder.task) is None
    made = form.write(student, tmp_path)
    student.load_plain().config.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    theirs = predictor_of(open_exported("it", made), encoder.task).predict(rows, "").answers
    for a, b in zip(own, theirs, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-3 if kind == "speech" else 1e-5, equal_nan=True)
    assert not list(tmp_path.rglob("*.data"))


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


# --- where it goes ----------------------------------------------------------------------------------------------------


def test_everything_but_logs_is_uploaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the hub's own client, up to what it would send."""
    made: list[Any] = []
    uploaded: dict[str, dict[str, bytes]] = {}

    def commit(_: HfApi, repo_id: str, operations: list[CommitOperationAdd], **more: Any) -> None:
        uploaded[repo_id] = {one.path_in_repo: Path(str(one.path_or_fileobj)).read_bytes() for one in operations}

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, exist_ok: made.append((name, exist_ok)) or f"hub/{name}")
    monkeypatch.setattr(HfApi, "create_commit", commit)
    monkeypatch.setattr(HfApi, "_validate_yaml", lambda *_, **__: None)  # of the card, which it asks the hub for
    names = ("config.json", "README.md", "model.safetensors", "onnx/model_quantized.onnx")
    files = {name: name.encode() for name in names}
    for name, content in {**files, "export.log": b"not for others"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    publish("org/name", tmp_path)
    assert made == [("org/name", True)]
    assert uploaded == {"org/name": files}
    assert "Uploaded to hub/org/name" in capsys.readouterr().out


# --- figures ----------------------------------------------------------------------------------------------------------


def test_parity_and_changed_decisions() -> None:
    def judged(told: list[str], *answers: torch.Tensor) -> Evaluation:
        return Evaluation({}, [], [], told, [], Predictions(list(answers), [], []))

    zero = torch.zeros(1, 2)
    one = {"en": judged(["a", "b"], zero, zero), "de": judged(["a", "a"], zero, zero)}
    other = {"en": one["en"], "de": judged(["a", "b"], zero, torch.tensor([[0.25, -0.5]]))}
    assert parity(other, one) == 0.5
    assert changed(other, one) == 0.25
    assert parity(one, one) == changed(one, one) == 0
    pieces = {"en": judged(["a"], torch.tensor([1, 2]))}
    assert parity(pieces, pieces) is None
