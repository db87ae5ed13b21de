"""Students with random weights, and tokenizers trained on the pair's own text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset

from distilingua.artifacts import cached, rows_fingerprint
from distilingua.columns import select, texts_of
from distilingua.errors import UserError, refuse, share, text, truth, whole
from distilingua.models.student import Student
from distilingua.tasks.slow import PreTrainedModel, PreTrainedTokenizerBase
from distilingua.tasks.task import Task, model_class

ENOUGH = 200_000  # texts for a vocabulary to learn from; of more, rows at equal distances are taken
LETTERS = 32  # tokens that letters and special tokens take alone


class OwnVocabulary(Student):
    """A student whose tokenizer is trained on the pair's own text: `vocabulary` pieces at most."""

    vocabulary: int
    lowercase: bool
    spells: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    """Columns that its tokenizer learns from."""

    def tokenizer(self, rows: Dataset, cache: Path, words: bool = False) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        from distilingua.models.vocabulary import without_spaces

        recipe = {
            "kind": self.train_tokenizer.__qualname__,
            "texts": rows_fingerprint(rows, self.spells),
            "size": self.vocabulary,
            "lowercase": self.lowercase,
            **({"words": True} if words else {}),
        }

        def build(folder: Path) -> None:
            some = select(rows, np.arange(0, len(rows), 1 + len(rows) // ENOUGH))
            texts = (text for column in self.spells for text in texts_of(some, column) if text)
            tokenizer = self.train_tokenizer(texts)
            (without_spaces(tokenizer, self.vocabulary) if words else tokenizer).save_pretrained(folder)

        return AutoTokenizer.from_pretrained(cached(cache, "tokenizers", recipe, build), trust_remote_code=False)

    def train_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        from distilingua.models.vocabulary import train_tokenizer

        return train_tokenizer(texts, self.vocabulary, self.lowercase)


@dataclass
class Scratch(OwnVocabulary):
    """A small transformer with random weights and a tokenizer trained on the pair's own text.

    Args:
        layers, hidden_size, heads, feed_forward: the transformer's shape.
        vocabulary: pieces at most.
        positions: the longest input, in pieces.
        dropout: probability, in embeddings, attention and layers.
        lowercase: whether case carries no meaning.
        architecture: any encoder type of transformers whose configuration has BERT's names.
        prefix: goes in front of every text.
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
    prefix: str = ""
    backbones: ClassVar[Sequence[str]] = ("encoder",)

    def check(self, max_length: int | None = None, role: str = "student") -> None:
        check_values(self, role)
        if max_length is not None and max_length > self.positions:
            raise UserError(
                f"task.max_length={max_length} is more than the {role}'s {self.positions} positions. "
                f"Set {role}.positions={max_length}, or a smaller task.max_length."
            )

    def model(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        self.check(task.max_length)
        return random_model(
            task,
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
        )


def check_values(student: Any, role: str) -> None:
    """Raises UserError for values that no student with random weights can have, by the types of its fields.

    Args:
        student: a data class with `hidden_size` and `dropout`.
        role: what the user calls it.
    """
    problems = [share(f"{role}.dropout", student.dropout)]
    for field in fields(student):
        name, value = f"{role}.{field.name}", getattr(student, field.name)
        kind = getattr(field.type, "__name__", field.type)  # a text where its file postpones annotations
        if kind == "int":
            problems.append(whole(name, value, LETTERS if field.name == "vocabulary" else 1))
        elif kind == "bool":
            problems.append(truth(name, value))
        elif kind == "str":
            problems.append(text(name, value))
    refuse(*problems)
    width, heads = student.hidden_size, getattr(student, "heads", 1)
    if width % heads:
        raise UserError(
            f"{role}.hidden_size={width} is no multiple of {role}.heads={heads}. "
            f"Set {role}.hidden_size={width // heads * heads or heads}."
        )


def random_model(task: Task, architecture: str, **shape: Any) -> PreTrainedModel:
    """A model with random weights and the task's head.

    Args:
        architecture: as transformers calls it.
        shape: fields of its configuration.

    Raises:
        UserError: an architecture that does not exist, or has no such head.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.for_model(architecture, **shape, **task.model_options)
        model: PreTrainedModel = model_class(task).from_config(config)
    except ValueError as error:
        if not str(error).startswith("Unrecognized"):
            raise
        raise UserError(
            f"student.architecture={architecture}: transformers has no {task.auto} of it. Choose another."
        ) from None
    return model
