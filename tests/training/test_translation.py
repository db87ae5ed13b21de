"""Translation jobs from end to end: French into German, of which only English has references."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from filelock import FileLock
from omegaconf import DictConfig

from distilingua.checks import check
from distilingua.columns import Ragged, with_columns
from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.cleaning import CleaningReport
from distilingua.data.pairing import PairingReport
from distilingua.data.rows import Rows
from distilingua.errors import UserError
from distilingua.training.teacher import add_teacher_forced_texts
from tests.conftest import Compose
from tests.small_jobs import FewIntents, train

WORDS = {
    "en": ["lamp", "radio", "door", "window", "heater", "fan"],
    "fr": ["lampe", "radio", "porte", "fenêtre", "chauffage", "ventilateur"],
    "de": ["Lampe", "Radio", "Tür", "Fenster", "Heizung", "Lüfter"],
}
PHRASES = {
    "en": ["turn on {} {} now", "where is {} {}", "please stop {} {}"],
    "fr": ["allume maintenant {} {}", "où est {} {}", "arrête {} {} s'il te plaît"],
    "de": ["schalte {} {} jetzt ein", "wo ist {} {}", "bitte stoppe {} {}"],
}


def write_pairs(folder: Path) -> None:
    """Six things, three phrases, twenty numbers."""
    for lang in ("en", "fr"):
        for split, rows in (("train", 250), ("dev", 10), ("test", 20)):
            rng, lines = random.Random(split), []
            for n in range(rows):
                phrase, word, number = rng.randrange(3), rng.randrange(6), rng.randrange(20)
                text, label = (PHRASES[x][phrase].format(WORDS[x][word], number) for x in (lang, "de"))
                lines.append(json.dumps({"text": text, "label": label, "key": f"{split}-{n}"}, ensure_ascii=False))
            (folder / lang).mkdir(parents=True, exist_ok=True)
            (folder / lang / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")


@pytest.fixture
def run(compose_run: Compose, kept: Path) -> Compose:
    """A job of seconds, composed with the experiment's choices; teachers and baselines are those of all such tests."""
    data = kept / "pairs"
    with FileLock(f"{data}.lock"):
        if not data.exists():
            write_pairs(data)

    def composed(*overrides: str) -> DictConfig:
        size = {"layers": 1, "decoder_layers": 1, "hidden_size": 64, "heads": 2, "feed_forward": 128, "vocabulary": 150}
        return compose_run(
            "experiment=translation",
            "corpus=files",
            "~corpus.corpus",
            f"corpus.path={data}",
            f"paths.cache={kept / 'cache'}",
            "corpus.columns.group=key",
            "cleaning.duplicates=false",
            *(f"{part}.{name}={n}" for part in ("student", "teacher.scratch") for name, n in size.items()),
            "student.dropout=0.0",
            "teacher.scratch.dropout=0.0",
            *("teacher.fine_tune.epochs=14", "teacher.fine_tune.lr=4e-3"),
            "teacher.fine_tune.batch_size=16",
            "task.beams=2",
            "task.max_length=32",  # no text is as long; what knows nothing yet writes on to this length
            *("training.epochs=8", "training.batch_size=16", "optimizer.lr=5e-3"),
            "trainer.precision=32-true",
            "+trainer.enable_progress_bar=false",
            "~callbacks.progress_bar",
            *overrides,
        )

    return composed


def bleu(metrics: dict, model: str, lang: str) -> float:
    return metrics["models"][model]["languages"][lang]["bleu"]


@pytest.mark.long
def test_the_teacher_s_text_and_its_choices_carry_translation_to_another_language(run: Compose) -> None:
    cfg = run()
    check(cfg)
    metrics = train(cfg)
    assert bleu(metrics, "teacher", "en") > 0.8
    assert bleu(metrics, "student", "fr") > bleu(metrics, "direct", "fr") + 0.3
    assert metrics["dev"]["agreement"]["fr"] > 0.7
    assert metrics["note"].startswith("BLEU: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert metrics["shown"] == {"bleu": "BLEU", "chrf": "chrF"}


@pytest.mark.long
def test_the_teacher_s_text_alone_carries_it_across_vocabularies(run: Compose) -> None:
    cfg = run("objective=sequence", "teacher.scratch.vocabulary=120")
    check(cfg)
    metrics = train(cfg)
    assert bleu(metrics, "student", "fr") > bleu(metrics, "direct", "fr") + 0.3


@pytest.mark.long
def test_one_language_into_another_needs_no_target(run: Compose) -> None:
    """A small model for one direction: the teacher translates the part of the source that has no references for it."""
    cfg = run("pair.targets=[]", "teacher.fine_tune.epochs=4", "training.epochs=3")
    check(cfg)
    metrics = train(cfg)
    assert metrics["pair"] == "en"
    assert set(metrics["models"]["student"]["languages"]) == {"en"} == set(metrics["retention"]["languages"])


def test_choices_of_different_pieces_are_not_compared(run: Compose, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"vocabulary \(150 pieces\) is not the teacher's \(120 pieces.*objective=sequence"
    ):
        train(run("teacher.scratch.vocabulary=120", f"paths.cache={tmp_path / 'cache'}"))
    assert not (tmp_path / "cache/teachers").exists()  # told before anything was trained


def test_no_labels_and_no_comparison_leave_nothing_to_learn(run: Compose, tiny_run: Compose) -> None:
    with pytest.raises(UserError, match=r"task=translation learns no labels.*or set task.pseudo_labels=true"):
        check(run("objective=sequence", "task.pseudo_labels=false"))
    with pytest.raises(UserError, match=r"task=intent learns no labels of its making.*Choose objective=kd\."):
        check(tiny_run("objective=sequence"))


def test_layers_of_encoder_decoders_are_not_compared(run: Compose) -> None:
    with pytest.raises(UserError, match=r"objective: hidden compare layers.*task=translation has other models"):
        check(run("objective=custom", "objective/terms=[kl,ce,hidden]", "teacher.store=false"))


@pytest.mark.long
def test_the_embedded_commands_are_translated_the_other_way_round(compose_run: Compose) -> None:
    """German into English with references, French without; the README gives the command."""
    size = {"layers": 1, "decoder_layers": 1, "hidden_size": 32, "heads": 2, "feed_forward": 64, "vocabulary": 800}
    cfg = compose_run(
        "experiment=translation",
        *("pair.source=de", "pair.targets=[fr]", "corpus.into=en", "corpus.corpus.sentences=1"),
        *(f"{part}.{name}={n}" for part in ("student", "teacher.scratch") for name, n in size.items()),
        *("teacher.fine_tune.epochs=1", "training.epochs=1", "task.beams=1", "task.max_length=24", "task.ratio=null"),
        *("corpus.corpus.eval_sentences=1", f"corpus.corpus._target_={FewIntents.__module__}.FewIntents"),
        *("+trainer.enable_progress_bar=false", "~callbacks.progress_bar"),
    )
    check(cfg)
    metrics = train(cfg)
    assert metrics["pair"] == "de-fr"
    assert set(metrics["models"]["student"]["languages"]) == {"de", "fr"}


def test_a_text_is_read_along_with_the_label_of_every_row_it_is_read_for() -> None:
    """One English sentence stands in for a row with the teacher's translation and for a dev row with the reference, and
    the steps of one are not those of the other."""

    def part(*rows: tuple[str, str, list[int]]) -> Dataset:
        kept = dataset_from_rows({"id": row_id, "label": label} for row_id, label, _ in rows)
        return with_columns(kept, {"teacher_texts": Ragged.of([read for *_, read in rows]).as_column()})

    texts = dataset_from_rows({"id": row_id, "text": f"text of {row_id}", "label": "?"} for row_id in ("en-1", "en-2"))
    dev = {"fr": part(("fr-9", "die Tür", [0]))}
    rows = Rows(texts, part(), part(), dev, {}, [], CleaningReport(), PairingReport({}, {}, {}, {}))
    train = part(("en-1", "eine Tür", [0]), ("fr-1", "eine Tür", [0]), ("fr-2", "ein Haus", []))
    rows = add_teacher_forced_texts(replace(rows, train=train))
    read = [(row["text"], row["label"]) for row in rows.table]
    assert [[read[n] for n in numbers] for numbers in rows.train["teacher_texts"]] == [
        [("text of en-1", "eine Tür")],
        [("text of en-1", "eine Tür")],
        [],
    ]
    assert [read[n] for n in rows.dev["fr"]["teacher_texts"][0]] == [("text of en-1", "die Tür")]
    assert read[0] == ("text of en-1", "?")
    assert len(rows.table) == 4
