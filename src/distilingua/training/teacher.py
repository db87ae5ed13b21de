"""What teachers do in the main job: they learn the task, label what has no label, and answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from lightning import seed_everything
from scipy.special import log_softmax
from torch import nn
from transformers import AutoModel, PreTrainedModel

from distilingua.artifacts import cached, cached_by_all, code_fingerprint, folder_fingerprint, rows_fingerprint
from distilingua.columns import (
    Ragged,
    codes_of,
    column,
    filled,
    is_one_of,
    joined,
    lists_of,
    select,
    strings,
    texts_of,
    where,
    with_columns,
)
from distilingua.console import console
from distilingua.corpora.schema import each_row
from distilingua.data.datamodule import LiveTeacher, MultilingualDataModule, TeacherOutputs
from distilingua.data.rows import Rows, fingerprint_of
from distilingua.distillation.objective import hard_labels
from distilingua.models.depth import layer_list
from distilingua.models.loading import load_whole
from distilingua.models.pooled import PENALTIES, PooledForSequenceClassification, probe
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.models.teacher import FrozenTeacher, load_model
from distilingua.tasks.alignment import Alignment
from distilingua.training.evaluate import calibrate
from distilingua.training.fitting import delete_checkpoints, fit
from distilingua.training.inference import AnyPredictor, EnsemblePredictor, Predictor, named, vectors_of
from distilingua.training.job import (
    Job,
    labelled,
    named_class,
    places_of,
    teacher_inputs,
    training_recipe,
    with_labels,
)
from distilingua.training.module import DistillationModule
from distilingua.training.plan import learning_rate, make_plan, optimizer_of
from distilingua.training.soft_labels import Store, StoredSoftLabels, store_soft_labels


def train_teacher(job: Job, name: str, source: TeacherSource) -> AnyPredictor:
    """A teacher that knows the task: fine-tuned on the source's labels, once or from several seeds, unless it knows it
    already."""
    if source.seeds == 1:
        return fine_tuned(job, name, source, job.settings.seed)
    seeds = range(job.settings.seed, job.settings.seed + source.seeds)
    members = [(fine_tuned(job, name, source, seed), source.languages) for seed in seeds]
    return EnsemblePredictor(members, [1.0] * source.seeds)


def fine_tuned(job: Job, name: str, source: TeacherSource, seed: int) -> Predictor:
    task, rows, encoder = job.task, job.rows, job.teachers[name]
    tokenizer, settings = encoder.tokenizer, source.fine_tune
    ready = partial(Predictor, encoder=encoder, device=job.device, precision=str(source.precision))
    if settings is None:
        knows = partial(load_model, source.location, task, tokenizer, source.revision, complete=True)
        return ready(knows, folder=source.local)
    train_rows = teacher_train_rows(job, source)
    recipe = {
        "base": repr(source.scratch) if source.scratch else source.origin(),
        "tokenizer": encoder.fingerprint,
        "rows": fingerprint_of(train_rows, task),
        "fine_tune": {key: named_class(value) for key, value in settings.items()},
        "prefix": source.prefix,
        **training_recipe(job, [rows.dev[job.pair.source]]),
        "seed": seed,
        "code": code_fingerprint(fine_tuned, task, task.hard(), source.scratch or source),
    }

    def build(folder: Path) -> None:
        langs = ", ".join(codes_of(train_rows, "lang")[1])
        console.print(f"Training the teacher on {len(train_rows)} labelled rows ({langs}); kept for later runs")
        seed_everything(seed, workers=True, verbose=False)
        model, learning = starting_point(job, name, source, train_rows)
        if learning["epochs"] != 0:
            learn(model, learning)
        calibrate(Predictor(lambda: model, encoder, job.device), rows.dev[job.pair.source], name)
        model.save_pretrained(folder)

    def learn(model: PreTrainedModel, learning: Mapping[str, Any]) -> None:
        data = MultilingualDataModule(
            train_rows,
            {job.pair.source: rows.dev[job.pair.source].remove_columns("teacher_texts")},
            encoder,
            batch_size=learning["batch_size"],
            seed=seed,
            workers=job.settings.training["workers"],
            cache=job.cache,
        )
        make, rate = learning["optimizer"], learning["rate"] * learning_rate(model)
        optimizer, lr = optimizer_of(partial(make, lr=learning["lr"]) if learning["lr"] else make, rate)
        module = DistillationModule(
            model, task, hard_labels(task.hard()), optimizer, learning["lr_schedule"], languages=data.languages
        )
        plan = make_plan(learning, len(train_rows), job.settings.trainer, lr, processes=1)
        fit(job.settings, name, module, data, plan, recipe, one_device=True)

    folder = cached(job.cache, "teachers", recipe, build)
    delete_checkpoints(job.settings, name)
    return ready(partial(load_model, folder, task, tokenizer), folder=folder)


def starting_point(
    job: Job, name: str, source: TeacherSource, rows: Dataset
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """A teacher before it learns the task by steps, and how it learns: with random weights, with a new head, or with a
    probe for its head, where it is to have one and the task gives one class to a single text.

    Args:
        rows: what it learns from.
    """
    assert source.fine_tune is not None
    task, encoder, first, settings = job.task, job.teachers[name], source.fine_tune.get("probe"), source.fine_tune
    learning = {**settings, "rate": 1.0}
    if source.scratch:
        model = source.scratch.model(task, encoder.tokenizer)
    elif first is None or task.problem_type != "single_label_classification" or filled(column(rows, "text_pair")).any():
        model = load_model(source.location, task, encoder.tokenizer, source.revision)
    else:
        model = probed(job, name, source, rows)
        place = layer_list(model.encoder)  # some repeat one layer
        layers = list(model.encoder.get_submodule(place).children()) if place else []
        for layer in layers[: round(first["freeze"] * len(layers))]:
            layer.requires_grad_(False)
        usual = make_plan(settings, len(rows), job.settings.trainer, lr=None, processes=1).epochs
        passes = round(first["passes"] * usual) or math.ceil(first["passes"])
        learning |= {"rate": first["lr"], "epochs": settings["epochs"] or passes}
    for part in settings["freeze"]:
        part_of(model, part).requires_grad_(False)
    return model, learning


def probed(job: Job, name: str, source: TeacherSource, rows: Dataset) -> PooledForSequenceClassification:
    """An encoder as it was published, with a probe of its vectors for a head; of the penalties, that with the least
    cross-entropy on the source's dev split."""
    task, encoder = job.task, job.teachers[name]
    body, _ = load_whole(source.given, AutoModel, source.location, source.revision)
    model = PooledForSequenceClassification.around(body, source.pooling, task.model_options)
    predictor = Predictor(lambda: model, encoder, job.device)
    known = []
    for part in (rows, job.rows.dev[job.pair.source]):
        encoded = encoder(part, job.cache)
        vectors = vectors_of(predictor, encoded, "Vectors for the probe", source.pooling)
        known.append((model.features(torch.from_numpy(vectors)).numpy(), task.targets(part, encoded).values))
    (features, classes), (unseen, truth) = known
    each = [probe(features, classes, len(task.labels), penalty) for penalty in PENALTIES]
    missed = [-log_softmax(unseen @ w.T + b, axis=1)[np.arange(len(truth)), truth].mean() for w, b in each]
    model.set_head(*each[int(np.argmin(missed))])
    return model


def teacher_train_rows(job: Job, source: TeacherSource) -> Dataset:
    """What a teacher learns from: the source's visible labels, and the training labels of any language it is given."""
    assert source.fine_tune is not None
    own = labelled(job.rows.train)
    own = where(own, is_one_of(own, "lang", {job.pair.source}))
    others = set(source.fine_tune.get("languages") or ()) - {job.pair.source}
    columns = [name for name in job.rows.texts.column_names if name in own.column_names]
    own = own.select_columns(columns)
    if not others:
        return own
    more = labelled(job.rows.texts)
    more = where(more, is_one_of(more, "lang", others) & is_one_of(more, "split", {"train"}))
    return joined([own, more])


def part_of(model: PreTrainedModel, name: str) -> nn.Module:
    """A part of the encoder by name; `embeddings` is there in every model, whatever its own name for it."""
    if name == "embeddings" and not hasattr(model.base_model, name):
        return model.get_input_embeddings()
    return model.base_model.get_submodule(name)


def pseudo_label_rows(job: Job, teachers: Mapping[str, AnyPredictor]) -> Rows:
    """Rows for the student, with the teacher's own answer as the label of those that have none, if the task wants it.

    The answers are kept for later runs: a beam search over a corpus takes as long as an epoch.
    """
    rows, task = job.rows, job.task
    if not task.pseudo_labels:
        return add_teacher_forced_texts(rows) if "label" in task.reads else rows
    ((name, predictor),) = teachers.items()  # answers of several are no labels, see checks.py
    read = lists_of(rows.train, "teacher_texts")
    shown = filled(column(rows.train, "label"))
    wanted = np.unique(read[~shown].values)
    texts = rows.numbered(wanted)
    texts = with_labels(texts, [""] * len(texts))
    assert isinstance(predictor, Predictor)
    recipe = {**answer_recipe(job, name, predictor, texts), "task": job.settings.plain["task"]}

    def build(folder: Path, part: slice) -> None:
        own = select(texts, np.arange(len(texts))[part])
        found = predictor.predict(own, "The teacher's own labels")
        each = zip(each_row(own, own.column_names), found.answers, found.encoded, strict=True)
        labels = [task.pseudo_label(answer, row, read, predictor.encoder.tokenizer) for row, answer, read in each]
        (folder / "labels.json").write_text(json.dumps(labels, ensure_ascii=False), "utf-8")

    def labels_in(folder: Path) -> list[str]:
        found: list[str] = json.loads((folder / "labels.json").read_text("utf-8"))
        return found

    def join(folder: Path, parts: Sequence[Path]) -> None:
        every = [""] * len(texts)
        for n, part in enumerate(parts):
            every[n :: len(parts)] = labels_in(part)
        (folder / "labels.json").write_text(json.dumps(every, ensure_ascii=False), "utf-8")

    labels = labels_in(cached_by_all(job.cache, "pseudo_labels", recipe, build, join))
    console.print(f"The teacher labelled {len(labels)} texts; {sum(map(bool, labels))} answers are kept")
    place = np.searchsorted(wanted, [texts[0] if len(texts) else -1 for texts in read])
    given = strings([*labels, ""]).take(pa.array(np.where(~shown & (read.lengths > 0), place, len(labels))))
    own_labels = column(rows.train, "label")
    train = with_columns(rows.train, {"label": pc.if_else(pa.array(shown), own_labels, given)})
    if "label" not in task.reads:
        return replace(rows, train=train)
    return add_teacher_forced_texts(replace(rows, train=labelled(train)))


def add_teacher_forced_texts(rows: Rows) -> Rows:
    """For teachers that read a text along with a label: the text once more for every label of a row it is read for.

    Returns:
        New rows, with these texts, and `teacher_texts` of train and dev that name them.
    """
    along: dict[tuple[int, str], int] = {}

    def renumbered(part: Dataset) -> Dataset:
        labels, read = texts_of(part, "label"), lists_of(part, "teacher_texts")
        own = [labels[n] for n in np.repeat(np.arange(len(read)), read.lengths)]
        numbers = [
            along.setdefault((text, label), len(rows.table) + len(along)) if text >= 0 else text
            for text, label in zip(read.values.tolist(), own, strict=True)
        ]
        texts = Ragged.by_lengths(np.array(numbers, np.int32), read.lengths)
        return with_columns(part, {"teacher_texts": texts.as_column()})

    train, dev = renumbered(rows.train), {lang: renumbered(part) for lang, part in rows.dev.items()}
    texts = rows.numbered([number for number, _ in along])
    ids = [f"{row_id}|{label}" for row_id, (_, label) in zip(texts_of(texts, "id"), along, strict=True)]
    texts = with_columns(texts, {"id": strings(ids), "label": strings(label for _, label in along)})
    return replace(rows, train=train, dev=dev, table=joined([rows.table, texts]))


def answer_recipe(job: Job, name: str, predictor: AnyPredictor, texts: Dataset) -> dict[str, Any]:
    """What shapes a teacher's answer to texts."""
    member = job.source.members[name]
    folders = [one.folder for one in predictor.alone if one.folder]
    prints: Any = [folder_fingerprint(folder) for folder in folders] or [member.location, member.revision]
    return {
        "teacher": prints[0] if len(folders) == 1 else prints,
        "tokenizer": predictor.encoder.fingerprint,
        "prefix": predictor.encoder.prefix,
        "corpus": rows_fingerprint(texts, ["id", *job.task.reads]),
        "max_length": job.task.recipe,
        "precision": str(member.precision),
        "code": code_fingerprint(store_soft_labels, FrozenTeacher, predictor, job.task),
    }


def teacher_outputs(job: Job, teachers: Mapping[str, AnyPredictor], rows: Rows) -> TeacherOutputs:
    """The teachers' answers to training and dev rows: from stores, or from a teacher that reads along.

    Args:
        teachers: by name, as `job.source.members`.
        rows: the student's.
    """
    source, task = job.source, job.task
    if not job.objective.compares:
        return TeacherOutputs()
    every = teacher_inputs(rows)
    asked = _by_member(rows, len(teachers)) if isinstance(source, Ensemble) else [every]
    stores: list[Store] = []
    recipes = []
    for (name, predictor), numbers in zip(teachers.items(), asked, strict=True):
        member, encoder, texts = source.members[name], predictor.encoder, rows.numbered(numbers)
        encoded = encoder(texts, job.cache)
        recipes.append(answer_recipe(job, name, predictor, texts))
        if member.store is False:
            assert isinstance(predictor, Predictor)
            frozen = FrozenTeacher(predictor.model, job.objective.needs, member.pooling)
            live = LiveTeacher(frozen, encoder, encoded, places_of(numbers, rows.table))
            return TeacherOutputs(live=live, recipes=recipes, alignment=alignment(job, live))
        pooling = member.pooling if "vector" in job.objective.needs else None
        options = member.store_dtype, member.store_top_k, pooling
        with named(f"Soft labels of {name}", texts):
            stores.append(store_soft_labels(job.cache, recipes[-1], predictor, task, encoded, *options))
        predictor.release()
    weights = member_weights(source) if isinstance(source, Ensemble) else [1.0]
    stored = StoredSoftLabels(stores, weights, task, rows.table, [places_of(each, rows.table) for each in asked])
    writer = LiveTeacher(None, encoder, encoded, places_of(asked[-1], rows.table))
    return TeacherOutputs(stored=stored, recipes=recipes, alignment=alignment(job, writer))


def _by_member(rows: Rows, members: int) -> list[np.ndarray]:
    """Numbers of the texts that each of several teachers reads; each once, ascending."""
    read = [lists_of(part, "teacher_texts").values for part in (rows.train, *rows.dev.values())]
    each = np.concatenate(read).reshape(-1, members)
    return [np.unique(own[own >= 0]) for own in each.T]


def alignment(job: Job, writer: LiveTeacher) -> tuple[Alignment, LiveTeacher] | None:
    """Of a teacher that writes texts in other pieces than the student; None where nothing is to be aligned."""
    own, other = job.encoder.tokenizer, writer.encoder.tokenizer
    if not job.task.writes() or own.get_vocab() == other.get_vocab():
        return None
    return Alignment(own, other), writer


def member_weights(source: Ensemble) -> list[float]:
    return [float(source.weights[name]) if source.weights else 1.0 for name in source.teachers]


def as_one(teachers: Mapping[str, AnyPredictor], source: TeacherSource | Ensemble) -> AnyPredictor:
    """The teachers as they are judged."""
    if isinstance(source, TeacherSource):
        return next(iter(teachers.values()))
    weighed = [
        (one, member.languages, weight / len(teachers[name].alone))
        for (name, member), weight in zip(source.members.items(), member_weights(source), strict=True)
        for one in teachers[name].alone
    ]
    return EnsemblePredictor([(one, langs) for one, langs, _ in weighed], [weight for *_, weight in weighed])
