"""What Hydra calls before a run, before the first job of a sweep and after the last one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from distilingua.artifacts import whole_file
from distilingua.errors import UserError
from distilingua.extras import check_installed
from distilingua.monitoring.plugins import outlive_killed_jobs, resume_study
from distilingua.monitoring.sweep import (
    FAILED,
    SWEEP,
    failures,
    has_begun,
    read_sweep_note,
    settings_of_sweep,
    several_at_once,
    varied_keys,
)
from distilingua.parts import OBJECTIVES, objectives


@contextmanager
def told() -> Iterator[None]:
    """What is refused ends the command: of any exception, Hydra makes a warning."""
    try:
        yield
    except (UserError, OSError) as error:
        sys.exit(f"distilingua: {error}")


class SweepCallback(Callback):
    """Runs on the machine that started a run or a multirun."""

    there: ClassVar[set[str] | None] = None
    """What stood in the folder of a run before it; None where the folder was not there."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        own = "new_folder:" in str(OmegaConf.to_container(config.hydra.run))  # it is made when it is asked for
        folder = Path(config.hydra.run.dir)
        known = folder.is_dir() and not own
        SweepCallback.there = {entry.name for entry in folder.iterdir()} if known else None
        if has_begun(folder):
            config.hydra.output_subdir = None  # it says how that run was made, and this try may be refused

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        typed = {kind: [str(item) for item in config.hydra.overrides[kind]] for kind in ("hydra", "task")}
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        note = {**typed, "varied": varied_keys([*params, *typed["task"]])}
        with told():
            check_sweep(config)
            folder = Path(config.hydra.sweep.dir)  # it may be made when it is asked for
            check_same_sweep(folder, note)
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(folder / SWEEP) as file:
                file.write_text(yaml.safe_dump(note, allow_unicode=True, sort_keys=False), "utf-8")
        if config.hydra.sweeper.get("storage"):
            resume_study(config.hydra.sweeper)
        outlive_killed_jobs(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from distilingua.monitoring.leaderboard import conclude_sweep  # matplotlib is slow to import

        folder = Path(config.hydra.sweep.dir)
        with told():
            conclude_sweep(folder, objectives(config.training.select))
        if failed := failures(folder):
            jobs = len(list(folder.glob("*/.hydra")))
            sys.exit(
                f"distilingua: {len(failed)} of {jobs} jobs failed, see {FAILED} in their folders. To try them again: "
                f"distilingua resume {shlex.quote(str(folder))}"
            )


def check_same_sweep(folder: Path, note: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError where a folder holds another sweep, whose results would get the names and settings of this one.

    Args:
        note: what is to stand in SWEEP.
    """
    known = read_sweep_note(folder)
    same = known is None or settings_of_sweep(known) == settings_of_sweep(note)
    if not same and any(has_begun(job) for job in folder.iterdir()):
        raise UserError(
            f"{folder} holds a sweep with other settings. Name another folder (hydra.sweep.dir=…), or go on with that "
            f"one: distilingua resume {shlex.quote(str(folder))}"
        )


def check_sweep(config: DictConfig) -> None:
    """Raises UserError for what no job of a sweep could mend."""
    for plugin in ("launcher", "sweeper"):
        package = ".".join(config.hydra[plugin]._target_.split(".")[:2])
        if package.startswith("hydra_plugins."):
            check_installed(f"hydra/{plugin}", [package], "sweeps")
    given = objectives(config.hydra.sweeper.get("direction") or [])
    wanted = [OBJECTIVES.get(by, by) for by in objectives(config.training.select)]
    if given and given != wanted:
        raise UserError(
            f"hydra.sweeper.direction={','.join(given)}, and what training.select={config.training.select} names is to "
            f"{' and '.join(wanted)}. Set hydra.sweeper.direction=[{','.join(wanted)}]."
        )
    if "latency_ms" in objectives(config.training.select) and several_at_once(config.hydra.launcher):
        way_out = "Leave out hydra/launcher"
        if config.hydra.launcher._target_.endswith("SlurmLauncher"):
            way_out = "Give each job a machine of its own (+hydra.launcher.additional_parameters.exclusive=true)"
        raise UserError(
            f"training.select=latency_ms: milliseconds beside other jobs say more of these than of a student. "
            f"{way_out}, or name bytes in its place: training.select=[score,bytes]."
        )
