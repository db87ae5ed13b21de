"""How sure a score is: intervals, paired differences and their p-values, over groups of rows that are not independent.

Everything works on *tallies*: per row the counts that a score is made of, such that the score of any rows is a function
of the sum of theirs (accuracy: right and 1; F1 of stretches: twice the right ones, and the predicted and true ones).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

DRAWS = 2000
KEPT = 32  # models and languages whose draws are remembered
LEVEL = 0.95
SIGNIFICANT = 0.05  # p below which a difference is told
POWER = 0.8
EQUAL = 1e-9  # draws no further apart are the same figure

Score = Callable[[np.ndarray], np.ndarray]
"""Sums of tallies, (…, counts) -> scores, (…,)."""


class Tally(NamedTuple):
    """What a score is made of.

    Args:
        counts: (rows, counts), whose sums give the score of any rows.
        score: gives it.
        right: which rows are answered exactly, (rows,) bool.
    """

    counts: np.ndarray
    score: Score
    right: np.ndarray


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first count over the second; 0 where that is none."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-12)


def word_accuracy(sums: np.ndarray) -> np.ndarray:
    """The same, of words: there may be more wrong ones than there are words."""
    return np.maximum(ratio(sums), 0)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Mean F1 of classes, from twice the right answers of each, then its predicted and true ones together."""
    twice, all_of_them = np.split(sums, 2, axis=-1)
    return (twice / np.maximum(all_of_them, 1e-12)).mean(-1)


def bleu(sums: np.ndarray) -> np.ndarray:
    """From n-grams that match, those that could, n from 1 to 4 each, and the lengths of what was written and of its
    references (Papineni et al. 2002), as sacrebleu has it."""
    from sacrebleu.metrics import BLEU

    flat = sums.reshape(-1, sums.shape[-1])
    scores = [BLEU.compute_bleu(list(s[:4]), list(s[4:8]), int(s[8]), int(s[9])).score / 100 for s in flat]
    return np.array(scores).reshape(sums.shape[:-1])


def score_of(metric: str, counts: int) -> Score:
    """How such a metric is made of so many counts."""
    if counts == 2:
        return word_accuracy if metric == "wacc" else ratio
    return bleu if metric == "bleu" else macro_f1


def group_sums(tally: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Tallies of groups, (groups, counts), of those of rows, (rows, counts)."""
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((number.max() + 1, tally.shape[1]))
    np.add.at(sums, number, tally)
    return sums


def resampled(sums: np.ndarray, score: Score = ratio, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Scores of as many groups drawn with replacement, (draws,); of several seeds, each draw also draws seeds.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8; Field and Welsh 2007): whole groups are drawn, as
    their rows are not independent. With seeds there are two levels, groups and then seeds, since another training run
    is chance as well as another test set; a draw's score is the mean over its seeds (Bouthillier et al. 2021).

    Args:
        sums: (groups, counts), or (seeds, groups, counts) of the same groups.
        seed: of the draws; equal seeds draw the same groups, which is what pairs two models.
    """
    return _drawn(sums.astype(np.float64).tobytes(), sums.shape, score, draws, seed)


@lru_cache(KEPT)
def _drawn(sums: bytes, shape: tuple[int, ...], score: Score, draws: int, seed: int) -> np.ndarray:
    """An interval is drawn before the differences from others are, of which each would draw the same again."""
    rng = np.random.default_rng(seed)
    several = np.frombuffer(sums).reshape((-1, *shape[-2:]))
    seeds, groups, _ = several.shape
    scores = np.empty(draws)
    for draw in range(draws):
        times = np.bincount(rng.integers(groups, size=groups), minlength=groups)
        drawn = rng.integers(seeds, size=seeds)
        scores[draw] = score(np.einsum("g,sgk->sk", times, several))[drawn].mean()
    return scores


def percentiles(draws: np.ndarray, groups: int) -> tuple[float, float]:
    """The 95 % percentile interval of draws (Efron and Tibshirani 1993, chapter 13).

    Draws that are all alike, as of a model that is always right, know nothing of the groups that were not seen: of n
    without an exception, up to `1 - 0.025^(1/n)` of all groups may be one (the exact binomial bound of Clopper and
    Pearson 1934; about 3.7 of n), and the interval reaches as far.

    Args:
        groups: how many groups were drawn from.
    """
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    unseen = 0.0 if np.ptp(draws) > EQUAL else 1 - ((1 - LEVEL) / 2) ** (1 / groups)
    return float(low) - unseen, float(high) + unseen


def interval(sums: np.ndarray, score: Score = ratio, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a score between 0 and 1, see `resampled` and `percentiles`."""
    low, high = percentiles(resampled(sums, score, draws, seed), sums.shape[-2])
    return max(low, 0.0), min(high, 1.0)


class Difference(NamedTuple):
    """One model's score minus another's, on the same rows.

    Args:
        value: the difference, as a share.
        low, high: its 95 % interval.
        p: of no difference, two-sided.
        detectable: the smallest difference that this test set would show at 5 % in four of five cases; None where the
            models differ in no group, or in all alike, which says nothing of how much chance there is.
    """

    value: float
    low: float
    high: float
    p: float
    detectable: float | None


def difference(
    one: np.ndarray, other: np.ndarray, score: Score = ratio, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Paired: both models are scored on the groups of each draw.

    The p-value is twice the smaller share of draws on either side of 0, counting one more (Davison and Hinkley 1997,
    equation 4.11), and at least `2 · 0.5^groups`: so often a coin falls on one side for all groups alike. The
    detectable difference is `(z(0.975) + z(0.8)) · standard error` (Bloom 1995; for natural
    language processing Card et al. 2020).

    Args:
        one, other: see `resampled`; with seeds, as many of each.
    """
    groups = one.shape[-2]
    gaps = resampled(one, score, draws, seed) - resampled(other, score, draws, seed)
    low, high = percentiles(gaps, groups)
    smaller = min(np.sum(gaps <= 0), np.sum(gaps >= 0))
    ours, theirs = (float(np.mean(score(sums.sum(-2)))) for sums in (one, other))
    p = min(1.0, max(2 * (smaller + 1) / (draws + 1), 2 * 0.5**groups))
    needed = sum(map(NormalDist().inv_cdf, ((1 + LEVEL) / 2, POWER))) * gaps.std(ddof=1)
    detectable = float(needed) if np.ptp(gaps) > EQUAL else None
    return Difference(ours - theirs, max(low, -1.0), min(high, 1.0), float(p), detectable)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for having looked at several languages: Holm's step-down method (1979), which keeps the chance
    of one false discovery or more below the level whatever the languages have in common.

    >>> holm({"de": 0.01, "fr": 0.04, "es": 0.03})
    {'de': 0.03, 'fr': 0.06, 'es': 0.06}
    """
    largest, corrected = 0.0, {}
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}
