"""Two vocabularies: hand-computed spans, divergences and their gradients, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distilingua.distillation.losses.aligned_uld import AlignedUniversalLogit, aligned_distances
from distilingua.distillation.losses.kl import KL
from distilingua.distillation.signals import Signals
from distilingua.distillation.spans import merged
from distilingua.errors import UserError


def logs(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_a_span_is_as_likely_as_its_pieces_one_after_another() -> None:
    """Three positions, of which the first two write one span: class 2, then class 0."""
    logits = logs([0.1, 0.3, 0.6], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]) + torch.tensor([[1.0], [-2.0], [5.0]])
    found = merged(logits, torch.tensor([2, 0, 1]), torch.tensor([0, 0, 2])).exp()
    expected = torch.tensor([[0.05, 0.15, 0.3, 0.5], [0.2, 0.2, 0.6, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found[[0, 2]], expected)


def test_what_follows_may_be_certain_and_still_teaches() -> None:
    logits = torch.tensor([[0.0, 0.0], [90.0, -90.0]], dtype=torch.float64, requires_grad=True)
    found = merged(logits, torch.tensor([0, 0]), torch.tensor([0, 0]))
    assert found[0, 2] < -30
    found[0, :2].sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# the student has classes a b c, of which the teacher has a and c, and d and e of its own; ∅ is what is beside the span
STUDENT = [0.5, 0.2, 0.2, 0.1]  # a b c ∅
TEACHER = [0.4, 0.0, 0.3, 0.05, 0.2, 0.05]  # a b c ∅ d e
SHARED = torch.tensor([True, False, True, False])


def test_shared_pieces_one_by_one_and_others_sorted() -> None:
    direct, apart = aligned_distances(logs(STUDENT), logs(TEACHER), SHARED, 1.0)
    a = 0.4 * math.log(0.4 / 0.5) - 0.4 + 0.5
    c = 0.3 * math.log(0.3 / 0.2) - 0.3 + 0.2
    assert float(direct) == pytest.approx(a + c)
    # .2 .1 against .2 .05 .05 0, in falling order
    assert float(apart) == pytest.approx(0.0 + 0.05 + 0.05)


def test_temperature_softens_both_and_keeps_the_scale() -> None:
    soft = [[p**0.5 for p in row] for row in (STUDENT, TEACHER)]
    by_hand = [[p / sum(row) for p in row] for row in soft]
    direct, apart = aligned_distances(logs(STUDENT), logs(TEACHER), SHARED, 2.0)
    expected, gaps = aligned_distances(logs(by_hand[0]), logs(by_hand[1]), SHARED, 1.0)
    torch.testing.assert_close(direct, 4 * expected)
    torch.testing.assert_close(apart, 2 * gaps)


def signals(student: Tensor, teacher: Tensor, **others: Tensor) -> Signals:
    """A row of three positions, of which the first two are a span."""
    return Signals(
        student=student,
        teacher=teacher,
        labels=torch.tensor([1, 0, 2]),
        has_teacher=torch.tensor([True, False, True]),
        rows=1,
        row=torch.zeros(3, dtype=torch.long),
        **others,
    )


def test_the_term_weighs_both_kinds_over_the_spans() -> None:
    student = logs([0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.5, 0.2, 0.3])
    whole = logs([0.4, 0.2, 0.2, 0.2], [1, 1, 1, 1], [0.5, 0.2, 0.3, 0.0])  # what `merged` makes of it
    teacher = logs([0.4, 0.0, 0.3, 0.0, 0.3], [1, 1, 1, 1, 1], [0.4, 0.0, 0.3, 0.0, 0.3])
    batch = signals(student, teacher, span=torch.tensor([0, 0, 2]), shared=SHARED)
    direct, apart = aligned_distances(whole, teacher, SHARED, 1.0)
    expected = (2 * direct + 3 * apart)[[0, 2]].sum() / 3
    torch.testing.assert_close(AlignedUniversalLogit(matched=2.0, unmatched=3.0)(batch, 1.0), expected)


def test_its_gradient_vanishes_where_both_agree() -> None:
    student = logs([0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.5, 0.2, 0.3]).requires_grad_()
    span, labels = torch.tensor([0, 0, 2]), torch.tensor([1, 0, 2])
    teacher = merged(student.detach(), labels, span)
    shared = torch.tensor([True, True, True, False])
    loss = AlignedUniversalLogit()(signals(student, teacher, span=span, shared=shared), 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.zeros(3, 3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_where_all_classes_are_shared_it_is_kl() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    batch = signals(student, teacher)
    torch.testing.assert_close(AlignedUniversalLogit()(batch, 3.0), KL()(batch, 3.0))


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.terms\.aligned_uld\.unmatched=-1: a weight is at least 0"):
        AlignedUniversalLogit(unmatched=-1)
