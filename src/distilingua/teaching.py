"""What teachers do in the main job: they learn the task, label what has no label, and answer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, List, Value, concatenate_datasets
from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import OmegaConf
from torch import nn
from transformers import PreTrainedModel

from distilingua.artifacts import cached, folder_fingerprint, rows_fingerprint
from distilingua.console import console
from distilingua.data.datamodule import MultilingualDataModule, encode_rows, tokenise, tokenizer_fingerprint
from distilingua.data.rows import Rows
from distilingua.distillation.module import DistillationModule
from distilingua.distillation.objective import hard_labels
from distilingua.distillation.soft_labels import Panel, store_soft_labels
from distilingua.errors import UserError
from distilingua.evaluate import Reader, Readers
from distilingua.fitting import fit
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.models.teacher import FrozenTeacher, load_model, load_tokenizer
from distilingua.stages import Answers, Job, labelled, training_recipe, with_labels


def teach(job: Job, name: str, source: TeacherSource) -> Reader:
    """A teacher that knows the task: fine-tuned on the source's labels, unless it knows it already."""
    cfg, task, rows = job.cfg, job.task, job.rows
    tokenizer = (
        source.scratch.tokenizer(rows.train, job.cache)
        if source.scratch
        else load_tokenizer(source, "audio" in task.reads)
    )
    task.meet(job.tokenizer, tokenizer)
    if source.fine_tune is None:
        order = task.order_of(source.label_order(), tokenizer)
        if order is not None and task.labels and order != task.labels:
            raise UserError(
                f"teacher.path={source.path}: its labels are {', '.join(order[:6])} …; the corpus has "
                f"{', '.join(task.labels[:6])} … in this order. Soft labels would be misread. Give a teacher with the "
                f"same labels, or let it learn them: teacher/fine_tune=default."
            )
        load = partial(load_model, source.location, task, tokenizer, source.revision)
        return Reader(load, tokenizer, source.prefix, source.local, str(source.precision))
    settings = source.fine_tune
    lessons = lessons_of(job, source)
    # what it will be asked, so that a text it cannot read is named before it learns; tokens are kept
    tokenise(asked(rows, (rows.train, *rows.dev.values())), task, tokenizer, source.prefix, job.cache)
    recipe = {
        "base": repr(source.scratch) if source.scratch else source.origin(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "rows": rows_fingerprint(lessons, ["id", *task.reads, "label"]),
        "labels": task.labels,
        "fine_tune": settings,
        "prefix": source.prefix,
        "task": OmegaConf.to_container(cfg.task, resolve=True),
        **training_recipe(cfg, lr=settings["lr"], weight_decay=settings["weight_decay"]),
    }

    def build(folder: Path) -> None:
        langs = ", ".join(dict.fromkeys(lessons["lang"]))
        console.print(f"Training the teacher on {len(lessons)} labelled rows ({langs}); kept for later runs")
        seed_everything(cfg.seed, workers=True, verbose=False)
        if source.scratch:
            model = source.scratch.model(task, tokenizer)
        else:
            model = load_model(source.location, task, tokenizer, source.revision)
        for part in settings["freeze"]:
            part_of(model, part).requires_grad_(False)
        data = MultilingualDataModule(
            lessons,
            {job.pair.source: rows.dev[job.pair.source].remove_columns("teacher_rows")},
            task,
            tokenizer,
            prefix=source.prefix,
            batch_size=settings["batch_size"],
            seed=cfg.seed,
            workers=cfg.training.workers,
            cache=job.cache,
        )
        optimizer = instantiate(cfg.optimizer, lr=settings["lr"], weight_decay=settings["weight_decay"])
        module = DistillationModule(
            model, task, hard_labels(task.hard()), optimizer, settings["lr_schedule"], languages=data.languages
        )
        fit(cfg, name, module, data, settings["epochs"], one_device=True)
        model.save_pretrained(folder)

    folder = cached(job.cache, "teachers", recipe, build)
    load = partial(load_model, folder, task, tokenizer)
    return Reader(load, tokenizer, source.prefix, folder, str(source.precision))


def lessons_of(job: Job, source: TeacherSource) -> Dataset:
    """What a teacher learns from: the source's visible labels, and the training labels of any language it is given."""
    assert source.fine_tune is not None
    own = labelled(job.rows.train).filter(lambda row: row["lang"] == job.pair.source).remove_columns("teacher_rows")
    others = set(source.fine_tune.get("languages") or ()) - {job.pair.source}
    more = labelled(job.rows.texts).filter(lambda row: row["split"] == "train" and row["lang"] in others)
    return concatenate_datasets([own, more]) if others else own


def part_of(model: PreTrainedModel, name: str) -> nn.Module:
    """A part of the encoder by name; `embeddings` is there in every model, whatever its own name for it."""
    if name == "embeddings" and not hasattr(model.base_model, name):
        return model.get_input_embeddings()
    return model.base_model.get_submodule(name)


def label_anew(job: Job, teachers: Mapping[str, Reader]) -> Dataset:
    """Training rows with the teacher's own answer as the label of those that have none, where the task makes labels.

    The answers are kept for later runs: a beam search over a corpus takes as long as an epoch.
    """
    rows, task = job.rows, job.task
    if not task.makes_labels:
        return read_along(rows, rows.train) if "label" in task.reads else rows.train
    ((name, reader),) = teachers.items()
    wanted = {r["teacher_rows"][0] for r in rows.train.select_columns(["label", "teacher_rows"]) if not r["label"]}
    texts = with_ids(rows.texts, wanted)
    texts = with_labels(texts, [""] * len(texts))
    recipe = {**answer_recipe(job, name, reader, texts), "task": OmegaConf.to_container(job.cfg.task, resolve=True)}

    def build(folder: Path) -> None:
        answers, encoded = reader.answers(texts, task, "The teacher's own labels")
        labels = {
            row["id"]: task.pseudo_label(answer, row, e, reader.tokenizer)
            for row, answer, e in zip(texts.to_list(), answers, encoded, strict=True)
        }
        (folder / "labels.json").write_text(json.dumps(labels, ensure_ascii=False), "utf-8")

    labels = json.loads((cached(job.cache, "pseudo_labels", recipe, build) / "labels.json").read_text("utf-8"))
    console.print(f"The teacher labelled {len(labels)} texts; {sum(map(bool, labels.values()))} answers are kept")
    marks = zip(rows.train["label"][:], rows.train["teacher_rows"][:], strict=True)
    lessons = with_labels(rows.train, [label or labels.get(read[0] if read else "", "") for label, read in marks])
    return read_along(rows, labelled(lessons)) if "label" in task.reads else lessons


def read_along(rows: Rows, lessons: Dataset) -> Dataset:
    """For teachers that read a text along with a label: the text once more for every label of a row it is read for.

    Args:
        rows: gets the new texts, and dev rows whose `teacher_rows` name them.

    Returns:
        The lessons, with `teacher_rows` that name them.
    """
    number = {row_id: n for n, row_id in enumerate(rows.texts["id"])}
    along: dict[str, tuple[int, str]] = {}

    def renamed(part: Dataset) -> Dataset:
        readings = []
        for label, read in zip(part["label"][:], part["teacher_rows"][:], strict=True):
            named = {row_id: f"{row_id}|{label}" if row_id else "" for row_id in read}
            along.update({name: (number[row_id], label) for row_id, name in named.items() if row_id})
            readings.append(list(named.values()))
        return part.remove_columns("teacher_rows").add_column("teacher_rows", readings, feature=List(Value("string")))

    lessons, rows.dev = renamed(lessons), {lang: renamed(part) for lang, part in rows.dev.items()}
    texts = rows.texts.select([n for n, _ in along.values()])
    texts = with_labels(texts, [label for _, label in along.values()])
    texts = texts.remove_columns("id").add_column("id", list(along), feature=Value("string"))
    rows.texts = concatenate_datasets([rows.texts, texts.select_columns(rows.texts.column_names)])
    return lessons


def answer_recipe(job: Job, name: str, reader: Reader, texts: Dataset) -> dict[str, Any]:
    """What shapes a teacher's answer to texts."""
    member = job.source.members[name]
    return {
        "teacher": folder_fingerprint(reader.folder) if reader.folder else [member.location, member.revision],
        "tokenizer": tokenizer_fingerprint(reader.tokenizer),
        "prefix": reader.prefix,
        "corpus": rows_fingerprint(texts, ["id", *job.task.reads]),
        "max_length": job.task.recipe,
        "precision": str(member.precision),
    }


def ask(job: Job, teachers: Mapping[str, Reader], lessons: Dataset) -> Answers:
    """The teachers' answers: from stores, or from a live teacher.

    Args:
        teachers: by name, as `job.source.members`.
        lessons: the student's training rows.
    """
    source, task, rows = job.source, job.task, job.rows
    if not job.objective.compares:
        return {"data": {}, "teacher": None}
    for reader in teachers.values():
        task.comparable(job.tokenizer, reader.tokenizer)
    parts = (lessons, *rows.dev.values())
    reads = [r for part in parts for r in part["teacher_rows"]]
    columns: list[Any] = list(zip(*(r for r in reads if r), strict=True)) if isinstance(source, Ensemble) else [None]
    stores = []
    for (name, reader), column in zip(teachers.items(), columns, strict=True):
        member = source.members[name]
        texts = asked(rows, parts) if column is None else with_ids(rows.texts, set(column))
        encoded = tokenise(texts, task, reader.tokenizer, reader.prefix, job.cache)
        pad_id = reader.tokenizer.pad_token_id
        if member.store is False:
            live = {
                "teacher_tokens": dict(zip(texts["id"], encoded, strict=True)),
                "teacher_pad_id": pad_id,
                "teacher_encode": partial(encode_rows, task=task, tokenizer=reader.tokenizer, prefix=reader.prefix),
            }
            return {"data": live, "teacher": FrozenTeacher(reader.model, job.objective.needs)}
        recipe = answer_recipe(job, name, reader, texts)
        options = member.store_dtype, member.store_top_k
        stores.append(store_soft_labels(job.cache, recipe, reader, task, texts, encoded, pad_id, *options))
    read = {row["id"]: row for row in rows.texts.select_columns(["id", "text", "text_pair", "spans"]).to_list()}
    panel = Panel(stores, member_weights(source) if isinstance(source, Ensemble) else [1.0], task, read)
    return {"data": {"soft_labels": panel}, "teacher": None}


def asked(rows: Rows, parts: Iterable[Dataset]) -> Dataset:
    """The texts that teachers read in place of rows, or as they are."""
    return with_ids(rows.texts, {i for part in parts for read in part["teacher_rows"] for i in read})


def with_ids(texts: Dataset, ids: Collection[str]) -> Dataset:
    return texts.select([n for n, row_id in enumerate(texts["id"]) if row_id in ids])


def member_weights(source: Ensemble) -> list[float]:
    return [float(source.weights[name]) if source.weights else 1.0 for name in source.teachers]


def as_one(teachers: Mapping[str, Reader], source: TeacherSource | Ensemble) -> Reader | Readers:
    """The teachers as they are judged."""
    if isinstance(source, TeacherSource):
        return next(iter(teachers.values()))
    return Readers([(teachers[n], member.languages) for n, member in source.members.items()], member_weights(source))
