"""From what is typed to Hydra's overrides, and from these to names of folders."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from distilingua.artifacts import fingerprint
from distilingua.errors import UserError
from distilingua.foreign import taken
from distilingua.locations import SEARCHPATH, free_bytes, new_folder, overrides_file, typed_for
from distilingua.monitoring.sweep import (
    SWEEP,
    differing,
    key_of,
    read_sweep_note,
    settings_in,
    short_keys,
    three_digits,
)

TELLING = (  # what says most about a run, in this order; then everything else that was typed, and the seed
    *("experiment", "task", "corpus", "pair", "teacher", "student", "objective", "objective/terms", "schedule"),
    *("augmentation", "sweep", "debug"),
)
NO_FILES = ("hydra.output_subdir=null", "hydra/job_logging=none")  # or `resume` would take a folder for a run's
ROOM = 100_000  # bytes, for what Hydra writes before anything else
LONGEST = 100  # characters of a folder's name
WORD = r"[A-Za-z0-9.-]*[A-Za-z0-9.]"
SPELT = re.compile(rf"{WORD}|\[({WORD}(,{WORD})*)?\]")  # values that a name says in full: a word, or a list of words


def run_name(overrides: Sequence[str]) -> str:
    """A name for the folder of a run, of what was typed for it."""
    return name_of(settings_in(overrides))


def job_name(sweep: str, overrides: Sequence[str]) -> str:
    """A name for the folder of a job, of what varies in its sweep, whose folder is given."""
    return name_of(differing(Path(sweep), overrides))


def name_of(overrides: Sequence[str]) -> str:
    """A name made of overrides, what says most in front.

    It has letters, digits and `.`, `_`, `-`, `+` alone, so that it can be pasted into a shell, and into an override.
    What cannot be spelt so, is rounded, or is too long, leaves a hash, so that other settings have another name.
    """
    keys = {item: key_of(item).lstrip("+~") for item in overrides}
    short = short_keys(keys.values())
    order = {key: n for n, key in enumerate(TELLING)}
    parts, exact = [], True
    for item in sorted(keys, key=lambda item: (keys[item] == "seed", order.get(keys[item], len(order)), keys[item])):
        typed = "no" if item.startswith("~") else item.partition("=")[2]
        value = three_digits(typed)
        exact = exact and value == typed and bool(SPELT.fullmatch(value))
        signs = re.sub(r"[\[\]{}'\"\s]", "", value).replace(",", "+").replace(":", "-")
        key = short[keys[item]].replace("/", ".")
        parts.append(f"{key}-{re.sub(r'[^A-Za-z0-9.+-]+', '-', signs)}".rstrip("-"))
    name = "_".join(parts) or "default"
    if len(name) > LONGEST or not exact:
        name = f"{name[:LONGEST].rstrip('-_')}-{fingerprint(sorted(keys))[:8]}"
    return name


def quoted(value: object) -> str:
    """Text as the value of an override, whatever signs are in it."""
    return "'" + str(value).replace("'", "\\'") + "'"


OmegaConf.register_new_resolver("one_minus", lambda share: 1 - share, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("job_name", job_name, replace=True)
OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)


# --- of each command --------------------------------------------------------------------------------------------------


def for_resume(arguments: Sequence[str]) -> list[str]:
    """The overrides of a run, or of a sweep, in its own folder, where its checkpoints are. Without a folder, of the
    latest."""
    arguments = with_own_configurations(arguments)
    given = [word for word in arguments[:1] if "=" not in word or Path(word).is_dir()]
    folder, typed = Path(given[0]) if given else latest_run(), arguments[len(given) :]
    if note := read_sweep_note(folder):
        own = [item for item in note["hydra"] if not item.startswith(("hydra.mode=", "hydra.sweep.dir="))]
        items = taken("resume", str(folder), [*own, *note["task"]], folder, typed, resumed=True)
        return ["-m", *items, f"hydra.sweep.dir={quoted(folder)}", *typed]
    overrides = overrides_file(folder)
    if overrides is None:
        raise UserError(
            f"{folder} is not the folder of a run or a sweep (no .hydra/overrides.yaml or {SWEEP}). Name one of "
            f"outputs/ or multirun/, or none for the latest."
        )
    known = typed_for(overrides)
    if known is None:
        raise UserError(
            f"{overrides} is damaged, so what was typed for this run is not known. Type it again: distilingua train "
            f"OVERRIDES hydra.run.dir={shlex.quote(str(folder))}"
        )
    items = taken("resume", str(folder), known, folder, typed, resumed=True)
    return [*items, f"hydra.run.dir={quoted(folder)}", *typed]


def latest_run() -> Path:
    """The folder of the run or sweep that began last."""
    runs = [file.parents[1] for file in Path("outputs").glob("*/*/.hydra/overrides.yaml")]
    runs += [file.parent for file in Path("multirun").glob(f"*/*/{SWEEP}")]
    if not runs:
        raise UserError("no run under outputs/ or multirun/. Name its folder: distilingua resume RUN.")
    return max(runs, key=lambda run: run.parts[-2:])  # their names begin with date and time


def for_corpus(arguments: Sequence[str]) -> list[str]:
    """The overrides for looking at a corpus, which leaves no folder."""
    return [*arguments, "hydra.run.dir=.", *NO_FILES]


def for_export(arguments: Sequence[str]) -> list[str]:
    """The overrides for exporting a model, to `export/` in the folder of its run."""
    models, typed = models_and_overrides("export", arguments)
    if len(models) > 1:
        raise UserError(f"several models are named ({', '.join(models)}). Export one at a time.")
    path = Path(models[0]).expanduser()
    folder = path / "export" if path.is_dir() else Path("export") / path.name
    return [*NO_FILES, f"hydra.run.dir={quoted(folder)}", *typed, f"model={quoted(models[0])}"]


def for_evaluate(arguments: Sequence[str]) -> list[str]:
    """The overrides for judging models, in a folder of its own under `outputs/`."""
    models, typed = models_and_overrides("evaluate", arguments)
    title = re.sub(r"[^A-Za-z0-9.+-]+", "-", "+".join(Path(model).name for model in models))[:LONGEST]
    folder = f"outputs/${{now:%Y-%m-%d}}/${{now:%H-%M-%S}}_evaluate-{title}"
    return [*NO_FILES, f"hydra.run.dir={folder}", *typed, f"+models=[{','.join(map(quoted, models))}]"]


def for_why(arguments: Sequence[str]) -> list[str]:
    """The overrides for one run, beside whose results its explanation is written."""
    models, typed = models_and_overrides("why", arguments)
    if len(models) > 1:
        raise UserError(f"{' '.join(models)}: why takes one run. Name one.")
    return [*NO_FILES, f"hydra.run.dir={quoted(models[0])}", *typed, f"+models=[{quoted(models[0])}]"]


def models_and_overrides(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Models, and the overrides for them: those of the run that the first one is of, then what was typed.

    Args:
        arguments: both, in any order.
    """
    from distilingua.delivery.model import overrides_of  # slow to import, and other commands have no need of it

    arguments = with_own_configurations(arguments)
    models = [word for word in arguments if not re.match(r"[+~-]|[\w./@]+=", word) or Path(word).exists()]
    if not models:
        raise UserError(
            f"no model is named. Name the folder of a run, an exported folder, or a model of the hub: "
            f"distilingua {command} RUN"
        )
    typed = [word for word in arguments if word not in models]
    return models, [*overrides_of(command, models[0], typed), *typed]


# --- of all commands --------------------------------------------------------------------------------------------------


def for_hydra(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra may have them.

    Raises:
        UserError: a folder that is not there, or cannot be written; Hydra would answer with a traceback.
    """
    overrides = with_own_configurations(overrides)
    folders = [item.partition("=")[2] for item in overrides if item.startswith(("hydra.run.dir=", "hydra.sweep.dir="))]
    check_one_folder(overrides)
    for folder in folders or ["outputs"]:
        if "${" not in folder:
            check_writable(Path(folder.strip("'").replace("\\'", "'")).absolute())
    return overrides


def with_own_configurations(arguments: Sequence[str]) -> list[str]:
    """`--config-dir FOLDER` as an override, which Hydra keeps with a run, so that `resume`, `evaluate` and `export`
    find these configurations again, from wherever they are typed."""
    kept, rest = [], iter(arguments)
    for word in rest:
        option, equals, value = word.partition("=")
        if option not in ("--config-dir", "-cd"):
            kept.append(word)
            continue
        folder = Path(value if equals else next(rest, ""))
        if not folder.is_dir() or folder == Path():
            raise UserError(f"--config-dir {folder}: there is no such folder. Name the one with your YAML files.")
        kept.append(f"{SEARCHPATH}[{quoted(f'file://{folder.absolute()}')}]")
    return kept


def check_one_folder(overrides: Sequence[str]) -> None:
    """Processes that torchrun or srun has started would each name a folder after the second in which they start."""
    several = any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    if several and not any(word.startswith("hydra.run.dir=") for word in overrides):
        raise UserError(
            "several processes were started for one run, and each would name a folder of its own. Name one for all: "
            "hydra.run.dir=outputs/NAME"
        )


def check_writable(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{folder} cannot be written ({existing} is in the way). Set hydra.run.dir=FOLDER.")
    if free_bytes(existing) < ROOM:
        raise UserError(f"the disk of {folder} is full. Make room, or set hydra.run.dir=FOLDER on another.")
