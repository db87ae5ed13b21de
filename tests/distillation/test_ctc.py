"""CTC against a sum over all paths, and what it does with rows of unequal length."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from distilingua.distillation.losses.ce import IGNORE_INDEX
from distilingua.distillation.losses.ctc import CTC
from distilingua.distillation.signals import Signals
from distilingua.errors import UserError
from distilingua.tasks.transcripts import spelt


def signals(logits: list[Tensor], labels: list[list[int]]) -> Signals:
    longest = max(1, *map(len, labels))
    padded = torch.tensor([label + [IGNORE_INDEX] * (longest - len(label)) for label in labels])
    frames = torch.tensor([len(row) for row in logits])
    flat = torch.cat(logits)
    return Signals(
        student=flat,
        teacher=None,
        labels=padded,
        has_teacher=torch.zeros(len(flat), dtype=torch.bool),
        rows=len(logits),
        row=torch.repeat_interleave(frames),
    )


def by_hand(logits: Tensor, label: list[int]) -> float:
    """-log of the probability of all paths that spell the label (Graves et al. 2006, equation 3)."""
    probabilities, names = logits.softmax(-1), ["", "a", "b"]
    wanted, total = "".join(names[i] for i in label), 0.0
    for path in itertools.product(range(3), repeat=len(logits)):
        if spelt(path, names) == wanted:
            total += float(torch.stack([probabilities[t, i] for t, i in enumerate(path)]).prod())
    return -float(torch.tensor(total).log())


@pytest.mark.parametrize("label", [[1], [1, 2], [1, 1], [2, 1, 2]])
def test_it_sums_over_all_paths_and_divides_by_characters(label: list[int]) -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(len(label)), dtype=torch.float64)
    assert float(CTC()(signals([logits], [label]), 1.0)) == pytest.approx(by_hand(logits, label) / len(label), rel=1e-6)


def test_a_batch_is_the_mean_of_its_rows_and_an_unlabelled_row_adds_nothing() -> None:
    rows = [torch.randn(n, 3, dtype=torch.float64) for n in (6, 3, 4)]
    alone = [float(CTC()(signals([row], [label]), 1.0)) for row, label in zip(rows, ([1, 2], [2], [1]), strict=True)]
    assert float(CTC()(signals(rows, [[1, 2], [2], [1]]), 1.0)) == pytest.approx(sum(alone) / 3)
    assert float(CTC()(signals(rows, [[1, 2], [], [1]]), 1.0)) == pytest.approx((alone[0] + alone[2]) / 3)


def test_only_labelled_rows_get_a_gradient() -> None:
    rows = torch.randn(8, 3, requires_grad=True)
    CTC()(signals([rows[:5], rows[5:]], [[1], []]), 1.0).backward()
    assert rows.grad is not None
    assert rows.grad[:5].abs().sum() > 0
    assert rows.grad[5:].abs().sum() == 0


def test_a_label_that_its_frames_cannot_hold_costs_nothing_instead_of_infinity() -> None:
    rows = torch.randn(2, 3, requires_grad=True)
    loss = CTC()(signals([rows], [[1, 1]]), 1.0)  # two equal letters need a blank between them: three frames
    loss.backward()
    assert float(loss) == 0
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())


def test_no_label_at_all_is_zero_with_a_gradient() -> None:
    rows = torch.randn(3, 3, requires_grad=True)
    loss = CTC()(signals([rows], [[]]), 1.0)
    loss.backward()
    assert float(loss) == 0


def test_it_falls_where_the_student_learns_to_spell() -> None:
    logits = torch.zeros(6, 3, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=5.0)
    for _ in range(100):
        optimizer.zero_grad()
        CTC()(signals([logits], [[1, 2]]), 1.0).backward()
        optimizer.step()
    assert spelt(logits.argmax(-1).tolist(), ["", "a", "b"]) == "ab"


def test_one_class_per_position_is_refused_with_what_to_type() -> None:
    plain = Signals(torch.randn(2, 3), None, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool), rows=2)
    with pytest.raises(UserError, match=r"objective/terms=\[ce"):
        CTC()(plain, 1.0)
