"""Disks that fill up, for real: a small tmpfs where one may be mounted, else a limit to the size of files."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distilingua.artifacts import whole_file
from distilingua.errors import full_disk
from tests.processes import run


@dataclass
class Disk:
    """A folder that takes so many KiB; where it cannot be mounted, its files are limited."""

    folder: Path
    mounted: bool
    kib: int

    def run(self, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
        limit = None if self.mounted else self.kib * 1024
        return run(*arguments, folder=self.folder.parent, limit=limit, code=code)

    def grow(self) -> None:
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,size=100m", str(self.folder)], check=True)
        self.kib = 100 * 1024


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    """Of `request.param` KiB: of the whole disk, and of a file where nothing may be mounted."""
    size, of_a_file = request.param
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
    mounted = sys.platform == "linux" and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield Disk(folder, mounted, size if mounted else of_a_file)
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


WRITER = """
import sys
from pathlib import Path
from distilingua.artifacts import cached, whole_file

def build(folder):
    (folder / "large").write_bytes(bytes(300_000))

root, how = Path(sys.argv[1]), sys.argv[2]
try:
    if how == "cached":
        cached(root, "things", {"a": 1}, build)
    else:
        with whole_file(root / "kept") as file:
            file.write_bytes(bytes(300_000))
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize("disk", [(200, 200)], indirect=True)
@pytest.mark.parametrize("how", ["whole_file", "cached"])
def test_what_does_not_fit_leaves_what_was_there(disk: Disk, how: str) -> None:
    with whole_file(disk.folder / "kept") as file:
        file.write_text("before")
    answer = disk.run(str(disk.folder), how, code=WRITER)
    code, name = answer.stdout.split()
    assert int(code) == (errno.ENOSPC if disk.mounted else errno.EFBIG)
    assert name.startswith(str(disk.folder / ("things" if how == "cached" else "kept")))
    assert (disk.folder / "kept").read_text() == "before"
    left = {path.name for path in disk.folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"kept"}


STORE = """
import sys
from pathlib import Path
import numpy as np, torch
from distilingua.columns import Encoded
from distilingua.errors import UserError, full_disk
from distilingua.tasks.text_classification import TextClassification
from distilingua.training.soft_labels import store_soft_labels

cache = Path(sys.argv[1])

class Teacher:
    def cells(self, encoded, title, start=0, pooling=None):
        for n in range(start, len(encoded), 100):
            yield np.arange(n, n + 100), torch.ones(100, 256), None
            try:
                with (cache / "of somebody else").open("ab", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
            except OSError:
                pass

try:
    task, encoded = TextClassification().fit_labels(["a"]), Encoded.of([{"input_ids": [1]}] * 1000)
    store_soft_labels(cache, {"a": 1}, Teacher(), task, encoded)
except (OSError, UserError) as error:
    print("told", isinstance(error, UserError) or full_disk(error) is not None)
else:
    print("stored")
"""


@pytest.mark.parametrize("disk", [(1500, 1100)], indirect=True)
def test_a_store_has_its_place_before_it_is_filled(disk: Disk) -> None:
    """Somebody else fills the disk meanwhile: no page of a sparse file that cannot be had kills with SIGBUS."""
    answer = disk.run(str(disk.folder), code=STORE)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split("\n")[-2] in ("told True", "stored")
    (logits,) = disk.folder.rglob("logits.npy")
    assert logits.stat().st_blocks * 512 >= 1000 * 256 * 4


@pytest.mark.parametrize("disk", [(900, 900)], indirect=True)
def test_a_store_that_does_not_fit_leaves_the_disk_as_it_was(disk: Disk) -> None:
    answer = disk.run(str(disk.folder), code=STORE)
    assert answer.stdout.endswith("told True\n"), answer.stderr
    assert not list(disk.folder.rglob("logits.npy"))


@pytest.mark.long
@pytest.mark.parametrize("disk", [(1100, 150)], indirect=True)
def test_a_full_disk_is_told_in_one_sentence_and_the_run_goes_on(
    disk: Disk, files_corpus: Path, teacher_folder: Path
) -> None:
    place = disk.folder / "run"
    settings = [
        *("corpus=files", f"corpus.path='{files_corpus}/{{lang}}/{{split}}.jsonl'", "corpus.columns.group=key"),
        *("teacher=local", f"teacher.path={teacher_folder}", "teacher.languages=[en]", "teacher.fine_tune.epochs=1"),
        *("student.layers=1", "student.hidden_size=64", "student.heads=2", "student.feed_forward=128"),
        *("student.vocabulary=200", "training.epochs=1", "device=cpu", "~callbacks.progress_bar"),
        *(f"paths.cache={disk.folder}/cache", f"hydra.run.dir={place}"),
    ]
    answer = disk.run("train", *settings)
    assert answer.returncode == 1
    told = answer.stderr.strip().splitlines()[-1]
    assert told.startswith("distilingua: there is no room for ")
    assert told.endswith(f"distilingua resume {place}")
    assert "left. Make room" in told
    assert "Traceback" not in answer.stderr
    assert not (place / "metrics.json").exists()
    disk.grow()
    resumed = disk.run("resume", str(place))
    assert resumed.returncode == 0, resumed.stderr
    assert (place / "metrics.json").exists()


@pytest.mark.parametrize("wrapped", ["", "cause", "context", "rust"])
def test_it_is_found_under_whatever_a_library_says_of_it(wrapped: str) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    try:
        try:
            raise RuntimeError("I/O error: disk quota exceeded (os error 122)") if wrapped == "rust" else full
        except Exception as error:
            if wrapped in ("", "rust"):
                raise
            if wrapped == "cause":  # as Lightning's logger does
                raise ValueError("you tried to log 0.6667 which is currently not supported") from error
            raise ValueError("something") from None
    except Exception as error:
        found = full_disk(error)
        assert found is not None
        assert found.errno == (errno.EDQUOT if wrapped == "rust" else errno.ENOSPC)
    assert full_disk(OSError(errno.EACCES, "no")) is None
    assert full_disk(ValueError("No space left on device")) is None
