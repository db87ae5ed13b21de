"""Packages that are not there for everybody: optional extras."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from distilingua.errors import UserError

SPEECH = ("espeakng_loader", "jiwer", "soundfile", "soxr")  # what the extra `speech` brings
ONNX = ("onnx", "onnxruntime", "onnxscript")  # what the extra `onnx` brings


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
