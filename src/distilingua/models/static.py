"""The smallest student: a vector for every piece, their mean, and a small perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from distilingua.errors import UserError, positive, refuse
from distilingua.models.processors import read_tokenizer
from distilingua.models.scratch import OwnVocabulary, check_values
from distilingua.models.source import TeacherSource
from distilingua.tasks.slow import PreTrainedModel, PreTrainedTokenizerBase
from distilingua.tasks.task import Task


@dataclass
class Static(OwnVocabulary):
    """Vectors of pieces, their weighted mean, and a perceptron of one hidden layer, see `BagForSequenceClassification`.

    It takes a text for a bag of pieces: it is small and fast, and blind to their order. Its tokenizer is trained on the
    pair's own text.

    Args:
        path: whose vectors of pieces it starts from, see `piece_vectors`: hub repository, folder, or
            `package:NAME/FOLDER`; null for random ones.
        revision: commit of the repository; pin it for runs you want to repeat.
        hidden_size: width of a piece's vector.
        feed_forward: width of the perceptron's hidden layer.
        vocabulary: pieces at most.
        dropout: probability, of the sentence's vector and of the hidden layer.
        lowercase: whether case carries no meaning.
        prefix: goes in front of every text.
        lr: peak learning rate unless `optimizer.lr` is set, see conf/optimizer: vectors without layers above them want
            larger steps than a transformer.

    Relations:
        model2vec, the library, distils into the vocabulary of one teacher and trains in a loop of its own, so none of
        it would be left here but a mean.
    """

    path: str | None = None
    revision: str | None = None
    hidden_size: int = 128
    feed_forward: int = 256
    vocabulary: int = 4000
    dropout: float = 0.1
    lowercase: bool = True
    prefix: str = ""
    lr: float = 1e-2
    backbones: ClassVar[Sequence[str]] = ("encoder",)
    autos: ClassVar[Sequence[str]] = ("AutoModelForSequenceClassification",)
    layered: ClassVar[bool] = False

    def check(self, max_length: int | None = None, role: str = "student") -> None:
        check_values(self, role)
        refuse(positive(f"{role}.lr", self.lr, "1e-2"))
        if self._source is not None:
            self._source.check(role=role)

    def origin(self) -> Any:
        return None if self._source is None else self._source.origin()

    def tokenizer(self, rows: Dataset, cache: Path, words: bool = False) -> PreTrainedTokenizerBase:
        if any(rows["text_pair"]):
            raise UserError(
                "student: a bag of pieces cannot tell the two sentences of a pair apart. Choose student=nano, or a "
                "task that reads one text."
            )
        return super().tokenizer(rows, cache, words)

    def model(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        from distilingua.models.bag import SCALE, BagConfig, BagForSequenceClassification

        config = BagConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            feed_forward=self.feed_forward,
            dropout=self.dropout,
            pad_token_id=tokenizer.pad_token_id,
            **task.model_options,
        )
        model = BagForSequenceClassification(config)
        if self._source is not None:
            weight = model.get_input_embeddings().weight
            numbers, vectors = piece_vectors(tokenizer, self._source)
            if len(numbers) > 1:
                start = principal(vectors, self.hidden_size)
                # as large as random ones, for the learning rate
                weight.data[numbers, : start.shape[1]] = start * (SCALE / start.std())
        return model

    @property
    def _source(self) -> TeacherSource | None:
        return None if self.path is None else TeacherSource(self.path, revision=self.revision, role="student")


def piece_vectors(tokenizer: PreTrainedTokenizerBase, source: TeacherSource) -> tuple[list[int], Tensor]:
    """What a model's input embedding says of another tokenizer's pieces: the vector of the same piece, or the mean over
    the pieces that the model takes it apart into.

    Args:
        tokenizer: whose pieces are asked for.
        source: the model that is asked.

    Returns:
        Numbers of the pieces that the model can spell, and their vectors, (pieces, width of the model). Left out are
        special pieces, those of white space alone, and those that the model spells with its unknown piece.
    """
    from transformers import AutoModel

    from distilingua.models.loading import load_whole

    theirs = read_tokenizer(source.given, source.location, source.local, source.revision)
    model, _ = load_whole(source.given, AutoModel, source.location, source.revision)
    known = model.get_input_embeddings().weight.detach()
    surfaces = {n: tokenizer.decode([n]).strip() for n in set(range(len(tokenizer))) - set(tokenizer.all_special_ids)}
    surfaces = {n: surface for n, surface in surfaces.items() if surface}
    spelt = theirs(list(surfaces.values()), add_special_tokens=False)["input_ids"]
    known_as = {n: ids for n, ids in zip(surfaces, spelt, strict=True) if ids and theirs.unk_token_id not in ids}
    vectors = [known[ids].mean(0) for ids in known_as.values()]
    return list(known_as), torch.stack(vectors) if vectors else known[:0]


def principal(vectors: Tensor, width: int) -> Tensor:
    """Vectors in fewer dimensions, those in which they differ most (Pearson 1901).

    Args:
        vectors: (vectors, dimensions).
        width: dimensions to keep.

    Returns:
        (vectors, width), centred; as many dimensions as they have where that is fewer.
    """
    centred = vectors.double() - vectors.double().mean(0)
    *_, directions = torch.linalg.svd(centred, full_matrices=False)
    return (centred @ directions[:width].mT).to(vectors.dtype)
