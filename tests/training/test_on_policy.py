"""Jobs in which the student learns along its own texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from distilingua.checks import check
from distilingua.data.encoder import Encoder
from distilingua.errors import UserError
from distilingua.models.source import TeacherSource
from distilingua.models.teacher import load_model
from distilingua.parts import Settings
from distilingua.training.fitting import fit
from distilingua.training.inference import Predictor
from distilingua.training.job import Job
from distilingua.training.module import DistillationModule
from distilingua.training.student import student_fit
from distilingua.training.teacher import teacher_outputs
from tests.conftest import Compose, passes
from tests.small_jobs import prepare
from tests.training.test_module import StopAt, same, weights
from tests.training.test_translation import run

__all__ = ["StopAt", "run"]  # a callback by its name, and a fixture


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.store=true"], r"training\.on_policy=0\.5: a store has no answers.*teacher\.store=false"),
        (["objective=sequence"], r"no term asks the teacher.*Choose objective=kd, or set training\.on_policy=0"),
        (["objective=custom", "objective/terms=[aligned_uld,ce]"], "aligned_uld is for other ones.*objective=kd"),
        (["device=fsdp"], "with device=fsdp processes take every step.*Choose device=ddp"),
        (["training.on_policy=1.5"], r"training\.on_policy=1\.5 is outside \[0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused(run: Compose, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(run("training.on_policy=0.5", *overrides))


def test_a_task_that_writes_nothing_is_refused(compose_run: Compose) -> None:
    with pytest.raises(UserError, match=r"a student of task=intent writes no text.*Choose task=translation"):
        check(compose_run("training.on_policy=0.5"))


def untaught(job: Job, folder: Path) -> Predictor:
    """A teacher of random weights, which costs nothing."""
    assert isinstance(job.source, TeacherSource)
    assert job.source.scratch is not None
    torch.manual_seed(0)
    tokenizer = job.teachers["teacher"].tokenizer
    job.source.scratch.model(job.task, tokenizer).save_pretrained(folder)
    return Predictor(partial(load_model, folder, job.task, tokenizer), Encoder(job.task, tokenizer), folder=folder)


@pytest.mark.long
def test_a_stopped_run_resumes_to_the_same_weights(run: Compose, tmp_path: Path) -> None:
    """Which batches the student writes itself, and what, is drawn from what a checkpoint keeps."""
    cfg = run(
        "training.on_policy=0.5",
        "training.batch_size=64",
        "student.dropout=0.1",
        "task.max_length=16",
        "pair.protocol=supervised",
    )
    check(cfg)
    job = prepare(cfg)
    assert job.source.store is False  # nobody had to say so
    outputs = teacher_outputs(job, {"teacher": untaught(job, tmp_path / "untaught")}, job.rows)

    def fresh() -> tuple[DistillationModule, object]:
        return student_fit(job, job.objective, job.rows.train, {}, outputs)[:2]

    def trained(settings: object, name: str) -> DistillationModule:
        module, data = fresh()
        fit(Settings.of(settings), name, module, data, passes(2))  # type: ignore[arg-type]
        return module

    expected = weights(trained(cfg, "whole").student)
    job.settings.training["on_policy"] = 0
    assert not same(expected, weights(trained(cfg, "never").student))
    job.settings.training["on_policy"] = 0.5

    stopping = cfg.copy()
    OmegaConf.set_struct(stopping, False)
    stopping.callbacks.stop = {"_target_": "tests.training.test_module.StopAt", "step": 5, "crash": False}
    stopping.callbacks.checkpoint.save_on_exception = True
    with pytest.raises(SystemExit, match="distilingua resume"):
        trained(stopping, "student")
    saved = torch.load(Path(cfg.paths.run) / "checkpoints/student/last.ckpt", weights_only=True)["global_step"]
    assert saved == 5
    torch.manual_seed(12345)  # a new process starts with another random state
    assert same(expected, weights(trained(cfg, "student").student))
