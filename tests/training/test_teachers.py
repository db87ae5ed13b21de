"""Teachers of every kind: decoders, other precisions, several at once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from distilingua.checks import check
from distilingua.columns import Ragged
from distilingua.errors import UserError
from distilingua.models.folder import read_json
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.models.teacher import in_precision, load_model, load_tokenizer
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.pieces import pad
from distilingua.tasks.text_classification import TextClassification
from tests.conftest import Compose, with_names
from tests.small_jobs import train

LABELS = ["light", "music", "weather"]
TEXTS = ["the light in room 3", "please check the music of floor 12", "rain number 7 now", "lamp"]
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "qwen2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    },
}


@pytest.fixture(params=list(DECODERS))
def decoder_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A decoder as it is published: without a head for the task, and without a padding piece."""
    from transformers import AutoModelForCausalLM

    learnt = train_tokenizer(TEXTS * 3, 80)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learnt.backend_tokenizer, eos_token="</s>", unk_token="<unk>")
    assert tokenizer.pad_token is None
    torch.manual_seed(0)
    ids = {"bos_token_id": 3, "eos_token_id": 3, "pad_token_id": None}
    config = AutoConfig.for_model(request.param, vocab_size=len(tokenizer) + 8, **ids, **DECODERS[request.param])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


def answers(model: PreTrainedModel, task: TextClassification, ids: list[list[int]], pad_id: int) -> torch.Tensor:
    with torch.no_grad():
        return task.cells(model.eval()(**pad(Ragged.of(ids), pad_id)), None)


def test_a_decoder_answers_the_same_in_a_padded_batch(decoder_folder: Path) -> None:
    task = TextClassification().fit_labels(LABELS)
    tokenizer = load_tokenizer(TeacherSource(str(decoder_folder)))
    model = load_model(decoder_folder, task, tokenizer)
    ids = [row["input_ids"] for row in task.encode({"text": TEXTS, "text_pair": [""] * 4}, tokenizer, "")]
    together = answers(model, task, ids, tokenizer.pad_token_id)
    for n, one in enumerate(ids):
        assert torch.allclose(answers(model, task, [one], tokenizer.pad_token_id)[0], together[n], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.long
def test_a_decoder_teaches(tiny_run, decoder_folder: Path) -> None:  # type: ignore[no-untyped-def]
    """The whole job, with the name `embeddings` that no decoder has."""
    cfg = tiny_run(f"teacher.path={decoder_folder}", "teacher.fine_tune.freeze=[embeddings]", "training.epochs=1")
    check(cfg)
    metrics = train(cfg)
    assert metrics["models"]["teacher"]["languages"]["en"]["accuracy"] > 0.6  # three classes, embeddings still random


@pytest.mark.parametrize(("precision", "close"), [("32", 0.0), ("bf16", 0.05), ("int8", 0.2)])
def test_a_cheaper_precision_decides_alike(teacher_folder: Path, precision: str, close: float) -> None:
    task = TextClassification().fit_labels(LABELS)
    source = TeacherSource(str(teacher_folder), precision=precision)
    source.check()
    tokenizer = load_tokenizer(source)
    exact = load_model(teacher_folder, task, tokenizer)
    ids = [row["input_ids"] for row in task.encode({"text": TEXTS, "text_pair": [""] * 4}, tokenizer, "")]
    expected = answers(exact, task, ids, tokenizer.pad_token_id)
    found = answers(in_precision(exact, precision), task, ids, tokenizer.pad_token_id)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= close * expected.abs().max()
    assert precision == "32" or not torch.equal(found, expected)


def test_an_unknown_precision_is_refused(teacher_folder: Path) -> None:
    with pytest.raises(UserError, match=r"teacher\.precision=fp4 is not known. Choose one of: 32, bf16, 16, int8"):
        TeacherSource(str(teacher_folder), precision="fp4").check()
    with pytest.raises(UserError, match=r"teacher\.store_dtype=int1 is not known"):
        TeacherSource(str(teacher_folder), store_dtype="int1").check()
    with pytest.raises(UserError, match="keep at least 1 class"):
        TeacherSource(str(teacher_folder), store_top_k=0).check()


@pytest.mark.long
@pytest.mark.parametrize("option", ["precision=int8", "store_dtype=float16", "store_top_k=2"])
def test_a_run_with_each_option(next_run, option: str) -> None:  # type: ignore[no-untyped-def]
    metrics = train(next_run(f"teacher.{option}"))
    assert metrics["models"]["student"]["languages"]["de"]["accuracy"] > 0.8
    assert metrics["models"]["teacher"]["parameters"] > 10_000  # int8 weights count too


def ensemble(cfg: Any, teacher_folder: Path, german: list[str] | None, **settings: Any) -> Any:
    """Two teachers, the second with a folder and languages of its own."""
    other = teacher_folder.with_name("other")
    shutil.copytree(teacher_folder, other)
    first = OmegaConf.to_container(cfg.teacher)
    second = {**first, "path": str(other), "languages": german}  # type: ignore[dict-item]
    OmegaConf.set_struct(cfg, False)
    cfg.teacher = {
        "_target_": "distilingua.models.source.Ensemble",
        "teachers": {"first": first, "second": second},
        "weights": {"first": 1.0, "second": 3.0},
        "experts": False,
        **settings,
    }
    return cfg


@pytest.mark.long
def test_two_teachers_answer_as_one(tiny_run, teacher_folder: Path) -> None:  # type: ignore[no-untyped-def]
    cfg = ensemble(tiny_run("training.epochs=1"), teacher_folder, None)
    check(cfg)
    metrics = train(cfg)
    assert metrics["models"]["teacher"]["languages"]["en"]["accuracy"] > 0.9
    single = train(tiny_run("training.epochs=1", f"paths.run={teacher_folder.parent / 'single'}"))
    assert metrics["models"]["teacher"]["parameters"] == 2 * single["models"]["teacher"]["parameters"]
    assert len(list((Path(cfg.paths.cache) / "soft_labels").glob("*/logits.npy"))) == 2  # the single one is shared
    assert set(metrics["dev"]["agreement"]) == {"en", "de"}


def test_experts_answer_for_their_own_language_only(tiny_run, teacher_folder: Path) -> None:  # type: ignore[no-untyped-def]
    from hydra.utils import instantiate

    from distilingua.data.rows import load_rows

    cfg = ensemble(tiny_run(), teacher_folder, ["de"], experts=True)
    source: Ensemble = instantiate(cfg.teacher, _convert_="all")
    assert source.languages == ["de", "en"]
    rows = load_rows(
        instantiate(cfg.corpus), instantiate(cfg.cleaning), instantiate(cfg.pair), source.languages, source.panel
    )
    for row in with_names(rows.train, rows.table):
        assert row["teacher_rows"] == ([row["id"], ""] if row["lang"] == "en" else ["", row["id"]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weights": {"first": 1.0}},
            r"every teacher needs a weight above 0. Try teacher.weights=\{first:1,second:1\}",
        ),
        ({"weights": {"first": 1.0, "second": 0.0}}, "every teacher needs a weight above 0"),
        ({"teachers": {}}, "fewer than two"),
    ],
)
def test_what_an_ensemble_refuses(tiny_run, teacher_folder: Path, change: dict[str, Any], message: str) -> None:  # type: ignore[no-untyped-def]
    cfg = ensemble(tiny_run(), teacher_folder, None, **change)
    with pytest.raises(UserError, match=message):
        check(cfg)


def test_several_teachers_need_stores_and_single_sentences(tiny_run, teacher_folder: Path) -> None:  # type: ignore[no-untyped-def]
    cfg = ensemble(tiny_run("pair.align=block"), teacher_folder, None)
    with pytest.raises(UserError, match="several teachers each read one sentence"):
        check(cfg)
    cfg.pair.align = "sentence"
    cfg.teacher.teachers.second.store = False
    with pytest.raises(UserError, match=r"teacher.teachers.second.store=false: several teachers answer from stores"):
        check(cfg)


@pytest.mark.parametrize(("kind", "moved"), [("probe", set()), ("lp_ft", {"1"})])
def test_a_teacher_that_begins_as_a_probe_keeps_its_lower_layers(
    tiny_run: Compose, tmp_path: Path, kind: str, moved: set[str]
) -> None:
    """Embeddings and half of the layers are those of the published encoder; its head reads the task."""
    folder = tmp_path / "two_layers"
    config = BertConfig.from_pretrained(tiny_run().teacher.path, num_hidden_layers=2)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_run().teacher.path).save_pretrained(folder)
    epochs = f"teacher.fine_tune.epochs={4 if moved else 'null'}"
    more = "training.epochs=1", "teacher.fine_tune.freeze=[embeddings]", epochs
    cfg = tiny_run(f"teacher.path={folder}", f"teacher/fine_tune={kind}", *more)
    metrics = train(cfg)
    assert metrics["models"]["teacher"]["languages"]["en"]["accuracy"] > 0.5
    (kept,) = Path(cfg.paths.cache).glob("teachers/*/model.safetensors")
    before = load_file(folder / "model.safetensors")
    after = {name.removeprefix("encoder."): weight for name, weight in load_file(kept).items()}
    changed = {name for name, weight in before.items() if not after[name].equal(weight)}
    assert {name.split(".")[2] for name in changed if name.startswith("encoder.layer.")} == moved
    assert all(name.startswith(("encoder.layer.", "pooler")) for name in changed)
    assert read_json("teacher", kept.parent / "config.json")["calibrated"] > 0
    cfg = tiny_run(f"teacher.path={folder}", f"teacher/fine_tune={kind}", "teacher.fine_tune.probe.freeze=2")
    with pytest.raises(UserError, match=r"teacher\.fine_tune\.probe\.freeze=2 is outside \[0, 1\]"):
        check(cfg)
