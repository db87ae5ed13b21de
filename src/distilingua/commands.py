"""What the commands do. What is slow to import is imported when a run is known to be possible."""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal

from distilingua import overrides
from distilingua.cache import cache
from distilingua.checks import check
from distilingua.console import console
from distilingua.errors import NO_MORE_FILES, NO_ROOM, STOPS, Stopped, UserError, as_user_error, of_the_system, stop
from distilingua.locations import conf_folder, free_bytes
from distilingua.monitoring.hydra_callback import SweepCallback
from distilingua.monitoring.sweep import FAILED, in_a_sweep, is_basic_sweeper, note_failure, objective
from distilingua.parts import Settings, objectives


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs a command; whatever ends it, but a mistake of this package, is told in a line for each problem."""
    with readable_errors(f"distilingua {command}"):
        if command in WITHOUT_HYDRA:
            WITHOUT_HYDRA[command](arguments)
            return
        hydra_main, overrides_for = WITH_HYDRA[command]
        typed = overrides_for(arguments)
    with readable_errors():
        sys.argv = [sys.argv[0], *overrides.for_hydra(typed)]
        # or Hydra prints its errors itself, in several lines and none of them with what to type
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")
        threading.excepthook = in_a_thread
        try:
            hydra_main()
        except Exception as error:
            if (problem := mistyped(error, config_of(command))) is None:
                raise
            raise UserError(problem) from None


# --- what Hydra runs --------------------------------------------------------------------------------------------------

hydra_command = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")


def job(cfg: DictConfig) -> float | list[float]:
    """One run; returns what a sweeper compares: numbers that no target label goes into, see `training.select`."""
    run, values = Path(HydraConfig.get().runtime.output_dir), [math.nan]
    # of the processes of a job, on all its machines, which print the same
    first = all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
    log = console.logged(run / "train.log") if first else nullcontext()
    with told_to_the_sweep(run), readable_errors(run=run, cache=Path(cfg.paths.cache)), log:
        parts = check(cfg)
        from distilingua.training.fitting import exclusive_run
        from distilingua.training.multitask import train_multitask
        from distilingua.training.train import train as train_one

        with exclusive_run(Path(cfg.paths.run)):
            if cfg.get("multitask"):
                results = [*train_multitask(Settings.of(cfg), parts).values()]
            else:
                results = [train_one(*parts.values())]
        # only the first process of a job has a result
        values = [objective([*filter(None, results)], by) for by in objectives(cfg.training.select)]
    return values[0] if len(values) == 1 else values


@contextmanager
def told_to_the_sweep(run: Path) -> Iterator[None]:
    """A job of a sweep that fails says why in its folder. The sweeper of Hydra itself would end at the first one, so it
    goes on, with NaN; others are told by the error, and know what to do."""
    if not in_a_sweep():
        yield
        return
    sweep = HydraConfig.get()
    try:
        yield
        (run / FAILED).unlink(missing_ok=True)
    except Stopped:
        print(f"The whole sweep goes on with: distilingua resume {shlex.quote(sweep.sweep.dir)}", file=sys.stderr)
        raise
    except Exception as raised:
        note_failure(run / FAILED, raised)
        if not is_basic_sweeper(sweep.sweeper):
            raise
        print(f"distilingua: {run.name} failed: {raised}", file=sys.stderr)


train = hydra_command(job)  # one run, or every job of a sweep; launchers send `job` to other processes, by its name


@hydra_command
def corpus(cfg: DictConfig) -> None:
    """Describes the corpus of a configuration; writes nothing."""
    with readable_errors():
        parts = check(cfg)
        from distilingua.describe import describe

        for one in parts.values():
            describe(one)


@hydra_command
def evaluate(cfg: DictConfig) -> None:
    """Judges models on the test rows of a configuration; see `overrides.for_evaluate`."""
    folder, typed = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().overrides.task
    with readable_errors(run=folder), console.logged(folder / "evaluate.log"):
        from distilingua.delivery.evaluate import evaluate_models
        from distilingua.delivery.model import for_its_task

        evaluate_models(for_its_task(cfg, cfg.models[0], typed), folder, task_typed=names_task(typed))


@hydra_command
def why(cfg: DictConfig) -> None:
    """Itemises the gap of a run's student; see `overrides.for_why`."""
    with readable_errors(run=Path(HydraConfig.get().runtime.output_dir)):
        from distilingua.delivery.model import for_its_task
        from distilingua.delivery.why import why as explain

        explain(for_its_task(cfg, cfg.models[0], HydraConfig.get().overrides.task), cfg.models[0])


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="export")
def export(cfg: DictConfig) -> None:
    """Writes a model in other formats; see `overrides.for_export`."""
    folder, typed = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().overrides.task
    with readable_errors(run=folder), console.logged(folder / "export.log"):
        from distilingua.delivery.export import export_model
        from distilingua.delivery.model import for_its_task

        export_model(for_its_task(cfg, cfg.model, typed), folder, task_typed=names_task(typed))


def names_task(typed: Sequence[str]) -> bool:
    """Whether overrides, of the user or of the run that a model is of, name the task."""
    return any(re.match(r"task[.=]|experiment=", item) for item in typed)


WITH_HYDRA: dict[
    str, tuple[Any, Callable[[Sequence[str]], list[str]]]
] = {  # what Hydra runs, and what makes its overrides of what is typed
    "train": (train, list),
    "resume": (train, overrides.for_resume),
    "corpus": (corpus, overrides.for_corpus),
    "evaluate": (evaluate, overrides.for_evaluate),
    "export": (export, overrides.for_export),
    "why": (why, overrides.for_why),
}


def in_a_thread(ended: threading.ExceptHookArgs) -> None:
    """What a disk refuses to a thread of TensorBoard, it hands on to the main one, which tells it."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)


@contextmanager
def readable_errors(who: str = "", run: Path | None = None, cache: Path | None = None) -> Iterator[None]:
    """How every command ends: a UserError, and what the machine refuses, with its message alone; Ctrl-C and other
    signals with their exit code.

    Args:
        who: of a command that leaves nothing to go on with, what its lines begin with.
        run: folder of a run; what was made there is removed where the run never began.
        cache: where it keeps what later runs use.
    """
    if not who and threading.current_thread() is threading.main_thread():
        for number in STOPS:
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup and launchers of clusters have plans of their own
                signal.signal(number, stop)
    try:
        with _ctrl_c(who):
            yield
            sys.stdout.flush()  # or what cannot be printed is told by Python as it ends, and nobody knows
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise
    except Exception as raised:
        refused = as_user_error(raised)
        error = refused or of_the_machine(raised, run, cache)
        if error is None:
            raise
        if in_a_sweep():
            raise error from None  # it is told beside the other jobs
        if run and refused:
            take_away(run)
        sys.exit("\n".join(f"{who or 'distilingua'}: {problem}" for problem in str(error).splitlines()))


@contextmanager
def _ctrl_c(who: str) -> Iterator[None]:
    """Outside of training, which saves and says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if who:
            sys.exit(128 + signal.SIGINT)
        stop(signal.SIGINT)


def take_away(run: Path) -> None:
    """Removes what a refused run has made, where that is no more than Hydra's notes and a log."""
    made = [entry for entry in run.iterdir() if entry.name not in (SweepCallback.there or ())]
    if any(entry.name != ".hydra" and entry.suffix != ".log" for entry in made):
        return
    for entry in made:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if SweepCallback.there is None:
        run.rmdir()


def of_the_machine(raised: Exception, run: Path | None, cache: Path | None) -> UserError | None:
    """What to say of what a disk or the system refuses; None of any other error.

    Args:
        run: where a command writes; and where programs do without asking, the folder for temporary files.
        cache: of a run, which can go on.
    """
    kept = f" What was finished is kept; then go on with: distilingua resume {shlex.quote(str(run))}" if cache else ""
    if run and not any(run.glob("*.log")):
        return UserError(f"{run} was deleted while it was at work in there. Type it again: the cache has what it kept.")
    error = of_the_system(raised, NO_ROOM | NO_MORE_FILES | {errno.EROFS})
    if error is None and isinstance(raised, OSError) and raised.filename:
        error = raised
    if error is None:
        return None
    if error.errno in NO_MORE_FILES:
        return UserError(f"{error.strerror} for this command. Allow more, such as with `ulimit -n 4096`.{kept}")
    file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file"
    if error.errno not in NO_ROOM or file.startswith("the standard "):
        return UserError(f"{file}: {error.strerror}. Name one that this command can read, or write to.{kept}")
    return UserError(f"there is no room for {file} ({error.strerror}): {_where_room_is_short(file, run, cache)}.{kept}")


def _where_room_is_short(file: str, run: Path | None, cache: Path | None) -> str:
    folders = [run, cache, Path(tempfile.gettempdir())] if run else [Path(file).parent]
    free, fullest = min((free_bytes(folder), folder) for folder in folders if folder)
    return (
        f"{fullest} has {decimal(free)} left. Make room (`distilingua cache` lists what earlier runs keep, "
        f"`distilingua cache --prune 30` frees what no run of 30 days has used), or name folders on another disk: "
        f"paths.cache=FOLDER hydra.run.dir=FOLDER"
    )


# --- what was mistyped ------------------------------------------------------------------------------------------------


def config_of(command: str) -> str:
    """Name of the configuration that a command's overrides change."""
    return "export" if command == "export" else "train"


def mistyped(error: Exception, config: str) -> str | None:
    """What Hydra cannot read of what was typed, in a line with what to type; None for any other error.

    Args:
        config: name of the configuration that was asked for.
    """
    said = " ".join(str(error).split())
    if said.startswith("Config group override must be"):  # which one, Hydra does not say
        return (
            "a group is chosen by the name of a file in conf/ or by a list of names, so none of its files is GROUP=[], "
            "such as logger=[], and not GROUP=null."
        )
    if not isinstance(error, HydraException):
        return None
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read as KEY=VALUE ({said.partition(' See https')[0]}). Quote what a shell "
            f"or Hydra takes apart: \"corpus.path='my data (v2)'\"."
        )
    if found := re.match(r"Could not (?:override|delete from config).*?'([\w./@]+)'", said):
        near = get_close_matches(found[1], list(known_keys(config)), 1)
        hint = f"Did you mean {near[0]}?" if near else "`distilingua train --cfg job` prints all of them."
        return f"there is no key {found[1]}. {hint} +{found[1]}=VALUE adds one."
    if found := re.match(r"Could not append to config. An item is already at '([\w./@]+)'", said):
        return f"{found[1]} is there already. Type it without +."
    if found := re.search(
        r"Could not find '(\S+)/([^/\s]*)' Available options in '\S+?': (.+?)(?: Config sea|$)", said
    ):
        listed = [name for name in found[3].split() if name != "base"]
        near = get_close_matches(found[2], listed, 1)
        hint = f"Did you mean {near[0]}? There are" if near else "Choose one of"
        return f"{found[1]}={found[2]}: there is no such file in conf/{found[1]}. {hint} {', '.join(listed)}."
    return said


def known_keys(config: str) -> Iterator[str]:
    """Of a configuration without overrides: groups, sections and values, with dots."""

    def inside(values: Any, before: str = "") -> Iterator[str]:
        for key, value in values.items() if isinstance(values, dict) else ():
            yield f"{before}{key}"
            yield from inside(value, f"{before}{key}.")

    composed = configurations().load_configuration(config, [], RunMode.RUN)
    yield from inside(OmegaConf.to_container(composed, resolve=False))


def configurations() -> ConfigLoaderImpl:
    return ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(conf_folder())))


# --- the others -------------------------------------------------------------------------------------------------------


def compare(arguments: Sequence[str]) -> None:
    """Prints finished runs side by side, for a terminal, or as --csv, --markdown or --latex."""
    from distilingua.monitoring.compare import compare as compare_runs
    from distilingua.monitoring.tables import FORMS

    forms = [word.removeprefix("--") for word in arguments if word.startswith("--")]
    folders = [Path(word) for word in arguments if not word.startswith("--")] or [Path("multirun")]
    if len(forms) > 1 or not set(forms) <= set(FORMS):
        known = ", ".join(f"--{form}" for form in FORMS)
        raise UserError(f"{' '.join(arguments)} names no form. Choose one of {known}.")
    comparison = compare_runs(folders)
    if forms:
        print(FORMS[forms[0]](comparison.tables), end="")
    else:
        console.print_whole(comparison)


def report(arguments: Sequence[str]) -> None:
    """A page on a run or a sweep."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        raise UserError(
            f"{' '.join(arguments) or 'nothing'} is typed, and it takes one folder, of a finished run or sweep: "
            f"distilingua report outputs/DATE/RUN"
        )
    from distilingua.delivery.report import report as write_report

    write_report(Path(arguments[0]))


def init(arguments: Sequence[str]) -> None:
    """Writes the smallest project that lives outside of a checkout of this one."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("name a folder that is empty or not there yet, such as `distilingua init mine`.")
    folder = Path(arguments[0])
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there, and not empty. Name another folder.")
    try:
        shutil.copytree(Path(__file__).parent / "starter", folder, dirs_exist_ok=True)
    except shutil.Error as error:  # of many files, each with its own
        _, name, why = error.args[0][0]
        raise UserError(f"{name} cannot be written ({why.partition(':')[0]}). Name another folder.") from None
    except OSError as error:
        if error.errno in NO_ROOM:  # which is told with how much there is
            raise
        raise UserError(f"{folder} cannot be written ({error.strerror}). Name another folder.") from None
    print(f"Go on with `cd {shlex.quote(str(folder))}` and its README.md.")


def predict(arguments: Sequence[str]) -> None:
    """Answers texts."""
    from distilingua.delivery.predict import predict as answer

    answer(arguments)


BASH = """\
_distilingua() {
  local line="${COMP_LINE:0:$COMP_POINT}" word
  word="${line##* }"
  local IFS=$'\\n'
  COMPREPLY=($(distilingua completion --words "$line" 2>/dev/null))
  local cut="${word%"${word##*[=:]}"}"  # bash takes words apart at = and :, and completes the last part
  COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
complete -o nospace -o default -F _distilingua distilingua
"""
SCRIPTS = {
    "bash": BASH,
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n" + BASH,
    "fish": "complete -c distilingua -f -a '(distilingua completion --words (commandline -cp | string collect))'\n",
}


def completion(arguments: Sequence[str]) -> None:
    """Prints a shell's script, which completes commands, then Hydra's own groups, choices and keys; or, for that
    script, what the last word of a line may become."""
    if len(arguments) == 2 and arguments[0] == "--words":
        print("\n".join(words(arguments[1])))
    elif len(arguments) == 1 and arguments[0] in SCRIPTS:
        print(SCRIPTS[arguments[0]], end="")
    else:
        raise UserError(
            f"{' '.join(arguments) or 'nothing'} is typed, and it takes a shell, one of {', '.join(SCRIPTS)}."
        )


def words(line: str) -> list[str]:
    """What the last word of a line may become.

    Args:
        line: as far as it is typed, the command itself included.
    """
    _, command, *overrides = [*line.split(), *([""] if line.endswith(" ") else [])]
    if not overrides:
        return [name for name in (*WITH_HYDRA, *WITHOUT_HYDRA) if name.startswith(command)]
    if command not in WITH_HYDRA or command == "resume":
        return []
    known = [word for word in overrides[:-1] if "=" in word]  # not a model, nor -m
    return sorted(BashCompletion(configurations())._query(config_of(command), " ".join([*known, overrides[-1]])))


WITHOUT_HYDRA = {
    "compare": compare,
    "report": report,
    "cache": cache,
    "init": init,
    "completion": completion,
    "predict": predict,
}
