"""A configuration as objects: made in one place, for checking it, for running it, and for describing its corpus."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from hydra.utils import get_class, get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from distilingua.corpora.schema import Corpus
from distilingua.data.augmentation import Augmentation, Carriers, make_augmentations
from distilingua.data.protocol import Pair
from distilingua.data.rows import Rows, load_rows
from distilingua.distillation.objective import Objective, hard_labels
from distilingua.errors import LARGEST, Problems, learning, one_of, positive, rate, refuse, share, whole
from distilingua.foreign import check_data, targets_in
from distilingua.locations import conf_folder
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.models.student import Student
from distilingua.tasks.task import Task

OBJECTIVES = {  # what a sweeper may compare, and which way is better
    "score": "maximize",  # the main one, on the source's dev split
    "agreement": "maximize",  # with the teacher on dev, in the worst language
    "bytes": "minimize",  # of the student's weights
    "latency_ms": "minimize",  # for one sentence
}


def objectives(select: Any) -> list[str]:
    """`training.select` as a list: one name, or several."""
    return [str(by) for by in select] if OmegaConf.is_list(select) or isinstance(select, list) else [str(select)]


GOES_WITH = {  # choices for every backbone, for messages
    "encoder": "student=tiny teacher=minilm_en",
    "encoder-decoder": "student=seq2seq_tiny teacher=seq2seq_scratch",
    "speech encoder": "student=speech_tiny teacher=speech_scratch objective=kd_ctc",
}


@dataclass(frozen=True)
class Settings:
    """What a run is told beside its parts, as plain values; the configuration itself is read in this file alone.

    Args:
        plain: the whole configuration.
        run: its folder.
        cache: what runs share.
        training: epochs, batch sizes and the like, of the student.
        trainer: what Lightning's Trainer is made of.
        optimizer, lr_schedule: of the student, see `plan.optimizer_of` and `plan.schedule_of`.
        callbacks, loggers: by name.
        tasks: of a multitask run, names of folders; else the run's own, ".".
    """

    plain: dict[str, Any]
    run: Path
    cache: Path
    seed: int
    training: dict[str, Any]
    trainer: dict[str, Any]
    optimizer: dict[str, Any]
    lr_schedule: dict[str, Any]
    callbacks: dict[str, Any]
    loggers: dict[str, Any]
    tasks: Sequence[str]

    @classmethod
    def of(cls, cfg: DictConfig) -> Settings:
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        return cls(
            plain=plain,
            run=Path(plain["paths"]["run"]),
            cache=Path(plain["paths"]["cache"]),
            seed=plain["seed"],
            training=plain["training"],
            trainer=plain["trainer"],
            optimizer=plain["optimizer"],
            lr_schedule=plain["lr_schedule"],
            callbacks=plain["callbacks"],
            loggers=plain.get("logger") or {},
            tasks=[*(plain.get("multitask") or {"tasks": ["."]})["tasks"]],
        )


@dataclass
class Parts:
    """What a configuration names. The task knows no classes yet, see `Task.fit_labels`."""

    settings: Settings
    pair: Pair
    source: TeacherSource | Ensemble
    student: Student
    corpus: Corpus
    objective: Objective
    augmentations: dict[str, Augmentation]
    task: Task


def assemble(cfg: DictConfig) -> Parts:
    """The parts, each with values that it accepts itself; loads no model and reads no row.

    Raises:
        UserError: all that single parts refuse, a line each.
    """
    problems = Problems()
    problems.found += wrong_types(cfg)
    made = _judged(cfg, problems)
    measured = "task" in made and not made["task"].hears()  # which counts seconds, not pieces
    max_length = made["task"].max_length if measured else None
    with problems:
        made["source"] = instantiate(cfg.teacher, _convert_="all")
        made["source"].check(max_length)
    with problems:
        made["student"] = instantiate(cfg.student)
        made["student"].check(max_length)
        refuse(no_head("student", made["student"], cfg.task))
    with problems:
        schedules = instantiate(cfg.schedule)
    if "corpus" in made and "pair" in made:
        with problems:
            made["augmentations"] = make_augmentations(cfg.augmentation, made["corpus"], made["pair"].languages)
    with problems:
        check_training(cfg)
    problems.tell()  # the objective takes numbers for granted that were checked up to here
    with problems:
        _check_terms(cfg.objective.terms)
        made["objective"] = instantiate(cfg.objective, schedules=schedules)
    problems.tell()
    carriers = getattr(made["task"], "carriers", 0)
    if carriers and not made["objective"].by_piece:
        made["augmentations"] |= {"carriers": Carriers(carriers)}
    parts = Parts(Settings.of(cfg), **made)
    live = needs_live_teacher(parts.objective, parts.augmentations)
    parts.source.resolve_store(live=live or cfg.training.on_policy > 0)
    return parts


@dataclass
class Benchmark:
    """What models are judged on, whoever they are."""

    pair: Pair
    task: Task
    corpus: Corpus


def assemble_benchmark(cfg: DictConfig) -> Benchmark:
    """The parts that say what is judged; neither teacher nor student is looked at.

    Raises:
        UserError: all that these parts refuse, a line each.
    """
    problems = Problems()
    made = _judged(cfg, problems)
    problems.tell()
    return Benchmark(**made)


def _judged(cfg: DictConfig, problems: Problems) -> dict[str, Any]:
    """Pair, task and corpus, those that accept their values; what the others refuse is collected."""
    made: dict[str, Any] = {}
    for name in ("pair", "task", "corpus"):
        with problems:
            made[name] = instantiate(cfg[name])
    if "pair" in made and isinstance(made["pair"].targets, str):  # whose letters are no languages to ask for
        with problems:
            made.pop("pair").check()
    if "pair" in made:
        with problems:
            made["pair"].check(alone="task" in made and made["task"].writes())
    if "corpus" in made and "pair" in made:
        with problems:
            made["corpus"].check(made["pair"].languages)
    return made


def read_rows(parts: Parts) -> Rows:
    """Loads, cleans and pairs."""
    taught = parts.objective.needs_teacher
    languages, members = (parts.source.languages, parts.source.panel) if taught else (None, [])
    cleaning = instantiate(parts.settings.plain["cleaning"])
    return load_rows(parts.corpus, cleaning, parts.pair, languages, members, parts.task, parts.settings.cache)


def no_head(role: str, model: Student | TeacherSource, task: DictConfig) -> str | None:
    """What to say of a model that cannot have the head of the task; None of one that can.

    Args:
        model: a teacher or a student, see `Student.can_serve`.
        task: of the configuration, whose options may still be wrong.
    """
    kind: Any = get_class(task._target_)
    if model.can_serve(kind):
        return None
    return (
        f"{role}: task={task.name} needs an {kind.auto}, and this one cannot be any. Choose another task, or what "
        f"goes with this one: {GOES_WITH[kind.backbone]}."
    )


def needs_live_teacher(objective: Objective, augmentations: Mapping[str, Augmentation]) -> bool:
    """Whether a store is not enough: layers are compared, or the text changes together with its meaning."""
    return bool(set(objective.needs) - {"vector"}) or any(not one.keeps_meaning for one in augmentations.values())


def tasks_of(cfg: DictConfig) -> dict[str, DictConfig]:
    """The configuration of every single task: its own `task` and `corpus`, in a folder of its own."""
    single = {}
    for name, own in cfg.multitask.tasks.items():
        part = OmegaConf.merge(cfg, {"multitask": None})
        assert isinstance(part, DictConfig)
        OmegaConf.set_struct(part, False)
        part.task, part.corpus = own.task, own.corpus
        part.paths.run = str(Path(cfg.paths.run) / str(name))
        single[str(name)] = part
    return single


SET_HERE = {  # keys of `trainer` that a training sets itself, and what is typed instead
    "max_epochs": "training.epochs=N (of the teacher: teacher.fine_tune.epochs=N)",
    "min_epochs": "training.epochs=N, which are made to the end",
    "check_val_every_n_epoch": "training.epochs=N: dev is judged after every pass, and more often where one is long",
    "val_check_interval": "training.epochs=N: dev is judged after every pass, and more often where one is long",
    "enable_checkpointing": "~callbacks.checkpoint: a run that is cut off then begins anew",
    "logger": "logger=csv, a choice of its own",
    "callbacks": "+callbacks.NAME._target_=CLASS",
    "default_root_dir": "hydra.run.dir=FOLDER",
}
MOST_PROCESSES = 512


def check_training(cfg: DictConfig) -> None:
    """Raises UserError for settings of no use that belong to no part of their own."""
    training, objective, trainer = cfg.training, cfg.objective, cfg.trainer
    folder = Path(str(cfg.paths.cache))
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    devices = trainer.devices
    refuse(
        *learning("training", training),
        whole("training.eval_batch_size", training.eval_batch_size, 1),
        whole("training.workers", training.workers, 0, MOST_PROCESSES),
        share("training.language_alpha", training.language_alpha),
        share("training.on_policy", training.on_policy),
        *(one_of("training.select", by, OBJECTIVES) for by in objectives(training.select)),
        "training.select=[] names nothing. Set training.select=score." if not objectives(training.select) else None,
        whole("seed", cfg.seed, 0),
        *rate("optimizer", cfg.optimizer.get("lr"), "lr_schedule", cfg.lr_schedule),
        *(
            f"trainer.{key}={trainer[key]} would change nothing. Type {instead}."
            for key, instead in SET_HERE.items()
            if key in trainer
        ),
        *(
            f"trainer.{key}=0 trains nothing. Type a number of {what}."
            for key, what in (("limit_train_batches", "batches, or a share such as 0.1"), ("max_steps", "steps"))
            if trainer.get(key) == 0
        ),
        whole("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, 1),
        "trainer.devices=0: nothing computes. Type trainer.devices=1." if devices in (0, "0") else None,
        whole("trainer.devices", devices, -1, MOST_PROCESSES) if type(devices) is int else None,
        positive("objective.temperature", objective.temperature, "1"),
        share("objective.alpha", objective.alpha) if objective.get("alpha") is not None else None,
        f"paths.cache={folder} cannot be written. Name another folder: paths.cache=FOLDER."
        if not existing.is_dir() or not os.access(existing, os.W_OK)
        else None,
    )


PARTS = ("task", "corpus", "pair", "teacher", "student", "objective", "schedule", "cleaning", "augmentation")
SETTINGS = ("training", "trainer", "optimizer", "lr_schedule")


def wrong_types(cfg: DictConfig) -> list[str]:
    """Values that cannot be by their type, see `misfits`.

    Raises:
        UserError: a word stands where a part of the configuration should.
    """
    refuse(
        *(
            f"{name}={cfg[name]} takes the place of all keys of {name}. Set one of them, {name}.KEY=VALUE, or choose a "
            f"file of a group{': device=gpu' if name == 'trainer' else ''}."
            for name in (*PARTS, *SETTINGS)
            if not isinstance(cfg[name], DictConfig)
        )
    )
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return [told for name in ("seed", *PARTS, *SETTINGS) for told in misfits(name, values[name], name in PARTS)]


def misfits(key: str, value: Any, made: bool) -> Iterator[str]:
    """Numbers that are none or larger than anything counts to; and where a class is named, what its constructor does
    not take, of what its annotations call a number or a truth.

    Args:
        made: whether what is named by `_target_` is about to be made anyway.
    """
    if isinstance(value, dict):
        options: Mapping[str, Parameter] = {}
        with suppress(Exception):  # whatever is wrong with a class is told by whoever makes it
            if made and not value.get("_partial_"):  # which is tried by `fitting.rehearse`
                options = signature(get_object(value["_target_"])).parameters
        for name, inner in value.items():
            told = _expected(inner, options[name], least=None if "terms" in key else 0) if name in options else None
            yield from [f"{key}.{name}={inner}: {told}"] if told else misfits(f"{key}.{name}", inner, made)
    elif isinstance(value, list):
        for inner in value:
            yield from misfits(key, inner, made)
    elif type(value) in (int, float) and not abs(value) <= LARGEST:  # NaN is neither
        yield f"{key}={value}: expected a number of at most {LARGEST}."


def _expected(value: Any, option: Parameter, least: int | None) -> str | None:
    """What an option of a constructor should have been, by its annotation and default; None where it may be this.

    Args:
        least: of numbers, unless they are usually less; None for classes that know it themselves, as terms do.
    """
    around = {"None", "NoneType", "Optional", "Union", "typing", "class"}
    kinds = set(re.findall(r"\w+", str(option.annotation))) - around
    if value in (None, "???") or not kinds or not kinds <= {"int", "float", "bool"}:
        return None
    takes = {bool: "bool" in kinds, int: kinds != {"bool"}, float: "float" in kinds}.get(type(value), False)
    usual = option.default
    if takes and (least is None or value >= least or (type(usual) in (int, float) and usual < 0)):
        return None
    number = f"a {'' if 'float' in kinds else 'whole '}number of at least 0"
    return f"expected {'true or false' if kinds == {'bool'} else number}."


def _check_terms(terms: Mapping[str, Any]) -> None:
    refuse(
        *(
            f"objective.terms.{name} is weighed by this objective, and objective/terms leaves it out. Add it "
            f"there (objective/terms=[{name},…]), or choose objective=custom, which weighs nothing by itself."
            for name, term in terms.items()
            if "_target_" not in term
        )
    )


def made_of(settings: Settings, model: Any, labels: Sequence[str], **more: Any) -> dict[str, Any]:
    """What a module is made of as plain values, which its checkpoints carry: see `module_parts`."""
    names = ("task", "objective", "schedule", "optimizer", "lr_schedule")
    config = json.loads(model.config.to_json_string(use_diff=False))
    return {**{name: settings.plain[name] for name in names}, "student": config, "labels": list(labels), **more}


def module_parts(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a `DistillationModule` by what its checkpoint says: a student with random weights, no teacher.

    Raises:
        UserError: a class that no file of conf/ names.
    """
    from transformers import AutoConfig

    from distilingua.models.loading import student_of_config

    check_data(plain, targets_in(conf_folder()))
    task: Task = instantiate(plain["task"]).fit_labels(plain["labels"])
    if plain["baseline"]:
        objective = hard_labels(task.hard())
    else:
        objective = instantiate(plain["objective"], schedules=instantiate(plain["schedule"]))
    return {
        "student": student_of_config(AutoConfig.for_model(**plain["student"]), task),
        "task": task,
        "objective": objective,
        "optimizer": instantiate(plain["optimizer"], _partial_=True),
        "lr_schedule": instantiate(plain["lr_schedule"]),
        "languages": plain["languages"],
        "vector_width": plain["vector_width"],
    }
