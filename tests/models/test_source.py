"""Teachers that are not what they seem: heads that are missing, positions, classes of another name, pooling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from distilingua.checks import check
from distilingua.corpora.hub import Hub
from distilingua.data.protocol import Pair
from distilingua.delivery.model import find
from distilingua.delivery.runtime import predictor_of
from distilingua.errors import UserError
from distilingua.models.pretrained import Pretrained
from distilingua.models.source import TeacherSource
from distilingua.models.teacher import FrozenTeacher, load_model, load_tokenizer
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.text_classification import TextClassification, as_name
from tests.conftest import Compose
from tests.models.conftest import configure
from tests.small_jobs import train

LABELS = ["light", "music", "weather"]


def names(*spelt: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(spelt)), "label2id": {name: i for i, name in enumerate(spelt)}}


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(TeacherSource(str(folder)))


def of_topics() -> TextClassification:
    return TextClassification().fit_labels(LABELS)


# --- weights that are not there ---------------------------------------------------------------------------------------


def test_an_encoder_without_a_head_does_not_know_the_task(tiny_run: Compose, teacher_folder: Path) -> None:
    tokenizer = tokenizer_of(teacher_folder)
    AutoModel.from_pretrained(teacher_folder).save_pretrained(teacher_folder)
    configure(teacher_folder, **names(*LABELS))
    cfg = tiny_run("teacher.fine_tune=null")
    with pytest.raises(UserError, match=r"it has no classifier\.bias, classifier\.weight.*answers would be random"):
        train(cfg)
    assert not list(Path(cfg.paths.cache).glob("direct/*/config.json"))  # told before anything was trained
    load_model(teacher_folder, of_topics(), tokenizer)  # who will be taught may lack it


def test_so_does_a_head_of_another_task_or_size(teacher_folder: Path) -> None:
    tokenizer = tokenizer_of(teacher_folder)
    with pytest.raises(UserError, match=r"it has no qa_outputs\.bias.*task=answers"):
        load_model(teacher_folder, QuestionAnswering(max_length=64, stride=16), tokenizer, complete=True)
    with pytest.raises(UserError, match=r"it has no classifier\.bias"):
        load_model(teacher_folder, TextClassification().fit_labels([*LABELS, "x"]), tokenizer, complete=True)


def test_a_whole_teacher_is_loaded(teacher_folder: Path) -> None:
    load_model(teacher_folder, of_topics(), tokenizer_of(teacher_folder), complete=True)


def test_a_tokenizer_of_another_model_is_refused(teacher_folder: Path) -> None:
    other = train_tokenizer([f"word{n} other{n}" for n in range(400)], 300)
    assert len(other) > 120
    other.save_pretrained(teacher_folder)
    task = of_topics()
    with pytest.raises(UserError, match=r"tokenizer has \d+ pieces and the model knows \d+"):
        load_model(teacher_folder, task, tokenizer_of(teacher_folder))
    student = Pretrained(str(teacher_folder))
    with pytest.raises(UserError, match=r"student\.path=.*do not belong together"):
        student.model(task, student._tokenizer)


def test_a_folder_without_a_tokenizer_is_not_given_one(teacher_folder: Path) -> None:
    """By transformers it is, with special pieces alone, to which every word is unknown."""
    for file in teacher_folder.glob("*token*"):
        file.unlink()
    given = str(teacher_folder)
    for read in (
        lambda: load_tokenizer(TeacherSource(given)),
        lambda: Pretrained(given)._tokenizer,
        lambda: predictor_of(find(given), TextClassification()),
    ):
        with pytest.raises(UserError, match="there is no tokenizer beside the model"):
            read()


def test_a_teacher_in_half_precision_is_taught_in_full(teacher_folder: Path) -> None:
    task = of_topics()
    AutoModelForSequenceClassification.from_pretrained(teacher_folder).half().save_pretrained(teacher_folder)
    model = load_model(teacher_folder, task, tokenizer_of(teacher_folder))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "positions"), [("bert", 64), ("xlm-roberta", 62)])
def test_texts_beyond_a_teacher_s_positions_are_refused_before_it_is_loaded(
    compose_run: Compose, teacher_folder: Path, kind: str, positions: int
) -> None:
    configure(teacher_folder, model_type=kind, pad_token_id=1)
    options = ("teacher=local", f"teacher.path={teacher_folder}", "teacher.languages=[en]")
    check(compose_run(*options, f"task.max_length={positions}"))
    message = rf"task\.max_length={positions + 1} is more than the teacher's {positions} positions"
    with pytest.raises(UserError, match=message):
        check(compose_run(*options, f"task.max_length={positions + 1}"))


def cut(name: str) -> Callable[[Path], None]:
    def half(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return half


def put(name: str, content: str, instead: str = "") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / (instead or name)).unlink(missing_ok=True)
        (folder / name).write_text(content)

    return write


def with_config(**config: Any) -> Callable[[Path], None]:
    return lambda folder: configure(folder, **config)


MYSTERY = {"model_type": "mystery", "auto_map": {"AutoConfig": "x.Y", "AutoModelForSequenceClassification": "x.Z"}}
INDEX = '{"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}'
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n"
FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "code of its own": (with_config(**MYSTERY), "it has code of its own, which is not run here"),
    "kind": (with_config(model_type=3), "does not recognize this architecture"),
    "no kind": (with_config(model_type=None), "cannot load or ask this model"),
    "shape": (with_config(hidden_size="x"), "hidden_size"),
    "heads": (with_config(num_attention_heads=5), "not a multiple of the number of attention heads"),
    "positions": (with_config(max_position_embeddings="many"), "cannot load or ask this model"),
    "list": (put("config.json", "[]"), r"config\.json is damaged \(it is no object\)"),
    "half a config": (cut("config.json"), r"config\.json is damaged"),
    "half the weights": (cut("model.safetensors"), r"model\.safetensors is damaged \(it has \d+ bytes of \d+\)"),
    "no weights": (put("model.safetensors", ""), r"model\.safetensors is damaged \(it has no whole header\)"),
    "git-lfs": (put("model.safetensors", LFS), r"model\.safetensors is damaged .*git lfs pull"),
    "pickle": (put("pytorch_model.bin", "x" * 99, "model.safetensors"), "holds more than weights, or none"),
    "no shard": (put("model.safetensors.index.json", INDEX, "model.safetensors"), "model-00001-of-00001"),
    "half an index": (put("model.safetensors.index.json", '{"m', "model.safetensors"), r"index\.json is damaged"),
    "half a tokenizer": (cut("tokenizer.json"), r"tokenizer\.json is damaged"),
    "half of its settings": (cut("tokenizer_config.json"), r"tokenizer_config\.json is damaged"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "cannot load or ask this model"),
}


@pytest.mark.parametrize("damage", list(FOREIGN))
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_foreign_folder_is_told_by_file(
    teacher_folder: Path, tmp_path: Path, damage: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever transformers, tokenizers, safetensors or torch raise; and nobody is asked whether to run its code."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    task = TextClassification("intent", max_length=64).fit_labels(LABELS)

    def load() -> None:
        if role == "teacher":
            source = TeacherSource(str(teacher_folder))
            source.check(64)
            load_model(source.location, task, load_tokenizer(source), complete=True)
        else:
            student = Pretrained(str(teacher_folder))
            student.check(64)
            student.model(task, student.tokenizer(Dataset.from_dict({}), tmp_path))

    load()  # while it is whole
    spoil, message = FOREIGN[damage]
    spoil(teacher_folder)
    with pytest.raises(UserError, match=rf"^{role}\.path={teacher_folder}: .*{message}"):
        load()


@pytest.mark.parametrize("modules", ["[{", "[3]", '[{"type": 3}]', '[{"type": "x.Pooling", "path": "nowhere"}]'])
def test_so_is_a_folder_of_sentence_transformers(teacher_folder: Path, modules: str) -> None:
    (teacher_folder / "modules.json").write_text(modules)
    with pytest.raises(UserError, match=rf"^teacher\.path={teacher_folder}: "):
        _ = TeacherSource(str(teacher_folder)).pooling


def test_a_config_that_is_damaged_is_named(compose_run: Compose, teacher_folder: Path) -> None:
    (teacher_folder / "config.json").write_text('{"model_type": "be')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        check(compose_run("teacher=local", f"teacher.path={teacher_folder}"))


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "advice"),
    [
        (["music", "light", "weather"], r"task\.order=\[music,light,weather\]"),
        (["Light", "MUSIC", "weather"], r"'teacher\.labels=\{Light: light, MUSIC: music, weather: weather\}'"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], r"'teacher\.labels=\{LABEL_0: …, LABEL_1: …, LABEL_2: …\}'"),
    ],
)
def test_other_names_or_orders_are_told_what_to_type(
    tiny_run: Compose, teacher_folder: Path, own: list[str], advice: str
) -> None:
    configure(teacher_folder, **names(*own))
    with pytest.raises(UserError, match=advice):
        train(tiny_run("teacher.fine_tune=null"))


@pytest.mark.long
def test_what_was_advised_works(tiny_run: Compose, teacher_folder: Path) -> None:
    configure(teacher_folder, **names("LABEL_0", "LABEL_1", "LABEL_2"))
    spelt = "{LABEL_0: light, LABEL_1: music, LABEL_2: weather}"
    small = ("teacher.fine_tune=null", "training.epochs=1")
    cfg = tiny_run(*small, f"teacher.labels={spelt}")
    check(cfg)
    assert train(cfg)["models"]["teacher"]["languages"]["en"]["accuracy"] >= 0
    configure(teacher_folder, **names("music", "light", "weather"))
    other = f"paths.run={teacher_folder.parent / 'other'}"
    train(tiny_run(*small, other, "+task.order=[music,light,weather]"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"LABEL_9": "light"}, r"teacher\.labels names LABEL_9; the model's own classes are light, music, weather"),
        ({"light": "x", "music": "x"}, r"teacher\.labels gives several classes the name x"),
    ],
)
def test_a_map_of_classes_that_cannot_be(teacher_folder: Path, labels: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TeacherSource(str(teacher_folder), labels=labels).check()


# --- names that YAML takes for something else -------------------------------------------------------------------------


def test_norwegian_is_a_language() -> None:
    assert Pair("en", [False, "de"]).targets == ["no", "de"]  # type: ignore[list-item]
    assert Pair(False, ["de"]).languages == ["no", "de"]  # type: ignore[arg-type]


def test_norwegian_is_read_too() -> None:
    assert TeacherSource("x", languages=["en", False]).languages == ["en", "no"]  # type: ignore[list-item]
    hub = Hub("x", {False: "nb", "en": "en"}, {"text": "text"})  # type: ignore[dict-item]
    hub.check(["en", "no"])


def test_an_order_of_numbers_and_truths_names_classes() -> None:
    assert TextClassification(order=[3, 2, 1]).fit_labels(["1", "2", "3"]).labels == ["3", "2", "1"]  # type: ignore[list-item]
    assert TextClassification(order=[True, False]).fit_labels(["no", "yes"]).labels == ["yes", "no"]  # type: ignore[list-item]
    assert as_name(False, ["on", "Off"]) == "Off"
    with pytest.raises(UserError, match=r"task\.order=3,2: the labels are 1, 2, 3"):
        TextClassification(order=[3, 2]).fit_labels(["1", "2", "3"])  # type: ignore[list-item]


# --- sentence vectors -------------------------------------------------------------------------------------------------


def pooled_as(folder: Path, settings: dict[str, Any], *more: str) -> None:
    kinds = ["models.Transformer", "models.Pooling", *more]
    modules = [
        {"idx": n, "name": str(n), "path": "" if n == 0 else f"{n}_Pooling", "type": f"sentence_transformers.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **settings}))


@pytest.mark.parametrize(
    ("settings", "more", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ["models.Normalize"], "mean"),
        ({"pooling_mode_cls_token": True}, [], "cls"),
        ({"pooling_mode": "cls"}, [], "cls"),
        ({"pooling_mode": "lasttoken"}, [], "lasttoken"),
        ({"pooling_mode_max_tokens": True}, [], "pooling_mode_max_tokens"),
        ({"pooling_mode_mean_tokens": True}, ["models.Dense"], "Dense"),
    ],
)
def test_a_folder_of_sentence_transformers_says_how_it_pools(
    tiny_run: Compose, teacher_folder: Path, settings: dict[str, Any], more: list[str], expected: str
) -> None:
    pooled_as(teacher_folder, settings, *more)
    assert TeacherSource(str(teacher_folder)).pooling == expected
    cfg = tiny_run("objective=custom", "objective/terms=[kl,ce,embedding]")
    if expected in ("mean", "cls"):
        check(cfg)
    else:
        with pytest.raises(UserError, match=f"makes sentence vectors by {expected}, and embedding can compare means"):
            check(cfg)
        check(tiny_run("objective=custom", "objective/terms=[kl,ce,hidden]"))  # which pools as its YAML says


def test_a_teacher_s_first_piece_is_its_vector(teacher_folder: Path) -> None:
    from distilingua.distillation.losses.embedding import SentenceEmbedding
    from distilingua.distillation.signals import Signals

    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    inputs = {"input_ids": torch.tensor([[2, 9, 3, 0], [2, 8, 7, 3]]), "attention_mask": torch.ones(2, 4).long()}
    inputs["attention_mask"][0, 3] = 0
    losses = {}
    for pooling in ("mean", "cls"):
        output, layers = FrozenTeacher(model, {"hidden", "vector"}, pooling)(inputs)
        read = torch.tensor([True, True])
        signals = Signals(output.logits, output.logits, torch.tensor([-100, -100]), read, 2)
        signals.student_layers = FrozenTeacher(model, {"vector"})(inputs)[1]
        signals.teacher_layers = layers
        losses[pooling] = float(SentenceEmbedding()(signals, 1.0))
        hidden = layers.hidden[-1]  # type: ignore[union-attr]
    mean = torch.stack([hidden[0, :3].mean(0), hidden[1].mean(0)])
    assert losses["mean"] == pytest.approx(0, abs=1e-9)
    assert losses["cls"] == pytest.approx(float((mean - hidden[:, 0]).square().mean()), rel=1e-4)
