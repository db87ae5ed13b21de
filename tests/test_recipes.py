"""What docs/recipes.md tells to write and to type, done so in a copy of the repository."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ENVIRONMENT, HANGS, from_source, start

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
FILE = re.compile(r"^```\w+\n# ((?:src|conf)/\S+)\n(.*?)^```$", re.M | re.S)
COMMANDS = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
RECIPES = [title for title, body in SECTIONS.items() if FILE.search(body)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with every file that the page shows."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILE.findall(PAGE):
        path = folder / name
        assert not path.exists(), f"{name} is there already"
        path.write_text(text, "utf-8")
    return folder


def test_what_can_be_added_has_a_recipe() -> None:
    wanted = {"corpus", "pair", "teacher", "student", "term", "schedule", "augmentation", "callback", "task"}
    wanted |= {"optimizer", "rate"}
    assert {title.split()[-1] for title in RECIPES} == wanted


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_works_as_it_is_written(copy: Path, recipe: str) -> None:
    commands = [line for block in COMMANDS.findall(SECTIONS[recipe]) for line in block.splitlines()]
    assert commands, f"{recipe} ends without a command that tries it"
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "distilingua"
        with start(*arguments, folder=copy, code=from_source(copy / "src"), OMP_NUM_THREADS="1") as job:
            out, err = job.communicate(timeout=HANGS)
        assert job.returncode == 0, f"{command}\n{out[-2000:]}{err[-3000:]}"
        assert "distilled" in out or "direct" in command or arguments[0] == "corpus", out


def test_the_two_classes_work_with_a_trainer_of_ones_own(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(from functools.*?)^```$", SECTIONS["In a program of your own"], re.M | re.S)
    (tmp_path / "own.py").write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, "own.py"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("dev/en/accuracy", "test/en/accuracy"):
        assert re.search(rf"{name}\W+1\.0", done.stdout), done.stdout


def test_what_a_recipe_adds_is_in_the_house_style(copy: Path) -> None:
    """As it would be after the fork's own `make lint`."""
    written = [name for name, _ in FILE.findall(PAGE) if name.endswith(".py")]
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, *written]
        told = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=ENVIRONMENT)
        assert told.returncode == 0, told.stdout
