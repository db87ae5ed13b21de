"""Several processes: one that is gone is named, and weights in shards are put together."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed import DistNetworkError

from distilingua.checks import check
from distilingua.errors import UserError
from distilingua.training.module import DistillationModule
from distilingua.training.processes import name_the_dead, put_together, who_is_lost
from tests.conftest import Compose
from tests.processes import HANGS

DIES, WAITS = ([sys.executable, "-c", code] for code in ("raise SystemExit(3)", "import time; time.sleep(999)"))


def test_where_lightning_sees_it_first_the_one_that_is_gone_is_named_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where the first process waits for a GPU that waits for the others: Lightning would end it by SIGKILL."""
    monkeypatch.setattr(subprocess_script, "_ChildProcessObserver", subprocess_script._ChildProcessObserver)
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    name_the_dead(lambda gone: f"student: {gone} ended")
    with subprocess.Popen(DIES) as dies, subprocess.Popen(WAITS) as waits:
        dies.wait(HANGS)
        assert subprocess_script._ChildProcessObserver(0, [dies, waits])._run()
        assert waits.wait(HANGS) != 0
    assert codes == [1]
    assert capfd.readouterr().err == "distilingua: student: rank 1 (exit code 3) ended\n"


def test_others_are_named_by_what_started_them() -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=None), world_size=2)
    lost, own = who_is_lost(trainer, RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"))
    assert lost.startswith("a process (the log of what started it")
    assert not own
    assert who_is_lost(trainer, DistNetworkError("timed out"))[0] == lost
    assert who_is_lost(trainer, RuntimeError("a planted fault")) == ("", False)
    trainer.world_size = 1
    assert who_is_lost(trainer, RuntimeError("closed by peer")) == ("", False)


# --- shards; a whole run: torchrun -m tests.fsdp_on_cpu ---------------------------------------------------------------


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_shards_are_for_gpus(compose_run: Compose, accelerator: str) -> None:
    with pytest.raises(UserError, match=f"device=fsdp: .*Type device=ddp trainer.accelerator={accelerator}"):
        check(compose_run("device=fsdp", f"trainer.accelerator={accelerator}"))


def test_the_norm_of_a_gradient_is_that_of_all_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    clipped: list[float] = []
    strategy = FSDPStrategy()
    monkeypatch.setattr(strategy, "_model", SimpleNamespace(clip_grad_norm_=clipped.append), raising=False)
    module: Any = SimpleNamespace(trainer=SimpleNamespace(strategy=strategy, precision_plugin=None))
    DistillationModule.configure_gradient_clipping(module, None, 0.5, None)  # type: ignore[arg-type]
    assert clipped == [0.5]


@pytest.mark.parametrize("first", [True, False])
def test_what_was_in_shards_is_whole_again(first: bool) -> None:
    module = nn.Module()
    module.student = nn.Linear(3, 2)
    plain = {name: deepcopy(part) for name, part in module.named_children()}
    before = plain["student"].weight.clone()  # type: ignore[operator]
    learnt = {"student.weight": torch.ones(2, 3), "student.bias": torch.zeros(2)}
    module.student.weight = nn.Parameter(torch.ones(4))  # the share of this process
    strategy = SimpleNamespace(lightning_module_state_dict=lambda: learnt if first else {})
    put_together(module, plain, SimpleNamespace(strategy=strategy, is_global_zero=first))  # type: ignore[arg-type]
    assert torch.equal(module.student.weight, learnt["student.weight"] if first else before)
