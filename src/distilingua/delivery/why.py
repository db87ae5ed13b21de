"""`distilingua why`: the gap between a student and 100 %, row by row, by the first cause that can be shown for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from datasets import Dataset
from omegaconf import DictConfig
from scipy.special import softmax

from distilingua.artifacts import as_written, write_json
from distilingua.columns import Encoded, codes_of, texts_of, with_columns
from distilingua.console import console, quieten
from distilingua.data.rows import Rows
from distilingua.delivery.model import find, run_of
from distilingua.delivery.runtime import predictor_of
from distilingua.errors import UserError
from distilingua.parts import assemble, read_rows
from distilingua.statistics.bootstrap import group_sums, interval
from distilingua.training.inference import Predictor, vectors_of

CAUSES = {  # in the order in which they are asked for; what can be shown of the data alone comes first
    "other text": "what the teacher read in its place says something else: look at the pairs, corpus.columns.group",
    "never taught": "no training row of this language has its class: add some, or pair.protocol=translate_train",
    "cut": "it is longer than the student reads: task.max_length, task.long",
    "pieces": "its pieces are unknown to the student, or letters: student.vocabulary, or another student",
    "other label": "both models are sure of another class: look at its label",
    "teacher": "the teacher is wrong: a better one, or teacher.fine_tune.epochs, teacher.seeds",
    "student": "the teacher knows better: training.min_steps, a larger student, more text of this language",
}
FAR = 3 * 1.4826  # median absolute deviations: three standard deviations of what is normally distributed
SHOWN = 3  # rows of each cause


def why(cfg: DictConfig, given: str) -> dict[str, Any]:
    """Itemises the gap, per language with 95 % intervals over groups of rows; prints it, and returns what it writes to
    the run's `why.json`. Nothing is trained.

    Args:
        cfg: of the run, see `model.overrides_of`.
        given: its folder.

    Raises:
        UserError: no finished run, or one without a teacher; a task without classes; other rows than it was judged on.
    """
    quieten()
    model, run = find(given), run_of(Path(given).expanduser())
    if run is None or not (run / "predictions.parquet").is_file():
        raise UserError(f"{given}: expected a finished run, with predictions.parquet. Name its folder.")
    parts = assemble(cfg)
    if not parts.task.names_classes or parts.task.distributed is None or parts.task.points_into:
        raise UserError(f"{given}: why looks at one class a text, and task={parts.task.name} has none. Try report.")
    with as_written(run / "predictions.parquet", "Delete the run's metrics.json and resume it, which judges it again."):
        answers = pd.read_parquet(run / "predictions.parquet")
    if "teacher" not in answers:
        raise UserError(f"{given}: this run has no teacher whose knowledge could be lost. Name one that has.")
    rows = read_rows(parts)
    predictor = predictor_of(model, parts.task)
    languages = {}
    for lang, test in rows.test.items():
        own = answers[answers.lang == lang].reset_index(drop=True)
        if texts_of(test, "id") != own.id.tolist():
            raise UserError(
                f"{given}: the corpus has other test rows in {lang!r} than the run was judged on. Restore them."
            )
        languages[lang] = itemised(own, evidence(predictor, own, test, taught(rows, lang)))
    write_json(run / "why.json", languages)
    show(languages)
    return languages


def taught(rows: Rows, lang: str) -> set[str]:
    """True classes of the training rows of a language, those included whose label training may not see."""
    number, langs = codes_of(rows.train, "lang")
    labels = np.array(rows.truth.to_pylist(), dtype=object)
    return set(labels[number == langs.index(lang)]) if lang in langs else set()


def evidence(predictor: Predictor, answers: pd.DataFrame, test: Dataset, classes: set[str]) -> dict[str, np.ndarray]:
    """For each cause, which of the test rows of a language it holds for, wrong or not, (rows,) bool.

    Args:
        answers: of teacher and student, see `training.evaluate.predictions`.
        classes: that were taught in this language.
    """
    task, tokenizer = predictor.encoder.task, predictor.encoder.tokenizer
    encoded = predictor.encoder(test, None)
    answers_again = torch.cat(predictor.answers(encoded, "Reading again").answers).float().numpy()
    own = directions(predictor, encoded)
    aligned = (answers.teacher_text != answers.text) & (answers.teacher_text != "")
    instead = with_columns(test, {"text": pa.array(answers.teacher_text.where(aligned, answers.text).tolist())})
    alike = (own * directions(predictor, predictor.encoder(instead, None))).sum(1)
    pieces = encoded.lists("input_ids")
    unknown = np.array([tokenizer.unk_token_id in ids for ids in pieces])
    letters = pieces.lengths / np.maximum(answers.text.str.len(), 1)
    return {
        "other text": aligned.to_numpy() & under(alike, aligned.to_numpy()),
        "never taught": ~answers.truth.isin(classes).to_numpy(),
        "cut": encoded.numbers("lost") > 0 if "lost" in encoded else pieces.lengths >= task.max_length,
        "pieces": unknown | under(-letters.to_numpy()),
        "other label": mislabelled(softmax(answers_again, axis=1), [task.labels.index(name) for name in answers.truth])
        & (answers.teacher == answers.student).to_numpy(),
        "teacher": (answers.teacher != answers.truth).to_numpy(),
        "student": np.ones(len(answers), dtype=bool),
    }


def directions(predictor: Predictor, encoded: Encoded) -> np.ndarray:
    """Sentence vectors of length 1, (texts, width)."""
    found = vectors_of(predictor, encoded, "Reading again", "mean")
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def under(values: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Which values lie far under the rest, by the median and the deviations from it (Rousseeuw and Croux 1993)."""
    rest = values if among is None else values[among]
    if not len(rest):
        return np.zeros(len(values), dtype=bool)
    middle = np.median(rest)
    return values < middle - FAR * np.median(np.abs(rest - middle)) - 1e-6


def mislabelled(probabilities: np.ndarray, truth: Sequence[int]) -> np.ndarray:
    """Rows whose label is probably another class: a model gives that at least what it gives it on average where it is
    the label (confident learning: Northcutt et al. 2021, arXiv:1911.00068, equation 1).

    Args:
        probabilities: (rows, classes).
        truth: number of each row's label.
    """
    labels = np.asarray(truth)
    least = np.array(
        [probabilities[labels == n, n].mean() if (labels == n).any() else np.inf for n in range(probabilities.shape[1])]
    )
    sure = np.where(probabilities >= least, probabilities, -np.inf)
    return np.isfinite(sure.max(1)) & (sure.argmax(1) != labels)


def itemised(answers: pd.DataFrame, holds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The gap of a language by cause: `rows`, `share` of all test rows, its 95 % `interval`, and some rows of each.
    A row that is wrong counts once, for the first cause that holds; shares add up to the gap."""
    left = (answers.student != answers.truth).to_numpy(copy=True)
    causes = {}
    for cause in CAUSES:
        mask = left & holds[cause]
        left &= ~mask
        tally = np.stack([mask, np.ones(len(mask))], axis=1).astype(float)
        some = answers[mask].nlargest(SHOWN, "student_probability")
        causes[cause] = {
            "rows": int(mask.sum()),
            "share": round(float(mask.mean()), 4),
            "interval": [round(value, 4) for value in interval(group_sums(tally, answers.cluster.tolist()))],
            "examples": some[["id", "text", "teacher_text", "truth", "teacher", "student"]].to_dict("records"),
        }
    right = {name: round(float((answers[name] == answers.truth).mean()), 4) for name in ("teacher", "student")}
    return {**right, "causes": causes}


def show(languages: Mapping[str, Any]) -> None:
    from distilingua.monitoring.tables import for_terminal, percent, text_frame

    for lang, found in languages.items():
        rows = [
            {
                "cause": cause,
                "what to look at": CAUSES[cause],
                "rows": one["rows"],
                "points": percent(one["share"]),
                "95 %": "–".join(percent(end) for end in one["interval"]),
            }
            for cause, one in found["causes"].items()
            if one["rows"]
        ]
        gap = f"{100 * (1 - found['student']):.1f} points to 100 %"
        title = f"{lang}: student {percent(found['student'])}, teacher {percent(found['teacher'])}; {gap}"
        console.print_whole(for_terminal(text_frame(title, rows), words=2))
        for cause, one in found["causes"].items():
            for row in one["examples"]:
                told = f" (read as {row['teacher_text']!r})" if row["teacher_text"] not in ("", row["text"]) else ""
                answered = f"{row['truth']}, not {row['student']}; teacher {row['teacher']}"
                console.print(f"  {cause}: {row['text']!r}{told}: {answered}", soft_wrap=True)
