"""The weighted sum, its schedules, and what it logs."""

from __future__ import annotations

import pytest
import torch

from distilingua.distillation.losses.ce import CrossEntropy
from distilingua.distillation.losses.kl import KL
from distilingua.distillation.objective import Objective, hard_labels
from distilingua.distillation.schedules import Constant, Progress, Schedules, Switch
from distilingua.distillation.signals import Signals
from distilingua.errors import UserError

JOINT = Schedules(Constant(), Constant(), Constant())


def batch() -> Signals:
    torch.manual_seed(3)
    return Signals(
        torch.randn(6, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(6, 4, dtype=torch.float64),
        torch.tensor([0, 1, -100, -100, 2, 3]),
        torch.tensor([True, True, True, True, False, True]),
        rows=6,
    )


def test_house_default_is_alpha_kl_plus_one_minus_alpha_ce() -> None:
    signals = batch()
    loss = Objective({"kl": KL(0.7), "ce": CrossEntropy(0.3)}, 2.0, JOINT)(signals, Progress(0, 10))
    expected = 0.7 * KL()(signals, 2.0) + 0.3 * CrossEntropy()(signals, 2.0)
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-12)
    assert loss.logs["weight/kl"] == 0.7
    assert loss.logs["temperature"] == 2.0
    assert set(loss.logs) == {"loss", "temperature", "weight/kl", "weight/ce", "loss/kl", "loss/ce"}


def test_accumulated_halves_equal_the_whole_batch() -> None:
    """Labels and soft labels are spread unevenly over the halves, and still the gradients agree."""
    whole = batch()
    objective = Objective({"kl": KL(0.7), "ce": CrossEntropy(0.3)}, 2.0, JOINT)
    (expected,) = torch.autograd.grad(objective(whole, Progress(0, 1)).total, whole.student)
    found = torch.zeros_like(expected)
    for half in (slice(0, 3), slice(3, 6)):
        assert whole.teacher is not None
        part = Signals(whole.student[half], whole.teacher[half], whole.labels[half], whole.has_teacher[half], rows=3)
        (gradient,) = torch.autograd.grad(objective(part, Progress(0, 1)).total / 2, whole.student)
        found += gradient
    assert torch.allclose(found, expected, atol=1e-14)


def test_two_stages_switch_where_configured_and_leave_the_weight_alone() -> None:
    for at, total, last_hard in ((0.3, 10, 2), (4, 10, 3)):
        objective = Objective(
            {"kl": KL(0.7), "ce": CrossEntropy(0.3)}, 1.0, Schedules(Constant(), Switch(at), Constant())
        )
        weights = [objective(batch(), Progress(step, total)).logs["weight/kl"] for step in range(total)]
        assert weights == [0.0] * (last_hard + 1) + [0.7] * (total - last_hard - 1)
        assert objective.terms["kl"].weight == 0.7
        assert "loss/kl" not in objective(batch(), Progress(0, total)).logs  # not even computed


def test_exceptions_by_name_and_temperature_schedule() -> None:
    schedules = Schedules(Constant(), Constant(), Switch(0.5, before=1.0, after=0.25), {"kl": Constant(0.5)})
    objective = Objective({"kl": KL(1.0), "ce": CrossEntropy(1.0)}, 4.0, schedules)
    assert objective(batch(), Progress(0, 10)).logs["temperature"] == 4.0
    late = objective(batch(), Progress(5, 10)).logs
    assert (late["temperature"], late["weight/kl"], late["weight/ce"]) == (1.0, 0.5, 1.0)


@pytest.mark.parametrize("at", [-0.1, 1.5])
def test_a_switch_is_a_fraction_or_a_step(at: float) -> None:
    with pytest.raises(UserError, match="neither a fraction nor a number of steps"):
        Switch(at)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(UserError, match="a temperature is above 0"):
        Objective({"ce": CrossEntropy()}, temperature, JOINT)


def test_unknown_term_in_schedule_and_empty_objective() -> None:
    with pytest.raises(UserError, match=r"names kl; the terms are ce"):
        Objective({"ce": CrossEntropy()}, 1.0, Schedules(Constant(), Constant(), Constant(), {"kl": Constant()}))
    with pytest.raises(UserError, match="empty"):
        Objective({}, 1.0, JOINT)


def test_only_soft_terms_need_a_teacher() -> None:
    assert Objective({"kl": KL()}, 1.0, JOINT).needs_teacher
    assert not hard_labels(CrossEntropy()).needs_teacher
