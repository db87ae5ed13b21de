"""Judges a model: scores per language, size, speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distilingua.data.datamodule import tokenise
from distilingua.distillation.soft_labels import mean_logits
from distilingua.models.inference import answers_of
from distilingua.models.teacher import in_precision
from distilingua.tasks.task import Encoded, Task


@dataclass
class Judgement:
    """A model on the held-out rows of one language."""

    scores: dict[str, float]
    texts: list[str]
    truth: list[str]
    predicted: list[str]


@dataclass
class Reader:
    """A model with what it needs to read text. The model loads when it is first asked for.

    Args:
        load: gives the model.
        folder: where its files are, if anywhere.
        precision: what it computes in, see `in_precision`.
    """

    load: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    prefix: str = ""
    folder: Path | None = None
    precision: str = "32"

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, int, int]:
        model = self.load()
        tensors = list(model.parameters())  # counted here: int8 weights are no parameters any more
        sizes = sum(p.numel() for p in tensors), sum(p.numel() * p.element_size() for p in tensors)
        return in_precision(model, self.precision), *sizes

    @property
    def model(self) -> PreTrainedModel:
        return self._loaded[0]

    @property
    def parameters(self) -> int:
        return self._loaded[1]

    @property
    def bytes(self) -> int:
        """Of its weights on disk; of its tensors, when it is saved nowhere."""
        files = list(self.folder.glob("*.safetensors")) if self.folder is not None else []
        return sum(file.stat().st_size for file in files) or self._loaded[2]

    def answers(self, rows: Dataset, task: Task, title: str) -> tuple[list[Tensor], list[Encoded]]:
        """Its answer to every row, see `Task.answer`, and the rows as it read them."""
        encoded = tokenise(rows, task, self.tokenizer, self.prefix, cache=None)
        return answers_of(self.model, task, encoded, self.tokenizer.pad_token_id, title), encoded

    def answer(self, row: Mapping[str, list[str]], task: Task) -> None:
        """Reads one row, for the clock."""
        inputs, at = task.collate(task.encode(row, self.tokenizer, self.prefix), self.tokenizer.pad_token_id)
        task.answer(self.model, {k: v.to(self.model.device) for k, v in inputs.items()}, at)[0].cpu()


@dataclass
class Readers:
    """Several models that answer as one: the weighted mean of the probabilities of those that read the language.

    Args:
        members: the models, and the languages each reads (None for all).
        weights: of each.
    """

    members: list[tuple[Reader, list[str] | None]]
    weights: list[float]

    @property
    def parameters(self) -> int:
        return sum(reader.parameters for reader, _ in self.members)

    @property
    def bytes(self) -> int:
        return sum(reader.bytes for reader, _ in self.members)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.members[0][0].tokenizer

    def answers(self, rows: Dataset, task: Task, title: str) -> tuple[list[Tensor], list[Encoded]]:
        lang = rows["lang"][0]
        reading = [n for n, (_, langs) in enumerate(self.members) if langs is None or lang in langs]
        chosen = reading or list(range(len(self.members)))  # nobody reads it: what they make of it all the same
        weights = [self.weights[n] for n in chosen]
        each, encoded = zip(*(self.members[n][0].answers(rows, task, title) for n in chosen), strict=True)
        means = [mean_logits([cells.numpy() for cells in row], weights) for row in zip(*each, strict=True)]
        return [torch.from_numpy(mean) for mean in means], encoded[0]

    def answer(self, row: Mapping[str, list[str]], task: Task) -> None:
        for reader, _ in self.members:
            reader.answer(row, task)


def judge(reader: Reader | Readers, task: Task, held_out: Mapping[str, Dataset], name: str) -> dict[str, Judgement]:
    """Scores and predictions per language."""
    judgements = {}
    for lang, rows in held_out.items():
        answers, encoded = reader.answers(rows, task, f"Judging {name} on {lang}")
        scores, predicted = task.judge(answers, rows, encoded, reader.tokenizer)
        judgements[lang] = Judgement(
            {metric: round(value, 4) for metric, value in scores.items()},
            [task.title(row) for row in rows.select_columns(["text", "text_pair"])],
            [task.show(label) for label in rows["label"]],
            predicted,
        )
    return judgements


def latency(
    readers: Mapping[str, Reader | Readers], task: Task, rows: Dataset, sentences: int = 40
) -> dict[str, float]:
    """Median milliseconds per sentence, one sentence at a time, tokenising included.

    The models take turns on every sentence, so that whatever else the machine is doing hits them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in readers}
    sample = rows.select(range(min(sentences, len(rows))))
    with torch.inference_mode():
        for i in range(-3, len(sample)):  # the first three warm up
            row = sample[max(i, 0) : max(i, 0) + 1]
            for name, reader in readers.items():
                start = time.perf_counter()
                reader.answer(row, task)
                if i >= 0:
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def retention(
    teacher: Mapping[str, Judgement], student: Mapping[str, Judgement], score: str, source: str, reads: list[str] | None
) -> dict[str, Any]:
    """Student's score / teacher's score per language, their mean, and the worst.

    In a language the teacher does not read, its score is next to chance and would flatter every student. The
    yardstick there is what the teacher reaches in the source language, which it reads in place of the target.

    Args:
        score: the metric; more is better.
        source: the source language.
        reads: the teacher's languages; None for all.
    """
    kept = {}
    for lang, judgement in student.items():
        yardstick = lang if reads is None or lang in reads else source
        kept[lang] = round(judgement.scores[score] / max(teacher[yardstick].scores[score], 1e-9), 4)
    worst = min(kept, key=lambda lang: kept[lang])
    return {
        "mean": round(statistics.mean(kept.values()), 4),
        "worst_language": worst,
        "worst": kept[worst],
        "languages": kept,
    }
