"""Terms on layers against numbers worked out by hand, in float64, and with real models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from transformers import BertForSequenceClassification, PretrainedConfig, T5Config, T5ForSequenceClassification

from distilingua.distillation.losses.attention import AttentionTransfer
from distilingua.distillation.losses.contrastive import Contrastive
from distilingua.distillation.losses.embedding import SentenceEmbedding
from distilingua.distillation.losses.hidden import HiddenStates, vector_distance
from distilingua.distillation.losses.layers import layer_pairs, masked_mean
from distilingua.distillation.losses.minilm import MiniLM, relation_kl
from distilingua.distillation.losses.term import Term
from distilingua.distillation.objective import Objective
from distilingua.distillation.schedules import Constant, Progress, Schedules
from distilingua.distillation.signals import Layers, Signals
from distilingua.errors import UserError
from distilingua.models.layers import LayerReader
from tests.conftest import tiny_bert

LOG3 = math.log(3)
TERMS: dict[str, Callable[[], Term]] = {
    "hidden": HiddenStates,
    "hidden-cosine": lambda: HiddenStates(distance="cosine", layers="even"),
    "hidden-pieces": lambda: HiddenStates(pool="pieces", layers={0: 0, -1: 3}),
    "attention": lambda: AttentionTransfer(layers={1: 1, 2: 4}),
    "minilm": lambda: MiniLM(relation_heads=2, student_layer=1, teacher_layer=-1),
    "embedding": SentenceEmbedding,
    "contrastive": lambda: Contrastive(tau=0.5),
}
every_term = pytest.mark.parametrize("make", TERMS.values(), ids=list(TERMS))
piecewise = pytest.mark.parametrize("name", ["hidden-pieces", "attention", "minilm"])


def config(layers: int, width: int = 4) -> PretrainedConfig:
    size = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 8, "max_position_embeddings": 16}
    return tiny_bert(20, num_labels=3, **size)


def connected(term: Term, student: PretrainedConfig | None = None, teacher: PretrainedConfig | None = None) -> Term:
    torch.manual_seed(5)
    term.connect(student or config(2), teacher or config(4))
    return term.double()


def mask(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def random_layers(lengths: list[int], layers: int, width: int, seed: int, grad: bool) -> Layers:
    torch.manual_seed(seed)
    rows, length = len(lengths), max(lengths)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    seen = mask(lengths)
    hidden = [draw(rows, length, width) for _ in range(layers + 1)]
    scores = [draw(rows, 2, length, length).masked_fill(~seen[:, None, None], -1e9) for _ in range(layers)]
    qkv = [tuple(draw(rows, length, width).requires_grad_(grad) for _ in range(3)) for _ in range(layers)]
    return Layers(
        vector=draw(rows, width).requires_grad_(grad),
        input_ids=torch.arange(length).repeat(rows, 1) + 10 * torch.arange(rows)[:, None],
        mask=seen,
        hidden=tuple(h.requires_grad_(grad) for h in hidden),
        attentions=tuple(s.softmax(-1).requires_grad_(grad) for s in scores),
        qkv=tuple(qkv),  # type: ignore[arg-type]
    )


READ = [True, True, False, True]


def batch(width: int = 4, teacher_width: int = 4, read: list[bool] = READ) -> Signals:
    """Four rows; the teacher did not read the third, and has a single piece of padding in its place."""
    return signals(
        random_layers([3, 2, 4, 1], 2, width, 7, grad=True),
        random_layers([3, 2, 1, 1], 4, teacher_width, 8, grad=False),
        read,
    )


def signals(student: Layers, teacher: Layers, read: list[bool], texts: list[int] | None = None) -> Signals:
    rows = len(read)
    nothing = torch.zeros(rows, 2, dtype=torch.float64)
    return Signals(
        nothing,
        nothing,
        torch.full((rows,), -100),
        torch.tensor(read),
        rows=rows,
        student_layers=student,
        teacher_layers=teacher,
        read=torch.tensor(texts or list(range(rows))),
    )


def leaves(layers: Layers | None) -> list[Tensor]:
    assert layers is not None
    vector = [] if layers.vector is None else [layers.vector]
    return [*vector, *layers.hidden, *layers.attentions, *(part for three in layers.qkv for part in three)]


def states(lengths: list[int], hidden: Any) -> Layers:
    """Layers of hand-written hidden states, the same in every layer."""
    values = torch.tensor(hidden, dtype=torch.float64)
    seen = mask(lengths)
    return Layers(seen.long(), seen, (values,) * 3, vector=masked_mean(values, seen))


# by hand


def test_distances_by_hand() -> None:
    a, b = torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([[3.0, 2.0], [2.0, 2.0]])
    assert vector_distance(a, b, "mse").tolist() == pytest.approx([4 / 2, (1 + 4) / 2])
    assert vector_distance(a, b, "cosine").tolist() == pytest.approx([1 - 7 / math.sqrt(65), 1 - 1 / math.sqrt(2)])


FAR = [90.0, 90.0]  # padding: must not count


@pytest.mark.parametrize("term", [HiddenStates(), SentenceEmbedding()])
def test_pooled_hidden_states_by_hand(term: Term) -> None:
    """The means are (2, 1) and (2, 2): other pieces, another number of them. The second row was not read."""
    student = states([2, 3], [[[1, 0], [3, 2], FAR], [[5, 5], [5, 5], [5, 5]]])
    teacher = states([1, 1], [[[2, 2]], [[0, 0]]])
    term = connected(term, config(2, 2), config(2, 2))
    assert term(signals(student, teacher, [True, False]), 1.0).item() == pytest.approx((0 + 1) / 2 / 2)
    assert term(signals(student, teacher, [True, True]), 1.0).item() == pytest.approx(((0 + 1) / 2 + 25) / 2)


def test_pieces_by_hand() -> None:
    student = states([2, 3], [[[1, 0], [3, 2], FAR], [[5, 5], [5, 5], [5, 5]]])
    teacher = states([2, 1], [[[1, 2], [0, 2]], [[0, 0], FAR]])
    term = connected(HiddenStates(pool="pieces"), config(2, 2), config(2, 2))
    # (0 + 4) / 2 for the first piece, (9 + 0) / 2 for the second; half the rows count
    assert term(signals(student, teacher, [True, False]), 1.0).item() == pytest.approx((2 + 4.5) / 2 / 2)


def test_several_layers_are_averaged() -> None:
    both = connected(HiddenStates(layers={1: 3, 2: 4}))(batch(), 1.0)
    apart = [connected(HiddenStates(layers={s: t}))(batch(), 1.0) for s, t in ((1, 3), (2, 4))]
    assert both.item() == pytest.approx((apart[0] + apart[1]).item() / 2, abs=1e-12)


@pytest.mark.parametrize("make", [HiddenStates, SentenceEmbedding, Contrastive])
def test_projections_where_widths_differ_or_on_request(make: Callable[..., Term]) -> None:
    def linears(term: Term) -> list[nn.Linear]:
        return [module for module in term.modules() if isinstance(module, nn.Linear)]

    assert not linears(connected(make()))
    assert [(p.in_features, p.out_features) for p in linears(connected(make(project=True)))] == [(4, 4)]
    narrow = connected(make(), config(2, 3), config(4, 5))
    assert [(p.in_features, p.out_features) for p in linears(narrow)] == [(3, 5)]
    (projection,) = linears(narrow)
    narrow(batch(3, 5), 1.0).backward()
    assert projection.weight.grad is not None
    assert projection.weight.grad.abs().max().item() > 1e-6


def test_every_mapped_layer_has_a_projection_of_its_own() -> None:
    term = connected(HiddenStates(layers={1: 2, 2: 4}), config(2, 3), config(4, 5))
    assert len(list(term.parameters())) == 4
    # a projection by hand: W = (1, 1, 1; ...), no bias, takes (1, 2, 3) to (6, 6)
    term = connected(HiddenStates(), config(2, 3), config(2, 2))
    with torch.no_grad():
        for parameter in term.parameters():
            parameter.fill_(1.0 if parameter.dim() == 2 else 0.0)
    student, teacher = states([1], [[[1, 2, 3]]]), states([1], [[[5, 3]]])
    assert term(signals(student, teacher, [True]), 1.0).item() == pytest.approx((1 + 9) / 2)


def test_attention_by_hand() -> None:
    """One head against two, whose mean is (1/2, 1/2) for the first query and (1, 0) for the second."""
    one = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]], dtype=torch.float64)
    two = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]], dtype=torch.float64)
    seen = mask([2])
    student, teacher = Layers(seen.long(), seen, attentions=(one,)), Layers(seen.long(), seen, attentions=(two,))
    term = connected(AttentionTransfer(), config(1), config(1))
    assert term(signals(student, teacher, [True]), 1.0).item() == pytest.approx((2 * 0.25 + 2 * 0.25) / 2)


def test_relations_by_hand() -> None:
    """Zeros relate evenly; the teacher's first piece relates to itself with log 3, so 3/4 against 1/4."""
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    seen = mask([2, 2])
    zeros = torch.zeros(2, 2, 2, dtype=torch.float64)
    one_head, two_heads = zeros.clone(), zeros.clone()
    one_head[:, 0, 0] = math.sqrt(LOG3 * math.sqrt(2))  # squared and over √2: log 3
    two_heads[:, 0, 0] = math.sqrt(LOG3)  # heads of width 1; the second has nothing to relate
    assert relation_kl(zeros, one_head, 1, seen).tolist() == pytest.approx([kl / 2] * 2)  # of two pieces
    assert relation_kl(zeros, two_heads, 2, seen).tolist() == pytest.approx([kl / 4] * 2)  # and two heads

    def layers(*qkv: Tensor) -> Layers:
        return Layers(seen.long(), seen, qkv=((qkv[0], qkv[1], qkv[2]),))

    term = connected(MiniLM(relation_heads=1), config(1, 2), config(1, 2))
    for place in range(3):  # queries, keys and values count a third each
        teacher = [zeros, zeros, zeros]
        teacher[place] = one_head
        loss = term(signals(layers(zeros, zeros, zeros), layers(*teacher), [True, False]), 1.0)
        assert loss.item() == pytest.approx(kl / 2 / 3 / 2)


def test_relations_leave_padding_out() -> None:
    student, teacher = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    padded = relation_kl(student, teacher, 2, mask([2, 3])[:1])
    assert padded.item() == pytest.approx(relation_kl(student[:, :2], teacher[:, :2], 2, mask([2])).item(), abs=1e-12)
    assert padded.item() != pytest.approx(relation_kl(student, teacher, 2, mask([3])).item(), rel=1e-3)


@pytest.mark.parametrize(
    ("read", "texts", "expected"),
    [
        ([True, True], [0, 1], math.log(1 + math.exp(-2))),  # cosines 1 and 0, over τ = 1/2
        ([True, True], [4, 4], 0.0),  # translations of one sentence: no contrast
        ([True, False], [0, 1], 0.0),  # nothing to tell it from
    ],
)
def test_contrastive_by_hand(read: list[bool], texts: list[int], expected: float) -> None:
    student = states([1, 1], [[[2, 0]], [[0, 3]]])
    teacher = states([1, 1], [[[1, 0]], [[0, 1]]])
    term = connected(Contrastive(tau=0.5), config(2, 2), config(2, 2))
    assert term(signals(student, teacher, read, texts), 1.0).item() == pytest.approx(expected, abs=1e-12)


# what all of them promise


@every_term
def test_gradients(make: Callable[[], Term]) -> None:
    term, whole = connected(make()), batch()
    inputs = [leaf for leaf in leaves(whole.student_layers) if _reached(term, whole, leaf)]
    assert inputs
    assert gradcheck(lambda *_: term(whole, 1.0), inputs)


def _reached(term: Term, whole: Signals, leaf: Tensor) -> bool:
    return torch.autograd.grad(term(whole, 1.0), leaf, allow_unused=True)[0] is not None


@every_term
def test_rows_the_teacher_did_not_read_neither_cost_nor_teach(make: Callable[[], Term]) -> None:
    term, whole = connected(make()), batch()
    loss = term(whole, 1.0)
    gradients = [g for g in torch.autograd.grad(loss, leaves(whole.student_layers), allow_unused=True) if g is not None]
    for gradient in gradients:
        assert gradient[2].abs().max().item() == 0.0
        assert gradient[[0, 1]].flatten(1).abs().amax(1).min().item() > 1e-9
    for side in ("student_layers", "teacher_layers"):
        changed = batch()
        with torch.no_grad():
            for values in leaves(getattr(changed, side)):
                values[2] = 0.3 * torch.rand_like(values[2]) + 0.5
        assert term(changed, 1.0).item() == pytest.approx(loss.item(), abs=1e-14)
        changed.student_layers, changed.teacher_layers = batch().student_layers, batch().teacher_layers
        with torch.no_grad():
            for values in leaves(getattr(changed, side)):
                values[0] = 0.3 * torch.rand_like(values[0]) + 0.5
        assert term(changed, 1.0).item() != pytest.approx(loss.item(), rel=1e-4)
    nothing = term(batch(read=[False] * 4), 1.0)
    assert nothing.item() == 0.0


@pytest.mark.parametrize("make", [make for name, make in TERMS.items() if name != "contrastive"])
def test_nothing_to_learn_from_an_equal(make: Callable[[], Term]) -> None:
    term = make()
    if isinstance(term, MiniLM):
        term.layers = {1: 1}
    elif isinstance(term, HiddenStates | AttentionTransfer) and isinstance(term.layers, Mapping):
        term.layers = {1: 1, -1: -1}
    term.connect(config(2), config(2))
    student, teacher = (random_layers([3, 2, 4, 1], 2, 4, 7, grad=grad) for grad in (True, False))
    loss = term(signals(student, teacher, READ), 1.0)
    gradients = torch.autograd.grad(loss, leaves(student), allow_unused=True)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert max(gradient.abs().max().item() for gradient in gradients if gradient is not None) < 1e-8


@every_term
def test_the_temperature_does_not_matter(make: Callable[[], Term]) -> None:
    term = connected(make())
    losses = [term(batch(), t).item() for t in (1.0, 4.0, torch.full((4, 1), 2.0))]
    assert losses == [losses[0]] * 3


@every_term
def test_mixed_precision_rounds_no_sum(make: Callable[[], Term]) -> None:
    """Layers come in bfloat16; from there on the loss is the one of float64 on the same numbers."""
    term, whole = connected(make()), batch()
    for layers in (whole.student_layers, whole.teacher_layers):
        assert layers is not None
        layers.hidden = tuple(h.bfloat16() for h in layers.hidden)
        layers.attentions = tuple(a.bfloat16() for a in layers.attentions)
        layers.qkv = tuple((q.bfloat16(), k.bfloat16(), v.bfloat16()) for q, k, v in layers.qkv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = term(whole, 1.0)
    for layers in (whole.student_layers, whole.teacher_layers):
        assert layers is not None
        layers.hidden = tuple(h.double() for h in layers.hidden)
        layers.attentions = tuple(a.double() for a in layers.attentions)
        layers.qkv = tuple((q.double(), k.double(), v.double()) for q, k, v in layers.qkv)
    assert coarse.item() == pytest.approx(term(whole, 1.0).item(), rel=1e-5)


@pytest.mark.parametrize("precise", [True, False])
def test_real_models_of_different_shapes(precise: bool) -> None:
    """All terms at once, with dropout on and projections: everything is finite, and everything learns."""
    torch.manual_seed(0)
    student, teacher = BertForSequenceClassification(config(2, 8)), BertForSequenceClassification(config(4, 12))
    student.train()
    teacher.eval().requires_grad_(False)
    terms = {name: make() for name, make in TERMS.items()}
    objective = Objective(terms, 1.0, Schedules(Constant(), Constant(), Constant()))
    objective.connect(student.config, teacher.config)
    read_student, read_teacher = LayerReader(student, objective.needs), LayerReader(teacher, objective.needs)
    seen = mask([3, 2, 5, 1])
    inputs = {"input_ids": torch.randint(5, 20, seen.shape), "attention_mask": seen.long()}
    short = {name: values[:, :3].clone() for name, values in inputs.items()}
    short["attention_mask"][2] = torch.tensor([1, 0, 0])  # the row that the teacher does not read
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
        output, student_layers = read_student(inputs)
        answer, teacher_layers = read_teacher(short)
        assert student_layers is not None
        assert teacher_layers is not None
        whole = signals(student_layers, teacher_layers, READ)
        whole.student, whole.teacher = output.logits.float(), answer.logits.float()
        loss = objective(whole, Progress(0, 1))
    loss.total.backward()
    assert all(0 < loss.logs[f"loss/{name}"] < 10 for name in terms)
    learning = [*objective.parameters(), *student.bert.encoder.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
    assert all(p.grad.abs().max() > 0 for p in objective.parameters())  # type: ignore[union-attr]


def test_of_an_encoder_decoder_the_half_that_reads_is_compared() -> None:
    size = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 3, "num_decoder_layers": 1, "num_heads": 2}
    model = T5ForSequenceClassification(T5Config(vocab_size=20, decoder_start_token_id=0, **size))
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]]), "attention_mask": mask([4, 3]).long()}
    layers = LayerReader(model.eval(), {"vector", "hidden", "attentions"})(inputs)[1]
    assert layers is not None
    assert (len(layers.hidden), len(layers.attentions)) == (4, 3)
    assert layers.vector.tolist() == masked_mean(layers.hidden[-1], layers.mask).tolist()  # type: ignore[union-attr, arg-type]


# which layers, which pieces


@pytest.mark.parametrize(
    ("layers", "ours", "theirs", "expected"),
    [
        (None, 3, 12, [(3, 12)]),
        ("even", 3, 12, [(1, 4), (2, 8), (3, 12)]),
        ("even", 4, 6, [(1, 2), (2, 3), (3, 5), (4, 6)]),
        ("even", 3, 2, [(1, 1), (2, 2), (3, 2)]),
        ({0: 0, 1: -3, -1: -1}, 2, 6, [(0, 0), (1, 4), (2, 6)]),
    ],
)
def test_layer_maps(layers: Any, ours: int, theirs: int, expected: list[tuple[int, int]]) -> None:
    assert layer_pairs(layers, config(ours), config(theirs), 0, "here") == expected


def test_layer_maps_as_configurations_write_them() -> None:
    assert HiddenStates(layers={"1": "2", "-1": -1}).layers == {1: 2, -1: -1}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: HiddenStates(layers={3: 1}),
            r"objective\.terms\.hidden\.layers: the student has no layer 3 .* 0 to 2",
        ),
        (
            lambda: HiddenStates(layers={1: -6}),
            r"objective\.terms\.hidden\.layers: the teacher has no layer -6 .* 0 to 4",
        ),
        (lambda: AttentionTransfer(layers={0: 1}), r"attention\.layers: the student has no layer 0 .* 1 to 2"),
        (lambda: MiniLM(teacher_layer=9), r"objective\.terms\.minilm: the teacher has no layer 9"),
        (lambda: MiniLM(relation_heads=3), r"relation_heads=3 does not divide the student's width of 4\. .* 4,"),
        (lambda: MiniLM(relation_heads=0), r"relation_heads=0: at least 1"),
        (lambda: HiddenStates(layers="all"), r"hidden\.layers=all: expected student layer: teacher layer"),  # type: ignore[arg-type]
        (lambda: HiddenStates(layers={}), r"hidden\.layers={}: expected"),
        (lambda: AttentionTransfer(layers={"first": 1}), r"attention\.layers=.*first.*: expected"),  # type: ignore[dict-item]
        (lambda: HiddenStates(distance="l1"), r"hidden\.distance=l1: choose mse or cosine"),  # type: ignore[arg-type]
        (lambda: HiddenStates(pool="max"), r"hidden\.pool=max: choose mean or pieces"),  # type: ignore[arg-type]
        (lambda: Contrastive(tau=0.0), r"contrastive\.tau=0\.0: it is above 0"),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], Term], message: str) -> None:
    with pytest.raises(UserError, match=message):
        connected(make())


def shorter(layers: Layers) -> None:
    layers.mask[0, 2] = False


def another_piece(layers: Layers) -> None:
    layers.input_ids[0, 1] = 99


def longer(layers: Layers) -> None:
    layers.mask[1, 2] = True


@piecewise
@pytest.mark.parametrize("change", [shorter, another_piece, longer])
def test_other_pieces_are_refused(name: str, change: Callable[[Layers], None]) -> None:
    term, whole = connected(TERMS[name]()), batch()
    assert whole.teacher_layers is not None
    change(whole.teacher_layers)
    term_name = name.partition("-")[0]
    with pytest.raises(
        UserError, match=rf"terms\.{term_name} compares piece by piece, and in 1 of 3 rows .*student=hub"
    ):
        term(whole, 1.0)
    if name.startswith("hidden"):
        with pytest.raises(UserError, match=r"hidden\.pool=mean"):
            term(whole, 1.0)
        assert connected(HiddenStates(pool="mean"))(whole, 1.0).isfinite()


@piecewise
@pytest.mark.parametrize("longer_side", [0, 1])
def test_pieces_beyond_the_other_padding_are_refused(name: str, longer_side: int) -> None:
    """One side has read a fourth piece of the third row, after the three that both have."""
    lengths = [[3, 2, 4, 1], [3, 2, 3, 1]]
    ours, theirs = lengths[longer_side], lengths[1 - longer_side]
    student, teacher = random_layers(ours, 2, 4, 7, grad=False), random_layers(theirs, 4, 4, 8, grad=False)
    term = connected(TERMS[name]())
    assert term(signals(student, teacher, READ), 1.0).isfinite()  # as long as that row does not count
    with pytest.raises(UserError, match="in 1 of 4 rows"):
        term(signals(student, teacher, [True] * 4), 1.0)
