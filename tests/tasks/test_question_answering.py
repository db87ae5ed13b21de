"""Answers in a context: characters as the meeting point, windows, projection, scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from transformers import BertForQuestionAnswering, PreTrainedTokenizerBase

from distilingua.checks import check
from distilingua.columns import Encoded
from distilingua.data.encoder import Encoder
from distilingua.distillation.losses.attention import AttentionTransfer
from distilingua.distillation.losses.ce import IGNORE_INDEX
from distilingua.distillation.losses.contrastive import Contrastive
from distilingua.distillation.losses.embedding import SentenceEmbedding
from distilingua.distillation.losses.hidden import HiddenStates
from distilingua.distillation.losses.kl import KL
from distilingua.distillation.losses.minilm import MiniLM
from distilingua.distillation.losses.term import Term
from distilingua.distillation.signals import Layers, Signals
from distilingua.errors import UserError
from distilingua.models.layers import LayerReader
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.question_answering import (
    FAR,
    QuestionAnswering,
    best_windows,
    exact_match,
    first_and_last,
    normalised,
    token_f1,
)
from distilingua.tasks.task import windows_of
from distilingua.training.inference import EnsemblePredictor, Predictor
from distilingua.training.job import dry_run
from tests.conftest import Compose, tiny_bert
from tests.small_jobs import german_job, prepare, small_corpus, train

CONTEXT = "set the reading lamp in the living room to 20 percent"
SQUAD = {"text": ["lamp"], "answer_start": [4]}
LONG = " ".join(f"the lamp {n} is in room {n + 100} ." for n in range(40))
Read = dict[str, Any]
Tokenizers = list[PreTrainedTokenizerBase]
Model = BertForQuestionAnswering


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    """One of whole words, one that is hardly more than letters."""
    texts = [CONTEXT, LONG, "which room? how bright?"]
    return [train_tokenizer(texts * 20, size) for size in (300, 45)]


@pytest.fixture(scope="module")
def model() -> BertForQuestionAnswering:
    torch.manual_seed(0)
    config = tiny_bert(300, initializer_range=1.0)  # or every answer is alike
    return BertForQuestionAnswering(config).eval()


def columns(context: str, question: str = "which room?", rows: int = 1) -> dict[str, list[str]]:
    return {"text": [question] * rows, "text_pair": [context] * rows}


def read(task: QuestionAnswering, context: str, tokenizer: PreTrainedTokenizerBase) -> Read:
    return task.encode(columns(context), tokenizer, "")[0]


def answer_of(task: QuestionAnswering, model: Model, encoded: Read) -> torch.Tensor:
    inputs, at = task.collate(Encoded.of([encoded]), 0)
    with torch.no_grad():
        return task.answer(model, inputs, at)[0]


def test_a_piece_starts_with_its_first_character_and_ends_with_its_last(model: Model, tokenizers: Tokenizers) -> None:
    task = QuestionAnswering()
    encoded = read(task, CONTEXT, tokenizers[0])
    cells = answer_of(task, model, encoded)
    assert cells.shape == (1 + len(CONTEXT.replace(" ", "")), 2)
    inputs, _ = task.collate(Encoded.of([encoded]), 0)
    with torch.no_grad():
        output = model(**inputs)
    at = encoded["at"]
    for n, piece in enumerate(at):
        first, last = n == 0 or at[n - 1] != piece, n == len(at) - 1 or at[n + 1] != piece
        assert cells[1 + n, 0].item() == pytest.approx(output.start_logits[0, piece].item() if first else FAR, abs=1e-5)
        assert cells[1 + n, 1].item() == pytest.approx(output.end_logits[0, piece].item() if last else FAR, abs=1e-5)


def test_the_objective_compares_the_students_pieces(model: Model, tokenizers: Tokenizers) -> None:
    """A model against itself, then what a teacher of smaller pieces says of the student's larger ones."""
    task = QuestionAnswering(max_length=160)
    coarse, fine = (read(task, CONTEXT, tokenizer) for tokenizer in tokenizers)
    _, at = task.collate(Encoded.of([coarse]), 0)
    batch = {
        "counts": torch.tensor(task.positions(Encoded.of([coarse]))),
        "labels": torch.tensor(first_and_last(label(("reading lamp", 8)), CONTEXT)),
        "has_teacher": torch.tensor([True]),
        "student_at": at,
    }
    own, small = answer_of(task, model, coarse), answer_of(task, model, fine)
    same = task.signals(own, own.clone(), batch)
    inputs, _ = task.collate(Encoded.of([coarse]), 0)
    pieces = [0, *sorted(set(coarse["at"]))]
    with torch.no_grad():
        start = model(**inputs).start_logits[0, pieces]
    assert torch.allclose(same.student[0], start, atol=1e-4)
    assert KL()(same, 2.0).item() == pytest.approx(0.0, abs=1e-6)
    assert [pieces[n] for n in same.labels.tolist()] == [coarse["at"][6], coarse["at"][16]]
    other = task.signals(own, small, batch)
    assert other.teacher is not None
    teacher = other.teacher.softmax(-1)
    by_character = small.softmax(0)
    for n, piece in enumerate(pieces[1:], 1):
        inside = [1 + c for c, at_piece in enumerate(coarse["at"]) if at_piece == piece]
        assert teacher[0, n].item() == pytest.approx(by_character[inside, 0].sum().item(), abs=1e-5)
        assert teacher[1, n].item() == pytest.approx(by_character[inside, 1].sum().item(), abs=1e-5)


def test_tokenizers_meet_at_characters(tokenizers: Tokenizers) -> None:
    task = QuestionAnswering()
    coarse, fine = (read(task, CONTEXT, tokenizer) for tokenizer in tokenizers)
    assert task.positions(Encoded.of([coarse])) == task.positions(Encoded.of([fine]))
    assert len(coarse["input_ids"]) < len(fine["input_ids"])


@pytest.mark.parametrize("rows", [1, 3])
def test_windows_cover_a_long_context_and_are_one_distribution(model: Model, tokenizers: Tokenizers, rows: int) -> None:
    task = QuestionAnswering(max_length=48, stride=12)
    contexts = [LONG, CONTEXT, LONG[:200]][:rows]
    encoded = [read(task, context, tokenizers[0]) for context in contexts]
    assert len(encoded[0]["lengths"]) > 5
    assert all(length <= 48 for e in encoded for length in e["lengths"])
    inputs, at = task.collate(Encoded.of(encoded), 0)
    assert len(inputs["input_ids"]) == sum(len(e["lengths"]) for e in encoded)
    with torch.no_grad():
        answers, output = task.answer(model, inputs, at), model(**inputs)
    window = 0
    for e, answer, context in zip(encoded, answers, contexts, strict=True):
        assert len(answer) == 1 + len(context.replace(" ", ""))
        alone = answer_of(task, model, e)
        assert torch.allclose(answer, alone, atol=1e-5)
        nothing = output.start_logits[window : window + len(e["lengths"]), 0].min()
        assert answer[0, 0].item() == pytest.approx(nothing.item(), abs=1e-5)
        window += len(e["lengths"])


def layers_of(model: Model, tokenizer: PreTrainedTokenizerBase, contexts: list[str], rows: bool = True) -> Layers:
    """What a model computes of contexts in windows; each of these as a row of its own, unless `rows`."""
    task = QuestionAnswering(max_length=40, stride=8)
    encoded = task.encode({"text": ["which room?"] * len(contexts), "text_pair": contexts}, tokenizer, "")
    inputs, at = task.collate(encoded, 0)
    windows = windows_of(at, inputs)
    assert windows is None or windows.tolist() == encoded.lists("lengths").lengths.tolist()
    wanted = {"vector", "hidden", "attentions", "qkv"}
    layers = LayerReader(model, wanted)(inputs, windows if rows else None)[1]
    assert layers is not None
    return layers


def loss_of(term: Term, ours: Layers, theirs: Layers, read: list[bool]) -> float:
    rows = torch.zeros(len(read))
    signals = Signals(rows, None, rows, torch.tensor(read), len(read), student_layers=ours, teacher_layers=theirs)
    signals.read = torch.arange(len(read))
    return float(term(signals, 1.0).detach())


TERMS = (
    *(SentenceEmbedding, Contrastive, HiddenStates, AttentionTransfer),
    *(partial(HiddenStates, pool="pieces"), partial(MiniLM, relation_heads=2)),
)


@pytest.mark.parametrize("make", TERMS)
def test_rows_are_compared_however_many_windows_each_model_reads(
    tokenizers: Tokenizers, model: Model, make: Callable[[], Term]
) -> None:
    torch.manual_seed(1)
    student = BertForQuestionAnswering(tiny_bert(300, initializer_range=1.0)).eval()
    term = make()
    term.connect(student.config, model.config)
    contexts = [LONG, CONTEXT, LONG[:300]]
    if not term.by_piece:
        ours, theirs = (
            layers_of(one, pieces, contexts) for one, pieces in zip((student, model), tokenizers, strict=True)
        )
        assert len(ours.hidden[0]) != len(theirs.hidden[0])
        assert 0 < loss_of(term, ours, theirs, [True, True, False]) < 1000
        return
    read = [True, False, True]
    ours, theirs = (layers_of(one, tokenizers[1], contexts) for one in (student, model))
    alone = []
    for context in (contexts[0], contexts[2]):
        both = [layers_of(one, tokenizers[1], [context], rows=False) for one in (student, model)]
        alone.append(loss_of(term, *both, [True] * len(both[0].hidden[0])))
    assert loss_of(term, ours, theirs, read) == pytest.approx(sum(alone) / 3, rel=1e-4)


@pytest.mark.long
def test_the_default_objective_learns_from_long_rows(tiny_run: Compose, tmp_path: Path) -> None:
    """Student and teacher read them in different numbers of windows."""
    for lang, split in product(("en", "de"), ("train", "dev", "test")):
        rows = [
            {"question": f"{split} {lang} {n}?", "context": LONG[:200], "answers": SQUAD, "key": n} for n in range(20)
        ]
        file = tmp_path / "long" / lang / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    columns = [f"corpus.columns.{key}" for key in ("text=[question,context]", "label=answers", "block=null")]
    metrics = train(
        tiny_run(
            *("task=answers", "task.max_length=32", "task.stride=8", f"corpus.path={tmp_path / 'long'}", *columns),
            *("objective=kd_embedding", "teacher.languages=null", "training.epochs=1", "teacher.fine_tune.epochs=1"),
        )
    )
    assert metrics["models"]["student"]["languages"].keys() == {"en", "de"}


def test_a_character_is_read_in_the_window_that_shows_most_around_it() -> None:
    # "a b c d e": windows of three pieces after one of the question, each two further
    first, second = [None, (0, 1), (2, 3), (4, 5)], [None, (4, 5), (6, 7), (8, 9)]
    window, piece = best_windows("a b c d e", [first, second])
    assert window == [0, 0, 0, 1, 1]
    assert piece == [1, 2, 3, 2, 3]


def test_what_no_piece_stands_for_goes_with_its_neighbour() -> None:
    assert best_windows("xaby", [[None, (1, 2), (2, 3)]]) == ([0, 0, 0, 0], [1, 1, 2, 2])


def test_a_context_that_does_not_fit_is_refused_without_windows(tokenizers: Tokenizers) -> None:
    task = QuestionAnswering(max_length=64, stride=None)
    read(task, CONTEXT, tokenizers[0])
    with pytest.raises(UserError, match=r"the context 'the lamp 0 is in room .* windows are off. Set task\.stride=16"):
        read(task, LONG, tokenizers[0])
    with pytest.raises(UserError, match=r"a question alone has \d+ pieces"):
        QuestionAnswering(max_length=16, stride=4).encode(columns("x", LONG), tokenizers[0], "")
    with pytest.raises(UserError, match=r"task\.stride=40"):
        QuestionAnswering(max_length=64, stride=40)


def label(*answers: tuple[str, int]) -> str:
    return json.dumps([{"text": text, "start": start} for text, start in answers])


def test_targets_are_positions_and_spaces_have_none() -> None:
    assert first_and_last(label(("reading lamp", 8)), CONTEXT) == [7, 17]  # "set", "the" and no answer come before
    assert first_and_last("[]", CONTEXT) == [0, 0]
    assert first_and_last("", CONTEXT) == [IGNORE_INDEX, IGNORE_INDEX]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            ("living room", 27),
            "'living room' is not at character 27 of the context, ' living roo' is; it is at 28",
        ),
        (("cellar", 3), "the answer 'cellar' is not at character 3 of the context, ' the r' is."),
        (("", 3), "the answer '' is not at"),
    ],
)
def test_an_answer_that_is_not_in_the_context_is_named(answer: tuple[str, int], message: str) -> None:
    assert message in str(QuestionAnswering.problem({"text_pair": CONTEXT, "label": label(answer)}))
    assert QuestionAnswering.problem({"text_pair": CONTEXT, "label": label(("living room", 28))}) is None


@pytest.mark.parametrize("label", ["hall", "7", '"hall"', '["hall"]', '[{"text": "hall"}]', '{"text": ["x"]}'])
def test_what_is_no_list_of_answers_is_named(label: str) -> None:
    assert "is no list of answers" in str(QuestionAnswering.problem({"text_pair": CONTEXT, "label": label}))


@pytest.mark.parametrize("size", [0, 1], ids=["words", "letters"])
@pytest.mark.parametrize("said", ["reading lamp", "living room", "20", ""])
def test_what_is_certain_is_decoded(tokenizers: Tokenizers, said: str, size: int) -> None:
    task = QuestionAnswering(max_length=160)
    encoded = read(task, CONTEXT, tokenizers[size])
    start, end = first_and_last(label((said, CONTEXT.index(said))) if said else "[]", CONTEXT)
    answer = torch.zeros(int(task.positions(Encoded.of([encoded]))[0]), 2)
    answer[start, 0] = answer[end, 1] = 9.0
    assert task.decode(answer, {"text_pair": CONTEXT}, encoded, None) == said


def test_projection_by_hand() -> None:
    """70 % of the start and 60 % of the end lie in the living room, 10 % and 20 % say there is no answer."""
    source = {"text_pair": "in a room", "spans": json.dumps([["v", 5, 9]])}
    target = {"text_pair": "im Raum", "spans": json.dumps([["v", 3, 7]])}
    start, end = [0.1, 0.1, 0.05, 0.05, 0.4, 0.3, 1e-9, 1e-9], [0.2, 0.1, 0.1, 1e-9, 0.1, 0.1, 0.1, 0.3]
    cells = np.log(np.array([start, end], dtype=np.float32).T)
    found = np.exp(QuestionAnswering().project(cells, source, target))
    rest = 0.2 / 6  # what lies outside, over six characters
    assert found[:, 0].tolist() == pytest.approx([0.1, rest, rest, 0.7 + rest, rest, rest, rest], abs=1e-5)
    assert found[:, 1].tolist() == pytest.approx([0.2, rest, rest, rest, rest, rest, 0.6 + rest], abs=1e-5)
    assert found.sum(0).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_signals_are_two_distributions_a_row_and_padding_weighs_nothing() -> None:
    task = QuestionAnswering()
    counts = torch.tensor([2, 4])
    torch.manual_seed(0)
    student = torch.randn(6, 2, requires_grad=True)
    at = torch.tensor([[0, 1, -2, -2], [9, 10, 11, 12]])  # pieces of one character each
    batch = {"counts": counts, "labels": torch.tensor([0, 1, 3, 2]), "has_teacher": torch.tensor([True, True])}
    batch["student_at"] = at
    found = task.signals(student, student.detach().clone(), batch)
    assert found.student.shape == (4, 4)
    assert found.student.softmax(-1)[:2, 2:].sum().item() == 0.0
    assert KL()(found, 2.0).item() == pytest.approx(0.0, abs=1e-6)
    other = task.signals(student, torch.zeros(6, 2), batch)
    loss = KL()(other, 1.0)
    assert math.isfinite(loss.item())
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_row_that_was_not_read_has_no_teacher() -> None:
    batch = {
        "counts": torch.tensor([2, 2]),
        "labels": torch.tensor([0, 0, 1, 1]),
        "has_teacher": torch.tensor([True, False]),
        "student_at": torch.tensor([[0, 1], [2, 3]]),
    }
    teacher = torch.tensor([[0.0, 0.0], [1.0, 1.0], [torch.nan, torch.nan], [torch.nan, torch.nan]])
    found = QuestionAnswering().signals(torch.zeros(4, 2), teacher, batch)
    assert found.has_teacher.tolist() == [True, True, False, False]
    assert math.isfinite(KL()(found, 1.0).item())


def test_normalisation_follows_the_language() -> None:
    assert normalised("The living-room, please!", "en") == ["livingroom", "please"]
    assert normalised("Der Raum.", "de") == ["raum"]
    assert normalised("Der Raum.", "en") == ["der", "raum"]
    assert normalised("el salón", "es") == ["salón"]
    assert normalised("在 客厅。", "zh") == ["在", "客", "厅"]


def test_scores_by_hand() -> None:
    assert exact_match("the Living room!", "living room", "en") == 1.0
    assert token_f1("big living room", "living room", "en") == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert token_f1("kitchen", "living room", "en") == 0.0
    assert token_f1("", "", "en") == exact_match("", "", "en") == 1.0
    assert token_f1("kitchen", "", "en") == 0.0


def test_a_row_is_judged_by_its_best_answer(tokenizers: Tokenizers) -> None:
    task = QuestionAnswering()
    rows = Dataset.from_list(
        [
            {"text": "?", "text_pair": CONTEXT, "lang": "en", "label": label(("reading lamp", 8), ("lamp", 16))},
            {"text": "?", "text_pair": CONTEXT, "lang": "en", "label": "[]"},
        ]
    )
    encoded = task.encode(rows[:], tokenizers[0], "")
    answers = []
    for e in encoded:
        answer = torch.zeros(int(task.positions(Encoded.of([e]))[0]), 2)
        for column, place in enumerate(first_and_last(label(("lamp", 16)), CONTEXT)):
            answer[place, column] = 9.0
        answers.append(answer)
    scores, said = task.evaluate(answers, rows, encoded, None)
    assert said == ["lamp", "lamp"]
    assert scores == {"f1": 0.5, "exact": 0.5}


@pytest.mark.long
def test_german_answers_without_german_labels(compose_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The whole job on a small part of the embedded corpus."""
    metrics = german_job(compose_run, tmp_path, "answers", "corpus.corpus")
    german = {name: model["languages"]["de"]["f1"] for name, model in metrics["models"].items()}
    assert german["student"] > german["direct"] + 0.05


def test_a_context_that_does_not_fit_is_named_before_anything_is_trained(compose_run) -> None:  # type: ignore[no-untyped-def]
    cfg = compose_run(
        "experiment=answers",
        *("task.max_length=24", "task.stride=null"),
        *small_corpus("corpus.corpus"),
    )
    check(cfg)
    with pytest.raises(UserError, match=r"task\.max_length=24: .* windows are off\. Set task\.stride=6"):
        dry_run(prepare(cfg))


def test_several_teachers_answer_over_the_text_of_each_row(tokenizers: Tokenizers) -> None:
    """Starts are one distribution over a row and ends another, whatever stands in the batch beside it."""
    torch.manual_seed(0)
    models = [BertForQuestionAnswering(tiny_bert(300, initializer_range=1.0)).eval() for _ in range(2)]
    encoder = Encoder(QuestionAnswering(), tokenizers[0])
    members: list[tuple[Predictor, list[str] | None]] = [(Predictor(lambda m=m: m, encoder), None) for m in models]  # type: ignore[misc]
    several = EnsemblePredictor(members, [3.0, 1.0])
    rows = Dataset.from_dict({**columns(CONTEXT), "id": ["0"], "lang": ["en"]})
    long = Dataset.from_dict({**columns(CONTEXT[:30]), "id": ["1"], "lang": ["en"]})
    both = concatenate_datasets([rows, long])
    encoded = encoder(both, None)
    ((numbers, cells, _),) = several.cells(encoded, "x")
    parts = cells.split(encoder.task.positions(encoded[numbers]).tolist())
    found = dict(zip(numbers.tolist(), parts, strict=True))
    for n, row in enumerate((rows, long)):
        a, b = (member.predict(row, "x").answers[0].softmax(0) for member, _ in members)
        assert found[n].exp().numpy() == pytest.approx((0.75 * a + 0.25 * b).numpy(), abs=1e-5)
        assert several.predict(row, "x").answers[0].numpy() == pytest.approx(found[n].numpy(), abs=1e-3)
