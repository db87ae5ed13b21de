"""What cannot work is refused by `check`, in one sentence, before anything loads; test_cli.py has the command line."""

from __future__ import annotations

import pytest

from distilingua.checks import check
from distilingua.commands import file_name
from distilingua.errors import UserError
from distilingua.models.student import Scratch
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.token_classification import TokenClassification
from tests.conftest import Compose

WRITES = ("corpus=translations", "pair=en-fr", "teacher=seq2seq_scratch", "student=seq2seq_tiny")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student=seq2seq_tiny"], "student: task=intent needs an AutoModelForSequenceClassification"),
        (["teacher=seq2seq_scratch"], "teacher: task=intent needs .*student=tiny teacher=minilm_en"),
        (["student=speech_tiny"], "student: task=intent needs"),
        (["task=translation"], "needs an AutoModelForSeq2SeqLM.*student=seq2seq_tiny teacher=seq2seq_scratch"),
        (["task=translation", "student=seq2seq_tiny"], "teacher: task=translation needs"),
        (["student=hub", "student.path=./missing"], r"student\.path=\./missing: no such folder"),
        (["teacher=ensemble", "student=layers"], "student=layers copies the teacher, and there are several"),
        (["task=speech"], "student=speech_tiny teacher=speech_scratch objective=kd_ctc"),
    ],
)
def test_models_that_are_not_there_or_lack_the_head_of_the_task(
    compose_run: Compose, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(compose_run(*overrides))


@pytest.mark.parametrize("architecture", ["no_such_thing", "clip", "marian"])
def test_an_architecture_without_the_head_of_the_task(architecture: str) -> None:
    student = Scratch(1, 32, 2, 64, architecture=architecture)
    task = TokenClassification().fit_labels(["O", "B-x", "I-x"])
    with pytest.raises(UserError, match=f"student.architecture={architecture}: transformers has no AutoModelForToken"):
        student.model(task, train_tokenizer(["turn on the lamp"] * 20, 60))


def test_a_teacher_that_nobody_asks_needs_no_head(compose_run: Compose) -> None:
    check(compose_run("task=translation", *WRITES, "teacher=minilm_en", "objective=direct"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("student.layers", "0", "a whole number of at least 1"),
        ("student.heads", "-4", "a whole number of at least 1"),
        ("student.vocabulary", "1", "a whole number of at least 32"),
        ("student.feed_forward", "1.5", "a whole number of at least 1"),
        ("student.dropout", "1.5", "a share"),
        ("student.dropout", "high", "a share"),
        ("student.lowercase", "banana", "true or false"),
        ("student.prefix", "null", "text"),
        ("task.max_length", "null", "a whole number of at least 3"),
        ("task.max_length", "long", "a whole number of at least 3"),
        ("training.epochs", "true", "a whole number of at least 1"),
        ("objective.temperature", "nan", "a number above 0"),
    ],
)
def test_values_of_no_use(compose_run: Compose, name: str, value: str, expected: str) -> None:
    with pytest.raises(UserError, match=f"{name}=.* expected {expected}"):
        check(compose_run(f"{name}={value}"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task.stride", "abc"),
        ("task.max_answer", "0"),
        ("teacher.scratch.layers", "0"),
        ("task.pseudo_labels", "maybe"),
    ],
)
def test_values_of_no_use_to_some_tasks(compose_run: Compose, name: str, value: str) -> None:
    others = [] if name in ("task.stride", "task.max_answer") else ["task=translation", *WRITES]
    with pytest.raises(UserError, match=name):
        check(compose_run(*(others or ["task=answers", "corpus=questions"]), f"{name}={value}"))


def test_a_context_without_windows_and_other_nulls_are_meant(compose_run: Compose) -> None:
    check(compose_run("task=answers", "corpus=questions", "task.stride=null"))


def test_labels_that_belong_to_one_text_are_not_those_of_its_translation(compose_run: Compose) -> None:
    with pytest.raises(UserError, match=r"labels of task=slots belong to one text.*pair\.protocol=zero_shot"):
        check(compose_run("task=slots", "corpus.label=slots", "pair.protocol=translate_train"))
    check(compose_run("task=translation", *WRITES, "pair.protocol=translate_train"))


def test_a_teacher_learns_languages_of_the_pair(compose_run: Compose) -> None:
    cfg = compose_run("experiment=speech", "pair=en-fr")
    assert cfg.teacher.fine_tune.languages == ["fr"]
    with pytest.raises(UserError, match=r"teacher\.fine_tune\.languages names xx, and the pair is en-fr"):
        check(compose_run("experiment=speech", "pair=en-fr", "teacher.fine_tune.languages=[xx]"))


def test_only_where_it_is_translated_the_source_may_be_alone(compose_run: Compose) -> None:
    check(compose_run("task=translation", *WRITES, "pair.targets=[]"))
    with pytest.raises(UserError, match=r"pair\.targets is empty"):
        check(compose_run("pair.targets=[]"))


def test_folders_of_long_commands_have_names_that_a_file_system_takes() -> None:
    assert file_name("pair=en-de,seed=1") == "pair=en-de,seed=1"
    assert file_name("a/b") == "a_b"
    long = [file_name(f"corpus.columns.text=сообщение,{'x' * 300},seed={seed}") for seed in (1, 2)]
    assert long[0] != long[1]
    assert all(len(name.encode()) < 200 for name in long)
