"""A sweep as a whole: what was typed for it, what varies in it, which of its jobs failed, and how its jobs compare."""

from __future__ import annotations

import math
import re
import shlex
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from distilingua.artifacts import whole_file
from distilingua.errors import UserError
from distilingua.extras import check_plugin
from distilingua.parts import OBJECTIVES, objectives

SWEEP = "sweep.yaml"
"""In a sweep's folder: what was typed for it (`hydra`, `task`) and the keys that vary. Hydra's multirun.yaml is written
by some sweepers only."""
PLUMBING = ("hydra", "paths", "logger", "callbacks")  # says nothing about a run
FAILED = "failed.txt"
"""In a job's folder: why it failed. The try that succeeds takes it away."""


class Sweep(Callback):
    """Hydra calls this before the first job of a multirun and after the last one, on the machine that started it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            check_sweep(config)
        except UserError as error:  # of any other exception, Hydra makes a warning
            sys.exit(f"distilingua: {error}")
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        typed = {kind: [str(item) for item in config.hydra.overrides[kind]] for kind in ("hydra", "task")}
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        with whole_file(folder / SWEEP) as file:
            told = {**typed, "varied": varied_in([*params, *typed["task"]])}
            file.write_text(yaml.safe_dump(told, allow_unicode=True, sort_keys=False), "utf-8")
        if config.hydra.sweeper.get("storage"):
            from distilingua.monitoring.study import go_on  # Optuna is slow to import

            go_on(config.hydra.sweeper)
        from distilingua.monitoring.killed import outlive_killed_jobs  # which needs this module

        outlive_killed_jobs(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from distilingua.monitoring.leaderboard import conclude  # matplotlib is slow to import

        folder = Path(config.hydra.sweep.dir)
        conclude(folder, objectives(config.training.select))
        if failed := failures(folder):
            jobs = len(list(folder.glob("*/.hydra")))
            sys.exit(
                f"distilingua: {len(failed)} of {jobs} jobs failed, see {FAILED} in their folders. To try them again: "
                f"distilingua resume {shlex.quote(str(folder))}"
            )


def check_sweep(config: DictConfig) -> None:
    """Raises UserError for what no job of a sweep could mend."""
    for plugin in ("launcher", "sweeper"):
        check_plugin(f"hydra/{plugin}", config.hydra[plugin]._target_)
    given = objectives(config.hydra.sweeper.get("direction") or [])
    wanted = [OBJECTIVES.get(by, by) for by in objectives(config.training.select)]
    if given and given != wanted:
        raise UserError(
            f"hydra.sweeper.direction={','.join(given)}, and what training.select={config.training.select} names is to "
            f"{' and '.join(wanted)}. Set hydra.sweeper.direction=[{','.join(wanted)}]."
        )
    if "latency_ms" in objectives(config.training.select) and several_at_once(config.hydra.launcher):
        alone = "Leave out hydra/launcher"
        if config.hydra.launcher._target_.endswith("SlurmLauncher"):
            alone = "Give each job a machine of its own (+hydra.launcher.additional_parameters.exclusive=true)"
        raise UserError(
            f"training.select=latency_ms: milliseconds beside other jobs say more of these than of a student. {alone}, "
            f"or name bytes in its place: training.select=[score,bytes]."
        )


def several_at_once(launcher: DictConfig) -> bool:
    """Whether jobs of a sweep share a machine, or may, so that milliseconds are those of a busy one."""
    if launcher._target_.endswith("SlurmLauncher"):
        return not launcher.additional_parameters.get("exclusive")
    return launcher._target_.endswith("LocalLauncher") or launcher.get("n_jobs", 1) != 1


def by_hydra_itself(sweeper: DictConfig) -> bool:
    """Whether the sweeper is Hydra's own, which ends at the first job that fails."""
    return str(sweeper._target_).endswith("BasicSweeper")


def beside_others() -> bool:
    """Whether this run is a job of such a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    return several_at_once(HydraConfig.get().launcher)


def varied_in(overrides: Sequence[str]) -> list[str]:
    """Keys with several values, in the order they were typed; of a key that is typed twice, the last one counts."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    last = {one.get_key_element(): one for one in parsed}
    return [key for key, one in last.items() if one.is_sweep_override()]


def told_of(sweep: Path) -> dict[str, list[str]] | None:
    """What stands in SWEEP; None where there is none, or a damaged one."""
    try:
        told = yaml.safe_load((sweep / SWEEP).read_text("utf-8"))
        return {kind: [str(item) for item in told[kind]] for kind in ("hydra", "task", "varied")}
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def key_of(override: str) -> str:
    return override.partition("=")[0]


def telling(overrides: Sequence[str]) -> list[str]:
    """Those that say something about a run."""
    return [item for item in overrides if re.split(r"[./]", key_of(item).lstrip("+~"))[0] not in PLUMBING]


def varying(sweep: Path, overrides: Sequence[str]) -> list[str]:
    """Those of a job's overrides that its sweep varies, whatever they are: jobs differ by nothing else. All that say
    something about it where nothing varies, or nobody knows."""
    told = told_of(sweep)
    return [item for item in overrides if told and key_of(item) in told["varied"]] or telling(overrides)


def rounded(value: str) -> str:
    """Numbers with three digits, where they have more; whole numbers and all that is no number as they are."""
    return re.sub(r"[^\[\]{},:\s]+", lambda part: _three_digits(part[0]), value)


def _three_digits(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    short = f"{number:.3g}"
    return value if value.lstrip("+-").isdigit() or math.isnan(number) or float(short) == number else short


def objective(found: Sequence[Mapping[str, Any]], by: str) -> float:
    """What a sweeper compares: one kind of number, never another in its place, and none that a target label went into.
    Of several tasks it is the worst.

    Args:
        found: what a run wrote to its `metrics.json`, or one for every task.
        by: one of `parts.OBJECTIVES`.
    """
    worst = min if OBJECTIVES[by] == "maximize" else max
    return worst((_of_one(metrics, by) for metrics in found), default=0.0)


def _of_one(metrics: Mapping[str, Any], by: str) -> float:
    dev = metrics["dev"]
    if by == "score":
        return float(dev["score"])
    if by != "agreement":
        return float(metrics["models"]["student"][by])
    if not dev["agreement"]:
        raise UserError(
            "training.select=agreement: no dev row of this run was read by a teacher, so there is no agreement to "
            "select by. Set training.select=score."
        )
    return float(min(dev["agreement"].values()))


# --- jobs that fail ---------------------------------------------------------------------------------------------------


def note_failure(file: Path, raised: BaseException) -> None:
    """Leaves the status of a job that failed beside it: when and why in the first line, then the traceback."""
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"failed {when}: {str(raised) or type(raised).__name__}", "", *traceback.format_exception(raised)]
    with whole_file(file) as unfinished:
        unfinished.write_text("\n".join(lines), "utf-8")


def failures(*folders: Path) -> dict[Path, str]:
    """Job -> why it failed, in a line, at any depth of these folders."""
    found = sorted({file.resolve() for folder in folders for file in folder.rglob(FAILED)})
    return {file.parent: first_line(file) for file in found}


def first_line(file: Path) -> str:
    return next(iter(file.read_text("utf-8", "replace").splitlines()), "failed")
