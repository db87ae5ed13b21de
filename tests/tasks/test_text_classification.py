"""What the models read, and how they are judged: against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import BertForSequenceClassification, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from distilingua.columns import Encoded
from distilingua.distillation.losses.ce import IGNORE_INDEX
from distilingua.errors import UserError
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.multi_label import MultiLabel
from distilingua.tasks.text_classification import TextClassification
from tests.conftest import tiny_bert

STARS = ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]


def logits(predicted: list[int], classes: int) -> torch.Tensor:
    """The likeliest class of each row, by a margin that differs from row to row."""
    return torch.nn.functional.one_hot(torch.tensor(predicted), classes) * torch.arange(
        1.0, len(predicted) + 1
    ).unsqueeze(1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["a man sleeps", "somebody is awake", "query: the rain in spain"] * 20, 200)


def scores(task: TextClassification, predicted: list[int], truth: list[int]) -> dict[str, float]:
    found = task.metrics()(logits(predicted, len(task.labels)), torch.tensor(truth))
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["a", "b", "c", "never"]])
def test_metrics_by_hand(labels: list[str]) -> None:
    """A class that neither occurs nor is predicted lowers no mean.

    truth      a a a b b c        a: 2 of 3 found, 2 of 2 named right;   P 1    R 2/3  F 4/5
    predicted  a a b b c c        b: 1 of 2 found, 1 of 2 named right;   P 1/2  R 1/2  F 1/2
                                  c: 1 of 1 found, 1 of 2 named right;   P 1/2  R 1    F 2/3
    """
    found = scores(TextClassification().fit_labels(labels), [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2])
    assert found == pytest.approx(
        {
            "accuracy": 4 / 6,
            "precision": (1 + 1 / 2 + 1 / 2) / 3,
            "recall": (2 / 3 + 1 / 2 + 1) / 3,
            "f1": (4 / 5 + 1 / 2 + 2 / 3) / 3,
        },
        abs=1e-6,
    )


def test_mae_counts_steps_and_adds_up_over_batches() -> None:
    """Off by 0, 1, 4, 2 and 0, 3 steps: 10 steps over 6 rows. Half of the batches would have a mean of 7/4 and 3/2."""
    task = TextClassification(ordinal=True).fit_labels(STARS)
    assert scores(task, [0, 1, 4, 2], [0, 0, 0, 4])["mae"] == pytest.approx(7 / 4)
    metrics = task.metrics()
    metrics.update(logits([0, 1, 4, 2], 5), torch.tensor([0, 0, 0, 4]))
    metrics.update(logits([3, 0], 5), torch.tensor([3, 3]))
    assert float(metrics.compute()["mae"]) == pytest.approx(10 / 6)
    metrics.reset()
    metrics.update(logits([1], 5), torch.tensor([2]))
    assert float(metrics.compute()["mae"]) == 1.0


def test_accuracy_cannot_tell_a_near_miss_from_a_far_one_and_mae_can() -> None:
    task = TextClassification(ordinal=True).fit_labels(STARS)
    near, far = scores(task, [1, 3], [0, 4]), scores(task, [4, 0], [0, 4])
    assert near["accuracy"] == far["accuracy"] == 0.0
    assert (near["mae"], far["mae"]) == (1.0, 4.0)


def test_mae_is_for_ordered_classes_only() -> None:
    assert set(TextClassification().fit_labels(STARS).metrics()) == {"accuracy", "precision", "recall", "f1"}
    more = set(TextClassification(ordinal=True).fit_labels(STARS).metrics())
    assert more == {"accuracy", "precision", "recall", "f1", "mae"}


@pytest.mark.parametrize(
    ("options", "found", "labels"),
    [
        ({}, ["10 stars", "2 stars", "1 star"], ["10 stars", "2 stars", "1 star"]),
        ({"ordinal": True}, ["10 stars", "2 stars", "1 star"], ["1 star", "2 stars", "10 stars"]),
        ({"ordinal": True}, ["1", "-1", "0", "-0.5"], ["-1", "-0.5", "0", "1"]),
        ({"ordinal": True}, ["2", "fair", "10"], ["2", "fair", "10"]),
        ({"order": ["good", "bad", "fair"]}, ["bad", "fair", "good"], ["good", "bad", "fair"]),
    ],
)
def test_labels_keep_their_order_unless_something_else_is_said(
    options: dict[str, Any], found: list[str], labels: list[str]
) -> None:
    assert TextClassification(**options).fit_labels(found).labels == labels


def test_the_order_is_that_of_logits_targets_and_configurations() -> None:
    task = TextClassification(ordinal=True, order=["awful", "bad", "fair"]).fit_labels(["bad", "fair", "awful"])
    assert task.model_options == {
        "id2label": {0: "awful", 1: "bad", 2: "fair"},
        "label2id": {"awful": 0, "bad": 1, "fair": 2},
    }
    rows = Dataset.from_dict({"label": ["fair", "awful"]})
    assert [target.tolist() for target in task.targets(rows, Encoded({}))] == [[2], [0]]
    answers = torch.tensor([[0.0, 0.1, 3.0], [-1.0, -2.0, -3.0]])
    assert [task.decode(answer[None], {}, {}, None) for answer in answers] == ["fair", "awful"]


@pytest.mark.parametrize("order", [["bad"], ["bad", "good", "great"], ["bad", "bad"]])
def test_an_order_names_every_label_once(order: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        TextClassification(order=order).fit_labels(["bad", "good"])
    assert f"task.order={','.join(order)}: the labels are bad, good" in str(caught.value)
    assert "task.order=[bad,good]" in str(caught.value)


def test_a_hidden_label_is_marked_and_costs_nothing() -> None:
    task = TextClassification().fit_labels(["a", "b"])
    targets = torch.from_numpy(task.targets(Dataset.from_dict({"label": ["b", "", "a"]}), Encoded({})).values)
    assert targets.tolist() == [1, IGNORE_INDEX, 0]
    assert targets.dtype == torch.long
    student = torch.tensor([[0.0, 0.0], [9.0, -9.0], [0.0, 0.0]])
    assert torch.nn.functional.cross_entropy(student, targets).item() == pytest.approx(math.log(2))


def test_a_pair_is_one_sequence_with_a_separator_between(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {"text": ["a man sleeps"], "text_pair": ["somebody is awake"]}
    [read] = TextClassification().fit_labels(["a", "b"]).encode(rows, tokenizer, prefix="")
    ids = read["input_ids"]
    first, second = (tokenizer(rows[name][0], add_special_tokens=False)["input_ids"] for name in ("text", "text_pair"))
    assert ids == [tokenizer.cls_token_id, *first, tokenizer.sep_token_id, *second, tokenizer.sep_token_id]


def test_a_single_text_has_no_second_separator(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {"text": ["a man sleeps", "somebody is awake"], "text_pair": ["", ""]}
    for read in TextClassification().fit_labels(["a", "b"]).encode(rows, tokenizer, prefix=""):
        assert read["input_ids"].count(tokenizer.sep_token_id) == 1
        assert read["input_ids"][-1] == tokenizer.sep_token_id


def test_prefix_goes_in_front_of_the_first_text_only(tokenizer: PreTrainedTokenizerBase) -> None:
    task = TextClassification().fit_labels(["a", "b"])
    rows = {"text": ["the rain"], "text_pair": ["in spain"]}
    written = {"text": ["query: the rain"], "text_pair": ["in spain"]}
    assert list(task.encode(rows, tokenizer, prefix="query: ")) == list(task.encode(written, tokenizer, prefix=""))


def test_what_goes_beyond_the_length_is_cut_and_both_texts_keep_a_part(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {"text": ["a man sleeps " * 20], "text_pair": ["somebody is awake " * 20]}
    [read] = TextClassification(max_length=16).fit_labels(["a", "b"]).encode(rows, tokenizer, prefix="")
    ids = read["input_ids"]
    assert len(ids) == 16
    middle = ids.index(tokenizer.sep_token_id)
    assert 1 < middle < 14
    assert ids[-1] == tokenizer.sep_token_id


def test_logits_are_in_full_precision() -> None:
    output = SequenceClassifierOutput(logits=torch.tensor([[0.5, 1.5]], dtype=torch.bfloat16))
    found = TextClassification().fit_labels(["a", "b"]).cells(output, None)
    assert found.dtype == torch.float32
    assert found.tolist() == [[0.5, 1.5]]


LONG = ["a man sleeps " * 20, "somebody is awake", "the rain in spain " * 9, ""]


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_bert(len(tokenizer), num_labels=2)).eval()


def answers(task: TextClassification, model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    rows = {"text": texts, "text_pair": [""] * len(texts)}
    with torch.no_grad():
        return torch.cat(task.answer(model, *task.collate(task.encode(rows, tokenizer, ""), tokenizer.pad_token_id)))


@pytest.mark.parametrize("kind", [TextClassification, MultiLabel])
def test_a_long_text_is_answered_by_the_mean_of_its_windows(kind: Any, tokenizer: Any, model: Any) -> None:
    found = answers(kind(max_length=16, long="windows", stride=5), model, tokenizer, LONG)
    for text, answer in zip(LONG, found, strict=True):
        read = tokenizer(text, truncation=True, max_length=16, stride=5, return_overflowing_tokens=True)["input_ids"]
        with torch.no_grad():
            each = [model(torch.tensor([ids])).logits[0] for ids in read]
        torch.testing.assert_close(answer, torch.stack(each).mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("long", ["windows", "head_tail"])
def test_a_text_that_fits_is_read_as_by_its_head(long: str, tokenizer: Any, model: Any) -> None:
    short = [LONG[1], LONG[3]]
    alone = answers(TextClassification(max_length=32), model, tokenizer, short)
    assert torch.equal(answers(TextClassification(max_length=32, long=long), model, tokenizer, short), alone)
    beside = answers(TextClassification(max_length=32, long=long), model, tokenizer, LONG)[[1, 3]]
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=1e-5)


def test_windows_shape_what_is_kept() -> None:
    options: list[dict[str, Any]] = [{}, {"long": "head_tail"}, {"long": "windows"}, {"long": "windows", "stride": 3}]
    assert len({str(TextClassification(**each).recipe) for each in options}) == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"long": "foo"}, "task.long=foo is not known. Choose one of: head, head_tail, windows"),
        ({"long": "windows", "stride": 16}, "task.stride=16: it is below half of task.max_length=16"),
        ({"stride": -1}, "task.stride=-1: expected a whole number of at least 0"),
    ],
)
def test_ways_of_reading_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        TextClassification(max_length=16, **options)


def test_pairs_are_read_by_their_head_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"task\.long=windows is for single texts, .* Set task\.long=head"):
        TextClassification(long="windows").encode({"text": ["a"], "text_pair": ["b"]}, tokenizer, "")
