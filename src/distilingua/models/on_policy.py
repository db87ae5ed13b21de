"""A student that writes learns from a teacher who scores what the student itself has written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distilingua.distillation.signals import IGNORE_INDEX
from distilingua.tasks.pieces import ended
from distilingua.tasks.task import PADDING


@dataclass
class OnPolicy:
    """Generalised knowledge distillation, algorithm 1: with probability λ, a batch's outputs are the student's own.

    It then sees in training the mistakes that it makes when nobody corrects it, and what the teacher would do next.
    Nothing is learnt through the choice of pieces, which has no gradient. All chance is torch's, so that a run that is
    resumed writes the same.

    Args:
        share: λ, from 0 to 1.
        longest: pieces that it writes at most.

    Reference:
        Agarwal et al. (2024), On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes.
    """

    share: float
    longest: int

    def __call__(self, batch: Mapping[str, Any], student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, Any]:
        """
        Args:
            batch: see `MultilingualDataModule`, with `teacher`, of the same vocabulary.

        Returns:
            The same batch, or, along texts that the student has just written, another one, whose rows have as many
            positions as these have pieces, and no labels: these are no references.
        """
        if torch.rand(()) >= self.share:
            return dict(batch)
        text = {name: tensor for name, tensor in batch["student"].items() if name != "labels"}
        begin, written = self.write(student, text)
        over = ended(written, student.generation_config.eos_token_id)
        at = torch.arange(written.shape[1], device=written.device).expand_as(written).masked_fill(over, PADDING)
        starts = {"student": begin, "teacher": torch.full_like(begin, _first(teacher))}
        own = {
            # not as labels, of which each kind of model makes a decoder's input in its own way
            name: {
                **{key: tensor for key, tensor in batch[name].items() if key != "labels"},
                "decoder_input_ids": torch.cat([start, written[:, :-1]], 1),
            }
            for name, start in starts.items()
        }
        labels = torch.full((int((~over).sum()),), IGNORE_INDEX, device=written.device)
        return {**batch, **own, "student_at": at, "teacher_at": at, "counts": (~over).sum(1), "labels": labels}

    def write(self, student: PreTrainedModel, text: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the decoder begins with, (rows, 1), and a text drawn from the student's own distribution, at temperature
        1 and without dropout, (rows, pieces)."""
        training = student.training
        student.eval()
        generated = student.generate(
            **text,
            do_sample=True,
            num_beams=1,
            # a generation config of a hub's model may say otherwise
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            # positions of some decoders do not count it, wherever it stands
            suppress_tokens=[student.config.pad_token_id],
            max_new_tokens=self.longest,
        )
        student.train(training)
        # a torch of before December 2025 would go on with weights that autocast has cast here, without gradients
        # (pytorch/pytorch#158232)
        torch.clear_autocast_cache()
        assert isinstance(generated, Tensor)
        return generated[:, :1], generated[:, 1:]


def _first(model: PreTrainedModel) -> int:
    """What a model's decoder begins with, as transformers finds it."""
    start = model.generation_config.decoder_start_token_id
    return int(start if start is not None else model.generation_config.bos_token_id)
