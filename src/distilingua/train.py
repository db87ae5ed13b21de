"""The main job: read the corpus, teach the teacher, distil, compare."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase

from distilingua.artifacts import cached, code_fingerprint, folder_fingerprint, rows_fingerprint
from distilingua.console import console, quieten, results_table, show_data
from distilingua.data.datamodule import MultilingualDataModule, tokenise, tokenizer_fingerprint
from distilingua.data.protocol import Pair
from distilingua.data.rows import Rows, load_rows
from distilingua.distillation.module import DistillationModule
from distilingua.distillation.objective import Objective, hard_labels
from distilingua.distillation.soft_labels import SoftLabels, store_soft_labels
from distilingua.errors import UserError
from distilingua.evaluate import Judgement, Reader, judge, latency, retention, size
from distilingua.fitting import fit
from distilingua.models.source import TeacherSource
from distilingua.models.student import Student
from distilingua.models.teacher import FrozenTeacher, load_model, load_tokenizer
from distilingua.monitoring.tensorboard import log_judgements
from distilingua.tasks.text_classification import TextClassification


def train(cfg: DictConfig) -> dict[str, Any]:
    """Runs the main job in `cfg.paths.run` and returns what it writes to `metrics.json` there.

    Expects a configuration that `checks.check` has passed. A run that was interrupted goes on where it stopped.
    """
    quieten()
    run, cache, clock = Path(cfg.paths.run), Path(cfg.paths.cache), Clock()
    pair: Pair = instantiate(cfg.pair)
    source: TeacherSource = instantiate(cfg.teacher, _convert_="all")
    objective: Objective = instantiate(cfg.objective, schedules=instantiate(cfg.schedule))
    student: Student = instantiate(cfg.student)
    readers: dict[str, Reader] = {}
    folders: dict[str, Path] = {}

    with clock("data"):
        reads = source.languages if objective.needs_teacher else None
        rows = load_rows(instantiate(cfg.corpus), instantiate(cfg.cleaning), pair, reads)
        task: TextClassification = instantiate(cfg.task, labels=rows.labels)
        tokenizer = student.tokenizer(rows.train, cache)
        show_data(rows)

    sources: dict[str, Any] = {}
    if objective.needs_teacher:
        with clock("teacher"):
            folders["teacher"] = teach(cfg, source, pair, task, rows, cache)
            readers["teacher"] = Reader(load_model(folders["teacher"], task), load_tokenizer(source), source.prefix)
        with clock("soft_labels"):
            sources = soft_label_source(
                readers["teacher"], folders["teacher"], source, task, rows, cache, objective.needs
            )

    with clock("direct"):
        folders["direct"] = train_direct(cfg, student, tokenizer, task, rows, cache)
        readers["direct"] = Reader(task.model_class.from_pretrained(folders["direct"]), tokenizer)

    with clock("student"):
        if objective.needs_teacher:
            folders["student"] = run / "student"
            module, data = student_fit(cfg, student, tokenizer, task, objective, rows.train, rows, cache, sources)
            trainer = fit(cfg, "student", module, data, cfg.training.epochs)
            if not trainer.is_global_zero:
                return {}
            save(module, tokenizer, folders["student"])
        else:
            folders["student"] = folders["direct"]  # without a teacher, the student is the baseline
        readers["student"] = Reader(task.model_class.from_pretrained(folders["student"]), tokenizer)

    with clock("evaluation"):
        judgements = {name: judge(reader, task, rows.test, name) for name, reader in readers.items()}
        dev = judge(readers["student"], task, {pair.source: rows.dev[pair.source]}, "student")[pair.source].scores
        milliseconds = latency(readers, task, rows.test[pair.source])

    metrics = {
        "task": task.name,
        "pair": pair.name,
        "protocol": pair.protocol,
        "seed": cfg.seed,
        "models": {
            name: {
                **size(reader.model, folders[name]),
                "latency_ms": milliseconds[name],
                "languages": {lang: judgement.scores for lang, judgement in judgements[name].items()},
            }
            for name, reader in readers.items()
        },
        "retention": {},
        "soft_labels": agreement(rows, task, sources["data"]["soft_labels"]) if source.store and sources else {},
        "dev_accuracy": dev["accuracy"],
        "seconds": clock.seconds,
    }
    if "teacher" in judgements:
        metrics["retention"] = retention(judgements["teacher"], judgements["student"], pair.source, source.languages)
    (run / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False))
    log_results(cfg, task, metrics, judgements)
    console.print(results_table(metrics))
    console.print(f"Written to {run / 'metrics.json'}; the student is in {folders['student']}.")
    return metrics


def teach(
    cfg: DictConfig, source: TeacherSource, pair: Pair, task: TextClassification, rows: Rows, cache: Path
) -> Path:
    """The folder of a teacher that knows the task: fine-tuned on the source's labels, unless it knows it already."""
    if source.fine_tune is None:
        order = source.label_order()
        if order is not None and order != task.labels:
            raise UserError(
                f"teacher.path={source.path}: its labels are {', '.join(order[:6])} …; the corpus has "
                f"{', '.join(task.labels[:6])} … in this order. Soft labels would be misread. Give a teacher with the "
                f"same labels, or let it learn them: teacher/fine_tune=default."
            )
        return source.local or Path(source.location)
    settings = source.fine_tune
    lessons = labelled(rows.train).filter(lambda row: row["lang"] == pair.source)
    recipe = {
        "base": folder_fingerprint(source.local) if source.local else [source.location, source.revision],
        "rows": rows_fingerprint(lessons, ["id", "text", "text_pair", "label"]),
        "labels": task.labels,
        "fine_tune": settings,
        "prefix": source.prefix,
        "max_length": task.max_length,
        **training_recipe(cfg, lr=settings["lr"], weight_decay=settings["weight_decay"]),
    }

    def build(folder: Path) -> None:
        console.print(f"Fine-tuning on {len(lessons)} labelled {pair.source!r} sentences; kept for later runs")
        tokenizer = load_tokenizer(source)
        seed_everything(cfg.seed, workers=True, verbose=False)
        model = load_model(source.location, task, source.revision)
        for part in settings["freeze"]:
            model.base_model.get_submodule(part).requires_grad_(False)
        data = MultilingualDataModule(
            lessons.remove_columns("teacher_rows"),
            {pair.source: rows.dev[pair.source]},
            task,
            tokenizer,
            prefix=source.prefix,
            batch_size=settings["batch_size"],
            seed=cfg.seed,
            workers=cfg.training.workers,
            cache=cache,
        )
        optimizer = instantiate(cfg.optimizer, lr=settings["lr"], weight_decay=settings["weight_decay"])
        module = DistillationModule(
            model, task, hard_labels(), optimizer, settings["lr_schedule"], languages=data.languages
        )
        fit(cfg, "teacher", module, data, settings["epochs"], one_device=True)
        model.save_pretrained(folder)

    return cached(cache, "teachers", recipe, build)


def soft_label_source(
    teacher: Reader,
    folder: Path,
    source: TeacherSource,
    task: TextClassification,
    rows: Rows,
    cache: Path,
    wanted: Collection[str] = (),
) -> dict[str, Any]:
    """What a data module and a module need so that batches carry the teacher's answers: a store, or a live teacher."""
    wanted = {row_id for read in rows.train["teacher_rows"] for row_id in read}
    texts = rows.texts.select([i for i, row_id in enumerate(rows.texts["id"]) if row_id in wanted])
    token_ids = tokenise(texts, task, teacher.tokenizer, teacher.prefix, cache)
    pad_id = teacher.tokenizer.pad_token_id
    frozen = FrozenTeacher(teacher.model, wanted)
    if not source.store:
        tokens = dict(zip(texts["id"], token_ids, strict=True))
        return {"data": {"teacher_tokens": tokens, "teacher_pad_id": pad_id}, "teacher": frozen}
    recipe = {
        "teacher": folder_fingerprint(folder) if folder.is_dir() else [str(folder), source.revision],
        "tokenizer": tokenizer_fingerprint(teacher.tokenizer),
        "prefix": teacher.prefix,
        "corpus": rows_fingerprint(texts, ["id", "text", "text_pair"]),
        "max_length": task.max_length,
    }
    return {
        "data": {"soft_labels": store_soft_labels(cache, recipe, frozen, task, texts, token_ids, pad_id)},
        "teacher": None,
    }


def train_direct(
    cfg: DictConfig,
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    task: TextClassification,
    rows: Rows,
    cache: Path,
) -> Path:
    """The folder of the baseline: the same student on the visible labels alone, without any teacher."""
    lessons = labelled(rows.train)
    recipe = {
        "student": OmegaConf.to_container(cfg.student, resolve=True),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "rows": rows_fingerprint(lessons, ["id", "text", "text_pair", "label"]),
        "labels": task.labels,
        "max_length": task.max_length,
        "training": OmegaConf.to_container(cfg.training, resolve=True),
        "lr_schedule": OmegaConf.to_container(cfg.lr_schedule, resolve=True),
        **training_recipe(cfg),
    }

    def build(folder: Path) -> None:
        module, data = student_fit(cfg, student, tokenizer, task, hard_labels(), lessons, rows, cache, {})
        fit(cfg, "direct", module, data, cfg.training.epochs, one_device=True)
        save(module, tokenizer, folder)

    return cached(cache, "direct", recipe, build)


def student_fit(
    cfg: DictConfig,
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    task: TextClassification,
    objective: Objective,
    lessons: Dataset,
    rows: Rows,
    cache: Path,
    sources: dict[str, Any],
) -> tuple[DistillationModule, MultilingualDataModule]:
    """A fresh student with its data; equal seeds give equal first weights, whatever ran before."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    model = student.model(task, tokenizer)
    data = MultilingualDataModule(
        lessons,
        rows.dev,
        task,
        tokenizer,
        batch_size=cfg.training.batch_size,
        eval_batch_size=cfg.training.eval_batch_size,
        language_alpha=cfg.training.language_alpha,
        seed=cfg.seed,
        workers=cfg.training.workers,
        cache=cache,
        **sources.get("data", {}),
    )
    module = DistillationModule(
        model,
        task,
        objective,
        instantiate(cfg.optimizer),
        cfg.lr_schedule,
        teacher=sources.get("teacher"),
        languages=data.languages,
    )
    return module, data


def agreement(rows: Rows, task: TextClassification, soft_labels: SoftLabels) -> dict[str, float]:
    """Per language, the share of training rows whose soft label names the true class.

    It looks at labels that training may not see, and is reported only.
    """
    truth = dict(zip(rows.texts["id"], rows.texts["label"], strict=True))
    right: dict[str, list[bool]] = {}
    for row in rows.train.select_columns(["id", "lang", "teacher_rows"]):
        if row["teacher_rows"]:
            named = task.labels[int(soft_labels(row["teacher_rows"]).argmax())]
            right.setdefault(row["lang"], []).append(named == truth[row["id"]])
    return {lang: round(statistics.mean(hits), 4) for lang, hits in right.items()}


def labelled(rows: Dataset) -> Dataset:
    return rows.select([i for i, label in enumerate(rows["label"]) if label])


def training_recipe(cfg: DictConfig, **optimizer: float) -> dict[str, Any]:
    """What shapes every model this package trains, with what this model's own optimizer has of its own."""
    return {
        "seed": cfg.seed,
        "optimizer": {**OmegaConf.to_container(cfg.optimizer, resolve=True), **optimizer},  # type: ignore[dict-item]
        "trainer": {name: cfg.trainer[name] for name in ("precision", "gradient_clip_val", "accumulate_grad_batches")},
        "code": code_fingerprint(),
    }


def save(module: DistillationModule, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A plain transformers folder: weights, configuration and tokenizer."""
    module.student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def log_results(
    cfg: DictConfig, task: TextClassification, metrics: dict[str, Any], judgements: dict[str, dict[str, Judgement]]
) -> None:
    """Final scores beside the settings (TensorBoard's HPARAMS tab), confusion matrices, disagreements."""
    logger = instantiate(cfg.logger, version="student") if cfg.get("logger") else None
    if logger is None:
        return
    languages = metrics["models"]["student"]["languages"]
    scores = {f"test/{lang}/{name}": languages[lang][name] for lang in languages for name in ("accuracy", "f1")}
    if metrics["retention"]:
        scores |= {f"retention/{name}": metrics["retention"][name] for name in ("mean", "worst")}
    logger.log_hyperparams(hyperparameters(cfg), scores)
    log_judgements(logger, task.labels, judgements["student"], judgements.get("teacher"))
    logger.finalize("success")


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """The settings that runs differ in, as plain values."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    groups = ("task", "corpus", "teacher", "student", "objective", "schedule")
    return {
        **{group: choices[group] for group in groups if group in choices},
        "pair": f"{cfg.pair.source}-{'+'.join(cfg.pair.targets)}",
        "protocol": cfg.pair.protocol,
        "align": cfg.pair.align,
        "temperature": cfg.objective.temperature,
        "alpha": cfg.objective.get("alpha", 0.0),
        "lr": cfg.optimizer.lr,
        "batch_size": cfg.training.batch_size,
        "epochs": cfg.training.epochs,
        "seed": cfg.seed,
    }


class Clock:
    """Announces stages, and adds up their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        console.rule(f"[bold]{stage.replace('_', ' ')}", align="left")
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 1)
