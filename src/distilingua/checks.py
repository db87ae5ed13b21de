"""Everything that can be wrong with a configuration and be known before a model loads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from distilingua.data.augmentation import Augmentation, make_augmentations
from distilingua.data.protocol import Pair
from distilingua.distillation.losses.term import Term
from distilingua.distillation.objective import Objective
from distilingua.errors import UserError
from distilingua.models.source import TEXT_HEADS, Ensemble, TeacherSource

LR_SCHEDULES = (  # those of transformers.get_scheduler that need no more than warm-up and number of steps
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)

WHOLE = {  # least
    **dict.fromkeys(("training.epochs", "training.batch_size", "training.eval_batch_size"), 1),
    **dict.fromkeys(("training.workers", "seed", "task.stride"), 0),
    **dict.fromkeys(("task.max_answer", "task.beams", "task.hearings"), 1),
    "task.max_length": 3,  # a piece between the two that begin and end a text
}
SIZES = {  # least, of models from random weights
    **dict.fromkeys(("layers", "decoder_layers", "hidden_size", "heads", "feed_forward", "positions", "mels"), 1),
    "kernel": 1,
    "vocabulary": 32,  # letters alone are as many
}
NULLABLE = ("task.stride", "objective.alpha", "training.language_alpha", "lr_schedule.warmup", "teacher.prefix")


def check(cfg: DictConfig) -> None:
    """Raises UserError for the first thing that cannot work; takes a second or two and writes nothing."""
    if cfg.get("several"):
        _check_several(cfg)
        return
    task: Any = get_class(cfg.task._target_)
    pair: Pair = instantiate(cfg.pair)
    pair.check(alone=task.generates)
    source: TeacherSource | Ensemble = instantiate(cfg.teacher, _convert_="all")
    source.check()
    if isinstance(source, Ensemble) and OmegaConf.is_interpolation(cfg.student, "path"):
        raise UserError("student=layers copies the teacher, and there are several. Name one: student.path=FOLDER.")
    _check_values(cfg)
    student = instantiate(cfg.student)
    student.check(cfg.task.max_length)
    _check_heads({"student": student}, cfg.task.name, task)
    corpus = instantiate(cfg.corpus)
    corpus.check(pair.languages)
    if source.languages is not None and pair.source not in source.languages:
        raise UserError(
            f"teacher: it reads {', '.join(source.languages)}, not the source language {pair.source!r}. Choose a "
            f"teacher that does (teacher=xlmr_base), or name its languages: teacher.languages=[{pair.source}]."
        )
    if pair.align == "block" and isinstance(source, Ensemble):
        raise UserError("pair.align=block: several teachers each read one sentence. Set pair.align=sentence.")
    for member in source.members.values():
        foreign = set((member.fine_tune or {}).get("languages") or ()) - set(pair.languages)
        if foreign:
            raise UserError(
                f"teacher.fine_tune.languages names {', '.join(sorted(foreign))}, and the pair is {pair.name}. Name "
                f"languages of the pair only, or add them to it: pair.targets."
            )
    if pair.protocol == "translate_train" and (task.points_into or "audio" in task.reads):
        raise UserError(
            f"pair.protocol=translate_train: labels of task={cfg.task.name} belong to one text or sound, and are not "
            f"those of its translation. Choose pair.protocol=zero_shot."
        )
    if pair.align == "block" and task.points_into:
        raise UserError("pair.align=block: this task's labels point into one text. Set pair.align=sentence.")
    if isinstance(source, Ensemble) and task.generates:
        raise UserError("teacher: this task's answers are texts, which cannot be averaged. Choose a single teacher.")
    for name, term in cfg.objective.terms.items():
        if "_target_" not in term:
            raise UserError(
                f"objective.terms.{name} is weighed by this objective, and objective/terms leaves it out. Add it "
                f"there (objective/terms=[{name},…]), or choose objective=custom, which weighs nothing by itself."
            )
    objective: Objective = instantiate(cfg.objective, schedules=instantiate(cfg.schedule))
    for name, term in objective.terms.items():
        if isinstance(term, Term) and not term.soft and type(term) is not type(task.hard()):
            own = type(task.hard()).__module__.rpartition(".")[2]
            soft = "binary_kl" if own == "bce" else "kl"
            raise UserError(
                f"objective.terms.{name} is the hard loss of other tasks; that of {cfg.task.name} is {own}. Type "
                f"objective=custom objective/terms=[{soft},{own}]."
            )
    if objective.needs_teacher:
        _check_heads(source.members, cfg.task.name, task)
    augmentations = make_augmentations(cfg.augmentation, corpus, pair.languages)
    source.settle(live=needs_live_teacher(objective, augmentations))
    names = ", ".join(sorted({name for terms in objective.needs.values() for name in terms}))
    if objective.needs and task.auto not in TEXT_HEADS:
        raise UserError(
            f"objective: {names} compare layers of encoders of text, and task={cfg.task.name} has other models. Choose "
            f"objective={'kd_ctc' if 'audio' in task.reads else 'kd'}."
        )
    if objective.needs and source.store:
        raise UserError(
            f"objective: {names} compare layers of the teacher ({', '.join(sorted(objective.needs))}), and a store "
            f"holds logits alone. Choose one teacher with teacher.store=false, so that it reads along."
        )
    if pair.align == "block" and not source.store:
        raise UserError("pair.align=block averages stored soft labels. Set teacher.store=true, or pair.align=sentence.")
    if objective.needs_teacher and not objective.compares and not cfg.task.get("makes_labels", task.makes_labels):
        raise UserError(
            f"objective: no term compares with the teacher, and task={cfg.task.name} learns no labels of its making: "
            f"there is nothing to learn from it. Choose objective=kd"
            + (", or set task.makes_labels=true." if task.makes_labels else ".")
        )
    if "audio" in task.reads:
        _check_hearing(cfg, source, objective, augmentations)
    if augmentations and task.points_into:
        raise UserError(
            f"augmentation={','.join(augmentations)}: labels of this task point into the text, which must stay. "
            f"Leave it out: augmentation=[]."
        )
    if task.points_into and not source.store and source.languages is not None and objective.needs_teacher:
        raise UserError(
            "teacher: its answers to aligned source text are carried over from a store, word by word. Set "
            "teacher.store=true and leave out terms that compare layers, or choose a teacher that reads the targets."
        )
    if objective.needs_teacher:
        _check_augmentation(augmentations, pair, source)
    _check_device(cfg)


def _check_heads(models: Mapping[str, Any], name: str, task: Any) -> None:
    for role, model in models.items():
        if task.auto not in model.can_be:
            raise UserError(
                f"{role}: task={name} needs an {task.auto}, and this one cannot be any. Choose another task, or what "
                f"goes with this one: {task.goes_with}."
            )


def _check_several(cfg: DictConfig) -> None:
    if len(cfg.several.tasks) < 2:
        raise UserError("several.tasks names fewer than two tasks. Add one, or train it alone.")
    if not 0 <= cfg.several.tau <= 1:
        raise UserError(f"several.tau={cfg.several.tau} is outside [0, 1]. Try 0.5.")
    if cfg.augmentation:
        raise UserError("augmentation: batches of several tasks are not changed. Leave it out: augmentation=[].")
    if cfg.trainer.devices != 1:
        raise UserError("several tasks share an encoder in one process. Set trainer.devices=1.")
    for name, alone in tasks_of(cfg).items():
        task: Any = get_class(alone.task._target_)
        if task.auto not in TEXT_HEADS:
            raise UserError(
                f"several.tasks.{name}: several tasks share an encoder of text, and task={alone.task.name} has another "
                f"model. Train it alone."
            )
        check(alone)


def tasks_of(cfg: DictConfig) -> dict[str, DictConfig]:
    """The configuration of every task as if it were alone: its own `task` and `corpus`, in a folder of its own."""
    alone = {}
    for name, own in cfg.several.tasks.items():
        part = OmegaConf.merge(cfg, {"several": None})
        assert isinstance(part, DictConfig)
        OmegaConf.set_struct(part, False)
        part.task, part.corpus = own.task, own.corpus
        part.paths.run = str(Path(cfg.paths.run) / str(name))
        alone[str(name)] = part
    return alone


def _check_hearing(
    cfg: DictConfig,
    source: TeacherSource | Ensemble,
    objective: Objective,
    augmentations: Mapping[str, Augmentation],
) -> None:
    """What speech asks of the other groups."""
    for name, member in source.members.items():
        folder = member.local
        hears = folder is None or any(
            (folder / f"{file}_config.json").is_file() for file in ("preprocessor", "processor")
        )
        if objective.needs_teacher and not hears:
            raise UserError(
                f"{name}: {member.path} has no feature extractor, so it cannot hear. Choose teacher=speech_scratch, or "
                f"a CTC model with the same alphabet and frame rate: teacher=local teacher.path=FOLDER."
            )
    if augmentations:
        raise UserError(
            f"augmentation={','.join(augmentations)} changes text, and this task hears sound. Leave it out: "
            f"augmentation=[]; for sound, name more corpus.voices, corpus.speeds and corpus.pitches."
        )
    if "audio" not in cfg.corpus.get("columns", {"audio": True}):
        raise UserError("corpus.columns names no audio. Name the column with sound: +corpus.columns.audio=audio.")
    for name in ("frame_ms", "alphabet"):
        student, teacher = OmegaConf.select(cfg, f"student.{name}"), OmegaConf.select(cfg, f"teacher.scratch.{name}")
        if objective.needs_teacher and OmegaConf.select(cfg, "teacher.scratch") is not None and student != teacher:
            raise UserError(
                f"student.{name}={student} and teacher.scratch.{name}={teacher}: teacher and student meet at frames "
                f"and characters, so both need the same."
            )


def _check_values(cfg: DictConfig) -> None:
    """Values that would end in a traceback once everything has loaded, or in a model of no use."""
    parts = [
        part for part in ("student", "teacher.scratch") if OmegaConf.select(cfg, f"{part}.hidden_size") is not None
    ]
    whole = {**WHOLE, **{f"{part}.{name}": least for part in parts for name, least in SIZES.items()}}
    for name, least in whole.items():
        value = _given(cfg, name, least)
        if type(value) is not int or value < least:
            raise UserError(f"{name}={value}: expected a whole number of at least {least}.")
    for name, example in {"optimizer.lr": "1e-3", "objective.temperature": "1"}.items():
        value = _given(cfg, name, 1)
        if type(value) not in (int, float) or not value > 0:
            raise UserError(f"{name}={value}: expected a number above 0, such as {example}.")
    shares = ["objective.alpha", "training.language_alpha", "lr_schedule.warmup"]
    for name in [*shares, *(f"{part}.dropout" for part in parts)]:
        value = _given(cfg, name, 0)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise UserError(f"{name}={value} is outside [0, 1]: expected a share, such as 0.1.")
    for name in ("task.makes_labels", "task.pseudo_labels", *(f"{part}.lowercase" for part in parts)):
        if type(_given(cfg, name, True)) is not bool:
            raise UserError(f"{name}={_given(cfg, name, True)}: expected true or false.")
    for name in ("student.prefix", "teacher.prefix"):
        if type(_given(cfg, name, "")) is not str:
            raise UserError(f'{name}={_given(cfg, name, "")}: expected text, "" for none.')
    if cfg.lr_schedule.name not in LR_SCHEDULES:
        raise UserError(f"lr_schedule.name={cfg.lr_schedule.name} is none of {', '.join(LR_SCHEDULES)}.")
    folder = Path(str(OmegaConf.select(cfg, "paths.cache")))
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"paths.cache={folder} cannot be written. Name another folder: paths.cache=FOLDER.")


def _given(cfg: DictConfig, name: str, absent: Any) -> Any:
    """The value under a name, `absent` where nobody has such a key, or where it may be null and is."""
    value = OmegaConf.select(cfg, name, default=absent)
    return absent if value is None and name in NULLABLE else value


def needs_live_teacher(objective: Objective, augmentations: Mapping[str, Augmentation]) -> bool:
    """Whether stored logits are not enough: layers are compared, or the text changes together with its meaning."""
    return bool(objective.needs) or any(not one.keeps_meaning for one in augmentations.values())


def _check_augmentation(
    augmentations: Mapping[str, Augmentation], pair: Pair, source: TeacherSource | Ensemble
) -> None:
    for name, augmentation in augmentations.items():
        if augmentation.keeps_meaning:
            continue
        if source.store:
            raise UserError(
                f"augmentation={name} may change what a sentence means, and a stored soft label is that of the "
                f"unchanged one. Set teacher.store=false, or augmentation.{name}.keeps_meaning=true if it does not."
            )
        if source.languages is not None and set(pair.targets) - set(source.languages):
            raise UserError(
                f"augmentation={name} may change what a sentence means, and this teacher reads an aligned sentence in "
                f"its place, which stays the same. Choose a teacher that reads the targets (teacher=xlmr_base), or "
                f"set augmentation.{name}.keeps_meaning=true if it does not."
            )


def _check_device(cfg: DictConfig) -> None:
    import torch

    accelerator, devices = cfg.trainer.accelerator, cfg.trainer.devices
    if accelerator in ("gpu", "cuda"):
        if not torch.cuda.is_available():
            raise UserError("device: this machine has no GPU that torch can use. Type device=cpu instead.")
        if isinstance(devices, int) and devices > torch.cuda.device_count():
            raise UserError(
                f"trainer.devices={devices}, and this machine has {torch.cuda.device_count()}. "
                f"Set trainer.devices={torch.cuda.device_count()}."
            )
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: this machine has no Apple GPU. Type device=cpu instead.")
    many = devices != 1 and str(cfg.trainer.get("strategy", "auto")) != "auto"
    if many and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        launcher = HydraConfig.get().launcher._target_
        if "submitit" not in launcher:
            raise UserError(
                "multirun with several processes per job: every process would start the whole sweep again. Use one "
                "device per job (device=cpu or device=gpu), or a launcher that gives each job processes of its own: "
                "hydra/launcher=submitit_local or submitit_slurm."
            )
