"""Sound as rows carry it: a line of text that says where it comes from, and becomes a waveform when it is read.

Two kinds, both naming their content, so that whatever is computed from a row can be kept under the row's text:

    espeak:VOICE:SPEED:PITCH:TEXT   spoken by eSpeak NG, see `espeak.speak`
    PATH#SHA256                     a file, with the first 16 digits of its hash
"""

from __future__ import annotations

import hashlib
import io
import os
import wave
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from distilingua.corpora import espeak
from distilingua.errors import UserError
from distilingua.extras import speech_package

RATE = 16_000
"""What every model here hears, in Hz: that of wav2vec 2.0, Whisper, XLS-R and all that came after them."""
SPOKEN = "espeak:"
DIGITS = 16
UNKNOWN = 2**31 - 2**16  # bytes; above is what programs write for "until the end"
SHORTEST, LONGEST = 0.1, 30.0  # seconds; the longest is Whisper's window


class BadSound(Exception):  # noqa: N818  # it is the sound that is bad
    """Sound that cannot be learnt from; says why."""


def spoken(text: str, voice: str, speed: int, pitch: int) -> str:
    """A row's `audio` for text that eSpeak NG says."""
    return f"{SPOKEN}{voice}:{speed}:{pitch}:{text}"


def of_file(path: Path) -> str:
    """A row's `audio` for a sound file."""
    return f"{path}#{hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]}"


def of_cell(cell: Any, folder: Path | None = None) -> str:
    """A row's `audio` for a cell of an audio column of `datasets` that is not decoded, {"path", "bytes"}; or a path.

    A table on the hub carries the files' bytes. They are written out once, under their hash, beside what `datasets`
    keeps anyway.

    Args:
        folder: where paths begin.

    Raises:
        UserError: that folder cannot be written to.
    """
    if not cell:
        return ""
    if not isinstance(cell, dict):
        cell = {"bytes": cell} if isinstance(cell, bytes) else {"path": str(cell)}
    content, path = cell.get("bytes"), (folder or Path()) / str(cell.get("path") or "")
    if content is None and not cell.get("path"):
        return ""
    if not isinstance(content, bytes):
        try:
            return of_file(path) if path.is_file() else f"{path}#missing"
        except (OSError, ValueError):  # not to be read, or no name of a file
            return f"{path}#missing"
    digest = hashlib.sha256(content).hexdigest()
    name = digest + (path.suffix if path.suffix.isascii() and path.suffix[1:].isalnum() else "")
    file = Path(datasets.config.HF_DATASETS_CACHE) / "distilingua_sound" / digest[:2] / name
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_name(f".{name}-{os.getpid()}")
            unfinished.write_bytes(content)
            unfinished.replace(file)
        except OSError as error:
            raise UserError(
                f"corpus: sound of this table cannot be kept in {file.parent} ({error.strerror}). Name a folder that "
                f"can be written to: HF_DATASETS_CACHE=FOLDER before the command."
            ) from None
    return f"{file}#{digest[:DIGITS]}"


def waveform(audio: str) -> np.ndarray:
    """Mono sound, (samples,) float32 in [-1, 1] at `RATE`.

    A higher rate is brought down (Common Voice has 48 kHz: what is lost, no model here hears). A lower one is refused:
    a telephone's 8 kHz has nothing above 4 kHz, and no resampling brings it back, so a model that was trained on full
    speech would be judged on something else without anybody knowing. Several channels become their mean.

    Args:
        audio: see the top of this file.

    Raises:
        BadSound: no such file, another content than the row was made from, not a sound file, cut off, empty, below
            `RATE`, silent, or not between `SHORTEST` and `LONGEST`.
    """
    if audio.startswith(SPOKEN):
        voice, speed, pitch, text = audio.removeprefix(SPOKEN).split(":", 3)
        sound = espeak.speak(text, voice, int(speed), int(pitch)).astype(np.float32) / 2**15
        return _checked(_at_rate(sound, espeak.SAMPLING_RATE))
    soundfile = speech_package("soundfile")
    path, _, digest = audio.rpartition("#")
    try:
        content = Path(path).read_bytes()
        if hashlib.sha256(content).hexdigest()[:DIGITS] != digest:
            raise BadSound("the file has changed since the corpus was read")
        if not content:
            raise BadSound("it is empty")
        with soundfile.SoundFile(path) as file:
            stated = _stated(content, file.frames)
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except OSError as error:
        raise BadSound(f"it cannot be opened ({error.strerror})") from None
    except ValueError:
        raise BadSound("this is no name of a file") from None
    except soundfile.LibsndfileError as error:
        raise BadSound(f"it is not sound that libsndfile reads ({error.error_string})") from None
    if not len(samples):
        raise BadSound("it is empty")
    if len(samples) < stated:
        raise BadSound(f"it is cut off: {len(samples)} of {stated} samples")
    if rate < RATE:
        raise BadSound(f"its rate is {rate} Hz, below the {RATE} Hz that models hear")
    return _checked(_at_rate(samples.mean(1), rate))


def _stated(content: bytes, found: int) -> int:
    """Samples that the header of a WAV file promises; libsndfile counts those that are there. `found` for other files,
    and for streams, whose length was not known when the header was written."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            frames = file.getnframes()
            return frames if 0 < frames * file.getnchannels() * file.getsampwidth() < UNKNOWN else found
    except (wave.Error, EOFError):
        return found


def _at_rate(sound: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE or not len(sound):
        return sound
    resampled: np.ndarray = speech_package("soxr").resample(sound, rate, RATE)
    return resampled


def _checked(sound: np.ndarray) -> np.ndarray:
    seconds = len(sound) / RATE
    if not SHORTEST <= seconds <= LONGEST:
        raise BadSound(f"it lasts {seconds:.2f} s; {SHORTEST:g} to {LONGEST:g} s are expected")
    if not np.isfinite(sound).all() or not np.abs(sound).max() > 1e-4:
        raise BadSound("it is silent")
    return sound
