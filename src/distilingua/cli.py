"""The command line: `distilingua COMMAND [HYDRA OVERRIDES]`."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from distilingua.usage import COMMANDS, USAGE, help_of

HELPS = {"-h", "--help"}
ASKING = {*HELPS, "--hydra-help", "--cfg", "-c", "--info", "-i"}  # options that print and run nothing


def main() -> None:
    with suppress(AttributeError, OSError):  # a letter that its encoding lacks costs the letter, not the run
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    command, *rest = sys.argv[1:] or ["--help"]
    if "=" in command or (command.startswith("-") and command not in HELPS):
        # Lightning starts the other processes of a job by repeating the command line without its first word
        command, rest = "train", [command, *rest]
    asks = not ASKING.isdisjoint(rest)
    if asks or command not in ("train", "resume"):
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


def quit_quietly() -> None:
    """A reader that has seen enough (`… | head`) ends a command that only prints, as it ends any program of Unix."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
