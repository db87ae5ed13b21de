"""What computes a finished model's answers: transformers, or ONNX Runtime, read and judged alike."""

from __future__ import annotations

import copy
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

import distilingua.models.bag  # noqa: F401  # transformers does not know it otherwise
from distilingua.data.encoder import Encoder
from distilingua.delivery.model import Delivered
from distilingua.errors import UserError, listed
from distilingua.extras import check_onnx
from distilingua.models.folder import check_positions, readable
from distilingua.models.loading import check_weights, load_student
from distilingua.models.processors import read_tokenizer
from distilingua.tasks.task import Task, model_class
from distilingua.training.inference import CPU, Predictor


def predictor_of(model: Delivered, task: Task, device: torch.device = CPU, prefix: str = "") -> Predictor:
    """A model with what it needs to read text, in 32 bits.

    Args:
        task: with its options; the model brings the classes.
        prefix: goes in front of every text where the model's run is not known.

    Raises:
        UserError: classes that the task cannot have, or has in another order; texts beyond the model's positions.
    """
    tokenizer = read_tokenizer(model.given, model.folder, model.folder, hears="audio" in task.reads)
    task = with_classes(task, model, tokenizer)
    encoder = Encoder(task, tokenizer, model.settings.get("prefix", prefix))
    if model.onnx is None:
        load = partial(load_weights, model, task, tokenizer)
        return Predictor(load, encoder, device, model.folder)
    predictor = OnnxPredictor(partial(OnnxModel, model.onnx), encoder, CPU, model.onnx)
    predictor.weights = model.settings.get("parameters", 0)
    return predictor


def with_classes(task: Task, model: Delivered, tokenizer: Any) -> Task:
    """The task as a model knows it: with the model's own classes in its own order."""
    own = copy.copy(task)
    classes = model.labels if "id2label" in task.model_options else []
    names = list(getattr(tokenizer, "labels", classes))
    own.fit_labels(names, visible=["".join(names[1:])])  # of what hears, the classes are characters
    if own.labels and own.labels[1:] != names[1:]:
        raise UserError(
            f"{model.given}: its classes are {listed(names)} in this order, and task={task.name} reads them as "
            f"{listed(own.labels)}. Name the task that it was trained for, such as task=sentiment, and its options."
        )
    if "audio" not in task.reads:  # whose length is in seconds
        check_positions(task.max_length, model.config.get("max_position_embeddings"), 0, "model")
    return own


def load_weights(model: Delivered, task: Task, tokenizer: Any) -> PreTrainedModel:
    """The model with all of its weights, in evaluation mode.

    Raises:
        UserError: weights are missing, so that answers would be random.
    """
    with readable(model.given, model.folder):
        if model.config.get("embedding_rank") is not None:
            return load_student(model.folder, task)
        loaded, report = model_class(task).from_pretrained(
            model.folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    check_weights(model.given, loaded, {**report, "missing_keys": []})
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{model.given}: it has no {listed(missing, 3)}, which task={task.name} needs, so its answers would be "
            f"random. Name a model that was trained for this task, or the task of this one: task=…"
        )
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    task.prepare_model(loaded, tokenizer)
    return loaded.eval()


class OnnxModel(torch.nn.Module):
    """A session of ONNX Runtime on the CPU, called like a model of transformers. It computes with as many threads as
    torch does when the file is opened.

    Raises:
        UserError: the extra `onnx` is not installed; a file that ONNX Runtime cannot read.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        check_onnx()
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
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
        outputs = self.session.run(self.outputs, {name: inputs[name].numpy() for name in self.inputs})
        return SimpleNamespace(**dict(zip(self.outputs, map(torch.from_numpy, outputs), strict=True)))


class OnnxPredictor(Predictor):
    """A `Predictor` over an ONNX file, whose size is the file's."""

    weights = 0  # of the model that was exported; the file does not tell them from scales

    @property
    def parameters(self) -> int:
        return self.weights

    @property
    def bytes(self) -> int:
        assert self.folder is not None
        return self.folder.stat().st_size
