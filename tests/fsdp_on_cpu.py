"""`python -m tests.fsdp_on_cpu train device=fsdp trainer.accelerator=cpu …`: shards on a CPU, which torch and Lightning
refuse. Where they ask a GPU for its streams, they are told that there is nothing to wait for; all else is theirs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import lightning.fabric.strategies.fsdp as of_fabric
import lightning.pytorch.strategies.fsdp as of_trainer
import torch
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType, _init_utils
from torch.distributed.fsdp import fully_sharded_data_parallel as fsdp
from torch.distributed.fsdp._common_utils import _FSDPDeviceHandle
from torch.distributed.fsdp.api import FullOptimStateDictConfig

from distilingua import checks
from distilingua.cli import main

CPU = torch.device("cpu")


class NothingToWaitFor:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: NothingToWaitFor()


class LikeCuda(NothingToWaitFor):
    Stream = Event = NothingToWaitFor

    def is_available(self) -> bool:
        return True

    def current_device(self) -> torch.device:
        return CPU

    def stream(self, _: Any) -> Any:
        return nullcontext()


def handle(state: Any, *_: Any) -> Any:
    state._device_handle = _FSDPDeviceHandle(CPU, backend=LikeCuda())
    return state


def full(module: Any, world_size: int, rank0_only: bool = True) -> Any:
    """As Lightning asks for a whole state; but to move tensors of a CPU to a CPU leaves them where they are freed."""
    weights, states = (
        kind(offload_to_cpu=False, rank0_only=rank0_only) for kind in (FullStateDictConfig, FullOptimStateDictConfig)
    )
    return FullyShardedDataParallel.state_dict_type(module, StateDictType.FULL_STATE_DICT, weights, states)


refusal: Any = _AcceleratorConnector._check_strategy_and_fallback
_AcceleratorConnector._check_strategy_and_fallback = (  # type: ignore[method-assign]
    lambda self: None if self._strategy_flag == "fsdp" else refusal(self)
)
fsdp._init_device_handle = handle
_init_utils._get_compute_device = lambda *_, **__: CPU
of_trainer._get_full_state_dict_context = of_fabric._get_full_state_dict_context = full
torch.Tensor.record_stream = lambda *_: None  # type: ignore[assignment, method-assign]
checks.RULES = tuple(rule for rule in checks.RULES if rule is not checks._device)

if __name__ == "__main__":
    main()
