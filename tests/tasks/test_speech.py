"""Speech recognition: real sound, real models of a few thousand weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from distilingua.columns import Encoded
from distilingua.corpora.schema import dataset_from_rows
from distilingua.corpora.sound import of_file, spoken
from distilingua.data.encoder import Encoder
from distilingua.distillation.losses.ce import IGNORE_INDEX
from distilingua.errors import UserError
from distilingua.models.processors import SpeechProcessor
from distilingua.models.speech import SpeechScratch
from distilingua.tasks.speech import Recent, SpeechRecognition, closest
from distilingua.training.inference import Predictor

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
SHAPE: dict[str, Any] = {"layers": 1, "hidden_size": 32, "heads": 2, "feed_forward": 64, "kernel": 5, "mels": 16}
TEXTS = ["lights on", "turn off the lamp", "open the garage door please"]


def rows_of(texts: list[str], labels: list[str] | None = None) -> Dataset:
    return dataset_from_rows(
        {"id": str(n), "lang": "en", "text": text, "label": label, "audio": spoken(text, "en+m1", 180, 50)}
        for n, (text, label) in enumerate(zip(texts, labels or texts, strict=True))
    )


@pytest.fixture(params=["mel", "waveform"])
def student(request: pytest.FixtureRequest) -> SpeechScratch:
    return SpeechScratch(**SHAPE, sound=request.param, frame_ms=20, dropout=0.0, alphabet=ALPHABET)


@pytest.fixture
def task() -> SpeechRecognition:
    return SpeechRecognition(alphabet=ALPHABET)


def test_frames_are_what_the_model_answers_with(
    student: SpeechScratch, task: SpeechRecognition, tmp_path: Path
) -> None:
    listener = student.tokenizer(rows_of(TEXTS), tmp_path)
    model = student.model(task, listener).eval()
    rows = rows_of(TEXTS)
    encoded = Encoder(task, listener)(rows, tmp_path)
    inputs, at = task.collate(encoded, 0)
    assert at is not None
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape == (3, max(e["frames"] for e in encoded), len(ALPHABET) + 1)
    assert task.positions(encoded).tolist() == (at >= 0).sum(1).tolist()
    answers = Predictor(lambda: model, Encoder(task, listener)).answers(encoded, "test").answers
    assert [len(answer) for answer in answers] == [e["frames"] for e in encoded]
    seconds = [len(e["features"]) for e in encoded]
    assert seconds == sorted(seconds)


def test_a_row_is_heard_alike_alone_and_in_a_batch(
    student: SpeechScratch, task: SpeechRecognition, tmp_path: Path
) -> None:
    listener = student.tokenizer(rows_of(TEXTS), tmp_path)
    torch.manual_seed(0)
    model = student.model(task, listener).eval()
    encoded = Encoder(task, listener)(rows_of(TEXTS), None)
    together = Predictor(lambda: model, Encoder(task, listener)).answers(encoded, "test").answers
    alone = [
        Predictor(lambda: model, Encoder(task, listener)).answers(Encoded.of([e]), "test").answers[0] for e in encoded
    ]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_a_saved_listener_hears_and_spells_alike(student: SpeechScratch, tmp_path: Path) -> None:
    listener = student.tokenizer(rows_of(TEXTS), tmp_path / "cache")
    listener.save_pretrained(tmp_path / "saved")
    again = SpeechProcessor.load(tmp_path / "saved")
    sound = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    assert np.array_equal(listener.features(sound), again.features(sound))
    assert again.labels == listener.labels == ["<pad>", *ALPHABET]
    assert again.frame_ms == 20
    assert Encoder(task, again).fingerprint == Encoder(task, listener).fingerprint
    coarser = SpeechScratch(**{**SHAPE, "frame_ms": 40, "sound": student.sound}, alphabet=ALPHABET)
    other = coarser.tokenizer(rows_of(TEXTS), tmp_path / "cache")
    assert other.frame_ms == 40
    assert Encoder(task, other).fingerprint != Encoder(task, listener).fingerprint


def test_an_untold_alphabet_is_that_of_the_visible_labels(tmp_path: Path) -> None:
    rows = rows_of(["ab", "Bé!", "xyz"], ["ab", "Bé!", ""])
    task = SpeechRecognition()
    task.fit_labels([], (label for label in rows["label"] if label))
    listener = SpeechScratch(**SHAPE).tokenizer(rows, tmp_path)
    assert task.labels == listener.labels == ["<pad>", " ", "a", "b", "é"]


def test_targets_are_characters_and_hidden_without_a_label(task: SpeechRecognition, tmp_path: Path) -> None:
    rows = rows_of(["Ab, c!", "d", "x"], ["Ab, c!", "", "zz"])
    encoded = Encoded.of([{"cut": False}, {"cut": False}, {"cut": True}])
    targets = task.targets(rows, encoded)
    assert [t.tolist() for t in targets] == [[2, 3, 1, 4], [IGNORE_INDEX], [IGNORE_INDEX]]
    assert task.collate_labels(targets).tolist() == [[2, 3, 1, 4], [IGNORE_INDEX] * 4, [IGNORE_INDEX] * 4]


def test_a_character_that_the_alphabet_lacks_is_named_unless_it_is_rare(task: SpeechRecognition) -> None:
    with pytest.raises(UserError, match=r"lacks ü.*task\.alphabet=\" abc.*zü\""):
        task.targets(rows_of(["x"], ["tür"]), Encoded.of([{"cut": False}]))
    rare = ["x" * 3000, "ü"]
    assert task.targets(rows_of(["a", "b"], rare), Encoded.of([{"cut": False}] * 2))[1].tolist() == [IGNORE_INDEX]


def test_an_alphabet_with_a_character_twice_is_refused() -> None:
    with pytest.raises(UserError, match="'b' twice"):
        SpeechRecognition(alphabet="abcb")


def test_long_sound_is_cut_and_its_label_is_not_learnt_from(tmp_path: Path) -> None:
    listener = SpeechScratch(**SHAPE, alphabet=ALPHABET).tokenizer(rows_of(TEXTS), tmp_path)
    long, short = SpeechRecognition(alphabet=ALPHABET), SpeechRecognition(alphabet=ALPHABET, max_length=1)
    rows = rows_of(["please open the garage door in the evening"])
    whole, cut = (Encoder(task, listener)(rows, tmp_path)[0] for task in (long, short))
    assert cut["cut"]
    assert not whole["cut"]
    assert cut["frames"] < 26 < whole["frames"]
    assert short.targets(rows, Encoded.of([cut]))[0].tolist() == [IGNORE_INDEX]
    assert short.pseudo_label(torch.zeros(cut["frames"], 28), rows[0], cut, listener) == ""


def test_the_teachers_sure_transcripts_become_labels_and_others_do_not(task: SpeechRecognition) -> None:
    path = torch.tensor([2, 0, 3, 1, 4, 0, 4])
    answer = torch.nn.functional.one_hot(path, len(task.labels)).float()
    row, encoded = {"id": "de-1"}, {"cut": False}
    assert task.pseudo_labels
    assert task.pseudo_label(20 * answer, row, encoded, None) == "ab cc"
    assert task.pseudo_label(2 * answer, row, encoded, None) == ""
    assert SpeechRecognition(alphabet=ALPHABET, most_wer=9).pseudo_label(2 * answer, row, encoded, None) == "ab cc"
    assert task.pseudo_label(20 * torch.nn.functional.one_hot(torch.zeros(5).long(), 28), row, encoded, None) == ""


def test_models_of_one_rate_meet_within_two_frames_and_others_are_refused(
    task: SpeechRecognition, tmp_path: Path
) -> None:
    assert closest(3, 3) == [0, 1, 2]
    assert closest(4, 3) == [0, 1, 2]
    assert closest(2, 4) == [0, 1, 1, 1]
    with pytest.raises(UserError, match=r"100 frames.*50"):
        closest(100, 50)
    rows = rows_of(TEXTS)
    mel = SpeechScratch(**SHAPE, frame_ms=20, alphabet=ALPHABET).tokenizer(rows, tmp_path)
    wave = SpeechScratch(**{**SHAPE, "sound": "waveform"}, frame_ms=20, alphabet=ALPHABET).tokenizer(rows, tmp_path)
    slow = SpeechScratch(**SHAPE, frame_ms=40, alphabet=ALPHABET).tokenizer(rows, tmp_path)
    task.comparable(mel, wave, distributions=True)
    for one, other in zip(Encoder(task, mel)(rows, None), Encoder(task, wave)(rows, None), strict=True):
        cells = np.random.default_rng(0).normal(size=(other["frames"], 28)).astype(np.float32)
        assert task.project(cells, {}, one).shape == (one["frames"], 28)
    with pytest.raises(UserError, match=r"40 ms.*20 ms.*student\.frame_ms=40"):
        task.comparable(mel, slow, distributions=True)


def test_a_live_teacher_of_another_kind_is_brought_to_the_students_frames(task: SpeechRecognition) -> None:
    student, teacher = torch.randn(5, 28), torch.randn(7, 28)
    at = torch.tensor([[0, 1, 2, 3], [0, 1, 2, -2]])
    counts = torch.tensor([3, 2])
    batch = {"labels": torch.full((2, 1), IGNORE_INDEX), "counts": counts, "has_teacher": torch.tensor([True, True])}
    signals = task.signals(student, teacher, {**batch, "teacher_at": at})
    assert signals.teacher is not None
    torch.testing.assert_close(signals.teacher, teacher[[0, 1, 2, 4, 5]])
    assert signals.rows == 2


def test_bad_sound_is_named(task: SpeechRecognition, tmp_path: Path) -> None:
    file = tmp_path / "phone.wav"
    soundfile.write(file, np.ones(8000, dtype=np.float32) * 0.1, 8000)
    row = {"audio": of_file(file), "label": "hello"}
    assert task.problem(row) == f"{file}: its rate is 8000 Hz, below the 16000 Hz that models hear."
    assert task.problem({"audio": "", "label": ""}) == "it has no sound."
    assert task.problem({"audio": spoken("x", "en", 175, 50), "label": "…"}) is not None
    assert task.problem({"audio": spoken("x", "en", 175, 50), "label": "Hi!"}) is None
    listener = SpeechScratch(**SHAPE, alphabet=ALPHABET).tokenizer(rows_of(TEXTS), tmp_path)
    with pytest.raises(UserError, match=r"phone\.wav.*8000 Hz"):
        task.encode({"audio": [row["audio"]]}, listener, "")


def test_what_was_heard_is_kept_up_to_so_many_bytes_and_the_oldest_goes_first() -> None:
    made: list[str] = []

    def make(name: str) -> Any:
        return lambda: made.append(name) or {"features": np.zeros(40, np.int8), "name": name}

    recent = Recent(100)
    for name in ("a", "b", "a", "c", "a", "b"):  # c drives b out, b drives c out
        assert recent.get(name, make(name))["name"] == name
    assert made == ["a", "b", "c", "b"]
    recent.get("a", make("a"))["name"] = "changed"
    assert recent.get("a", make("a"))["name"] == "a"
    assert recent.size == 80
    assert Recent(10).get("x", make("x"))["name"] == "x"


def test_judging_compares_normal_spellings(task: SpeechRecognition) -> None:
    def saying(text: str) -> torch.Tensor:
        path = [i for c in text for i in (task.labels.index(c), 0)]
        return torch.nn.functional.one_hot(torch.tensor(path), len(task.labels)).float()

    rows = rows_of(["x", "y"], ["Lights, ON!", "the lamp"])
    scores, told = task.evaluate([saying("lights on"), saying("a lamp")], rows, [{}, {}], None)
    assert told == ["lights on", "a lamp"]
    assert scores["wer"] == pytest.approx(1 / 4)
    assert scores["wacc"] == pytest.approx(3 / 4)
    assert scores["cer"] == pytest.approx(3 / 17)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 5}, "no multiple"),
        ({"sound": "smell"}, "mel or waveform"),
        ({"frame_ms": 25}, "frame_ms"),
        ({"sound": "waveform", "frame_ms": 30}, "20 or 40"),
        ({"kernel": 4}, "student.kernel=5"),
    ],
)
def test_shapes_that_cannot_work_are_refused_at_once(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SpeechScratch(**{**SHAPE, **change}).check(30)


def test_another_kind_of_model_or_rate_is_refused(tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    class Processor:
        tokenizer = None

        def __init__(self, extractor: Any) -> None:
            self.feature_extractor = extractor

    with pytest.raises(UserError, match="WhisperFeatureExtractor"):
        SpeechProcessor(Processor(WhisperFeatureExtractor()))
    with pytest.raises(UserError, match="8000 Hz"):
        SpeechProcessor(Processor(WhisperFeatureExtractor(sampling_rate=8000)))
