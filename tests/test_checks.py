"""What cannot work is refused by `check`, in one sentence, before anything loads; test_cli.py has the command line."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from distilingua.checks import check
from distilingua.errors import UserError
from distilingua.models.scratch import Scratch
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from tests.conftest import Compose

WRITES = "task=translation corpus=translations pair=en-fr teacher=seq2seq_scratch student=seq2seq_tiny"
CTC = "experiment=speech objective=custom objective/terms=[ctc] +objective.teacher=true"


# what is typed, with what is said of it
MODELS = [  # that are not there, or lack the head of the task
    ("student=seq2seq_tiny", "student: task=intent needs an AutoModelForSequenceClassification"),
    ("teacher=seq2seq_scratch", "teacher: task=intent needs .*student=tiny teacher=minilm_en"),
    ("student=speech_tiny", "student: task=intent needs"),
    ("task=translation", "needs an AutoModelForSeq2SeqLM.*student=seq2seq_tiny teacher=seq2seq_scratch"),
    ("task=translation student=seq2seq_tiny", "teacher: task=translation needs"),
    ("student=hub student.path=./missing", r"student\.path=\./missing: no such folder"),
    ("teacher=ensemble student=layers", "student: its first weights are the teacher's, and there are several"),
    ("task=speech", "student=speech_tiny teacher=speech_scratch objective=kd_ctc"),
    ("teacher=local teacher.path=models/mine", "no such folder"),
    ("teacher=local teacher.path=/no/such/folder", "no such folder"),
    ("teacher.path=package:no_such_package/model", "the Python package 'no_such_package' is not installed"),
]
EXPECTED = [  # of single values
    ("student.layers=0", "a whole number of at least 1"),
    ("student.heads=-4", "a whole number of at least 1"),
    ("student.vocabulary=1", "a whole number of at least 32"),
    ("student.vocabulary=1e20", "a whole number of at least 32"),
    ("student.feed_forward=1.5", "a whole number of at least 1"),
    ("student.dropout=1.5", "a share"),
    ("student.dropout=high", "a share"),
    ("student.lowercase=banana", "true or false"),
    ("student.prefix=null", "text"),
    ("task.max_length=null", "a whole number of at least 3"),
    ("task.max_length=long", "a whole number of at least 3"),
    ("training.epochs=true", "a whole number of at least 1"),
    ("training.epochs=-1", "a whole number of at least 1"),
    ("training.workers=100000", "a whole number of at least 0 and at most 512"),
    ("objective.temperature=0", "a number above 0"),
    ("objective.temperature=nan", "a number above 0"),
    ("objective.temperature=inf", "a number of at most 2147483647"),
    ("objective.terms.kl.weight=much", "a number of at least 0"),
    ("objective.terms.ce.label_smoothing=-1", "a share"),
    ("seed=4294967296", "a whole number of at least 0 and at most 2147483647"),
    ("seed=abc", "a whole number"),
    ("corpus.sentences=1.5", "a whole number of at least 0"),
    ("corpus.seed=-7", "a whole number of at least 0"),
    ("corpus.min_intents=few", "a whole number of at least 0"),
    ("pair.shots=abc", "a whole number of at least 0"),
    ("cleaning.duplicates=3", "true or false"),
    ("teacher.fine_tune.batch_size=0", "a whole number of at least 1"),
    ("teacher.fine_tune.lr=-1", "a number above 0"),
    ("teacher.fine_tune.lr_schedule.warmup=2", "a share"),
    ("trainer.gradient_clip_val=nan", "a number of at most"),
    ("trainer.accumulate_grad_batches=0", "a whole number of at least 1"),
    ("optimizer.weight_decay=1e20", "a number of at most"),
]
VALUES = [  # of parts, and of keys of the trainer that do nothing
    ("objective.alpha=1.5", r"objective.alpha=1.5 is outside \[0, 1\]: expected a share"),
    ("objective.alpha=-0.1", r"objective.alpha=-0.1 is outside \[0, 1\]: expected a share"),
    ("lr_schedule.warmup=3", r"lr_schedule.warmup=3 is outside \[0, 1\]: expected a share"),
    ("lr_schedule.name=cubic", "lr_schedule.name=cubic is none of linear, cosine"),
    ("pair.targets=[en]", "'en' is both the source and a target"),
    ("pair.targets=[]", r"pair\.targets is empty"),
    ("pair.targets=es", r"Give a list: pair\.targets=\[es\]"),
    ("pair.protocol=zero", "Choose one of: zero_shot, translate_train, few_shot, supervised"),
    ("teacher.precision=fp4", "teacher.precision=fp4 is not known"),
    ("task.max_length=500", "task.max_length=500 is more than the student's 128 positions"),
    ("training.select=best", r"training\.select=best is not known. Choose one of: score, agreement"),
    ("trainer=gpu", r"trainer=gpu takes the place of all keys of trainer.*device=gpu"),
    ("+trainer.max_epochs=1", r"trainer\.max_epochs=1 would change nothing\. Type training\.epochs=N"),
    ("+trainer.min_epochs=9", r"trainer\.min_epochs=9 would change nothing\. Type training\.epochs=N"),
    ("+trainer.check_val_every_n_epoch=3", "trainer.check_val_every_n_epoch=3 would change nothing"),
    ("+trainer.val_check_interval=0.5", "trainer.val_check_interval=0.5 would change nothing"),
    ("+trainer.limit_train_batches=0", "trainer.limit_train_batches=0 trains nothing"),
    ("trainer.devices=0", "trainer.devices=0: nothing computes"),
    ("+trainer.max_steps=0", "trainer.max_steps=0 trains nothing"),
    ("+trainer.enable_checkpointing=false", r"would change nothing\. Type ~callbacks\.checkpoint"),
    ("+trainer.logger=true", r"would change nothing\. Type logger=csv"),
    ("+trainer.default_root_dir=x", r"would change nothing\. Type hydra\.run\.dir=FOLDER"),
]
QUESTIONS = "task=answers corpus=questions"
OPTIONS = [  # of tasks, and of what goes with them
    (f"{QUESTIONS} task.stride=abc", r"task\.stride"),
    (f"{QUESTIONS} task.max_answer=0", r"task\.max_answer"),
    (f"{WRITES} teacher.scratch.layers=0", r"teacher\.scratch\.layers"),
    (f"{WRITES} task.pseudo_labels=maybe", r"task\.pseudo_labels"),
    (f"{WRITES} task.ratio=0.5", r"task\.ratio=0\.5: expected a number above 1"),
    (f"{WRITES} task.tokenize=klingon", r"task\.tokenize=klingon: sacrebleu has no such"),
    (f"{WRITES} teacher.scratch.positions=8", "more than the teacher.scratch's 8 positions"),
    ("task=sentiment corpus=feelings task.order=bad", r"task\.order=bad: expected a list"),
    ("task.class_weights=heavy", r"task\.class_weights=heavy is not known"),
    ("experiment=speech task.most_wer=-1", r"task\.most_wer=-1: expected a number of at least 0"),
    ("experiment=speech task.hearings=0", r"task\.hearings=0: expected a whole number"),
    ('experiment=speech task.alphabet="abcb"', r"task\.alphabet names 'b' twice"),
    ("experiment=speech task=intent", r"task\.most_wer is set, and TextClassification has no such option"),
    (
        "augmentation=[char_noise] objective=custom objective/terms=[minilm] teacher.store=false",
        r"and minilm compares them with the teacher's\. Set augmentation\.char_noise\.keeps_meaning=false",
    ),
    (
        "task=slots corpus.label=slots pair.protocol=translate_train",
        r"labels of task=slots belong to one text.*pair\.protocol=zero_shot",
    ),
    (
        "experiment=speech pair=en-fr teacher.fine_tune.languages=[xx]",
        r"teacher\.fine_tune\.languages names xx, and the pair is en-fr",
    ),
    (
        f"{CTC} task.pseudo_labels=false",
        r"learns no labels of its making.*task\.pseudo_labels=true",
    ),
]
VALUES += [(typed, f"{typed.partition('=')[0]}=.* expected {expected}") for typed, expected in EXPECTED]


@pytest.mark.parametrize(("typed", "message"), [*MODELS, *VALUES, *OPTIONS])
def test_what_cannot_work_is_refused_before_the_corpus_is_read(
    compose_run: Compose, typed: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilingua.corpora.smart_home.SmartHome.load", lambda *_: pytest.fail("read"))
    with pytest.raises(UserError, match=message):
        check(compose_run(*typed.split()))


@pytest.mark.parametrize(
    "typed",
    [
        f"{WRITES} teacher=minilm_en objective=direct",  # a teacher that nobody asks needs no head
        f"{QUESTIONS} task.stride=null",  # a context without windows is meant
        f"{WRITES} pair.protocol=translate_train",  # labels are not of one text
        f"{WRITES} pair.targets=[]",  # only where it is translated the source may be alone
        "task._target_=tests.test_checks.Choice",  # a new head on an encoder is entered nowhere else
        CTC,  # a hard loss alone learns from the teacher's own transcripts
    ],
)
def test_what_can_work_is_not(compose_run: Compose, typed: str) -> None:
    check(compose_run(*typed.split()))


class Choice(TextClassification):
    """A task with a head that nobody here has heard of, on an encoder of text."""

    auto = "AutoModelForMultipleChoice"


@pytest.mark.parametrize("architecture", ["no_such_thing", "clip", "marian"])
def test_an_architecture_without_the_head_of_the_task(architecture: str) -> None:
    student = Scratch(1, 32, 2, 64, architecture=architecture)
    task = TokenClassification().fit_labels(["O", "B-x", "I-x"])
    with pytest.raises(UserError, match=f"student.architecture={architecture}: transformers has no AutoModelForToken"):
        student.model(task, train_tokenizer(["turn on the lamp"] * 20, 60))


def test_a_number_is_told_once(compose_run: Compose) -> None:
    with pytest.raises(UserError) as refused:
        check(compose_run("student.dropout=high", "student.heads=1.5", "pair.labels=abc"))
    keys = [line.partition("=")[0] for line in str(refused.value).splitlines()]
    assert sorted(keys) == ["pair.labels", "student.dropout", "student.heads"]


def test_a_teacher_of_the_speech_experiment_learns_the_target(compose_run: Compose) -> None:
    assert compose_run("experiment=speech", "pair=en-fr").teacher.fine_tune.languages == ["fr"]


# --- all at once, and before anything slow is imported ----------------------------------------------------------------


def test_all_problems_are_told_at_once_each_in_one_line(compose_run: Compose) -> None:
    wrong = ["pair.targets=[xx]", "training.epochs=0", "optimizer.lr=-1", "objective.temperature=0", "seed=abc"]
    wrong += ["student.hidden_size=100", "student.dropout=2", "task.max_length=1", "teacher.precision=fp4"]
    with pytest.raises(UserError) as raised:
        check(compose_run(*wrong))
    told = str(raised.value).splitlines()
    for key in (name.split("=")[0] for name in wrong if "targets" not in name and "hidden_size" not in name):
        assert any(line.startswith(key) for line in told), key
    assert any("'xx' is not a language of smart_home" in line for line in told)


def test_rules_between_parts_are_told_at_once_too(compose_run: Compose) -> None:
    with pytest.raises(UserError) as raised:
        check(
            compose_run(
                *("task=slots", "corpus.label=slots", "pair.protocol=translate_train", "pair.align=block"),
                *("augmentation=[char_noise]", "device=gpu", "+teacher.fine_tune.languages=[xx]"),
            )
        )
    told = str(raised.value).splitlines()
    for start in ("pair.protocol=translate", "pair.align=block", "augmentation=", "device:", "teacher.fine_tune.lang"):
        assert sum(line.startswith(start) for line in told) == 1, start


# --- faults of one root -----------------------------------------------------------------------------------------------


def test_several_teachers_make_no_transcripts(compose_run: Compose) -> None:
    cfg = compose_run("experiment=speech")
    one = OmegaConf.to_container(cfg.teacher)
    OmegaConf.set_struct(cfg, False)
    cfg.teacher = {"_target_": "distilingua.models.source.Ensemble", "teachers": {"a": one, "b": one}}
    with pytest.raises(UserError, match=r"cannot be averaged.*or set task\.pseudo_labels=false"):
        check(cfg)
    cfg.task.pseudo_labels = False
    check(cfg)


def test_workers_that_could_not_open_their_files_are_refused(
    compose_run: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (64, 64))
    with pytest.raises(UserError, match=r"workers=12: .* 64 are allowed\. Type `ulimit -n 232` before"):
        check(compose_run("training.workers=12"))
    check(compose_run("training.workers=1"))
