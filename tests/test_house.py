"""The house keeps its order: arrows run one way, a contract stays small, and what shapes an artifact is part of it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import distilingua
from distilingua import artifacts
from distilingua.tasks.task import Task

ROOT = Path(distilingua.__file__).parent
FLOORS = (  # from the top; what stands on one floor may import itself and everything below
    ("cli",),
    ("commands",),
    ("completion",),
    ("overrides",),
    ("delivery",),
    ("cache", "checks", "describe", "training"),
    ("parts", "monitoring"),
    ("models", "data"),
    ("tasks",),
    ("corpora",),
    ("distillation", "statistics"),
    ("extras", "artifacts", "console", "locations", "usage"),
    ("errors",),
)
MODULES = {".".join(("distilingua", *file.relative_to(ROOT).with_suffix("").parts)) for file in ROOT.rglob("*.py")}
FLOOR = {name: n for n, names in enumerate(FLOORS) for name in names}


def imports(file: Path) -> Iterator[str]:
    """Modules of this package that a file imports anywhere in it, lazily or for types alone included."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute, or this test would not see them"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def place(module: str) -> str:
    return module.split(".")[1]


ARROWS = sorted(
    {
        (str(file.relative_to(ROOT)), module)
        for file in ROOT.rglob("*.py")
        for module in imports(file)
        if module.startswith("distilingua.")
    }
)


def test_everything_has_a_floor() -> None:
    there = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} == set(FLOOR)


def test_no_arrow_runs_up() -> None:
    assert len(ARROWS) > 200
    up = [
        f"{file} -> {module}"
        for file, module in ARROWS
        if FLOOR[Path(file).parts[0].removesuffix(".py")] > FLOOR[place(module)]
    ]
    assert not up


def test_no_two_packages_import_each_other() -> None:
    pairs = {(Path(file).parts[0].removesuffix(".py"), place(module)) for file, module in ARROWS}
    assert not [pair for pair in pairs if pair[0] < pair[1] and pair[::-1] in pairs]


TO_BE_PARTED = {f"distilingua.models.{name}" for name in ("source", "speech", "student")}
STEPS = {  # module -> what it imports, but for circles that are known
    module: {name for name in imports(ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")) if name in MODULES}
    - (TO_BE_PARTED if module in TO_BE_PARTED else set())
    for module in MODULES
}


def circle_in(steps: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in turn, lazily or for types alone included; none where there is no circle."""
    try:
        TopologicalSorter(steps).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other() -> None:
    assert not circle_in(STEPS)


def test_a_planted_circle_is_seen_inside_a_package() -> None:
    low, high = "distilingua.monitoring.sweep", "distilingua.monitoring.leaderboard"
    assert set(circle_in({**STEPS, low: STEPS[low] | {high}})) == {low, high}


def test_a_planted_arrow_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "leaf.py"
    file.write_text(
        "def f():\n    if 1:\n        from distilingua import cli\n        import distilingua.training.train\n"
    )
    assert set(imports(file)) == {"distilingua.cli", "distilingua.training.train"}


SHAPES_NOTHING = {  # what teachers and baselines are built with, and why it is in no address
    "artifacts.py": "says where things are kept",
    "console.py": "prints",
    "errors.py": "refuses",
    "extras.py": "finds packages",
    "training/processes.py": "is for models that several processes train, and one trains these",
    "locations.py": "finds folders; what is in them has a hash",
    "parts.py": "makes objects of settings, which are in every recipe",
    "monitoring/callbacks.py": "watches",
    "monitoring/loggers.py": "writes down",
    "corpora/schema.py": "reads rows, and what is read has a hash",
}


def test_what_shapes_an_artifact_is_part_of_its_address() -> None:
    """Every file that training a teacher or a baseline imports is in SHAPING_CODE, or said above to shape nothing."""
    reached, ahead = set(), ["training/teacher.py", "training/student.py"]
    while ahead:
        name = ahead.pop()
        if name in reached:
            continue
        reached.add(name)
        for module in imports(ROOT / name):
            inside = Path(*module.split(".")[1:])
            if module.startswith("distilingua.") and (ROOT / inside).with_suffix(".py").exists():
                ahead.append(str(inside.with_suffix(".py")))
    shaping = list(artifacts.SHAPING_CODE)
    missing = [n for n in reached if not any(n == part or n.startswith(f"{part}/") for part in shaping)]
    hard = {f"distillation/losses/{name}.py" for name in ("ce", "bce", "ctc")}  # by name, see code_fingerprint
    assert set(missing) - hard - set(SHAPES_NOTHING) == set()
    for part in shaping:
        assert (ROOT / part).exists(), part


def test_a_hard_loss_of_ones_own_is_part_of_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is written: changed, it makes another baseline."""
    file = tmp_path / "my_losses.py"
    source = (
        "from distilingua.distillation.losses.ce import CrossEntropy\n\nclass Mine(CrossEntropy):\n    factor = 1\n"
    )
    file.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_losses  # type: ignore[import-not-found]

    before = artifacts.code_fingerprint(my_losses.Mine())
    assert before != artifacts.code_fingerprint()
    assert before == artifacts.code_fingerprint(my_losses.Mine())
    file.write_text(source.replace("1", "2"))
    assert artifacts.code_fingerprint(my_losses.Mine()) != before


def test_the_contract_of_a_task_can_be_held_in_the_head() -> None:
    own = {name for name in vars(Task) if not name.startswith("_")} | set(Task.__annotations__)
    assert len(own) <= 40
    assert Task.__abstractmethods__ == {"encode", "targets", "decode", "metrics"}
    source = inspect.getsource(Task)
    rare = source[source.index("stop reading here") :]
    assert not any(f"def {name}(" in rare for name in Task.__abstractmethods__)
