"""`distilingua export`: a student in the formats that others load, each judged by itself, with a model card."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from distilingua.artifacts import write_json
from distilingua.console import console, quieten
from distilingua.delivery.card import write_card
from distilingua.delivery.evaluate import check_classes, rows_of, with_task
from distilingua.delivery.formats import Format, Student, plain, sample_inputs, written
from distilingua.delivery.model import HARMLESS, OWN, Delivered, find, load_weights, overrides_of, run_of
from distilingua.errors import Problems, UserError, refuse, truth, whole
from distilingua.parts import Benchmark, assemble_benchmark

if TYPE_CHECKING:
    from distilingua.data.rows import Rows
    from distilingua.delivery.judge import Loader
    from distilingua.training.inference import AnyPredictor


def export_model(cfg: DictConfig, folder: Path, task_typed: bool = True) -> dict[str, Any]:
    """Writes `cfg.model` to a folder in every format of `cfg.format`; returns what it writes to `export.json` there.

    Args:
        task_typed: whether the task is that of the configuration, or the one that the model says it knows.

    Raises:
        UserError: a model that is not there or cannot be written so; no token to push with.
    """
    model, benchmark, formats = prepare(cfg, task_typed)
    quieten()
    rows = rows_of(cfg, benchmark)
    student = student_of(cfg, model, benchmark, rows)
    describe(cfg, model, student, folder)
    student.teacher = partial(taught_by, cfg, model)
    made = {name: write(name, one, student, folder) for name, one in formats.items()}
    vars(student).pop("graph", None)
    found = about(cfg, benchmark, student) | judgements(cfg, model, benchmark, student, made, formats, rows)
    finish(cfg, model, found, folder)
    return found


def prepare(cfg: DictConfig, task_typed: bool) -> tuple[Delivered, Benchmark, dict[str, Format]]:
    """The model, what it is judged on, and the formats; whatever can be known to be wrong is told at once."""
    problems = Problems()
    with problems:
        model = find(str(cfg.model))
        if model.onnx is not None:
            raise UserError(f"{model.given} is an ONNX file already. Name the run, or the folder of transformers.")
    with problems:
        benchmark = assemble_benchmark(cfg)
    with problems:
        refuse(
            whole("sentences", cfg.sentences, 1),
            truth("temperature", cfg.temperature),
            "format=[] names none. Type format=[hub], or [hub,onnx,onnx_int8]." if not cfg.get("format") else None,
        )
    if cfg.push:
        with problems:
            check_push(cfg.push)
    problems.tell()
    benchmark = with_task(benchmark, [model], task_typed)
    formats = written({name: instantiate(one) for name, one in cfg.format.items()})
    alone = [name for name, one in formats.items() if getattr(one, "teacher", False) and not knows_teacher(cfg, model)]
    refuse(
        *(one.check(benchmark.task) for one in formats.values()),
        *(f"format.{name}.teacher=true: {model.given} is no run with one teacher. Leave it out." for name in alone),
    )
    return model, benchmark, formats


def knows_teacher(cfg: DictConfig, model: Delivered) -> bool:
    """Whether a model is of a run with one teacher, which may not be several that answer as one."""
    if "teacher" not in measured(model):
        return False
    members = instantiate(cfg.teacher, _convert_="all").members.values()
    return sum(one.seeds for one in members) == 1


def measured(model: Delivered) -> dict[str, Any]:
    """What the run that a model is of measured of its models; nothing of where there is no run."""
    run = run_of(Path(model.given).expanduser())
    if run is None or not (run / "metrics.json").is_file():
        return {}
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text("utf-8"))["models"]
    return found


def check_push(name: str) -> None:
    """Raises UserError for what is no name of a repository, and without a token."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"push={name}: {str(error).splitlines()[0]} Name it push=ORGANISATION/NAME.") from None
    if "/" not in name or not get_token():
        problem = "names no organisation. Type push=ORGANISATION/NAME" if "/" not in name else "there is no token"
        raise UserError(f"push={name}: {problem}. Log in with `hf auth login`, or set HF_TOKEN.")


def student_of(cfg: DictConfig, model: Delivered, benchmark: Benchmark, rows: Rows) -> Student:
    """The model as formats take it.

    Raises:
        UserError: classes of the corpus that it does not know; a temperature for answers that are no classes.
    """
    from distilingua.training.evaluate import calibrating
    from distilingua.training.inference import CPU

    predictor = model.predictor(benchmark.task, CPU, cfg.student.get("prefix", ""))
    encoder = predictor.encoder
    check_classes(model.given, encoder.task, rows.test)
    temperature = calibrating(predictor, rows.dev[benchmark.pair.source], "student")
    if cfg.temperature and temperature is None:
        raise UserError(f"temperature=true: answers of task={encoder.task.name} are no classes. Leave it out.")
    some = next(iter(rows.test.values()))
    load = partial(load_weights, model, encoder.task, encoder.tokenizer)
    pairs = any(some["text_pair"])
    return Student(load, encoder, sample_inputs(encoder, some), predictor.parameters, temperature, pairs)


def describe(cfg: DictConfig, model: Delivered, student: Student, folder: Path) -> None:
    """Writes what all formats share: config.json with how the model reads, and a tokenizer that cuts long texts."""
    task, tokenizer = student.encoder.task, student.encoder.tokenizer
    config = plain(student.load()).config
    if task.auto == "AutoModelForSequenceClassification":
        each = type(task).__name__ == "MultiLabel"
        config.problem_type = "multi_label_classification" if each else "single_label_classification"
    own = {**model.settings, "prefix": student.encoder.prefix, "parameters": student.parameters}
    if cfg.temperature and student.temperature is not None:
        own["temperature"] = student.temperature
    typed = [item for item in overrides_of(model.given) if HARMLESS.fullmatch(item)]
    setattr(config, OWN, {**own, "overrides": own.get("overrides", typed)})
    if hasattr(config, "first_weights"):  # where its training began; a path of this machine
        del config.first_weights
    config.save_pretrained(folder)
    if task.backbone != "speech encoder":  # or a pipeline with truncation=True would not know where to cut
        tokenizer.model_max_length = task.max_length
    tokenizer.save_pretrained(folder)


def write(name: str, form: Format, student: Student, folder: Path) -> Path:
    console.print(f"Writing {name}")
    shared = (folder / "config.json").read_bytes()
    made = form.write(student, folder)
    (folder / "config.json").write_bytes(shared)  # which a format may have written anew, without what we say there
    return made


def about(cfg: DictConfig, benchmark: Benchmark, student: Student) -> dict[str, Any]:
    return {
        "task": benchmark.task.name,
        "pair": benchmark.pair.name,
        "languages": benchmark.pair.languages,
        "labels": student.encoder.task.labels,
        "shown": dict(benchmark.task.shown),
        "machine": f"{platform.machine()} {platform.system()}",
        "corpus": OmegaConf.to_container(cfg.corpus, resolve=True),
    }


def judgements(
    cfg: DictConfig,
    model: Delivered,
    benchmark: Benchmark,
    student: Student,
    made: Mapping[str, Path],
    formats: Mapping[str, Format],
    rows: Rows,
) -> dict[str, Any]:
    """Teacher, student and every artefact, side by side; and by how much artefacts that answer otherwise than the
    student are better."""
    from distilingua.delivery.judge import all_threads, changed, clock, parity
    from distilingua.training.evaluate import evaluate, trust

    loaders: dict[str, Loader] = {name: partial(_load, formats[name], made[name], student) for name in made}
    loaders = {"student": lambda _: model.predictor(benchmark.task, _cpu(), student.encoder.prefix), **loaders}
    predictors: dict[str, AnyPredictor] = {name: load(1) for name, load in loaders.items()}
    evaluations = {name: evaluate(one, rows.test, name) for name, one in predictors.items()}
    temperatures = dict.fromkeys(predictors, student.temperature)
    shares = {name: changed(evaluations[name], evaluations["student"]) for name in made}
    pairs = [(name, "student") for name, share in shares.items() if share]
    trusted = trust(predictors, evaluations, rows.test, temperatures, ["student"], pairs)
    found: dict[str, Any] = {
        name: {
            "bytes": predictors[name].bytes,
            "parameters": student.parameters,
            "languages": {lang: one.scores for lang, one in each.items()},
            "reliability": trusted.models[name],
            "parity": None if name == "student" else parity(each, evaluations["student"]),
            "changed": shares.get(name),
        }
        for name, each in evaluations.items()
    }
    teacher = teacher_of(cfg, model, student.encoder.task.labels)
    if teacher is not None:
        figures, load = teacher
        found = {"teacher": {**figures, "parity": None, "changed": None}, **found}
        loaders = {"teacher": load, **loaders}
    sample = next(iter(rows.test.values()))
    for threads in sorted({1, all_threads()}):
        speeds = clock(loaders, sample, cfg.sentences, threads)
        for name, speed in speeds.items():
            found[name].setdefault("speed", {})[str(threads)] = asdict(speed)
    return {"models": found, "differences": trusted.differences, "temperature": student.temperature}


def _load(form: Format, made: Path, student: Student, threads: int) -> AnyPredictor:
    return form.predictor(made, student, threads)


def _cpu() -> Any:
    from distilingua.training.inference import CPU

    return CPU


def teacher_of(
    cfg: DictConfig, model: Delivered, labels: list[str]
) -> tuple[dict[str, Any], Callable[[int], AnyPredictor]] | None:
    """What the run measured of its teacher, and a model of its shape for the clock, as weights do not change how long a
    model takes; None where there is no run, or it has none.

    Args:
        labels: the student's classes, which are the teacher's too.
    """
    figures = measured(model).get("teacher")
    if figures is None:
        return None
    from distilingua.parts import assemble, read_rows
    from distilingua.training.inference import EnsemblePredictor, Predictor
    from distilingua.training.job import teacher_encoder

    parts = assemble(cfg)
    parts.task.fit_labels(labels)
    # a tokenizer of its own is learnt from what it reads, others are there
    own = any(source.scratch is not None for source in parts.source.members.values())
    train: Any = read_rows(cfg, parts).train if own else None

    def load(threads: int) -> AnyPredictor:
        members = []
        for source in parts.source.members.values():
            encoder = teacher_encoder(parts, source, train, Path(cfg.paths.cache))
            shape = partial(_shape, source, parts.task, encoder.tokenizer)
            members += [Predictor(shape, encoder, _cpu(), precision=str(source.precision))] * source.seeds
        return members[0] if len(members) == 1 else EnsemblePredictor([(one, None) for one in members], [])

    known = ("bytes", "parameters", "languages", "reliability")
    return {name: figures[name] for name in known if name in figures}, load


def taught_by(cfg: DictConfig, model: Delivered, folder: Path) -> Student:
    """The teacher of a run as formats take it, described in a folder; found in the cache, or trained again."""
    from distilingua.training.inference import Predictor
    from distilingua.training.job import prepare as prepare_job
    from distilingua.training.teacher import train_teacher

    with TemporaryDirectory() as run:
        alone = copy.deepcopy(cfg)
        OmegaConf.set_struct(alone, False)
        alone.paths.run, alone.logger, alone.callbacks = run, None, {}  # of its training, nothing is shown
        job = prepare_job(alone)
        ((name, source),) = job.source.members.items()
        predictor = train_teacher(job, name, source)
    assert isinstance(predictor, Predictor)
    inputs = sample_inputs(predictor.encoder, next(iter(job.rows.test.values())))
    teacher = Student(predictor.load, predictor.encoder, inputs, predictor.parameters)
    languages = source.languages or job.pair.languages
    describe(cfg, replace(model, settings={**model.settings, "languages": languages}), teacher, folder)
    return teacher


def _shape(source: Any, task: Any, tokenizer: Any) -> Any:
    from distilingua.models.teacher import load_model

    if source.scratch:
        return source.scratch.model(task, tokenizer)
    return load_model(source.location, task, tokenizer, source.revision)


def finish(cfg: DictConfig, model: Delivered, found: dict[str, Any], folder: Path) -> None:
    """The table, the card, and the way to the hub."""
    from distilingua.delivery.judge import artefacts_table
    from distilingua.monitoring.tables import differences_table

    write_json(folder / "export.json", found)
    write_card(cfg, model.settings, found, folder)
    console.print_whole(artefacts_table(found))
    if found["differences"]:
        console.print_whole(differences_table(found["differences"]))
    console.print(f"Written to {folder}; what to say of it is in {folder / 'README.md'}.", soft_wrap=True)
    if cfg.push:
        publish(cfg.push, folder)


def publish(name: str, folder: Path) -> None:
    """Uploads a folder to a model of the hub, which is made where there is none."""
    from huggingface_hub import HfApi

    api = HfApi()
    made = api.create_repo(name, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=["*.log"])
    console.print(f"Uploaded to {made}", soft_wrap=True)
