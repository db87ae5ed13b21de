"""What a student learns from beside labels and logits: vectors, several seeds of a teacher, its own answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from distilingua.checks import check
from distilingua.columns import Ragged, numbers_of, with_columns
from distilingua.data.datamodule import Batch, Lessons
from distilingua.data.encoder import Encoder
from distilingua.errors import UserError
from distilingua.models.teacher import FrozenTeacher
from distilingua.training.job import teacher_inputs
from distilingua.training.teacher import teacher_outputs, train_teacher
from tests.small_jobs import prepare, train


def reading_themselves(texts: Dataset, encoder: Encoder) -> Batch:
    """A batch of texts of which a teacher reads every one."""
    numbers = numbers_of(texts)
    columns = {"number": pa.array(numbers), "teacher_texts": Ragged.of(numbers[:, None]).as_column()}
    lessons = Lessons(with_columns(texts, columns), encoder, None)
    return lessons.batch(np.arange(len(texts)))


def weights(cfg: Any) -> torch.Tensor:
    saved = load_file(Path(cfg.paths.run) / "student/model.safetensors")
    return torch.cat([values.flatten() for values in saved.values()])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_store_holds_the_vectors_that_the_teacher_makes(next_run, pooling: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("distilingua.models.source.TeacherSource.pooling", pooling)
    cfg = next_run("objective=kd_embedding")
    check(cfg)
    job = prepare(cfg)
    teacher = train_teacher(job, "teacher", job.source.members["teacher"])
    stored: Any = teacher_outputs(job, {"teacher": teacher}, job.rows).stored
    texts = job.rows.numbered(teacher_inputs(job.rows)[:40])
    encoded = job.teachers["teacher"](texts, None)
    inputs, _ = job.teachers["teacher"].collate(encoded)
    layers = FrozenTeacher(teacher.model, {"vector"}, pooling)(inputs)[1]  # type: ignore[union-attr]
    found = stored.vectors(reading_themselves(texts, job.encoder))
    assert found.dtype == np.float32
    assert found == pytest.approx(layers.vector.numpy(), abs=2e-3)  # type: ignore[union-attr]  # float16 on disk
    assert stored.vector_width == 32


@pytest.mark.long
def test_stored_vectors_train_as_a_live_teacher_does(next_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = {}
    for store in ("true", "false"):
        cfg = next_run(
            "objective=kd_embedding", f"teacher.store={store}", "training.epochs=2", f"paths.run={tmp_path / store}"
        )
        check(cfg)
        train(cfg)
        found[store] = weights(cfg)
    assert torch.allclose(found["true"], found["false"], atol=5e-3)
    assert not torch.equal(found["true"], found["false"])


def test_stored_answers_to_windows_train_as_a_live_teacher_does(next_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Logits and vectors of texts that student and teacher read in windows of their own."""
    found = {}
    for store in ("true", "false"):
        cfg = next_run(
            *("task.long=windows", "task.max_length=6", "objective=kd_embedding", f"teacher.store={store}"),
            *("training.epochs=1", "teacher.fine_tune.epochs=1", f"paths.run={tmp_path / store}"),
        )
        check(cfg)
        train(cfg)
        found[store] = weights(cfg)
    assert torch.allclose(found["true"], found["false"], atol=5e-3)  # vectors are stored in float16
    assert not torch.equal(found["true"], found["false"])


def test_without_a_term_that_asks_no_vector_is_stored(next_run) -> None:  # type: ignore[no-untyped-def]
    cfg = next_run("objective=kd")
    job = prepare(cfg)
    teacher = train_teacher(job, "teacher", job.source.members["teacher"])
    stored: Any = teacher_outputs(job, {"teacher": teacher}, job.rows).stored
    assert stored.vector_width is None


@pytest.mark.long
def test_several_seeds_of_a_teacher_answer_as_the_mean_of_their_probabilities(next_run) -> None:  # type: ignore[no-untyped-def]
    few = ["teacher.fine_tune.epochs=4", "training.epochs=1"]  # nobody asks how well they answer
    cfg = next_run("teacher.seeds=3", "objective=kd_embedding", *few)
    check(cfg)
    job = prepare(cfg)
    teacher = train_teacher(job, "teacher", job.source.members["teacher"])
    outputs = teacher_outputs(job, {"teacher": teacher}, job.rows)
    stored: Any = outputs.stored
    assert len(stored.stores) == 1
    texts = job.rows.numbered(teacher_inputs(job.rows)[:20])
    each = [one.predict(texts, "x").answers for one in teacher.alone]
    assert len({float(answers[0][0, 0]) for answers in each}) == 3  # three models
    answered = stored.logits(reading_themselves(texts, job.encoder))
    for n in range(len(texts)):
        mean = torch.stack([answers[n].softmax(-1) for answers in each]).mean(0)
        assert answered[n : n + 1] == pytest.approx(mean.log().numpy(), abs=1e-4)
    train(cfg)
    metrics = json.loads((Path(cfg.paths.run) / "metrics.json").read_text("utf-8"))
    assert metrics["models"]["teacher"]["parameters"] == 3 * teacher.alone[0].parameters


def test_decisions_are_averaged_each_by_itself(next_run) -> None:  # type: ignore[no-untyped-def]
    """A softmax over classes would leave none of them above one half."""
    few = "teacher.fine_tune.epochs=4"
    cfg = next_run("teacher.seeds=2", few, "task=labels", "objective=custom", "objective/terms=[binary_kl,bce]")
    check(cfg)
    job = prepare(cfg)
    teacher = train_teacher(job, "teacher", job.source.members["teacher"])
    stored: Any = teacher_outputs(job, {"teacher": teacher}, job.rows).stored
    texts = job.rows.numbered(teacher_inputs(job.rows)[:20])
    each = [one.predict(texts, "x").answers for one in teacher.alone]
    for n in range(len(texts)):
        a, b = (answers[n].sigmoid() for answers in each)
        found = torch.from_numpy(stored.stores[0](n))
        assert found.sigmoid().numpy() == pytest.approx(((a + b) / 2).numpy(), abs=1e-4)
        assert teacher.predict(texts.select([n]), "x").answers[0].numpy() == pytest.approx(found.numpy(), abs=1e-2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=labels", "objective=custom", "objective/terms=[binary_kl,bce]", "teacher.store_top_k=2"], "top_k=null"),
        (["teacher.seeds=2", "teacher.fine_tune=null"], "what knows the task already is not fine-tuned"),
        (["teacher.seeds=2", "teacher.store=false"], "several teachers answer from stores"),
        (["teacher=ensemble", "objective=kd_embedding"], "Type objective=kd"),
    ],
)
def test_what_goes_with_no_vectors_or_seeds_is_refused(compose_run, overrides: list[str], words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=words):
        check(compose_run(*overrides))


@pytest.mark.long
def test_a_student_labels_what_nobody_reads_and_goes_on(next_run, capsys) -> None:  # type: ignore[no-untyped-def]
    options = ["pair.parallel=0.2", "pair.sure=0.35", "training.epochs=6"]  # of three classes
    cfg = next_run(*options, "pair.unpaired=self_train")
    check(cfg)
    rows = prepare(cfg).rows
    truth = dict(zip(rows.texts["id"], rows.texts["label"], strict=True))
    assert set(rows.unpaired["label"]) == {""}
    assert len(rows.unpaired) > 200
    assert {truth[row_id] for row_id in rows.unpaired["id"]} == {"light", "music", "weather"}
    train(cfg)
    shown = capsys.readouterr().out
    labelled = int(shown.split("The student labels ")[1].split()[0])
    assert 0 < labelled <= len(rows.unpaired)
    assert "self_trained: " in shown


@pytest.mark.long
def test_a_teacher_that_is_no_better_than_the_student_alone_is_told(next_run, capsys) -> None:  # type: ignore[no-untyped-def]
    cfg = next_run("teacher.fine_tune.epochs=1", "teacher.fine_tune.lr=1e-7")
    metrics = train(cfg)
    assert "no better in 'en' than the student alone" in metrics["advice"]
    assert "teacher.fine_tune.epochs=2)" in capsys.readouterr().out.replace("\n", " ")  # twice as long as it did
    # now it is the student that learns nothing
    other = [f"paths.run={Path(cfg.paths.run).parent / 'other'}", "optimizer.lr=1e-6", "training.epochs=1"]
    assert train(next_run(*other))["advice"] == ""
