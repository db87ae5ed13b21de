"""Where a teacher comes from. Imports nothing heavy, so that it can be checked before anything loads."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilingua.artifacts import file_sha256
from distilingua.errors import UserError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass
class TeacherSource:
    """What a teacher is made from.

    Args:
        path: hub repository, folder, or `package:NAME/FOLDER` for a model that a Python package carries.
        languages: what it reads; null for "all of them", as a multilingual encoder does.
        sha256: of its `model.safetensors`, checked before it is loaded; null for no check.
        revision: commit of a hub repository.
        prefix: goes in front of every text; some encoders want one (E5: "query: ").
        fine_tune: training of the task on labelled source text; null for a teacher that knows the task already.
        store: compute its logits once and train from those, instead of asking it again in every epoch.
    """

    path: str
    languages: list[str] | None = None
    sha256: str | None = None
    revision: str | None = None
    prefix: str = ""
    fine_tune: Mapping[str, Any] | None = None
    store: bool = True

    @property
    def location(self) -> str:
        """`path` with a package replaced by its folder. Imports nothing of that package."""
        if not self.path.startswith("package:"):
            return self.path
        package, _, folder = self.path.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"teacher.path={self.path}: the Python package {package!r} is not installed. "
                f"Run `pip install {package.replace('_', '-')}`."
            )
        return str(Path(spec.submodule_search_locations[0]) / folder)

    @property
    def local(self) -> Path | None:
        """Its folder; None when it lives on the hub."""
        folder = Path(self.location).expanduser()
        looks_local = self.path.startswith(("package:", "/", "./", "../", "~")) or folder.is_dir()
        return folder if looks_local else None

    def check(self) -> None:
        """Raises UserError for a folder without weights or with a wrong checksum; loads nothing."""
        folder = self.local
        if folder is None:
            return
        if not folder.is_dir():
            raise UserError(f"teacher.path={self.path}: no such folder. Give a folder with a transformers model.")
        if not any((folder / name).is_file() for name in WEIGHTS):
            raise UserError(
                f"teacher.path={self.path}: the folder has no weights ({' or '.join(WEIGHTS)}). "
                f"Save the model there with `model.save_pretrained(...)`."
            )
        if not (folder / "config.json").is_file():
            raise UserError(f"teacher.path={self.path}: the folder has no config.json, so its shape is unknown.")
        if self.sha256:
            found = file_sha256(folder / "model.safetensors")
            if found != self.sha256:
                raise UserError(
                    f"teacher.path={self.path}: model.safetensors hashes to {found}, expected {self.sha256}. The file "
                    f"is damaged or another version: install it again, or set teacher.sha256 if you mean this one."
                )

    def label_order(self) -> list[str] | None:
        """Class names in the order of its logits, from its configuration; None when it lives on the hub."""
        if self.local is None:
            return None
        names = json.loads((self.local / "config.json").read_text("utf-8")).get("id2label") or {}
        return [names[key] for key in sorted(names, key=int)]
