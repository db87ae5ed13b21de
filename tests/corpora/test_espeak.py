"""eSpeak NG: real synthesis."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from distilingua import extras
from distilingua.corpora.espeak import SAMPLING_RATE, speak, variants
from distilingua.errors import UserError


def test_the_same_words_sound_the_same_whatever_was_spoken_before() -> None:
    first = speak("turn on the lights", "en+f2", 180, 60)
    speak("mach das Licht im Flur aus", "de+m3", 140, 20)
    speak("kitchen", "en+klatt4")
    again = speak("turn on the lights", "en+f2", 180, 60)
    assert len(again) == len(first)
    # eSpeak rounds a sample otherwise once in a great while; its phases, which it would keep, move thousands of them
    assert np.count_nonzero(again != first) < 10
    assert np.abs(again.astype(int) - first).max() <= 1


def test_the_same_words_sound_the_same_in_another_process() -> None:
    code = (
        "import sys; from distilingua.corpora import espeak; sys.stdout.buffer.write(espeak.speak('lights on', 'en'))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    speak("something else", "en+m1")
    assert hashlib.sha256(told).digest() == hashlib.sha256(speak("lights on", "en").tobytes()).digest()


def test_voice_speed_and_pitch_change_the_sound() -> None:
    plain = speak("turn on the lights", "en+m1")
    seconds = len(plain) / SAMPLING_RATE
    assert plain.dtype == np.int16
    assert 0.5 < seconds < 3
    assert len(speak("turn on the lights", "en+m1", speed=300)) < 0.8 * len(plain)
    assert not np.array_equal(plain, speak("turn on the lights", "en+m1", pitch=90))
    assert not np.array_equal(plain, speak("turn on the lights", "en+f2"))
    assert not np.array_equal(plain, speak("turn on the lights", "de+m1"))


@pytest.mark.parametrize(("voice", "told"), [("xx+m1", "xx"), ("nowhere", "nowhere"), ("en+m99", r"'m99'.*m1")])
def test_an_unknown_voice_is_named_and_not_replaced_by_the_plain_one(voice: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        speak("hello", voice)


def test_the_variants_are_there() -> None:
    assert {"m1", "m8", "f1", "f5", "klatt"} <= set(variants())


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.check_speech()
    monkeypatch.setattr(extras, "SPEECH", ("espeakng_loader", "no_such_package_here"))
    with pytest.raises(UserError, match=r"no-such-package-here.*pip install 'distilingua\[speech\]'"):
        speak("hello", "en")
