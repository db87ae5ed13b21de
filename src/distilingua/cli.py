"""The command line: `distilingua COMMAND [HYDRA OVERRIDES]`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

USAGE = """\
distilingua: distil a teacher that is strong in one language into a small student that serves others.

  distilingua train  [OVERRIDES]         the main job: teach, distil, compare, report
  distilingua train  -m pair=en-de,en-fr seed=1,2      a sweep: every combination
  distilingua resume [RUN]               go on with an interrupted run or sweep (default: the latest)
  distilingua evaluate MODEL [OVERRIDES] judges a run, an exported folder or a model of the hub, on any corpus
  distilingua predict MODEL [TEXT …]     its answers to texts, to the standard input, or --from FILE --to FILE
  distilingua compare [FOLDER …]         finished runs side by side, means over seeds (default: multirun)
  distilingua corpus [OVERRIDES]         what the corpus holds: rows, labels, examples, how ambiguous it is
  distilingua cache [FOLDER]             what runs keep for later ones; --prune DAYS frees what none of DAYS has used

Overrides choose and change settings, from left to right, the last one wins:
  pair=en-de student=tiny device=cpu     one file of conf/pair, conf/student, conf/device
  optimizer.lr=5e-4 pair.protocol=supervised            one value
`distilingua train --help` lists every group; `distilingua train --cfg job` prints the whole configuration.
"""
ROOM = 100_000  # bytes, for what Hydra writes before anything else
ASKING = ("-h", "--help", "--hydra-help", "--cfg", "-c", "--info", "-i")  # options that print and run nothing


def main() -> None:
    command, *rest = sys.argv[1:] or ["--help"]
    asks = any(word in ASKING for word in rest)
    if asks or command not in ("train", "resume"):
        quit_quietly()
    if command in ("-h", "--help", "help") or (asks and command in ("resume", "evaluate", "compare", "cache")):
        print(USAGE)
    elif command in ("compare", "cache", "predict"):
        from distilingua import commands

        getattr(commands, command)(rest)
    elif command == "resume":
        from distilingua import commands

        run("train", commands.resume(rest))
    elif command == "evaluate":
        from distilingua import commands

        run("evaluate", commands.evaluation(rest))
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
    check_one_folder(overrides)
    check_writable(overrides)
    from distilingua import commands

    sys.argv = [sys.argv[0], *overrides]
    getattr(commands, command)()


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
