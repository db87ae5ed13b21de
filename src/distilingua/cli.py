"""The command line: `distilingua COMMAND [HYDRA OVERRIDES]`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from distilingua.usage import HELP, USAGE, config_of, help_of, mistyped

ROOM = 100_000  # bytes, for what Hydra writes before anything else
ASKING = ("-h", "--help", "--hydra-help", "--cfg", "-c", "--info", "-i")  # options that print and run nothing

NAMING = {  # commands that are given a run or models: what Hydra runs for them, and what makes its overrides
    "resume": ("train", "resume"),
    "evaluate": ("evaluate", "evaluation"),
    "export": ("export", "exporting"),
}


def main() -> None:
    command, *rest = sys.argv[1:] or ["--help"]
    asks = any(word in ASKING for word in rest)
    if asks or command not in ("train", "resume"):
        quit_quietly()
    if command in ("-h", "--help", "help"):
        print(help_of(*rest[:1]), end="")
    elif asks and command in HELP and (command not in ("train", "corpus") or {"-h", "--help"} & set(rest)):
        print(help_of(command), end="")
    elif command == "completion":
        from distilingua.completion import completion

        completion(rest)
    elif command in ("compare", "cache", "predict", "init", "report"):
        from distilingua import commands

        getattr(commands, command)(rest)
    elif command in NAMING:
        from distilingua import commands

        hydra, overrides = NAMING[command]
        run(hydra, getattr(commands, overrides)(rest))
    elif command == "corpus":
        run("corpus", [*rest, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"])
    elif command == "train" or "=" in command or command.startswith("-"):
        # Lightning starts the other processes of a job by repeating the command line without its first word
        run("train", rest if command == "train" else [command, *rest])
    else:
        sys.exit(f"distilingua: {command!r} is not a command.\n\n{USAGE}")


def quit_quietly() -> None:
    """A reader that has seen enough (`… | head`) ends a command that only prints, as it ends any program of Unix."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def run(command: str, overrides: list[str]) -> None:
    overrides = with_own_configurations(overrides)
    check_one_folder(overrides)
    check_writable(overrides)
    from distilingua import commands

    sys.argv = [sys.argv[0], *overrides]
    # or Hydra prints its errors itself, in several lines and none of them with what to type
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        getattr(commands, command)()
    except Exception as error:
        if (told := mistyped(error, config_of(command))) is None:
            raise
        sys.exit(f"distilingua: {told}")


def with_own_configurations(arguments: list[str]) -> list[str]:
    """`--config-dir FOLDER` as an override, which Hydra keeps with a run, so that `resume`, `evaluate` and `export`
    find these configurations again, from wherever they are typed."""
    from distilingua.locations import SEARCHPATH

    kept, rest = [], iter(arguments)
    for word in rest:
        option, equals, value = word.partition("=")
        if option not in ("--config-dir", "-cd"):
            kept.append(word)
            continue
        folder = Path(value if equals else next(rest, ""))
        if not folder.is_dir() or folder == Path():
            sys.exit(f"distilingua: --config-dir {folder}: there is no such folder. Name the one with your YAML files.")
        place = str(folder.absolute()).replace("'", "\\'")
        kept.append(f"{SEARCHPATH}['file://{place}']")
    return kept


def check_one_folder(overrides: list[str]) -> None:
    """Processes that torchrun or srun has started would each name a folder after the second in which they start."""
    several = any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    if several and not any(word.startswith("hydra.run.dir=") for word in overrides):
        sys.exit(
            "distilingua: several processes were started for one run, and each would name a folder of its own. Name "
            "one for all: hydra.run.dir=outputs/NAME"
        )


def check_writable(overrides: list[str]) -> None:
    """Hydra makes the run's folder before anything else, and would answer with a traceback."""
    places = ("hydra.run.dir=", "hydra.sweep.dir=")
    given = [o.partition("=")[2].strip("'").replace("\\'", "'") for o in overrides if o.startswith(places)]
    for name in given or ["outputs"]:
        if "${" in name:
            continue
        folder = Path(name).absolute()
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            sys.exit(f"distilingua: {folder} cannot be written ({existing} is in the way). Set hydra.run.dir=FOLDER.")
        if shutil.disk_usage(existing).free < ROOM:
            sys.exit(f"distilingua: the disk of {folder} is full. Make room, or set hydra.run.dir=FOLDER on another.")
