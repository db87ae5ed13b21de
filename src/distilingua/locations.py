"""Where things are: `package:NAME/FOLDER`, `conf/`, what was typed for a run, how much room there is; a new folder."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import yaml

from distilingua.errors import UserError

SEARCHPATH = "hydra.searchpath="
LARGEST = 2_000_000  # characters of a file of settings; ours have a few thousand


class _PlainLoader(yaml.SafeLoader):
    """Plain values without aliases, of which ten lines can be a thousand million values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias, which nothing of ours writes")
        return super().compose_node(parent, index)


def read_yaml(file: Path) -> Any:
    """What stands in a file of settings, which may be of somebody else.

    Raises:
        OSError, ValueError, yaml.YAMLError: it cannot be read.
    """
    content = file.read_text("utf-8")
    if len(content) > LARGEST:
        raise ValueError(f"it has {len(content)} characters, and settings have a few thousand")
    try:
        return yaml.load(content, _PlainLoader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def location(path: str, option: str) -> str:
    """The path with a package replaced by its folder. Imports nothing of that package.

    Args:
        option: what the user set, for the message.

    Raises:
        UserError: the package is not installed.
    """
    if not path.startswith("package:"):
        return path
    package, _, folder = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{option}={path}: the Python package {package!r} is not installed. "
            f"Run `pip install {package.replace('_', '-')}`."
        )
    return str(Path(spec.submodule_search_locations[0]) / folder)


def conf_folder() -> Path:
    """`conf/` of the checkout, or the copy inside the installed package."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def free_bytes(folder: Path) -> int:
    """Room where a folder is, or will be."""
    there = folder.absolute()
    return shutil.disk_usage(next(place for place in (there, *there.parents) if place.exists())).free


def overrides_file(run: Path) -> Path | None:
    """Where it stands what was typed for a run; None for a folder that is none of a run.

    The copy beside the checkpoints is that of the run itself; Hydra's own is that of the last try in this folder.
    """
    files = [run / folder / "overrides.yaml" for folder in ("checkpoints", ".hydra")]
    return next((file for file in files if file.is_file()), None)


def typed_for(overrides: Path) -> list[str] | None:
    """What was typed for a run, with where its own configurations are (`--config-dir`); None where the file is damaged:
    a full disk leaves an empty one, which is not "nothing was typed"."""
    try:
        typed = read_yaml(overrides)
        hydra = overrides.parents[1] / ".hydra/hydra.yaml"
        own = read_yaml(hydra)["hydra"]["overrides"]["hydra"] if hydra.exists() else []
    except (OSError, ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError):
        return None
    places = [item for item in own if item.startswith(SEARCHPATH)]
    return [*places, *map(str, typed)] if isinstance(typed, list) else None


def typed_of(run: Path) -> list[str]:
    """What was typed for a run, or for the one that a task among several is of; nothing where nobody knows.

    Raises:
        UserError: the file is damaged.
    """
    file = overrides_file(run) or overrides_file(run.parent)
    typed = typed_for(file) if file else []
    if typed is None:
        raise UserError(
            f"{file} is damaged, and says what was typed for that run. Mend it (a line `- pair=en-de` for each), or "
            f"delete the folder of the run."
        )
    return typed


def new_folder(path: str) -> str:
    """This folder, or path-2, path-3 and so on where it is there already: made here, so that of two commands that start
    in the same second each has its own."""
    folder, n = Path(path), 1
    while True:
        try:
            folder.mkdir(parents=True)
            return str(folder)
        except FileExistsError:
            folder, n = Path(f"{path}-{n + 1}"), n + 1
