"""`distilingua cache`: what runs keep for later ones, and how to free what none has used for a while."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from rich.filesize import decimal

from distilingua.artifacts import FILES, PARTS, RECIPE, remove
from distilingua.console import console, plain_table
from distilingua.errors import UserError

DAY = 24 * 60 * 60
# HASH is kept, .HASH-unfinished was being filled, and .parts-HASH by several processes
NAME = re.compile(r"(\.(parts-)?)?[0-9a-f]{16}(-\w+)?")
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

    @property
    def hash(self) -> str:
        return self.folder.name.removeprefix(".").removeprefix("parts-")[:16]


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
    found = [_inspect(path) for path in root.glob("*/*") if NAME.fullmatch(path.name) and _is_ours(path)]
    return sorted(found, key=lambda one: (one.folder.parent.name, -one.used))


def _is_ours(folder: Path) -> bool:
    """Whether a run has made it: a name is no proof, and FOLDER may be any. It has its lock beside it, or its parts
    inside, and what is finished its notes too."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if folder.name.startswith(".parts-"):
        return (folder / PARTS).is_dir()
    locked = folder.with_name(f"{folder.name.lstrip('.')[:16]}.lock").is_file()
    return locked and (folder.name.startswith(".") or any((folder / name).is_file() for name in (RECIPE, FILES)))


def _inspect(folder: Path) -> Kept:
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    size = sum(file.st_size for file in files)
    latest = max((file.st_mtime for file in files), default=folder.stat().st_mtime)
    try:
        note = json.loads((folder / FILES).read_text("utf-8"))
        return Kept(folder, size, float(note["made"]), (folder / FILES).stat().st_mtime, str(note["run"]))
    except (OSError, ValueError, KeyError, TypeError):  # not finished, or damaged
        return Kept(folder, size, latest, latest, "")


def show(root: Path) -> None:
    everything, now = kept(root), time.time()
    table = plain_table(None, ("kind", "folder", "made by"), ("size", "made", "used"))
    for one in everything:
        name = one.hash if one.finished else f"{one.hash} (unfinished)"
        ages = _ago(now - one.made), _ago(now - one.used)
        table.add_row(one.folder.parent.name, name, one.run, decimal(one.size), *ages)
    console.print_whole(table)
    console.print(f"{len(everything)} folders in {root}, {decimal(sum(one.size for one in everything))}.")


def _ago(seconds: float) -> str:
    return f"{seconds / DAY:.0f} d ago" if seconds >= DAY else f"{max(seconds, 0) / 3600:.0f} h ago"


def prune(root: Path, days: float) -> None:
    """Frees what no run has opened for so many days; what is being made is left alone."""
    old = [one for one in kept(root) if time.time() - one.used >= days * DAY]
    busy = [one for one in old if not _freed(one)]
    size = decimal(sum(one.size for one in old if one not in busy))
    stay = f" {len(busy)} are being made and stay." if busy else ""
    gone = len(old) - len(busy)
    console.print(f"{gone} folders freed that no run of the last {days:g} days has used, {size}.{stay}")


def _freed(one: Kept) -> bool:
    """Takes a folder away; False where a job that makes it holds a lock."""
    try:
        with ExitStack() as held:
            # the lock's file stays: another job may have it open and would hold the lock of a file that is not there
            for lock in (one.folder.with_name(f"{one.hash}.lock"), *one.folder.rglob("*.lock")):
                held.enter_context(FileLock(lock, timeout=0))
            if one.finished:
                remove(one.folder)
            else:
                shutil.rmtree(one.folder, ignore_errors=True)
    except Timeout:
        return False
    return True
