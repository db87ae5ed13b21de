"""What a student is exported to. A new format is a class with the methods of `Format`, and a YAML in conf/format."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distilingua.artifacts import whole_file
from distilingua.errors import UserError
from distilingua.extras import check_onnx
from distilingua.tasks.task import Task


@dataclass
class Student:
    """What is exported.

    Args:
        load: gives the model, anew with every call, as some formats change it.
        encoder: how it reads, see `data.encoder.Encoder`.
        rows: a data set of two rows or more, which it is traced with.
        parameters: how many weights it has.
        teacher: writes how its teacher reads to a folder, and gives it; None where nobody knows it.
    """

    load: Callable[[], Any]
    encoder: Any
    rows: Any
    parameters: int
    teacher: Callable[[Path], Student] | None = None

    @property
    def reads_pairs(self) -> bool:
        return any(self.rows["text_pair"])

    def load_plain(self) -> Any:
        """The model as transformers itself can load it: a factorised embedding is multiplied back."""
        from distilingua.models.factorise import unfactorise

        model = self.load()
        return unfactorise(model) if getattr(model.config, "embedding_rank", None) is not None else model

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Of the two longest of a few rows, or one twice: a size of 0 or 1 would become a constant of the graph."""
        encoded = self.encoder.changed(self.rows.select(range(min(32, len(self.rows)))).to_list())
        inputs, _ = self.encoder.collate(encoded[np.resize(np.argsort(encoded.lengths)[-2:], 2)])
        return dict(inputs)

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
        """Writes the student; returns the file, or folder, that computes, which `distilingua evaluate` reads."""


class Hub:
    """A plain folder of transformers, whose weights are safetensors. A factorised embedding is multiplied back, as
    transformers knows none: the answers stay, the bytes grow."""

    def check(self, task: Task) -> str | None:
        return None

    def write(self, student: Student, folder: Path) -> Path:
        student.load_plain().save_pretrained(folder)
        return folder


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
        if task.searches:
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

        file = folder / self.file
        file.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            graph = student.graph
            if self.int8:
                quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=self.per_channel))
                graph = quantizer.quantize(graph, student.inputs, ExportFormat.ONNX)
            with whole_file(file) as unfinished:
                onnx_ir.save(graph, unfinished)  # the exporter itself would put the weights beside it
        return file


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
