"""A model's logits for many texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from distilingua.data.collate import pad
from distilingua.tasks.text_classification import TextClassification


@torch.inference_mode()
def logits_of(
    model: PreTrainedModel,
    task: TextClassification,
    token_ids: Sequence[list[int]],
    pad_id: int,
    title: str,
    batch_size: int = 128,
) -> Tensor:
    """Logits, (texts, classes), in the order of the texts; computed in evaluation mode, texts of like length together.

    Args:
        token_ids: as `task.tokenise` returns them.
        pad_id: the model's padding piece.
        title: of the progress bar.
    """
    model.eval()
    order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    out = torch.empty(len(token_ids), len(task.labels))
    for start in track(range(0, len(order), batch_size), description=title, transient=True):
        rows = order[start : start + batch_size]
        inputs = pad([token_ids[i] for i in rows], pad_id)
        out[rows] = task.logits(model(**{k: v.to(model.device) for k, v in inputs.items()})).cpu()
    return out
