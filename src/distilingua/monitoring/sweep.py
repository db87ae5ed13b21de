"""A sweep as a whole: what was typed for it, what varies in it, which of its jobs failed, and how its jobs compare."""

from __future__ import annotations

import json
import re
import shlex
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from distilingua.artifacts import as_written, whole_file
from distilingua.errors import UserError
from distilingua.locations import overrides_file, read_yaml
from distilingua.parts import OBJECTIVES

SWEEP = "sweep.yaml"
"""In a sweep's folder: what was typed for it (`hydra`, `task`) and the keys that vary. Hydra's multirun.yaml is written
by some sweepers only."""
PLUMBING = ("hydra", "paths", "logger", "callbacks")  # says nothing about a run
FAILED = "failed.txt"
"""In a job's folder: why it failed. The try that succeeds takes it away."""


def several_at_once(launcher: DictConfig) -> bool:
    """Whether jobs of a sweep share a machine, or may, so that milliseconds are those of a busy one."""
    if launcher._target_.endswith("SlurmLauncher"):
        return not launcher.additional_parameters.get("exclusive")
    return launcher._target_.endswith("LocalLauncher") or launcher.get("n_jobs", 1) != 1


def is_basic_sweeper(sweeper: DictConfig) -> bool:
    """Whether the sweeper is Hydra's own, which ends at the first job that fails."""
    return str(sweeper._target_).endswith("BasicSweeper")


def in_a_sweep() -> bool:
    """Whether this run is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def beside_others() -> bool:
    """Whether it is a job beside others, see `several_at_once`."""
    return in_a_sweep() and several_at_once(HydraConfig.get().launcher)


def varied_keys(overrides: Sequence[str]) -> list[str]:
    """Keys with several values, in the order they were typed; of a key that is typed twice, the last one counts."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    last = {one.get_key_element(): one for one in parsed}
    return [key for key, one in last.items() if one.is_sweep_override()]


def read_sweep_note(sweep: Path) -> dict[str, list[str]] | None:
    """What stands in SWEEP; None where there is none. Raises UserError for a damaged one."""
    if not (sweep / SWEEP).exists():
        return None
    way_out = "Delete it, and type the sweep again: distilingua train -m OVERRIDES hydra.sweep.dir=FOLDER"
    with as_written(sweep / SWEEP, way_out):
        note = read_yaml(sweep / SWEEP)
        return {kind: [str(item) for item in note[kind]] for kind in ("hydra", "task", "varied")}


def metrics_of(file: Path) -> dict[str, Any]:
    """What a run found; raises UserError for a file that is not as `train` writes it."""
    run = file.parent if overrides_file(file.parent) else file.parents[1]  # a task among several has no own
    again = f"`distilingua resume {shlex.quote(str(run))}` trains and judges the student again."
    with as_written(file, f"Delete it; {again}"):
        metrics: dict[str, Any] = json.loads(file.read_text("utf-8"))
        sum([*(share for *_, share in shares_of(metrics)), *metrics["seconds"].values()])  # they are numbers
        hash((metrics["seed"], metrics["task"], metrics["pair"]))
        metrics["models"]["student"], metrics["dev"]["score"]
    return metrics


def shares_of(run: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Language, column and what stands there, of one run."""
    score, *_ = run["shown"]
    for lang in run["models"]["student"]["languages"]:
        for name, model in run["models"].items():
            yield lang, name, model["languages"][lang][score]
        if run["retention"]:
            yield lang, "kept", run["retention"]["languages"][lang]
        if lang in run["soft_labels"]:
            yield lang, "read right", run["soft_labels"][lang]


def key_of(override: str) -> str:
    return override.partition("=")[0]


def settings_in(overrides: Sequence[str]) -> list[str]:
    """Those that say something about a run."""
    return [item for item in overrides if re.split(r"[./]", key_of(item).lstrip("+~"))[0] not in PLUMBING]


def settings_of_sweep(note: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Key -> the last override of it, of all that shape the jobs of a sweep: how many a search tries is no such one."""
    searched = [item for item in note["hydra"] if re.match(r"\+*hydra(/|\.)sweeper(\.params|=)", item)]
    return {key_of(item).lstrip("+"): item for item in (*settings_in(note["task"]), *searched)}


def differing(sweep: Path, overrides: Sequence[str]) -> list[str]:
    """Those of a job's overrides that its sweep varies, whatever they are: jobs differ by nothing else. All that say
    something about it where nothing varies, or nobody knows."""
    varied = (read_sweep_note(sweep) or {}).get("varied", ())
    return [item for item in overrides if key_of(item) in varied] or settings_in(overrides)


def three_digits(value: str) -> str:
    """Fractions with three digits, where they have more; whole numbers and all that is no number as they are."""

    def short(number: re.Match[str]) -> str:
        digits = f"{float(number[0]):.3g}"
        return number[0] if float(digits) == float(number[0]) else digits

    return re.sub(r"(?<![\w.])[+-]?\d*\.\d+(e[+-]?\d+)?(?![\w.])", short, value)


def objective(results: Sequence[Mapping[str, Any]], by: str) -> float:
    """What a sweeper compares: one kind of number, never another in its place, and none that a target label went into.
    Of several tasks it is the worst.

    Args:
        results: what a run wrote to its `metrics.json`, or one for every task.
        by: one of `parts.OBJECTIVES`.
    """
    worst = min if OBJECTIVES[by] == "maximize" else max
    return worst((_of_one(metrics, by) for metrics in results), default=0.0)


def _of_one(metrics: Mapping[str, Any], by: str) -> float:
    dev = metrics["dev"]
    if by == "agreement" and not dev["agreement"]:
        raise UserError(
            "training.select=agreement: no dev row of this run was read by a teacher, so there is no agreement to "
            "select by. Set training.select=score."
        )
    known = {"score": dev["score"], "agreement": min(dev["agreement"].values(), default=0.0)}
    return float(known[by] if by in known else metrics["models"]["student"][by])


def final_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What a distilled student is looked at for comes first: the main score in the targets, what is kept of the
    teacher's; then the other scores there, and the source's."""
    languages, (main, *others) = metrics["models"]["student"]["languages"], metrics["shown"]
    source, *targets = languages
    kept = metrics["retention"]
    return {
        **{f"test/{lang}/{main}": languages[lang][main] for lang in targets},
        **{f"retention/{name}": kept[name] for name in ("mean", "worst") if kept},
        **{f"test/{lang}/{name}": languages[lang][name] for lang in targets for name in others},
        **{f"test/{source}/{name}": languages[source][name] for name in (main, *others)},
    }


def has_begun(job: Path) -> bool:
    """Whether something is kept in its folder that belongs to its settings."""
    return (job / "checkpoints" / "settings.yaml").exists() or bool(results_in(job))


def results_in(job: Path) -> list[Path]:
    """Files with what a job found, one for every task; none where it has not come to its end."""
    return sorted(job.glob("metrics.json")) or sorted(job.glob("*/metrics.json"))


def short_keys(keys: Collection[str]) -> dict[str, str]:
    """Keys -> what stands after their last dot or slash, where that is no other's too."""
    ends = [(key, re.split(r"[./]", key)[-1]) for key in keys]
    times = Counter(end for _, end in ends)
    return {key: end if times[end] == 1 else key for key, end in ends}


# --- jobs that fail ---------------------------------------------------------------------------------------------------


def note_failure(file: Path, raised: BaseException) -> None:
    """Leaves the status of a job that failed beside it: when and why in the first line, then the traceback."""
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"failed {when}: {str(raised) or type(raised).__name__}", "", *traceback.format_exception(raised)]
    with suppress(OSError), whole_file(file) as unfinished:  # of a disk that is full, or a folder that is gone
        unfinished.write_text("\n".join(lines), "utf-8")


def failures(*folders: Path) -> dict[Path, str]:
    """Job -> why it failed, in a line, at any depth of these folders."""
    files = sorted({file.resolve() for folder in folders for file in folder.rglob(FAILED)})
    return {file.parent: next(iter(file.read_text("utf-8", "replace").splitlines()), "failed") for file in files}
