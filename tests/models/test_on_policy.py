"""Texts of a student's own: where their positions are, what the teacher reads, and that it can be learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distilingua.distillation.signals import IGNORE_INDEX
from distilingua.models.on_policy import OnPolicy, ended
from distilingua.models.seq2seq import Seq2Seq
from distilingua.tasks.task import PADDING
from distilingua.tasks.translation import Translation

ROWS = Dataset.from_dict(
    {
        "text": ["turn the light on", "how warm is it", "open the door"],
        "label": ["mach das Licht an", "", "öffne die Tür"],  # the second one has no visible translation
        "lang": ["en"] * 3,
    }
)
TASK = Translation(max_length=12)


def made(architecture: str, dropout: float = 0.0) -> Seq2Seq:
    return Seq2Seq(
        1, 32, 2, 64, vocabulary=60, positions=32, dropout=dropout, decoder_layers=1, architecture=architecture
    )


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerBase:
    return made("m2m_100").tokenizer(ROWS, tmp_path)


def batch(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """As the data module makes it; the teacher reads the first two rows."""
    encoded = TASK.encode(ROWS[:], tokenizer, "")
    inputs, at = TASK.collate(encoded, tokenizer.pad_token_id)
    return {
        **dict.fromkeys(("student", "teacher"), inputs),
        **dict.fromkeys(("student_at", "teacher_at"), at),
        "labels": TASK.collate_labels(TASK.targets(ROWS, encoded)),
        "counts": torch.from_numpy(TASK.positions(encoded)),
        "has_teacher": torch.tensor([True, True, False]),
        "ids": ["a", "b", "c"],
    }


def model(tokenizer: PreTrainedTokenizerBase, architecture: str = "m2m_100", dropout: float = 0.0) -> PreTrainedModel:
    torch.manual_seed(0)
    return made(architecture, dropout).model(TASK, tokenizer)


def test_what_follows_the_end_is_no_position() -> None:
    written = torch.tensor([[5, 2, 2, 1], [2, 1, 1, 1], [5, 6, 7, 8]])
    expected = [[False, False, True, True], [False, True, True, True], [False] * 4]
    assert ended(written, 2).tolist() == ended(written, [2, 99]).tolist() == expected
    assert not ended(written, None).any()


@pytest.mark.parametrize("architecture", ["m2m_100", "marian", "bart", "mbart", "pegasus"])
def test_positions_are_the_steps_at_which_it_wrote(tokenizer: PreTrainedTokenizerBase, architecture: str) -> None:
    """The logits along its text are those that it drew the text from, dropout or not."""
    student = model(tokenizer, architecture, dropout=0.5).train()
    student.generation_config.do_sample, student.generation_config.top_k = True, 3  # as a hub's may say
    student.generation_config.forced_bos_token_id = 10  # as a language code; random weights may write nothing else
    torch.manual_seed(7)
    found = OnPolicy(1.0, 12)(batch(tokenizer), student, student)
    assert student.training
    student.eval()
    torch.manual_seed(7)
    torch.rand(())  # whether it writes at all
    text = {name: tensor for name, tensor in batch(tokenizer)["student"].items() if name != "labels"}
    options: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 12}
    options |= {"do_sample": True, "top_k": 0, "suppress_tokens": [tokenizer.pad_token_id]}
    drawn: Any = student.generate(**text, **options)
    positions = found["student_at"] != PADDING
    expected = torch.stack(drawn.logits, 1)[positions]
    torch.testing.assert_close(TASK.cells(student(**found["student"]), found["student_at"]), expected)
    assert found["counts"].tolist() == positions.sum(1).tolist()
    assert found["counts"].max() > 3


def test_the_teacher_scores_it_and_no_label_does(tokenizer: PreTrainedTokenizerBase) -> None:
    student, before = model(tokenizer).eval(), batch(tokenizer)
    torch.manual_seed(1)
    found = OnPolicy(1.0, 12)(before, student, student)
    cells = TASK.cells(student(**found["student"]), found["student_at"])
    signals = TASK.signals(cells, TASK.cells(student(**found["teacher"]), found["teacher_at"]), found)
    assert signals.teacher is not None
    torch.testing.assert_close(signals.teacher, cells)  # it is its own teacher
    assert (signals.labels == IGNORE_INDEX).all()
    assert len(signals.labels) == len(cells) == int(found["counts"].sum())
    assert signals.has_teacher.tolist() == (signals.row < 2).tolist()
    assert before["labels"].tolist() == batch(tokenizer)["labels"].tolist()


def test_the_teacher_begins_in_its_own_way(tokenizer: PreTrainedTokenizerBase) -> None:
    student, teacher = model(tokenizer), model(tokenizer)
    teacher.generation_config.decoder_start_token_id = tokenizer.pad_token_id
    found = OnPolicy(1.0, 12)(batch(tokenizer), student, teacher)
    ours, theirs = found["student"]["decoder_input_ids"], found["teacher"]["decoder_input_ids"]
    assert ours[:, 0].tolist() == [tokenizer.eos_token_id] * 3
    assert theirs[:, 0].tolist() == [tokenizer.pad_token_id] * 3
    assert torch.equal(ours[:, 1:], theirs[:, 1:])


def test_its_share_of_the_batches(tokenizer: PreTrainedTokenizerBase) -> None:
    student, before = model(tokenizer), batch(tokenizer)
    torch.manual_seed(0)
    policy = OnPolicy(0.25, 1)
    written = ["decoder_input_ids" in policy(before, student, student)["student"] for _ in range(100)]
    assert 15 < sum(written) < 35
    assert policy.__class__(0.0, 1)(before, student, student) == before


def test_it_is_learnt_from_in_mixed_precision(tokenizer: PreTrainedTokenizerBase) -> None:
    """Weights that autocast has cast for the sampling, without gradients, would have none."""
    student = model(tokenizer).eval()  # where no layer is left out
    with torch.autocast("cpu", torch.bfloat16):
        found = OnPolicy(1.0, 12)(batch(tokenizer), student, student)
        TASK.cells(student(**found["student"]), found["student_at"]).square().mean().backward()
    without = [name for name, weight in student.named_parameters() if weight.grad is None]
    assert not without
