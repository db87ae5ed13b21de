"""One way to train a model: teacher, baseline and student all go through `fit`; and what a run's folder remembers."""

from __future__ import annotations

import shlex
import shutil
import signal
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from distilingua.artifacts import as_written, fingerprint, whole_file
from distilingua.console import console
from distilingua.errors import NumberError, Stopped, UserError, as_user_error, refuse
from distilingua.locations import read_yaml
from distilingua.models.folder import STUDENTS
from distilingua.models.source import TeacherSource
from distilingua.monitoring.callbacks import SIGUSR2, KeepBest, StopBetweenBatches, StopEarly, shaping
from distilingua.monitoring.loggers import make_loggers
from distilingua.monitoring.sweep import metrics_of
from distilingua.parts import Settings, misfits
from distilingua.training.module import DistillationModule
from distilingua.training.plan import Plan, optimizer_of, precision, schedule_of
from distilingua.training.processes import name_the_dead, put_together, shards, who_is_lost


def fit(
    settings: Settings,
    name: str,
    module: DistillationModule,
    data: LightningDataModule,
    plan: Plan,
    recipe: Any = None,
    one_device: bool = False,
) -> Trainer:
    """Trains `module.student`, and goes on from `checkpoints/NAME/last.ckpt` where an interrupted run left one. The
    weights that did best on dev are kept.

    Args:
        settings: of the run: its folder, trainer, callbacks and loggers.
        name: of the model, in TensorBoard and among the checkpoints.
        plan: how long.
        recipe: what shapes the model, beside the settings of the run.
        one_device: for what one process builds while others wait for it, see `artifacts.cached`.

    Raises:
        UserError: checkpoints of another recipe are in the way; a number that is none turned up.
        Stopped: a signal came.
    """
    checkpoints = settings.run / "checkpoints" / name
    checkpoints.mkdir(parents=True, exist_ok=True)
    saves = WholeCheckpoints(module, fingerprint(recipe))
    last = last_whole(checkpoints, saves.belongs_to)
    best = KeepBest(checkpoints / "best")  # first: what a run resumes from, saved by a later one, has to know of it
    callbacks = [best, *([StopEarly(plan.patience)] if plan.patience else []), *_callbacks(settings, checkpoints)]
    console.print(f"{name}: {plan}", soft_wrap=True)
    trainer = _trainer(settings, plan, callbacks, make_loggers(settings.loggers, name), saves, one_device=one_device)
    if shards(trainer) and last and last.is_file():  # Lightning restores shards after it has made the loaders
        data.load_state_dict(header(last)[type(data).__qualname__])
    plain = {name: deepcopy(part) for name, part in module.named_children()} if shards(trainer) else {}
    stopper = next((one for one in callbacks if isinstance(one, StopBetweenBatches)), StopBetweenBatches())
    with _told_with_what_is_saved(name, trainer, checkpoints):
        try:
            trainer.fit(module, data, ckpt_path=str(last) if last else None, weights_only=True)
            ended = stopper.asked  # after the last step, where nothing was left to stop
        except Stopped:
            raise
        except SystemExit:  # how Lightning ends on KeyboardInterrupt, after its callbacks have saved
            ended = stopper.asked or signal.SIGINT
    if ended is not None:
        raise _stopped(ended, stopper, checkpoints, settings.run)
    put_together(module, plain, trainer)
    if wrong := no_numbers_in(module):
        raise NumberError(f"{name}: after the last step {wrong} holds what is no number. Lower the learning rate.")
    load_best(module, Path(best.best_model_path))
    return trainer


def _stopped(ended: int, stopper: StopBetweenBatches, checkpoints: Path, run: Path) -> Stopped:
    """What a signal ends, with how to go on; SLURM is asked to queue the job again where it has sent the signal."""
    if ended != signal.SIGINT and stopper.queue_again:
        console.print(f"Interrupted. {saved_at(checkpoints)} It is queued again.", soft_wrap=True)
        with suppress(SubprocessError):  # SLURM refuses where it ended the job itself, to queue it again
            stopper.queue_again(SIGUSR2, None)
    return Stopped(ended, f"\nInterrupted. {saved_at(checkpoints)} {_go_on(run)}")


def _go_on(run: Path) -> str:
    return f"Go on with: distilingua resume {shlex.quote(str(run))}"


@contextmanager
def _told_with_what_is_saved(name: str, trainer: Trainer, checkpoints: Path) -> Iterator[None]:
    """What ends a training by mistake says where it is saved."""

    def end_of_all(gone: str, own: bool = True) -> str:
        go_on = _go_on(Path(trainer.default_root_dir)) if own else "The same command goes on."
        return f"{name}: {gone} ended, and the others with it. {saved_at(checkpoints)} {go_on}"

    name_the_dead(end_of_all)
    try:
        yield
    except NumberError as error:
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        where = f"{name}, step {trainer.global_step}, learning rate {max(rates):g}"
        raise NumberError(f"{where}: {error} {saved_at(checkpoints)}") from None
    except RuntimeError as error:  # so says a process that waits for another one
        gone, own = who_is_lost(trainer, error)
        if gone:
            raise UserError(end_of_all(gone, own)) from error
        raise


def _callbacks(settings: Settings, checkpoints: Path) -> list[Callback]:
    return [
        instantiate(callback, **({"dirpath": str(checkpoints)} if key == "checkpoint" else {}))
        for key, callback in settings.callbacks.items()
    ]


def _trainer(
    settings: Settings,
    plan: Plan,
    callbacks: list[Callback],
    loggers: list[Any],
    *plugins: Any,
    one_device: bool = False,
) -> Trainer:
    if not loggers:  # these refuse to train then, as they have nowhere to write to
        callbacks = [one for one in callbacks if not isinstance(one, LearningRateMonitor | DeviceStatsMonitor)]
    trainer: Trainer = instantiate(
        settings.trainer,
        max_epochs=plan.epochs,
        check_val_every_n_epoch=plan.evaluate_epochs,
        val_check_interval=plan.evaluate_share,
        precision=precision(settings.trainer["precision"]),
        logger=loggers or False,
        callbacks=callbacks,
        default_root_dir=str(settings.run),
        plugins=[*instantiate(settings.trainer.get("plugins") or []), *plugins],
        **({"devices": 1, "num_nodes": 1, "strategy": "auto"} if one_device else {}),
    )
    return trainer


def rehearse(settings: Settings, teachers: Mapping[str, TeacherSource]) -> None:
    """Makes what every training makes, before the first of them.

    Args:
        teachers: that may be trained, by name.

    Raises:
        UserError: Lightning, an optimizer or a schedule of the learning rate does not take what was typed.
    """
    typed = {key: value for key, value in settings.trainer.items() if key != "devices"}
    refuse(*misfits("trainer", typed, made=True))
    with _told("callbacks"):
        callbacks = _callbacks(settings, settings.run)
    with _told("trainer"):
        _trainer(settings, Plan(1, 1, None, None), callbacks, [])
    with _told("optimizer"):
        makes = [("", instantiate(settings.optimizer, _partial_=True), instantiate(settings.lr_schedule))]
    for name, source in teachers.items():
        if own := source.fine_tune:
            key = "teacher.fine_tune." if name == "teacher" else f"teacher.teachers.{name}.fine_tune."
            makes.append((key, own["optimizer"], own["lr_schedule"]))
    for key, make, schedule in makes:
        with _told(f"{key}optimizer"):
            optimizer = optimizer_of(make, 1e-3)[0]([nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))])
        with _told(f"{key}lr_schedule"):
            if isinstance(schedule_of(schedule, optimizer, 100), ReduceLROnPlateau):
                raise ValueError("it waits for scores, and rates are set step by step")


@contextmanager
def _told(key: str) -> Iterator[None]:
    """Whatever a library raises for a part of the configuration is told as what it says of that part."""
    try:
        yield
    except Exception as error:
        known = as_user_error(error, key)
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        reason = " ".join(str(cause).split())
        raise known or UserError(
            f"{key} cannot be made as it is configured ({type(cause).__name__}: {reason[:250]}). Change its keys, or "
            f"leave out what it does not have: ~{key}.KEY."
        ) from error


def load_best(module: nn.Module, file: Path) -> None:
    """Puts the weights back that did best on dev; where they are damaged or gone, the last ones stay, which is said.
    What lies in shards is left."""
    if file.name and not file.is_dir() and not undamaged(file):
        console.print(f"{file} is damaged or gone: the weights after the last step are kept instead.", soft_wrap=True)
    elif file.is_file():
        kept = torch.load(file, map_location="cpu", weights_only=True)
        module.load_state_dict(kept["state_dict"])
        module.last_agreement = kept["agreement"]


# --- checkpoints ------------------------------------------------------------------------------------------------------


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its name, on the same device, and names it once it is whole. (Lightning writes it to
    $TMPDIR and moves it, which from another device is a copy, and a kill cuts a copy in half.)

    Args:
        module: what is saved.
        belongs_to: fingerprint of what shapes the model; it is kept in every checkpoint.
    """

    def __init__(self, module: nn.Module, belongs_to: str) -> None:
        self.module, self.belongs_to = module, belongs_to

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if wrong := no_numbers_in(self.module):
            raise NumberError(f"{wrong} holds what is no number, so it is not saved. Lower the learning rate.")
        file = Path(path)
        file.parent.mkdir(exist_ok=True)  # not the folder of a run that somebody has deleted
        # an open file: torch's own way of writing does not say that a disk is full
        with whole_file(file) as unfinished, unfinished.open("wb") as content:
            torch.save({**checkpoint, "belongs_to": self.belongs_to}, content)


def no_numbers_in(module: nn.Module) -> str:
    """The name of the first weights of which one is not finite; "" where all are."""
    return next((name for name, weights in module.named_parameters() if not weights.isfinite().all()), "")


def last_whole(checkpoints: Path, belongs_to: str) -> Path | None:
    """What to go on from: `last.ckpt`, or the newest of the others where that one is damaged, which is said.

    Raises:
        UserError: it is of another model than the one that is about to train.
    """
    for rest in checkpoints.glob(".*.ckpt-*"):  # of a process that was killed while it wrote
        rest.unlink(missing_ok=True)
    files = [file for file in checkpoints.glob("*.ckpt") if not file.is_dir()]
    files.sort(key=lambda file: (file.stem == "last", file.stat().st_mtime), reverse=True)
    for file in files:
        if not undamaged(file):
            console.print(f"{file} is damaged, and left alone", soft_wrap=True)
            continue
        head = header(file)
        if head.get("belongs_to") != belongs_to:
            raise UserError(
                f"{file} was made with other rows, soft labels, code or libraries than the run has now, so it is not "
                f"gone on from. Restore what they were, or delete {checkpoints} to train this model again."
            )
        console.print(f"Going on from {file}, step {head['global_step']}", soft_wrap=True)
        return file
    if files:
        console.print(f"No checkpoint in {checkpoints} is whole: starting again", soft_wrap=True)
    sharded = checkpoints / "last.ckpt"
    return sharded if sharded.is_dir() else None


def undamaged(file: Path) -> bool:
    """Whether all of it is there, as it was written."""
    try:
        with zipfile.ZipFile(file) as parts:
            whole = parts.testzip() is None  # every part has a checksum, which torch does not look at
        return whole and bool(torch.load(file, map_location="cpu", weights_only=True))
    except Exception:  # an archive whose directory is damaged ends in errors of every kind
        return False


def header(file: Path) -> dict[str, Any]:
    """A checkpoint, of which tensors are read only when they are used."""
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def saved_at(checkpoints: Path) -> str:
    """At which step a model can go on."""
    file = checkpoints / "last.ckpt"
    if not file.exists():
        return "No step was saved."
    step = f" at step {header(file)['global_step']}" if file.is_file() and undamaged(file) else ""
    return f"It is saved{step} in {file}."


def delete_checkpoints(settings: Settings, name: str | None = None) -> None:
    """Deletes the checkpoints of a model that is finished and kept elsewhere; of all models of a finished run."""
    for checkpoints in (file.parent / "checkpoints" for file in (settings.run / "_", *results(settings))):
        for folder in checkpoints.iterdir() if checkpoints.exists() else ():
            if folder.is_dir() and name in (None, folder.name):
                shutil.rmtree(folder, ignore_errors=True)


# --- what a run's folder remembers ------------------------------------------------------------------------------------


@contextmanager
def exclusive_run(run: Path) -> Iterator[None]:
    """One job at a time in a run's folder; the processes of one job count as one.

    Raises:
        UserError: another one works there.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # set when it is imported
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{run}: another job is at work in this folder. Wait for its end, or name another one: hydra.run.dir=FOLDER"
        ) from None
    try:
        yield
    finally:
        (run / ".lock").unlink(missing_ok=True)  # a folder in which nothing began is left empty
        lock.release()


def settings_of(settings: Settings) -> dict[str, Any]:
    """What shapes a run, as plain values."""
    callbacks = shaping(settings.callbacks)
    shapes = {name: value for name, value in settings.plain.items() if name not in ("paths", "logger", "callbacks")}
    return {**shapes, **({"callbacks": callbacks} if callbacks else {})}


def check_settings(settings: Settings) -> None:
    """A run never goes on with other settings than its own.

    Raises:
        UserError: the folder holds checkpoints of a run with other settings.
    """
    checkpoints = settings.run / "checkpoints"
    file = checkpoints / "settings.yaml"
    way_out = f"Restore it, or delete {checkpoints} to start again."
    with as_written(file, way_out):
        same = not file.exists() or dict(read_yaml(file)) == settings_of(settings)
    if not same:
        raise UserError(
            f"{settings.run} holds a run with other settings. Name another folder (hydra.run.dir=…), or delete "
            f"{checkpoints} to start again."
        )


def check_rows(settings: Settings, rows: str) -> None:
    """A run never goes on with other rows than it began with.

    Args:
        rows: their fingerprint.

    Raises:
        UserError: they have changed.
    """
    checkpoints = settings.run / "checkpoints"
    file = checkpoints / "rows.txt"
    if not ((checkpoints / "settings.yaml").exists() and file.exists()):
        return
    with as_written(file, f"Delete it, where the corpus is as it was; or delete {checkpoints} to start again."):
        before = file.read_text("utf-8")
        if len(before) != len(rows):
            raise ValueError(f"expected {len(rows)} signs")
    if before != rows:
        raise UserError(
            f"{settings.run} holds a run whose corpus has changed since it began. Restore the corpus, name another "
            f"folder (hydra.run.dir=…), or delete {checkpoints} to start again."
        )


def keep_settings(settings: Settings, rows: str) -> None:
    """Writes the settings beside the checkpoints, and what was typed for them, which `resume` types again.

    Args:
        rows: their fingerprint, see `check_rows`.
    """
    run = settings.run
    checkpoints = run / "checkpoints"
    if (checkpoints / "settings.yaml").exists():
        return
    checkpoints.mkdir(parents=True, exist_ok=True)
    for file in results(settings):  # of a run that was deleted: this one has not finished
        file.unlink(missing_ok=True)
        for student in STUDENTS:
            shutil.rmtree(file.with_name(student), ignore_errors=True)
    files = {"rows.txt": rows, "settings.yaml": yaml.safe_dump(settings_of(settings), allow_unicode=True)}
    if HydraConfig.initialized():  # Hydra's own copy of them is cut short where the disk is full
        typed = yaml.safe_dump(list(HydraConfig.get().overrides.task), allow_unicode=True)
        files = {"overrides.yaml": typed, **files}
        if HydraConfig.get().output_subdir is None and (run / ".hydra").exists():  # of a run that was here before
            hydra: dict[str, Any] = {"hydra": HydraConfig.instance().cfg, "config": settings.plain}
            files |= {f"../.hydra/{name}.yaml": OmegaConf.to_yaml(OmegaConf.create(one)) for name, one in hydra.items()}
            files["../.hydra/overrides.yaml"] = typed
    for name, text in files.items():
        with whole_file(checkpoints / name) as unfinished:
            unfinished.write_text(text, "utf-8")


def results(settings: Settings) -> list[Path]:
    """Where a run writes `metrics.json`, once for every task."""
    return [settings.run / name / "metrics.json" for name in settings.tasks]


def finished(settings: Settings, *identities: str) -> list[dict[str, Any]]:
    """The results of a run that has come to its end, whose settings and rows have been checked; else none.

    Args:
        identities: what its results are of, which decides where `checkpoints/` was deleted to save room.
    """
    run, files = settings.run, results(settings)
    if not all(file.exists() for file in files):
        return []
    known = [metrics_of(file) for file in files]
    kept = run / "checkpoints" / "settings.yaml"
    if not kept.exists() and [metrics.get("identity") for metrics in known] != list(identities):
        return []
    delete_checkpoints(settings)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(files[-1].stat().st_mtime))
    console.print(f"{run} was finished on {when}: this is its result. Delete it to run again.", soft_wrap=True)
    return known
