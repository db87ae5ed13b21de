"""What Hydra's plugins leave out. Jobs of a sweep that are killed, as by a machine that is out of memory, cannot say so
themselves, and launchers would end the sweep with a traceback, whatever becomes of the others; and a search of Optuna
that goes on would try as much again."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import get_class
from omegaconf import DictConfig, open_dict

from distilingua.errors import UserError
from distilingua.locations import read_yaml
from distilingua.monitoring.sweep import FAILED, is_basic_sweeper, note_failure, results_in

Failed = Callable[[Sequence[str], str], JobReturn | None]


def outlive_killed_jobs(config: DictConfig) -> None:
    """A killed job is one that failed, and the others go on. Hydra has no place for this, so launchers are changed."""
    failed = failure_noter(Path(config.hydra.sweep.dir), config.hydra.sweeper)
    launcher: Any = get_class(config.hydra.launcher._target_)
    if launcher.__name__ == "JoblibLauncher":
        launcher.launch = launch_the_others(launcher.launch, failed)
    elif launcher.__module__.startswith("hydra_plugins.hydra_submitit_launcher"):
        _wait_for_the_others(failed)


def failure_noter(sweep: Path, sweeper: DictConfig) -> Failed:
    """What notes that a job was killed, by its overrides, with what else is to be said; and gives what its sweeper
    gets: None of one that had not begun, or has left a result."""
    basic = is_basic_sweeper(sweeper)

    def failed(overrides: Sequence[str], more: str) -> JobReturn | None:
        folder = unfinished(sweep).get(tuple(overrides))
        if folder is None:
            return None
        raised = UserError(f"its process was killed, as where memory or time is used up{more}")
        note_failure(folder / FAILED, raised)
        print(f"distilingua: {folder.name} failed: {raised}", file=sys.stderr)
        result: Any = math.nan if basic else raised
        status = JobStatus.COMPLETED if basic else JobStatus.FAILED
        return JobReturn(list(overrides), status=status, _return_value=result)

    return failed


def unfinished(sweep: Path) -> dict[tuple[str, ...], Path]:
    """Overrides of a job -> its folder, of all that have begun, and have neither a result nor an error."""
    files = {file.parents[1]: file for file in sweep.glob("*/.hydra/overrides.yaml")}
    left = {job: file for job, file in files.items() if not results_in(job) and not (job / FAILED).exists()}
    return {tuple(map(str, read_yaml(file) or ())): job for job, file in left.items()}


def launch_the_others(launch: Any, failed: Failed) -> Any:
    """For joblib, where all that is at work ends with a process that is killed, and what waits is forgotten."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    def launch_all(self: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        results: dict[int, JobReturn] = {}
        while len(results) < len(job_overrides):
            left = [n for n in range(len(job_overrides)) if n not in results]
            try:
                results |= zip(left, launch(self, [job_overrides[n] for n in left], initial_job_idx), strict=True)
            except TerminatedWorkerError:
                killed = {n: failed(job_overrides[n], ", or beside one that was") for n in left}
                gone = {n: one for n, one in killed.items() if one is not None}
                if not gone:
                    raise
                results |= gone
        return [results[n] for n in range(len(job_overrides))]

    return launch_all


def _wait_for_the_others(failed: Failed) -> None:
    """For submitit, where each job has a process of its own."""
    from submitit.core.core import Job
    from submitit.core.utils import UncompletedJobError

    job: Any = Job
    results = job.results

    def results_or_failure(self: Any) -> list[Any]:
        try:
            return results(self)
        except UncompletedJobError:
            if killed := failed(self.submission().args[0], f"; see {self.paths.stdout}"):
                return [killed]
            raise

    job.results = results_or_failure


def resume_study(sweeper: DictConfig) -> None:
    """Asks a sweeper for the trials that are missing, where its study has some already: what was cut off or failed is
    proposed first, with the same values, and so in the same folder.

    Args:
        sweeper: `hydra.sweeper`; `n_trials` becomes what is left, and `sampler.seed` another one, or the sampler would
            draw what it drew before.
    """
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
    except KeyError:  # nothing was tried
        return
    trials = study.get_trials(deepcopy=False)
    values: list[Any] = [one.params for one in trials if one.state == TrialState.COMPLETE]
    finished = len(values)
    values += [one.system_attrs["fixed_params"] for one in trials if one.state == TrialState.WAITING]
    for one in trials:
        if one.state == TrialState.RUNNING:  # of a process that is gone
            study.tell(one.number, state=TrialState.FAIL)
        if one.state in (TrialState.RUNNING, TrialState.FAIL) and one.params not in values:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.enqueue_trial(one.params)
            values.append(one.params)
    with open_dict(sweeper):
        sweeper.n_trials = max(0, sweeper.n_trials - finished)
        if sweeper.sampler.get("seed") is not None:
            sweeper.sampler.seed += len(trials)
