"""ONNX Runtime as a model: what reads and judges transformers' models reads and judges exported ones too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from distilingua.data.encoder import Encoder
from distilingua.errors import UserError
from distilingua.extras import onnx_package
from distilingua.training.inference import CPU, Predictor


class OnnxModel(torch.nn.Module):
    """A session of ONNX Runtime on the CPU, called like a model of transformers.

    Args:
        file: one ONNX file.
        threads: that one call may use; None takes torch's number.

    Raises:
        UserError: the extra `onnx` is not installed; a file that ONNX Runtime cannot read.
    """

    def __init__(self, file: Path, threads: int | None = None) -> None:
        super().__init__()
        runtime: Any = onnx_package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self.session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of classes that are made in C++, and share nothing
            raise UserError(f"{file}: ONNX Runtime cannot read it ({' '.join(str(error).split())[:200]}).") from None
        self.inputs = [one.name for one in self.session.get_inputs()]
        self.outputs = [one.name for one in self.session.get_outputs()]
        self.config = PretrainedConfig()

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        """The outputs by name, such as `logits` (rows, classes)."""
        found = self.session.run(self.outputs, {name: inputs[name].numpy() for name in self.inputs})
        return SimpleNamespace(**dict(zip(self.outputs, map(torch.from_numpy, found), strict=True)))


class OnnxPredictor(Predictor):
    """A `Predictor` over an ONNX file, whose size is the file's."""

    count: int = 0

    @classmethod
    def of(cls, file: Path, encoder: Encoder, parameters: int, threads: int | None = None) -> OnnxPredictor:
        """
        Args:
            parameters: weights of the model that was exported; the file does not tell them from scales.
            threads: see `OnnxModel`.
        """
        made = cls(lambda: OnnxModel(file, threads), encoder, CPU, file)
        made.count = parameters
        return made

    @property
    def parameters(self) -> int:
        return self.count

    @property
    def bytes(self) -> int:
        assert self.folder is not None
        return self.folder.stat().st_size
