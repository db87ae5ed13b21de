"""The house keeps its order: arrows run one way, a contract stays small, and what shapes an artifact is part of it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import distilingua
from distilingua.tasks.task import Task

ROOT = Path(distilingua.__file__).parent
FLOORS = (  # from the top; what stands on one floor may import itself and everything below
    ("cli",),
    ("commands",),
    ("overrides",),
    ("delivery",),
    ("cache", "checks", "describe", "training"),
    ("parts", "monitoring"),
    ("models", "data"),
    ("tasks",),
    ("corpora",),
    ("distillation", "statistics"),
    ("foreign",),
    ("extras", "artifacts", "columns", "console", "locations"),
    ("errors", "used_code"),
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


def test_the_configuration_stops_at_the_parts() -> None:
    """What is below `parts` is told in objects and values, and so is all that trains."""
    told = [path.relative_to(ROOT) for path in ROOT.rglob("*.py") if "DictConfig" in path.read_text("utf-8")]
    floors = {str(path): FLOOR[path.parts[0].removesuffix(".py")] for path in told}
    assert floors
    assert not [file for file, floor in floors.items() if floor > FLOOR["parts"] or file.startswith("training")]


STEPS = {  # module -> what it imports
    module: {name for name in imports(ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")) if name in MODULES}
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


def test_the_contract_of_a_task_can_be_held_in_the_head() -> None:
    own = {name for name in vars(Task) if not name.startswith("_")} | set(Task.__annotations__)
    assert len(own) <= 41
    assert Task.__abstractmethods__ == {"encode", "targets", "decode", "metrics"}
    source = inspect.getsource(Task)
    rare = source[source.index("stop reading here") :]
    assert not any(f"def {name}(" in rare for name in Task.__abstractmethods__)
