"""`distilingua export`: a student in the formats that others load, each judged by itself, with a model card."""

from __future__ import annotations

import platform
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from distilingua.artifacts import write_json
from distilingua.console import console, quieten
from distilingua.delivery.card import write_card
from distilingua.delivery.evaluate import find_models, read_rows, show, tell_other_rows
from distilingua.delivery.formats import Format, Hub
from distilingua.delivery.model import Delivered, run_of
from distilingua.errors import UserError, refuse, whole
from distilingua.monitoring.sweep import metrics_of
from distilingua.parts import Benchmark


def export_model(cfg: DictConfig, folder: Path, task_typed: bool = True) -> dict[str, Any]:
    """Writes `cfg.model` to a folder in every format of `cfg.format`; returns what it writes to `export.json` there.

    Args:
        task_typed: whether the task is that of the configuration, or the one that the model says it knows.

    Raises:
        UserError: a model that is not there or cannot be written so; no token to push with.
    """
    model, benchmark, formats = check_export(cfg, task_typed)
    quieten()
    from distilingua.delivery import artefacts

    rows = read_rows(cfg, benchmark)
    tell_other_rows(model, rows.test, benchmark.task)
    student = artefacts.student_of(cfg, model, benchmark, rows)
    artefacts.describe(cfg, model, student, folder)
    student.teacher = partial(artefacts.fetch_teacher, cfg, model)
    written = {name: artefacts.write(name, form, student, folder) for name, form in formats.items()}
    vars(student).pop("graph", None)  # it is large
    judged = artefacts.judge(model, student, written, rows, cfg.sentences)
    # of the teacher, what its run has measured
    judged["models"] = {name: one for name, one in measured(model).items() if name == "teacher"} | judged["models"]
    export = {
        "task": benchmark.task.name,
        "pipeline": benchmark.task.hub_pipeline,
        "pair": benchmark.pair.name,
        "languages": benchmark.pair.languages,
        "labels": student.encoder.task.labels,
        "shown": dict(benchmark.task.shown),
        "device": f"{platform.machine()} {platform.system()}",
        "note": benchmark.task.note,
        "corpus": OmegaConf.to_container(cfg.corpus, resolve=True),
        **judged,
    }
    write_json(folder / "export.json", export)
    write_card(cfg, model.settings, export, folder)
    show(export)
    console.print(f"Written to {folder}; what to say of it is in {folder / 'README.md'}.", soft_wrap=True)
    if cfg.push:
        publish(cfg.push, folder)
    return export


def check_export(cfg: DictConfig, task_typed: bool) -> tuple[Delivered, Benchmark, dict[str, Format]]:
    """The model, what it is judged on, and the formats; whatever can be known to be wrong is told at once."""

    def check_settings() -> None:
        refuse(
            whole("sentences", cfg.sentences, 1),
            "format=[] names none. Type format=[hub], or [hub,onnx,onnx_int8]." if not cfg.get("format") else None,
        )

    models, benchmark = find_models(cfg, [cfg.model], task_typed, check_settings, partial(check_push, cfg.push))
    (model,) = models.values()
    if model.onnx is not None:
        raise UserError(f"{model.given} is an ONNX file already. Name the run, or the folder of transformers.")
    formats: dict[str, Format] = {name: instantiate(one) for name, one in cfg.format.items()}
    taught = [name for name, one in formats.items() if getattr(one, "teacher", False)]
    unknown = f"{model.given} is no run with one teacher. Leave it out."
    refuse(
        *(one.check(benchmark.task) for one in formats.values()),
        *(f"format.{name}.teacher=true: {unknown}" for name in taught if not one_teacher(cfg, model)),
    )
    return model, benchmark, dict(sorted(formats.items(), key=lambda item: not isinstance(item[1], Hub)))


def check_push(name: str | None) -> None:
    """Raises UserError for what is no name of a repository, and without a token."""
    if not name:
        return
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"push={name}: {str(error).splitlines()[0]} Name it push=ORGANISATION/NAME.") from None
    if "/" not in name or not get_token():
        problem = "names no organisation. Type push=ORGANISATION/NAME" if "/" not in name else "there is no token"
        raise UserError(f"push={name}: {problem}. Log in with `hf auth login`, or set HF_TOKEN.")


def one_teacher(cfg: DictConfig, model: Delivered) -> bool:
    """Whether a model is of a run with one teacher, which may not be several that answer as one."""
    if "teacher" not in measured(model):
        return False
    return sum(one.seeds for one in instantiate(cfg.teacher, _convert_="all").members.values()) == 1


def measured(model: Delivered) -> dict[str, Any]:
    """What the run that a model is of measured of its models; nothing of where there is no run."""
    run = run_of(Path(model.given).expanduser())
    if run is None or not (run / "metrics.json").is_file():
        return {}
    models: dict[str, Any] = metrics_of(run / "metrics.json")["models"]
    return models


def publish(name: str, folder: Path) -> None:
    """Uploads a folder to a model of the hub, which is made where there is none."""
    api = HfApi()
    address = api.create_repo(name, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=["*.log"])
    console.print(f"Uploaded to {address}", soft_wrap=True)
