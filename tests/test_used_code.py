"""Which edits make a teacher, a baseline or its soft labels anew, and which do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from distilingua import used_code
from distilingua.artifacts import code_fingerprint
from distilingua.tasks.text_classification import TextClassification
from distilingua.training.soft_labels import store_soft_labels
from distilingua.training.student import train_direct
from distilingua.training.teacher import fine_tuned

Edit = Callable[[str, str, str], None]
TEACHER = (fine_tuned, TextClassification, TextClassification().hard())


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Changes what is read of a file of this package: `edit("data/batching.py", "BUCKET = 50", "BUCKET = 51")`."""
    edits: list[tuple[str, str, str]] = []
    read = used_code._source

    def edited(file: Path) -> str:
        text = read(file)
        for name, before, after in edits:
            if file.as_posix().endswith(f"distilingua/{name}"):
                assert before in text, f"{name} has no {before!r} any more: name another line"
                text = text.replace(before, after)
        return text

    monkeypatch.setattr(used_code, "_source", edited)
    return lambda name, before, after: edits.append((name, before, after))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("distillation/losses/ce.py", "F.cross_entropy(", "2 * F.cross_entropy("),
        ("data/batching.py", "BUCKET = 50", "BUCKET = 51"),
        ("monitoring/callbacks.py", "class KeepBest(", "class KeepBest(Exception, "),
        ("training/module.py", "LATER = 1e-5", "LATER = 2e-5"),
        ("training/plan.py", "PASSES = 5", "PASSES = 6"),
        ("tasks/text_classification.py", "[prefix + text for text in", "[text + prefix for text in"),
    ],
)
def test_a_line_that_is_run_counts(edit: Edit, name: str, before: str, after: str) -> None:
    address = code_fingerprint(*TEACHER)
    edit(name, before, after)
    assert code_fingerprint(*TEACHER) != address


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("data/batching.py", "BUCKET = 50", "# every fifty\nBUCKET = 50"),
        ("tasks/text_classification.py", '"""One of several classes for a sentence', '"""Of several classes one for a'),
        (
            "training/module.py",
            "def watch(self, batch: Batch, language: int)",
            "def watch(self, batch: dict, language: int)",
        ),
        ("tasks/translation.py", "class Translation(", "class Other:\n    pass\n\n\nclass Translation("),
        ("models/pretrained.py", "class Pretrained(", "class Fork:\n    size = 3\n\n\nclass Pretrained("),
        ("console.py", "class Printer(Console):", "class Printer(Console):\n    wide = True\n"),
        ("distillation/losses/kl.py", "def __call__(", "def unused(self) -> None: ...\n\n    def __call__("),
    ],
)
def test_words_and_what_is_not_run_do_not(edit: Edit, name: str, before: str, after: str) -> None:
    address = code_fingerprint(*TEACHER)
    edit(name, before, after)
    assert code_fingerprint(*TEACHER) == address


def test_who_runs_it_is_told_apart(edit: Edit) -> None:
    """The sampler shapes what is trained, and not what a teacher answers."""
    users = {"baseline": train_direct, "answers": store_soft_labels}
    before = {name: code_fingerprint(user) for name, user in users.items()}
    edit("data/batching.py", "BUCKET = 50", "BUCKET = 51")
    assert {name for name, user in users.items() if code_fingerprint(user) != before[name]} == {"baseline"}


def test_the_libraries_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_fingerprint(*TEACHER)
    monkeypatch.setattr(used_code, "version", lambda name: "0")
    assert code_fingerprint(*TEACHER) != before


def test_a_class_of_ones_own_counts_wherever_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my_losses.py"
    source = (
        "from distilingua.distillation.losses.ce import CrossEntropy\n\nclass Mine(CrossEntropy):\n    factor = 1\n"
    )
    file.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_losses  # type: ignore[import-not-found]

    before = code_fingerprint(my_losses.Mine())
    assert before != code_fingerprint()
    assert before == code_fingerprint(my_losses.Mine())
    file.write_text(source.replace("1", "2"))
    assert code_fingerprint(my_losses.Mine()) != before


def test_a_module_that_is_used_by_its_name_counts(edit: Edit) -> None:
    from distilingua.corpora.spoken import Spoken

    before = code_fingerprint(Spoken)
    edit("corpora/espeak.py", "def variants(", "def variants_of(")
    assert code_fingerprint(Spoken) != before


def test_every_key_of_the_trainer_counts_but_those_that_only_watch(next_run: Any) -> None:
    """All keys that Lightning's Trainer has are tried, whatever this package thinks of them."""
    import inspect

    from lightning import Trainer

    from distilingua.parts import Settings
    from distilingua.training.job import WATCHING, training_recipe
    from tests.small_jobs import prepare

    job = prepare(next_run())
    before = training_recipe(job, [])
    unchanged = set()
    for name in set(inspect.signature(Trainer).parameters) - {"model_registry"}:
        cfg = next_run()
        OmegaConf.update(cfg, f"trainer.{name}", "16-true" if name == "precision" else 7, force_add=True)
        job.settings = Settings.of(cfg)
        if training_recipe(job, []) == before:
            unchanged.add(name)
    assert unchanged == WATCHING & unchanged
    assert {"max_steps", "max_time", "limit_train_batches", "limit_val_batches", "fast_dev_run"}.isdisjoint(unchanged)
