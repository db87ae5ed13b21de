"""The command line: `distilingua COMMAND [HYDRA OVERRIDES]`."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from textwrap import fill
from typing import Any

MANUAL = """\
train [OVERRIDES]: the main job: teach, distil, compare, report; with -m a sweep, of every combination
Fine-tunes the teacher, stores its soft labels, trains the baseline and the student, and judges all three on the test
split. With -m, for every combination of the values that stand with commas.
  distilingua train
  distilingua train pair=en-fr student=nano optimizer.lr=5e-4
  distilingua train debug=tiny                       a minute, to see whether a change works
  distilingua train -m pair=en-de,en-fr seed=1,2
  distilingua train --config-dir conf experiment=mine          with files of your own
Groups and their choices; `--cfg job` prints every key with its value, `--hydra-help` the options of Hydra:

resume [RUN]: go on with an interrupted run or sweep (default: the latest)
A run goes on to the weights it would have had; a sweep does what is missing. Overrides may follow.
  distilingua resume
  distilingua resume outputs/2026-01-31/12-00-00_default
  distilingua resume multirun/2026-01-31/12-00-00

evaluate MODEL [OVERRIDES]: judges a run, an exported folder or a model of the hub, on any corpus
Several models are judged on the same rows. What is not typed is as the first model's run had it.
  distilingua evaluate outputs/2026-01-31/12-00-00_default
  distilingua evaluate RUN RUN/export/onnx_int8
  distilingua evaluate RUN corpus=files corpus.path=data pair.targets=[de,nl]

export RUN [OVERRIDES]: its student for others, each format judged by itself, in RUN/export/
  distilingua export RUN
  distilingua export RUN format=[hub,onnx_int8]
  distilingua export RUN format=[web]            a page that runs it in the browser

predict MODEL [TEXT …]: its answers to texts, to the standard input, or --from FILE --to FILE

compare [FOLDER …]: finished runs side by side, means over seeds (default: multirun)
A table per setting; below, jobs that failed.
  distilingua compare                        all of multirun/
  distilingua compare outputs multirun/2026-01-31
  distilingua compare --latex multirun > table.tex            or --csv, --markdown

report FOLDER: a run or a sweep as a page of HTML, for those who were not there
It needs nothing beside it: scores with intervals, size and speed, curves, confusions, cost, settings, versions.
  distilingua report outputs/2026-01-31/12-00-00_default
  distilingua report multirun/2026-01-31/12-00-00

corpus [OVERRIDES]: what the corpus holds: rows, labels, examples, how ambiguous it is
Also what cleaning dropped. Writes nothing.
  distilingua corpus pair=en-fr
  distilingua corpus corpus=files corpus.path=data pair.targets=[es]

init FOLDER: a project of your own outside of a checkout: files, configuration, a README
  distilingua init mine
  cd mine && distilingua train --config-dir conf experiment=mine

cache [FOLDER]: what runs keep for later ones; --prune DAYS frees what none of DAYS has used
  distilingua cache                          of .cache, where FOLDER is not given
  distilingua cache --prune 30

completion SHELL: what makes bash, zsh or fish complete commands, groups, choices and keys
  eval "$(distilingua completion bash)"      in ~/.bashrc; zsh, in ~/.zshrc
  distilingua completion fish | source       in ~/.config/fish/config.fish
"""
HELP = {section.partition(" ")[0]: f"distilingua {section.strip()}\n" for section in MANUAL.split("\n\n")}
COMMANDS = tuple(HELP)
_HEADINGS = [text.splitlines()[0].partition(": ") for text in HELP.values()]
_LISTED = "\n".join(f"  {typed:<38} {does}" for typed, _, does in _HEADINGS)
USAGE = f"""\
distilingua: distil a teacher that is strong in one language into a small student that serves others.

{_LISTED}

Overrides choose and change settings, from left to right, the last one wins:
  pair=en-de student=tiny device=cpu     one file of conf/pair, conf/student, conf/device
  optimizer.lr=5e-4 pair.protocol=supervised            one value
`distilingua COMMAND --help` has examples; `distilingua train --cfg job` prints the whole configuration.

A command ends with 0 where it did what it was asked to; with 1 where it could not, after a line that says what to
type instead, and where a job of a sweep failed; with 2 where an option is unknown; with 128 and the number of the
signal that ended it (130 for Ctrl-C), after saving what it needs to go on.
"""
HELPS = {"-h", "--help"}
ASKING = {*HELPS, "--hydra-help", "--cfg", "-c", "--info", "-i"}  # options that print and run nothing


def main() -> None:
    outlast_readers()
    command, *rest = sys.argv[1:] or ["--help"]
    if "=" in command or (command.startswith("-") and command not in HELPS):
        # Lightning starts the other processes of a job by repeating the command line without its first word
        command, rest = "train", [command, *rest]
    asks = not ASKING.isdisjoint(rest)
    if asks or command not in ("train", "resume", "evaluate", "export"):
        quit_quietly()
    if command in {*HELPS, "help"}:
        print(help_of(*rest[:1]), end="")
    elif command not in COMMANDS:
        sys.exit(f"distilingua: {command!r} is not a command.\n\n{USAGE}")
    elif command != "predict" and (not HELPS.isdisjoint(rest) or (asks and command not in ("train", "corpus"))):
        print(help_of(command), end="")
    else:
        from distilingua.commands import run  # not for those who only ask for help

        run(command, rest)


def help_of(command: str = "") -> str:
    """With what can be chosen for `train`; the whole usage where no command is named."""
    text = HELP.get(command, USAGE)
    if command == "train":
        from distilingua.locations import conf_folder  # not for those who only ask for help

        groups: dict[str, list[str]] = {}
        for path in sorted(conf_folder().glob("*/**/*.yaml")):
            groups.setdefault(path.parent.relative_to(conf_folder()).as_posix(), []).append(path.stem)
        for group, names in groups.items():
            listed = " ".join(name for name in names if name != "base")
            text += fill(listed, 120, initial_indent=f"  {group} = ", subsequent_indent=" " * 6) + "\n"
    return text


def quit_quietly() -> None:
    """A reader that has seen enough (`… | head`) ends a command that only prints, as it ends any program of Unix."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


class Outlet(io.FileIO):
    """The standard output or error of a command that goes on when its reader has gone away (`… | head`, a terminal that
    was closed): what it writes then is lost. Another error has a name, and is the last one."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            to_nowhere(self.fileno())
            if error.errno in (errno.EPIPE, errno.EIO):
                return len(content)
            error.filename = f"the standard {'output' if self.fileno() == 1 else 'error'}"
            raise


def to_nowhere(number: int) -> None:
    """Makes a descriptor of a file one that takes all, and keeps nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def outlast_readers() -> None:
    """Lets Python print through an `Outlet`. A letter that an encoding lacks costs the letter, not the run."""
    for number, name in enumerate(("stdout", "stderr"), start=1):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):  # somebody in this process reads it
            continue
        if stream is None:  # closed by whoever started us; the next file that is opened would take its place
            to_nowhere(number)
        raw = io.BufferedWriter(Outlet(number, "w", closefd=False))
        encoding, by_line = getattr(stream, "encoding", "utf-8"), getattr(stream, "line_buffering", True)
        setattr(sys, name, io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=by_line))
