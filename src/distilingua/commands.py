"""What the sub-commands do. What is slow to import is imported when a run is known to be possible."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal

from distilingua.artifacts import fingerprint
from distilingua.console import console
from distilingua.errors import STOPS, Stopped, UserError, as_user_error, full_disk, stop
from distilingua.locations import conf_folder, free_bytes, new_folder, overrides_file, typed_for
from distilingua.monitoring.sweep import (
    FAILED,
    SWEEP,
    by_hydra_itself,
    key_of,
    note_failure,
    objective,
    rounded,
    telling,
    told_of,
    varying,
)
from distilingua.parts import objectives

TELLING = (  # what says most about a run, in this order; then everything else that was typed, and the seed
    *("experiment", "task", "corpus", "pair", "teacher", "student", "objective", "objective/terms", "schedule"),
    *("augmentation", "sweep", "debug"),
)
LONGEST = 100  # characters of a folder's name
WORD = r"[A-Za-z0-9.-]*[A-Za-z0-9.]"
SPELT = re.compile(rf"{WORD}|\[({WORD}(,{WORD})*)?\]")  # values that a name says in full: a word, or a list of words


def run_name(overrides: Sequence[str]) -> str:
    """A name for the folder of a run, of what was typed for it."""
    return name_of(telling(overrides))


def job_name(sweep: str, overrides: Sequence[str]) -> str:
    """A name for the folder of a job, of what varies in its sweep.

    Args:
        sweep: the folder of the sweep.
        overrides: of the job.
    """
    return name_of(varying(Path(sweep), overrides))


def name_of(overrides: Sequence[str]) -> str:
    """A name made of overrides, what says most in front.

    It has letters, digits and `.`, `_`, `-`, `+` alone, so that it can be pasted into a shell, and into an override.
    What cannot be spelt so, is rounded, or is too long, leaves a hash, so that other settings have another name.
    """
    keys = {item: key_of(item).lstrip("+~") for item in overrides}
    last = Counter(re.split(r"[./]", key)[-1] for key in keys.values())
    order = {key: n for n, key in enumerate(TELLING)}
    parts, lost = [], []
    for item in sorted(keys, key=lambda item: (keys[item] == "seed", order.get(keys[item], len(order)), keys[item])):
        short = re.split(r"[./]", keys[item])[-1]
        key = short if last[short] == 1 else keys[item].replace("/", ".")
        value = "no" if item.startswith("~") else item.partition("=")[2]
        exact, value = value, rounded(value)
        plain = re.sub(r"[\[\]{}'\"\s]", "", value).replace(",", "+").replace(":", "-")
        parts.append(f"{key}-{re.sub(r'[^A-Za-z0-9.+-]+', '-', plain)}".rstrip("-"))
        if not SPELT.fullmatch(value) or value != exact:
            lost.append(item)
    name = "_".join(parts) or "default"
    if len(name) > LONGEST or lost:
        name = f"{name[:LONGEST].rstrip('-_')}-{fingerprint(sorted(keys))[:8]}"
    return name


def quoted(value: object) -> str:
    """Text as the value of an override, whatever signs are in it."""
    return "'" + str(value).replace("'", "\\'") + "'"


OmegaConf.register_new_resolver("one_minus", lambda share: 1 - share, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("job_name", job_name, replace=True)
OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def train(cfg: DictConfig) -> float | list[float]:
    """One run, or every job of a sweep; what launchers send to other processes is `job`, by its name."""
    return job(cfg)


def job(cfg: DictConfig) -> float | list[float]:
    """One run; returns what a sweeper compares: numbers that no target label goes into, see `training.select`.

    A job of a sweep that fails says why in its folder. The sweeper of Hydra itself would end at the first one, so it
    gets NaN; others are told by the error, and know what to do.
    """
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return one_run(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        found = one_run(cfg)
        (folder / FAILED).unlink(missing_ok=True)
        return found
    except Stopped:
        told = f"The whole sweep goes on with: distilingua resume {shlex.quote(HydraConfig.get().sweep.dir)}"
        print(told, file=sys.stderr)
        raise
    except Exception as raised:
        note_failure(folder / FAILED, raised)
        if not by_hydra_itself(HydraConfig.get().sweeper):
            raise
        print(f"distilingua: {folder.name} failed: {raised}", file=sys.stderr)
        return math.nan


def one_run(cfg: DictConfig) -> float | list[float]:
    """What `job` returns, or raises what is to be told."""
    run = Path(HydraConfig.get().runtime.output_dir)
    # of the processes of a job, on all its machines, which print the same
    first = all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
    with (
        readable_errors(unused=run, cache=Path(cfg.paths.cache)),
        console.logged(run / "train.log") if first else nullcontext(),
    ):
        from distilingua.checks import check

        check(cfg)
        if cfg.get("multitask"):
            from distilingua.training.multitask import train_multitask

            found = list(train_multitask(cfg).values())
        else:
            from distilingua.training.train import train as train_job

            found = [one] if (one := train_job(cfg)) else []  # only the first process of a job has a result
        values = [objective(found, by) for by in objectives(cfg.training.select)]
        return values[0] if len(values) == 1 else values


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def corpus(cfg: DictConfig) -> None:
    """Describes the corpus of a configuration; writes nothing."""
    with readable_errors():
        from distilingua.checks import check

        check(cfg)
        from distilingua.describe import describe

        describe(cfg)


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def evaluate(cfg: DictConfig) -> None:
    """Judges models on the test rows of a configuration; see `evaluation`."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with readable_errors(unused=folder), console.logged(folder / "evaluate.log"):
        from distilingua.delivery.evaluate import evaluate_models
        from distilingua.delivery.model import for_its_task

        typed = HydraConfig.get().overrides.task
        evaluate_models(for_its_task(cfg, cfg.models[0], typed), folder, task_typed=names_task(typed))


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="export")
def export(cfg: DictConfig) -> None:
    """Writes a model in other formats; see `exporting`."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    there = any(folder.iterdir())  # an earlier export, which a refusal leaves alone
    with readable_errors(unused=None if there else folder), console.logged(folder / "export.log"):
        from distilingua.delivery.export import export_model
        from distilingua.delivery.model import for_its_task

        typed = HydraConfig.get().overrides.task
        export_model(for_its_task(cfg, cfg.model, typed), folder, task_typed=names_task(typed))


def names_task(typed: Sequence[str]) -> bool:
    """Whether overrides, of the user or of the run that a model is of, name the task."""
    return any(re.match(r"task[.=]|experiment=", item) for item in typed)


def models_and_overrides(command: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Models, and the overrides for them: those of the run that the first one is of, then what was typed.

    Args:
        arguments: both, in any order.
    """
    models = [word for word in arguments if not re.match(r"[+~-]|[\w./@]+=", word) or Path(word).exists()]
    if not models:
        sys.exit(
            f"distilingua {command}: no model is named. Name the folder of a run, an exported folder, or a model of "
            f"the hub: distilingua {command} RUN"
        )
    from distilingua.delivery.model import overrides_of

    return models, [*overrides_of(models[0]), *(word for word in arguments if word not in models)]


def exporting(arguments: list[str]) -> list[str]:
    """The overrides for exporting a model, to `export/` in the folder of its run."""
    models, typed = models_and_overrides("export", arguments)
    if len(models) > 1:
        sys.exit(f"distilingua export: several models are named ({', '.join(models)}). Export one at a time.")
    path = Path(models[0]).expanduser()
    place = path / "export" if path.is_dir() else Path("export") / path.name
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", f"hydra.run.dir={quoted(place)}"]
    return [*quiet, *typed, f"model={quoted(models[0])}"]


def evaluation(arguments: list[str]) -> list[str]:
    """The overrides for judging models, in a folder of its own under `outputs/`."""
    models, typed = models_and_overrides("evaluate", arguments)
    title = re.sub(r"[^A-Za-z0-9.+-]+", "-", "+".join(Path(model).name for model in models))[:LONGEST]
    place = f"hydra.run.dir=outputs/${{now:%Y-%m-%d}}/${{now:%H-%M-%S}}_evaluate-{title}"
    listed = ",".join(quoted(model) for model in models)
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=none"]  # or `resume` would take it for a run
    return [*quiet, place, *typed, f"+models=[{listed}]"]


@contextmanager
def refusals(command: str) -> Iterator[None]:
    """A UserError of a command that is none of Hydra's ends it with its message alone, each of its lines by itself."""
    try:
        yield
    except UserError as error:
        sys.exit("\n".join(f"distilingua {command}: {problem}" for problem in str(error).splitlines()))


@contextmanager
def readable_errors(unused: Path | None = None, cache: Path | None = None) -> Iterator[None]:
    """A UserError ends the command with its message alone, and so do Ctrl-C, other signals, and a full disk.

    Args:
        unused: folder of a run, removed where the run never began.
        cache: where it keeps what later runs use.
    """
    # nohup and launchers of clusters have plans of their own
    ours = [number for number in STOPS if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours if threading.current_thread() is threading.main_thread() else ():
        signal.signal(number, stop)
    try:
        try:
            yield
        except KeyboardInterrupt:  # outside of training, which saves and says how to go on
            stop(signal.SIGINT)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise
    except Exception as raised:
        began = unused and any(entry.name != ".hydra" and entry.suffix != ".log" for entry in unused.iterdir())
        error = as_user_error(raised)
        if error is None and (full := full_disk(raised)):
            began = True  # what was typed for it is kept: with room, it goes on
            error = no_room(full, [folder for folder in (unused, cache) if folder], unused)
        if error is None:
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise error from None  # it is told beside the other jobs
        if unused and not began:
            shutil.rmtree(unused)
        sys.exit("\n".join(f"distilingua: {problem}" for problem in str(error).splitlines()))


def no_room(full: OSError, folders: Sequence[Path], run: Path | None) -> UserError:
    """What to say of a file that could not be written for want of room.

    Args:
        folders: where a run writes; and where programs do without asking, the folder for temporary files.
        run: the one that resumes, if there is any.
    """
    places = {folder: free_bytes(folder) for folder in (*folders, Path(tempfile.gettempdir()))}
    fullest = min(places, key=lambda folder: places[folder])
    kept = f" What was finished is kept; then go on with: distilingua resume {shlex.quote(str(run))}" if run else ""
    return UserError(
        f"there is no room for {full.filename or 'a file'} ({full.strerror}): {fullest} has {decimal(places[fullest])} "
        f"left. Make room (`distilingua cache` lists what earlier runs keep, `distilingua cache --prune 30` frees what "
        f"no run of 30 days has used), or name folders on another disk: paths.cache=FOLDER hydra.run.dir=FOLDER.{kept}"
    )


def resume(arguments: list[str]) -> list[str]:
    """The overrides of a run, or of a sweep, in its own folder, where its checkpoints are. Without a folder, of the
    latest."""
    if arguments:
        folder = Path(arguments[0])
    else:
        runs = [file.parents[1] for file in Path("outputs").glob("*/*/.hydra/overrides.yaml")]
        runs += [file.parent for file in Path("multirun").glob(f"*/*/{SWEEP}")]
        if not runs:
            sys.exit("distilingua resume: no run under outputs/ or multirun/. Name its folder: distilingua resume RUN.")
        folder = max(runs, key=lambda run: run.parts[-2:])  # their names begin with date and time
    if told := told_of(folder):
        hydra_own = [item for item in told["hydra"] if not item.startswith(("hydra.mode=", "hydra.sweep.dir="))]
        return ["-m", *hydra_own, *told["task"], f"hydra.sweep.dir={quoted(folder)}", *arguments[1:]]
    overrides = overrides_file(folder)
    if overrides is None:
        sys.exit(
            f"distilingua resume: {folder} is not the folder of a run or a sweep (no .hydra/overrides.yaml or {SWEEP})"
            f". Name one of outputs/ or multirun/, or none for the latest."
        )
    typed = typed_for(overrides)
    if typed is None:
        sys.exit(
            f"distilingua resume: {overrides} is damaged, so what was typed for this run is not known. Type it again: "
            f"distilingua train OVERRIDES hydra.run.dir={shlex.quote(str(folder))}"
        )
    return [*typed, f"hydra.run.dir={quoted(folder)}", *arguments[1:]]


def compare(arguments: list[str]) -> None:
    """Prints finished runs side by side, for a terminal, or as --csv, --markdown or --latex."""
    from distilingua.monitoring.plain import FORMS, tables_of

    forms = [word.removeprefix("--") for word in arguments if word.startswith("--")]
    folders = [Path(word) for word in arguments if not word.startswith("--")] or [Path("multirun")]
    if len(forms) > 1 or not set(forms) <= set(FORMS):
        known = ", ".join(f"--{form}" for form in FORMS)
        sys.exit(f"distilingua compare: {' '.join(arguments)} names no form. Choose one of {known}.")
    from distilingua.monitoring.compare import compare as compare_runs

    with refusals("compare"):
        found = compare_runs(folders)
        if forms:
            print(FORMS[forms[0]](tables_of(found)), end="")
        else:
            console.print_whole(found)


def report(arguments: list[str]) -> None:
    """A page on a run or a sweep."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit(
            f"distilingua report: {' '.join(arguments) or 'nothing'} is typed, and it takes one folder, of a finished "
            f"run or sweep: distilingua report outputs/DATE/RUN"
        )
    if not Path(arguments[0]).is_dir():
        sys.exit(f"distilingua report: {arguments[0]} is no folder. Name that of a finished run or sweep.")
    from distilingua.delivery.report import report as write

    with refusals("report"):
        write(Path(arguments[0]))


def cache(arguments: list[str]) -> None:
    """Lists what runs keep for later ones, or frees some of it."""
    from distilingua.cache import cache as list_or_prune

    with refusals("cache"):
        list_or_prune(arguments)


def init(arguments: list[str]) -> None:
    """Writes the smallest project that lives outside of a checkout of this one."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit("distilingua init: name a folder that is empty or not there yet, such as `distilingua init mine`.")
    folder = Path(arguments[0])
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        sys.exit(f"distilingua init: {folder} is there, and not empty. Name another folder.")
    try:
        shutil.copytree(Path(__file__).parent / "starter", folder, dirs_exist_ok=True)
    except OSError as error:
        sys.exit(f"distilingua init: {folder} cannot be written ({error}). Name another folder.")
    print(f"Go on with `cd {shlex.quote(str(folder))}` and its README.md.")


def predict(arguments: list[str]) -> None:
    """Answers texts."""
    from distilingua.delivery.predict import predict as answer

    try:
        with refusals("predict"):
            answer(arguments)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
