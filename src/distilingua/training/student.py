"""What students do in the main job: they learn alone, and they learn from a teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distilingua.artifacts import cached, code_fingerprint, rows_fingerprint
from distilingua.console import console
from distilingua.data.datamodule import MultilingualDataModule, TeacherOutputs
from distilingua.data.rows import Rows
from distilingua.distillation.objective import Objective, hard_labels
from distilingua.distillation.signals import IGNORE_INDEX
from distilingua.models.on_policy import OnPolicy
from distilingua.models.student import load_student
from distilingua.models.weight_origins import weight_origins
from distilingua.training.fitting import fit, forget
from distilingua.training.inference import Predictor
from distilingua.training.job import Job, labelled, plain, training_recipe, with_labels
from distilingua.training.module import DistillationModule
from distilingua.training.plan import FROM_SCRATCH, Plan, learning_rate, make_plan, process_count


def train_direct(job: Job) -> Predictor:
    """The baseline: the same student on the visible labels alone, without any teacher; kept for later runs."""
    cfg, train_rows = job.cfg, labelled(job.rows.train)
    recipe = {
        "student": plain(cfg.student),
        "origin": job.student.origin(),
        "tokenizer": job.encoder.fingerprint,
        "rows": rows_fingerprint(train_rows, ["id", *job.task.reads, "label"]),
        "training": {name: value for name, value in plain(cfg.training).items() if name != "on_policy"},
        "augmentation": plain(cfg.augmentation),
        "lr_schedule": plain(cfg.lr_schedule),
        **training_recipe(job),
    }

    def build(folder: Path) -> None:
        hard = hard_labels(job.task.hard())
        module, data, plan = student_fit(job, hard, train_rows, job.rows.dev, TeacherOutputs())
        fit(cfg, "direct", module, data, plan, recipe, one_device=True)
        save(module, job.encoder.tokenizer, folder)

    folder = cached(job.cache, "direct", recipe, build)
    forget(cfg, "direct")
    return student_predictor(job, folder)


def distil(job: Job, outputs: TeacherOutputs, rows: Rows) -> tuple[Predictor, dict[str, float]] | None:
    """The student, and its agreement with the teacher per language; None in all processes of a job but the first."""
    module, data, plan = student_fit(job, job.objective, rows.train, rows.dev, outputs, process_count(job.cfg))
    console.print_whole(weight_origins(module.student))
    recipe = student_recipe(job, rows.train, outputs)
    trainer = fit(job.cfg, "student", module, data, plan, recipe)
    if job.pair.unpaired == "self_train" and len(rows.unpaired):
        module, trainer = self_train(job, outputs, rows, module, recipe)
    if not trainer.is_global_zero:
        return None
    save(module, job.encoder.tokenizer, job.run / "student")
    return student_predictor(job, job.run / "student"), module.last_agreement


def self_train(
    job: Job, outputs: TeacherOutputs, rows: Rows, first: DistillationModule, recipe: dict[str, Any]
) -> tuple[DistillationModule, Trainer]:
    """The student once more from where it stands, with the texts that nobody could read for it and its own answers to
    them, where it is sure of these (Lee 2013, Pseudo-Label, section 2.2)."""
    predictor = Predictor(lambda: first.student, job.encoder, job.device)
    found = predictor.predict(rows.unpaired, "The student's own labels")
    answers = zip(found.answers, rows.unpaired.to_list(), found.encoded, strict=True)
    decoded = [job.task.decode(answer, row, encoded, job.encoder.tokenizer) for answer, row, encoded in answers]
    sure = [n for n, probability in enumerate(found.probabilities) if probability >= job.pair.sure and decoded[n]]
    console.print(f"The student labels {len(sure)} of {len(rows.unpaired)} texts without a partner")
    own = with_labels(rows.unpaired.select(sure), [decoded[n] for n in sure])
    train = concatenate_datasets([rows.train, own.select_columns(rows.train.column_names)])
    module, data, plan = student_fit(job, job.objective, train, rows.dev, outputs, process_count(job.cfg))
    module.load_state_dict(first.state_dict())
    return module, fit(job.cfg, "self_trained", module, data, plan, {**recipe, "own": decoded})


def student_recipe(job: Job, rows: Dataset, outputs: TeacherOutputs) -> dict[str, Any]:
    """What shapes a student, beside the settings of its run."""
    return {
        "origin": job.student.origin(),
        "tokenizer": job.encoder.fingerprint,
        "rows": rows_fingerprint(rows, ["id", *job.task.reads, "label"]),
        "teachers": outputs.recipes,
        "code": code_fingerprint(job.task, job.student, *job.objective.terms.values(), *job.augmentations.values()),
    }


def student_fit(
    job: Job,
    objective: Objective,
    train_rows: Dataset,
    dev: dict[str, Dataset],
    outputs: TeacherOutputs,
    processes: int = 1,
) -> tuple[DistillationModule, MultilingualDataModule, Plan]:
    """A fresh student, its data, and how long it trains; equal seeds give equal first weights, whatever ran before."""
    cfg = job.cfg
    seed_everything(cfg.seed, workers=True, verbose=False)
    model = job.student.model(job.task, job.encoder.tokenizer)
    data = MultilingualDataModule(
        train_rows,
        dev,
        job.encoder,
        outputs,
        batch_size=cfg.training.batch_size,
        eval_batch_size=cfg.training.eval_batch_size,
        language_alpha=cfg.training.language_alpha,
        seed=cfg.seed,
        workers=cfg.training.workers,
        cache=job.cache,
        augmentations=job.augmentations,
    )
    teacher = outputs.live.teacher if outputs.live is not None else None
    usual = getattr(job.student, "lr", None) or (learning_rate(model) if job.student.origin() else FROM_SCRATCH)
    lr = cfg.optimizer.lr or usual
    optimizer = instantiate(cfg.optimizer, lr=lr)
    width = outputs.stored.vector_width if outputs.stored is not None else None
    share = cfg.training.on_policy if teacher is not None else 0
    own = OnPolicy(share, job.task.max_length) if share else None
    made = model, job.task, objective, optimizer, cfg.lr_schedule
    module = DistillationModule(*made, teacher, width, data.languages, own)
    return module, data, make_plan(cfg.training, len(train_rows), cfg.trainer, lr, processes)


def student_predictor(job: Job, folder: Path) -> Predictor:
    return Predictor(partial(load_student, folder, job.task), job.encoder, job.device, folder)


def save(module: DistillationModule, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A plain transformers folder: weights, configuration and tokenizer."""
    module.student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_right(job: Job, outputs: TeacherOutputs) -> dict[str, float]:
    """Per language, the share of training rows whose stored soft label names the true class.

    It looks at labels that training may not see, and is reported only.
    """
    stored, task = outputs.stored, job.task
    if stored is None or task.backbone != "encoder":  # where a label is a text, no position has a true class
        return {}
    truth = dict(zip(job.rows.texts["id"][:], job.rows.texts["label"][:], strict=True))
    marks = zip(job.rows.train["id"][:], job.rows.train["teacher_rows"][:], strict=True)
    rows = job.rows.train.select([i for i, (row_id, read) in enumerate(marks) if read and truth[row_id]])
    rows = with_labels(rows, [truth[row_id] for row_id in rows["id"][:]])
    encoded = job.encoder(rows, job.cache)
    right: dict[str, list[Tensor]] = {}
    for row, e, target in zip(rows.to_list(), encoded, task.targets(rows, encoded), strict=True):
        agree = task.agree(torch.from_numpy(stored({**row, **e})), target)
        seen = (target != IGNORE_INDEX).view(len(agree), -1).all(-1)
        right.setdefault(row["lang"], []).append(agree[seen].float())
    return {lang: round(float(torch.cat(hits).mean()), 4) for lang, hits in right.items()}
