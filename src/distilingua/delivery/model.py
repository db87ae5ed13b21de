"""Where a finished model is: the folder of a run, an exported folder, an ONNX file, or the hub."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig

from distilingua.errors import UserError, refuse
from distilingua.locations import SEARCHPATH, overrides_file, typed_for
from distilingua.models.folder import WEIGHTS, damaged, read_json, readable
from distilingua.parts import tasks_of
from distilingua.tasks.task import Task

STUDENTS = ("student", "student_of_all")
"""Where in its folder a run, or a task of it among several, keeps its student."""
OWN = "distilingua"
"""The key of config.json under which an exported model says how it reads."""
ONNX = ("onnx/model.onnx", "onnx/model_quantized.onnx", "model.onnx")
PUBLISHED = ("*.json", "*.safetensors", "*.txt", "*.model", "onnx/*.onnx", "*.onnx")
# what a file that others wrote may set: values of these groups, and never a class that would be run
HARMLESS = re.compile(r"(task|corpus|pair|experiment|cleaning|debug)(\.(?!_)\w+)*=[^{}/\\$]*")
NAME_ONE = "Name the folder of a run, an exported folder, or a model of the hub (a/b)."


@dataclass
class Delivered:
    """
    Args:
        given: as the user named it.
        folder: with config.json and the tokenizer.
        onnx: the file that computes; None for transformers' own.
        settings: `task`, `cleaning`, `prefix` and `parameters` of the run it comes from, as far as they are known; and
            `temperature`, where it was exported with one.
    """

    given: str
    folder: Path
    onnx: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.given, self.folder / "config.json")

    @property
    def labels(self) -> list[str]:
        """Names of the classes in the order of the logits; none where the model does not say."""
        names = self.config.get("id2label") or {}
        return [str(names[key]) for key in sorted(names, key=int)]

    @property
    def temperature(self) -> float:
        """Of its probabilities.

        Raises:
            UserError: it is none.
        """
        temperature = self.settings.get("temperature", 1.0)
        if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
            raise UserError(f"{self.given}: its config.json says temperature={temperature}; expected a number above 0.")
        return float(temperature)


def find(given: str) -> Delivered:
    """Where a model is that the user named; one of the hub is downloaded.

    Raises:
        UserError: there is none.
    """
    path = Path(given).expanduser()
    run = run_of(path)
    for student in STUDENTS if run else ():
        if run and (run / student / "config.json").is_file():
            refuse(damaged(given, run / student))
            return Delivered(given, run / student, None, run_settings(run, given))
    if (path.suffix == ".onnx" and path.is_file()) or (path / "config.json").is_file():
        return open_exported(given, path)
    if overrides_file(path) is not None:
        raise UserError(
            f"{given}: this run has no student/ yet. Finish it: distilingua resume {given}. (A run without a teacher "
            f"keeps its student where it said when it ended: name that folder.)"
        )
    if path.exists() or given.startswith(("/", "./", "../", "~")) or given.count("/") > 1:
        problem = "holds no model (no config.json, no student/ in it)" if path.exists() else "is not there"
        raise UserError(f"{given} {problem}. {NAME_ONE}")
    return open_exported(given, _downloaded(given))


def open_exported(given: str, path: Path) -> Delivered:
    """An exported folder, or one of its ONNX files.

    Raises:
        UserError: it holds no weights, or damaged files.
    """
    folder = _folder_of(path)
    settings = _exported_settings(folder, given)
    if path != folder:
        return Delivered(given, folder, path, settings)
    refuse(damaged(given, folder))
    if any((folder / name).is_file() for name in WEIGHTS):
        return Delivered(given, folder, None, settings)
    file = next((folder / name for name in ONNX if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{given}: the folder has no weights ({', '.join((*WEIGHTS, *ONNX[:2]))}).")
    return Delivered(given, folder, file, settings)


def overrides_of(given: str) -> list[str]:
    """What was typed for the run that a model comes from, so that it is judged on the same rows; of a folder that was
    exported, or came from elsewhere, values alone."""
    path = _folder_of(Path(given).expanduser())
    run = run_of(path)
    if run and (overrides := overrides_file(run) or overrides_file(run.parent)):  # a task among several has no own
        typed = typed_for(overrides) or []
        return [item for item in typed if not item.startswith(("paths.", "hydra.")) or item.startswith(SEARCHPATH)]
    if not (path / "config.json").is_file():
        return []
    typed = _exported_settings(path, given).get("overrides", [])
    return [item for item in typed if isinstance(item, str) and HARMLESS.fullmatch(item)]


def for_its_task(cfg: DictConfig, given: str, typed: Sequence[str]) -> DictConfig:
    """The configuration for a model of one of several tasks: with the task and the corpus that it was trained for.

    Args:
        typed: overrides; where one names a task or a corpus, these are meant.
    """
    run = run_of(Path(given).expanduser())
    if run is None or not cfg.get("multitask") or any(re.match(r"(task|corpus)[.=]", item) for item in typed):
        return cfg
    return tasks_of(cfg).get(run.name, cfg)


def run_of(path: Path) -> Path | None:
    """The folder of the run that a path is, or is the student of; None where it is neither."""
    if path.name in STUDENTS and (path.parent / "metrics.json").is_file():
        path = path.parent
    return path if any((path / name).exists() for name in (*STUDENTS, "metrics.json")) else None


def run_settings(run: Path, given: str) -> dict[str, Any]:
    """What a run says of how its student reads.

    Raises:
        UserError: the file is damaged.
    """
    file, task = run / "checkpoints" / "settings.yaml", ""
    if not file.is_file():  # one of several tasks
        file, task = run.parent / "checkpoints" / "settings.yaml", run.name
    if not file.is_file():
        return {}
    try:
        settings = yaml.safe_load(file.read_text("utf-8"))
        if settings.get("multitask"):
            settings |= settings["multitask"]["tasks"][task]
        return {
            "task": settings["task"],
            "cleaning": settings["cleaning"],
            "prefix": settings["student"].get("prefix", ""),
            "languages": [settings["pair"]["source"], *settings["pair"]["targets"]],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"{given}: {file} is damaged ({type(error).__name__}: {error}). Restore or delete it."
        ) from None


def known_task(settings: Mapping[str, Any], given: str) -> Task | None:
    """The task that a model says it was trained for; None where it does not.

    Raises:
        UserError: it names a class that is not one of this package's tasks, which a file of others might; options that
            the task refuses.
    """
    options = dict(settings.get("task") or {})
    if not options:
        return None
    kind = str(options.get("_target_", ""))
    inside = [key for value in options.values() if isinstance(value, dict) for key in value if key.startswith("_")]
    if not re.fullmatch(r"distilingua\.tasks(\.\w+)+", kind) or inside:
        raise UserError(f"{given}: its task is {kind!r}, which is none of src/distilingua/tasks/, and is not run.")
    task: Task = instantiate(options)
    return task


def _folder_of(path: Path) -> Path:
    """Where config.json and tokenizer of a folder, or of an ONNX file, are."""
    if path.suffix != ".onnx":
        return path
    return path.parent.parent if path.parent.name == "onnx" else path.parent


def _exported_settings(folder: Path, given: str) -> dict[str, Any]:
    settings = read_json(given, folder / "config.json").get(OWN, {})
    return settings if isinstance(settings, dict) else {}


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    with readable(name, None):
        try:
            return Path(snapshot_download(name, allow_patterns=list(PUBLISHED)))
        except (LocalEntryNotFoundError, RepositoryNotFoundError) as error:
            unknown = isinstance(error, RepositoryNotFoundError)
            problem = "is not on the hub" if unknown else "the hub cannot be reached"
            raise UserError(f"{name} is no folder here, and {problem}. {NAME_ONE}") from None
