"""Students of every kind that is no plain encoder from scratch: a model, how it reads, and rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import BertForQuestionAnswering, BertForTokenClassification

from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.encoder import Encoder
from distilingua.models.pretrained import Pretrained
from distilingua.models.seq2seq import Seq2Seq
from distilingua.models.static import Static
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from distilingua.tasks.translation import Translation
from tests.conftest import tiny_bert

TEXTS = ["the light in room 4", "please check the song of floor 99", "rain number 7 now", "lamp", "weather weather"]
Made = tuple[Any, Encoder, Dataset]


def rows_of(texts: list[str], **columns: Callable[[str], str]) -> Dataset:
    rows = [{"id": text, "lang": "en", "text": text, "text_pair": ""} for text in texts]
    return dataset_from_rows([{**row, **{name: make(row["text"]) for name, make in columns.items()}} for row in rows])


def chooser(source: Any, kept: Path) -> Made:
    """Of a student's source: chooses one of three classes."""
    torch.manual_seed(0)
    rows = rows_of(TEXTS)
    tokenizer = source.tokenizer(rows, kept / "cache")
    task = TextClassification(max_length=32).fit_labels(["light", "music", "weather"])
    return source.model(task, tokenizer).eval(), Encoder(task, tokenizer), rows


def cut(kept: Path, **cuts: Any) -> Made:
    return chooser(Pretrained(str(kept / "teacher"), **cuts), kept)


def bag(kept: Path) -> Made:
    return chooser(Static(vocabulary=60, hidden_size=16, feed_forward=16), kept)


def head(kind: Any, task: Task, rows: Any, kept: Path, texts: Sequence[str] = TEXTS) -> Made:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts, 100)
    options = task.model_options if task.labels else {}
    return kind(tiny_bert(len(tokenizer), **options)).eval(), Encoder(task, tokenizer), rows


def writing(kept: Path) -> Made:
    torch.manual_seed(0)
    rows = rows_of(TEXTS, label=lambda text: text[::-1])
    source = Seq2Seq(1, 32, 2, 32, vocabulary=60, positions=64, decoder_layers=1)
    tokenizer = source.tokenizer(rows, kept / "cache")
    task = Translation(max_length=32, beams=2)
    model = source.model(task, tokenizer)
    task.prepare_model(model, tokenizer)
    return model.eval(), Encoder(task, tokenizer), rows


def hearing(kept: Path) -> Made:
    pytest.importorskip("espeakng_loader")
    from distilingua.corpora.sound import spoken
    from distilingua.models.speech import SpeechScratch
    from distilingua.tasks.speech import SpeechRecognition

    torch.manual_seed(0)
    alphabet = " abcdefghijklmnopqrstuvwxyz"
    shape = {"layers": 1, "hidden_size": 32, "heads": 2, "feed_forward": 32, "kernel": 5, "mels": 16}
    student = SpeechScratch(**shape, dropout=0.0, alphabet=alphabet)  # type: ignore[arg-type]
    rows = rows_of(TEXTS, audio=lambda text: spoken(text, "en+m1", 180, 50))
    listener = student.tokenizer(rows, kept / "cache")
    task = SpeechRecognition(alphabet=alphabet)
    return student.model(task, listener).eval(), Encoder(task, listener), rows


PAIRS = rows_of(TEXTS, text_pair=lambda text: text, text=lambda text: "light")
TAGS = TokenClassification().fit_labels(["O", "B-a", "I-a"])
KINDS: dict[str, Callable[[Path], Made]] = {
    "layers": partial(cut, layers="first:1"),
    "trimmed": partial(cut, trim_vocabulary=True),
    "factorised": partial(cut, embedding_rank=8),
    "static": bag,
    "tags": partial(head, BertForTokenClassification, TAGS, rows_of(TEXTS)),
    "answers": partial(head, BertForQuestionAnswering, QuestionAnswering(), PAIRS),
    "speech": hearing,
    "translation": writing,
}
