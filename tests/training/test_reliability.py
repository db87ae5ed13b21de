"""What is said of how sure scores are, against the scores themselves."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from distilingua.columns import Encoded
from distilingua.corpora.questions import Questions
from distilingua.corpora.schema import dataset_from_rows
from distilingua.corpora.smart_home import SmartHome
from distilingua.corpora.words import words_of
from distilingua.data.encoder import Encoder
from distilingua.models.vocabulary import train_tokenizer
from distilingua.statistics.bootstrap import score_of
from distilingua.tasks.delivery import Delivery
from distilingua.tasks.multi_label import MultiLabel
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.speech import SpeechRecognition
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from distilingua.tasks.translation import Translation
from distilingua.training.evaluate import calibrate, evaluated, under_disturbance
from distilingua.training.inference import Predictions, Predictor
from distilingua.training.reliability import (
    disturbances,
    disturbed,
    groups_of,
    reliability,
    sampled,
    temperature_of,
    worst_class,
)
from tests.conftest import tiny_bert


def rows_of(labels: list[str], **more: list[str]) -> Dataset:
    rows = [{"id": str(n), "lang": "en", "text": f"text {n}", "label": label} for n, label in enumerate(labels)]
    columns = [dict(zip(more, values, strict=True)) for values in zip(*more.values(), strict=True)] or [{}] * len(rows)
    return dataset_from_rows([{**row, **own} for row, own in zip(rows, columns, strict=True)])


Made = tuple[Task, list[torch.Tensor], Dataset, Encoded]


def answered(task: Task, labels: list[str], **encoded: list[int]) -> Made:
    """60 rows with these labels again and again, and random answers to them."""
    shape = 60, len(encoded.get("at", [0])), len(task.labels)
    answers = list(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))
    return task, answers, rows_of(labels * (60 // len(labels))), Encoded.of([{"input_ids": [1], **encoded}] * 60)


def classes() -> Made:
    return answered(TextClassification().fit_labels(["a", "b", "c"]), ["a", "b", "c"])


def several() -> Made:
    return answered(MultiLabel().fit_labels(["a", "b", "c", "never"]), ['["a","b"]', "[]", '["c"]', "a"])


def tags() -> Made:
    task = TokenClassification().fit_labels(["O", "B-a", "I-a", "B-b", "I-b"])
    return answered(task, ["B-a I-a O", "O O O", "B-b O B-a"], at=[0, 1, 2])


@pytest.mark.parametrize("made", [classes, several, tags])
def test_the_sum_of_all_rows_is_the_score(made: Any) -> None:
    task, answers, rows, encoded = made()
    scores, told = task.evaluate(answers, rows, encoded, None)
    found = task.tally(told, rows)
    assert found is not None
    main = next(iter(task.shown))
    assert 0.05 < scores[main] < 0.95
    assert float(found.score(found.counts.sum(0))) == pytest.approx(scores[main], abs=1e-6)
    assert score_of(main, found.counts.shape[1]) is found.score  # which `compare` has to find again
    exact = [task.targets(rows_of([one]), encoded[:1])[0] for one in told]
    truth = [task.targets(rows_of([one]), encoded[:1])[0] for one in rows["label"]]
    assert found.right.tolist() == [np.array_equal(a, b) for a, b in zip(exact, truth, strict=True)] or made is tags


def test_the_sum_of_all_answers_translations_and_transcripts_is_the_score() -> None:
    said = ["in the hall", "", "seven lamps"]
    labels = [json.dumps([{"text": text, "start": 0}] if text else []) for text in ("the hall", "", "six lamps")]
    found = QuestionAnswering().tally(said, rows_of(labels))
    assert found.counts[:, 0].tolist() == pytest.approx([2 / 3, 1, 0.5])
    assert found.right.tolist() == [False, True, False]

    pytest.importorskip("sacrebleu")
    task = Translation()
    rows = rows_of(["the light in the hall is on now", "turn off the lamp in the kitchen please", "what time is it"])
    said = ["the light in the hall was on", "turn off the lamp in the kitchen", "what time is it"]
    whole = dict(task._scorers())["bleu"].corpus_score(said, [rows["label"][:]]).score / 100
    translated = task.tally(said, rows)
    assert float(translated.score(translated.counts.sum(0))) == pytest.approx(whole)
    assert score_of("bleu", translated.counts.shape[1]) is translated.score
    both = translated.score(np.stack([translated.counts.sum(0), translated.counts[2]]))
    assert both.tolist() == pytest.approx([whole, 1.0])

    pytest.importorskip("jiwer")
    from distilingua.tasks.transcripts import errors

    heard, true = ["lights on", "open the door", "a b c d"], ["lights on", "open a door please", "x"]
    spoken = SpeechRecognition(alphabet=" abc").tally(heard, rows_of(true))
    assert float(spoken.score(spoken.counts.sum(0))) == pytest.approx(errors(true, heard)["wacc"])
    assert spoken.right.tolist() == [True, False, False]


def test_a_task_of_ones_own_that_is_like_one_here_has_its_intervals() -> None:
    foreign = type("Foreign", (TextClassification,), {})
    found = foreign().fit_labels(["a", "b"]).tally(["a", "b"], rows_of(["a", "a"]))
    assert found.counts.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("made", [classes, several, tags])
def test_one_temperature_calibrates_what_was_too_sure(made: Any) -> None:
    """Logits of labels that were drawn from them, times 4: the temperature is 4, whatever the task."""
    task, answers, rows, encoded = made()
    torch.manual_seed(1)
    if made is several:
        draws = [torch.bernoulli(answer.sigmoid())[0] for answer in answers]
        labels = [json.dumps([name for name, yes in zip(task.labels, draw, strict=True) if yes]) for draw in draws]
    else:
        draws = [torch.distributions.Categorical(logits=answer).sample() for answer in answers]
        labels = [" ".join(task.labels[int(n)] for n in draw) for draw in draws]
    drawn = rows_of(labels)
    too_sure = [4 * answer for answer in answers]
    found = Predictions(too_sure, task.probabilities(too_sure, None, {}), encoded)
    temperature = temperature_of(task, drawn, found)
    assert temperature is not None
    assert 2.5 < temperature < 6
    assert temperature_of(QuestionAnswering(), drawn, found) is None
    predictor: Any = SimpleNamespace(encoder=SimpleNamespace(task=task, tokenizer=None))
    judged = evaluated(predictor, drawn, found)
    made_of: Any = task.tally(judged.predicted, drawn)
    told = reliability(task, drawn, judged, made_of, rows["id"][:])
    honest = Predictions(answers, task.probabilities(answers, None, {}), encoded)
    fair = reliability(task, drawn, evaluated(predictor, drawn, honest), made_of, rows["id"][:])
    assert fair["calibration_error"] < told["calibration_error"]
    assert told["interval"][0] < judged.scores[next(iter(task.shown))] < told["interval"][1]


def test_the_worst_class_has_rows_enough_to_say_so() -> None:
    task = TextClassification().fit_labels(["a", "b", "c"])
    labels, told = ["a"] * 6 + ["b"] * 10 + ["c"] * 4, ["a"] * 5 + ["b"] + ["b"] * 7 + ["a"] * 3 + ["a"] * 4
    assert worst_class(task, told, rows_of(labels)) == {"name": "b", "recall": 0.7, "rows": 10}
    assert worst_class(task, ["a"], rows_of(["a"])) is None


def test_groups_are_what_the_corpus_says() -> None:
    corpus = SmartHome(sentences=4, eval_sentences=4)
    rows = corpus.load(["zh-CN"])
    rows = rows.select(range(0, len(rows), max(len(rows) // 200, 1)))
    groups = groups_of(TextClassification(), rows)
    assert all(row_id.startswith(f"{group}-") for row_id, group in zip(rows["id"], groups, strict=True))
    assert all(len({rows["label"][i] for i in range(len(rows)) if groups[i] == group}) == 1 for group in groups[:5])
    asked = Questions(corpus).load(["en"])
    found = groups_of(QuestionAnswering(), asked)
    assert len(set(found)) < len(set(asked["id"]))
    contexts = rows_of(["x"] * 3, text_pair=["one", "one", "two"])
    assert groups_of(QuestionAnswering(), contexts) == ["one", "one", "two"]
    assert groups_of(TextClassification(), contexts) == ["0", "1", "2"]


def test_disturbances_are_seeded_row_by_row_and_keep_labels() -> None:
    changes = disturbances(TextClassification())
    assert set(changes) == {"typos", "upper_case", "no_punctuation"}
    texts = ["Schalte bitte das Licht im Wohnzimmer ein!", "Wie spät ist es, bitte?", "?!"]
    rows = rows_of(["a"] * 3, text=texts)
    found = {kind: disturbed(TextClassification(), rows, change) for kind, change in changes.items()}
    assert found["upper_case"]["text"][:] == [text.upper() for text in texts]
    unpunctuated = ["Schalte bitte das Licht im Wohnzimmer ein", "Wie spät ist es bitte", "?!"]
    assert found["no_punctuation"]["text"][:] == unpunctuated
    again = disturbed(TextClassification(), rows.select([0]), changes["typos"])
    assert again["text"][0] == found["typos"]["text"][0]
    many = [changes["typos"](texts[0], Random(n)) for n in range(20)]
    assert sum(text != texts[0] for text in many) > 10
    assert all(part["label"][:] == ["a"] * 3 for part in found.values())


def test_words_that_labels_point_at_stay_words() -> None:
    """Each is changed by itself, and what would vanish stays: as many tags as words, in scripts without spaces too."""
    task = TokenClassification()
    texts = ["Turn on Mary's lamp , please !", "打开厨房的灯。", "don't switch-off the television..."]
    rows = rows_of(["O"] * 3, text=texts)
    found = {kind: disturbed(task, rows, change)["text"][:] for kind, change in disturbances(task).items()}
    assert found["upper_case"] == [text.upper() for text in texts]
    assert found["no_punctuation"] == ["Turn on Marys lamp , please !", texts[1], "dont switchoff the television"]
    many = disturbed(task, rows_of(["O"] * 60, text=texts * 20), disturbances(task)["typos"])["text"][:]
    assert [len(words_of(text)) for text in many] == [len(words_of(text)) for text in texts * 20]
    assert {texts[1]} == set(many[1::3])
    assert len(set(many[0::3])) > 2


def test_a_question_is_changed_and_its_context_is_not() -> None:
    task = QuestionAnswering()
    rows = rows_of(["[]"], text=["Which room?"], text_pair=["The lamp is in the hall."])
    for kind, expected in {"upper_case": "WHICH ROOM?", "no_punctuation": "Which room"}.items():
        (row,) = disturbed(task, rows, disturbances(task)[kind])
        assert (row["text"], row["text_pair"]) == (expected, "The lamp is in the hall.")


def test_a_translation_keeps_its_reference_and_a_sound_is_left_alone() -> None:
    rows = rows_of(["Licht an!"], text=["Lights on!"])
    (row,) = disturbed(Translation(), rows, disturbances(Translation())["no_punctuation"])
    assert (row["text"], row["label"]) == ("Lights on", "Licht an!")
    assert disturbances(SpeechRecognition()) == {}


def test_where_answers_take_a_search_some_rows_speak_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of ten rows are answered wrongly; of the four that are drawn all, or three, are right. Without a change the
    score is that of all rows; in capitals nothing is right, which takes off what the drawn rows had."""

    class Searching(TextClassification):
        searches = True

    task = Searching().fit_labels(["a", "b"])

    def predict(rows: Dataset, title: str) -> Predictions:
        wrong = [text.isupper() or text in ("text 0", "text 1") for text in rows["text"]]
        answers = [torch.tensor([[0.0, 1.0] if one else [1.0, 0.0]]) for one in wrong]
        return Predictions(answers, [1.0] * len(rows), Encoded.of([{"input_ids": [1]}] * len(rows)))

    monkeypatch.setattr("distilingua.training.reliability.SAMPLE", 4)
    predictor: Any = SimpleNamespace(encoder=SimpleNamespace(task=task, tokenizer=None), predict=predict)
    rows = rows_of(["a"] * 10, text=[f"text {n}" for n in range(10)])
    chosen = sampled(task, rows)
    assert chosen is not None
    assert len(chosen) == 4
    assert sampled(task, rows.select(chosen)) == [0, 1, 2, 3]  # whatever else is in the set
    assert sampled(TextClassification(), rows) is None
    right = sum(n > 1 for n in chosen) / 4
    judged = evaluated(predictor, rows, predict(rows, ""))
    assert judged.scores["accuracy"] == 0.8
    found = under_disturbance(predictor, rows, judged, "student")
    assert found == {"typos": 0.8, "upper_case": round(max(0.8 - right, 0), 4), "no_punctuation": 0.8}


def test_what_is_not_known_is_left_out() -> None:
    assert Delivery().tally([], None) is None  # type: ignore[arg-type]


def test_a_calibrated_model_decides_as_before_and_opens_with_its_probabilities(tmp_path: Path) -> None:
    """There is nothing left to calibrate, and its configuration says what its logits were divided by."""
    texts = [f"{a} {b}" for a in "abcdefgh" for b in "abcdefgh"]
    tokenizer = train_tokenizer(texts, 100)
    model = BertForSequenceClassification(tiny_bert(len(tokenizer), id2label={0: "no", 1: "yes"})).eval()
    task = TextClassification().fit_labels(["no", "yes"])
    predictor = Predictor(lambda: model, Encoder(task, tokenizer))
    blank = rows_of([""] * len(texts), text=texts)
    raw = torch.cat(predictor.predict(blank, "").answers)
    with torch.no_grad():  # random weights hardly tell texts apart
        model.classifier.bias.sub_(raw.mean(0))
        for weight in model.classifier.parameters():
            weight.mul_(3 / raw.std(0).max())
    before = torch.cat(predictor.predict(blank, "").answers)
    right = [n % 4 > 0 for n in range(len(texts))]  # three of four decisions
    decided = (before.argmax(-1) == torch.tensor(right)).long().tolist()
    rows = rows_of([task.labels[n] for n in decided], text=texts)
    calibrate(predictor, rows, "it")
    model.save_pretrained(tmp_path)
    for one in (model, AutoModelForSequenceClassification.from_pretrained(tmp_path)):
        found = Predictor(partial(lambda it: it, one), Encoder(task, tokenizer)).predict(rows, "")
        torch.testing.assert_close(torch.cat(found.answers) * one.config.calibrated, before, atol=5e-3, rtol=5e-3)
        assert temperature_of(task, rows, found) == pytest.approx(1, rel=0.02)
