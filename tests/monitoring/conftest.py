"""A sweep of two small jobs, looked at as files and in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import succeed
from tests.test_sweeps import SMALL, of


@pytest.fixture(scope="package")
def swept(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two temperatures, in TensorBoard, with a line of progress at every step."""
    folder = tmp_path_factory.mktemp("swept")
    teacher = [f"teacher.path={kept / 'teacher'}", "teacher.languages=[en]", "teacher.fine_tune.min_steps=100"]
    shown = ["callbacks=default", "callbacks.progress_bar.every_seconds=0", "trainer.log_every_n_steps=5"]
    typed = [*SMALL[:-1], of(kept / "data"), "teacher=local", *teacher, "objective=kd_embedding", *shown]
    settings = ["objective.temperature=1,2", "hydra.sweep.dir=sweep", f"paths.cache={kept / 'cache'}"]
    answer = succeed("train", "-m", *typed, *settings, folder=folder)
    (folder / "out.txt").write_text(answer)
    return folder / "sweep"
