"""Schedules and adaptive temperatures against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from distilingua.distillation.schedules import (
    CWSM,
    FLSW,
    LEAST,
    Adaptive,
    Constant,
    Cosine,
    Linear,
    Progress,
    Schedule,
    Schedules,
    Steps,
    Switch,
)
from distilingua.errors import UserError

ALL = torch.ones(50, dtype=torch.bool)  # the teacher read every row


def at(schedule: Schedule, *steps: int, total: int = 100) -> list[float]:
    return [schedule(Progress(step, total)) for step in steps]


def test_constant() -> None:
    assert at(Constant(0.3), 0, 50, 100) == [0.3] * 3
    assert at(Constant(), 7) == [1.0]


def test_linear_by_hand() -> None:
    assert at(Linear(), 0, 25, 100, 130) == pytest.approx([0, 0.25, 1, 1])
    assert at(Linear(4.0, 1.0), 0, 50, 100) == pytest.approx([4, 2.5, 1])
    # from 20 % to 60 % of the training: a quarter of the way at 30 %
    part = Linear(1.0, 3.0, begin=0.2, until=0.6)
    assert at(part, 0, 20, 30, 60, 100) == pytest.approx([1, 1, 1.5, 3, 3])


def test_cosine_by_hand() -> None:
    early = (1 - math.sqrt(1 / 2)) / 2  # (1 - cos 45°) / 2
    assert at(Cosine(), 0, 25, 50, 75, 100) == pytest.approx([0, early, 0.5, 1 - early, 1])
    assert at(Cosine(4.0, 2.0, begin=0.5, until=0.9), 0, 50, 60, 70, 90) == pytest.approx([4, 4, 4 - 2 * early, 3, 2])


def test_steps_by_hand() -> None:
    assert at(Steps([0.3, 0.6], [4, 2, 1]), 0, 29, 30, 59, 60, 100) == [4, 4, 2, 2, 1, 1]
    assert at(Steps([10, 0.6], [4, 2, 1]), 9, 10, 59, 60) == [4, 2, 2, 1]  # a step, then a fraction
    assert at(Steps([0.3], [4, 2]), 2, 3, total=10) == [4, 2]
    assert at(Steps([3], [4, 2]), 2, 3, total=10) == at(Steps([3], [4, 2]), 2, 3, total=1000) == [4, 2]
    assert at(Steps([], [5]), 0, 100) == [5, 5]


def test_switch_by_hand() -> None:
    assert at(Switch(), 0, 29, 30, 100) == [0, 0, 1, 1]
    assert at(Switch(at=40, before=2.0, after=0.5), 39, 40) == [2, 0.5]


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Steps([0.3], [1, 2]), Switch(), Constant()])
def test_a_training_without_steps_has_not_begun(schedule: Schedule) -> None:
    assert at(schedule, 0, total=0) == at(schedule, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(begin=0.5, until=0.5), r"begin=0\.5 and until=0\.5 are not two fractions"),
        (lambda: Cosine(begin=-0.1), r"begin=-0\.1 and until=1\.0"),
        (lambda: Linear(until=100), r"begin=0\.0 and until=100"),
        (lambda: Steps([-0.5], [1, 2]), r"at=-0\.5 is neither a fraction nor a number of steps"),
        (lambda: Steps([2.5], [1, 2]), r"at=2\.5 is neither"),
        (lambda: Switch(1.5), r"at=1\.5 is neither"),
        (lambda: Steps([0.3, 0.6], [1, 2]), r"2 switches stand between 3 factors, not 2"),
    ],
)
def test_what_cannot_work_is_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        make()


def test_which_schedule_a_term_follows() -> None:
    hard, soft, own = Constant(1), Constant(2), Constant(3)
    schedules = Schedules(hard, soft, Constant(), {"dkd": own})
    assert [schedules.weight("ce", soft=False), schedules.weight("kl", soft=True)] == [hard, soft]
    assert schedules.weight("dkd", soft=True) is own


# temperatures per row


def test_flsw_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[3.0, 0.0], [0.0, 1.0], [3.0, 4.0]], dtype=torch.float64)
    # cosines 1, 0 and 3/5, so w is 0, 1 and 2/5 with a mean of 7/15
    temperature = FLSW()(2.0, student, teacher, ALL[:3])
    assert temperature.flatten().tolist() == pytest.approx([2 + 7 / 15, 2 + 7 / 15 - 1, 2 + 7 / 15 - 2 / 5])
    # squared: 0, 1 and 4/25 with a mean of 29/75, spread half as far
    temperature = FLSW(beta=0.5, gamma=2.0)(2.0, student, teacher, ALL[:3])
    by_hand = [2 + 0.5 * (29 / 75 - w) for w in (0, 1, 4 / 25)]
    assert temperature.flatten().tolist() == pytest.approx(by_hand)


def test_cwsm_by_hand() -> None:
    student = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64).log()
    unsure, surer = 1 / 0.501, 1 / 0.751
    expected = [4 + 2 * (surer - unsure) / 2, 4 + 2 * (unsure - surer) / 2]
    teachers = torch.zeros(2, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    for teacher in teachers:  # which it does not look at
        assert CWSM(beta=2.0)(4.0, student, teacher, ALL[:2]).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("make", [FLSW, CWSM])
def test_rows_the_teacher_did_not_read_do_not_move_the_others(make: type[FLSW | CWSM]) -> None:
    torch.manual_seed(0)
    student, teacher, read = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([True, True, False, True, False, True])
    alone = make()(3.0, student[read], teacher[read], ALL[:4])
    assert torch.allclose(make()(3.0, student, teacher, read)[read], alone)
    nobody = make()(3.0, student, teacher, torch.zeros(6, dtype=torch.bool))
    assert torch.isfinite(nobody).all()


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({"temperature": Linear(1.0, 0.0)}, r"schedule\.temperature reaches 0\. .* a temperature above 0"),
        ({"temperature": Linear(1.0, -1.0)}, r"schedule\.temperature reaches -1"),
        ({"soft": Cosine(1.0, -0.5)}, r"schedule\.soft reaches -0\.5"),
        ({"terms": {"kl": Constant(-1.0)}}, r"schedule\.kl reaches -1"),
    ],
)
def test_weights_stay_at_0_or_above_and_temperatures_above(schedules: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedules(**{"hard": Constant(), "soft": Constant(), "temperature": Constant(), **schedules})
    Schedules(Linear(1.0, 0.0), Constant(), Constant())  # a weight may fade out


adaptives = pytest.mark.parametrize("make", [FLSW, CWSM])


@adaptives
def test_adaptive_temperatures_are_one_per_row_without_a_gradient(make: type[FLSW | CWSM]) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    temperature = make()(3.0, student, teacher, ALL[:6])
    assert temperature.shape == (6, 1)
    assert not temperature.requires_grad
    assert temperature.std() > 0.01
    assert temperature.mean().item() == pytest.approx(3.0, abs=1e-5)  # nothing clamped: the scheduled one on average


@adaptives
@pytest.mark.parametrize("temperature", [0.5, 8.0])
def test_adaptive_temperatures_stay_above_a_tenth(make: type[FLSW | CWSM], temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(50, 4), torch.randn(50, 4)
    adaptive: Adaptive = make(beta=1000.0)
    assert adaptive(temperature, student, teacher, ALL).min().item() == pytest.approx(LEAST * temperature)


@adaptives
def test_one_row_keeps_the_scheduled_temperature(make: type[FLSW | CWSM]) -> None:
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, -1.0]])
    assert make()(3.0, student, teacher, ALL[:1]).tolist() == [[3.0]]
