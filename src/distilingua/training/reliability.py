"""How far a model's scores can be trusted, and the model itself: per language, from its answers to the test rows."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from distilingua.artifacts import stable_hash
from distilingua.corpora.words import WORD, entities
from distilingua.data.augmentation import CharacterNoise
from distilingua.statistics.bootstrap import (
    Score,
    bleu,
    difference,
    group_sums,
    holm,
    interval,
    macro_f1,
    ratio,
    word_accuracy,
)
from distilingua.statistics.calibration import calibration_error, coverage, fit_temperature
from distilingua.tasks.multi_label import MultiLabel, names_of
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.speech import SpeechRecognition
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from distilingua.tasks.translation import Translation

FEWEST = 5  # rows of a class from which on its recall is one
TYPOS = 0.05  # of the letters of longer words
PRECISION = 0.95
SAMPLE = 150  # rows of a language that are disturbed where every answer takes a search
MINUS = " - "


# --- what the main score of a task is made of -------------------------------------------------------------------------


class Tally(NamedTuple):
    """
    Args:
        counts: (rows, counts), whose sums give the score of any rows.
        score: gives it.
        right: which rows are answered exactly, (rows,) bool.
    """

    counts: np.ndarray
    score: Score
    right: np.ndarray


@singledispatch
def tally(task: Task, told: Sequence[str], rows: Dataset) -> Tally | None:
    """The main score of a task, row by row; None for a task that is not known here, whose scores have no intervals.

    Args:
        told: the answers, see `Task.decode`.
        rows: with their labels.
    """
    return None


@tally.register
def _(task: TextClassification, told: Sequence[str], rows: Dataset) -> Tally:
    right = np.array([a == b for a, b in zip(told, rows["label"][:], strict=True)], dtype=bool)
    return Tally(np.stack([right, np.ones(len(right))], axis=1), ratio, right)


@tally.register
def _(task: MultiLabel, told: Sequence[str], rows: Dataset) -> Tally:
    """F1 of every class is of its right, its wrongly given and its missed rows; their mean is the score."""
    number = {name: n for n, name in enumerate(task.labels)}
    marks = np.zeros((2, len(told), len(number)))
    for n, pair in enumerate(zip(told, rows["label"][:], strict=True)):
        for which, label in enumerate(pair):
            marks[which, n, [number[name] for name in names_of(label)]] = 1
    said, true = marks
    counts = np.concatenate([2 * said * true, said + true], axis=1)
    return Tally(counts, macro_f1, (said == true).all(1))


@tally.register
def _(task: TokenClassification, told: Sequence[str], rows: Dataset) -> Tally:
    counts = []
    for guess, truth in zip(told, rows["label"][:], strict=True):
        found, there = set(entities(guess.split())), set(entities(truth.split()))
        counts.append([2 * len(found & there), len(found) + len(there)])
    return Tally(np.array(counts, dtype=float), ratio, np.array([a == b for a, b in counts], dtype=bool))


@tally.register
def _(task: QuestionAnswering, told: Sequence[str], rows: Dataset) -> Tally:
    from distilingua.tasks.answers import token_f1

    scores = []
    for said, label, lang in zip(told, rows["label"][:], rows["lang"][:], strict=True):
        scores.append(max(token_f1(said, truth, lang) for truth in [a["text"] for a in json.loads(label)] or [""]))
    counts = np.stack([np.array(scores), np.ones(len(scores))], axis=1)
    return Tally(counts, ratio, counts[:, 0] == 1)


@tally.register
def _(task: SpeechRecognition, told: Sequence[str], rows: Dataset) -> Tally:
    from distilingua.extras import speech_package
    from distilingua.tasks.transcripts import normal

    counts = []
    for heard, label in zip(told, rows["label"][:], strict=True):
        found = speech_package("jiwer").process_words(normal(label), heard)
        wrong = found.substitutions + found.deletions + found.insertions
        words = found.substitutions + found.deletions + found.hits
        counts.append([words - wrong, words])
    array = np.array(counts, dtype=float)
    return Tally(array, word_accuracy, array[:, 0] == array[:, 1])


@tally.register
def _(task: Translation, told: Sequence[str], rows: Dataset) -> Tally:
    from sacrebleu.metrics import BLEU

    scorer = BLEU(tokenize=task.tokenize, effective_order=False)
    counts = []
    for said, label in zip(told, rows["label"][:], strict=True):
        found = scorer.corpus_score([said], [[label]])  # `sentence_score` warns that smoothing is off
        counts.append([*found.counts, *found.totals, found.sys_len, found.ref_len])

    right = np.array([a == b for a, b in zip(told, rows["label"][:], strict=True)], dtype=bool)
    return Tally(np.array(counts, dtype=float), bleu, right)


# --- groups -----------------------------------------------------------------------------------------------------------


def groups_of(task: Task, rows: Dataset) -> list[str]:
    """Which rows are not independent of one another: what the corpus says, such as the template or the speaker; else
    the context that questions are asked about; else every row for itself."""
    alone = rows["text_pair"][:] if list(task.points_into) == ["text_pair"] else rows["id"][:]
    return [cluster or own for cluster, own in zip(rows["cluster"][:], alone, strict=True)]


# --- what is reported -------------------------------------------------------------------------------------------------


def reliability(
    task: Task, rows: Dataset, evaluation: Any, found: Tally, groups: Sequence[str], temperature: float | None = None
) -> dict[str, Any]:
    """Of a model in one language; shares, all of them, but the number of groups.

    Args:
        evaluation: with what the model answered, see `training.evaluate.Judged`.
        found: the same, see `tally`.
        groups: of the rows, see `groups_of`.
        temperature: fitted on the source's dev split; None where there is none.
    """
    sums = group_sums(found.counts, groups)
    told: dict[str, Any] = {"interval": [round(end, 4) for end in interval(sums, found.score)], "groups": len(sums)}
    told["worst_class"] = worst_class(task, evaluation.predicted, rows)
    sure = evaluation.probabilities
    if task.backbone == "encoder":  # what is written or heard piece by piece has a mean, which is no probability of it
        told["calibration_error"] = round(calibration_error(sure, found.right.tolist()), 4)
    if temperature is not None:
        scaled = [answer / temperature for answer in evaluation.found.answers]
        sure = task.probabilities(scaled, None, {})
        told["calibration_error_scaled"] = round(calibration_error(sure, found.right.tolist()), 4)
    told["coverage_95"] = round(coverage(sure, found.right.tolist(), PRECISION), 4)
    return told


def worst_class(task: Task, told: Sequence[str], rows: Dataset) -> dict[str, Any] | None:
    """The class of which most rows are missed, among those with five or more; None where rows have not one class."""
    if not isinstance(task, TextClassification) or isinstance(task, MultiLabel):
        return None
    hits: dict[str, list[bool]] = defaultdict(list)
    for guess, truth in zip(told, rows["label"][:], strict=True):
        hits[truth].append(guess == truth)
    recall = {name: sum(found) / len(found) for name, found in hits.items() if len(found) >= FEWEST}
    if not recall:
        return None
    name = min(sorted(recall), key=lambda name: recall[name])
    return {"name": name, "recall": round(recall[name], 4), "rows": len(hits[name])}


def chooses(task: Task) -> bool:
    """Whether answers are a choice among named classes, which a temperature can calibrate."""
    return isinstance(task, TextClassification | TokenClassification)


def temperature_of(task: Task, rows: Dataset, found: Any) -> float | None:
    """Fitted on these rows; None for tasks whose answers are no choice among named classes.

    Args:
        found: what the model answered to them, see `training.inference.Predictions`.
    """
    if not chooses(task):
        return None
    labels = torch.from_numpy(task.targets(rows, found.encoded).values)
    cells = torch.cat(list(found.answers))
    seen = ~cells.isnan().any(-1)
    return round(fit_temperature(cells[seen], labels[seen]), 4)


def differences(
    tallies: Mapping[str, Mapping[str, Tally]], groups: Mapping[str, Sequence[str]], pairs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """For each pair of models, `one - other` -> language -> the paired difference, with p corrected over languages.

    Args:
        tallies: model -> language -> tally.
        groups: language -> group of each row.
    """
    told: dict[str, dict[str, Any]] = {}
    for one, other in pairs:
        sums = {
            name: {lang: group_sums(found.counts, groups[lang]) for lang, found in tallies[name].items()}
            for name in (one, other)
        }
        each = {
            lang: difference(sums[one][lang], sums[other][lang], found.score) for lang, found in tallies[one].items()
        }
        corrected = holm({lang: gap.p for lang, gap in each.items()})
        told[f"{one}{MINUS}{other}"] = {
            lang: {
                name: None if value is None else round(value, 4)
                for name, value in {**gap._asdict(), "p_holm": corrected[lang]}.items()
            }
            for lang, gap in each.items()
        }
    return told


# --- other people's typing --------------------------------------------------------------------------------------------


def disturbances(task: Task) -> dict[str, Callable[[str, Random], str]]:
    """How texts are changed without changing what they mean; nothing where no text is read."""
    if not _texts(task):
        return {}
    noise = CharacterNoise(TYPOS, probability=1.0)
    return {
        "typos": lambda text, rng: noise.text(text, "", rng),
        "upper_case": lambda text, rng: text.upper(),
        "no_punctuation": lambda text, rng: " ".join("".join(map(_unpunctuated, text)).split()) or text,
    }


def disturbed(task: Task, rows: Dataset, change: Callable[[str, Random], str]) -> Dataset:
    """A copy of the rows; each is changed by its own id, whatever else is in the set. Where labels point at words,
    every word is changed by itself and stays one; where they point at characters, the text stays as it is."""
    names = _texts(task)

    def changed(row: dict[str, Any]) -> dict[str, str]:
        rng = Random(stable_hash("disturbed", row["id"]))

        def word(found: re.Match[str]) -> str:
            return "".join(change(found[0], rng).split())

        def text(name: str) -> str:
            if name in task.points_into:
                return WORD.sub(word, row[name])
            return change(row[name], rng) if row[name] else ""

        return {name: text(name) for name in names}

    return Dataset.from_list([{**row, **changed(row)} for row in rows.to_list()], features=rows.features)


def sampled(task: Task, rows: Dataset) -> list[int] | None:
    """Numbers of the rows that are disturbed, drawn by their ids; None for all. A search over three copies of all rows
    would take as long as judging the student three times more."""
    if task.backbone != "encoder-decoder":
        return None
    lots = [stable_hash("sampled", row_id) for row_id in rows["id"][:]]
    return sorted(sorted(range(len(lots)), key=lambda n: lots[n])[:SAMPLE])


def _texts(task: Task) -> list[str]:
    """Columns that may be changed without moving what labels point at."""
    fixed = [name for name, by in task.points_into.items() if by != "word"]
    return [name for name in ("text", "text_pair") if name in task.reads and name not in fixed]


def _unpunctuated(character: str) -> str:
    return " " if unicodedata.category(character).startswith("P") else character
