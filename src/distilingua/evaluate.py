"""Judges a model: scores per language, size, speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distilingua.data.collate import pad
from distilingua.data.datamodule import tokenise
from distilingua.models.inference import logits_of
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
    """A model with what it needs to read text."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prefix: str = ""


def judge(reader: Reader, task: TextClassification, held_out: Mapping[str, Dataset], name: str) -> dict[str, Judgement]:
    """Scores and predictions per language."""
    judgements = {}
    for lang, rows in held_out.items():
        token_ids = tokenise(rows, task, reader.tokenizer, reader.prefix, cache=None)
        logits = logits_of(reader.model, task, token_ids, reader.tokenizer.pad_token_id, f"Judging {name} on {lang}")
        scores = task.metrics()(logits, task.targets(rows))
        judgements[lang] = Judgement(
            {metric: round(float(value), 4) for metric, value in scores.items()},
            rows["text"][:],
            rows["label"][:],
            task.decode(logits),
        )
    return judgements


def latency(
    readers: Mapping[str, Reader], task: TextClassification, rows: Dataset, sentences: int = 40
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
                ids = task.tokenise(row, reader.tokenizer, reader.prefix)
                inputs = {k: v.to(reader.model.device) for k, v in pad(ids, reader.tokenizer.pad_token_id).items()}
                task.logits(reader.model(**inputs)).argmax().item()
                if i >= 0:
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def size(model: PreTrainedModel, folder: Path | None) -> dict[str, int]:
    """Weights, and bytes of its safetensors files on disk (of its tensors, when it is not saved anywhere)."""
    files = list(folder.glob("*.safetensors")) if folder is not None else []
    in_memory = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(file.stat().st_size for file in files) or in_memory,
    }


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
