"""Sweeps: jobs that fail, sweeps that are killed and go on, and what is told at their end."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import optuna
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distilingua.monitoring.leaderboard import front_of
from distilingua.monitoring.sweep import objective
from distilingua.training.train import train
from tests.conftest import Compose
from tests.processes import HANGS, launch, run, start

SMALL = [  # a job of seconds
    *("corpus=files", "corpus.columns.group=key", "objective=direct", "student=nano", "student.layers=1"),
    *("student.hidden_size=32", "student.heads=2", "student.vocabulary=100"),
    *("training.epochs=3", "training.batch_size=8", "trainer.precision=32-true", "~callbacks.progress_bar"),
]


def of(data: Path) -> str:
    return f"corpus.path={data}"


def test_a_job_that_fails_says_why_and_the_others_go_on(kept: Path, tmp_path: Path) -> None:
    typed = [*SMALL, of(kept / "data"), f"paths.cache={kept / 'cache'}", "student.heads=3,2", "hydra.sweep.dir=sweep"]
    swept = run("train", "-m", *typed, folder=tmp_path)
    assert swept.returncode == 1
    assert "heads-3 failed: student.hidden_size=32 is no multiple of student.heads=3" in swept.stderr
    assert "1 of 2 jobs failed" in swept.stderr
    assert sorted(path.name for path in (tmp_path / "sweep").glob("heads-*")) == ["heads-2", "heads-3"]
    assert (tmp_path / "sweep/heads-2/metrics.json").exists()
    first, *rest = (tmp_path / "sweep/heads-3/failed.txt").read_text().splitlines()
    assert first.startswith("failed 2")
    assert "is no multiple" in first
    assert any("Traceback" in line for line in rest)

    told = swept.stdout[swept.stdout.index("best first, by score") :]
    rows = list(csv.DictReader((tmp_path / "sweep/sweep.csv").read_text().splitlines()))
    assert [row["status"].partition(" ")[0] for row in rows] == ["finished", "failed"]
    metrics = json.loads((tmp_path / "sweep/heads-2/metrics.json").read_text())
    student = metrics["models"]["student"]
    assert float(rows[0]["score"]) == metrics["dev"]["score"]
    assert float(rows[0]["test/de/accuracy"]) == student["languages"]["de"]["accuracy"]
    assert float(rows[0]["bytes"]) == student["bytes"]
    assert (tmp_path / "sweep/pareto.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(tmp_path / "sweep/summary")).Reload()
    assert events.Tags()["images"] == ["sweep/pareto"]
    best = re.search(r"The best: distilingua (.*)", told)
    assert best is not None
    again = run(*shlex.split(best[1]), "hydra.run.dir=again", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again/metrics.json").read_text())["dev"] == metrics["dev"]

    compared = run("compare", "sweep", folder=tmp_path)
    assert compared.returncode == 0
    assert "heads-3 failed 2" in compared.stdout
    again = run("resume", "sweep", folder=tmp_path)
    assert again.returncode == 1
    assert "was finished on" in again.stdout


def test_a_killed_sweep_goes_on(kept: Path, tmp_path: Path) -> None:
    """Killed in its third job of four: the first failed, and is tried again; the second has its result; the third goes
    on from its checkpoint; the fourth is new."""
    missing = tmp_path / "missing"
    typed = [*SMALL, f"{of(missing)},{kept / 'data'}", "seed=1,2", f"paths.cache={tmp_path / 'cache'}"]
    shutil.copytree(kept / "data", missing)
    rows = (missing / "en/train.jsonl").read_text().splitlines()
    (missing / "en/train.jsonl").write_text("\n".join(rows[:100]))  # other rows, or jobs would share their models
    (missing / "de/dev.jsonl").rename(tmp_path / "dev.jsonl")
    job = start("train", "-m", *typed, "training.epochs=20", folder=tmp_path)
    deadline = time.monotonic() + HANGS  # not to hang for ever
    while job.poll() is None and time.monotonic() < deadline:
        checkpoints = list(tmp_path.glob("multirun/*/*/*data_seed-1*/checkpoints/direct/last.ckpt"))
        if checkpoints and not list(tmp_path.glob("multirun/*/*/*data_seed-1*/metrics.json")):
            break
        time.sleep(0.02)
    job.send_signal(9)
    job.communicate(timeout=HANGS)
    (sweep,) = tmp_path.glob("multirun/*/*")
    assert len(list(sweep.glob("*/failed.txt"))) == 2
    assert not list(sweep.glob("*/metrics.json"))

    (tmp_path / "dev.jsonl").rename(missing / "de/dev.jsonl")
    older = tmp_path / "outputs/2000-01-01/00-00-00_default/.hydra"
    older.mkdir(parents=True)
    (older / "overrides.yaml").write_text("[]")
    resumed = run("resume", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("Going on from") == 1
    assert len(list(sweep.glob("*/metrics.json"))) == 4
    assert not list(sweep.glob("*/failed.txt"))


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.5), (2.0, 0.8), (4.0, 0.9), (5.0, 0.95)]
    assert front_of(points) == [1, 3, 0, 5]


def test_a_search_goes_on_with_what_is_missing(kept: Path, tmp_path: Path) -> None:
    """Killed in its first trial: that one goes on in its folder, and counts; asked for more, it makes these alone."""
    lr = "optimizer.lr=tag(log,interval(3e-4,5e-3))"
    typed = [*SMALL, of(kept / "data"), f"paths.cache={tmp_path / 'cache'}", lr, "hydra/sweeper=search"]
    trials = "hydra.sweeper.n_trials"
    job = start("train", "-m", *typed, "training.epochs=20", f"{trials}=2", "hydra.sweep.dir=sweep", folder=tmp_path)
    deadline = time.monotonic() + HANGS
    while job.poll() is None and time.monotonic() < deadline:
        if list(tmp_path.glob("sweep/*/checkpoints/direct/last.ckpt")):
            break
        time.sleep(0.02)
    job.send_signal(9)
    job.communicate(timeout=HANGS)
    (cut,) = (tmp_path / "sweep").glob("lr-*")
    assert not (cut / "metrics.json").exists()

    resumed = run("resume", "sweep", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("Going on from") == 1
    assert len(list((tmp_path / "sweep").glob("lr-*/metrics.json"))) == 2
    assert (cut / "metrics.json").exists()

    more = run("resume", "sweep", f"{trials}=3", folder=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "was finished on" not in more.stdout
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/sweep/study.db")
    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    scores = [json.loads(path.read_text())["dev"]["score"] for path in tmp_path.glob("sweep/lr-*/metrics.json")]
    assert sorted(trial.value for trial in done) == sorted(scores)
    assert len(done) == 3


def test_a_search_may_not_go_the_wrong_way(tmp_path: Path) -> None:
    typed = ["sweep=pareto", "hydra.sweeper.direction=[maximize,maximize]", "hydra.sweeper.n_trials=1"]
    answer = run("train", "-m", *typed, folder=tmp_path)
    assert answer.returncode == 1
    assert "is to maximize and minimize. Set hydra.sweeper.direction=[maximize,minimize]" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_a_sweep_compares_sees_no_target_label(next_run: Compose, kept: Path, tmp_path: Path) -> None:
    """With other German labels everywhere, dev and test included, it is the same number for every objective."""
    found = []
    for folder in (kept / "data", tmp_path / "relabelled"):
        if folder != kept / "data":
            shutil.copytree(kept / "data", folder)
            for file in (folder / "de").iterdir():
                text = file.read_text()
                for old, new in (("light", "?"), ("music", "light"), ("?", "music")):
                    text = text.replace(f'"label": "{old}"', f'"label": "{new}"')
                file.write_text(text)
        paths = [f"corpus.path='{folder}/{{lang}}/{{split}}.jsonl'", "corpus.columns.block=null"]
        found.append(train(next_run(*paths, f"paths.run={tmp_path / 'run' / folder.name}")))
    one, other = found
    for by in ("score", "agreement", "bytes"):
        assert objective([one], by) == objective([other], by)
    german, relabelled = (run["models"]["student"]["languages"]["de"]["accuracy"] for run in found)
    assert relabelled < german - 0.2


def test_racing_jobs_make_what_they_share_once(kept: Path, tmp_path: Path) -> None:
    """Two jobs at the same time, from nothing: one trains the teacher and the baseline, and the other waits for it."""
    teacher = [f"teacher.path={kept / 'teacher'}", "teacher.languages=[en]", "teacher.fine_tune.epochs=2"]
    typed = [*SMALL, of(kept / "data"), "teacher=local", *teacher, "objective=kd", "objective.temperature=1,2"]
    launcher = ["hydra/launcher=parallel", "hydra.sweep.dir=sweep", f"paths.cache={tmp_path / 'cache'}"]
    raced = launch("train", "-m", *typed, *launcher, folder=tmp_path)  # whose workers end with it
    assert raced.returncode == 0, raced.stderr
    logs = [file.read_text() for file in (tmp_path / "sweep").glob("temperature-*/train.log")]
    assert len(logs) == 2
    for made in ("teacher: ", "direct: ", "Soft labels: "):
        assert sum(line.startswith(made) for log in logs for line in log.splitlines()) == 1, made
    for kind in ("teachers", "direct", "soft_labels"):
        assert len([path for path in (tmp_path / "cache" / kind).iterdir() if path.is_dir()]) == 1, kind
    assert all("ms on cpu beside other jobs" in log for log in logs)
    assert "ms was measured beside other jobs" in raced.stdout
    assert (tmp_path / "sweep/pareto.png").exists()


def test_milliseconds_are_no_objective_beside_other_jobs(tmp_path: Path) -> None:
    typed = ["seed=1,2", "training.select=latency_ms", "hydra/launcher=parallel"]
    answer = run("train", "-m", *typed, folder=tmp_path)
    assert answer.returncode == 1
    assert "training.select=latency_ms: milliseconds beside other jobs" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


CLUSTER = """
import signal, sys
from pathlib import Path
from distilingua.cli import main

def queue_again(number, frame):
    Path("queued").touch()
    sys.exit(3)

signal.signal(signal.SIGUSR2, queue_again)
main()
"""


@pytest.mark.parametrize("how", ["SIGUSR2", "SIGTERM"])
def test_what_runs_jobs_on_a_cluster_queues_them_again_once_the_step_is_saved(
    kept: Path, tmp_path: Path, how: str
) -> None:
    """As submitit does it, whose handler of SIGUSR2 asks SLURM for it and exits."""
    typed = [*SMALL, of(kept / "data"), "training.epochs=20", f"paths.cache={tmp_path / 'cache'}", "hydra.run.dir=run"]
    job = start("train", *typed, folder=tmp_path, code=CLUSTER)
    deadline = time.monotonic() + HANGS
    while job.poll() is None and time.monotonic() < deadline:
        if (tmp_path / "run/checkpoints/direct/last.ckpt").exists():
            break
        time.sleep(0.02)
    job.send_signal(getattr(signal, how))
    out, err = job.communicate(timeout=HANGS)
    assert job.returncode == 3, err
    assert (tmp_path / "queued").exists()
    step = re.search(r"It is saved at step (\d+) in \S*last\.ckpt\. It is queued again", out)
    assert step is not None, out
    again = run("train", *typed, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"last.ckpt, step {step[1]}" in again.stdout


def test_of_several_processes_the_one_that_was_killed_is_named(kept: Path, tmp_path: Path) -> None:
    teacher = ["teacher=local", f"teacher.path={kept / 'teacher'}", "teacher.languages=[en]", "teacher.fine_tune=null"]
    typed = [*SMALL, of(kept / "data"), *teacher, "objective=kd", "device=ddp", "trainer.accelerator=cpu"]
    settings = ["trainer.devices=2", f"paths.cache={tmp_path / 'cache'}", "hydra.run.dir=run"]
    killer = {"_target_": "tests.saboteur.KillsItself", "rank": 1, "batch": 5}
    sabotage = [f"+callbacks.saboteur.{key}={value}" for key, value in killer.items()]
    answer = launch("train", *typed, *settings, *sabotage, folder=tmp_path)
    assert answer.returncode == 1
    assert "student: rank 1 (exit code -9) ended, and the others with it" in answer.stderr
    assert "distilingua resume run" in answer.stderr or f"distilingua resume {tmp_path / 'run'}" in answer.stderr


def test_processes_from_outside_need_one_folder(tmp_path: Path) -> None:
    answer = run("train", "device=ddp", folder=tmp_path, WORLD_SIZE="2", RANK="1")
    assert answer.returncode == 1
    assert "hydra.run.dir=outputs/NAME" in answer.stderr
    assert not list(tmp_path.iterdir())
