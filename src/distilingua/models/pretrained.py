"""Students that begin as a model of others, complete or with cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset

from distilingua.artifacts import cached, rows_fingerprint
from distilingua.columns import texts_of
from distilingua.errors import UserError
from distilingua.models.folder import readable
from distilingua.models.processors import read_tokenizer
from distilingua.models.source import TeacherSource
from distilingua.models.student import Student
from distilingua.tasks.slow import PreTrainedModel, PreTrainedTokenizerBase
from distilingua.tasks.task import Task


@dataclass
class Pretrained(Student):
    """Any encoder of the hub, or a folder in its format, complete or with up to three cuts, and a head for the task.

    The cuts do not depend on one another: fewer layers, fewer pieces, a thinner embedding.

    Args:
        path: hub repository, folder, or `package:NAME/FOLDER` for a model that a Python package carries.
        revision: commit of the repository; pin it for runs you want to repeat.
        layers: those to keep, see `chosen_layers`; null for all.
        trim_vocabulary: keep only the pieces that the pair's texts use, see `trim_tokenizer`.
        embedding_rank: width of a factorised embedding, see `factorise`; null leaves it whole.
        prefix: goes in front of every text; some encoders want one (E5: "query: ").
    """

    path: str
    revision: str | None = None
    layers: str | Sequence[int] | None = None
    trim_vocabulary: bool = False
    embedding_rank: int | None = None
    prefix: str = ""

    @property
    def backbones(self) -> Sequence[str]:
        return [kind for kind in self._source.backbones if kind != "speech encoder"]

    def check(self, max_length: int | None = None, role: str = "student") -> None:
        from transformers import AutoConfig

        from distilingua.models.depth import chosen_layers
        from distilingua.models.factorise import check_rank

        source = self._source
        source.check(max_length, role)
        if source.local is None:
            chosen_layers(self.layers, total=1000)  # how many the hub's model has is not known yet; the form is
            return
        with readable(source.given, source.local):
            config = AutoConfig.from_pretrained(source.local, trust_remote_code=False)
        chosen_layers(self.layers, config.num_hidden_layers)
        if self.embedding_rank is not None:
            check_rank(self.embedding_rank, config.vocab_size, config.hidden_size)

    def origin(self) -> Any:
        return self._source.origin()

    def tokenizer(self, rows: Dataset, cache: Path, words: bool = False) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        from distilingua.models.trimming import trim_tokenizer

        if not self.trim_vocabulary:
            return self._tokenizer
        recipe = {
            "trimmed": self.origin(),
            "texts": rows_fingerprint(rows, ["text", "text_pair"]),
            "prefix": self.prefix,
        }

        def build(folder: Path) -> None:
            texts = [self.prefix + text for text in texts_of(rows, "text")] + [
                text for text in texts_of(rows, "text_pair") if text
            ]
            trim_tokenizer(self._tokenizer, texts, folder)

        return AutoTokenizer.from_pretrained(cached(cache, "tokenizers", recipe, build), trust_remote_code=False)

    def model(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        from distilingua.models.depth import chosen_layers, keep_layers
        from distilingua.models.factorise import factorise
        from distilingua.models.loading import load_with_head
        from distilingua.models.trimming import kept_rows, trim_embeddings

        model, _ = load_with_head("student", self._source.location, task, self._tokenizer, tokenizer, self.revision)
        if getattr(model.config, "embedding_rank", None) is not None:  # transformers has drawn a random embedding
            raise UserError(
                f"student.path={self.path}: the model's embedding is factorised (rank {model.config.embedding_rank}), "
                f"and a student starts from a plain one. Save it again after "
                f"distilingua.models.factorise.unfactorise(model)."
            )
        if self.layers is not None:
            model = keep_layers(model, chosen_layers(self.layers, model.config.num_hidden_layers))
        if self.trim_vocabulary:
            trim_embeddings(model, kept_rows(tokenizer, self._tokenizer), tokenizer)
        if self.embedding_rank is not None:
            factorise(model, self.embedding_rank)
        return model

    @property
    def _source(self) -> TeacherSource:
        return TeacherSource(self.path, revision=self.revision, prefix=self.prefix, role="student")

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """The complete one."""
        source = self._source
        return read_tokenizer(source.given, source.location, source.local, self.revision)
