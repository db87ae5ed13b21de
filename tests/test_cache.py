"""`distilingua cache`: what is kept, since when, by which run; and what may go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from distilingua.artifacts import cached, fingerprint
from distilingua.cache import DAY, cache, kept
from distilingua.errors import UserError
from tests.processes import succeed

OTHER = fingerprint("other")


def build(folder: Path) -> None:
    (folder / "weights").write_bytes(bytes(5000))


def age(folder: Path, days: float) -> None:
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - days * DAY,) * 2)


@pytest.fixture
def old_and_new(tmp_path: Path) -> tuple[Path, Path]:
    old, new = (cached(tmp_path, "teachers", {"name": name}, build) for name in ("old", "new"))
    for folder in (old, new):
        age(folder, 40)
    assert cached(tmp_path, "teachers", {"name": "new"}, build) == new  # which a run opens again
    return old, new


def test_what_is_kept_is_listed(tmp_path: Path, old_and_new: tuple[Path, Path]) -> None:
    old, new = old_and_new
    note = json.loads((old / "files.json").read_text())
    (old / "files.json").write_text(json.dumps({**note, "run": "/runs/first", "made": time.time() - 50 * DAY}))
    age(old, 40)
    (tmp_path / "soft_labels" / ".0123456789abcdef-unfinished").mkdir(parents=True)
    (tmp_path / "soft_labels" / "0123456789abcdef.lock").touch()  # of who has made it
    (tmp_path / "soft_labels" / ".parts-1123456789abcdef" / "of_processes").mkdir(parents=True)
    (tmp_path / "soft_labels" / "my notes").mkdir()  # not ours
    answer = succeed("cache", str(tmp_path), folder=tmp_path)
    lines = {line.split()[1]: line.split() for line in answer.splitlines() if "ago" in line}
    assert lines[old.name][2:] == ["/runs/first", *lines[old.name][3:5], "50", "d", "ago", "40", "d", "ago"]
    assert lines[new.name][-6:] == ["0", "h", "ago", "0", "h", "ago"]
    assert "(unfinished)" in lines["0123456789abcdef"]
    assert "(unfinished)" in lines["1123456789abcdef"]
    assert "4 folders in" in answer
    assert "my notes" not in answer


def test_what_nobody_used_is_freed(tmp_path: Path, old_and_new: tuple[Path, Path]) -> None:
    old, new = old_and_new
    answer = succeed("cache", f"paths.cache={tmp_path}", "--prune", "30", folder=tmp_path)
    assert "1 folders freed" in answer
    assert [one.folder for one in kept(tmp_path)] == [new]
    assert not old.exists()
    assert (cached(tmp_path, "teachers", {"name": "old"}, build) / "weights").exists()  # a later run makes it again


def test_what_is_being_made_stays(tmp_path: Path, old_and_new: tuple[Path, Path]) -> None:
    old, _ = old_and_new
    unfinished, parts = (tmp_path / "teachers" / name for name in (f".{OTHER}-unfinished", f".parts-{OTHER}"))
    for folder in (unfinished, parts / "of_processes"):
        folder.mkdir(parents=True)
    part = parts / "of_processes" / f"{OTHER}.lock"
    part.touch()
    for path in (unfinished, part):
        os.utime(path, (0, 0))
    with FileLock(f"{tmp_path}/teachers/{OTHER}.lock"), FileLock(f"{old}.lock"):
        cache([str(tmp_path), "--prune", "0"])
    assert {one.folder for one in kept(tmp_path)} == {old, unfinished, parts}
    with FileLock(part):
        cache([str(tmp_path), "--prune", "0"])
    assert [one.folder for one in kept(tmp_path)] == [parts]
    cache([str(tmp_path), "--prune", "0"])
    assert kept(tmp_path) == []
    assert not [path for path in tmp_path.rglob("*") if path.suffix != ".lock" and path.name != "teachers"]


@pytest.mark.parametrize("kind", ["photos", "soft_labels"])
@pytest.mark.parametrize("name", [OTHER, f".{OTHER}-unfinished", f".parts-{OTHER}"])
def test_what_only_has_such_a_name_is_nobodys_to_free(tmp_path: Path, kind: str, name: str) -> None:
    picture = tmp_path / kind / name / "a.jpg"
    picture.parent.mkdir(parents=True)
    picture.touch()
    (tmp_path / kind / f"1{OTHER[1:]}").symlink_to(picture.parent)
    cache([str(tmp_path), "--prune", "0"])
    assert picture.exists()


def test_a_group_may_open_what_one_of_it_has_made(tmp_path: Path) -> None:
    usual = os.umask(0o002)
    try:
        folder = cached(tmp_path, "teachers", {"name": "shared"}, build)
    finally:
        os.umask(usual)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, Path(f"{folder}.lock"), *folder.iterdir())}
    assert set(modes.values()) == {0o775, 0o664}
    assert modes[folder.name] == 0o775


@pytest.mark.parametrize(
    "typed", [["--prune"], ["--prune", "x"], ["--prune", "-1"], ["a", "b"], ["--all"], ["nowhere"]]
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, typed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"Type distilingua cache \[FOLDER\] \[--prune DAYS\]"):
        cache(typed)
