"""Packages that are not there for everybody (optional extras), or not at once (torch)."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from distilingua.errors import UserError

SPEECH = ("espeakng_loader", "jiwer", "soundfile", "soxr")  # what the extra `speech` brings
ONNX = ("onnx", "onnxruntime", "onnxscript")  # what the extra `onnx` brings


class Later:
    """A package that is imported when something of it is first used.

    Torch takes longer to import than a wrong setting should take to be refused, so what is built before the last check
    says `torch = Later("torch")`.
    """

    def __init__(self, package: str) -> None:
        self._package = package

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._package), name)


def check_speech() -> None:
    """Raises UserError when the extra `speech` is not installed. Imports nothing of it."""
    missing = [name for name in SPEECH if find_spec(name) is None]
    if missing:
        raise UserError(
            f"speech needs {', '.join(name.replace('_', '-') for name in missing)}. "
            f"Install the extra: pip install 'distilingua[speech]'."
        )


def speech_package(name: str) -> ModuleType:
    """A package of the extra `speech`."""
    check_speech()
    return import_module(name)


def check_onnx() -> None:
    """Raises UserError when the extra `onnx` is not installed. Imports nothing of it."""
    missing = [name for name in ONNX if find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {', '.join(missing)}. Install the extra: pip install 'distilingua[onnx]'.")


def onnx_package(name: str) -> ModuleType:
    """A package of the extra `onnx`."""
    check_onnx()
    return import_module(name)


def check_package(name: str, extra: str) -> None:
    """Raises UserError when a package of an extra is not installed. Imports nothing of it."""
    if find_spec(name) is None:
        raise UserError(f"{name} is not installed. Install the extra: pip install 'distilingua[{extra}]'.")


def check_plugin(group: str, target: str) -> None:
    """Raises UserError when a plugin of Hydra that the extra `sweeps` brings is not installed. Imports nothing of it.

    Args:
        group: what the user chose, for the message.
        target: its class.
    """
    package = ".".join(target.split(".")[:2])
    if package.startswith("hydra_plugins.") and (not find_spec("hydra_plugins") or not find_spec(package)):
        raise UserError(
            f"{group} is of {package.partition('.')[2]}, which is not installed. Install the extra: "
            f"pip install 'distilingua[sweeps]'."
        )
