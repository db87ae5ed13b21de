"""Any number of classes for a text; and class weights, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from distilingua.checks import check
from distilingua.columns import Encoded
from distilingua.corpora.schema import class_name
from distilingua.distillation.losses.ce import IGNORE_INDEX, CrossEntropy
from distilingua.distillation.signals import Signals
from distilingua.errors import UserError
from distilingua.tasks.multi_label import MultiLabel
from distilingua.tasks.text_classification import TextClassification
from tests.small_jobs import train

LABELS = ["angry", "late", "loud"]


def test_labels_are_lists_of_classes() -> None:
    assert MultiLabel.classes(['["late","angry"]', "[]", "", "loud"]) == LABELS
    rows = Dataset.from_dict({"label": ['["late","angry"]', "[]", "", "loud"]})
    found = [target.tolist() for target in MultiLabel().fit_labels(LABELS).targets(rows, Encoded({}))]
    assert found == [[[1, 1, 0]], [[0, 0, 0]], [[IGNORE_INDEX] * 3], [[0, 0, 1]]]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('["late","angry"]', '["late","angry"]'),  # as it is to be
        ("late", "late"),
        ("", ""),
        ("['late', 'angry']", '["late", "angry"]'),  # Python's
        ("['late'\n 'angry']", '["late", "angry"]'),  # numpy's
        ("late|angry", '["late", "angry"]'),
        ("late ; angry;", '["late", "angry"]'),
        ('[["late"],["angry"]]', '["late", "angry"]'),
        ('[{"name":"late","id":0},{"label":"angry"}]', '["late", "angry"]'),
        ('["late\u200f","late"]', '["late"]'),
        ('["R|B"]', '["R|B"]'),  # a list says where names end
    ],
)
def test_lists_of_classes_are_read_as_data_sets_write_them(written: str, read: str) -> None:
    assert MultiLabel.spelling(written) == read
    assert MultiLabel.problem({"label": read}) is None


@pytest.mark.parametrize("label", ["[1, 'a']", "[0, 2]", "[", "[null]", '[{"id": 1}]', "['a'", "[" * 10_000])
def test_what_names_no_classes_stays_and_is_told(label: str) -> None:
    assert MultiLabel.spelling(label) == label
    assert MultiLabel.problem({"label": label}) is not None


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ([0, 2], ["angry", "loud"]),
        ([2.0], ["loud"]),
        ([1, 0, 1], ["angry", "loud"]),
        ([True, False, False], ["angry"]),
        ([0, 0, 0], []),
        ([], []),
        ("[0, 2]", ["angry", "loud"]),
        (["late"], ["late"]),
    ],
)
def test_classes_by_number_or_one_hot_have_names(value: Any, names: list[str]) -> None:
    assert json.loads(class_name(value, LABELS, as_text=True)) == names


def test_two_numbers_of_two_classes_are_not_guessed_at() -> None:
    with pytest.raises(UserError, match=r"\[0, 1\] may be both of two classes, or one-hot"):
        class_name([0, 1], ["angry", "late"])


def test_every_class_is_decided_by_itself() -> None:
    answer = torch.tensor([[2.0, 0.1, -0.1]])
    assert json.loads(MultiLabel().fit_labels(LABELS).decode(answer, {}, {}, None)) == ["angry", "late"]


def test_scores_by_hand() -> None:
    """
    truth  angry+late | none | loud        angry: 1 said, 1 true, 1 right: F 1      late: never said: F 0
    said   angry      | loud | loud        loud:  2 said, 1 true, 1 right: F 2/3    together: 2 right of 3 said, 3 true
    """
    said = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, -1, 1]])
    found = MultiLabel().fit_labels(LABELS).metrics()(said, torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1]]))
    expected = {"f1": (1 + 0 + 2 / 3) / 3, "micro_f1": 2 / 3, "exact": 1 / 3}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def test_agreement_is_on_every_class() -> None:
    task = MultiLabel().fit_labels(LABELS)
    student = torch.tensor([[1.0, -1, -1], [1.0, -1, 1]])
    assert task.agree(student, torch.tensor([[5.0, -0.1, -3], [1.0, -1, -1]])).tolist() == [True, False]


@pytest.mark.parametrize("kind", [TextClassification, MultiLabel])
def test_balanced_weights_by_hand(kind: type[TextClassification]) -> None:
    task = kind(class_weights="balanced")
    task.fit_labels(LABELS, ["angry"] * 6 + ["late"] * 3 + ["loud"])
    assert task.class_weights is not None
    # of one class: rows / (classes · rows of the class); of many: rows without it / rows with it
    by_hand = [10 / 18, 10 / 9, 10 / 3] if kind is TextClassification else [4 / 6, 7 / 3, 9.0]
    assert task.class_weights.tolist() == pytest.approx(by_hand)


def test_cross_entropy_weighs_a_row_by_its_class() -> None:
    student, labels = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0, 1, IGNORE_INDEX])
    weights = torch.tensor([0.5, 3.0], dtype=torch.float64)
    given = Signals(student, None, labels, torch.tensor([False] * 3), rows=3, class_weights=weights)
    assert CrossEntropy()(given, 1.0).item() == pytest.approx((0.5 + 3.0) * math.log(2) / 3)


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(UserError, match=r"task\.class_weights=heavy is not known. Choose null or balanced"):
        TextClassification(class_weights="heavy").fit_labels(LABELS)


def test_the_hard_loss_of_another_task_is_refused_with_the_right_one(tiny_run) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"objective/terms=\[binary_kl,bce\]"):
        check(tiny_run("task=labels"))
    with pytest.raises(UserError, match=r"objective/terms=\[kl,ce\]"):
        check(tiny_run("objective=custom", "objective/terms=[kl,bce]"))


@pytest.mark.long
def test_many_labels_are_distilled(tiny_run, files_corpus: Path) -> None:  # type: ignore[no-untyped-def]
    """The whole job: each text is about one or two of three things."""
    for file in files_corpus.rglob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for row, other in zip(rows[::2], rows[1::2], strict=False):
            row["text"] += " " + other["text"]
            row["label"] = json.dumps(sorted({row["label"], other["label"]}))
        file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    cfg = tiny_run(
        "task=labels",
        "task.class_weights=balanced",
        "objective=custom",
        "objective/terms=[binary_kl,bce]",
        "corpus.columns.block=null",
        *("teacher.fine_tune.epochs=12", "teacher.fine_tune.lr=4e-3", "training.epochs=12", "optimizer.lr=4e-3"),
    )
    check(cfg)
    metrics = train(cfg)
    german = {name: model["languages"]["de"]["f1"] for name, model in metrics["models"].items()}
    assert german["student"] > german["direct"] + 0.1
    assert set(metrics["models"]["student"]["languages"]["de"]) == {"f1", "micro_f1", "exact"}
