"""A project outside of a checkout, with the package as `pip install` leaves it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ENVIRONMENT, HANGS, from_source, run, start

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Code that runs a wheel that has been installed."""
    folder = tmp_path_factory.mktemp("installed")
    wheels, site = folder / "wheels", folder / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, env=ENVIRONMENT)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, env=ENVIRONMENT)
    return from_source(site)


def test_the_project_that_init_writes_trains_from_an_installed_wheel(installed: str, tmp_path: Path) -> None:
    """Every command of its README, the last one at a size for trying it."""
    with start("init", "ours", folder=tmp_path, code=installed) as job:
        assert "cd ours" in job.communicate(timeout=HANGS)[0]
    project = tmp_path / "ours"
    readme = (project / "README.md").read_text("utf-8")
    commands = [line.split("#")[0] for line in re.findall(r"^distilingua (.+)$", readme, re.M)]
    assert [command.split()[0] for command in commands] == ["corpus", "train", "train"]
    for command in commands[:2]:
        with start(*shlex.split(command), folder=project, code=installed, OMP_NUM_THREADS="1") as job:
            out, err = job.communicate(timeout=HANGS)
        assert job.returncode == 0, err
    (metrics,) = project.glob("outputs/*/*/metrics.json")
    found = json.loads(metrics.read_text("utf-8"))
    assert set(found["models"]["student"]["languages"]) == {"en", "de"}
    assert "distilled" in out
    with start("evaluate", str(metrics.parent), folder=project, code=installed, OMP_NUM_THREADS="1") as job:
        out, err = job.communicate(timeout=HANGS)
    assert job.returncode == 0, err  # it knows where the run's own configurations are


def test_a_folder_of_configurations_with_any_name_is_kept_with_the_run(tmp_path: Path) -> None:
    own = tmp_path / "it's mine, all/pair/x.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [base]\nsource: en\ntargets: [nl]\n", "utf-8")
    told = run("train", "--config-dir", str(own.parents[1]), "pair=x", "hydra.run.dir=run", "seed=x", folder=tmp_path)
    assert "seed=x: expected a whole number" in told.stderr  # so pair=x was found
    missing = run("train", "--config-dir=nowhere", "pair=x", folder=tmp_path)
    assert missing.returncode == 1
    assert "--config-dir nowhere: there is no such folder" in missing.stderr


def test_a_choice_of_ones_own_stands_beside_those_of_the_package(installed: str, tmp_path: Path) -> None:
    own = tmp_path / "mine/pair/x.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [base]\nsource: en\ntargets: [nl, sv]\n", "utf-8")
    options = ["--config-dir", "mine", "pair=x", "--cfg", "job", "--package", "pair"]
    with start("train", *options, folder=tmp_path, code=installed) as job:
        out, err = job.communicate(timeout=HANGS)
    assert "- sv" in out, err
    assert "protocol: zero_shot" in out


@pytest.mark.parametrize("arguments", [[], ["--force"], ["a", "b"], ["full"], ["full/file"], ["full/file/inside"]])
def test_init_writes_over_nothing(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine", "utf-8")
    told = run("init", *arguments, folder=tmp_path)
    assert told.returncode == 1
    assert len(told.stderr.strip().splitlines()) == 1
    assert "folder" in told.stderr.lower()
    assert (tmp_path / "full/file").read_text("utf-8") == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
