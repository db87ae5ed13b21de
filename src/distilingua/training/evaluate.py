"""Judges models: scores per language, speed, and every single prediction."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset

from distilingua.data.pairing import Readings
from distilingua.tasks.task import Evaluation
from distilingua.training.inference import AnyPredictor
from distilingua.training.job import Job, with_ids


def evaluate(predictor: AnyPredictor, held_out: Mapping[str, Dataset], name: str) -> dict[str, Evaluation]:
    """Scores and predictions per language.

    Args:
        name: of the model, for the progress bar.
    """
    evaluations, task = {}, predictor.encoder.task
    for lang, rows in held_out.items():
        found = predictor.predict(rows, f"Judging {name} on {lang}")
        scores, predicted = task.evaluate(found.answers, rows, found.encoded, predictor.encoder.tokenizer)
        evaluations[lang] = Evaluation(
            {metric: round(value, 4) for metric, value in scores.items()},
            [title(row) for row in rows.select_columns(["text", "text_pair"])],
            [task.show(label) for label in rows["label"]],
            predicted,
            found.probabilities,
        )
    return evaluations


def title(row: Mapping[str, str]) -> str:
    """A row as tables show it."""
    return " / ".join(filter(None, (row["text"], row["text_pair"])))


def latency(models: Mapping[str, AnyPredictor], rows: Dataset, sentences: int = 40) -> dict[str, float]:
    """Median milliseconds per sentence, one sentence at a time, tokenising included.

    The models take turns on every sentence, so that whatever else the machine is doing hits them alike.
    """
    different = {id(model): model for model in models.values()}  # one that goes by two names has one time
    times: dict[int, list[float]] = {number: [] for number in different}
    sample = rows.select(range(min(sentences, len(rows))))
    with torch.inference_mode():
        for i in range(-3, len(sample)):  # the first three warm up
            row = sample[max(i, 0) : max(i, 0) + 1]
            for number, predictor in different.items():
                start = time.perf_counter()
                predictor.predict_one(row)
                if i >= 0:
                    times[number].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(times[id(model)]), 2) for name, model in models.items()}


def retention(
    teacher: Mapping[str, Evaluation],
    student: Mapping[str, Evaluation],
    score: str,
    source: str,
    reads: list[str] | None,
) -> dict[str, Any]:
    """Student's score / teacher's score per language, their mean, and the worst.

    In a language the teacher does not read, its score is next to chance and would flatter every student. The
    yardstick there is what the teacher reaches in the source language, which it reads in place of the target.

    Args:
        score: the metric; more is better.
        source: the source language.
        reads: the teacher's languages; None for all.
    """
    kept = {}
    for lang, evaluation in student.items():
        yardstick = lang if reads is None or lang in reads else source
        kept[lang] = round(evaluation.scores[score] / max(teacher[yardstick].scores[score], 1e-9), 4)
    worst = min(kept, key=lambda lang: kept[lang])
    return {
        "mean": round(statistics.mean(kept.values()), 4),
        "worst_language": worst,
        "worst": kept[worst],
        "languages": kept,
    }


Aligned = Mapping[int, tuple[str, str, float]]
"""For rows that a teacher reads through aligned source text: number, that text, the answer, its probability."""


def predictions(
    held_out: Mapping[str, Dataset],
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    aligned: Mapping[str, Aligned] | None = None,
) -> Dataset:
    """Every test row with what every model answers to it, and the probability that the model gives this answer.

    A teacher that does not read a language is asked for the aligned source text instead, as in training, where there is
    one: `teacher_text` says what it read. (The results table has its scores on the text itself.)

    Args:
        evaluations: model -> language -> what it answered.
        aligned: of the teacher, per language, see `through_aligned`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "lang", "text", "teacher_text", "truth")}
    for lang, rows in held_out.items():
        each = {name: found[lang] for name, found in evaluations.items()}
        any_of_them = next(iter(each.values()))
        texts, truth = any_of_them.texts, any_of_them.truth
        own: dict[str, list[Any]] = {"id": rows["id"][:], "lang": [lang] * len(rows), "text": texts, "truth": truth}
        for name, evaluation in each.items():
            own |= {name: list(evaluation.predicted), f"{name}_probability": list(evaluation.probabilities)}
        own["teacher_text"] = list(texts) if "teacher" in each else [""] * len(rows)
        for n, (text, answer, probability) in (aligned or {}).get(lang, {}).items():
            own["teacher_text"][n], own["teacher"][n], own["teacher_probability"][n] = text, answer, probability
        for name, values in own.items():
            columns.setdefault(name, []).extend(values)
    return Dataset.from_dict(columns)


def figures(
    models: Mapping[str, AnyPredictor],
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    milliseconds: Mapping[str, float],
) -> dict[str, Any]:
    """Size, speed and scores of models, as files and tables have them."""
    return {
        name: {
            "parameters": model.parameters,
            "bytes": model.bytes,
            "latency_ms": milliseconds[name],
            "languages": {lang: evaluation.scores for lang, evaluation in evaluations[name].items()},
        }
        for name, model in models.items()
    }


def through_aligned(job: Job, teacher: AnyPredictor, rows: Dataset) -> Aligned:
    """What a teacher answers to the aligned source text of rows whose language it does not read."""
    task, reads = job.task, job.source.languages
    if reads is None or rows["lang"][0] in reads or task.backbone == "speech encoder":  # a sound aligns with none
        return {}
    known = ["id", "lang", "split", "text", "text_pair", "group", "block", "spans"]
    readings = Readings(job.rows.texts.select_columns(known), job.pair, bool(task.points_into))
    read = {n: ids[0] for n, row in enumerate(rows.select_columns(known)) if (ids := readings(row, reads))}
    if not read:
        return {}
    texts = with_ids(job.rows.texts, set(read.values()))
    found = teacher.predict(texts, "The teacher on aligned text")
    answers = dict(zip(texts["id"], zip(texts.to_list(), *found, strict=True), strict=True))
    told = {}
    for n, row_id in read.items():
        source, answer, probability, encoded = answers[row_id]
        own = answer.numpy()
        carried = task.project(own, source, rows[n])
        if carried is not own:
            answer = torch.from_numpy(carried)
            (probability,) = task.probabilities([answer], None, {})
        told[n] = title(source), task.decode(answer, rows[n], encoded, teacher.encoder.tokenizer), probability
    return told
