"""Weights of others with the head of a task, and a student's own as a run has saved them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

import distilingua.models.bag  # transformers does not know it otherwise
import distilingua.models.pooled  # noqa: F401  # nor it
from distilingua.errors import UserError, listed
from distilingua.models.factorise import FactorisedEmbedding
from distilingua.models.folder import OWN, check_positions, readable
from distilingua.models.processors import check_tokens
from distilingua.models.trimming import reserved_rows
from distilingua.tasks.task import Task, model_class


def load_with_head(
    role: str,
    path: str | Path,
    task: Task,
    own: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    revision: str | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    """A model with the task's head, which is new where the folder has none of that shape. Encoder or decoder.

    Args:
        role: what the user calls it: teacher or student.
        path: a folder, or a name of the hub.
        own: the tokenizer that belongs to the model.
        tokenizer: the one that it will be called with: its own, or what is left of it.

    Returns:
        The model in 32 bits, and the names of weights that were not there.

    Raises:
        UserError: files that cannot be read; the tokenizer is another model's; texts may be longer than its positions.
    """
    name = f"{role}.path={path}"
    options = {"ignore_mismatched_sizes": True, **task.model_options}
    model, report = load_whole(name, model_class(task), path, revision, **options)
    if not task.hears():
        check_tokens(model, own, name)
        positions = getattr(model.config, "max_position_embeddings", None)
        check_positions(task.max_length, positions, reserved_rows(model), role)
    if model.config.pad_token_id is None:  # a decoder looks for the last token that is not padding
        model.config.pad_token_id = tokenizer.pad_token_id
    task.prepare_model(model, tokenizer)
    return model, sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})


def load_whole(
    name: str, kind: Any, path: str | Path, revision: str | None, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model in 32 bits and what transformers reports of its weights, see `check_weights`.

    Args:
        kind: an AutoModel of transformers.
    """
    with readable(name, Path(path) if Path(path).is_dir() else None):
        model, report = kind.from_pretrained(
            path,
            revision=revision,
            dtype=torch.float32,  # it may be trained; some files hold half precision, and `in_precision` comes later
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    check_weights(name, model, report)
    return model, report


LEARNT_ANEW = ("pooler", "masked_spec_embed")
"""Parts of a body that many published models come without, as their own training had no use for them."""


def check_weights(name: str, model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """A body is what its file says: only a head may be new, or of another task.

    Args:
        name: what the user set, for the message.
        report: of `from_pretrained`, with `output_loading_info`.

    Raises:
        UserError: weights of the body that the file has not, has in another shape, or has and the model does not know.
    """
    body = model.base_model_prefix + "." if model.base_model is not model else ""

    def of_body(names: Iterable[str]) -> list[str]:
        own = (one for one in names if one.startswith(body))
        return sorted(one for one in own if not any(part in one for part in LEARNT_ANEW))

    new = of_body([*report["missing_keys"], *(one for one, *_ in report["mismatched_keys"])])
    left = of_body(report["unexpected_keys"]) if body else []
    unknown = sorted(report["unexpected_keys"] if new else left)
    if new:
        raise UserError(
            f"{name}: its file lacks {listed(new, 2)}, which would be random, and has "
            f"{listed(unknown, 2) or 'nothing'} instead. Where a wrapper's name stands in front of them (module., "
            f"_orig_mod., model.), save the model inside of it with save_pretrained."
        )
    if left:
        raise UserError(
            f"{name}: its file has {listed(unknown, 2)}, and the model of its config.json has no such weights. Save "
            f"the model again with save_pretrained."
        )


def load_student(folder: str | Path, task: Task) -> PreTrainedModel:
    """A student as `save_pretrained` wrote it, its embedding whole or factorised; in evaluation mode."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "embedding_rank", None) is None:
        return model_class(task).from_pretrained(folder, trust_remote_code=False)
    model = student_of_config(config, task)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval()


def student_of_config(config: PretrainedConfig, task: Task) -> PreTrainedModel:
    """A student with random weights, its embedding whole or factorised."""
    model = model_class(task).from_config(config)
    if getattr(config, "embedding_rank", None) is not None:
        full: torch.nn.Embedding = model.get_input_embeddings()
        thin = FactorisedEmbedding(config.vocab_size, config.embedding_rank, full.embedding_dim, full.padding_idx)
        model.set_input_embeddings(thin.to(full.weight))
    return model


def note_reading(config: PretrainedConfig, tokenizer: Any, task: Task, own: Mapping[str, Any]) -> None:
    """Writes how a student reads into its configuration and tokenizer, so that pipelines of transformers read alike.

    Args:
        own: what stands under `OWN`.
    """
    if task.problem_type is not None:
        config.problem_type = task.problem_type
    setattr(config, OWN, dict(own))
    if not task.hears():  # or a pipeline with truncation=True would not know where to cut
        tokenizer.model_max_length = task.max_length
