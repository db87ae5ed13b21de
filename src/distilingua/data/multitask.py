"""Batches of several tasks, one task a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader

from distilingua.data.batching import BucketBatchSampler
from distilingua.data.datamodule import MultilingualDataModule


class TaskSampler(BucketBatchSampler):
    """Whole batches of each task, drawn by `p ∝ n^τ`, n the batches of a task.

    An epoch has as many batches as all tasks together. The batches of a task are those that it would see alone, epoch
    after epoch of its own.

    Args:
        samplers: of the tasks, in the order in which their rows follow one another.
        tau: τ = 1 leaves the proportions as they are, 0 gives every task the same (as `language_alpha` does for
            languages; for tasks see Raffel et al. 2020, section 3.5.2).
        seed: of the order.
    """

    def __init__(self, samplers: list[BucketBatchSampler], tau: float, seed: int) -> None:
        self.samplers, self.seed = samplers, seed
        first = samplers[0]
        self.processes, self.rank, self.tell_epoch = first.processes, first.rank, any(s.tell_epoch for s in samplers)
        sizes = np.array([len(sampler) for sampler in samplers], dtype=float)
        shares = sizes**tau / (sizes**tau).sum() * sizes.sum()
        self.batches = np.maximum(1, np.round(shares)).astype(int)
        self.starts = np.cumsum([0, *(len(sampler.lengths) for sampler in samplers)])
        self.epoch, self.resumed = 0, (0, 0)
        self.sampler = self

    def __len__(self) -> int:
        return int(self.batches.sum())

    def plan(self, epoch: int) -> list[list[int]]:
        """Steps in random order; the batches of all processes for one step follow one another."""
        rng = np.random.default_rng([self.seed, epoch, len(self.samplers)])
        steps: list[list[list[int]]] = []
        for sampler, wanted, start in zip(self.samplers, self.batches, self.starts, strict=False):
            first, own = epoch * int(wanted), len(sampler)
            plans = {n // own: sampler.plan(n // own) for n in range(first, first + int(wanted))}
            for n in range(first, first + int(wanted)):
                at = n % own * self.processes
                batches = plans[n // own][at : at + self.processes]
                steps.append([[row + int(start) for row in batch] for batch in batches])
        return [batch for n in rng.permutation(len(steps)) for batch in steps[n]]


class MultitaskData(LightningDataModule):
    """The data of several tasks; a batch is one of theirs, with its `task`.

    Args:
        parts: task -> its data.
        tau: see `TaskSampler`.
    """

    def __init__(self, parts: Mapping[str, MultilingualDataModule], tau: float) -> None:
        super().__init__()
        self.parts, self.tau = dict(parts), tau
        self._resumed = (0, 0)

    def setup(self, stage: str) -> None:
        for part in self.parts.values():
            part.setup(stage)

    def train_dataloader(self) -> DataLoader:
        loaders = {name: self._own_loader(name) for name in self.parts}
        seed = next(iter(self.parts.values())).seed
        sampler = TaskSampler([loader.batch_sampler for loader in loaders.values()], self.tau, seed)  # type: ignore[misc]
        sampler.resume(*self._resumed)
        rows: Any = ConcatDataset([_Tagged(name, loader.dataset) for name, loader in loaders.items()])
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=self.collate,
            pin_memory=next(iter(loaders.values())).pin_memory,
            generator=torch.Generator(),
        )

    def _own_loader(self, name: str) -> DataLoader:
        self.parts[name].trainer = self.trainer
        return self.parts[name].train_dataloader()

    def collate(self, items: list[tuple[str, int]]) -> dict[str, Any]:
        name, part = items[0][0], self.parts[items[0][0]]
        return {**part.collate(part.train_rows, [row for _, row in items]), "task": name}

    def ids(self, batch: Mapping[str, Any], rows: np.ndarray) -> list[str]:
        return self.parts[batch["task"]].ids(batch, rows)

    def val_dataloader(self) -> list[DataLoader]:
        return [loader for part in self.parts.values() for loader in part.val_dataloader()]

    state_dict = MultilingualDataModule.state_dict
    load_state_dict = MultilingualDataModule.load_state_dict


class _Tagged(torch.utils.data.Dataset):
    """Rows with the name of their task."""

    def __init__(self, name: str, rows: Any) -> None:
        self.name, self.rows = name, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        return self.name, self.rows[index]
