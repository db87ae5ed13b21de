"""`make rename`: a clone becomes somebody's own project, and its tests still pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ENVIRONMENT

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
# what reads every file and composes every command; the rest takes minutes, and only imports another name
TESTS = ["tests/test_house.py", "tests/test_readme.py", "tests/distillation"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What git knows of, and what is new beside it."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    for command in (["git", "init", "--quiet"], ["git", "add", "."]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def rename(clone: Path, *name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ".ci/rename.py", *name], cwd=clone, capture_output=True, text=True)


def test_a_renamed_clone_passes_its_tests(clone: Path) -> None:
    told = rename(clone, "myproject")
    assert told.returncode == 0, told.stderr
    assert not (clone / "src/distilingua").exists()
    assert (clone / "README.md").read_text("utf-8").startswith("# myproject\n")
    search = ["git", "grep", "-il", "distilingua", "--", ".", ":!LICENSE", ":!.ci/rename.py", ":!README.md"]
    left = subprocess.run(search, cwd=clone, capture_output=True, text=True).stdout.split()
    assert set(left) <= {"tests/test_rename.py"}
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(clone / "src"), str(clone)])}
    pytest_alone = [sys.executable, "-m", "pytest", "--override-ini=addopts=-q", "-x", "-p", "no:cacheprovider"]
    tests = subprocess.run([*pytest_alone, *TESTS], cwd=clone, capture_output=True, text=True, env=environment)
    assert tests.returncode == 0, tests.stdout[-3000:]


@pytest.mark.parametrize("name", [[], ["My-Project"], ["1st"], ["class"]])
def test_a_name_that_no_package_can_have_is_refused(clone: Path, name: list[str]) -> None:
    told = rename(clone, *name)
    assert told.returncode == 1
    assert "make rename NAME=myproject" in told.stderr
    assert (clone / "src/distilingua").is_dir()
