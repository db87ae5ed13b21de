"""Things kept between runs: built once, whole or not at all, and found only by what made them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset

from distilingua.artifacts import (
    cached,
    file_sha256,
    fingerprint,
    folder_fingerprint,
    rows_fingerprint,
)
from distilingua.errors import UserError
from tests.processes import HANGS

RECIPE = {"teacher": "abc", "labels": ["light", "music"], "length": 64}

# Waits for `go`, then asks for the artifact; its build takes a while, and writes down that it ran.
JOB = """
import sys, time
from pathlib import Path
from distilingua.artifacts import cached

root = Path(sys.argv[1])

def build(folder):
    with (root / "builds.log").open("a") as log:
        log.write("x\\n")
    (folder / "half").write_text("first")
    time.sleep(float(sys.argv[2]))
    (folder / "whole").write_text("second")

(root / f"ready-{sys.argv[3]}").touch()
while not (root / "go").exists():
    time.sleep(0.005)
folder = cached(root / "cache", "things", {"name": "raced"}, build)
print(folder, sorted(path.name for path in folder.iterdir()))
"""


def start(root: Path, seconds: float, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(root), str(seconds), name], stdout=subprocess.PIPE, text=True
    )


def wait_for(*files: Path) -> None:
    deadline = time.monotonic() + HANGS  # not to hang for ever
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, files
        time.sleep(0.005)


def whole(folder: Path) -> None:
    (folder / "half").write_text("first")
    (folder / "whole").write_text("second")


# --- cached -----------------------------------------------------------------------------------------------------------


def test_an_artifact_is_built_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        whole(folder)

    first = cached(tmp_path / "cache", "things", RECIPE, build)
    assert cached(tmp_path / "cache", "things", dict(reversed(RECIPE.items())), build) == first
    assert len(built) == 1
    assert first.parent == tmp_path / "cache" / "things"
    assert {path.name: path.read_text() for path in first.iterdir() if path.suffix != ".json"} == {
        "half": "first",
        "whole": "second",
    }
    assert json.loads((first / "recipe.json").read_text()) == RECIPE


def test_another_recipe_or_kind_is_another_artifact(tmp_path: Path) -> None:
    folders = {
        cached(tmp_path, "things", RECIPE, whole),
        cached(tmp_path, "things", {**RECIPE, "length": 65}, whole),
        cached(tmp_path, "others", RECIPE, whole),
    }
    assert len(folders) == 3


def test_a_build_sees_no_finished_folder(tmp_path: Path) -> None:
    """The name is given last: nobody finds a folder that is still being filled."""

    def build(folder: Path) -> None:
        assert folder.is_dir()
        assert not (tmp_path / "things" / fingerprint(RECIPE)).exists()
        whole(folder)

    assert cached(tmp_path, "things", RECIPE, build) == tmp_path / "things" / fingerprint(RECIPE)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failing_build_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("first")
        raise error("no more space")

    with pytest.raises(error):
        cached(tmp_path, "things", RECIPE, fail)
    assert [path.name for path in (tmp_path / "things").iterdir() if path.is_dir()] == []
    folder = cached(tmp_path, "things", RECIPE, whole)  # the lock is free, and nothing is mistaken for it
    assert (folder / "whole").read_text() == "second"


def test_of_two_racing_processes_one_builds(tmp_path: Path) -> None:
    jobs = [start(tmp_path, 0.4, name) for name in "ab"]
    wait_for(tmp_path / "ready-a", tmp_path / "ready-b")
    (tmp_path / "go").touch()
    answers = [job.communicate(timeout=HANGS)[0].strip() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    expected = tmp_path / "cache" / "things" / fingerprint({"name": "raced"})
    assert answers == [f"{expected} ['files.json', 'half', 'recipe.json', 'whole']"] * 2
    assert (tmp_path / "builds.log").read_text() == "x\n"


def test_a_killed_build_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    job = start(tmp_path, 60, "a")
    wait_for(tmp_path / "builds.log")
    job.kill()
    job.communicate(timeout=HANGS)
    folder = cached(tmp_path / "cache", "things", {"name": "raced"}, whole)
    assert {path.name for path in folder.iterdir()} == {"half", "whole", "recipe.json", "files.json"}


def test_what_killed_builders_leave_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    job = start(tmp_path, 60, "a")
    wait_for(tmp_path / "builds.log")
    job.kill()
    job.communicate(timeout=HANGS)
    things = tmp_path / "cache" / "things"
    assert len(list(things.glob(".*-*"))) == 1
    other = things / f".{fingerprint({'name': 'other'})}-abc"
    other.mkdir()  # of somebody else, who may still be at work
    cached(tmp_path / "cache", "things", {"name": "raced"}, whole)
    assert list(things.glob(".*-*")) == [other]


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(file: Path, at: int = -1) -> None:
    """One bit of one byte."""
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["half", "whole", "deep/er", "recipe.json"])
def test_a_flipped_bit_is_refused_by_file(name: str, tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        whole(folder)
        (folder / "deep").mkdir()
        (folder / "deep" / "er").write_bytes(bytes(100))

    folder = cached(tmp_path, "things", RECIPE, build)
    assert cached(tmp_path, "things", RECIPE, build) == folder
    flip(folder / name)
    with pytest.raises(UserError, match=rf"{folder / name} is damaged: .* its hash differs\. .*: rm -r {folder}"):
        cached(tmp_path, "things", RECIPE, build)


def test_a_file_that_is_cut_or_gone_is_too(tmp_path: Path) -> None:
    folder = cached(tmp_path, "things", RECIPE, whole)
    (folder / "half").write_text("fir")
    with pytest.raises(UserError, match=r"half is damaged: it has 3 bytes of 5\."):
        cached(tmp_path, "things", RECIPE, whole)
    (folder / "half").unlink()
    with pytest.raises(UserError, match=r"half is damaged: it is missing\."):
        cached(tmp_path, "things", RECIPE, whole)


@pytest.mark.parametrize("note", ["", "{", "[]", '{"files": {"half": 5}}', '{"files": 3}'])
def test_so_is_a_damaged_note(note: str, tmp_path: Path) -> None:
    folder = cached(tmp_path, "things", RECIPE, whole)
    (folder / "files.json").write_text(note)
    with pytest.raises(UserError, match=r"is damaged"):
        cached(tmp_path, "things", RECIPE, whole)


def test_what_nobody_can_vouch_for_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cached(tmp_path, "things", RECIPE, whole)
    (folder / "files.json").unlink()  # as before hashes were kept
    (folder / "half").write_text("worse")
    assert (cached(tmp_path, "things", RECIPE, whole) / "half").read_text() == "first"
    assert "made again" in capsys.readouterr().out


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_sha256_over_canonical_json() -> None:
    assert (
        fingerprint({"b": [1, 2.5, None], "a": "ü"})
        == hashlib.sha256('{"a": "ü", "b": [1, 2.5, null]}'.encode()).hexdigest()[:16]
    )


@pytest.mark.parametrize(
    "other",
    [
        {**RECIPE, "length": 65},
        {**RECIPE, "length": "64"},
        {**RECIPE, "labels": ["music", "light"]},
        {**RECIPE, "more": None},
        {name: value for name, value in RECIPE.items() if name != "length"},
    ],
)
def test_whatever_differs_in_a_recipe_changes_its_fingerprint(other: dict[str, object]) -> None:
    assert fingerprint(other) != fingerprint(RECIPE)


def test_the_order_of_keys_does_not() -> None:
    assert fingerprint({"a": {"x": 1, "y": 2}, "b": 3}) == fingerprint({"b": 3, "a": {"y": 2, "x": 1}})


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    (tmp_path / "large").write_bytes(b"x" * (1 << 20) + b"y")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # the standard's own example
    assert file_sha256(tmp_path / "abc") == known
    both = hashlib.sha256(b"abc" + b"x" * (1 << 20) + b"y").hexdigest()
    assert file_sha256(tmp_path / "abc", tmp_path / "large") == both


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "config.json").write_text('{"layers": 2}')
    (folder / "vocab.txt").write_text("a\nb\n")
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_any_file_of_a_model_changes_its_fingerprint(name: str, model: Path) -> None:
    before = folder_fingerprint(model)
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert folder_fingerprint(model) != before
    (model / name).write_bytes(content)
    assert folder_fingerprint(model) == before
    (model / name).unlink()
    assert folder_fingerprint(model) != before


def test_what_is_no_part_of_a_model_does_not_change_its_fingerprint(model: Path) -> None:
    before = folder_fingerprint(model)
    (model / "recipe.json").write_text('{"made": "today"}')
    (model / "files.json").write_text('{"files": {}}')
    (model / "README.md").write_text("hello")
    assert folder_fingerprint(model) == before
    assert folder_fingerprint(model.rename(model.parent / "elsewhere")) == before


def test_rows_have_a_fingerprint_of_content_and_order() -> None:
    rows = Dataset.from_dict({"id": ["1", "2"], "text": ["a", "ü"], "label": ["x", ""]})
    before = rows_fingerprint(rows, ["id", "text"])
    assert before == rows_fingerprint(Dataset.from_list(rows.to_list()), ["id", "text"])
    assert before == rows_fingerprint(rows.map(lambda row: {"label": "other"}), ["id", "text"])
    others = [
        rows_fingerprint(rows.map(lambda row: {"text": row["text"].upper()}), ["id", "text"]),
        rows_fingerprint(rows.select([1, 0]), ["id", "text"]),
        rows_fingerprint(rows.select([0]), ["id", "text"]),
        rows_fingerprint(rows, ["id"]),
        rows_fingerprint(rows, ["id", "text", "label"]),
    ]
    assert before not in others
    assert len(set(others)) == len(others)


def test_columns_do_not_run_into_each_other() -> None:
    one = Dataset.from_dict({"a": ["x", "y"], "b": ["", ""]})
    other = Dataset.from_dict({"a": ["x", ""], "b": ["y", ""]})
    assert rows_fingerprint(one, ["a", "b"]) != rows_fingerprint(other, ["a", "b"])
