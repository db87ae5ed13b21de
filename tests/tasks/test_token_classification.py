"""Tags of words: where teacher and student meet, what is projected, how stretches are scored."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForTokenClassification, PreTrainedTokenizerBase

from distilingua.columns import Encoded
from distilingua.data.cleaning import Cleaning
from distilingua.data.encoder import Encoder
from distilingua.data.protocol import Pair
from distilingua.data.rows import load_rows
from distilingua.distillation.losses.ce import IGNORE_INDEX
from distilingua.errors import UserError
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.task import ABSENT
from distilingua.tasks.token_classification import TokenClassification, first_pieces
from distilingua.training.inference import Predictor
from distilingua.training.soft_labels import store_soft_labels
from tests.conftest import tiny_bert
from tests.corpora.own_files import Given, each_row
from tests.small_jobs import german_job

LABELS = ["O", "B-area", "I-area", "B-name", "I-name"]
TEXTS = ["turn on the reading lamp in the living room", "mach die Leselampe im Wohnzimmer an", "打开客厅的灯"]


@pytest.fixture(scope="module")
def task() -> TokenClassification:
    return TokenClassification(max_length=32).fit_labels(LABELS)


@pytest.fixture(scope="module")
def tokenizers() -> list[PreTrainedTokenizerBase]:
    """One of whole words, one that is hardly more than letters."""
    return [train_tokenizer(TEXTS * 30, size) for size in (400, 60)]


def tagger(pieces: int) -> BertForTokenClassification:
    return BertForTokenClassification(tiny_bert(pieces, num_labels=len(LABELS))).eval()


def answer(*probabilities: list[float]) -> np.ndarray:
    return np.log(np.array(probabilities, dtype=np.float32))


def sure(tag: str) -> list[float]:
    return [0.96 if label == tag else 0.01 for label in LABELS]


@pytest.mark.parametrize("prefix", ["", "query: "])
def test_every_word_has_its_first_piece_in_any_tokenizer(
    task: TokenClassification, tokenizers: list[PreTrainedTokenizerBase], prefix: str
) -> None:
    long = TokenClassification(max_length=200).fit_labels(LABELS)
    for tokenizer in tokenizers:
        for text, read in zip(TEXTS, long.encode({"text": TEXTS}, tokenizer, prefix), strict=True):
            pieces = tokenizer.convert_ids_to_tokens(read["input_ids"])
            spoken = text.split() if " " in text else list(text)
            assert len(read["at"]) == len(spoken)
            for word, at in zip(spoken, read["at"], strict=True):
                piece = pieces[at].replace("▁", "").replace("##", "")
                assert piece == tokenizer.unk_token or word.lower().startswith(piece.lower()), (pieces, word)


def test_pieces_that_are_cut_off_are_counted(tokenizers: list[PreTrainedTokenizerBase]) -> None:
    for tokenizer in tokenizers:
        found = TokenClassification(max_length=8).fit_labels(LABELS).encode({"text": TEXTS}, tokenizer, "")
        for text, read in zip(TEXTS, found, strict=True):
            assert read["input_ids"] == tokenizer(text, truncation=True, max_length=8)["input_ids"]
            assert read["lost"] == len(tokenizer(text)["input_ids"]) - len(read["input_ids"])


def test_words_that_are_cut_off_have_no_answer_and_cost_nothing(tokenizers: list[PreTrainedTokenizerBase]) -> None:
    short = TokenClassification(max_length=8).fit_labels(LABELS)
    [read] = short.encode({"text": TEXTS[:1]}, tokenizers[1], "")
    assert len(read["at"]) == 9
    assert read["at"][-1] == ABSENT != read["at"][0]
    inputs, at = short.collate(Encoded.of([read]), 0)
    torch.manual_seed(0)
    cells = short.cells(tagger(60)(**inputs), at)
    assert cells.shape == (9, 5)
    seen = torch.tensor(read["at"]) != ABSENT
    assert cells[~seen].isnan().all()
    assert not cells[seen].isnan().any()
    batch = {
        "counts": torch.tensor([9]),
        "labels": torch.ones(9, dtype=torch.long),
        "has_teacher": torch.tensor([True]),
    }
    found = short.signals(cells, cells.detach(), batch)
    assert (found.labels == IGNORE_INDEX).tolist() == (~seen).tolist()
    assert found.has_teacher.tolist() == seen.tolist()


def test_first_pieces_by_hand() -> None:
    # [CLS] mach| an|! [SEP]; the second piece takes the space along, the last word is cut off
    offsets = [(0, 0), (0, 4), (4, 7), (7, 8), (0, 0)]
    assert first_pieces(offsets, [(0, 4), (5, 8), (9, 12)], 0) == [1, 2, ABSENT]


def test_projection_by_hand(task: TokenClassification) -> None:
    read = {"text": "turn on living room lamp", "spans": json.dumps([["living room", 8, 19], ["lamp", 20, 24]])}
    row = {"text": "Lampe im großen Wohn Zimmer an", "spans": json.dumps([["lamp", 0, 5], ["living room", 9, 27]])}
    cells = answer(sure("O"), sure("O"), sure("B-area"), sure("I-area"), sure("B-name"))
    found = np.exp(task.project(cells, read, row))
    expected = [sure("B-name"), sure("O"), sure("B-area"), sure("I-area"), sure("I-area"), sure("O")]
    assert found.tolist() == pytest.approx(np.array(expected), abs=1e-6)


def test_a_single_word_that_becomes_several_goes_on_inside(task: TokenClassification) -> None:
    read, row = ({"text": t, "spans": json.dumps([["v", 0, len(t)]])} for t in ("lounge", "große Stube"))
    first, second = np.exp(task.project(answer([0.1, 0.5, 0.2, 0.15, 0.05]), read, row))
    assert first.tolist() == pytest.approx([0.1, 0.5, 0.2, 0.15, 0.05], abs=1e-6)
    assert second.tolist() == pytest.approx([0.1, 0.0, 0.7, 0.0, 0.2], abs=1e-6)


def test_a_stretch_without_a_counterpart_has_no_answer(task: TokenClassification) -> None:
    row = {"text": "die Stube", "spans": json.dumps([["lounge", 4, 9]])}
    found = task.project(answer(sure("O"), sure("B-area")), {"text": "the den", "spans": ""}, row)
    assert np.isnan(found).all(axis=1).tolist() == [False, True]


def test_scores_by_hand(task: TokenClassification) -> None:
    """Truth: area(0-1), name(3) | area(0). Said: area(0-1), name(2-3) | area(0), name(1). 2 of 4 said, 2 of 3 true."""
    truth = ["B-area", "I-area", "O", "B-name", "B-area", "O"]
    said = ["B-area", "I-area", "B-name", "I-name", "B-area", "B-name"]
    metrics = task.metrics()
    logits = torch.tensor([[float(label == tag) for label in LABELS] for tag in said])
    metrics.update(logits, torch.tensor([LABELS.index(tag) for tag in truth]), row=torch.tensor([0, 0, 0, 0, 1, 1]))
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx({"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7})


def test_classes_have_both_parts_whichever_occurs() -> None:
    assert TokenClassification.classes(["O B-name", "", "O I-area"]) == LABELS


@pytest.mark.parametrize(
    ("label", "message"), [("O B-area", "5 words and 2 tags"), ("O O O O I-area", "tag 5 is 'I-area' after 'O'")]
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_row_with_wrong_tags_is_named_or_counted(label: str, message: str, skip: bool) -> None:
    rows = each_row(3, "en", "de", text="turn on the {n} lamp{split}", label="O O O O B-name")
    rows[4]["label"] = label

    def load() -> Any:
        corpus = Given(rows, skip_bad_rows=skip)
        return load_rows(corpus, Cleaning(duplicates=False), Pair("en", ["de"]), None, task=TokenClassification())

    if skip:
        found = load()
        assert found.cleaning.dropped["en"] == {"bad": 1}
        assert len(found.dev["en"]) == 2
    else:
        with pytest.raises(UserError, match=f"row 'en-dev-1': .*{message}.*corpus.skip_bad_rows=true"):
            load()


def tagged(en: str, de: str) -> Given:
    """Aligned rows of two languages, with these spans in all rows of each."""
    rows = each_row(9, "en", "de", text="lamp {lang} {split} {n}", label="B-name O O O", group="{split}-{n}")
    return Given([{**row, "spans": en if row["lang"] == "en" else de} for row in rows])


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("x", "'x' are not as expected: JSON"),
        ('[["lamp", 3]]', "are not as expected"),
        ('[["lamp", 14, 40]]', r"\['lamp', 14, 40\] is outside of a text of"),
    ],
)
def test_stretches_that_cannot_be_are_named(spans: str, message: str) -> None:
    with pytest.raises(UserError, match=f"row 'en-train-0': spans:? .*{message}"):
        load_rows(tagged(spans, ""), Cleaning(), Pair("en", ["de"]), None, task=TokenClassification())


def test_tags_are_carried_over_where_stretches_correspond_and_nowhere_else() -> None:
    """A teacher that does not read the target says nothing of its words, unless `spans` say which are which."""
    lamp = json.dumps([["lamp", 0, 4]])

    def load(**spans: str) -> Any:
        return load_rows(tagged(**spans), Cleaning(), Pair("en", ["de"]), ["en"], task=TokenClassification())

    rows = load(en=lamp, de=lamp)
    assert rows.pairing.with_teacher["de"] > 0
    assert any(rows.dev["de"]["teacher_texts"][:])
    for missing in ({"en": lamp, "de": ""}, {"en": "", "de": lamp}):
        with pytest.raises(UserError, match="`group` and `spans`, as labels point into the text"):
            load(**missing)


def test_a_ragged_store_gives_back_what_the_teacher_said(
    task: TokenClassification, tokenizers: list[PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = tagger(400)
    encoded = task.encode({"text": TEXTS}, tokenizers[0], "")
    predictor = Predictor(lambda: model, Encoder(task, SimpleNamespace(pad_token_id=0)))  # type: ignore[arg-type]
    store = store_soft_labels(tmp_path, {}, predictor, task, encoded)
    for n, read in enumerate(encoded):
        alone = task.cells(model(torch.tensor([read["input_ids"]])), torch.tensor([read["at"]]))
        assert np.allclose(store(n), alone.detach().numpy(), atol=1e-5)
    assert store.width == 5


@pytest.mark.long
def test_german_slots_without_german_labels(compose_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The whole job on a small part of the embedded corpus: the projection teaches what direct transfer cannot."""
    metrics = german_job(compose_run, tmp_path, "slots", "corpus")
    german = {name: model["languages"]["de"] for name, model in metrics["models"].items()}
    assert german["student"]["f1"] > german["direct"]["f1"] + 0.1
    assert metrics["soft_labels"]["de"] > 0.8
    assert set(german["student"]) == {"f1", "precision", "recall"}
