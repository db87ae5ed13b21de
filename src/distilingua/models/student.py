"""Where a student comes from. A new kind is a class with these two methods and a YAML under `conf/student/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distilingua.artifacts import cached, rows_fingerprint
from distilingua.errors import UserError
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.text_classification import TextClassification


class Student(Protocol):
    def tokenizer(self, rows: Dataset, cache: Path) -> PreTrainedTokenizerBase:
        """The tokenizer; `rows` are the texts that training may see."""

    def model(self, task: TextClassification, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The untrained student with the task's head. Random weights come from torch's generator: seed it before."""


@dataclass
class Scratch:
    """A small transformer with random weights and a tokenizer trained on the pair's own text.

    Args:
        layers, hidden_size, heads, feed_forward: the transformer's shape.
        vocabulary: pieces at most.
        positions: the longest input, in pieces.
        dropout: probability, in embeddings, attention and layers.
        lowercase: whether case carries no meaning.
        architecture: any encoder type of transformers whose configuration has BERT's names.
    """

    layers: int
    hidden_size: int
    heads: int
    feed_forward: int
    vocabulary: int = 4000
    positions: int = 128
    dropout: float = 0.1
    lowercase: bool = True
    architecture: str = "bert"

    def tokenizer(self, rows: Dataset, cache: Path) -> PreTrainedTokenizerBase:
        recipe = {
            "texts": rows_fingerprint(rows, ["text", "text_pair"]),
            "size": self.vocabulary,
            "lowercase": self.lowercase,
        }

        def build(folder: Path) -> None:
            texts = (text for column in ("text", "text_pair") for text in rows[column] if text)
            train_tokenizer(texts, self.vocabulary, self.lowercase).save_pretrained(folder)

        return AutoTokenizer.from_pretrained(cached(cache, "tokenizers", recipe, build))

    def model(self, task: TextClassification, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        if task.max_length > self.positions:
            raise UserError(
                f"task.max_length={task.max_length} is more than the student's {self.positions} positions. "
                f"Set student.positions={task.max_length}."
            )
        config = AutoConfig.for_model(
            self.architecture,
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.feed_forward,
            max_position_embeddings=self.positions,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            pad_token_id=tokenizer.pad_token_id,
            **task.model_options,
        )
        return task.model_class.from_config(config)


@dataclass
class Pretrained:
    """Any encoder of the hub, or a folder in its format, with its own tokenizer and a new head.

    Args:
        path: repository or folder.
        revision: commit of the repository; pin it for runs you want to repeat.
    """

    path: str
    revision: str | None = None

    def tokenizer(self, rows: Dataset, cache: Path) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.path, revision=self.revision)

    def model(self, task: TextClassification, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        return task.model_class.from_pretrained(self.path, revision=self.revision, **task.model_options)
