"""What made a run: versions, machine, and the commit of the checkout."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("distilingua", "torch", "lightning", "transformers", "datasets", "hydra-core", "torchmetrics", "numpy")


def provenance() -> dict[str, Any]:
    """`versions` by package, `python`, `platform`, and where this package is a checkout, `commit` and whether it was
    `dirty`: files that git knows were changed, or new ones stood beside them."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # on a path, but not installed
            continue
    return {"versions": versions, "python": platform.python_version(), "platform": platform.platform(), **checkout()}


def checkout() -> dict[str, Any]:
    """Empty where there is no git, or no checkout of this package."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # or it is somebody else's repository around us
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.SubprocessError):
        return {}
