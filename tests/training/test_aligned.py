"""A teacher of other pieces than its student, from end to end."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distilingua.checks import check
from distilingua.errors import UserError
from distilingua.training.train import train
from tests.conftest import Compose
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
    found = []
    for store in ("true", "false"):
        short = ("training.epochs=1", "task.beams=1", "task.ratio=null", "teacher.store_top_k=null")
        cfg = run(*ALIGNED, *short, f"teacher.store={store}", f"paths.run={tmp_path / store}")
        check(cfg)
        train(cfg)
        found.append(load_file(tmp_path / store / "student" / "model.safetensors"))
    stored, live = found
    for name, weight in stored.items():
        assert (weight - live[name]).abs().max() < 1e-3, name


def test_a_temperature_for_every_row_is_refused(run: Compose) -> None:
    with pytest.raises(UserError, match=r"schedule: aligned_uld compares two vocabularies.*Choose schedule=joint"):
        check(run(*ALIGNED, "schedule=flsw"))
