"""Intervals that hold what they promise, against worked figures and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest

from distilingua.statistics.bootstrap import _drawn, difference, group_sums, holm, interval, ratio


def tally(right: np.ndarray) -> np.ndarray:
    return np.stack([right, np.ones_like(right)], -1).astype(float)


def independent(right: np.ndarray) -> np.ndarray:
    """Every row a group of its own."""
    return group_sums(tally(right), [str(n) for n in range(len(right))])


def test_groups_are_added_up() -> None:
    sums = group_sums(tally(np.array([1, 0, 1, 1])), ["b", "a", "b", "a"])
    assert sums.tolist() == [[1, 2], [2, 2]]
    assert ratio(sums).tolist() == [0.5, 1.0]


def test_an_interval_of_independent_rows_is_the_binomial_one() -> None:
    right = np.array([1] * 900 + [0] * 100)
    low, high = interval(independent(right))
    half = 1.96 * (0.9 * 0.1 / 1000) ** 0.5
    assert low == pytest.approx(0.9 - half, abs=0.003)
    assert high == pytest.approx(0.9 + half, abs=0.003)


def test_rows_of_one_template_that_stand_and_fall_together_count_once() -> None:
    """Ten rows a group, alike: the interval is that of a hundredth as many rows per group, √10 times as wide."""
    right = np.repeat([1] * 90 + [0] * 10, 10)
    groups = np.repeat(np.arange(100), 10).astype(str).tolist()
    low, high = interval(group_sums(tally(right), groups))
    naive_low, naive_high = interval(independent(right))
    assert (high - low) / (naive_high - naive_low) == pytest.approx(10**0.5, rel=0.15)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for n in range(200):
        chance = rng.beta(8, 2, size=80)  # of every group; the truth is their mean, 0.8
        right = rng.random((80, 5)) < chance[:, None]
        groups = np.repeat(np.arange(80), 5).astype(str).tolist()
        low, high = interval(group_sums(tally(right.ravel()), groups), draws=300, seed=n)
        held += low <= 0.8 <= high
    assert 178 <= held <= 198


def test_seeds_add_their_own_spread() -> None:
    rng = np.random.default_rng(0)
    alike = np.repeat(tally(rng.random(200) < 0.8)[None], 3, axis=0)
    apart = np.stack([tally(rng.random(200) < chance) for chance in (0.7, 0.8, 0.9)])
    widths = [high - low for low, high in (interval(sums) for sums in (alike, apart))]
    assert widths[1] > 1.5 * widths[0]


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(500) < 0.8
    other = one.copy()
    other[:20] = False  # never better
    found = difference(tally(one), tally(other))
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert 0 < found.low < found.value < found.high
    assert found.p < 0.01
    apart = interval(tally(one))
    assert found.high - found.low < 0.6 * (apart[1] - apart[0])


def test_what_an_interval_has_drawn_a_difference_draws_no_more() -> None:
    rng = np.random.default_rng(5)
    one, other, third = (tally(rng.random(30) < 0.8) for _ in range(3))
    before = _drawn.cache_info().misses
    told = interval(one), difference(one, other), difference(one, third)
    assert _drawn.cache_info().misses - before == 3
    _drawn.cache_clear()
    assert told == (interval(one), difference(one, other), difference(one, third))
    one[0] = 1 - one[0]
    assert interval(one) != told[0], "it is the numbers that are remembered, not the array"


def test_no_difference_is_none() -> None:
    same = tally(np.array([1, 0] * 50))
    found = difference(same, same)
    assert (found.value, found.p, found.detectable) == (0, 1, None)
    assert found.low == -found.high


def test_what_was_always_right_may_be_wrong_another_time() -> None:
    """Of 100 groups without an exception, 3.6 % of all may be one: 0.964^100 is 2.5 %."""
    low, high = interval(tally(np.ones(100)))
    assert low == pytest.approx(0.0250 ** (1 / 100), abs=1e-9)
    assert high == 1
    assert interval(tally(np.zeros(100))) == (0, pytest.approx(1 - low))
    assert interval(tally(np.ones(1)))[0] < 0.03  # a single group knows nothing
    assert difference(tally(np.ones(1)), tally(np.zeros(1))).p == 1
    assert difference(tally(np.ones(4)), tally(np.zeros(4))).p == 2 * 0.5**4
    assert difference(tally(np.ones(100)), tally(np.zeros(100))).p < 0.01


def test_the_detectable_difference_is_detected_four_times_in_five() -> None:
    """By simulation: of two models that are so far apart, the interval of the difference leaves out 0 in about 80 %."""
    rng = np.random.default_rng(1)
    rows = 400
    alike = [[tally(rng.random(rows) < 0.7) for _ in range(2)] for _ in range(10)]
    needed = float(np.mean([difference(*pair, draws=300).detectable or 0 for pair in alike]))
    shown = 0
    for n in range(150):
        one, other = rng.random(rows) < 0.7 + needed / 2, rng.random(rows) < 0.7 - needed / 2
        shown += difference(tally(one), tally(other), draws=300, seed=n).low > 0
    assert 105 <= shown <= 135


def test_holm_by_hand() -> None:
    assert holm({"de": 0.01, "fr": 0.04, "es": 0.03}) == {"de": 0.03, "fr": 0.06, "es": 0.06}
    assert holm({"de": 0.6, "fr": 0.9}) == {"de": 1.0, "fr": 1.0}
    assert holm({}) == {}
