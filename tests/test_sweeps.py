"""Sweeps: jobs that fail, sweeps that are killed and go on, and what is told at their end."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distilingua.errors import UserError
from distilingua.monitoring.leaderboard import front_of
from distilingua.monitoring.plugins import failure_noter, launch_the_others
from distilingua.monitoring.sweep import objective
from tests.conftest import Compose
from tests.processes import launch, refused, run, succeed
from tests.small_jobs import train
from tests.test_cli import as_it_is
from tests.test_faults import sabotage

SMALL = [  # a job of seconds
    *("corpus=files", "corpus.columns.group=key", "objective=direct", "student=nano", "student.layers=1"),
    *("student.hidden_size=32", "student.heads=2", "student.vocabulary=100"),
    *("training.epochs=3", "training.batch_size=8", "trainer.precision=32-true", "~callbacks.progress_bar"),
]


def of(data: Path) -> str:
    return f"corpus.path={data}"


def taught(kept: Path, cache: Path, *typed: str) -> list[str]:
    """A job with a teacher that is not fine-tuned."""
    teacher = [*as_it_is(kept / "teacher"), "objective=kd"]
    return [*SMALL, of(kept / "data"), *teacher, f"paths.cache={cache}", *typed]


def asked_at(batch: int, done: Path, how: str = "SIGKILL") -> list[str]:
    """The process of the first baseline that comes so far gets a signal there, once: after its first pass of 33."""
    return sabotage(how, batch, done, model="direct")


@pytest.mark.long
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
    told_at_the_end(tmp_path / "sweep", told, jobs=2)
    best = re.search(r"The best: distilingua (.*)", told)
    assert best is not None
    succeed(*shlex.split(best[1]), "hydra.run.dir=again", folder=tmp_path)
    assert json.loads((tmp_path / "again/metrics.json").read_text())["dev"] == metrics["dev"]

    assert "heads-3 failed 2" in succeed("compare", "sweep", folder=tmp_path)
    again = run("resume", "sweep", folder=tmp_path)
    assert again.returncode == 1
    assert "was finished on" in again.stdout


def told_at_the_end(sweep: Path, told: str, jobs: int) -> None:
    """The same for every sweep: a table, a CSV file, a picture, and the command of the best."""
    rows = list(csv.DictReader((sweep / "sweep.csv").read_text().splitlines()))
    assert len(rows) == jobs
    finished = [row for row in rows if row["status"] == "finished"]
    scores = [float(row["score"]) for row in finished]
    assert scores == sorted(scores, reverse=True)
    assert "best first, by score" in told
    best = re.search(r"The best: distilingua train (.*)", told)
    assert best is not None
    assert shlex.split(best[1]) == yaml.safe_load((sweep / rows[0]["folder"] / ".hydra/overrides.yaml").read_text())
    beside_others = "ms was measured beside other jobs" in told
    assert [row["ms_beside_other_jobs"] for row in finished] == [str(beside_others)] * len(finished)
    assert (sweep / "pareto.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(sweep / "summary")).Reload()
    assert events.Tags()["images"] == ["sweep/pareto"]


@pytest.mark.long
def test_a_killed_sweep_goes_on(kept: Path, tmp_path: Path) -> None:
    """Killed in its third job of four: the first failed, and is tried again; the second has its result; the third goes
    on from its checkpoint; the fourth is new."""
    missing = tmp_path / "missing"
    typed = [*SMALL, f"{of(missing)},{kept / 'data'}", "seed=1,2", f"paths.cache={tmp_path / 'cache'}"]
    shutil.copytree(kept / "data", missing)
    rows = (missing / "en/train.jsonl").read_text().splitlines()
    (missing / "en/train.jsonl").write_text("\n".join(rows[:100]))  # other rows, or jobs would share their models
    (missing / "de/dev.jsonl").rename(tmp_path / "dev.jsonl")
    killed = run("train", "-m", *typed, "training.epochs=2", *asked_at(40, tmp_path / "done"), folder=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    (sweep,) = tmp_path.glob("multirun/*/*")
    assert len(list(sweep.glob("*/failed.txt"))) == 2
    assert len(list(sweep.glob("*/checkpoints/direct/last.ckpt"))) == 1
    assert not list(sweep.glob("*/metrics.json"))

    (tmp_path / "dev.jsonl").rename(missing / "de/dev.jsonl")
    older = tmp_path / "outputs/2000-01-01/00-00-00_default/.hydra"
    older.mkdir(parents=True)
    (older / "overrides.yaml").write_text("[]")
    resumed = succeed("resume", folder=tmp_path)
    assert resumed.count("Going on from") == 1
    assert len(list(sweep.glob("*/metrics.json"))) == 4
    assert not list(sweep.glob("*/failed.txt"))
    told_at_the_end(sweep, resumed, jobs=4)


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.5), (2.0, 0.8), (4.0, 0.9), (5.0, 0.95)]
    assert front_of(points) == [1, 3, 0, 5]


@pytest.mark.long
def test_a_search_goes_on_with_what_is_missing(kept: Path, tmp_path: Path) -> None:
    """Killed in its first trial: that one goes on in its folder, and counts; asked for more, it makes these alone."""
    lr = "optimizer.lr=tag(log,interval(3e-4,5e-3))"
    typed = [*SMALL, of(kept / "data"), f"paths.cache={tmp_path / 'cache'}", lr, "hydra/sweeper=search"]
    trials = "hydra.sweeper.n_trials"
    few = ["training.epochs=2", f"{trials}=2", "hydra.sweep.dir=sweep"]
    killed = run("train", "-m", *typed, *few, *asked_at(40, tmp_path / "done"), folder=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    (cut,) = (tmp_path / "sweep").glob("lr-*")
    assert not (cut / "metrics.json").exists()

    resumed = succeed("resume", "sweep", folder=tmp_path)
    assert resumed.count("Going on from") == 1
    assert len(list((tmp_path / "sweep").glob("lr-*/metrics.json"))) == 2
    assert (cut / "metrics.json").exists()

    more = succeed("resume", "sweep", f"{trials}=3", folder=tmp_path)
    assert "was finished on" not in more
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/sweep/study.db")
    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    scores = [json.loads(path.read_text())["dev"]["score"] for path in tmp_path.glob("sweep/lr-*/metrics.json")]
    assert sorted(trial.value for trial in done) == sorted(scores)
    assert len(done) == 3
    told_at_the_end(tmp_path / "sweep", more, jobs=3)


@pytest.mark.long
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
        paths = [f"corpus.path='{folder}/{{lang}}/{{split}}.jsonl'", "corpus.columns.block=null", "training.epochs=6"]
        found.append(train(next_run(*paths, f"paths.run={tmp_path / 'run' / folder.name}")))
    one, other = found
    for by in ("score", "agreement", "bytes"):
        assert objective([one], by) == objective([other], by)
    german, relabelled = (run["models"]["student"]["languages"]["de"]["accuracy"] for run in found)
    assert relabelled < german - 0.2


@pytest.mark.long
def test_racing_jobs_make_what_they_share_once(kept: Path, tmp_path: Path) -> None:
    """Two jobs at the same time, from nothing: one trains the teacher and the baseline, and the other waits for it."""
    made = [item for item in taught(kept, tmp_path / "cache") if item != "teacher.fine_tune=null"]
    swept = ["teacher.fine_tune.epochs=1", "training.epochs=1", "objective.temperature=1,2", "hydra.sweep.dir=sweep"]
    swept += ["hydra/launcher=parallel"]  # whose workers end with it
    raced = launch("train", "-m", *made, *swept, folder=tmp_path)
    assert raced.returncode == 0, raced.stderr
    logs = [file.read_text() for file in (tmp_path / "sweep").glob("temperature-*/train.log")]
    assert len(logs) == 2
    for made in ("teacher: ", "direct: ", "Soft labels: "):
        assert sum(line.startswith(made) for log in logs for line in log.splitlines()) == 1, made
    for kind in ("teachers", "direct", "soft_labels"):
        assert len([path for path in (tmp_path / "cache" / kind).iterdir() if path.is_dir()]) == 1, kind
    assert all("ms on cpu beside other jobs" in log for log in logs)
    assert "ms was measured beside other jobs" in raced.stdout
    told_at_the_end(tmp_path / "sweep", raced.stdout, jobs=2)


@pytest.mark.long
def test_a_job_that_is_killed_is_one_that_failed(kept: Path, tmp_path: Path) -> None:
    """Of two in processes of their own, which differ by a callback alone: the other one comes to its end."""
    killer = ["+callbacks.saboteur._target_=tests.saboteur.KillsItself", "+callbacks.saboteur.rank=0"]
    # with a student, which each trains itself: a baseline that the other one was first to train kills nobody
    typed = taught(kept, tmp_path / "cache", *killer, "+callbacks.saboteur.batch=3,999", "training.epochs=1")
    swept = run("train", "-m", *typed, "hydra/launcher=local", "hydra.sweep.dir=sweep", folder=tmp_path)
    assert swept.returncode == 1
    assert "distilingua: batch-3 failed: its process was killed" in swept.stderr
    assert "1 of 2 jobs failed" in swept.stderr
    assert "Traceback" not in swept.stderr
    assert "its process was killed" in (tmp_path / "sweep/batch-3/failed.txt").read_text()
    assert (tmp_path / "sweep/batch-999/metrics.json").exists()
    told_at_the_end(tmp_path / "sweep", swept.stdout, jobs=2)


def test_beside_a_process_of_joblib_that_is_killed_what_waited_is_launched(tmp_path: Path) -> None:
    """Its other workers end with it; a job that has left its result there has one."""

    def began(name: str) -> None:
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra/overrides.yaml").write_text(f"[x={name}]")

    def launch_two(_: Any, job_overrides: list[list[str]], first: int) -> list[Any]:
        asked.append(job_overrides)
        if len(asked) == 1:
            began("a")
            began("b")
            (tmp_path / "a/metrics.json").touch()
            raise TerminatedWorkerError("killed")
        return [JobReturn(one, status=JobStatus.COMPLETED, _return_value=0.5) for one in job_overrides]

    asked: list[list[list[str]]] = []
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}
    jobs = [[f"x={name}"] for name in "abc"]
    failed = failure_noter(tmp_path, OmegaConf.create(sweeper))
    found = launch_the_others(launch_two, failed)(None, jobs, 0)
    assert asked == [jobs, [["x=a"], ["x=c"]]]
    assert [one.return_value for one in found] == [0.5, pytest.approx(float("nan"), nan_ok=True), 0.5]
    assert "beside one that was" in (tmp_path / "b/failed.txt").read_text()
    told = failure_noter(tmp_path, OmegaConf.create({"_target_": "optuna"}))
    (tmp_path / "b/failed.txt").unlink()
    lost = told(["x=b"], "")
    assert lost is not None
    with pytest.raises(UserError, match="its process was killed"):  # as Optuna is told of a trial
        _ = lost.return_value


LATENCY = "training.select=latency_ms"


@pytest.mark.parametrize(
    ("typed", "told", "way_out"),
    [
        ([LATENCY, "hydra/launcher=parallel"], "milliseconds beside other jobs", "Leave out hydra/launcher"),
        ([LATENCY, "hydra/launcher=slurm"], "milliseconds beside other jobs", "parameters.exclusive=true"),
        (
            ["sweep=pareto", "hydra.sweeper.direction=[maximize,maximize]", "hydra.sweeper.n_trials=1"],
            "is to maximize and minimize",
            "Set hydra.sweeper.direction=[maximize,minimize]",
        ),
    ],
)
def test_what_no_job_could_mend_is_refused_before_the_first(
    tmp_path: Path, typed: list[str], told: str, way_out: str
) -> None:
    """Milliseconds are no objective beside other jobs, and a search may not go the wrong way."""
    line = refused("train", "-m", *typed, *(["seed=1,2"] if LATENCY in typed else []), folder=tmp_path)
    assert told in line
    assert way_out in line
    assert LATENCY not in typed or f"{LATENCY}: {told}" in line
    assert not list(tmp_path.iterdir())


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


@pytest.mark.long
@pytest.mark.parametrize("how", ["SIGUSR2", "SIGTERM"])
def test_what_runs_jobs_on_a_cluster_queues_them_again_once_the_step_is_saved(
    kept: Path, tmp_path: Path, how: str
) -> None:
    """As submitit does it, whose handler of SIGUSR2 asks SLURM for it and exits."""
    settings = ["training.epochs=2", f"paths.cache={tmp_path / 'cache'}", "hydra.run.dir=run"]
    typed = [*SMALL, of(kept / "data"), *settings, *asked_at(40, tmp_path / "done", how)]
    answer = run("train", *typed, folder=tmp_path, code=CLUSTER)
    assert answer.returncode == 3, answer.stderr
    assert (tmp_path / "queued").exists()
    step = re.search(r"It is saved at step (\d+) in \S*last\.ckpt\. It is queued again", answer.stdout)
    assert step is not None, answer.stdout
    again = succeed("train", *typed, folder=tmp_path)
    assert f"last.ckpt, step {step[1]}" in again


@pytest.mark.long
def test_of_several_processes_the_one_that_was_killed_is_named(kept: Path, tmp_path: Path) -> None:
    killer = {"_target_": "tests.saboteur.KillsItself", "rank": 1, "batch": 5}
    sabotage = [f"+callbacks.saboteur.{key}={value}" for key, value in killer.items()]
    several = ["device=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=run"]
    typed = taught(kept, tmp_path / "cache", *several, *sabotage)
    answer = run("train", *typed, folder=tmp_path)
    assert answer.returncode == 1
    assert "student: rank 1 (exit code -9) ended, and the others with it" in answer.stderr
    assert "distilingua resume run" in answer.stderr or f"distilingua resume {tmp_path / 'run'}" in answer.stderr


def test_processes_from_outside_need_one_folder(tmp_path: Path) -> None:
    told = refused("train", "device=ddp", folder=tmp_path, WORLD_SIZE="2", RANK="1")
    assert "hydra.run.dir=outputs/NAME" in told
    assert not list(tmp_path.iterdir())
