"""Judges models: scores per language, speed, and every single prediction."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from distilingua.columns import numbers_of, texts_of
from distilingua.corpora.schema import each_row
from distilingua.data.pairing import Meanings, Readings
from distilingua.statistics.bootstrap import Tally, group_sums, interval
from distilingua.tasks.task import Evaluation
from distilingua.training.inference import AnyPredictor, Predictions, Predictor
from distilingua.training.job import Job
from distilingua.training.reliability import (
    differences,
    disturbances,
    disturbed,
    groups_of,
    reliability,
    sampled,
    temperature_of,
)

TURNS, SECONDS = 5, 10.0  # of every model on a sentence; the time after which no turn is repeated


def evaluate(predictor: AnyPredictor, held_out: Mapping[str, Dataset], name: str) -> dict[str, Evaluation]:
    """Scores and predictions per language.

    Args:
        name: of the model, for the progress bar.
    """
    return {
        lang: evaluated(predictor, rows, predictor.predict(rows, f"Judging {name} on {lang}"))
        for lang, rows in held_out.items()
    }


def evaluated(predictor: AnyPredictor, rows: Dataset, found: Predictions) -> Evaluation:
    """What a model's answers to rows are worth."""
    task = predictor.encoder.task
    scores, predicted = task.evaluate(found.answers, rows, found.encoded, predictor.encoder.tokenizer)
    return Evaluation(
        {metric: round(value, 4) for metric, value in scores.items()},
        [title(row) for row in each_row(rows, ["text", "text_pair"])],
        [task.show(label) for label in texts_of(rows, "label")],
        predicted,
        found.probabilities,
        found,
    )


def title(row: Mapping[str, str]) -> str:
    """A row as tables show it."""
    return " / ".join(filter(None, (row["text"], row["text_pair"])))


def calibrate(predictor: Predictor, dev: Dataset, name: str) -> None:
    """Divides a model's last layer by the temperature that calibrates it on the source's dev split (Guo et al. 2017,
    section 4.2): its decisions stay as they are, and whoever opens it gets probabilities that are about as often right
    as they say. Its configuration keeps the temperature as `calibrated`. A model that chooses no class stays as it is.

    Args:
        name: of the model, for the progress bar.
    """
    task, model = predictor.encoder.task, predictor.model
    classes = len(task.labels) if task.names_classes else 0
    heads = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features == classes]
    temperature = temperature_of(task, dev, predictor.predict(dev, f"Calibrating {name}")) if heads else None
    if temperature is not None:
        with torch.no_grad():
            for weight in heads[-1].parameters():
                weight.div_(temperature)
        model.config.calibrated = temperature


def latency(models: Mapping[str, AnyPredictor], rows: Dataset, sentences: int = 40) -> dict[str, dict[str, Any]]:
    """Milliseconds per sentence, one sentence at a time, tokenising included, of models beside each other.

    What else the machine does only adds time, so the quickest turn counts (Chen and Revels 2016). The models' order is
    drawn each time: who always came after a large one would find cold caches and a time slice used up. Models are
    compared with the quickest one, which is disturbed least, on the same sentence: `latency_ratio` has the quartiles.
    """
    different = list(
        {id(model): model for model in models.values()}.values()
    )  # one that goes by two names has one time
    sample = [rows[n : n + 1] for n in range(min(sentences, len(rows)))]
    times = np.full((len(different), len(sample)), np.inf)
    rng, begun = Random(0), time.perf_counter()
    with torch.inference_mode():
        for turn, (i, row) in product(range(TURNS), enumerate(sample)):
            if turn and time.perf_counter() - begun > SECONDS:
                break
            for n in rng.sample(range(len(different)), len(different)):
                start = time.perf_counter()
                different[n].predict_one(row)
                times[n, i] = min(times[n, i], 1000 * (time.perf_counter() - start))
    medians = np.median(times, axis=1)
    quartiles = np.quantile(times / times[medians.argmin()], [0.25, 0.5, 0.75], axis=1).T.round(4).tolist()
    ratios, base = dict(zip(map(id, different), quartiles, strict=True)), float(medians.min())
    return {
        name: {"latency_ms": round(base * ratios[id(model)][1], 2), "latency_ratio": ratios[id(model)]}
        for name, model in models.items()
    }


def retention(
    teacher: Mapping[str, Evaluation],
    student: Mapping[str, Evaluation],
    score: str,
    source: str,
    reads: list[str] | None,
) -> dict[str, Any]:
    """Student's score / teacher's score per language; mean and worst are over the targets, or the source alone.

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
    targets = [lang for lang in kept if lang != source] or list(kept)
    worst = min(targets, key=lambda lang: kept[lang])
    return {
        "mean": round(statistics.mean(kept[lang] for lang in targets), 4),
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
    trusted: Reliability | None = None,
) -> Dataset:
    """Every test row with what every model answers to it, and the probability that the model gives this answer.

    A teacher that does not read a language is asked for the aligned source text instead, as in training, where there is
    one: `teacher_text` says what it read. (The results table has its scores on the text itself.)

    Args:
        evaluations: model -> language -> what it answered.
        aligned: of the teacher, per language, see `through_aligned`.
        trusted: adds `cluster`, the group of rows that a row stands and falls with, and per model what its main score
            is made of (`student_counts`), see `statistics.bootstrap.score_of`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "lang", "text", "teacher_text", "truth")}
    for lang, rows in held_out.items():
        each = {name: found[lang] for name, found in evaluations.items()}
        any_of_them = next(iter(each.values()))
        texts, truth = any_of_them.texts, any_of_them.truth
        own: dict[str, list[Any]] = {
            "id": texts_of(rows, "id"),
            "lang": [lang] * len(rows),
            "text": texts,
            "truth": truth,
        }
        for name, evaluation in each.items():
            own |= {name: list(evaluation.predicted), f"{name}_probability": list(evaluation.probabilities)}
        if trusted is not None:
            own["cluster"] = trusted.groups[lang]
            made = {name: trusted.tallies[name].get(lang) for name in each}
            own |= {f"{n}_counts": one.counts.tolist() for n, one in made.items() if one}
        own["teacher_text"] = list(texts) if "teacher" in each else [""] * len(rows)
        for n, (text, answer, probability) in (aligned or {}).get(lang, {}).items():
            own["teacher_text"][n], own["teacher"][n], own["teacher_probability"][n] = text, answer, probability
        for name, values in own.items():
            columns.setdefault(name, []).extend(values)
    return Dataset.from_dict(columns)


@dataclass
class Reliability:
    """How far to trust models, and what they say of one another.

    Args:
        models: model -> language -> see `reliability.reliability`.
        differences: `one - other` -> language -> see `reliability.differences`.
        groups: language -> which group each test row is of.
        tallies: model -> language -> what the main score is made of.
    """

    models: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Any]]
    groups: dict[str, list[str]]
    tallies: dict[str, dict[str, Tally]]


def trust(
    models: Mapping[str, AnyPredictor],
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    held_out: Mapping[str, Dataset],
    disturb: Collection[str],
    pairs: Sequence[tuple[str, str]],
) -> Reliability:
    """How far models can be trusted, from what they answered.

    Args:
        disturb: models that read copies of the test rows with typing errors, in upper case, without punctuation.
        pairs: models that are compared.
    """
    tasks = {name: model.encoder.task for name, model in models.items()}
    groups = {lang: groups_of(next(iter(tasks.values())), rows) for lang, rows in held_out.items()}
    found: dict[str, dict[str, Any]] = {}
    tallies: dict[str, dict[str, Tally]] = {}
    for name, each in evaluations.items():
        task = tasks[name]
        made = {lang: task.tally(one.predicted, held_out[lang]) for lang, one in each.items()}
        tallies[name] = {lang: one for lang, one in made.items() if one is not None}
        found[name] = {
            lang: reliability(task, held_out[lang], each[lang], one, groups[lang])
            for lang, one in tallies[name].items()
        }
        for lang, one in each.items() if name in disturb else ():
            found[name].setdefault(lang, {}).update(under_disturbance(models[name], held_out[lang], one, name))
    known = [pair for pair in pairs if all(len(tallies.get(name, {})) == len(held_out) for name in pair)]
    return Reliability(found, differences(tallies, groups, known), groups, tallies)


def under_disturbance(predictor: AnyPredictor, rows: Dataset, judged: Evaluation, name: str) -> dict[str, float]:
    """A model's main score on every disturbed copy of rows, see `reliability.disturbances`. Of a sample of them, what
    the score loses there is taken off that of all rows (the difference estimator: Särndal et al. 1992, section 6.3).

    Args:
        judged: what it answered to the rows as they are.
        name: of the model, for the progress bar.
    """
    task, lang = predictor.encoder.task, rows["lang"][0]
    score, chosen, lost = next(iter(task.shown)), sampled(task, rows), 0.0
    if chosen is not None:
        rows = rows.select(chosen)
        answers, sure, encoded = judged.outputs
        own = Predictions([answers[n] for n in chosen], [sure[n] for n in chosen], encoded[chosen])
        lost = judged.scores[score] - evaluated(predictor, rows, own).scores[score]
    found = {}
    for kind, change in disturbances(task).items():
        copy = {lang: disturbed(task, rows, change)}
        scores = evaluate(predictor, copy, f"{name} under {kind}")[lang].scores
        found[kind] = round(max(scores[score] + lost, 0.0), 4)
    return found


def figures(
    models: Mapping[str, AnyPredictor],
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    speed: Mapping[str, Mapping[str, Any]],
    trusted: Reliability,
) -> dict[str, Any]:
    """Size, speed (see `latency`), scores and how sure these are, as files and tables have them."""
    return {
        name: {
            "parameters": model.parameters,
            "bytes": model.bytes,
            **speed[name],
            "languages": {lang: evaluation.scores for lang, evaluation in evaluations[name].items()},
            "reliability": trusted.models[name],
        }
        for name, model in models.items()
    }


def yardsticks(
    job: Job,
    student: AnyPredictor,
    judged: Mapping[str, Evaluation],
    aligned: Mapping[str, Aligned],
    trusted: Reliability,
) -> dict[str, Any]:
    """What scores are read against where a text has one class, as `figures` has models: the teacher on aligned text,
    the ceiling of what can be taught; and the commonest of the source's visible labels, whatever the text, the floor.
    Beside `languages` and `reliability` each has `rows`: [how many have such an answer, of how many].
    """
    if job.task.problem_type != "single_label_classification":
        return {}
    labels = zip(texts_of(job.rows.train, "lang"), texts_of(job.rows.train, "label"), strict=True)
    visible = Counter(sorted(label for lang, label in labels if label and lang == job.pair.source))
    ((commonest, _),) = visible.most_common(1)  # of equally many, the first by name
    found: dict[str, Any] = {}
    for lang, rows in job.rows.test.items():
        read = {n: answer for n, (_, answer, _) in aligned.get(lang, {}).items()}
        always = {"majority class": dict.fromkeys(range(len(rows)), commonest)}
        for name, answers in (always | ({"teacher, aligned text": read} if read else {})).items():
            chosen, classes = list(answers), [job.task.labels.index(label) for label in answers.values()]
            cells = torch.eye(len(job.task.labels))[classes].split(1)
            own = Predictions([*cells], [1.0] * len(cells), judged[lang].outputs.encoded[chosen])
            scored = evaluated(student, rows.select(chosen), own)
            tally = job.task.tally(scored.predicted, rows.select(chosen))
            line = found.setdefault(name, {"languages": {}, "reliability": {}, "rows": {}})
            line["languages"][lang], line["rows"][lang] = scored.scores, [len(chosen), len(rows)]
            if tally is not None:  # a task of others may not say what its score is made of
                ends = interval(group_sums(tally.counts, [trusted.groups[lang][n] for n in chosen]), tally.score)
                line["reliability"][lang] = {"interval": [round(end, 4) for end in ends]}
    return found


def through_aligned(job: Job, teacher: AnyPredictor, rows: Dataset) -> Aligned:
    """What a teacher answers to the aligned source text of rows whose language it does not read."""
    task, reads = job.task, job.source.languages
    if reads is None or rows["lang"][0] in reads or "audio" in task.reads:  # a sound aligns with none
        return {}
    known = Meanings(job.rows.texts, job.pair, bool(task.points_into))
    asked = known.places(numbers_of(rows))
    read = Readings(known, ~known.of_split("train"))(asked, reads)
    answered = np.flatnonzero(read.lengths > 0)
    if not len(answered):
        return {}
    numbers = np.unique(read.values)
    texts = job.rows.numbered(numbers)
    found = teacher.predict(texts, "The teacher on aligned text")
    aligned = {}
    for n in answered.tolist():
        place = int(np.searchsorted(numbers, read[n][0]))
        source, answer, probability = texts[place], found.answers[place], found.probabilities[place]
        own = answer.numpy()
        projected = task.project(own, source, rows[n])
        if projected is not own:
            answer = torch.from_numpy(projected)
            (probability,) = task.probabilities([answer], None, {})
        decoded = task.decode(answer, rows[n], found.encoded[place], teacher.encoder.tokenizer)
        aligned[n] = title(source), decoded, probability
    return aligned
