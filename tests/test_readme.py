"""The README keeps its word: its commands compose, its paths exist, its figures are the configuration's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from distilingua.locations import conf_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = sorted({line.split("  #")[0].strip() for line in re.findall(r"^distilingua train(?: .*)?$", README, re.M)})


@pytest.mark.parametrize("command", COMMANDS)
def test_train_commands_compose(compose_run, command: str) -> None:  # type: ignore[no-untyped-def]
    """Every `distilingua train …` of a code block; for a sweep, its first job."""
    words = [word for word in shlex.split(command)[2:] if word != "-m"]
    if "-m" in command.split():
        words = [word if "[" in word else word.split(",")[0] for word in words]
    assert compose_run(*[word for word in words if not word.startswith("hydra.")])


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make (\w+)", README)) <= targets


def test_the_tree_and_links_name_what_is_there() -> None:
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert name.startswith("http") or (ROOT / name).exists(), name
    for name in re.findall(r"`((?:src|conf|tests|notebooks|docs)/[\w./-]*)`", README):
        assert (ROOT / name).exists(), name


def test_every_group_and_choice_is_listed() -> None:
    for group in (
        *("task", "corpus", "pair", "teacher", "student", "objective", "objective/terms", "schedule"),
        *("augmentation", "device", "experiment"),
    ):
        for path in (conf_folder() / group).glob("*.yaml"):
            assert path.stem == "base" or f"`{path.stem}`" in README, f"{group}={path.stem}"
