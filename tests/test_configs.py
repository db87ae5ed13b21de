"""Every configuration composes, is commented, and every experiment runs."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distilingua.checks import check
from distilingua.locations import conf_folder
from tests.conftest import ONE_LAYER, Compose
from tests.small_jobs import train

CONF = conf_folder()
GROUPS = (
    *("task", "corpus", "pair", "teacher", "student", "objective", "objective/terms", "schedule", "augmentation"),
    *("device", "optimizer", "lr_schedule", "callbacks"),
)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "base")


EVERY_CHOICE = [(group, choice) for group in (*GROUPS, "logger", "debug") for choice in choices(group)]
EXPERIMENTS = choices("experiment")


@pytest.mark.parametrize(("group", "choice"), EVERY_CHOICE)
def test_every_choice_composes_and_builds(compose_run, group: str, choice: str) -> None:  # type: ignore[no-untyped-def]
    needed = {("teacher", "local"): ["teacher.path=models/mine"]}.get((group, choice), [])
    if group == "objective/terms":
        needed = ["objective=custom"]
    cfg = compose_run(f"{group}={choice}", *needed)
    OmegaConf.resolve(cfg)
    assert not OmegaConf.missing_keys(cfg)
    instantiate(cfg.pair).check()
    instantiate(cfg.teacher, _convert_="all")
    instantiate(cfg.corpus)
    instantiate(cfg.student)
    objective = instantiate(cfg.objective, schedules=instantiate(cfg.schedule))
    assert group != "objective/terms" or set(objective.terms) == {choice}
    instantiate(cfg.task).fit_labels(["O", "B-a", "I-a"] if "token" in cfg.task._target_ else ["a", "b"])


PIECES = {"attention", "minilm"}  # need a student that reads what the teacher reads, in the same pieces
DECISIONS = {"bce", "binary_kl"}
BESIDE = {*PIECES, *DECISIONS, "ctc"}  # ctc: see test_speech_run
TOGETHER = [sorted({*choices("objective/terms")} - BESIDE), sorted(PIECES), sorted(DECISIONS)]


@pytest.mark.parametrize("terms", TOGETHER, ids="+".join)
def test_every_term_trains(next_run, terms: list[str]) -> None:  # type: ignore[no-untyped-def]
    """Each gets smaller, of those that one student can learn from at once."""
    hard = "bce" if DECISIONS & {*terms} else "ce"
    options = ["teacher.languages=null", "teacher.fine_tune.epochs=8", "optimizer.lr=5e-4"] if PIECES & {*terms} else []
    if DECISIONS & {*terms}:
        options = ["task=labels", "optimizer.lr=5e-3", "training.epochs=6", "training.batch_size=16"]
    cfg = next_run(
        "objective=custom",
        f"objective/terms=[{','.join(sorted({*terms, hard}))}]",
        *("training.epochs=3", "trainer.log_every_n_steps=1", *options),
        student=("student=layers", "student.layers=first:1") if PIECES & {*terms} else ONE_LAYER,
    )
    check(cfg)
    metrics = train(cfg)
    events = EventAccumulator(str(Path(cfg.paths.run) / "tensorboard/student")).Reload()
    assert metrics["retention"]["worst"] > 0
    for term in terms:
        losses = [event.value for event in events.Scalars(f"train/loss/{term}")]
        assert all(math.isfinite(loss) for loss in losses), term
        third = len(losses) // 3
        assert statistics.mean(losses[-third:]) < statistics.mean(losses[:third]), term


SCHEDULES = {  # what each moves, of `temperature`, `weight/kl` and `weight/ce`
    "cosine": {"temperature"},
    "cwsm": set(),  # of single rows, around the scheduled temperature, which stays
    "flsw": set(),  # likewise
    "joint": set(),
    "linear": {"weight/kl", "weight/ce"},
    "step": {"temperature"},
    "two_stage": {"weight/kl"},
}


@pytest.mark.parametrize("schedule", choices("schedule"))
def test_every_schedule_trains(next_run, schedule: str) -> None:  # type: ignore[no-untyped-def]
    assert schedule in SCHEDULES, (
        f"conf/schedule/{schedule}.yaml is new: say in SCHEDULES of tests/test_configs.py which of temperature, "
        f"weight/kl and weight/ce it moves, {schedule!r}: set() for none."
    )
    cfg = next_run(f"schedule={schedule}", "training.epochs=1", "trainer.log_every_n_steps=1")
    check(cfg)
    train(cfg)
    events = EventAccumulator(str(Path(cfg.paths.run) / "tensorboard/student")).Reload()
    moved = {
        name
        for name in ("temperature", "weight/kl", "weight/ce")
        if len({round(event.value, 6) for event in events.Scalars(f"train/{name}")}) > 1
    }
    if schedule in ("flsw", "cwsm"):
        most = [event.value for event in events.Scalars("train/temperature/most")]
        assert max(most) > 1.001
        moved.discard("temperature")
    assert moved == SCHEDULES[schedule], f"schedule={schedule} moves {moved}; SCHEDULES says {SCHEDULES[schedule]}"
    assert cfg.objective.temperature == 1.0


ELSEWHERE = {  # experiments whose corpus or models no other has, and the test that runs each
    "answers": "tasks/test_question_answering.py::test_german_answers_without_german_labels",
    "slots": "tasks/test_token_classification.py::test_german_slots_without_german_labels",
    "speech": "training/test_speech_run.py::test_the_experiment_runs_and_leaves_a_plain_transformers_model",
    "translation": "training/test_translation.py::test_the_embedded_commands_are_translated_the_other_way_round",
}


@pytest.mark.long
def test_the_experiment_of_several_tasks_runs(kept: Path, compose_run: Compose) -> None:
    """On corpora of its own, by a small teacher, which it leaves open."""
    few = [
        f"multitask.tasks.{task}.corpus.{n}=1" for task in ("intent", "slots") for n in ("sentences", "eval_sentences")
    ]
    cfg = compose_run(
        "experiment=multitask",
        "debug=tiny",
        *few,
        *("teacher=local", f"teacher.path={kept / 'teacher'}", "teacher.languages=[en]"),
        *(option.replace("vocabulary=200", "vocabulary=2000") for option in ONE_LAYER),
        "+trainer.enable_progress_bar=false",
        "~callbacks.progress_bar",
    )
    check(cfg)
    found = train(cfg)
    assert set(found) == {"intent", "slots"}
    for name, metrics in found.items():
        assert json.loads((Path(cfg.paths.run) / name / "metrics.json").read_text()) == metrics
        assert set(metrics["models"]["student"]["languages"]) == {"en", "de"}


@pytest.mark.parametrize("experiment", ELSEWHERE)
def test_every_other_experiment_is_run(experiment: str) -> None:
    file, _, name = ELSEWHERE[experiment].partition("::")
    _, _, test = (Path(__file__).parent / file).read_text("utf-8").partition(f"def {name}(")
    assert test, f"{ELSEWHERE[experiment]} is gone: name another test that runs experiment={experiment} in ELSEWHERE"
    assert experiment in EXPERIMENTS, f"conf/experiment/{experiment}.yaml is gone: take it out of ELSEWHERE"


@pytest.mark.parametrize("experiment", sorted({*EXPERIMENTS} - {"multitask", *ELSEWHERE}))
def test_every_experiment_runs(next_run, experiment: str) -> None:  # type: ignore[no-untyped-def]
    """At tiny scale, on the files corpus: what the experiment itself chooses stays, unless it needs other languages.

    One that cannot run so (a corpus or models that go with nothing else) has a test of its own, named in ELSEWHERE.
    """
    cfg = next_run(f"experiment={experiment}", "pair.targets=[de]", "training.epochs=1")
    OmegaConf.set_struct(cfg, False)
    cfg.corpus = {k: v for k, v in cfg.corpus.items() if k in ("_target_", "path", "columns", "splits", "labels")}
    check(cfg)
    metrics = train(cfg)
    assert json.loads((Path(cfg.paths.run) / "metrics.json").read_text()) == metrics
    assert set(metrics["models"]["student"]["languages"]) == {"en", "de"}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_opens_with_its_command(experiment: str) -> None:
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].replace(" -m", "").startswith(f"# distilingua train experiment={experiment}")


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF)))
def test_every_key_a_user_may_touch_is_commented(file: Path) -> None:
    bare = []
    lines = file.read_text().splitlines()
    assert any(line.startswith("#") for line in lines[:2]) or file.parent.name in ("pair", "optimizer", "callbacks")
    for line in lines:
        key = line.split(":", 1)[0].strip()
        value = line.split(":", 1)[1].strip() if ":" in line else ""
        section = not value or key in ("defaults", "_target_", "_partial_") or line.lstrip().startswith(("#", "-"))
        if not section and " #" not in line and "_target_" not in line and key not in ("train", "dev", "test"):
            bare.append(line)
    assert not bare


def test_the_sweep_varies_languages_and_seeds(compose_run) -> None:  # type: ignore[no-untyped-def]
    sweep = OmegaConf.load(CONF / "sweep" / "languages.yaml").hydra.sweeper.params
    for pair in sweep.pair.split(","):
        assert compose_run(f"pair={pair}").pair.source == "en"
    assert sweep.seed == "1,2,3"


@pytest.mark.parametrize("sweep", choices("sweep"))
def test_every_sweep_opens_with_its_command_and_varies_what_there_is(compose_run, sweep: str) -> None:  # type: ignore[no-untyped-def]
    file = CONF / "sweep" / f"{sweep}.yaml"
    assert any(line.startswith(f"#   distilingua train -m sweep={sweep}") for line in file.read_text().splitlines()[:4])
    cfg = compose_run(f"sweep={sweep}")
    check(cfg)
    for key in OmegaConf.load(file).hydra.sweeper.params:
        assert (CONF / key).is_dir() or OmegaConf.select(cfg, key, default="missing") != "missing", key


def test_sizes_of_students(compose_run) -> None:  # type: ignore[no-untyped-def]
    """The numbers of weights that the README and the YAML files state, at their full vocabulary and 42 classes."""
    import re

    from distilingua.models.vocabulary import train_tokenizer

    tokenizer = train_tokenizer(["a few words to train on"], 100)
    for name in ("nano", "tiny", "small", "medium"):
        cfg = compose_run(f"student={name}")
        student = instantiate(cfg.student)
        model = student.model(instantiate(cfg.task).fit_labels([str(i) for i in range(42)]), tokenizer)
        missing = (cfg.student.vocabulary - len(tokenizer)) * cfg.student.hidden_size
        millions = (sum(p.numel() for p in model.parameters()) + missing) / 1e6
        stated = re.search(r"([\d.]+) M weights", (CONF / "student" / f"{name}.yaml").read_text())
        assert stated is not None, name
        assert float(stated[1]) == pytest.approx(millions, abs=0.05), f"{name} has {millions:.2f} M"
