"""The command line: `distilingua COMMAND [HYDRA OVERRIDES]`."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

# what all commands have in common, then a section for each
_COMMON, _, _SECTIONS = Path(__file__).with_name("help.txt").read_text("utf-8").partition("\n" + 120 * "=" + "\n")
HELP = {section.partition(" ")[0]: f"distilingua {section.strip()}\n" for section in _SECTIONS.split("\n\n")}
COMMANDS = tuple(HELP)
_HEADINGS = [text.splitlines()[0].partition(": ") for text in HELP.values()]
USAGE = _COMMON.replace("COMMANDS", "\n".join(f"  {typed:<38} {does}" for typed, _, does in _HEADINGS))
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
