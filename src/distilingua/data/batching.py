"""Which rows make a batch: by length, by language, and the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

BUCKET = 50  # batches that are sorted by length together: enough to save padding, few enough to stay random


class BucketBatchSampler(Sampler[list[Any]]):
    """Batches of similar length in random order, with languages drawn by `p ∝ n^α`.

    An epoch has as many rows as the data. A language's share of them is `n^α / Σ n^α`: α = 1 leaves the proportions as
    they are, α = 0 gives every language the same. Within a language, no row is drawn twice before all are drawn once.
    The plan of an epoch depends on seed and epoch alone; process `rank` of `processes` takes every `processes`-th
    batch of it. Batches all have the same size: the few rows left over sit out this epoch.

    Args:
        lengths: of every row, in pieces.
        languages: of every row.
        batch_size: rows per batch and process.
        alpha: see above, 0 to 1 (Conneau et al. 2020, section 3.1, where it is 0.3).
        seed: of the order.
        tell_epoch: give `(row, epoch)` instead of the row alone: a worker process has no other way to know.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        languages: Sequence[str] | np.ndarray,
        batch_size: int,
        alpha: float,
        seed: int,
        processes: int = 1,
        rank: int = 0,
        tell_epoch: bool = False,
    ) -> None:
        self.tell_epoch = tell_epoch
        self.lengths = np.asarray(lengths)
        self.seed, self.processes, self.rank = seed, processes, rank
        of_language = np.asarray(languages)
        self.by_language = [np.flatnonzero(of_language == language) for language in np.unique(of_language)]
        weights = np.array([len(rows) for rows in self.by_language], dtype=float) ** alpha
        shares = weights / weights.sum() * len(self.lengths)
        self.draws = np.maximum(1, np.round(shares)).astype(int)
        self.batch_size = min(batch_size, max(int(self.draws.sum()) // processes, 1))
        self.epoch = 0
        self.resumed = (0, 0)
        self.sampler = self  # where Lightning looks for `set_epoch`

    def __len__(self) -> int:
        return int(self.draws.sum()) // (self.batch_size * self.processes)

    def plan(self, epoch: int) -> list[list[int]]:
        """Every process's batches of an epoch, as numbers of rows."""
        rng = np.random.default_rng([self.seed, epoch])
        drawn = []
        for rows, draws in zip(self.by_language, self.draws, strict=True):
            rounds = -(-draws // len(rows))
            drawn.append(np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:draws])
        # what fills no batch sits out before sorting: afterwards, it would be the longest rows, epoch after epoch
        order = rng.permutation(np.concatenate(drawn))[: len(self) * self.batch_size * self.processes]
        batches: list[list[int]] = []
        pool = self.batch_size * BUCKET
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[i : i + self.batch_size].tolist() for i in range(0, len(rows), self.batch_size)]
        rng.shuffle(batches)
        return batches

    def resume(self, epoch: int, batches: int) -> None:
        """Begins in this epoch, after so many of its batches. Lightning makes the iterator before it calls `set_epoch`,
        and worker processes read ahead at once: what they read must be known by then."""
        self.epoch, self.resumed = epoch, (epoch, batches)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Any]]:
        epoch, (resumed, done) = self.epoch, self.resumed
        for batch in self.plan(epoch)[self.rank :: self.processes][done if epoch == resumed else 0 :]:
            yield [(row, epoch) for row in batch] if self.tell_epoch else batch
