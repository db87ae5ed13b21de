"""Text to speech by eSpeak NG, through the shared library that the package `espeakng-loader` carries.

eSpeak NG is GPL-3.0 and a separate program: it is installed only with the extra `speech`, and called through its C
interface (`speak_lib.h`).
"""

from __future__ import annotations

import _ctypes
import ctypes
import sys
import threading
from pathlib import Path

import numpy as np

from distilingua.errors import UserError
from distilingua.extras import speech_package

SAMPLING_RATE = 22_050  # of eSpeak NG's formant synthesiser, in Hz

# names and values of speak_lib.h
SYNCHRONOUS, DO_NOT_EXIT = 2, 0x8000
RATE, PITCH = 1, 3
POSITION_IN_CHARACTERS, UTF8 = 1, 1

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_one_at_a_time = threading.Lock()


def speak(text: str, voice: str, speed: int = 175, pitch: int = 50) -> np.ndarray:
    """Speech, (samples,) int16 at `SAMPLING_RATE`; the same for the same arguments, whatever was spoken before.

    The library keeps phases and other state from one utterance to the next, and neither a new voice nor
    `espeak_Terminate` clears it. So it is loaded anew for every utterance, which takes about 4 ms.

    Args:
        text: what to say.
        voice: language, then a variant after "+" ("en", "en-us+m3", "de+f2"): `espeak-ng-data/lang`, `voices/!v`.
        speed: words per minute, 80 to 450.
        pitch: 0 to 100; 50 is the voice's own.

    Raises:
        UserError: an unknown voice; the extra is missing; the library does not start.
    """
    loader = speech_package("espeakng_loader")
    language, _, variant = voice.partition("+")
    if variant and variant not in variants():  # eSpeak would silently speak with the plain voice
        raise UserError(f"speech: eSpeak NG has no voice variant {variant!r}. Choose from: {', '.join(variants())}.")
    chunks: list[np.ndarray] = []

    @_Callback
    def collect(samples, count, events):  # type: ignore[no-untyped-def]
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    with _one_at_a_time:
        library = ctypes.CDLL(loader.get_library_path())
        try:
            if library.espeak_Initialize(SYNCHRONOUS, 0, loader.get_data_path().encode(), DO_NOT_EXIT) <= 0:
                raise UserError(
                    f"speech: eSpeak NG finds no voices in {loader.get_data_path()}. Install the extra again: "
                    f"pip install --force-reinstall 'distilingua[speech]'."
                )
            library.espeak_SetSynthCallback(collect)
            if library.espeak_SetVoiceByName(voice.encode()):
                raise UserError(
                    f"speech: eSpeak NG has no voice {voice!r}: the language {language!r} is not known to it."
                )
            library.espeak_SetParameter(RATE, speed, 0)
            library.espeak_SetParameter(PITCH, pitch, 0)
            data = text.encode() + b"\0"
            library.espeak_Synth(data, len(data), 0, POSITION_IN_CHARACTERS, 0, UTF8, None, None)
            library.espeak_Synchronize()
            library.espeak_Terminate()
        finally:
            handle = library._handle
            del library
            getattr(_ctypes, "FreeLibrary" if sys.platform == "win32" else "dlclose")(handle)
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int16)


def variants() -> list[str]:
    """Names of the voice variants, such as m3, f2 or klatt."""
    folder = Path(speech_package("espeakng_loader").get_data_path()) / "voices" / "!v"
    return sorted(file.name for file in folder.iterdir())
