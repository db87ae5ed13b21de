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

from distilingua.data.collate import pad
from distilingua.data.datamodule import tokenise
from distilingua.models.inference import logits_of
from distilingua.models.teacher import in_precision
from distilingua.tasks.text_classification import TextClassification


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

    def logits(self, rows: Dataset, task: TextClassification, title: str) -> Tensor:
        """(rows, classes)."""
        token_ids = tokenise(rows, task, self.tokenizer, self.prefix, cache=None)
        return logits_of(self.model, task, token_ids, self.tokenizer.pad_token_id, title)

    def answer(self, row: Mapping[str, list[str]], task: TextClassification) -> None:
        """Reads one sentence, for the clock."""
        inputs = pad(task.tokenise(row, self.tokenizer, self.prefix), self.tokenizer.pad_token_id)
        task.logits(self.model(**{k: v.to(self.model.device) for k, v in inputs.items()})).argmax().item()


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

    def logits(self, rows: Dataset, task: TextClassification, title: str) -> Tensor:
        lang = rows["lang"][0]
        reading = [n for n, (_, langs) in enumerate(self.members) if langs is None or lang in langs]
        chosen = reading or list(range(len(self.members)))  # nobody reads it: what they make of it all the same
        shares = torch.tensor([self.weights[n] for n in chosen])
        answers = torch.stack([self.members[n][0].logits(rows, task, title).log_softmax(-1) for n in chosen])
        return torch.logsumexp(answers + (shares / shares.sum()).log()[:, None, None], dim=0)

    def answer(self, row: Mapping[str, list[str]], task: TextClassification) -> None:
        for reader, _ in self.members:
            reader.answer(row, task)


def judge(
    reader: Reader | Readers, task: TextClassification, held_out: Mapping[str, Dataset], name: str
) -> dict[str, Judgement]:
    """Scores and predictions per language."""
    judgements = {}
    for lang, rows in held_out.items():
        logits = reader.logits(rows, task, f"Judging {name} on {lang}")
        scores = task.metrics()(logits, task.targets(rows))
        judgements[lang] = Judgement(
            {metric: round(float(value), 4) for metric, value in scores.items()},
            rows["text"][:],
            rows["label"][:],
            task.decode(logits),
        )
    return judgements


def latency(
    readers: Mapping[str, Reader | Readers], task: TextClassification, rows: Dataset, sentences: int = 40
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
    teacher: Mapping[str, Judgement], student: Mapping[str, Judgement], source: str, reads: list[str] | None
) -> dict[str, Any]:
    """Student accuracy / teacher accuracy per language, their mean, and the worst.

    In a language the teacher does not read, its accuracy is next to chance and would flatter every student. The
    yardstick there is what the teacher reaches in the source language, which it reads in place of the target.

    Args:
        source: the source language.
        reads: the teacher's languages; None for all.
    """
    kept = {}
    for lang, judgement in student.items():
        yardstick = lang if reads is None or lang in reads else source
        kept[lang] = round(judgement.scores["accuracy"] / max(teacher[yardstick].scores["accuracy"], 1e-9), 4)
    worst = min(kept, key=lambda lang: kept[lang])
    return {
        "mean": round(statistics.mean(kept.values()), 4),
        "worst_language": worst,
        "worst": kept[worst],
        "languages": kept,
    }
