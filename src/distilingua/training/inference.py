"""A model's answers to many texts, on the device that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from distilingua.columns import Encoded, select, texts_of
from distilingua.console import console
from distilingua.data.encoder import Encoder
from distilingua.errors import NumberError, listed
from distilingua.models.layers import LayerReader
from distilingua.models.teacher import in_precision
from distilingua.tasks.task import no_numbers, rows_at, windows_of
from distilingua.training.soft_labels import mean_logits

CPU = torch.device("cpu")
ROWS_ON_CPU, WIDTH = 128, 256  # of a model so wide, more do not fit into a processor's cache and only pad each other
ROWS_ELSEWHERE = 512  # a GPU is not filled by fewer short texts


def device_of(trainer: Mapping[str, Any]) -> torch.device:
    """The device that `device=` names; that of this process, where there are several.

    Args:
        trainer: `accelerator` and `devices` of the configuration.
    """
    kind, devices = str(trainer["accelerator"]), trainer["devices"]
    if kind == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        kind = found.type if found is not None else "cpu"
    if kind not in ("gpu", "cuda"):
        return torch.device(kind)
    rank = int(os.environ.get("LOCAL_RANK", 0))  # Lightning tells its processes apart by it, as torchrun does
    listed = not isinstance(devices, int | str)
    return torch.device("cuda", devices[rank % len(devices)] if listed else rank)


class Predictions(NamedTuple):
    """A model's answers to rows, in their order.

    Args:
        answers: see `Task.answer`.
        probabilities: see `Task.probabilities`.
        encoded: the rows as the model has read them.
    """

    answers: list[Tensor]
    probabilities: list[float]
    encoded: Encoded


@dataclass
class Predictor:
    """A model with what it needs to read text. It loads, and goes to its device, when it is first asked.

    Args:
        load: gives the model.
        encoder: how it reads.
        device: where it computes; what it reads goes there too.
        folder: where its files are, if anywhere.
        precision: what it computes in, see `in_precision`.
    """

    load: Callable[[], PreTrainedModel]
    encoder: Encoder
    device: torch.device = CPU
    folder: Path | None = None
    precision: str = "32"
    _here: bool = field(default=False, init=False, repr=False)

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, int, int]:
        with torch.inference_mode(False):  # whoever asks first: others may train with it
            model = self.load()
        tensors = list(model.parameters())  # counted here: int8 weights are no parameters any more
        sizes = sum(p.numel() for p in tensors), sum(p.numel() * p.element_size() for p in tensors)
        return in_precision(model, self.precision).eval(), *sizes

    @property
    def model(self) -> PreTrainedModel:
        """On its device."""
        model = self._loaded[0]
        if not self._here:
            model.to(self.device)
            self._here = True
        return model

    def release(self) -> None:
        """Leaves its device to others, until it is asked again."""
        if self._here:
            self._loaded[0].to(CPU)
            self._here = False

    @property
    def alone(self) -> list[Predictor]:
        """Itself: see `EnsemblePredictor.alone`."""
        return [self]

    @property
    def parameters(self) -> int:
        return self._loaded[1]

    @property
    def bytes(self) -> int:
        """Of its weights on disk; of its tensors, when it is saved nowhere."""
        files = list(self.folder.glob("*.safetensors")) if self.folder is not None else []
        return sum(file.stat().st_size for file in files) or self._loaded[2]

    def batches(
        self, encoded: Encoded, title: str, start: int = 0
    ) -> Iterator[tuple[np.ndarray, dict[str, Tensor], Tensor | None]]:
        """Numbers of texts with what the model is called with, on its device; texts of like length together.

        Args:
            title: of the progress bar; "" for none.
            start: how many texts, in the order of this iterator, are not wanted again.
        """
        batches = encoded.batches(self.rows_at_once, start)
        for n in console.steps(range(len(batches)), title):
            yield batches[n], *self._collate(encoded[batches[n]])

    @property
    def rows_at_once(self) -> int:
        """As many as keep the device busy: so few rows of a narrow model as of a wide one would only be calls."""
        if self.device.type != "cpu":
            return ROWS_ELSEWHERE
        task = self.encoder.task
        width = "vocab_size" if task.writes() else "" if task.hears() else "hidden_size"
        return ROWS_ON_CPU * max(1, WIDTH // getattr(getattr(self.model, "config", None), width, WIDTH))

    def _collate(self, encoded: Encoded) -> tuple[dict[str, Tensor], Tensor | None]:
        inputs, at = self.encoder.collate(encoded)
        return {name: self._sent(tensor) for name, tensor in inputs.items()}, self._sent(at) if at is not None else None

    def _sent(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":  # pinned memory is copied while the GPU computes
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def cells(
        self, encoded: Encoded, title: str, start: int = 0, pooling: str | None = None
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor | None]]:
        """Numbers of texts, their logits, (positions of all of them, classes), and their sentence vectors, (texts,
        width), if a way of pooling asks for them; see `batches`, `Task.cells` and `LayerReader`."""
        read = None
        for rows, inputs, at in self.batches(encoded, title, start):
            read = read or LayerReader(self.model, {"vector"} if pooling else (), pooling or "")
            with torch.inference_mode():
                windows = windows_of(at, inputs)
                output, layers = read(inputs, windows)
                cells = self.encoder.task.cells(output, at, windows)
            self._check(cells, at, rows)
            vectors = layers.vector.cpu() if layers is not None and layers.vector is not None else None
            yield rows, cells.cpu(), vectors

    def predict(self, rows: Dataset, title: str) -> Predictions:
        """Its answer to every row.

        Raises:
            NumberError: one of them is none.
        """
        with named(title, rows):
            return self.answers(self.encoder(rows, cache=None), title)

    def answers(self, encoded: Encoded, title: str) -> Predictions:
        """Its answer to every row, as it reads it."""
        task = self.encoder.task
        answers: list[Tensor] = [torch.empty(0)] * len(encoded)
        probabilities = [0.0] * len(encoded)
        for numbers, inputs, at in self.batches(encoded, title):
            with torch.inference_mode():
                found = task.answer(self.model, inputs, at)
                sure = task.probabilities(found, self.model, inputs)
            if found[0].is_floating_point():  # or it is a text
                self._check(torch.cat(found), at, numbers)
            self._check(torch.tensor(sure)[:, None], None, numbers)
            for n, answer, probability in zip(numbers.tolist(), found, sure, strict=True):
                answers[n], probabilities[n] = answer.cpu(), probability
        return Predictions(answers, probabilities, encoded)

    def _check(self, cells: Tensor, at: Tensor | None, rows: np.ndarray) -> None:
        wrong = no_numbers(cells, at)
        if wrong.any():
            raise NumberError("an answer is no number", rows[rows_at(wrong, at)].tolist())

    def predict_one(self, row: Mapping[str, list[str]]) -> None:
        """Reads one row, or a batch in one call, for the clock."""
        task, tokenizer, prefix = self.encoder.task, self.encoder.tokenizer, self.encoder.prefix
        inputs, at = self._collate(task.encode(row, tokenizer, prefix))
        task.answer(self.model, inputs, at)[0].cpu()


def vectors_of(model: AnyPredictor, encoded: Encoded, title: str, pooling: str) -> np.ndarray:
    """Sentence vectors of texts, in their order, (texts, width) float32.

    Args:
        pooling: see `LayerReader`.
    """
    order, found = [], []
    for numbers, _, vectors in model.cells(encoded, title, pooling=pooling):
        assert vectors is not None  # a way of pooling was named
        order.append(numbers)
        found.append(vectors.float().numpy())
    return np.concatenate(found)[np.argsort(np.concatenate(order))]


@contextmanager
def named(title: str, rows: Dataset) -> Iterator[None]:
    """Names the rows to which a model's answer is no number.

    Args:
        title: what it was asked for.
        rows: that it was asked about.
    """
    try:
        yield
    except NumberError as error:
        ids = texts_of(select(rows, error.rows), "id")
        raise NumberError(
            f"{title}: the answer to {listed(ids)} is no number, so it is neither kept "
            f"nor judged. The model's weights hold NaN or infinity, or it overflows: try teacher.precision=32, or "
            f"train it at a lower learning rate."
        ) from None


@dataclass
class EnsemblePredictor:
    """Several models that answer as one: the weighted mean of the probabilities of those that read the language.

    Args:
        members: the models, and the languages each reads (None for all).
        weights: of each.
    """

    members: list[tuple[Predictor, list[str] | None]]
    weights: list[float]

    @property
    def alone(self) -> list[Predictor]:
        """Its members."""
        return [predictor for predictor, _ in self.members]

    @property
    def parameters(self) -> int:
        return sum(predictor.parameters for predictor, _ in self.members)

    @property
    def bytes(self) -> int:
        return sum(predictor.bytes for predictor, _ in self.members)

    @property
    def encoder(self) -> Encoder:
        return self.members[0][0].encoder

    def predict(self, rows: Dataset, title: str) -> Predictions:
        lang = rows["lang"][0]
        reading = [n for n, (_, langs) in enumerate(self.members) if langs is None or lang in langs]
        chosen = reading or list(range(len(self.members)))  # nobody reads it: what they make of it all the same
        weights = [self.weights[n] for n in chosen]
        each = [self.members[n][0].predict(rows, title) for n in chosen]
        axis = self.encoder.task.distributed
        means = [
            torch.from_numpy(mean_logits([cells.numpy() for cells in row], weights, axis))
            for row in zip(*(one.answers for one in each), strict=True)
        ]
        return Predictions(means, self.encoder.task.probabilities(means, None, {}), each[0].encoded)

    def predict_one(self, row: Mapping[str, list[str]]) -> None:
        for predictor, _ in self.members:
            predictor.predict_one(row)

    def release(self) -> None:
        for predictor, _ in self.members:
            predictor.release()

    def cells(
        self, encoded: Encoded, title: str, start: int = 0, pooling: str | None = None
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor | None]]:
        """Of members that all read alike, see `Predictor.cells`; sentence vectors are averaged too."""
        task, titles = self.encoder.task, [title, *([""] * (len(self.members) - 1))]
        each = [
            member.cells(encoded, name, start, pooling) for (member, _), name in zip(self.members, titles, strict=True)
        ]
        for found in zip(*each, strict=True):
            counts = task.positions(encoded[found[0][0]]).tolist()
            rows = zip(*(cells.split(counts) for _, cells, _ in found), strict=True)
            means = [mean_logits([cells.numpy() for cells in row], self.weights, task.distributed) for row in rows]
            cells = torch.from_numpy(np.concatenate(means))
            vectors = [vectors for *_, vectors in found if vectors is not None]
            yield found[0][0], cells, torch.stack(vectors).mean(0) if vectors else None


AnyPredictor = Predictor | EnsemblePredictor
