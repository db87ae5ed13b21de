"""Every artefact judged by itself: what it answers, what changed, how large and how fast it is."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.table import Table

from distilingua.console import plain_table
from distilingua.monitoring.tables import spread
from distilingua.tasks.task import Evaluation as Judged
from distilingua.training.inference import AnyPredictor

BATCH = 32
WARM = 2  # calls in every turn before the clock counts
TURN = 10  # sentences, or batches, that a model reads before the next one does
ROUNDS = 20  # batches that are timed
SECONDS = 30.0  # for the sentences of all models together, and for their batches

Loader = Callable[[int], AnyPredictor]
"""Gives a model that computes with so many threads."""


def parity(own: Mapping[str, Judged], reference: Mapping[str, Judged]) -> float | None:
    """The largest difference between a logit and the reference's; None where answers are no logits.

    Args:
        own, reference: language -> what was answered to the same rows.
    """
    pairs = [
        (a, b)
        for lang in own
        for a, b in zip(own[lang].outputs.answers, reference[lang].outputs.answers, strict=True)
        if a.is_floating_point()
    ]
    return max((float((a - b).nan_to_num().abs().max()) for a, b in pairs if a.numel()), default=None)


def changed(own: Mapping[str, Judged], reference: Mapping[str, Judged]) -> float:
    """Share of rows that are answered otherwise than by the reference, see `parity`."""
    pairs = [pair for lang in own for pair in zip(own[lang].predicted, reference[lang].predicted, strict=True)]
    return sum(a != b for a, b in pairs) / len(pairs)


@dataclass
class Speed:
    """
    Args:
        median, p95: milliseconds for one sentence, everything included.
        per_second: sentences, in batches of 32.
    """

    median: float
    p95: float
    per_second: float


def clock(loaders: Mapping[str, Loader], rows: Dataset, sentences: int, threads: int) -> dict[str, Speed]:
    """How fast models are side by side, see `turns`.

    Args:
        rows: sentences of one language.
        sentences: how many of them are timed one by one.
        threads: that a model may use.
    """
    with limited(threads), torch.inference_mode():
        models = {name: load(threads) for name, load in loaders.items()}
        sample = rows.select(range(min(sentences, len(rows))))
        singles = turns(models, [sample[n : n + 1] for n in range(len(sample))])
        size = min(BATCH, len(rows))
        starts = [n * size % (len(rows) - size + 1) for n in range(ROUNDS)]
        batches = turns(models, [rows[n : n + size] for n in starts])
    return {
        name: Speed(
            round(1000 * statistics.median(singles[name]), 3),
            round(1000 * float(np.percentile(singles[name], 95)), 3),
            round(size / statistics.median(batches[name]), 1),
        )
        for name in models
    }


def turns(
    models: Mapping[str, AnyPredictor], parts: Sequence[Mapping[str, Any]], most: float = SECONDS
) -> dict[str, list[float]]:
    """Seconds that each model takes for each part, tokenising included.

    They take turns every few parts, so that whatever else the machine is doing hits them alike, and warm up in each
    turn, so that each finds its own weights in the caches, as where it works alone.

    Args:
        most: seconds after which the clock stops, whatever is left; two turns are always taken.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    began = time.perf_counter()
    for first in range(0, len(parts), TURN):
        if first > TURN and time.perf_counter() - began > most:
            break
        turn = parts[first : first + TURN]
        for name, model in models.items():
            for n in range(-WARM, len(turn)):
                start = time.perf_counter()
                model.predict_one(turn[max(n, 0)])
                if n >= 0:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Torch with so many threads; ONNX Runtime is told when a file is opened."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def all_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def artefacts_table(found: Mapping[str, Any]) -> Table:
    """A line a model: its score per language, what changed against the student, bytes and speed.

    Args:
        found: what `export` writes to export.json.
    """
    score, heading = next(iter(found["shown"].items()))
    languages = list(next(iter(found["models"].values()))["languages"])
    threads = list(next(iter(found["models"].values()))["speed"])
    clocks = [f"{head}\n×{n}" for n in threads for head in ("ms", "p95", "per s")]
    scores = [head for lang in languages for head in (f"{heading}\n{lang}", "95 %\n")]
    title = f"{found['task']}, {found['pair']}, {found['machine']}, ×threads; ms of one, per s in batches of {BATCH}"
    table = plain_table(title, ("model",), (*scores, "Δ\nlogit", "changed\n%", "MB\n", *clocks))
    for name, model in found["models"].items():
        speeds = [model["speed"][n] for n in threads]
        table.add_row(
            name,
            *(
                cell
                for lang in languages
                for cell in (f"{100 * model['languages'][lang][score]:.1f}", spread(model, lang))
            ),
            "" if model["parity"] is None else f"{model['parity']:.1g}",
            "" if model["changed"] is None else f"{100 * model['changed']:.2f}",
            f"{model['bytes'] / 1e6:.1f}",
            *(
                cell
                for speed in speeds
                for cell in (f"{speed['median']:.2f}", f"{speed['p95']:.2f}", f"{speed['per_second']:.0f}")
            ),
        )
    return table
