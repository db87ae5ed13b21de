"""How far a model's scores can be trusted, and the model itself: per language, from its answers to the test rows."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from distilingua.artifacts import stable_hash
from distilingua.columns import strings, texts_of, with_columns
from distilingua.corpora.words import WORD
from distilingua.data.augmentation import CharacterNoise
from distilingua.statistics.bootstrap import Tally, difference, group_sums, holm, interval
from distilingua.statistics.calibration import calibration_error, coverage, fit_temperature
from distilingua.tasks.task import Evaluation, Task

FEWEST = 5  # rows of a class from which on its recall is one
TYPOS = 0.05  # of the letters of longer words
PRECISION = 0.95
SAMPLE = 150  # rows of a language that are disturbed where every answer takes a search
MINUS = " - "


# --- groups -----------------------------------------------------------------------------------------------------------


def groups_of(task: Task, rows: Dataset) -> list[str]:
    """Which rows are not independent of one another: what the corpus says, such as the template or the speaker; else
    the context that questions are asked about; else every row for itself."""
    otherwise = texts_of(rows, "text_pair") if list(task.points_into) == ["text_pair"] else texts_of(rows, "id")
    return [cluster or own for cluster, own in zip(texts_of(rows, "cluster"), otherwise, strict=True)]


# --- what is reported -------------------------------------------------------------------------------------------------


def reliability(
    task: Task,
    rows: Dataset,
    evaluation: Evaluation,
    tally: Tally,
    groups: Sequence[str],
) -> dict[str, Any]:
    """Of a model in one language; shares, all of them, but the number of groups.

    Args:
        evaluation: what the model answered.
        tally: what its score is made of.
        groups: of the rows, see `groups_of`.
    """
    sums, right, sure = group_sums(tally.counts, groups), tally.right.tolist(), evaluation.probabilities
    figures: dict[str, Any] = {
        "interval": [round(end, 4) for end in interval(sums, tally.score)],
        "groups": len(sums),
        "worst_class": worst_class(task, evaluation.predicted, rows),
    }
    if not task.mean_probability:
        figures["calibration_error"] = round(calibration_error(sure, right), 4)
    return {**figures, "coverage_95": round(coverage(sure, right, PRECISION), 4)}


def worst_class(task: Task, predicted: Sequence[str], rows: Dataset) -> dict[str, Any] | None:
    """The class of which most rows are missed, among those with five or more; None where rows have not one class."""
    if task.problem_type != "single_label_classification":
        return None
    truth = pd.Series(texts_of(rows, "label"))
    classes = (pd.Series(predicted) == truth).groupby(truth, sort=False).agg(["mean", "size"])
    classes = classes[classes["size"] >= FEWEST]
    if classes.empty:
        return None
    worst = classes["mean"].idxmin()
    recall, number = classes.loc[worst]
    return {"name": worst, "recall": round(float(recall), 4), "rows": int(number)}


def temperature_of(task: Task, rows: Dataset, outputs: Any) -> float | None:
    """What calibrates a model, fitted on these rows; None for tasks whose answers are no choice among named classes.

    Args:
        outputs: what the model answered to them, see `training.inference.Predictions`.
    """
    if not (task.labels and task.names_classes):
        return None
    labels = torch.from_numpy(task.targets(rows, outputs.encoded).values)
    logits = torch.cat(list(outputs.answers))
    seen = ~logits.isnan().any(-1)
    return round(fit_temperature(logits[seen], labels[seen]), 4)


def differences(
    tallies: Mapping[str, Mapping[str, Tally]], groups: Mapping[str, Sequence[str]], pairs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """For each pair of models, `one - other` -> language -> the paired difference, with p corrected over languages.

    Args:
        tallies: model -> language -> tally.
        groups: language -> group of each row.
    """
    compared: dict[str, dict[str, Any]] = {}
    for one, other in pairs:
        gaps = {}
        for lang, tally in tallies[one].items():
            ours, theirs = (group_sums(tallies[name][lang].counts, groups[lang]) for name in (one, other))
            gaps[lang] = difference(ours, theirs, tally.score)
        corrected = holm({lang: gap.p for lang, gap in gaps.items()})
        compared[f"{one}{MINUS}{other}"] = {
            lang: {
                name: None if value is None else round(value, 4)
                for name, value in {**gap._asdict(), "p_holm": corrected[lang]}.items()
            }
            for lang, gap in gaps.items()
        }
    return compared


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
    rngs = [Random(stable_hash("disturbed", row_id)) for row_id in texts_of(rows, "id")]
    for name in _texts(task):

        def changed(text: str, rng: Random, by_word: bool = name in task.points_into) -> str:
            if by_word:
                return WORD.sub(lambda word: "".join(change(word[0], rng).split()), text)
            return change(text, rng) if text else ""

        texts = [changed(*each) for each in zip(texts_of(rows, name), rngs, strict=True)]
        rows = with_columns(rows, {name: strings(texts)})
    return rows


def sampled(task: Task, rows: Dataset) -> list[int] | None:
    """Numbers of the rows that are disturbed, drawn by their ids; None for all. A search over three copies of all rows
    would take as long as judging the student three times more."""
    if not task.searches:
        return None
    lots = [stable_hash("sampled", row_id) for row_id in texts_of(rows, "id")]
    return np.sort(np.argsort(lots, kind="stable")[:SAMPLE]).tolist()


def _texts(task: Task) -> list[str]:
    """Columns that may be changed without moving what labels point at."""
    fixed = [name for name, by in task.points_into.items() if by != "word"]
    return [name for name in ("text", "text_pair") if name in task.reads and name not in fixed]


def _unpunctuated(character: str) -> str:
    return " " if unicodedata.category(character).startswith("P") else character
