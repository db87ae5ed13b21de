"""A teacher of other pieces than its student, from end to end."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distilingua.checks import check
from distilingua.errors import UserError
from distilingua.training.student import distil
from distilingua.training.teacher import pseudo_label_rows, teacher_outputs, train_teacher
from tests.conftest import Compose
from tests.small_jobs import prepare, train
from tests.training.test_translation import bleu, run

__all__ = ["run"]  # a fixture

ALIGNED = ("objective=custom", "objective/terms=[aligned_uld,ce]", "teacher.scratch.vocabulary=120")


@pytest.mark.long
def test_its_choices_carry_translation_across_vocabularies(run: Compose) -> None:
    """Read from a store of the likeliest pieces in half precision."""
    cfg = run(*ALIGNED, "teacher.store_dtype=float16", "teacher.store_top_k=16", "trainer.log_every_n_steps=1")
    check(cfg)
    metrics = train(cfg)
    assert bleu(metrics, "student", "fr") > bleu(metrics, "direct", "fr") + 0.3
    assert metrics["dev"]["agreement"]["fr"] > 0.3
    events = EventAccumulator(str(Path(cfg.paths.run) / "tensorboard/student")).Reload()
    losses = [event.value for event in events.Scalars("train/loss/aligned_uld")]
    assert statistics.mean(losses[-10:]) < statistics.mean(losses[:10]) / 2


@pytest.mark.long
def test_stored_and_live_choices_teach_alike(run: Compose, tmp_path: Path) -> None:
    """Of students that nobody judges; in 64 bits, as keys' biases have no gradient but what rounding leaves."""
    found = []
    for store in ("true", "false"):
        short = ("training.epochs=1", "task.beams=1", "task.ratio=null", "teacher.store_top_k=null")
        exact = ("trainer.precision=64-true", "teacher.fine_tune.epochs=4", f"teacher.store={store}")
        cfg = run(*ALIGNED, *short, *exact, f"paths.run={tmp_path / store}")
        check(cfg)
        job = prepare(cfg)
        teachers = {"teacher": train_teacher(job, "teacher", job.source.members["teacher"])}
        rows = pseudo_label_rows(job, teachers)
        outputs = teacher_outputs(job, teachers, rows)
        assert (outputs.live is None) == (store == "true")
        distil(job, outputs, rows)
        found.append(load_file(tmp_path / store / "student" / "model.safetensors"))
    stored, live = found
    for name, weight in stored.items():
        assert (weight - live[name]).abs().max() < 1e-5, name


def test_a_temperature_for_every_row_is_refused(run: Compose) -> None:
    with pytest.raises(UserError, match=r"schedule: aligned_uld compares two vocabularies.*Choose schedule=joint"):
        check(run(*ALIGNED, "schedule=flsw"))
