"""Where a finished model is: the folder of a run, an exported folder, an ONNX file, or the hub."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig

from distilingua.artifacts import FILES, check_files
from distilingua.errors import UserError, refuse
from distilingua.foreign import HARMLESS, check_data, taken, targets_in
from distilingua.locations import conf_folder, overrides_file, typed_of
from distilingua.models.folder import OWN, STUDENTS, WEIGHTS, damaged, read_json, readable
from distilingua.parts import tasks_of
from distilingua.tasks.task import Task

SETTINGS = {  # of a model, see `Delivered`, and what each is
    **{"task": dict, "cleaning": dict, "prefix": str, "languages": list, "parameters": int, "overrides": list},
    "rows": dict,
}
ONNX = ("onnx/model.onnx", "onnx/model_quantized.onnx", "model.onnx")
PUBLISHED = ("*.json", "*.safetensors", "*.txt", "*.model", "onnx/*.onnx", "*.onnx")
NAME_ONE = "Name the folder of a run, an exported folder, or a model of the hub (a/b)."


@dataclass
class Delivered:
    """
    Args:
        given: as the user named it.
        folder: with config.json and the tokenizer.
        onnx: the file that computes; None for transformers' own.
        settings: what config.json says under `OWN`: `task`, `cleaning`, `prefix`, `languages`, harmless `overrides` and
            fingerprints of the test `rows` of the run it comes from; `parameters`; and `temperature`, where it was
            exported with one.
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
        try:
            # half a character, which JSON can spell, no file of answers can
            return [str(names[key]).encode(errors="replace").decode() for key in sorted(names, key=int)]
        except (ValueError, TypeError):
            raise UserError(f"{self.given}: id2label of its config.json is {names}; expected 0, 1, …") from None


def find(given: str) -> Delivered:
    """Where a model is that the user named; one of the hub is downloaded.

    Raises:
        UserError: there is none.
    """
    path = Path(given).expanduser()
    run = run_of(path)
    for student in STUDENTS if run else ():
        if run and (run / student / "config.json").is_file():
            return open_exported(given, run / student)
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
    refuse(damaged(given, folder))
    settings = _settings(folder, given)
    file = path if path != folder else None
    if file is None and not any((folder / name).is_file() for name in WEIGHTS):
        file = next((folder / name for name in ONNX if (folder / name).is_file()), None)
        if file is None:
            raise UserError(f"{given}: the folder has no weights ({', '.join((*WEIGHTS, *ONNX[:2]))}).")
    if (folder / FILES).is_file():
        check_files(folder, f"Restore it, or accept the folder as it is: rm {shlex.quote(str(folder / FILES))}")
    return Delivered(given, folder, file, settings)


def overrides_of(command: str, given: str, typed: Sequence[str]) -> list[str]:
    """What was typed for the run that a model comes from, so that it is judged on the same rows; of a folder that was
    exported, or came from elsewhere, values alone. See `foreign.taken`."""
    path = _folder_of(Path(given).expanduser())
    run = run_of(path)
    of_another = ("task.",) if any(item.startswith("task=") for item in typed) else ()  # keys that it may not have
    if run and (overrides_file(run) or overrides_file(run.parent)):  # a task among several has no own
        items = [item for item in typed_of(run) if not item.startswith(("paths.", *of_another))]
        return taken(command, given, items, run, typed)
    if not (path / "config.json").is_file():
        return []
    items = [str(item) for item in _settings(path, given).get("overrides", [])]
    return [item for item in items if HARMLESS.fullmatch(item) and not item.startswith(of_another)]


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


def known_task(settings: Mapping[str, Any], given: str) -> Task | None:
    """The task that a model says it was trained for; None where it does not.

    Raises:
        UserError: it names a class that is no task of a configuration; options that the task refuses.
    """
    options = dict(settings.get("task") or {})
    if not options:
        return None
    kind = options.pop("_target_", None)
    if kind not in targets_in(conf_folder() / "task"):
        raise UserError(f"{given}: its task is {kind!r}, which no file of conf/task/ names, and is not run.")
    try:
        check_data(options)
        task: Task = get_class(kind)(**options)
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{given}: options of its task cannot be meant: {error}") from None
    return task


def _folder_of(path: Path) -> Path:
    """Where config.json and tokenizer of a folder, or of an ONNX file, are."""
    if path.suffix != ".onnx":
        return path
    return path.parent.parent if path.parent.name == "onnx" else path.parent


def _settings(folder: Path, given: str) -> dict[str, Any]:
    settings = read_json(given, folder / "config.json").get(OWN, {})
    if not isinstance(settings, dict):
        raise UserError(f"{given}: {OWN} of its config.json is {settings!r}; expected what an export writes there.")
    wrong = (name for name in SETTINGS if name in settings and not isinstance(settings[name], SETTINGS[name]))
    for name in wrong:
        raise UserError(f"{given}: {OWN}.{name} of its config.json is {settings[name]!r}; expected a {SETTINGS[name]}.")
    return settings


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
