"""Terms on logits against numbers worked out by hand, in float64, and what all of them promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from distilingua.distillation.losses.bce import BinaryCrossEntropy
from distilingua.distillation.losses.binary_kl import BinaryKL, binary_kl
from distilingua.distillation.losses.cosine import Cosine, cosine_distance
from distilingua.distillation.losses.dist import DIST, dist
from distilingua.distillation.losses.dkd import DecoupledKD, decoupled_kl
from distilingua.distillation.losses.js import JensenShannon, jensen_shannon
from distilingua.distillation.losses.kl import KL, kl_divergence
from distilingua.distillation.losses.logit_mse import LogitMSE, logit_mse
from distilingua.distillation.losses.mse import ProbabilityMSE
from distilingua.distillation.losses.reverse_kl import ReverseKL, reverse_kl
from distilingua.distillation.losses.term import Term
from distilingua.distillation.losses.uld import UniversalLogit, universal_logit
from distilingua.distillation.signals import Signals
from distilingua.errors import UserError

LOG2, LOG3 = math.log(2), math.log(3)
TERMS = [KL, ProbabilityMSE, ReverseKL, JensenShannon, LogitMSE, Cosine, DecoupledKD, DIST, UniversalLogit, BinaryKL]
BATCHWISE = {DIST}  # a row's loss depends on the other rows
every_term = pytest.mark.parametrize("make", TERMS, ids=lambda term: term.__name__)


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def logits(*rows: list[float]) -> Tensor:
    """Logits of these probabilities."""
    return tensor(*rows).log()


def signals(student: Tensor, teacher: Tensor, read: list[bool] | None = None) -> Signals:
    rows = len(student)
    labels = torch.full((rows,), -100)
    return Signals(student, teacher, labels, torch.tensor(read or [True] * rows), rows=rows)


def random_logits(rows: int = 4, classes: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    shape = (rows, classes)
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True), torch.randn(*shape, dtype=torch.float64)


P = math.sqrt(3) / (math.sqrt(3) + 1)  # the teacher's (3/4, 1/4) at T = 2
M = (P + 0.5) / 2  # halfway from there to (1/2, 1/2)


@pytest.mark.parametrize(
    ("loss", "at_one", "at_two"),
    [
        # the student is (1/2, 1/2) at any T
        (
            reverse_kl,
            0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25),
            4 * (0.5 * math.log(0.5 / P) + 0.5 * math.log(0.5 / (1 - P))),
        ),
        (
            jensen_shannon,  # halfway is (5/8, 3/8)
            (0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3) + 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)) / 2,
            2 * (P * math.log(P / M) + (1 - P) * math.log((1 - P) / (1 - M)) + 0.5 * math.log(0.25 / (M * (1 - M)))),
        ),
        (universal_logit, 0.25 + 0.25, 2 * 2 * (P - 0.5)),
    ],
)
def test_divergences_by_hand(loss, at_one: float, at_two: float) -> None:  # type: ignore[no-untyped-def]
    student, teacher = tensor([0.0, 0.0]), logits([0.75, 0.25])
    assert loss(student, teacher, 1.0).item() == pytest.approx(at_one, abs=1e-12)
    assert loss(student, teacher, 2.0).item() == pytest.approx(at_two, abs=1e-12)


def test_binary_kl_by_hand() -> None:
    # two classes, each a question of its own: 3/4 and 1/2 by the teacher, 1/2 and 1/2 by the student
    student, teacher = tensor([0.0, 0.0]), tensor([LOG3, 0.0])
    assert binary_kl(student, teacher, 1.0).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    # at T = 2, σ(log 3 / 2) = √3 / (√3 + 1)
    at_two = 4 * (P * math.log(2 * P) + (1 - P) * math.log(2 * (1 - P)))
    assert binary_kl(student, teacher, 2.0).item() == pytest.approx(at_two)


def test_binary_cross_entropy_by_hand() -> None:
    student = tensor([LOG3, -LOG3], [0.0, 0.0], [5.0, 5.0])
    labels = torch.tensor([[1, 1], [0, 1], [-100, -100]])  # the last row's label is hidden
    given = Signals(student, None, labels, torch.tensor([False] * 3), rows=3)
    by_hand = (math.log(4 / 3) + math.log(4) + 2 * LOG2) / 3
    assert BinaryCrossEntropy()(given, 1.0).item() == pytest.approx(by_hand)
    given.class_weights = tensor([1.0, 3.0])[0]  # what is missed of the second class weighs three times as much
    assert BinaryCrossEntropy()(given, 1.0).item() == pytest.approx((math.log(4 / 3) + 3 * math.log(4) + 4 * LOG2) / 3)


def test_reverse_kl_is_kl_with_the_roles_exchanged() -> None:
    student, teacher = random_logits()
    assert torch.equal(reverse_kl(student, teacher, 3.0), kl_divergence(teacher, student, 3.0))
    assert not torch.allclose(reverse_kl(student, teacher, 1.0), kl_divergence(student, teacher, 1.0), rtol=0.01)


def test_jensen_shannon_is_symmetric_and_at_most_log_2() -> None:
    student, teacher = random_logits()
    assert torch.allclose(jensen_shannon(student, teacher, 2.0), jensen_shannon(teacher, student, 2.0), atol=1e-14)
    opposite = jensen_shannon(tensor([500.0, 0.0]), tensor([0.0, 500.0]), 1.0)
    assert opposite.item() == pytest.approx(LOG2, abs=1e-12)


def test_logit_mse_by_hand() -> None:
    assert logit_mse(tensor([1.0, 2.0, 3.0]), tensor([1.0, 0.0, 6.0])).item() == pytest.approx((0 + 4 + 9) / 3)


def test_cosine_by_hand() -> None:
    student, teacher = tensor([1.0, 0.0], [2.0, 0.0], [3.0, 0.0]), tensor([1.0, 1.0], [5.0, 0.0], [-1.0, 0.0])
    expected = [1 - 1 / math.sqrt(2), 0.0, 2.0]
    assert cosine_distance(student, teacher).tolist() == pytest.approx(expected, abs=1e-12)


def test_decoupled_parts_by_hand() -> None:
    # target class: (1/2, 1/2) against (1/3, 2/3); the others: (3/4, 1/4) against (1/2, 1/2)
    student, teacher = tensor([0.0, 0.0, 0.0]), logits([1 / 2, 3 / 8, 1 / 8])
    tckd, nckd = decoupled_kl(student, teacher, torch.tensor([0]), 1.0)
    by_hand = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4), 0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2)
    assert (tckd.item(), nckd.item()) == pytest.approx(by_hand, abs=1e-12)
    term = DecoupledKD(alpha=3.0, beta=7.0)  # without a label, the target is the teacher's first choice: class 0
    assert term(signals(student, teacher), 1.0).item() == pytest.approx(3 * by_hand[0] + 7 * by_hand[1], abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0, torch.tensor([[0.5], [1.0], [2.0], [8.0]], dtype=torch.float64)])
def test_decoupled_parts_make_up_kl(temperature: float | Tensor) -> None:
    student, teacher = random_logits()
    target = torch.tensor([0, 4, 2, 2])
    tckd, nckd = decoupled_kl(student, teacher, target, temperature)
    likely = (teacher / temperature).softmax(-1).gather(1, target[:, None])[:, 0]
    assert torch.allclose(tckd + (1 - likely) * nckd, kl_divergence(student, teacher, temperature), atol=1e-12)


def test_decoupled_takes_the_label_where_it_is_visible() -> None:
    student, teacher = random_logits(2)
    batch = signals(student, teacher)
    label = int(teacher[0].argmin())
    batch.labels[0] = label
    targets = torch.tensor([label, int(teacher[1].argmax())])
    tckd, nckd = decoupled_kl(student, teacher, targets, 2.0)
    assert DecoupledKD(beta=5.0)(batch, 2.0).item() == pytest.approx((tckd + 5 * nckd).mean().item(), abs=1e-12)


STUDENT = logits([1 / 2, 1 / 3, 1 / 6], [1 / 6, 1 / 3, 1 / 2], [1 / 3, 1 / 3, 1 / 3])
TEACHER = logits([1 / 2, 1 / 6, 1 / 3], [1 / 6, 1 / 3, 1 / 2], [1 / 2, 1 / 3, 1 / 6])
EVERYWHERE = torch.ones(3, dtype=torch.bool)


def test_dist_by_hand() -> None:
    # rows, times 6 and centred: (1, 0, -1) with (1, -1, 0): 1/2; the same: 1; a uniform student: nothing to correlate
    inter = dist(STUDENT, TEACHER, 1.0, EVERYWHERE, beta=1.0, gamma=0.0)
    assert inter.tolist() == pytest.approx([0.5, 0.0, 0.0], abs=1e-12)
    # columns: (1, -1, 0) with (2, -4, 2)/3: √3/2; a student's column that does not vary: nothing; (-1, 1, 0) with
    # (0, 1, -1): 1/2
    intra = dist(STUDENT, TEACHER, 1.0, EVERYWHERE, beta=0.0, gamma=1.0)
    assert intra.tolist() == pytest.approx([((1 - math.sqrt(3) / 2) + 0 + 1 / 2) / 3] * 3, abs=1e-12)
    both = DIST(beta=2.0, gamma=3.0)(signals(STUDENT, TEACHER), 1.0)
    assert both.item() == pytest.approx((2 * inter + 3 * intra).mean().item(), abs=1e-12)


def test_dist_softens_both_sides() -> None:
    student, teacher = random_logits()
    mask = torch.ones(4, dtype=torch.bool)
    assert torch.allclose(dist(student, teacher, 4.0, mask), dist(student / 4, teacher / 4, 1.0, mask), atol=1e-14)
    assert not torch.allclose(dist(student, teacher, 4.0, mask), dist(student, teacher, 1.0, mask), rtol=0.01)


def test_dist_across_rows_counts_in_proportion_to_the_rows_read() -> None:
    student, teacher = random_logits()
    half = DIST(beta=0.0)(signals(student, teacher, [True, True, True, False]), 1.0)
    alone = DIST(beta=0.0)(signals(student[:3], teacher[:3]), 1.0)
    assert half.item() == pytest.approx(0.75 * alone.item(), abs=1e-12)
    assert alone.item() > 0.1


def test_universal_logit_pads_the_shorter_side() -> None:
    two, three = logits([1 / 2, 1 / 2]), logits([1 / 4, 1 / 2, 1 / 4])
    for student, teacher in ((two, three), (three, two)):  # (1/2, 1/2, 0) against (1/2, 1/4, 1/4)
        assert universal_logit(student, teacher, 1.0).item() == pytest.approx(1 / 2, abs=1e-12)


@every_term
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradients(make: type[Term], temperature: float) -> None:
    student, teacher = random_logits()
    read = [True, False, True, True]
    assert gradcheck(lambda s: make()(signals(s, teacher, read), temperature), (student,))


@every_term
def test_rows_the_teacher_did_not_read_neither_cost_nor_teach(make: type[Term]) -> None:
    student, teacher = random_logits()
    read = [True, True, False, True]
    loss = make()(signals(student, teacher, read), 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient[2].abs().max().item() == 0.0
    assert gradient[[0, 1, 3]].abs().amax(1).min().item() > 1e-6
    for side in (0, 1):  # whatever stands in that row
        changed = [student.detach().clone(), teacher.clone()]
        changed[side][2] = torch.tensor([9.0, -9.0, 3.0, 0.0, 1.0])
        assert make()(signals(*changed, read), 2.0).item() == pytest.approx(loss.item(), abs=1e-14)
        assert make()(signals(*changed), 2.0).item() != pytest.approx(loss.item(), rel=1e-3)


@every_term
def test_unread_batches_cost_nothing(make: type[Term]) -> None:
    student, teacher = random_logits()
    loss = make()(signals(student, teacher, [False] * 4), 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0.0
    assert gradient.abs().max().item() == 0.0


@every_term
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_nothing_to_learn_from_an_equal(make: type[Term], temperature: float) -> None:
    _, teacher = random_logits()
    softened_alone = make is ProbabilityMSE  # it compares the student's plain probabilities with softened ones
    student = (teacher / temperature if softened_alone else teacher.clone()).requires_grad_()
    loss = make()(signals(student, teacher), temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert gradient.abs().max().item() < 1e-8  # a cosine rounds to 1 within 1e-16, its slope within 1e-8


@every_term
def test_a_temperature_for_every_row(make: type[Term]) -> None:
    student, teacher = random_logits()
    same = torch.full((4, 1), 3.0, dtype=torch.float64)
    number = make()(signals(student, teacher), 3.0).item()
    assert make()(signals(student, teacher), same).item() == pytest.approx(number, abs=1e-12)
    if make in BATCHWISE:
        return
    each = [0.5, 1.0, 2.0, 4.0]
    apart = [make()(signals(student[[i]], teacher[[i]]), t).item() for i, t in enumerate(each)]
    together = make()(signals(student, teacher), tensor(each).T)
    assert together.item() == pytest.approx(sum(apart) / 4, abs=1e-12)


@every_term
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("scale", [0.0, 1000.0])
def test_extremes_stay_finite(make: type[Term], rows: int, scale: float) -> None:
    """A uniform student, one that is certain and wrong, and a batch of a single row; in float32, as in training."""
    _, teacher = random_logits(rows)
    student = (scale * torch.eye(5)[1:2].repeat(rows, 1)).requires_grad_()
    teacher = torch.cat([1000 * torch.eye(5)[0:1], teacher.float()])[:rows]
    loss = make()(signals(student, teacher), 1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecoupledKD(alpha=-1.0), r"objective\.terms\.dkd: alpha=-1\.0"),
        (lambda: DecoupledKD(beta=float("nan")), r"objective\.terms\.dkd: .*beta=nan"),
        (lambda: DIST(beta=-1.0), r"objective\.terms\.dist: beta=-1\.0"),
        (lambda: DIST(gamma=-0.5), r"objective\.terms\.dist: .*gamma=-0\.5"),
        *((lambda term=term: term(weight=-1.0), f"{term.__name__} has weight -1") for term in TERMS),
    ],
)
def test_options_out_of_range_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        make()
