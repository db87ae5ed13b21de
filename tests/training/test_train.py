"""The main job, whole: at tiny scale on files, and with the embedded corpus and teacher."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilingua.checks import check
from distilingua.console import Printer
from distilingua.errors import UserError
from distilingua.monitoring.tables import results_table
from distilingua.training.job import dry_run
from distilingua.training.student import train_direct
from distilingua.training.teacher import train_teacher
from distilingua.training.train import worse_than_alone
from tests.conftest import Compose, tiny_in
from tests.small_jobs import prepare, train


@pytest.fixture(scope="module")
def finished(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DictConfig, dict[str, Any]]:
    """One run for all that look at it."""
    cfg = tiny_in(tmp_path_factory.mktemp("finished"), kept / "data", kept / "teacher")
    check(cfg)
    return cfg, train(cfg)


@pytest.fixture
def beside(finished, tmp_path: Path) -> DictConfig:  # type: ignore[no-untyped-def]
    """The settings of that run for another one, with what it left in the cache."""
    again = finished[0].copy()
    again.paths.run, again.paths.cache = str(tmp_path / "again"), str(tmp_path / "cache")
    shutil.copytree(finished[0].paths.cache, again.paths.cache)
    return again


def test_distillation_transfers_what_no_label_said(finished) -> None:  # type: ignore[no-untyped-def]
    """German, of which no label was seen: the student learns it from the teacher, the baseline cannot."""
    _, metrics = finished
    german = {name: model["languages"]["de"]["accuracy"] for name, model in metrics["models"].items()}
    assert metrics["models"]["teacher"]["languages"]["en"]["accuracy"] > 0.9
    assert german["student"] > 0.8
    assert german["student"] > german["direct"] + 0.2
    assert metrics["soft_labels"]["de"] > 0.9


def test_metrics_file_has_the_promised_shape(finished) -> None:  # type: ignore[no-untyped-def]
    cfg, metrics = finished
    assert json.loads((Path(cfg.paths.run) / "metrics.json").read_text()) == metrics
    assert (metrics["task"], metrics["pair"], metrics["protocol"], metrics["seed"]) == (
        "intent",
        "en-de",
        "zero_shot",
        1,
    )
    assert set(metrics["models"]) == {"teacher", "direct", "student"}
    for model in metrics["models"].values():
        assert set(model) == {"parameters", "bytes", "latency_ms", "latency_ratio", "languages", "reliability"}
        assert model["parameters"] * 4 <= model["bytes"] < model["parameters"] * 4 + 20_000  # fp32 and a header
        assert model["latency_ms"] > 0
        for scores in model["languages"].values():
            assert set(scores) == {"accuracy", "precision", "recall", "f1"}
    assert {"mean", "worst_language", "worst"} <= set(metrics["retention"])
    assert metrics["retention"]["mean"] == metrics["retention"]["worst"] == metrics["retention"]["languages"]["de"]
    assert set(metrics["seconds"]) == {"data", "teacher", "soft_labels", "direct", "student", "evaluation"}


def test_what_scores_are_read_against_stands_beside_them(finished) -> None:  # type: ignore[no-untyped-def]
    """Of the files that `predictions.parquet` and the corpus are, worked out anew."""
    cfg, metrics = finished
    told = pd.read_parquet(Path(cfg.paths.run) / "predictions.parquet")
    german = told[told["lang"] == "de"]
    ceiling, floor = (metrics["yardsticks"][name] for name in ("teacher, aligned text", "majority class"))
    assert set(ceiling["languages"]) == {"de"}  # English, the teacher reads
    aligned = german[german["teacher_text"] != german["text"]]
    assert ceiling["rows"] == {"de": [len(aligned), len(german)]}
    right = (aligned["teacher"] == aligned["truth"]).mean()
    assert ceiling["languages"]["de"]["accuracy"] == pytest.approx(right, abs=1e-4)
    assert metrics["models"]["teacher"]["languages"]["de"]["accuracy"] < right  # on text that it does not read
    low, high = ceiling["reliability"]["de"]["interval"]
    assert low <= right <= high
    for lang in ("en", "de"):
        truth = told.loc[told["lang"] == lang, "truth"]
        scores, shares = floor["languages"][lang], truth.value_counts(normalize=True)
        assert any(scores["accuracy"] == pytest.approx(share, abs=1e-4) for share in shares)
        assert scores["recall"] == pytest.approx(1 / 3, abs=1e-4)  # of three classes, one is always found
    printer = Printer()
    with printer.capture() as shown:
        printer.print_whole(results_table(metrics))
    lines = shown.get().splitlines()
    names = re.findall(r"^ (?:en|de|  ) +([a-z]\S*(?:,? [a-z(]\S*)*)", "\n".join(lines), re.M)
    assert [name.partition(" (")[0] for name in names[-5:]] == [
        *("teacher", "teacher, aligned text", "direct transfer", "distilled", "majority class")
    ]
    no_models = [line for line in lines if "majority class" in line or "aligned text" in line]
    assert len(no_models) == 3
    assert not re.search(r"\dM ", "".join(no_models))  # neither size nor speed


def test_the_student_is_a_plain_transformers_folder(finished) -> None:  # type: ignore[no-untyped-def]
    cfg, metrics = finished
    folder = Path(cfg.paths.run) / "student"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = model(**tokenizer("bitte prüfe Wetter im Stock 7", return_tensors="pt")).logits.argmax().item()
    assert model.config.id2label[answer] == "weather"
    assert sum(p.numel() for p in model.parameters()) == metrics["models"]["student"]["parameters"]


def test_tensorboard_holds_curves_figures_tables_and_hyperparameters(finished) -> None:  # type: ignore[no-untyped-def]
    cfg, _ = finished
    folder = Path(cfg.paths.run) / "tensorboard"
    events = EventAccumulator(str(folder / "student")).Reload()
    scalars = set(events.Tags()["scalars"])
    wanted = {
        *("train/loss", "train/loss/kl", "train/loss/ce", "train/weight/kl", "train/weight/ce", "train/temperature"),
        *("train/sentences_per_second", "lr-AdamW", "dev/en/accuracy", "dev/de/accuracy", "dev/de/f1"),
        *("test/en/accuracy", "test/de/accuracy", "retention/mean"),
    }
    assert wanted <= scalars
    assert {"confusion/en", "confusion/de"} <= set(events.Tags()["images"])
    assert "disagreements/de/text_summary" in events.Tags()["tensors"]
    assert any("_hparams_" in tag for tag in events.summary_metadata)
    assert (folder / "teacher").is_dir()
    assert (folder / "direct").is_dir()


def test_a_second_run_reuses_teacher_and_baseline_and_repeats_the_result(finished, beside: DictConfig) -> None:  # type: ignore[no-untyped-def]
    second = train(beside)
    assert second["models"]["student"]["languages"] == finished[1]["models"]["student"]["languages"]
    assert not (Path(beside.paths.run) / "tensorboard/teacher").exists()  # nothing was trained there
    assert not (Path(beside.paths.run) / "tensorboard/direct").exists()
    assert len(list((Path(beside.paths.cache) / "teachers").glob("*/config.json"))) == 1


@pytest.mark.long
def test_another_seed_is_another_teacher(beside: DictConfig) -> None:
    beside.seed = 2
    job = prepare(beside)
    train_teacher(job, "teacher", job.source.members["teacher"])
    assert len(list((Path(beside.paths.cache) / "teachers").glob("*/config.json"))) == 2


def test_direct_transfer_loads_no_teacher(tiny_run) -> None:  # type: ignore[no-untyped-def]
    cfg = tiny_run("objective=direct", "training.epochs=1")
    metrics = train(cfg)
    assert set(metrics["models"]) == {"direct", "student"}
    assert metrics["retention"] == {}
    assert not (Path(cfg.paths.cache) / "teachers").exists()
    assert (Path(cfg.paths.run) / "student/model.safetensors").exists()  # and not in the cache alone


def test_without_a_teacher_the_objective_that_is_typed_is_trained(tiny_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The plain one is what a run with a teacher has for its baseline; others are models of their own."""
    found = {}
    for name, typed in {
        "baseline": ["objective=kd"],
        "plain": ["objective=direct"],
        "smoothed": ["objective=direct", "objective.terms.ce.label_smoothing=0.9"],
        "weighed": ["objective=direct", "objective.terms.ce.weight=0.5"],
    }.items():
        cfg = tiny_run(*typed, "training.epochs=1", "teacher.languages=null")
        cfg.paths.run = str(tmp_path / name)
        job = prepare(cfg)
        train_direct(job)
        found[name] = {folder.name for folder in (Path(cfg.paths.cache) / "direct").iterdir() if folder.is_dir()}
    assert found["baseline"] == found["plain"] < found["smoothed"] < found["weighed"]


@pytest.mark.long
@pytest.mark.parametrize(("protocol", "epochs"), [("translate_train", 12), ("few_shot", 12), ("supervised", 4)])
def test_protocols(next_run, protocol: str, epochs: int) -> None:  # type: ignore[no-untyped-def]
    metrics = train(next_run(f"pair.protocol={protocol}", "pair.shots=10", f"training.epochs={epochs}"))
    assert metrics["protocol"] == protocol
    assert metrics["models"]["direct"]["languages"]["de"]["accuracy"] > 0.6  # now the baseline sees German labels too


@pytest.mark.long
def test_block_alignment_and_live_teacher(next_run) -> None:  # type: ignore[no-untyped-def]
    live = train(next_run("teacher.store=false", "training.epochs=1"))
    assert set(live["models"]) == {"teacher", "direct", "student"}
    with pytest.raises(UserError, match=r"teacher\.store=true"):
        check(next_run("pair.align=block", "teacher.store=false"))


def test_a_teacher_whose_labels_are_in_another_order_is_refused(tiny_run, teacher_folder) -> None:  # type: ignore[no-untyped-def]
    config = json.loads((teacher_folder / "config.json").read_text())
    config["id2label"] = {"0": "weather", "1": "music", "2": "light"}
    config["label2id"] = {"weather": 0, "music": 1, "light": 2}
    (teacher_folder / "config.json").write_text(json.dumps(config))
    cfg = tiny_run("teacher.fine_tune=null")
    with pytest.raises(UserError, match=r"its labels are weather, music, light.*the corpus has light, music, weather"):
        train(cfg)
    assert not (Path(cfg.paths.run) / "student").exists()


@pytest.mark.parametrize(
    ("terms", "option", "message"),
    [
        ("attention", "attention.layers=null", "attention compares piece by piece, and in .* rows teacher and student"),
        ("hidden", "hidden.pool=pieces", "Set objective.terms.hidden.pool=mean"),
        ("hidden", "hidden.layers={9: 1}", "the student has no layer 9"),
        ("minilm", "minilm.relation_heads=7", "relation_heads=7 does not divide"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused_before_anything_trains(
    next_run: Compose, terms: str, option: str, message: str
) -> None:
    live = ("objective=custom", f"objective/terms=[ce,{terms}]", f"objective.terms.{option}", "teacher.store=false")
    cfg = next_run(*live)
    check(cfg)
    with pytest.raises(UserError, match=message):
        train(cfg)
    assert not (Path(cfg.paths.run) / "checkpoints").exists()


def test_texts_that_are_cut_are_counted(next_run: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    dry_run(prepare(next_run("task.max_length=5")))
    told = " ".join(capsys.readouterr().out.split())
    for who in ("student", "teacher"):
        cut = r"[\d,]+ of [\d,]+ texts are cut at task\.max_length=5 pieces: [\d.]+ % of their pieces are lost"
        assert re.search(rf"The {who}: {cut} \(task\.max_length=N or, .* task\.long=windows reads them whole\)", told)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_tokenizer_of_another_model_is_refused_before_anything_trains(
    next_run: Compose, teacher_folder: Path, role: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    tokenizer.add_tokens([f"more{n}" for n in range(50)])
    tokenizer.save_pretrained(teacher_folder)
    path = (f"{role}.path={teacher_folder}",)
    cfg = next_run(*path) if role == "teacher" else next_run(student=("student=hub", *path))
    with pytest.raises(UserError, match=rf"{role}.*its tokenizer has \d+ pieces and the model knows \d+"):
        train(cfg)
    assert not (Path(cfg.paths.run) / "checkpoints").exists()


def test_a_teacher_that_knows_the_task_is_taken_as_it_is(tiny_run, teacher_folder) -> None:  # type: ignore[no-untyped-def]
    cfg = tiny_run("teacher.fine_tune=null", "training.epochs=1")
    train(cfg)
    assert not (Path(cfg.paths.cache) / "teachers").exists()


@pytest.mark.long
def test_the_embedded_corpus_and_teacher(compose_run) -> None:  # type: ignore[no-untyped-def]
    """What `distilingua train` runs, with fewer sentences and one epoch: the real corpus, the real MiniLM."""
    few = ("corpus.sentences=1", "corpus.eval_sentences=1")
    cfg = compose_run("debug=tiny", "student=nano", *few, "~callbacks.progress_bar")
    OmegaConf.set_struct(cfg, False)
    cfg.trainer.enable_progress_bar = False
    check(cfg)
    metrics = train(cfg)
    models = metrics["models"]
    assert models["teacher"]["parameters"] > 22_000_000
    assert models["teacher"]["languages"]["en"]["accuracy"] > 2 / 42  # better than chance after a few dozen steps
    assert models["student"]["parameters"] < models["teacher"]["parameters"] / 20


def test_every_run_keeps_its_predictions(finished) -> None:  # type: ignore[no-untyped-def]
    """One row per test row; what teacher and student say there is what the scores were computed from."""
    cfg, metrics = finished
    told = pd.read_parquet(Path(cfg.paths.run) / "predictions.parquet")
    models = ("teacher", "direct", "student")
    assert list(told.columns[:5]) == ["id", "lang", "text", "teacher_text", "truth"]
    assert set(told.columns[5:]) == {
        "cluster",
        *(name + end for name in models for end in ("", "_probability", "_counts")),
    }
    assert told["id"].is_unique
    assert told.groupby("lang").size().to_dict() == {"en": 59, "de": 59}  # of 60, one is a duplicate
    for lang in ("en", "de"):
        rows = told[told["lang"] == lang]
        for name in ("direct", "student", *(["teacher"] if lang == "en" else [])):
            right = (rows[name] == rows["truth"]).mean()
            assert right == pytest.approx(metrics["models"][name]["languages"][lang]["accuracy"], abs=1e-4)
    assert told[[f"{name}_probability" for name in models]].apply(lambda column: column.between(1 / 3, 1)).all().all()
    # a sure answer is right more often than an unsure one, or the probability would be somebody else's
    sure = told["student_probability"] > told["student_probability"].median()
    right = told["student"] == told["truth"]
    assert right[sure].mean() >= right[~sure].mean()
    # this teacher reads no German: it was given the aligned English sentence, and answers that
    german, english = told[told["lang"] == "de"], told[told["lang"] == "en"].set_index("text")
    assert set(german["teacher_text"]) <= set(english.index)
    assert (german["teacher"] == german["truth"]).mean() > 0.9
    first = german.iloc[0]
    aligned = english.loc[[first["teacher_text"]]].iloc[0]
    assert aligned["teacher"] == first["teacher"]
    assert aligned["teacher_probability"] == pytest.approx(first["teacher_probability"], abs=1e-6)
    assert (told[told["lang"] == "en"]["teacher_text"] == told[told["lang"] == "en"]["text"]).all()


def test_a_student_that_lost_to_itself_without_a_teacher_is_named_with_what_to_type() -> None:
    gap = {"low": 0.0, "high": 0.0, "p": 0.01, "detectable": 0.01}
    gaps = {
        "en": {"value": -0.034, "p_holm": 0.02, **gap},
        "de": {"value": -0.034, "p_holm": 0.2, **gap},  # by chance, as far as can be told
        "fr": {"value": 0.5, "p_holm": 0.001, **gap},
    }
    assert "than without its teacher in en. Let it learn longer (training.min_steps=N" in worse_than_alone(gaps)
    assert worse_than_alone({lang: gap for lang, gap in gaps.items() if lang != "en"}) == worse_than_alone({}) == ""
