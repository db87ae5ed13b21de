"""Real but tiny: a two-language corpus in files, a two-layer teacher, configurations as the command line makes them."""

from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Dataset
from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import distilingua.commands  # noqa: F401  # registers the resolvers that the configurations use
from distilingua.columns import Encoded, column, filled, texts_of, where
from distilingua.data.cleaning import Cleaning, CleaningReport
from distilingua.locations import conf_folder
from distilingua.tasks.text_classification import TextClassification
from distilingua.training.plan import Plan

if TYPE_CHECKING:
    from transformers import BertConfig

torch.set_num_threads(1)  # as OMP_NUM_THREADS says to those that ask

SLOWEST = (
    *("notebooks", "cli", "sweeps", "faults", "full_disk", "multitask", "train", "configs", "teachers"),
    "question_answering",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process is left with it in the end while the others wait."""
    order = {f"test_{name}.py": n for n, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


WORDS = {
    "en": {"light": ["light", "lamp"], "music": ["music", "song"], "weather": ["weather", "rain"]},
    "de": {"light": ["Licht", "Lampe"], "music": ["Musik", "Lied"], "weather": ["Wetter", "Regen"]},
}
PHRASES = {
    "en": ["the {} in room {}", "please check the {} of floor {}", "{} number {} now"],
    "de": ["{} in Zimmer {}", "bitte prüfe {} im Stock {}", "jetzt {} Nummer {}"],
}


def write_corpus(folder: Path) -> Path:
    """`{lang}/{split}.jsonl`: three classes, aligned line by line by `key`, the same number of rows everywhere."""
    for lang in WORDS:
        for split, rows in (("train", 300), ("dev", 30), ("test", 60)):
            rng = random.Random(split)  # the same draws in every language: that is what aligns them
            lines = []
            for n in range(rows):
                label = rng.choice(list(WORDS[lang]))
                word, phrase, number = rng.randrange(2), rng.randrange(3), rng.randrange(100)
                text = PHRASES[lang][phrase].format(WORDS[lang][label][word], number)
                lines.append(json.dumps({"text": text, "label": label, "key": f"{split}-{n}"}, ensure_ascii=False))
            file = folder / lang / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines), "utf-8")
    return folder


@pytest.fixture
def files_corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "data")


def tiny_bert(pieces: int, **more: Any) -> BertConfig:
    """Of one layer and 16 units, if nothing else is said."""
    from transformers import BertConfig

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertConfig(vocab_size=pieces, **{**size, **more})


def save_teacher(folder: Path, positions: int = 64) -> Path:
    """A BERT of two layers and 32 units with a tokenizer of its own, as `save_pretrained` writes it."""
    from transformers import BertForSequenceClassification

    from distilingua.models.vocabulary import train_tokenizer

    texts = [p.format(w, n) for p in PHRASES["en"] for ws in WORDS["en"].values() for w in ws for n in range(40)]
    tokenizer = train_tokenizer(texts, 120)
    torch.manual_seed(0)
    labels = dict(enumerate(sorted(WORDS["en"])))
    config = tiny_bert(
        len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        id2label=labels,
        label2id={name: i for i, name in labels.items()},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def teacher_folder(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "teacher")


def cleaned(rows: Dataset, cleaning: Cleaning | None = None) -> tuple[Dataset, CleaningReport]:
    """The rows that cleaning leaves."""
    marked, report = (cleaning or Cleaning())(rows)
    return where(marked, ~filled(column(marked, "why"))).remove_columns("why"), report


def with_names(part: Dataset, table: Dataset) -> list[dict[str, Any]]:
    """Rows with `teacher_rows`: names of the texts that the teacher reads for them, "" for none."""
    ids = texts_of(table, "id")
    return [{**row, "teacher_rows": [ids[n] if n >= 0 else "" for n in row["teacher_texts"]]} for row in part.to_list()]


class LengthEncoder:
    """Reads of a text how long it is."""

    task = TextClassification().fit_labels(["a", "b"])

    def __call__(self, rows: Dataset, cache: None) -> Encoded:
        return self.changed(rows.to_list())

    def changed(self, rows: Any) -> Encoded:
        return Encoded.of([{"input_ids": [len(row["text"])]} for row in rows])


def passes(epochs: int) -> Plan:
    """So many, whatever the rows."""
    return Plan(epochs, steps=0, lr=0.0, patience=None)


ONE_LAYER = (
    *("student.layers=1", "student.hidden_size=64", "student.heads=2", "student.feed_forward=128"),
    "student.vocabulary=200",
)
Compose = Callable[..., DictConfig]


def compose_in(folder: Path, *overrides: str) -> DictConfig:
    folders = [f"paths.run={folder / 'run'}", f"paths.cache={folder / 'cache'}"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        # sentence vectors are for encoders with one teacher, and most tests are not about them
        plain = [] if any(o.startswith(("objective=", "experiment=")) for o in overrides) else ["objective=kd"]
        return compose("train", [*folders, *plain, *overrides])


@pytest.fixture
def compose_run(tmp_path: Path) -> Compose:
    """Composes `train.yaml` with overrides, with the run and the cache in temporary folders."""
    return functools.partial(compose_in, tmp_path)


def tiny_in(
    folder: Path, corpus: Path, teacher: Path, *overrides: str, student: tuple[str, ...] = ONE_LAYER
) -> DictConfig:
    chosen = any(item.startswith(("task=", "experiment=")) for item in overrides)
    return compose_in(
        folder,
        *([] if chosen else ["task.carriers=0"]),  # a student of so few pieces would read little else
        "corpus=files",
        f"corpus.path='{corpus}/{{lang}}/{{split}}.jsonl'",
        "corpus.columns.group=key",
        "corpus.columns.block=label",
        "teacher=local",
        f"teacher.path={teacher}",
        "teacher.languages=[en]",
        "teacher.fine_tune.freeze=[]",
        "teacher.fine_tune.epochs=20",
        "teacher.fine_tune.lr=4e-3",
        "teacher.fine_tune.batch_size=32",
        *student,
        "training.epochs=12",
        "training.batch_size=32",
        "optimizer.lr=4e-3",
        "trainer.precision=32-true",
        "trainer.log_every_n_steps=5",
        "+trainer.enable_progress_bar=false",
        "~callbacks.progress_bar",
        *overrides,
    )


@pytest.fixture
def tiny_run(tmp_path: Path, files_corpus: Path, teacher_folder: Path) -> Compose:
    """A whole run that takes a few seconds: the files corpus, the two-layer teacher, a student of one layer."""
    return functools.partial(tiny_in, tmp_path, files_corpus, teacher_folder)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all tests, in whichever process they run: a corpus, a teacher, and a cache where runs find what they share.

    Nothing in it changes; what tests write beside has a folder of its own.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kept"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            write_corpus(folder / "data")
            save_teacher(folder / "teacher", positions=128)  # as many as any experiment asks for
    return folder


@pytest.fixture
def next_run(kept: Path, tmp_path: Path) -> Compose:
    """As `tiny_run`, for tests of students: the first of all trains the teacher and the baseline that others find."""

    def composed(*overrides: str, student: tuple[str, ...] = ONE_LAYER) -> DictConfig:
        cache = f"paths.cache={kept / 'cache'}"
        return tiny_in(tmp_path, kept / "data", kept / "teacher", cache, *overrides, student=student)

    return composed
