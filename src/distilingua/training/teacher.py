"""What teachers do in the main job: they learn the task, label what has no label, and answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, List, Value, concatenate_datasets
from hydra.utils import instantiate
from lightning import seed_everything
from torch import nn
from transformers import PreTrainedModel

from distilingua.artifacts import cached, cached_by_all, code_fingerprint, folder_fingerprint, rows_fingerprint
from distilingua.console import console
from distilingua.corpora.schema import each_row
from distilingua.data.datamodule import LiveTeacher, MultilingualDataModule, TeacherOutputs
from distilingua.data.encoder import Encoder
from distilingua.data.rows import Rows
from distilingua.distillation.objective import hard_labels
from distilingua.models.source import Ensemble, TeacherSource
from distilingua.models.teacher import FrozenTeacher, load_model
from distilingua.tasks.alignment import Alignment
from distilingua.training.fitting import fit, forget
from distilingua.training.inference import AnyPredictor, EnsemblePredictor, Predictor, named
from distilingua.training.job import Job, asked, labelled, plain, training_recipe, with_ids, with_labels
from distilingua.training.module import DistillationModule
from distilingua.training.plan import learning_rate, make_plan
from distilingua.training.soft_labels import Store, StoredSoftLabels, store_soft_labels


def train_teacher(job: Job, name: str, source: TeacherSource) -> AnyPredictor:
    """A teacher that knows the task: fine-tuned on the source's labels, once or from several seeds, unless it knows it
    already."""
    if source.seeds == 1:
        return fine_tuned(job, name, source, job.cfg.seed)
    seeds = range(job.cfg.seed, job.cfg.seed + source.seeds)
    members = [(fine_tuned(job, name, source, seed), source.languages) for seed in seeds]
    return EnsemblePredictor(members, [1.0] * source.seeds)


def fine_tuned(job: Job, name: str, source: TeacherSource, seed: int) -> Predictor:
    cfg, task, rows, encoder = job.cfg, job.task, job.rows, job.teachers[name]
    tokenizer, settings = encoder.tokenizer, source.fine_tune
    ready = partial(Predictor, encoder=encoder, device=job.device, precision=str(source.precision))
    if settings is None:
        knows = partial(load_model, source.location, task, tokenizer, source.revision, whole=True)
        return ready(knows, folder=source.local)
    train_rows = teacher_train_rows(job, source)
    recipe = {
        "base": repr(source.scratch) if source.scratch else source.origin(),
        "tokenizer": encoder.fingerprint,
        "rows": rows_fingerprint(train_rows, ["id", *task.reads, "label"]),
        "fine_tune": settings,
        "prefix": source.prefix,
        **training_recipe(job, lr=settings["lr"], weight_decay=settings["weight_decay"]),
        "seed": seed,
    }

    def build(folder: Path) -> None:
        langs = ", ".join(dict.fromkeys(train_rows["lang"][:]))
        console.print(f"Training the teacher on {len(train_rows)} labelled rows ({langs}); kept for later runs")
        seed_everything(seed, workers=True, verbose=False)
        if source.scratch:
            model = source.scratch.model(task, tokenizer)
        else:
            model = load_model(source.location, task, tokenizer, source.revision)
        for part in settings["freeze"]:
            part_of(model, part).requires_grad_(False)
        data = MultilingualDataModule(
            train_rows,
            {job.pair.source: rows.dev[job.pair.source].remove_columns("teacher_rows")},
            encoder,
            batch_size=settings["batch_size"],
            seed=seed,
            workers=cfg.training.workers,
            cache=job.cache,
        )
        lr = settings["lr"] or learning_rate(model)
        optimizer = instantiate(cfg.optimizer, lr=lr, weight_decay=settings["weight_decay"])
        module = DistillationModule(
            model, task, hard_labels(task.hard()), optimizer, settings["lr_schedule"], languages=data.languages
        )
        plan = make_plan(settings, len(train_rows), cfg.trainer, lr, processes=1)
        fit(cfg, name, module, data, plan, recipe, one_device=True)
        model.save_pretrained(folder)

    folder = cached(job.cache, "teachers", recipe, build)
    forget(cfg, name)
    return ready(partial(load_model, folder, task, tokenizer), folder=folder)


def teacher_train_rows(job: Job, source: TeacherSource) -> Dataset:
    """What a teacher learns from: the source's visible labels, and the training labels of any language it is given."""
    assert source.fine_tune is not None
    own = labelled(job.rows.train).remove_columns("teacher_rows")
    own = own.select([n for n, lang in enumerate(own["lang"][:]) if lang == job.pair.source])
    others = set(source.fine_tune.get("languages") or ()) - {job.pair.source}
    if not others:
        return own
    more = labelled(job.rows.texts)
    marks = enumerate(zip(more["lang"][:], more["split"][:], strict=True))
    more = more.select([n for n, (lang, split) in marks if lang in others and split == "train"])
    return concatenate_datasets([own, more])


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
        return expand_by_label(rows) if "label" in task.reads else rows
    ((name, predictor),) = teachers.items()  # answers of several are no labels, see checks.py
    wanted = {r["teacher_rows"][0] for r in each_row(rows.train, ["label", "teacher_rows"]) if not r["label"]}
    texts = with_ids(rows.texts, wanted)
    texts = with_labels(texts, [""] * len(texts))
    assert isinstance(predictor, Predictor)
    recipe = {**answer_recipe(job, name, predictor, texts), "task": plain(job.cfg.task)}

    def build(folder: Path, part: slice) -> None:
        own = texts.select(range(len(texts))[part])
        found = predictor.predict(own, "The teacher's own labels")
        labels = {
            row["id"]: task.pseudo_label(answer, row, encoded, predictor.encoder.tokenizer)
            for row, answer, encoded in zip(own.to_list(), found.answers, found.encoded, strict=True)
        }
        (folder / "labels.json").write_text(json.dumps(labels, ensure_ascii=False), "utf-8")

    def labels_in(folder: Path) -> dict[str, str]:
        found: dict[str, str] = json.loads((folder / "labels.json").read_text("utf-8"))
        return found

    def join(folder: Path, parts: Sequence[Path]) -> None:
        everything = {name: label for part in parts for name, label in labels_in(part).items()}
        (folder / "labels.json").write_text(json.dumps(everything, ensure_ascii=False), "utf-8")

    labels = labels_in(cached_by_all(job.cache, "pseudo_labels", recipe, build, join))
    console.print(f"The teacher labelled {len(labels)} texts; {sum(map(bool, labels.values()))} answers are kept")
    marks = zip(rows.train["label"][:], rows.train["teacher_rows"][:], strict=True)
    train = with_labels(rows.train, [label or labels.get(read[0] if read else "", "") for label, read in marks])
    if "label" not in task.reads:
        return replace(rows, train=train)
    return expand_by_label(replace(rows, train=labelled(train)))


def expand_by_label(rows: Rows) -> Rows:
    """For teachers that read a text along with a label: the text once more for every label of a row it is read for.

    Returns:
        New rows, with these texts, and `teacher_rows` of train and dev that name them.
    """
    number = {row_id: n for n, row_id in enumerate(rows.texts["id"][:])}
    along: dict[str, tuple[int, str]] = {}

    def renamed(part: Dataset) -> Dataset:
        readings = []
        for label, read in zip(part["label"][:], part["teacher_rows"][:], strict=True):
            named = {row_id: f"{row_id}|{label}" if row_id else "" for row_id in read}
            along.update({name: (number[row_id], label) for row_id, name in named.items() if row_id})
            readings.append(list(named.values()))
        return part.remove_columns("teacher_rows").add_column("teacher_rows", readings, feature=List(Value("string")))

    train, dev = renamed(rows.train), {lang: renamed(part) for lang, part in rows.dev.items()}
    texts = rows.texts.select([n for n, _ in along.values()])
    texts = with_labels(texts, [label for _, label in along.values()])
    texts = texts.remove_columns("id").add_column("id", list(along), feature=Value("string"))
    texts = concatenate_datasets([rows.texts, texts.select_columns(rows.texts.column_names)])
    return replace(rows, train=train, dev=dev, texts=texts)


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
        "code": code_fingerprint(job.task),
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
    reads = [r for part in (rows.train, *rows.dev.values()) for r in part["teacher_rows"][:]]
    columns: list[Any] = list(zip(*(r for r in reads if r), strict=True)) if isinstance(source, Ensemble) else [None]
    stores: list[Store] = []
    recipes = []
    for (name, predictor), column in zip(teachers.items(), columns, strict=True):
        member, encoder = source.members[name], predictor.encoder
        texts = asked(rows) if column is None else with_ids(rows.texts, set(column))
        encoded = encoder(texts, job.cache)
        if member.store is False:
            assert isinstance(predictor, Predictor)
            tokens = dict(zip(texts["id"][:], encoded, strict=True))
            frozen = FrozenTeacher(predictor.model, job.objective.needs, member.pooling)
            recipe = answer_recipe(job, name, predictor, texts)
            live = LiveTeacher(frozen, encoder, tokens)
            return TeacherOutputs(live=live, recipes=[recipe], alignment=alignment(job, encoder, texts))
        recipes.append(answer_recipe(job, name, predictor, texts))
        pooling = member.pooling if "vector" in job.objective.needs else None
        options = member.store_dtype, member.store_top_k, pooling
        with named(f"Soft labels of {name}", texts["id"][:]):
            stores.append(store_soft_labels(job.cache, recipes[-1], predictor, task, texts, encoded, *options))
        predictor.release()
    read = {row["id"]: row for row in rows.texts.select_columns(["id", "text", "text_pair", "spans"]).to_list()}
    weights = member_weights(source) if isinstance(source, Ensemble) else [1.0]
    stored = StoredSoftLabels(stores, weights, task, read)
    return TeacherOutputs(stored=stored, recipes=recipes, alignment=alignment(job, encoder, texts))


def alignment(job: Job, encoder: Encoder, texts: Dataset) -> Alignment | None:
    """Of a teacher that writes these texts in other pieces than the student; None where nothing is to be aligned."""
    own = job.encoder.tokenizer
    if job.task.backbone != "encoder-decoder" or own.get_vocab() == encoder.tokenizer.get_vocab():
        return None
    return Alignment(own, encoder.tokenizer, dict(zip(texts["id"][:], encoder(texts, job.cache), strict=True)))


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
