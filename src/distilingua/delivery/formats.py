"""What a student is exported to. A new format is a class with the methods of `Format`, and a YAML in conf/format."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property, partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from distilingua.artifacts import whole_file
from distilingua.errors import UserError
from distilingua.extras import check_onnx
from distilingua.tasks.task import Task

if TYPE_CHECKING:  # slow to import, and a format that cannot be is refused before
    from torch import Tensor
    from transformers import PreTrainedModel

    from distilingua.data.encoder import Encoder
    from distilingua.training.inference import Predictor


@dataclass
class Student:
    """What is exported.

    Args:
        load: gives the model, anew with every call, as some formats change it.
        encoder: how it reads.
        inputs: of two rows or more, each of two pieces or more: a size of 0 or 1 would become a constant of the graph.
        parameters: how many weights it has.
        temperature: what calibrates its probabilities; None where it chooses no class.
        pairs: whether it reads two texts.
        teacher: writes how its teacher reads to a folder, and gives it; None where nobody knows it.
    """

    load: Callable[[], PreTrainedModel]
    encoder: Encoder
    inputs: dict[str, Tensor]
    parameters: int
    temperature: float | None = None
    pairs: bool = False
    teacher: Callable[[Path], Student] | None = None

    @cached_property
    def graph(self) -> Any:
        """As an ONNX graph in 32 bits, which takes longer to trace than all that is made of it."""
        from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

        model = self.load().eval()
        model.set_attn_implementation("eager")  # torch's own takes a quarter more nodes, for masks
        return OnnxExporter().export_program(model, self.inputs, OnnxConfig(dynamic=True))[0]


class Format(Protocol):
    def check(self, task: Task) -> str | None:
        """Why students of this task cannot be written so, in a sentence; None if they can. Loads nothing."""

    def write(self, student: Student, folder: Path) -> Path:
        """Writes the student; returns the file, or folder, that computes."""

    def predictor(self, made: Path, student: Student, threads: int) -> Predictor:
        """What was written, as it will be used, with so many threads."""


class Hub:
    """A plain folder of transformers, whose weights are safetensors. A factorised embedding is multiplied back, as
    transformers knows none: the answers stay, the bytes grow."""

    def check(self, task: Task) -> str | None:
        return None

    def write(self, student: Student, folder: Path) -> Path:
        plain(student.load()).save_pretrained(folder)
        return folder

    def predictor(self, made: Path, student: Student, threads: int) -> Predictor:
        from distilingua.tasks.task import model_class
        from distilingua.training.inference import CPU, Predictor

        load = partial(model_class(student.encoder.task).from_pretrained, made, trust_remote_code=False)
        return Predictor(load, student.encoder, CPU, made)


@dataclass
class Onnx:
    """One ONNX file without a sidecar, by the exporters of transformers, in 32 bits or in 8.

    Args:
        file: where in the folder.
        int8: weights in 8 bits, activations rounded as they come (ONNX Runtime's dynamic quantisation).
        per_channel: a scale for every output unit instead of one for the whole matrix.
    """

    file: str
    int8: bool = False
    per_channel: bool = False

    def check(self, task: Task) -> str | None:
        if task.backbone == "encoder-decoder":
            return (
                f"format: task={task.name} writes piece by piece, which takes several graphs and a search around them; "
                f"ONNX is for encoders here. Type format=[hub]."
            )
        try:
            check_onnx()
        except UserError as error:
            return str(error)
        return None

    def write(self, student: Student, folder: Path) -> Path:
        import onnx_ir
        from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
        from transformers.exporters.configs import ExportFormat

        made = folder / self.file
        made.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            graph = student.graph
            if self.int8:
                quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=self.per_channel))
                graph = quantizer.quantize(graph, student.inputs, ExportFormat.ONNX)
            with whole_file(made) as unfinished:
                onnx_ir.save(graph, unfinished)  # the exporter itself would put the weights beside it
        return made

    def predictor(self, made: Path, student: Student, threads: int) -> Predictor:
        from distilingua.delivery.runtime import OnnxPredictor

        return OnnxPredictor.of(made, student.encoder, student.parameters, threads)


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """A model that transformers itself can load: a factorised embedding is multiplied back."""
    from distilingua.models.factorise import unfactorise

    return unfactorise(model) if getattr(model.config, "embedding_rank", None) is not None else model


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch and ONNX Runtime say about every export."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def sample_inputs(encoder: Encoder, rows: Any) -> dict[str, Tensor]:
    """Inputs to trace a model with: those of the two longest of a few rows.

    Args:
        rows: a data set with two rows or more.
    """

    encoded = encoder.changed(rows.select(range(min(32, len(rows)))).to_list())
    inputs, _ = encoder.collate(encoded[np.argsort(encoded.lengths)[-2:]])
    return inputs


def written(formats: dict[str, Any]) -> dict[str, Format]:
    """Formats by name, in the order in which they are written: what others are compared with comes first."""
    return dict(sorted(formats.items(), key=lambda item: not isinstance(item[1], Hub)))
