"""What Hydra calls before the first job of a sweep and after the last one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from distilingua.artifacts import whole_file
from distilingua.errors import UserError
from distilingua.extras import check_installed
from distilingua.monitoring.killed import outlive_killed_jobs
from distilingua.monitoring.sweep import FAILED, SWEEP, failures, several_at_once, varied_keys
from distilingua.parts import OBJECTIVES, objectives


class SweepCallback(Callback):
    """Runs on the machine that started a multirun."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            check_sweep(config)
        except UserError as error:  # of any other exception, Hydra makes a warning
            sys.exit(f"distilingua: {error}")
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        typed = {kind: [str(item) for item in config.hydra.overrides[kind]] for kind in ("hydra", "task")}
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        note = {**typed, "varied": varied_keys([*params, *typed["task"]])}
        with whole_file(folder / SWEEP) as file:
            file.write_text(yaml.safe_dump(note, allow_unicode=True, sort_keys=False), "utf-8")
        if config.hydra.sweeper.get("storage"):
            from distilingua.monitoring.study import resume_study  # Optuna is slow to import

            resume_study(config.hydra.sweeper)
        outlive_killed_jobs(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from distilingua.monitoring.leaderboard import conclude_sweep  # matplotlib is slow to import

        folder = Path(config.hydra.sweep.dir)
        conclude_sweep(folder, objectives(config.training.select))
        if failed := failures(folder):
            jobs = len(list(folder.glob("*/.hydra")))
            sys.exit(
                f"distilingua: {len(failed)} of {jobs} jobs failed, see {FAILED} in their folders. To try them again: "
                f"distilingua resume {shlex.quote(str(folder))}"
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
