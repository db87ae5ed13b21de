"""The corpus that eSpeak NG speaks."""

from __future__ import annotations

import pytest

from distilingua.corpora.schema import COLUMNS, SPLITS
from distilingua.corpora.smart_home import SmartHome
from distilingua.corpora.sound import waveform
from distilingua.corpora.spoken import Spoken
from distilingua.errors import UserError
from tests.corpora.own_files import Given, each_row

VOICES = {"train": ["m1", "f1"], "dev": ["m3"], "test": ["f4"]}


class Sentences(Given):
    """A corpus of given texts, each in all splits under another id."""

    def __init__(self, texts: list[str]) -> None:
        rows = [each_row(1, "en", "de", splits=SPLITS, text=t, label=f"kind {n % 2}") for n, t in enumerate(texts)]
        super().__init__([{**row, "id": f"{row['id']}{n}"} for n, of_text in enumerate(rows) for row in of_text])
        self.asked: list[list[str]] = []

    def check(self, languages: list[str]) -> None:
        self.asked.append(languages)


TEXTS = [f"{verb} the {thing}" for verb in ("open", "close", "find", "clean") for thing in ("door", "box", "bag")]


def test_rows_say_what_they_are_made_of() -> None:
    rows = Spoken(Sentences(TEXTS), VOICES, speeds=[150, 200], pitches=[40, 60]).load(["en", "de"])
    assert set(rows.column_names) == set(COLUMNS)
    for row in rows:
        kind, voice, speed, pitch, text = row["audio"].split(":")
        assert (kind, text, row["label"]) == ("espeak", row["text"], row["text"])
        lang, _, variant = voice.partition("+")
        assert lang == row["lang"]
        assert variant in VOICES["train" if row["split"] == "parallel" else row["split"]]
        assert int(speed) in (150, 200)
        assert int(pitch) in (40, 60)
    spoken = [row["audio"] for row in rows if row["split"] == "train"]
    assert {audio.split(":")[1] for audio in spoken} == {"en+m1", "en+f1", "de+m1", "de+f1"}
    assert len(waveform(spoken[0])) > 1000


def test_it_is_the_same_at_every_load() -> None:
    corpus = Spoken(Sentences(TEXTS), VOICES, speeds=[150, 200], pitches=[40, 60])
    assert corpus.load(["en"])["audio"][:] == corpus.load(["en"])["audio"][:]


def test_what_cannot_be_said_as_written_is_left_out() -> None:
    texts = ["turn it on", "turn it to 20", "50 % please", "garage-door", "don't stop", "schließ die Tür", "what?", "3"]
    rows = Spoken(Sentences(texts), VOICES).load(["en"])
    assert set(rows["text"]) == {"turn it on", "garage-door", "don't stop", "schließ die Tür"}


def test_a_sentence_is_said_in_several_voices_in_training_only() -> None:
    rows = Spoken(Sentences(TEXTS), VOICES, renditions=2).load(["en"])
    counts = {split: rows["split"][:].count(split) for split in ("train", "parallel", "dev", "test")}
    assert counts == {"train": 24, "parallel": 24, "dev": 12, "test": 12}
    assert len(set(rows["id"])) == len(rows)
    said = [row["audio"].split(":")[1] for row in rows if row["text"] == TEXTS[0] and row["split"] == "train"]
    assert sorted(said) == ["en+f1", "en+m1"]


def test_limits_labels_length_and_repetitions() -> None:
    corpus = Sentences([*TEXTS, TEXTS[0], "a very long sentence that nobody wants to train on at all"])
    rows = Spoken(corpus, VOICES, limit={"train": 3, "test": 2}, labels=["kind 0"]).load(["en"])
    counts = {split: rows["split"][:].count(split) for split in ("train", "parallel", "test")}
    assert counts == {"train": 3, "parallel": 6, "test": 2}
    assert set(rows["text"]) <= {*TEXTS[::2]}
    everything = Spoken(corpus, VOICES, max_characters=80).load(["en"])
    assert everything["split"][:].count("train") == len(TEXTS) + 1


def test_the_real_corpus_speaks_two_languages() -> None:
    corpus = Spoken(
        SmartHome(sentences=2, eval_sentences=2), VOICES, limit={"train": 5, "parallel": 5, "dev": 3, "test": 3}
    )
    rows = corpus.load(["en", "de"])
    assert {(row["lang"], row["split"]) for row in rows} == {
        (lang, split) for lang in ("en", "de") for split in ("train", "parallel", "dev", "test")
    }
    assert all(len(waveform(audio)) > 1000 for audio in rows["audio"][:6])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"voices": {**VOICES, "test": ["m99"]}}, "m99.*Choose from"),
        ({"voices": {"train": ["m1"], "dev": ["m1"]}}, "none for test"),
        ({"speeds": [30]}, "speeds"),
        ({"pitches": []}, "pitches"),
    ],
)
def test_what_cannot_work_is_named_at_once(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Spoken(**{"corpus": Sentences(TEXTS), "voices": VOICES, **change}).check(["en"])  # type: ignore[arg-type]


def test_it_asks_the_corpus_whose_sentences_it_speaks() -> None:
    sentences = Sentences(TEXTS)
    Spoken(sentences, VOICES).check(["en", "de"])
    assert sentences.asked == [["en", "de"]]
