"""Several processes that train one model: which of them is gone, and weights that lie in parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from subprocess import Popen
from typing import Any

from lightning import Trainer
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed import DistError


def lost(started: Sequence[Popen[Any]]) -> str:
    """Which of the processes that this one has started have failed, and how; "" for none."""
    codes = {rank: process.poll() for rank, process in enumerate(started, start=1)}
    return ", ".join(f"rank {rank} (exit code {code})" for rank, code in codes.items() if code)


def who_is_lost(trainer: Trainer, error: RuntimeError) -> tuple[str, bool]:
    """Who ended, where that is why this process fails, and whether it was started by this one: of others, torchrun or
    srun give the names. "" where the error is another."""
    if own := lost(getattr(trainer.strategy.launcher, "procs", [])):
        return own, True
    told = trainer.world_size > 1 and (isinstance(error, DistError) or "peer" in str(error))
    return "a process (the log of what started it has its name)" if told else "", False


def name_the_dead(told: Callable[[str], str]) -> None:
    """Makes Lightning say what to do, where a process is gone while this one computes or waits: it looks every few
    seconds, and would end all processes, this one included, by SIGKILL.

    Args:
        told: which are gone -> what is said of it.
    """

    class Observer(subprocess_script._ChildProcessObserver):
        def _terminate_all(self) -> None:
            gone = lost(self._child_processes)
            for process in self._child_processes:
                process.kill()
            print(f"distilingua: {told(gone)}", file=sys.stderr, flush=True)
            os._exit(1)  # from a thread, and out of whatever the others are waited for in

    subprocess_script._ChildProcessObserver = Observer  # type: ignore[misc]


def shards(trainer: Trainer) -> bool:
    """Whether each process holds a part of the weights, which by itself is none that can be saved or asked."""
    return isinstance(trainer.strategy, FSDPStrategy)


def put_together(module: nn.Module, plain: Mapping[str, nn.Module], trainer: Trainer) -> None:
    """Gives a module that was trained in shards its parts back, whole; in the first process, with their last weights.

    Args:
        plain: parts as they were before; none where nothing lies in shards.
    """
    if not plain:
        return
    weights = trainer.strategy.lightning_module_state_dict()  # of all processes, which have to ask together
    for name, part in plain.items():
        setattr(module, name, part)
    if trainer.is_global_zero:
        module.load_state_dict(weights)
