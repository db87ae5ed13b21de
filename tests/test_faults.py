"""What docs/faults.md says: faults at exact points, by real signals, in real processes where they end one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from distilingua.console import console
from distilingua.errors import UserError, as_user_error
from distilingua.monitoring.sweep import objective
from distilingua.overrides import for_resume
from distilingua.parts import Settings
from distilingua.training.fitting import check_rows, check_settings, finished, fit, keep_settings, undamaged
from distilingua.training.train import Clock
from tests.conftest import Compose, passes
from tests.processes import HANGS, Job, launch, run, start, succeed
from tests.small_jobs import train
from tests.test_cli import files_overrides
from tests.training.test_module import Parts, same, weights


def small(data: Path, teacher: Path, cache: Path) -> list[str]:
    """A job of a few seconds, most of which is imports."""
    return [
        *files_overrides(data),
        *("teacher=local", f"teacher.path={teacher}", "teacher.languages=[en]", "teacher.fine_tune=null"),
        *("student=nano", "student.layers=1", "student.hidden_size=32", "student.heads=2", "training.epochs=3"),
        *("training.batch_size=32", "~logger", "~callbacks.learning_rate", f"paths.cache={cache}"),
    ]


def of_all(kept: Path) -> list[str]:
    """The same job in every test, which finds the baseline and the soft labels of the first."""
    return small(kept / "data", kept / "teacher", kept / "cache")


def saboteur(how: str, batch: int, done: Path, model: str = "student") -> dict[str, Any]:
    return {"_target_": "tests.saboteur.Saboteur", "how": how, "batch": batch, "done": str(done), "model": model}


def sabotage(how: str, batch: int, done: Path, model: str = "student") -> list[str]:
    given = saboteur(f"'{how}'", batch, done, model)
    return [f"+callbacks.saboteur.{key}={value}" for key, value in given.items()]


def sabotaged(cfg: DictConfig, *given: Any) -> DictConfig:
    """The configuration of a run in this process with a `saboteur`."""
    own = cfg.copy()
    OmegaConf.set_struct(own, False)
    own.callbacks.saboteur = saboteur(*given)
    return own


def trained(cfg: DictConfig, parts: Parts, epochs: int, name: str = "student", **options: Any) -> tuple[Any, Any]:
    """The trainer and the weights of a student, from the beginning or from where it was stopped."""
    module, data = parts.module(store=True)
    trainer = fit(Settings.of(cfg), name, module, data, passes(epochs), **options)
    return trainer, weights(module.student)


def wait_for(file: Path, job: Job) -> None:
    deadline = time.monotonic() + HANGS  # not to hang for ever
    while not file.exists():
        assert job.poll() is None, job.communicate(timeout=10)
        assert time.monotonic() < deadline, file
        time.sleep(0.02)


def last(cfg: DictConfig, name: str = "student") -> dict[str, Any]:
    return torch.load(Path(cfg.paths.run) / f"checkpoints/{name}/last.ckpt", weights_only=True)


# --- what is resumed has the same weights ----------------------------------------------------------------------------

FAULTS = [  # overrides, how, batch (an epoch has 22, or what is set), exit code, the step that is saved
    pytest.param(["training.workers=2"], "SIGTERM", 30, 143, 31, id="workers"),
    pytest.param(["trainer.limit_train_batches=5"], "raise", 7, None, 5, id="shorter epochs"),
    pytest.param(["trainer.limit_train_batches=5"], "SIGTERM", 7, 143, 8, id="inside of a shorter epoch"),
    pytest.param(["trainer.accumulate_grad_batches=2"], "raise", 25, None, 11, id="exception inside a step"),
    pytest.param(["trainer.accumulate_grad_batches=2"], "SIGTERM", 24, 143, 13, id="SIGTERM with accumulation"),
    pytest.param(["trainer.accumulate_grad_batches=2"], "SIGINT", 24, 130, 13, id="SIGINT with accumulation"),
    pytest.param([], "SIGINT SIGINT", 30, 130, 22, id="second SIGINT inside a step"),
]


UNSTOPPED: dict[tuple[str, ...], tuple[int, dict[str, torch.Tensor]]] = {}  # steps and weights, trained once for all


@pytest.mark.long
@pytest.mark.parametrize(("overrides", "how", "batch", "code", "saved"), FAULTS)
def test_what_is_resumed_has_the_same_weights(  # type: ignore[no-untyped-def]
    next_run, tmp_path: Path, overrides: list[str], how: str, batch: int, code: int | None, saved: int
) -> None:
    cfg = next_run(
        "+trainer.limit_train_batches=1.0",
        "training.epochs=3",
        "student.dropout=0.2",
        "training.batch_size=16",
        *overrides,
    )
    parts = Parts(cfg)
    if tuple(overrides) not in UNSTOPPED:
        whole, unstopped = trained(cfg, parts, 3, "whole")
        assert whole.num_training_batches in (22, 5)
        UNSTOPPED[tuple(overrides)] = whole.global_step, unstopped
    steps, expected = UNSTOPPED[tuple(overrides)]

    with pytest.raises(RuntimeError if code is None else SystemExit) as ended:
        trained(sabotaged(cfg, how, batch, tmp_path / "done"), parts, 3)
    assert (tmp_path / "done").exists()
    assert last(cfg)["global_step"] == saved
    if code is not None:
        assert ended.value.code == code  # type: ignore[attr-defined]
        assert f"saved at step {saved}" in str(ended.value)

    torch.manual_seed(12345)  # a new process starts with another random state
    resumed, found = trained(cfg, parts, 3)
    assert resumed.global_step == steps
    assert same(expected, found)


@pytest.mark.long
@pytest.mark.parametrize(("how", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_signal_ends_the_command_between_two_steps_and_is_its_exit_code(
    kept: Path, tmp_path: Path, how: str, code: int
) -> None:
    settings = of_all(kept)
    fault = sabotage(how, 25, tmp_path / "done")
    stopped = run("train", *settings, "trainer.accumulate_grad_batches=2", *fault, "hydra.run.dir=out", folder=tmp_path)
    assert stopped.returncode == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "saved at step 14 in out" in stopped.stderr.replace(str(tmp_path) + "/", "")  # 18 batches an epoch: 9 steps
    assert "distilingua resume" in stopped.stderr


@pytest.mark.long
def test_processes_of_a_job_stop_at_the_same_step(kept: Path, tmp_path: Path) -> None:
    """One of two is asked, whichever comes first; both end, and resume together."""
    settings = [
        *of_all(kept),
        *("device=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
    ]
    stopped = run("train", *settings, *sabotage("SIGTERM", 7, tmp_path / "done"), "hydra.run.dir=out", folder=tmp_path)
    assert "saved at step 8 in " in stopped.stderr, stopped.stderr
    assert stopped.returncode in (130, 143)  # 130 where the other process was asked
    succeed("resume", "out", folder=tmp_path)
    assert (tmp_path / "out/metrics.json").exists()


# --- what a run resumes from belongs to it ----------------------------------------------------------------------------


@pytest.mark.long
def test_a_teacher_is_not_taken_from_the_checkpoint_of_another_corpus(
    tmp_path: Path, files_corpus: Path, teacher_folder: Path
) -> None:
    """Killed when the teacher had been trained and was not kept yet; then light becomes music, and music light."""
    settings = [
        *(s for s in small(files_corpus, teacher_folder, tmp_path / "cache") if s != "teacher.fine_tune=null"),
        *("teacher.fine_tune.freeze=[]", "teacher.fine_tune.epochs=12"),
        *("teacher.fine_tune.lr=2e-3", "teacher.fine_tune.batch_size=16", "training.epochs=1"),
    ]
    fault = sabotage("SIGKILL", -1, tmp_path / "done", model="teacher")
    killed = run("train", *settings, *fault, "hydra.run.dir=out", folder=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for file in files_corpus.rglob("*.jsonl"):
        swapped = {"light": "music", "music": "light", "weather": "weather"}
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        text = "\n".join(json.dumps({**row, "label": swapped[row["label"]]}, ensure_ascii=False) for row in rows)
        file.write_text(text, "utf-8")
    resumed = run("resume", "out", folder=tmp_path)
    succeed("train", *settings, "hydra.run.dir=fresh", folder=tmp_path)
    metrics = json.loads((tmp_path / "fresh/metrics.json").read_text())
    assert metrics["models"]["teacher"]["languages"]["en"]["accuracy"] > 0.9
    assert resumed.returncode == 1
    assert "out holds a run whose corpus has changed since it began" in resumed.stderr


def test_a_checkpoint_carries_what_it_belongs_to(next_run) -> None:  # type: ignore[no-untyped-def]
    cfg = next_run("training.epochs=1")
    parts = Parts(cfg)
    trained(cfg, parts, 1, recipe={"code": "old"})
    with pytest.raises(UserError, match=r"last\.ckpt was made with other rows, soft labels, code or libraries"):
        trained(cfg, parts, 1, recipe={"code": "new"})


# --- results outlive the process -------------------------------------------------------------------------------------


@pytest.mark.long
def test_results_are_the_same_after_a_kill_and_for_a_finished_run(kept: Path, tmp_path: Path) -> None:
    """Killed after the last step of the student; then resumed; then resumed again, when there is nothing to do."""
    settings = [*of_all(kept), "training.select=agreement"]
    succeed("train", *settings, "hydra.run.dir=whole", folder=tmp_path)
    expected = json.loads((tmp_path / "whole/metrics.json").read_text())
    assert set(expected["dev"]["agreement"]) == {"en", "de"}

    killed = run("train", *settings, *sabotage("SIGKILL", -1, tmp_path / "done"), "hydra.run.dir=out", folder=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    _, running = json.loads((tmp_path / "out/checkpoints/seconds.json").read_text())
    trained = (tmp_path / "out/checkpoints/student/last.ckpt").stat().st_mtime - running["student"]
    resumed = launch("resume", "out", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    file = tmp_path / "out/metrics.json"
    first = file.read_bytes()
    found = json.loads(first)
    assert found["dev"] == expected["dev"]
    assert found["seconds"]["student"] > trained
    assert "Reused: direct of 20" in resumed.stdout

    again = succeed("resume", "out", folder=tmp_path)
    assert "was finished on 20" in again
    assert file.read_bytes() == first
    assert not list(tmp_path.glob("*/checkpoints/**/*.ckpt"))


def test_a_sweep_never_compares_one_number_in_place_of_another() -> None:
    found, none = ({"dev": {"score": 0.9, "agreement": one}} for one in ({"en": 0.8, "de": 0.5}, {}))
    assert objective([found], "agreement") == 0.5
    assert objective([none], "score") == 0.9
    assert objective([found, {"dev": {"score": 0.7, "agreement": {}}}], "score") == 0.7  # the worst of two tasks
    with pytest.raises(UserError, match="there is no agreement"):
        objective([none], "agreement")


# --- files that were cut ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_full_disk_does_not_make_resume_forget_what_was_typed(kept: Path, tmp_path: Path) -> None:
    """Full at the moment when settings are kept. (Whether a limit on the size of files or the disk says no is one.)"""
    settings = [*of_all(kept), "corpus._target_=tests.saboteur.FilesOnAFullDisk"]
    succeed("train", *settings, "hydra.run.dir=whole", folder=tmp_path)  # fills the cache
    full = run("train", *settings, "hydra.run.dir=out", folder=tmp_path, DISK_IS_FULL="1")
    assert full.returncode == 1
    assert "File too large" in full.stderr
    succeed("resume", "out", folder=tmp_path)
    results = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "out")]
    assert results[0]["models"]["student"]["languages"] == results[1]["models"]["student"]["languages"]


@pytest.mark.parametrize("place", [".hydra", "checkpoints"])
def test_an_empty_file_of_overrides_is_not_no_overrides(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir()
    file = tmp_path / place / "overrides.yaml"
    file.write_text("")
    with pytest.raises(UserError, match=r"overrides\.yaml is damaged.*Type it again: distilingua train"):
        for_resume([str(tmp_path)])
    file.write_text("[]\n")
    assert for_resume([str(tmp_path)]) == [f"hydra.run.dir='{tmp_path}'"]


def test_a_cut_checkpoint_gives_way_to_the_last_whole_one(next_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cfg = next_run("training.batch_size=16", "training.epochs=2")
    parts = Parts(cfg)
    _, expected = trained(cfg, parts, 2, "whole")
    with pytest.raises(SystemExit):
        trained(sabotaged(cfg, "SIGINT", 30, tmp_path / "done"), parts, 2)
    file = Path(cfg.paths.run) / "checkpoints/student/last.ckpt"
    os.truncate(file, file.stat().st_size // 2)  # as a kill leaves it while it is copied
    with console.capture() as shown:
        _, found = trained(cfg, parts, 2)
    assert f"{file} is damaged" in shown.get()
    assert f"Going on from {file.with_name('epoch.ckpt')}, step 31" in shown.get()
    assert same(expected, found)


def test_a_checkpoint_is_written_on_its_own_device_and_named_when_it_is_whole(  # type: ignore[no-untyped-def]
    next_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at in the last moment before it gets its name."""
    cfg = next_run("training.epochs=1")
    parts = Parts(cfg)
    folder = Path(cfg.paths.run) / "checkpoints/student"
    seen: list[list[str]] = []
    fsync = os.fsync

    def look(file: int) -> None:
        if folder.exists():
            files = (path for path in folder.rglob("*.ckpt*") if path.is_file())
            seen.append(sorted(str(path.relative_to(folder)).partition("-")[0] for path in files))
        fsync(file)

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such device"))
    trained(cfg, parts, 1)
    best = "best/best.ckpt"
    assert seen == [["best/.best.ckpt"], [".epoch.ckpt", best], [".last.ckpt", best, "epoch.ckpt"]]
    assert sorted(path.name for path in folder.iterdir()) == ["best", "epoch.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("checkpoints/settings.yaml", lambda cfg: check_settings(Settings.of(cfg))),
        ("checkpoints/rows.txt", lambda cfg: check_rows(Settings.of(cfg), "0" * 16)),
        ("checkpoints/seconds.json", lambda cfg: Clock(Path(cfg.paths.run) / "checkpoints/seconds.json")),
        ("metrics.json", lambda cfg: finished(Settings.of(cfg))),
    ],
)
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\0", b"{", b"[1, [2]]", b"x: ["])
def test_a_damaged_note_of_a_run_is_named(compose_run: Compose, name: str, read: Any, damage: bytes) -> None:
    cfg = compose_run()
    run = Path(cfg.paths.run)
    keep_settings(Settings.of(cfg), "0" * 16)
    (run / "metrics.json").touch()
    (run / name).write_bytes(damage)
    with pytest.raises(UserError, match=rf"^{run / name} is not as a run writes it \(.*\)\. (Delete|Restore) it"):
        read(cfg)


def test_a_process_that_builds_batches_and_is_killed_is_told() -> None:
    loader = DataLoader([0], collate_fn=lambda _: os.kill(os.getpid(), signal.SIGKILL), num_workers=1)
    with pytest.raises(RuntimeError) as raised:
        next(iter(loader))
    assert "set training.workers=0" in str(as_user_error(raised.value))


# --- numbers that are none --------------------------------------------------------------------------------------------


def test_a_learning_rate_too_high_stops_the_run(tiny_run) -> None:  # type: ignore[no-untyped-def]
    cfg = tiny_run("optimizer.lr=1e6", "objective=direct")
    with pytest.raises(UserError, match=r"direct, step \d+, learning rate .* is no number\. Lower the learning rate"):
        train(cfg)
    assert not (Path(cfg.paths.run) / "metrics.json").exists()
    assert not list((Path(cfg.paths.cache) / "direct").glob("*/"))


def test_numbers_that_are_none_name_step_and_rows_and_leave_the_last_good_checkpoint(next_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cfg = next_run("training.batch_size=16", "training.epochs=2")
    parts = Parts(cfg)
    _, expected = trained(cfg, parts, 2, "whole")
    cfg = sabotaged(cfg, "nan", 30, tmp_path / "done")
    match = r"student, step 31, .*the student's answer to .*, .* and 11 more is no number.*saved at step 22"
    with pytest.raises(UserError, match=match):
        trained(cfg, parts, 2)
    assert all(tensor.isfinite().all() for tensor in last(cfg)["state_dict"].values())
    assert same(expected, trained(cfg, parts, 2)[1])


def test_weights_that_are_no_numbers_after_the_last_step_are_not_kept(tiny_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cfg = sabotaged(tiny_run("teacher.fine_tune.epochs=2"), "nan", -1, tmp_path / "done", "teacher")
    with pytest.raises(UserError, match=r"teacher: after the last step .* holds what is no number"):
        train(cfg)
    assert not list((Path(cfg.paths.cache) / "teachers").glob("*/"))


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ([], r"Soft labels of teacher: the answer to .* is no number, so it is neither kept nor judged"),
        (["teacher.store=false"], r"student, step 0, .*the teacher's answer to .* is no number"),
    ],
    ids=["stored", "live"],
)
def test_a_teacher_that_answers_no_numbers_is_not_believed(  # type: ignore[no-untyped-def]
    tiny_run, teacher_folder: Path, overrides: list[str], match: str
) -> None:
    tensors = load_file(teacher_folder / "model.safetensors")
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, teacher_folder / "model.safetensors", {"format": "pt"})
    cfg = tiny_run("teacher.fine_tune=null", "training.epochs=1", *overrides)
    with pytest.raises(UserError, match=match):
        train(cfg)
    assert not list((Path(cfg.paths.cache) / "soft_labels").glob("*/index.json"))
    assert not (Path(cfg.paths.run) / "metrics.json").exists()


# --- one job in a folder ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_second_job_in_the_same_folder_is_refused(kept: Path, tmp_path: Path) -> None:
    settings = of_all(kept)
    with start(
        "train", *settings, *sabotage("wait", 5, tmp_path / "done"), "hydra.run.dir=out", folder=tmp_path
    ) as first:
        wait_for(tmp_path / "done", first)
        second = run("train", *settings, "hydra.run.dir=out", folder=tmp_path)
        (tmp_path / "go").touch()
        _, told = first.communicate(timeout=HANGS)
    assert second.returncode == 1
    assert "out: another job is at work in this folder" in second.stderr
    assert first.returncode == 0, told
    assert (tmp_path / "out/metrics.json").exists()
    assert not (tmp_path / "out/.lock").exists()
    shutil.rmtree(tmp_path / "out")


def test_one_flipped_bit_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    """Wherever it is; what is not noticed is padding between parts, and changes nothing that is read."""
    weights = torch.randn(2000)
    with (file := tmp_path / "last.ckpt").open("wb") as content:
        torch.save({"weights": weights, "step": 7}, content)
    whole, lot = file.read_bytes(), random.Random(0)
    assert undamaged(file)
    noticed = 0
    for _ in range(500):
        flipped = bytearray(whole)
        flipped[lot.randrange(len(whole))] ^= 1 << lot.randrange(8)
        file.write_bytes(flipped)
        if undamaged(file):
            found = torch.load(file, weights_only=True)
            assert found["step"] == 7
            assert torch.equal(found["weights"], weights)
        else:
            noticed += 1
    assert noticed > 400
