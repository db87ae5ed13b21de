"""Things worth keeping between runs (teachers, tokenizers, soft labels), each in a folder named after its recipe."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from datasets import Dataset
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig

from distilingua.columns import blocks
from distilingua.console import console
from distilingua.errors import NO_ROOM, UserError, of_the_system
from distilingua.used_code import code_fingerprint as code_fingerprint

RECIPE, FILES = "recipe.json", "files.json"
"""Beside what was made: what it is; and its files with size and hash, when and by which run it was made. The age of the
latter is the time since a run has opened it, see cache.py."""


DAMAGED: tuple[type[Exception], ...] = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError),
)
"""What reading a damaged note, and looking into what was read, ends in."""
PARTS = "of_processes"
"""The kind of what several processes make together, inside of what it becomes a part of."""
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
    return fingerprint({p.name: file_sha256(p) for p in files if p.name not in (RECIPE, FILES)})


def rows_fingerprint(rows: Dataset, columns: Iterable[str]) -> str:
    """The content of some columns of a dataset, row order included."""
    names = list(dict.fromkeys(columns))
    digest = hashlib.sha256(json.dumps([len(rows), names]).encode())
    for block in blocks(rows, names):
        for name in names:
            _digest(block.column(name).combine_chunks(), digest)
    return digest.hexdigest()[:16]


def _digest(values: pa.Array, digest: Any) -> None:
    """Adds a column's cells: their lengths and their bytes, wherever Arrow has them."""
    if values.null_count:
        digest.update(pc.is_null(values).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_struct(values.type):
        for inner in values.flatten():
            _digest(inner, digest)
    elif pa.types.is_list(values.type):
        digest.update(pc.list_value_length(values).fill_null(0).to_numpy().astype("<i8").tobytes())
        _digest(values.flatten(), digest)
    elif pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        values = values.fill_null("" if pa.types.is_string(values.type) else b"")
        digest.update(pc.binary_length(values).to_numpy().astype("<i8").tobytes())
        _, offsets, content = values.buffers()
        ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1] if len(values) else [0]
        digest.update(memoryview(content)[int(ends[0]) : int(ends[-1])] if content else b"")
    elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        digest.update(values.fill_null(0).to_numpy().tobytes())
    else:
        digest.update(json.dumps(values.to_pylist(), default=str).encode())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its name once it is whole and on disk: nobody finds half of it."""
    with _beside(path) as unfinished:
        yield unfinished
        _to_disk(unfinished)
        unfinished.replace(path)


def write_json(path: Path, found: Any) -> None:
    """For people too; whole or not at all, see `whole_file`."""
    with whole_file(path) as file:
        file.write_text(json.dumps(found, indent=2, ensure_ascii=False), "utf-8")


@contextmanager
def as_written(file: Path, way_out: str, *more: type[Exception]) -> Iterator[None]:
    """Where a note of a run is read and used: a damaged one becomes a UserError that names it.

    Args:
        way_out: what to do with it.
        more: errors of those who use it.
    """
    try:
        yield
    except UserError:
        raise
    except (*DAMAGED, *more) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{file} is not as a run writes it ({told[:200]}). {way_out}") from None


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name for what becomes `path`; what has it in the end is removed. A full disk is told by the name of `path`."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    with _named(path):
        try:
            yield unfinished
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says of a disk that is full or read-only what could not be written: neither a failing write nor a library in Rust
    does, and nobody has named the file beside it."""
    try:
        yield
    except Exception as raised:
        error = of_the_system(raised, NO_ROOM | {errno.EROFS, errno.EACCES})
        if error is not None and (error.filename is None or Path(error.filename).name.startswith(".")):
            error.filename = str(path)
        if error is None or error is raised:
            raise
        raise error from raised


def _to_disk(file: Path) -> None:
    with file.open("rb") as content:
        os.fsync(content.fileno())


def cached(
    root: Path, kind: str, recipe: Mapping[str, Any], build: Callable[[Path], None], resumable: bool = False
) -> Path:
    """The folder that holds what `recipe` describes, built by `build(folder)` if no earlier run has done it.

    Several jobs may ask at once: one builds, the others wait for it. A build that dies leaves nothing behind that a
    later run could mistake for a whole one, because the folder gets its name only when it is finished. Every file has
    its hash beside it and is checked against it here.

    Args:
        resumable: `build` can go on in a folder that an interrupted build has left; else it always gets an empty one.

    Raises:
        UserError: a file is not what was written.
    """
    folder = root / kind / fingerprint(recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    of_old = folder.exists()  # else this process makes it, or waits for one that does
    with FileLock(f"{folder}.lock"):
        clear_unfinished(folder, resumable)
        if folder.exists() and not (folder / FILES).exists():  # nobody can say whether it is whole
            console.print(f"{folder} was kept without hashes of its files, and is made again.")
            remove(folder)
        if not folder.exists():
            unfinished = unfinished_folder(folder)
            unfinished.mkdir(exist_ok=True)
            try:
                with _named(folder):
                    build(unfinished)
                    _note_files(unfinished, recipe)
                unfinished.rename(folder)
            finally:
                if not resumable:
                    shutil.rmtree(unfinished, ignore_errors=True)
        else:
            check_files(folder)
            if of_old and folder not in TOLD:
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / RECIPE).stat().st_mtime))
                console.print(f"Reused: {kind} of {when} ({folder})", soft_wrap=True)
            with suppress(OSError):  # of somebody else, or on a disk that is full
                os.utime(folder / FILES)
    TOLD.add(folder)
    return folder


def _note_files(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Writes what it is and the hash of every file."""
    (folder / RECIPE).write_text(json.dumps(recipe, indent=2, default=str, ensure_ascii=False), "utf-8")
    note_files(folder, [path for path in folder.rglob("*") if path.is_file() and path.name != FILES])


def note_files(folder: Path, files: Iterable[Path]) -> None:
    """Writes size and hash of files of a folder, which `check_files` looks at, when all are on disk."""
    files = sorted(files)
    for file in files:
        _to_disk(file)
    known = {file.relative_to(folder).as_posix(): [file.stat().st_size, file_sha256(file)] for file in files}
    run = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else ""
    with whole_file(folder / FILES) as note:
        note.write_text(json.dumps({"files": known, "made": time.time(), "run": run}, indent=2), "utf-8")


def check_files(folder: Path, way_out: str | None = None) -> None:
    """Raises UserError for the first file of a kept folder that is not what was written; hashing reads 1 GB a second
    or so.

    Args:
        way_out: what to do; None where whoever asks makes the folder again.
    """
    name, problem = FILES, "is not JSON as it was written"
    try:
        for name, (size, digest) in json.loads((folder / FILES).read_text("utf-8"))["files"].items():
            problem = "cannot be read"
            found = (folder / name).stat().st_size
            if found != size:
                problem = f"has {found} bytes of {size}"
                break
            if file_sha256(folder / name) != digest:
                problem = "has another content than was written: its hash differs"
                break
        else:
            return
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a damaged disk, or a damaged note
        pass
    raise UserError(
        f"{folder / name} is damaged: it {problem}. "
        + (way_out or f"Delete its folder, and this run makes it again: rm -r {shlex.quote(str(folder))}")
    )


def unfinished_folder(folder: Path) -> Path:
    """Where it is built, by whoever holds its lock."""
    return folder.with_name(f".{folder.name}-unfinished")


def clear_unfinished(folder: Path, resumable: bool) -> None:
    """Removes what killed builders have left of a folder; whoever holds its lock may.

    Args:
        resumable: but for what a build can go on with.
    """
    for path in folder.parent.glob(f".{folder.name}-*"):
        if not resumable or path != unfinished_folder(folder):
            shutil.rmtree(path, ignore_errors=True)


def remove(folder: Path) -> None:
    """Takes a kept folder away; it loses its name first, so that a kill leaves no half of it."""
    gone = folder.with_name(f".{folder.name}-removed")
    folder.rename(gone)
    shutil.rmtree(gone)


def cached_by_all(
    root: Path,
    kind: str,
    recipe: Mapping[str, Any],
    build: Callable[[Path, slice], None],
    join: Callable[[Path, Sequence[Path]], None],
    resumable: bool = False,
) -> Path:
    """As `cached`, of what can be made in parts: where several processes were started together, each makes one, and the
    first that is done takes over those of the processes that are gone.

    Args:
        build: writes what belongs to a slice of the items.
        join: writes the whole, from the folders of all parts in their order.
    """
    rank, size = started_together()
    if size == 1:
        return cached(root, kind, recipe, lambda folder: build(folder, slice(None)), resumable)
    whole = root / kind / fingerprint(recipe)
    parts = whole.parent / f".parts-{whole.name}"

    def part(n: int) -> Path:
        made = {**recipe, "part": [n, size]}
        return cached(parts, PARTS, made, lambda folder: build(folder, slice(n, None, size)), resumable)

    if not whole.exists():
        part(rank)
    cached(root, kind, recipe, lambda folder: join(folder, [part(n) for n in range(size)]))
    shutil.rmtree(parts, ignore_errors=True)
    return whole


def started_together() -> tuple[int, int]:
    """Which of how many processes of one run this is, where torchrun or srun has started them. Those that Lightning
    starts come later, when all that is kept between runs is there."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in os.environ and int(os.environ.get(size) or 1) > 1:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1
