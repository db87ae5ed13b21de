"""Where a student comes from. A new kind is a class with the methods of `Student` and a YAML under `conf/student/`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from distilingua.artifacts import cached, rows_fingerprint
from distilingua.errors import UserError, refuse, share, text, truth, whole
from distilingua.models.depth import chosen_layers, keep_layers, layer_list, places
from distilingua.models.source import TeacherSource, check_pieces, check_positions, read_tokenizer, readable
from distilingua.tasks.task import Task, model_class

if TYPE_CHECKING:  # slow to import, and `checks.check` must answer within a second or two
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class Student(Protocol):
    prefix: str
    """Goes in front of every text it reads."""

    @property
    def backbones(self) -> Sequence[str]:
        """What it can be, as far as is known before weights load; see `Task.backbone`. One that can have some heads of
        its kind alone names them in `autos`, see `Task.auto`; one without layers to compare says `layered = False`."""

    def check(self, max_length: int | None = None, role: str = "student") -> None:
        """
        Args:
            max_length: pieces of a text, see `Task.max_length`; None where that is not known.
            role: what the user calls it, for messages; a teacher may start from random weights too.

        Raises:
            UserError: what cannot work and is known before weights load.
        """

    def origin(self) -> Any:
        """What its first weights come from, for cache addresses; None for nowhere."""

    def tokenizer(self, rows: Dataset, cache: Path) -> PreTrainedTokenizerBase:
        """The tokenizer; `rows` are the texts that training may see."""

    def model(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The untrained student with the task's head. Random weights come from torch's generator: seed it before."""


class OwnVocabulary:
    """A student whose tokenizer is trained on the pair's own text: `vocabulary` pieces at most."""

    vocabulary: int
    lowercase: bool
    spells: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    """Columns that its tokenizer learns from."""

    def tokenizer(self, rows: Dataset, cache: Path) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        recipe = {
            "kind": self.train_tokenizer.__qualname__,
            "texts": rows_fingerprint(rows, self.spells),
            "size": self.vocabulary,
            "lowercase": self.lowercase,
        }

        def build(folder: Path) -> None:
            texts = (text for column in self.spells for text in rows[column][:] if text)
            self.train_tokenizer(texts).save_pretrained(folder)

        return AutoTokenizer.from_pretrained(cached(cache, "tokenizers", recipe, build))

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
        check_sizes(self, role, layers=1, feed_forward=1, positions=1, vocabulary=32)  # letters alone are as many
        refuse(
            truth(f"{role}.lowercase", self.lowercase),
            None
            if max_length is None or max_length <= self.positions
            else f"task.max_length={max_length} is more than the {role}'s {self.positions} positions. "
            f"Set {role}.positions={max_length}, or a smaller task.max_length.",
        )

    def origin(self) -> Any:
        return None

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


def check_sizes(model: Any, role: str, **least: int) -> None:
    """Raises UserError for a shape that random weights cannot have.

    Args:
        model: with `hidden_size`, `heads`, `dropout` and `prefix`.
        role: what the user calls it.
        least: other sizes, and what each of them is at least.
    """
    least |= {"hidden_size": 1, "heads": 1}
    refuse(
        *(whole(f"{role}.{name}", getattr(model, name), size) for name, size in least.items()),
        share(f"{role}.dropout", model.dropout),
        text(f"{role}.prefix", model.prefix),
    )
    width, heads = model.hidden_size, model.heads
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


@dataclass
class Pretrained:
    """Any encoder of the hub, or a folder in its format, whole or with up to three cuts, and a head for the task.

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
        folder = checked_folder(self._source, max_length, role)
        if folder is None:
            chosen_layers(self.layers, total=1000)  # how many the hub's model has is not known yet; the form is
            return
        from transformers import AutoConfig

        with readable(f"{role}.path={self.path}", folder):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_plain(self.path, config)
        chosen_layers(self.layers, config.num_hidden_layers)
        if self.embedding_rank is not None:
            from distilingua.models.factorise import check_rank

            check_rank(self.embedding_rank, config.vocab_size, config.hidden_size)

    def origin(self) -> Any:
        return self._source.origin()

    def tokenizer(self, rows: Dataset, cache: Path) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        if not self.trim_vocabulary:
            return self._tokenizer
        recipe = {
            "trimmed": self.origin(),
            "texts": rows_fingerprint(rows, ["text", "text_pair"]),
            "prefix": self.prefix,
        }

        from distilingua.models.trimming import trim_tokenizer

        def build(folder: Path) -> None:
            texts = [self.prefix + text for text in rows["text"][:]] + [text for text in rows["text_pair"][:] if text]
            trim_tokenizer(self._tokenizer, texts, folder)

        return AutoTokenizer.from_pretrained(cached(cache, "tokenizers", recipe, build))

    def model(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        import torch

        from distilingua.models.factorise import factorise
        from distilingua.models.trimming import kept_rows, reserved_positions, trim_embeddings

        with readable(f"student.path={self.path}", self._source.local):
            model, report = model_class(task).from_pretrained(
                self._source.location,
                revision=self.revision,
                dtype=torch.float32,  # it will be trained; some files hold half precision
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                **task.model_options,
            )
        _check_plain(self.path, model.config)
        check_pieces(model, self._tokenizer, f"student.path={self.path}")
        positions = getattr(model.config, "max_position_embeddings", None)
        check_positions(task.max_length, positions, reserved_positions(model), "student")
        if model.config.pad_token_id is None:  # a decoder looks for the last piece that is not padding
            model.config.pad_token_id = tokenizer.pad_token_id
        task.prepare_model(model, tokenizer)
        new = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
        total, pieces = model.config.num_hidden_layers, model.config.vocab_size
        layers, place = chosen_layers(self.layers, total), layer_list(model)
        sizes = [_bytes(model)]
        if self.layers is not None:
            model, missing = keep_layers(model, layers)
            new = {*missing, *(after for before in new for after in places(before, str(place), layers))}
        sizes.append(_bytes(model))
        if self.trim_vocabulary:
            trim_embeddings(model, kept_rows(tokenizer, self._tokenizer), tokenizer)
        sizes.append(_bytes(model))
        if self.embedding_rank is not None:
            factorise(model, self.embedding_rank)
        sizes.append(_bytes(model))
        # in config.json, so that a saved student still knows
        model.config.first_weights = {
            "path": self.path,
            "layers": layers,
            "of_layers": total,
            "of_pieces": pieces,
            "new": sorted(new),
            "saved_bytes": [before - after for before, after in pairwise(sizes)],
        }
        return model

    @property
    def _source(self) -> TeacherSource:
        return TeacherSource(self.path, revision=self.revision, prefix=self.prefix)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """The whole one."""
        source = self._source
        return read_tokenizer(f"student.path={self.path}", source.location, source.local, self.revision)


def checked_folder(source: TeacherSource, max_length: int | None, role: str) -> Path | None:
    """Where a student's first weights are, after the rules that a teacher has to keep; None on the hub.

    Raises:
        UserError: what the source refuses, under the name `role`.
    """
    try:
        source.check(max_length, role)
        return source.local
    except UserError as error:  # one of these rules does not know who asks
        raise UserError(str(error).replace("teacher.path", f"{role}.path")) from None


def load_student(folder: str | Path, task: Task) -> PreTrainedModel:
    """A student as `save_pretrained` wrote it, its embedding whole or factorised; in evaluation mode."""
    from safetensors.torch import load_file
    from transformers import AutoConfig

    import distilingua.models.bag  # noqa: F401  # transformers does not know it otherwise
    from distilingua.models.factorise import FactorisedEmbedding

    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "embedding_rank", None) is None:
        return model_class(task).from_pretrained(folder)
    model = model_class(task).from_config(config)
    plain: nn.Embedding = model.get_input_embeddings()
    thin = FactorisedEmbedding(config.vocab_size, config.embedding_rank, plain.embedding_dim, plain.padding_idx)
    model.set_input_embeddings(thin.to(plain.weight))
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval()


def _check_plain(path: str, config: PreTrainedConfig) -> None:
    if getattr(config, "embedding_rank", None) is not None:  # transformers would draw a random embedding
        raise UserError(
            f"student.path={path}: the model's embedding is factorised (rank {config.embedding_rank}), and a student "
            f"starts from a plain one. Save it again after distilingua.models.factorise.unfactorise(model)."
        )


def _bytes(model: PreTrainedModel) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
