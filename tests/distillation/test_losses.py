"""Losses against numbers worked out by hand, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from distilingua.distillation.losses.ce import CrossEntropy
from distilingua.distillation.losses.kl import KL, kl_divergence
from distilingua.distillation.losses.mse import ProbabilityMSE, probability_mse
from distilingua.distillation.losses.term import Term
from distilingua.distillation.signals import Signals
from distilingua.errors import UserError

LOG3 = math.log(3.0)


def signals(
    student: list[list[float]], teacher: list[list[float]] | None, labels: list[int], read: list[bool]
) -> Signals:
    return Signals(
        student=torch.tensor(student, dtype=torch.float64, requires_grad=True),
        teacher=None if teacher is None else torch.tensor(teacher, dtype=torch.float64),
        labels=torch.tensor(labels),
        has_teacher=torch.tensor(read),
        rows=len(labels),
    )


def test_kl_by_hand() -> None:
    # teacher (3/4, 1/4), student (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2)
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[LOG3, 0.0]], dtype=torch.float64)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-12)
    # at T = 2 the teacher is (√3, 1) / (√3 + 1), and the whole is multiplied by 4
    p = math.sqrt(3) / (math.sqrt(3) + 1)
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert kl_divergence(student, teacher, 2.0).item() == pytest.approx(expected, abs=1e-12)


def test_kl_is_zero_with_vanishing_gradient_where_student_equals_teacher() -> None:
    teacher = torch.randn(5, 7, dtype=torch.float64)
    for temperature in (0.5, 1.0, 4.0):
        student = teacher.clone().requires_grad_()
        loss = kl_divergence(student, teacher, temperature).sum()
        loss.backward()
        assert loss.item() == pytest.approx(0.0, abs=1e-12)
        assert student.grad is not None
        assert student.grad.abs().max().item() < 1e-12


def test_t_squared_keeps_the_scale_of_the_gradient() -> None:
    """As T grows the gradient tends to (student - teacher) / classes for centred logits (Hinton et al., equation 4)."""
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    student, teacher = student - student.mean(-1, keepdim=True), teacher - teacher.mean(-1, keepdim=True)
    student.requires_grad_()
    limit = (student - teacher).detach() / 6
    norms = {}
    for temperature in (1.0, 4.0, 1000.0):
        (gradient,) = torch.autograd.grad(kl_divergence(student, teacher, temperature).sum(), student)
        norms[temperature] = gradient.norm().item()
    assert norms[1000.0] == pytest.approx(limit.norm().item(), rel=1e-3)
    assert 0.3 < norms[1.0] / norms[4.0] < 3.0  # without T² it would be about 16 times


def test_probability_mse_by_hand() -> None:
    # student (1/2, 1/2), teacher at T = 1 (3/4, 1/4): mean of 1/16 and 1/16
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[LOG3, 0.0]], dtype=torch.float64)
    assert probability_mse(student, teacher, 1.0).item() == pytest.approx(1 / 16, abs=1e-12)
    # only the teacher is softened: with T = 2 it is (√3, 1) / (√3 + 1)
    p = math.sqrt(3) / (math.sqrt(3) + 1)
    assert probability_mse(student, teacher, 2.0).item() == pytest.approx((p - 0.5) ** 2, abs=1e-12)
    # the student's own probabilities stay as they are
    assert probability_mse(teacher, teacher, 1.0).item() == pytest.approx(0.0, abs=1e-12)
    assert probability_mse(teacher, teacher, 2.0).item() > 1e-3


@pytest.mark.parametrize("loss", [kl_divergence, probability_mse])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradients(loss, temperature: float) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    assert gradcheck(lambda s: loss(s, teacher, temperature), (student,))


def test_cross_entropy_masks_rows_without_label() -> None:
    batch = signals([[LOG3, 0.0], [0.0, 5.0]], None, [0, -100], [False, False])
    loss = CrossEntropy()(batch, 1.0)
    assert loss.item() == pytest.approx(math.log(4 / 3) / 2, abs=1e-12)  # one labelled row of two
    loss.backward()
    assert batch.student.grad is not None
    assert batch.student.grad[1].abs().sum().item() == 0.0


def test_batch_without_any_label_costs_nothing() -> None:
    assert CrossEntropy()(signals([[1.0, 2.0]], None, [-100], [False]), 1.0).item() == 0.0


@pytest.mark.parametrize("term", [KL(), ProbabilityMSE()])
def test_soft_terms_mask_rows_the_teacher_did_not_read(term: Term) -> None:
    both = signals([[LOG3, 0.0], [0.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]], [-100, -100], [True, True])
    first = signals([[LOG3, 0.0], [0.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]], [-100, -100], [True, False])
    second = signals([[LOG3, 0.0], [0.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]], [-100, -100], [False, True])
    parts = term(first, 2.0) + term(second, 2.0)
    assert term(both, 2.0).item() == pytest.approx(parts.item(), abs=1e-12)
    term(first, 2.0).backward()
    assert first.student.grad is not None
    assert first.student.grad[1].abs().sum().item() == 0.0


def test_a_row_counts_once_however_many_positions_it_has() -> None:
    """Two words of one row weigh as much together as the one word of another."""
    words = Signals(
        student=torch.tensor([[LOG3, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64),
        teacher=None,
        labels=torch.tensor([0, 0, 0]),
        has_teacher=torch.zeros(3, dtype=torch.bool),
        rows=2,
        row=torch.tensor([0, 0, 1]),
    )
    expected = ((math.log(4 / 3) + math.log(2)) / 2 + math.log(2)) / 2
    assert CrossEntropy()(words, 1.0).item() == pytest.approx(expected, abs=1e-12)


def test_negative_weight_is_refused() -> None:
    with pytest.raises(UserError, match=r"KL has weight -0\.5"):
        KL(weight=-0.5)
