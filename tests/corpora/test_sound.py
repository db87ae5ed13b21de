"""Sound files, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from distilingua.corpora.sound import RATE, BadSound, of_cell, of_file, spoken, waveform


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def written(file: Path, sound: np.ndarray, rate: int) -> Path:
    soundfile.write(file, sound, rate)
    return file


def pitch_of(sound: np.ndarray) -> float:
    """The loudest frequency, in Hz."""
    return float(np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_file_becomes_a_waveform(tmp_path: Path, name: str) -> None:
    sound = waveform(of_file(written(tmp_path / name, tone(1.0, RATE), RATE)))
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    assert abs(len(sound) - RATE) < 3000  # MP3 pads
    assert pitch_of(sound) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("rate", [22_050, 32_000, 48_000])
def test_a_higher_rate_is_brought_down(tmp_path: Path, rate: int) -> None:
    sound = waveform(of_file(written(tmp_path / "a.wav", tone(1.0, rate), rate)))
    assert len(sound) == pytest.approx(RATE, abs=2)
    assert pitch_of(sound) == pytest.approx(440, abs=2)


def test_channels_become_their_mean(tmp_path: Path) -> None:
    both = np.stack([tone(0.5, RATE), np.zeros(RATE // 2, dtype=np.float32)], axis=1)
    sound = waveform(of_file(written(tmp_path / "a.wav", both, RATE)))
    assert np.abs(sound).max() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("content", "rate", "said"),
    [
        (np.zeros(0, dtype=np.float32), RATE, "empty"),
        (np.zeros(RATE, dtype=np.float32), RATE, "silent"),
        (tone(0.02, RATE), RATE, "0.02 s"),
        (tone(31, RATE), RATE, "31.00 s"),
        (tone(1.0, 8000), 8000, r"8000 Hz.*16000 Hz"),
    ],
)
def test_sound_that_says_nothing_is_refused(tmp_path: Path, content: np.ndarray, rate: int, said: str) -> None:
    with pytest.raises(BadSound, match=said):
        waveform(of_file(written(tmp_path / "a.wav", content, rate)))


def test_a_file_without_bytes_a_text_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_text("this is no sound at all, whatever its name says" * 20)
    for name, said in (("nothing.wav", "it is empty"), ("text.mp3", "not sound")):
        with pytest.raises(BadSound, match=said):
            waveform(of_file(tmp_path / name))
    with pytest.raises(BadSound, match="cannot be opened"):
        waveform(f"{tmp_path}/gone.wav#0123456789abcdef")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "a.flac", tone(2, RATE) + 0.1 * np.random.default_rng(0).normal(size=2 * RATE), RATE)
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(BadSound):
        waveform(of_file(file))
    file = written(tmp_path / "a.wav", tone(2, RATE), RATE)
    content = file.read_bytes()
    file.write_bytes(content[:20_000])
    with pytest.raises(BadSound, match=r"cut off: \d+ of 32000 samples"):
        waveform(of_file(file))
    at = content.index(b"data") + 4
    file.write_bytes(content[:at] + b"\xff" * 4 + content[at + 4 :])  # a stream, whose length nobody knew in advance
    assert len(waveform(of_file(file))) == 2 * RATE


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    audio = of_file(written(tmp_path / "a.wav", tone(1, RATE), RATE))
    written(tmp_path / "a.wav", tone(1, RATE, 220), RATE)
    with pytest.raises(BadSound, match="changed"):
        waveform(audio)


def test_a_cell_with_bytes_is_written_once_under_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = written(tmp_path / "a.wav", tone(1, RATE), RATE).read_bytes()
    first = of_cell({"bytes": data, "path": "clip.wav"})
    assert of_cell({"bytes": data, "path": "another name.wav"}) == first
    assert len(list((tmp_path / "cache").rglob("*.wav"))) == 1
    assert len(waveform(first)) == RATE
    assert of_cell({"bytes": None, "path": str(tmp_path / "a.wav")}).startswith(str(tmp_path / "a.wav"))
    assert of_cell(None) == ""


def test_spoken_text_becomes_a_waveform_of_the_models_rate() -> None:
    audio = spoken("turn on: the lights", "en+m1", 175, 50)
    assert audio == "espeak:en+m1:175:50:turn on: the lights"
    sound = waveform(audio)
    assert sound.dtype == np.float32
    assert 0.5 < len(sound) / RATE < 3
    assert np.array_equal(sound, waveform(audio))


def test_text_without_sound_is_refused() -> None:
    with pytest.raises(BadSound):
        waveform(spoken("", "en+m1", 175, 50))
