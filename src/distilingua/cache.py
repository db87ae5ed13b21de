"""`distilingua cache`: what runs keep for later ones, and how to free what none has used for a while."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from rich.filesize import decimal

from distilingua.artifacts import FILES, clear_unfinished, remove
from distilingua.console import console, plain_table
from distilingua.errors import UserError

DAY = 24 * 60 * 60
OURS = re.compile(r"(\.?)([0-9a-f]{16})(-\w+)?")  # HASH is kept, .HASH-unfinished was being filled
TYPE = "Type distilingua cache [FOLDER] [--prune DAYS]; FOLDER is paths.cache of the runs, .cache unless set."


@dataclass
class Kept:
    """A folder that a run has left.

    Args:
        folder: where it is.
        size: of all its files, in bytes.
        made, used: when it was made, and when a run opened it last; in seconds since 1970.
        run: the folder of the run that made it, "" where that is not known.
    """

    folder: Path
    size: int
    made: float
    used: float
    run: str

    @property
    def finished(self) -> bool:
        return not self.folder.name.startswith(".")


def cache(arguments: Sequence[str]) -> None:
    """Lists what is kept, or frees what no run has opened for so many days.

    Raises:
        UserError: arguments that cannot be meant.
    """
    words, days = [word.removeprefix("paths.cache=") for word in arguments], None
    if "--prune" in words:
        at = words.index("--prune")
        given = words[at + 1] if at + 1 < len(words) else ""
        if not re.fullmatch(r"\d+(\.\d+)?", given):
            raise UserError(f"--prune {given or 'without a number'}: expected days, such as --prune 30. {TYPE}")
        days = float(given)
        del words[at : at + 2]
    if len(words) > 1 or any(word.startswith("-") for word in words):
        raise UserError(f"{' '.join(words)} is not understood. {TYPE}")
    root = Path(words[0] if words else ".cache")
    if not root.is_dir():
        raise UserError(f"{root} is no folder. {TYPE}")
    if days is None:
        show(root)
    else:
        prune(root, days)


def kept(root: Path) -> list[Kept]:
    """All of a cache, by kind, what was used last first."""
    found = [_look(path) for path in root.glob("*/*") if path.is_dir() and OURS.fullmatch(path.name)]
    return sorted(found, key=lambda one: (one.folder.parent.name, -one.used))


def _look(folder: Path) -> Kept:
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    latest = max((file.st_mtime for file in files), default=folder.stat().st_mtime)
    made, run, used = latest, "", latest
    try:
        note = json.loads((folder / FILES).read_text("utf-8"))
        made, run, used = float(note["made"]), str(note["run"]), (folder / FILES).stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):  # not finished, or damaged
        pass
    return Kept(folder, sum(file.st_size for file in files), made, used, run)


def show(root: Path) -> None:
    everything, now = kept(root), time.time()
    table = plain_table(None, ("kind", "folder", "made by"), ("size", "made", "used"))
    for one in everything:
        table.add_row(
            one.folder.parent.name,
            one.folder.name if one.finished else f"{one.folder.name[1:17]} (unfinished)",
            one.run,
            decimal(one.size),
            _ago(now - one.made),
            _ago(now - one.used),
        )
    console.print_whole(table)
    console.print(f"{len(everything)} folders in {root}, {decimal(sum(one.size for one in everything))}.")


def _ago(seconds: float) -> str:
    return f"{seconds / DAY:.0f} d ago" if seconds >= DAY else f"{max(seconds, 0) / 3600:.0f} h ago"


def prune(root: Path, days: float) -> None:
    """Frees what no run has opened for so many days; what is being made is left alone."""
    freed, gone, busy = 0, 0, 0
    for one in kept(root):
        if time.time() - one.used < days * DAY:
            continue
        name = OURS.fullmatch(one.folder.name)
        assert name is not None
        finished = one.folder.with_name(name[2])
        try:
            # the lock's file stays: another job may have it open and would hold the lock of a file that is not there
            with FileLock(f"{finished}.lock", timeout=0):
                if one.finished:
                    remove(one.folder)
                else:
                    clear_unfinished(finished, resumable=True)
        except Timeout:
            busy += 1
            continue
        freed, gone = freed + one.size, gone + 1
    told = f" {busy} are being made and stay." if busy else ""
    console.print(f"{gone} folders freed that no run of the last {days:g} days has used, {decimal(freed)}.{told}")
