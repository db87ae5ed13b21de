"""The order of the batches, which nothing but seed and epoch may decide."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from distilingua.data.batching import BucketBatchSampler

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(3, 40, 2000).tolist()
LANGUAGES = ["en"] * 1600 + ["de"] * 400


def sampler(
    lengths: list[int] | None = None,
    languages: list[str] | None = None,
    batch_size: int = 10,
    alpha: float = 1.0,
    seed: int = 0,
    processes: int = 1,
    rank: int = 0,
) -> BucketBatchSampler:
    return BucketBatchSampler(lengths or LENGTHS, languages or LANGUAGES, batch_size, alpha, seed, processes, rank)


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain(*batches))


def padding(batches: list[list[int]], lengths: list[int] = LENGTHS) -> int:
    """Pieces that are there only because another row of the batch is longer."""
    return sum(max(lengths[row] for row in batch) - lengths[row] for batch in batches for row in batch)


# --- what an epoch holds ----------------------------------------------------------------------------------------------


def test_an_epoch_has_every_row_once() -> None:
    assert sorted(flat(sampler().plan(0))) == list(range(2000))


@pytest.mark.parametrize(("rows", "batch_size"), [(200, 64), (101, 10), (2000, 7), (65, 64)])
def test_batches_have_one_size_and_the_rest_sits_out(rows: int, batch_size: int) -> None:
    found = sampler(LENGTHS[:rows], LANGUAGES[:rows], batch_size)
    plan = found.plan(0)
    assert {len(batch) for batch in plan} == {batch_size}
    assert len(plan) == len(found) == rows // batch_size
    assert len(set(flat(plan))) == len(flat(plan))


def test_no_row_sits_out_for_ever() -> None:
    """Not even the longest, which sorting puts where the rest is cut off."""
    found = sampler(list(range(1, 201)), ["en"] * 200, batch_size=64)
    seen = Counter(itertools.chain(*(flat(found.plan(epoch)) for epoch in range(40))))
    assert set(seen) == set(range(200))
    assert min(seen.values()) > 25  # each sits out 1 epoch in 25


def test_fewer_rows_than_a_batch_make_one_batch() -> None:
    found = sampler([3, 1, 2], ["en", "en", "de"], batch_size=64)
    assert len(found) == 1
    assert [sorted(batch) for batch in found.plan(0)] == [[0, 1, 2]]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_there_is_always_a_batch(alpha: float) -> None:
    """Rounding the languages' shares may lose a row; it must not lose the only batch."""
    for sizes in itertools.product(range(1, 6), repeat=3):
        languages = [lang for lang, n in zip("abc", sizes, strict=True) for _ in range(n)]
        found = sampler([1] * len(languages), languages, batch_size=64, alpha=alpha)
        assert len(found) == len(found.plan(0)) == 1, sizes


# --- languages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "english", "german"),
    [
        (1.0, 1600, 400),
        (0.5, 1333, 667),  # √1600 : √400 = 2 : 1
        (0.0, 1000, 1000),
        (0.3, 1205, 795),  # 1600^0.3 : 400^0.3 = 9.146 : 6.034
    ],
)
def test_languages_are_drawn_by_n_to_the_alpha(alpha: float, english: int, german: int) -> None:
    plan = sampler(alpha=alpha).plan(0)
    assert Counter(LANGUAGES[row] for row in flat(plan)) == {"en": english, "de": german}


def test_no_row_comes_twice_before_all_of_its_language_came_once() -> None:
    times = Counter(flat(sampler(alpha=0).plan(0)))
    assert Counter(times[row] for row in range(1600)) == {1: 1000, 0: 600}
    assert Counter(times[row] for row in range(1600, 2000)) == {3: 200, 2: 200}


def test_batches_mix_languages() -> None:
    mixed = [len({LANGUAGES[row] for row in batch}) for batch in sampler(alpha=0).plan(0)]
    assert mixed.count(2) > 0.9 * len(mixed)


# --- order ------------------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_epochs() -> None:
    assert sampler(seed=3).plan(5) == sampler(seed=3).plan(5)


def test_epochs_and_seeds_differ() -> None:
    plans = [sampler(seed=3).plan(5), sampler(seed=3).plan(6), sampler(seed=4).plan(5)]
    for one, other in itertools.combinations(plans, 2):
        assert sorted(flat(one)) == sorted(flat(other))
        assert {frozenset(batch) for batch in one} & {frozenset(batch) for batch in other} == set()


def test_a_plan_does_not_depend_on_the_plans_before() -> None:
    used = sampler()
    for epoch in range(3):
        used.plan(epoch)
    assert used.plan(7) == sampler().plan(7)


def test_the_sampler_yields_the_plan_of_its_epoch() -> None:
    found = sampler()
    assert list(found) == found.plan(0)
    found.set_epoch(4)
    assert list(found) == found.plan(4)


def test_similar_lengths_share_a_batch() -> None:
    order = np.random.default_rng(1).permutation(2000)
    random_order = order.reshape(-1, 10).tolist()
    assert padding(sampler().plan(0)) < 0.1 * padding(random_order)


def test_batches_do_not_come_sorted_by_length() -> None:
    means = [float(np.mean([LENGTHS[row] for row in batch])) for batch in sampler().plan(0)]
    assert abs(float(np.corrcoef(means, range(len(means)))[0, 1])) < 0.2


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_two_processes_share_the_plan_of_one(alpha: float) -> None:
    one = sampler(alpha=alpha)
    two = [sampler(alpha=alpha, processes=2, rank=rank) for rank in (0, 1)]
    own = [list(found) for found in two]
    assert [len(found) for found in two] == [len(found) for found in own] == [100, 100]
    assert [batch for step in zip(*own, strict=True) for batch in step] == list(one)


@pytest.mark.parametrize("rows", [2000, 1999, 1991, 37])
def test_processes_have_equally_many_batches_of_equal_size(rows: int) -> None:
    own = [list(sampler(LENGTHS[:rows], LANGUAGES[:rows], processes=3, rank=rank)) for rank in range(3)]
    assert {len(batches) for batches in own} == {rows // 30}
    assert {len(batch) for batches in own for batch in batches} == {10}
    drawn = [row for batches in own for row in flat(batches)]
    assert len(set(drawn)) == len(drawn)


# --- resuming and workers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 1, 57, 199])
def test_a_resumed_epoch_has_the_remaining_batches_and_the_next_one_all(done: int) -> None:
    found = sampler()
    found.resume(2, done)
    assert list(found) == sampler().plan(2)[done:]
    found.set_epoch(3)
    assert list(found) == sampler().plan(3)


def test_each_process_resumes_its_own_share() -> None:
    for rank in (0, 1):
        found, fresh = sampler(processes=2, rank=rank), sampler(processes=2, rank=rank)
        found.resume(0, 30)
        assert list(found) == list(fresh)[30:]


@pytest.mark.parametrize("skip", [0, 30])
def test_batches_do_not_depend_on_the_number_of_workers(skip: int) -> None:
    seen = []
    for workers in (0, 2):
        found = sampler()
        found.resume(0, skip)
        loader = DataLoader(LENGTHS, batch_sampler=found, num_workers=workers, persistent_workers=workers > 0)
        epochs = []
        for epoch in (0, 1):
            found.set_epoch(epoch)
            epochs.append([batch.tolist() for batch in loader])
        seen.append(epochs)
    assert seen[0] == seen[1]
    assert [len(epoch) for epoch in seen[0]] == [200 - skip, 200]
    assert seen[0][1] == [[LENGTHS[row] for row in batch] for batch in sampler().plan(1)]
