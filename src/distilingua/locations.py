"""Where things are: `package:NAME/FOLDER`, and `conf/`; and how much room there is."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from distilingua.errors import UserError


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
