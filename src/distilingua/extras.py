"""Packages that are not there for everybody (optional extras), or not at once (torch)."""

from __future__ import annotations

from collections.abc import Sequence
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


def check_installed(what: str, packages: Sequence[str], extra: str) -> None:
    """Raises UserError when a package of an extra is not installed. Imports nothing of it.

    Args:
        what: needs the packages, for the message.
    """
    if missing := [name for name in packages if not _there(name)]:
        names = ", ".join(name.rpartition(".")[2].replace("_", "-") for name in missing)
        raise UserError(f"{what} needs {names}. Install the extra: pip install 'distilingua[{extra}]'.")


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def check_speech() -> None:
    check_installed("speech", SPEECH, "speech")


def speech_package(name: str) -> ModuleType:
    """A package of the extra `speech`."""
    check_speech()
    return import_module(name)


def check_onnx() -> None:
    check_installed("ONNX", ONNX, "onnx")


def onnx_package(name: str) -> ModuleType:
    """A package of the extra `onnx`."""
    check_onnx()
    return import_module(name)
