"""Whole runs of speech recognition: a corpus that eSpeak NG speaks, a teacher and a student from random weights."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distilingua import artifacts
from distilingua.checks import check
from distilingua.corpora.sound import spoken, waveform
from distilingua.errors import UserError
from distilingua.tasks.transcripts import best_path
from tests.conftest import Compose
from tests.small_jobs import train

SMALL = (
    *("corpus.corpus.sentences=3", "corpus.corpus.eval_sentences=3", "corpus.voices={train:[m1],dev:[m1],test:[m3]}"),
    *(
        "corpus.limit={train:32,parallel:16,dev:4,test:6}",
        "corpus.speeds=[180]",
        "corpus.pitches=[50]",
        "corpus.renditions=1",
    ),
    *("student.layers=1", "student.hidden_size=32", "student.heads=2", "student.feed_forward=64", "student.mels=20"),
    *("teacher.scratch.layers=1", "teacher.scratch.hidden_size=48", "teacher.scratch.feed_forward=64"),
    *("teacher.scratch.mels=20", "teacher.fine_tune.epochs=6", "teacher.fine_tune.lr=5e-3"),
    *("training.epochs=6", "training.batch_size=8", "teacher.fine_tune.batch_size=8", "optimizer.lr=5e-3"),
    *("trainer.precision=32-true", "trainer.log_every_n_steps=1", "+trainer.enable_progress_bar=false"),
    "~callbacks.progress_bar",
)

OTHER_ORDER = " 'zabcdefghijklmnopqrstuvwxyßäöü"


@pytest.fixture
def speech_run(compose_run: Compose) -> Compose:
    def composed(*overrides: str) -> DictConfig:
        return compose_run("experiment=speech", *SMALL, *overrides)

    return composed


@pytest.mark.long
def test_the_experiment_runs_and_leaves_a_plain_transformers_model(speech_run: Compose) -> None:
    cfg = speech_run("task.most_wer=100")  # a teacher of a few steps is sure of nothing
    check(cfg)
    metrics = train(cfg)
    run = Path(cfg.paths.run)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert set(metrics["models"]["student"]["languages"]["de"]) == {"wacc", "wer", "cer"}
    assert metrics["soft_labels"] == {}

    events = EventAccumulator(str(run / "tensorboard/student")).Reload()
    for term in ("kl", "ctc"):
        losses = [event.value for event in events.Scalars(f"train/loss/{term}")]
        third = len(losses) // 3
        assert all(math.isfinite(loss) for loss in losses)
        assert sum(losses[-third:]) < sum(losses[:third])
    assert len(events.Scalars("dev/de/cer")) == 6

    from transformers import AutoModelForCTC, AutoProcessor

    processor = AutoProcessor.from_pretrained(run / "student")
    model = AutoModelForCTC.from_pretrained(run / "student").eval()
    sound = waveform(spoken("turn on the lights", "en+m1", 180, 50))
    with torch.no_grad():
        logits = model(**processor(sound, sampling_rate=16_000, return_tensors="pt")).logits[0]
    classes = ["<pad>", *cfg.task.alphabet]
    assert logits.shape[1] == len(classes)
    assert processor.batch_decode(logits.argmax(-1)[None])[0].split() == best_path(logits, classes).split()


@pytest.mark.long
def test_the_student_hears_no_sentence_whose_transcript_the_teacher_has_learnt(
    speech_run: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distilingua.training.teacher import pseudo_label_rows, teacher_train_rows, train_teacher
    from tests.small_jobs import prepare

    cfg = speech_run("teacher.fine_tune.epochs=1", "task.most_wer=100")
    job = prepare(cfg)
    lessons = teacher_train_rows(job, job.source)  # type: ignore[arg-type]
    taught = {text for text, lang in zip(lessons["text"], lessons["lang"], strict=True) if lang == "de"}
    mine = {row["text"]: row["label"] for row in job.rows.train if row["lang"] == "de"}
    assert taught
    assert mine
    assert not taught & set(mine)
    assert set(mine.values()) == {""}
    teachers = {"teacher": train_teacher(job, "teacher", job.source)}  # type: ignore[arg-type]
    anew = pseudo_label_rows(job, teachers)
    truth = dict(zip(job.rows.texts["id"], job.rows.texts["label"], strict=True))
    visible = {row["id"]: row["label"] for row in job.rows.train if row["label"]}
    for row in anew.train:  # what was visible stays, what was not comes from the teacher, never from the corpus
        assert row["label"] == visible[row["id"]] if row["id"] in visible else row["label"] != truth[row["id"]]

    shutil.rmtree(job.cache / "pseudo_labels")
    monkeypatch.setattr(artifacts, "started_together", lambda: (1, 2))  # of two, each asks for its share
    assert pseudo_label_rows(job, teachers).train["label"][:] == anew.train["label"][:]


@pytest.mark.long
def test_direct_transfer_and_a_strict_threshold_need_no_pseudo_label(speech_run: Compose) -> None:
    cfg = speech_run("objective=custom", "objective/terms=[ctc]", "training.epochs=1")
    check(cfg)
    assert train(cfg)["models"].keys() == {"direct", "student"}


@pytest.mark.long
def test_a_student_that_hears_the_waveform_trains(speech_run: Compose) -> None:
    wave = ("student.sound=waveform", "student.frame_ms=40", "student.mels=24", "student.kernel=7")
    cfg = speech_run(*wave, "training.epochs=1", "teacher.fine_tune.epochs=1", "task.pseudo_labels=false")
    check(cfg)
    assert math.isfinite(train(cfg)["models"]["student"]["languages"]["de"]["cer"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["student=tiny"], "student=speech_tiny"),
        (["task=intent", "objective=kd"], "Choose another task, or what goes with this one: student=tiny"),
        (["teacher=minilm_en"], "teacher=speech_scratch"),
        (["objective=kd"], r"objective/terms=\[kl,ctc\]"),
        (["objective=custom", "objective/terms=[kl,ctc,embedding]"], "task=speech has other models"),
        (["augmentation=[char_noise]"], "corpus.voices"),
        (["corpus=massive"], "corpus.columns.audio"),
        (["student.frame_ms=20"], "teacher.scratch.frame_ms=40"),
        (["student.alphabet=abc"], "teacher.scratch.alphabet"),
        (["corpus.voices.test=[m99]"], "m99"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_loads(
    compose_run: Compose, overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check(compose_run("experiment=speech", *overrides))


@pytest.mark.long
def test_another_rate_of_a_finished_teacher_is_refused_before_training(speech_run: Compose) -> None:
    from distilingua.training.job import dry_run
    from tests.small_jobs import prepare

    cfg = speech_run("student.frame_ms=20", "teacher.fine_tune.epochs=1")
    job = prepare(cfg)
    with pytest.raises(UserError, match=r"40 ms.*20 ms"):
        dry_run(job)


@pytest.mark.long
def test_a_finished_teacher_teaches_and_one_with_another_alphabet_is_refused(
    speech_run: Compose, tmp_path: Path
) -> None:
    from distilingua.training.job import dry_run
    from tests.small_jobs import prepare

    first = speech_run("teacher.fine_tune.epochs=1", "training.epochs=1", "task.pseudo_labels=false")
    train(first)
    folder = Path(first.paths.run) / "student"
    finished = [item for item in SMALL if not item.startswith("teacher")]
    options = ("teacher=local", f"teacher.path={folder}", "teacher.fine_tune=null", "training.epochs=1")
    from distilingua.locations import conf_folder  # noqa: F401

    cfg = speech_run_without_teacher(first, finished, options, tmp_path)
    check(cfg)
    assert train(cfg)["models"]["teacher"]["languages"]["de"]["cer"] >= 0
    other = speech_run_without_teacher(first, finished, (*options, f'task.alphabet="{OTHER_ORDER}"'), tmp_path)
    job = prepare(other)
    with pytest.raises(UserError, match="labels are"):
        dry_run(job)


def speech_run_without_teacher(
    first: DictConfig, small: list[str], options: tuple[str, ...], tmp_path: Path
) -> DictConfig:
    from hydra import compose, initialize_config_dir

    from distilingua.locations import conf_folder

    folders = [f"paths.run={tmp_path / 'second'}", f"paths.cache={first.paths.cache}"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("train", [*folders, "experiment=speech", *small, *options])
