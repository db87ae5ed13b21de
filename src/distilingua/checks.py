"""Rules between the parts of a configuration: whatever can be known to be wrong before a model loads.

What a part can say of its own values it says itself, see `parts.assemble`. A rule here looks at two parts or more; all
that are broken are listed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from distilingua.distillation.losses.bce import BinaryCrossEntropy
from distilingua.distillation.losses.ce import CrossEntropy
from distilingua.distillation.losses.ctc import CTC
from distilingua.errors import Problems, UserError, refuse
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.monitoring.sweep import in_a_sweep
from distilingua.parts import Parts, assemble, no_head, objectives, tasks_of

Rule = Callable[[DictConfig, Parts], Iterator[str]]


def check(cfg: DictConfig) -> dict[str, Parts]:
    """The parts of a configuration by task, made once: the run goes on with them. Takes two or three seconds and writes
    nothing.

    Raises:
        UserError: everything that cannot work, a line each.
    """
    if cfg.get("multitask"):
        return _check_multitask(cfg)
    copies = "path" in cfg.student and OmegaConf.is_interpolation(cfg.student, "path")
    if cfg.teacher._target_.endswith(".Ensemble") and copies:
        raise UserError("student: its first weights are the teacher's, and there are several. Set student.path=FOLDER.")
    parts = assemble(cfg)
    refuse(*(problem for rule in RULES for problem in rule(cfg, parts)))
    return {str(cfg.task.name): parts}


def _check_multitask(cfg: DictConfig) -> dict[str, Parts]:
    if len(cfg.multitask.tasks) < 2:
        raise UserError("multitask.tasks names fewer than two tasks. Add one, or train it alone.")
    several = tasks_of(cfg)
    refuse(
        f"multitask.tau={cfg.multitask.tau} is outside [0, 1]. Try 0.5." if not 0 <= cfg.multitask.tau <= 1 else None,
        "augmentation: batches of several tasks are not changed. Leave it out: augmentation=[]."
        if cfg.augmentation
        else None,
        "several tasks share an encoder in one process. Set trainer.devices=1." if cfg.trainer.devices != 1 else None,
        *(
            f"multitask.tasks.{name}: several tasks share an encoder of text, and task={single.task.name} has "
            f"another model. Train it alone."
            for name, single in several.items()
            if not get_class(single.task._target_).encodes_text()  # type: ignore[attr-defined]
        ),
    )
    problems, parts = Problems(), {}
    for name, single in several.items():
        with problems:
            (parts[name],) = check(single).values()
    problems.tell()
    return parts


def _heads(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    for role, member in parts.source.members.items() if parts.objective.needs_teacher else ():
        yield from filter(None, [no_head(role, member, cfg.task)])


def _select(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    select = objectives(cfg.training.select)
    if "agreement" in select and not parts.objective.compares:
        yield (
            "training.select=agreement: no term of this objective compares with a teacher, so there is no agreement. "
            "Set training.select=score."
        )


def _languages(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    pair, source = parts.pair, parts.source
    if source.languages is not None and pair.source not in source.languages:
        yield (
            f"teacher: it reads {', '.join(source.languages)}, not the source language {pair.source!r}. Choose a "
            f"teacher that does (teacher=xlmr_base), or name its languages: teacher.languages=[{pair.source}]."
        )
    for member in source.members.values():
        foreign = set((member.fine_tune or {}).get("languages") or ()) - set(pair.languages)
        if foreign:
            yield (
                f"teacher.fine_tune.languages names {', '.join(sorted(foreign))}, and the pair is {pair.name}. Name "
                f"languages of the pair only, or add them to it: pair.targets."
            )


def _protocol(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    task = parts.task
    if parts.pair.protocol == "translate_train" and (task.points_into or "audio" in task.reads):
        yield (
            f"pair.protocol=translate_train: labels of task={task.name} belong to one text or sound, and are not those "
            f"of its translation. Choose pair.protocol=zero_shot."
        )


def _blocks(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    if parts.pair.align != "block":
        return
    if isinstance(parts.source, Ensemble):
        yield "pair.align=block: several teachers each read one sentence. Set pair.align=sentence."
    if parts.task.points_into:
        yield "pair.align=block: this task's labels point into one text. Set pair.align=sentence."
    if not parts.source.store:
        yield "pair.align=block averages stored soft labels. Set teacher.store=true, or pair.align=sentence."


def _ensembles(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    several = isinstance(parts.source, Ensemble) or parts.source.seeds > 1
    if isinstance(parts.source, TeacherSource) and several and parts.source.store is False:
        yield (
            f"teacher.seeds={parts.source.seeds}: several teachers answer from stores. Set teacher.store=true and "
            f"leave out terms that compare layers, or set teacher.seeds=1."
        )
    if several and (parts.task.writes() or parts.task.pseudo_labels):
        other = "" if parts.task.writes() else ", or set task.pseudo_labels=false"
        yield (f"teacher: this task's answers are texts, which cannot be averaged. Choose a single teacher{other}.")


def _top_k(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    for name, member in parts.source.members.items() if parts.task.distributed != -1 else ():
        key = "teacher.store_top_k" if name == "teacher" else f"teacher.teachers.{name}.store_top_k"
        if member.store_top_k is not None:
            yield (
                f"{key}={member.store_top_k}: it keeps the likeliest classes of every position, and "
                f"task={parts.task.name} does not choose one class there. Set {key}=null."
            )


def _hard_losses(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    hard = type(parts.task.hard())
    others = {CrossEntropy, BinaryCrossEntropy, CTC} - {hard}  # whom one of somebody's own serves is for them to know
    for name, term in parts.objective.terms.items():
        if type(term) in others:
            own = hard.__module__.rpartition(".")[2]
            soft = "binary_kl" if own == "bce" else "kl"
            yield (
                f"objective.terms.{name} is the hard loss of other tasks; that of {parts.task.name} is {own}. Type "
                f"objective=custom objective/terms=[{soft},{own}]."
            )


def _layers(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    needs, task = parts.objective.needs, parts.task
    names = ", ".join(sorted({name for terms in needs.values() for name in terms}))
    if needs and not task.encodes_text():
        yield (
            f"objective: {names} compare layers of encoders of text, and task={task.name} has other models. Choose "
            f"objective={'kd_ctc' if task.hears() else 'kd'}."
        )
    live = {kind: terms for kind, terms in needs.items() if kind != "vector"}
    names = ", ".join(sorted({name for terms in live.values() for name in terms}))
    if live and not parts.student.layered:
        yield (
            f"objective: {names} compare layers, and this student has none. Choose what compares sentences "
            f"(objective=kd_embedding), or a student with layers (student=nano)."
        )
    if live and parts.source.store:
        yield (
            f"objective: {names} compare layers of the teacher ({', '.join(sorted(live))}), and a store holds logits "
            f"and sentence vectors alone. Choose one teacher with teacher.store=false, so that it reads along."
        )


def _aligned(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    names = parts.objective.aligning
    if names and parts.objective.schedules.adaptive is not None:
        yield (
            f"schedule: {', '.join(names)} compares two vocabularies, and a temperature for every row looks at classes "
            f"that both have. Choose schedule=joint."
        )


def _on_policy(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    key, without = f"training.on_policy={cfg.training.on_policy}", "set training.on_policy=0"
    if not cfg.training.on_policy:
        return
    if not parts.task.writes():
        yield (
            f"{key}: a student of task={parts.task.name} writes no text to learn from. Choose task=translation, or "
            f"{without}."
        )
        return
    if not parts.objective.compares:
        yield f"{key}: no term asks the teacher about what the student has written. Choose objective=kd, or {without}."
    elif parts.source.store:
        yield (
            f"{key}: a store has no answers to what the student will write. Choose one teacher with "
            f"teacher.store=false, so that it reads along."
        )
    if aligning := parts.objective.aligning:
        yield (
            f"{key}: the teacher reads the student's own pieces, and {', '.join(aligning)} is for other ones. Choose a "
            f"teacher of the same vocabulary with objective=kd, or {without}."
        )
    if "fsdp" in str(cfg.trainer.get("strategy", "auto")):
        yield (
            f"{key}: with device=fsdp processes take every step of a decoder together, and their texts end at "
            f"different ones. Choose device=ddp, or {without}."
        )


def _sentence_vectors(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    names = sorted(parts.objective.needs.get("vector", ()))
    if names and isinstance(parts.source, Ensemble):
        yield (
            f"objective: {', '.join(names)} compare sentence vectors, and teachers have each their own. Type "
            f"objective=kd."
        )
    for name, member in parts.source.members.items() if names else ():
        if member.pooling not in ("mean", "cls"):
            yield (
                f"{name}: {member.path} makes sentence vectors by {member.pooling}, and {', '.join(names)} can compare "
                f"means (or first pieces, cls) alone. Type objective=kd, or choose another teacher."
            )


def _nothing_to_learn(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    objective, task = parts.objective, parts.task
    if objective.needs_teacher and not objective.compares and not task.pseudo_labels:
        can = "pseudo_labels" in cfg.task
        yield (
            f"objective: no term compares with the teacher, and task={task.name} learns no labels of its making: there "
            f"is nothing to learn from it. Choose objective=kd" + (", or set task.pseudo_labels=true." if can else ".")
        )


def _carried_over(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    source = parts.source
    foreign = not source.store and source.languages is not None and parts.objective.needs_teacher
    if parts.task.points_into and foreign:
        yield (
            "teacher: its answers to aligned source text are carried over from a store, word by word. Set "
            "teacher.store=true and leave out terms that compare layers, or choose a teacher that reads the targets."
        )


def _augmentation(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    source, chosen = parts.source, parts.augmentations
    if chosen and parts.task.points_into:
        yield (
            f"augmentation={','.join(chosen)}: labels of this task point into the text, which must stay. Leave it out: "
            f"augmentation=[]."
        )
    if chosen and parts.task.hears():
        yield (
            f"augmentation={','.join(chosen)} changes text, and this task hears sound. Leave it out: augmentation=[]; "
            f"for sound, name more corpus.voices, corpus.speeds and corpus.pitches."
        )
    for name, one in chosen.items() if parts.objective.by_piece else ():
        if one.keeps_meaning:
            terms = ", ".join(parts.objective.by_piece)
            yield (
                f"augmentation={name} changes pieces that the student reads, and {terms} compares them "
                f"with the teacher's. Set augmentation.{name}.keeps_meaning=false, and the teacher reads them too."
            )
    changing = [name for name, one in chosen.items() if not one.keeps_meaning and parts.objective.needs_teacher]
    for name in changing:
        if source.store:
            yield (
                f"augmentation={name} may change what a sentence means, and a stored soft label is that of the "
                f"unchanged one. Set teacher.store=false, or augmentation.{name}.keeps_meaning=true if it does not."
            )
        elif source.languages is not None and set(parts.pair.targets) - set(source.languages):
            yield (
                f"augmentation={name} may change what a sentence means, and this teacher reads an aligned sentence in "
                f"its place, which stays the same. Choose a teacher that reads the targets (teacher=xlmr_base), or "
                f"set augmentation.{name}.keeps_meaning=true if it does not."
            )


def _hearing(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    """What speech asks of the other groups."""
    if not parts.task.hears():
        return
    if "audio" not in cfg.corpus.get("columns", {"audio": True}):
        yield "corpus.columns names no audio. Name the column with sound: +corpus.columns.audio=audio."
    if not parts.objective.needs_teacher:
        return
    for name, member in parts.source.members.items():
        folder: Path | None = member.local
        known = ("preprocessor_config.json", "processor_config.json")
        if folder is not None and not any((folder / file).is_file() for file in known):
            yield (
                f"{name}: {member.path} has no feature extractor, so it cannot hear. Choose teacher=speech_scratch, or "
                f"a CTC model with the same alphabet and frame rate: teacher=local teacher.path=FOLDER."
            )
        for value in ("frame_ms", "alphabet") if member.scratch is not None else ():
            own, theirs = getattr(parts.student, value), getattr(member.scratch, value)
            if own != theirs:
                yield (
                    f"student.{value}={own} and teacher.scratch.{value}={theirs}: teacher and student meet at frames "
                    f"and characters, so both need the same."
                )


def _device(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    accelerator, devices = cfg.trainer.accelerator, cfg.trainer.devices
    if str(cfg.trainer.get("strategy", "auto")).startswith("fsdp") and accelerator not in ("gpu", "cuda"):
        yield (
            f"device=fsdp: torch shards over GPUs alone, and trainer.accelerator={accelerator} was typed. Type "
            f"device=ddp trainer.accelerator={accelerator}, which gives each process a copy of the student."
        )
    if accelerator in ("gpu", "cuda"):
        there = torch.cuda.device_count()
        if not torch.cuda.is_available():
            yield "device: this machine has no GPU that torch can use. Type device=cpu instead."
        elif isinstance(devices, int) and devices > there:
            yield f"trainer.devices={devices}, and this machine has {there}. Set trainer.devices={there}."
    if accelerator == "mps" and not torch.backends.mps.is_available():
        yield "device=mps: this machine has no Apple GPU. Type device=cpu instead."
    many = devices != 1 and str(cfg.trainer.get("strategy", "auto")) != "auto"
    if many and in_a_sweep() and not HydraConfig.get().launcher._target_.endswith("SlurmLauncher"):
        yield (
            "multirun with several processes per job: every process would start the whole sweep again. Use one "
            "device per job (device=cpu or device=gpu), or let SLURM start them: hydra/launcher=slurm "
            "hydra.launcher.tasks_per_node=N."
        )


def _workers(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    try:
        import resource
    except ImportError:  # Windows
        return
    allowed, workers = resource.getrlimit(resource.RLIMIT_NOFILE)[0], cfg.training.workers
    needed = 40 + 16 * workers  # pipes of each, and the tensors on their way; with too few, torch waits for ever
    if workers and allowed != resource.RLIM_INFINITY and allowed < needed:
        yield (
            f"training.workers={workers}: they and this process keep about {needed} files open, and {allowed} are "
            f"allowed. Type `ulimit -n {needed}` before, or set training.workers=0."
        )


def _precision(cfg: DictConfig, parts: Parts) -> Iterator[str]:
    computes = cfg.trainer.accelerator
    for name, member in parts.source.members.items() if parts.objective.needs_teacher else ():
        key = "teacher.precision" if name == "teacher" else f"teacher.teachers.{name}.precision"
        if str(member.precision) == "16" and computes == "cpu":
            yield f"{key}=16: half precision is for GPUs; a CPU computes it slowly or not at all. Set {key}=bf16."
        if str(member.precision) == "int8" and computes not in ("cpu", "auto"):
            yield f"{key}=int8: these layers run on a CPU alone, and device={computes} was asked for. Set {key}=bf16."


RULES: tuple[Rule, ...] = (
    _heads,
    _select,
    _languages,
    _protocol,
    _blocks,
    _ensembles,
    _top_k,
    _hard_losses,
    _layers,
    _aligned,
    _on_policy,
    _sentence_vectors,
    _nothing_to_learn,
    _carried_over,
    _augmentation,
    _hearing,
    _device,
    _workers,
    _precision,
)
