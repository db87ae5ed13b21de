"""Things worth keeping between runs (teachers, tokenizers, soft labels), each in a folder named after its recipe."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from distilingua.console import console

if TYPE_CHECKING:
    from datasets import Dataset

LIBRARIES = ("torch", "transformers", "tokenizers", "lightning")
SHAPING_CODE = (  # what changes a teacher, its answers or a baseline; soft terms do not, and a hard one comes by name
    *("data", "tasks", "models"),
    *(f"training/{name}.py" for name in ("job", "teacher", "student", "module", "fitting", "inference", "soft_labels")),
    *(f"distillation/{name}.py" for name in ("objective", "schedules", "signals", "losses/term")),
    *(f"corpora/{name}.py" for name in ("words", "sound", "espeak")),
)


TOLD: set[Path] = set()
"""What this process has built, or has said that it found."""


def fingerprint(recipe: Any) -> str:
    """A short content address: SHA-256 over the recipe's canonical JSON."""
    text = json.dumps(recipe, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stable_hash(*parts: object) -> int:
    """A number of 64 bits that is the same on every machine and in every process."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def file_sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """The content of a model folder: every weight, configuration and vocabulary file in it."""
    files = sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin", ".json", ".model", ".txt"})
    return fingerprint({p.name: file_sha256(p) for p in files if p.name != "recipe.json"})


def rows_fingerprint(rows: Dataset, columns: Iterable[str]) -> str:
    """The content of some columns of a dataset, row order included."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(json.dumps([column, list(rows[column])], ensure_ascii=False, default=str).encode())
    return digest.hexdigest()[:16]


def code_fingerprint(*users: object) -> str:
    """The code that shapes an artifact, and the libraries under it: a teacher trained by older code is another one.

    Args:
        users: what a configuration may name from anywhere (a task, its hard loss, a student): the files in which their
            classes are written count too.
    """
    package = Path(__file__).parent
    parts = [package / name for name in SHAPING_CODE]
    files = {path for part in parts for path in ([part] if part.suffix else part.rglob("*.py"))}
    for kind in {kind for user in users for kind in type(user).__mro__}:
        with suppress(TypeError, OSError):  # a built-in has no file, and neither has a cell of a notebook
            files.add(Path(inspect.getfile(kind)))
    return fingerprint([file_sha256(*sorted(files)), {name: version(name) for name in LIBRARIES}])


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its name once it is whole and on disk: nobody finds half of it."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def cached(
    root: Path, kind: str, recipe: Mapping[str, Any], build: Callable[[Path], None], resumable: bool = False
) -> Path:
    """The folder that holds what `recipe` describes, built by `build(folder)` if no earlier run has done it.

    Several jobs may ask at once: one builds, the others wait for it. A build that dies leaves nothing behind that a
    later run could mistake for a whole one, because the folder gets its name only when it is finished.

    Args:
        resumable: `build` can go on in a folder that an interrupted build has left; else it always gets an empty one.
    """
    folder = root / kind / fingerprint(recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and folder not in TOLD:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / "recipe.json").stat().st_mtime))
        console.print(f"Reused: {kind} of {when} ({folder})", soft_wrap=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            if resumable:
                unfinished = folder.with_name(f".{folder.name}-unfinished")
                unfinished.mkdir(exist_ok=True)
            else:
                unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                build(unfinished)
                (unfinished / "recipe.json").write_text(json.dumps(recipe, indent=2, default=str, ensure_ascii=False))
                unfinished.rename(folder)
            finally:
                if not resumable:
                    shutil.rmtree(unfinished, ignore_errors=True)
        TOLD.add(folder)
    return folder
