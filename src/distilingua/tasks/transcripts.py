"""Transcripts: how they are spelt, read off frames, compared, and trusted."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from distilingua.distillation.signals import BLANK
from distilingua.extras import speech_package


def normal(text: str) -> str:
    """Lower case, letters, digits and apostrophes alone, words one space apart: what can be heard.

    Marks on letters stay, so do all scripts.
    """
    text = unicodedata.normalize("NFKC", text).replace("’", "'").lower()
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join(re.sub(r"(?<!\w)'|'(?!\w)", " ", kept).split())  # an apostrophe stands inside a word


def characters(texts: Iterable[str]) -> list[str]:
    """What these texts are written with, the space first."""
    return sorted({" "}.union(*map(normal, texts)))


def spelt(path: Sequence[int], classes: Sequence[str]) -> str:
    """What a path of classes spells: repeated ones merged, blanks taken out (Graves et al. 2006, section 3.1)."""
    text = "".join(classes[i] for i, _ in groupby(path) if i != BLANK)
    return " ".join(text.split())


def best_path(answer: Tensor, classes: Sequence[str]) -> str:
    """The transcript of the likeliest path, from (frames, classes)."""
    return spelt(answer.argmax(-1).tolist(), classes)


def errors(truth: Sequence[str], heard: Sequence[str]) -> dict[str, float]:
    """Word and character error rates over all rows, by jiwer; `wacc` is 1 - WER, at least 0."""
    jiwer = speech_package("jiwer")
    wer, cer = float(jiwer.wer(list(truth), list(heard))), float(jiwer.cer(list(truth), list(heard)))
    return {"wacc": max(0.0, 1 - wer), "wer": wer, "cer": cer}


def wrong_and_said(truth: str, heard: str, unit: str = "words") -> tuple[int, int]:
    """Words, or characters, that are wrong, left out or too many in a transcript; and how many there are to say."""
    found = getattr(speech_package("jiwer"), f"process_{unit}")(truth, heard)
    missed = found.substitutions + found.deletions
    return missed + found.insertions, missed + found.hits


def disagreement(transcript: str, others: Sequence[str]) -> float:
    """Mean word error rate of other hearings of the same sound, measured against a transcript; 0 if all agree.

    This is distil-whisper's filter (Gandhi, von Platen and Rush 2023, section 4): there the other transcript is the
    reference, and a row whose pseudo-label is more than 10 % off is left out. Unlabelled sound has no reference.
    """
    if not transcript:
        return 1.0
    jiwer = speech_package("jiwer")
    return sum(float(jiwer.wer(transcript, other)) for other in others) / len(others)


def drawn_hearings(answer: Tensor, classes: Sequence[str], count: int, seed: str) -> list[str]:
    """Transcripts drawn from what a CTC model believes.

    Given the sound, CTC takes frames to be independent (Graves et al. 2006, equation 2), so a path is drawn from the
    model's own distribution by drawing every frame.

    Args:
        answer: logits, (frames, classes).
        count: how many.
        seed: equal seeds draw alike.

    Relations:
        The mean error of these against the model's best transcript is its expected word error rate, what minimum Bayes
        risk decoding minimises (Goel and Byrne 2000). DUST (Khurana et al. 2021) compares hearings under dropout in the
        same way; that asks the teacher again for each of them. Like every confidence it believes an overconfident
        teacher; the one of `experiment=speech` doubts too much instead (expected 0.4, true word error rate 0.15), but
        ranks its transcripts well. Look at how many are kept before you trust a threshold.
    """
    number = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=7).digest(), "big")
    generator = torch.Generator().manual_seed(number)
    paths = torch.multinomial(answer.float().softmax(-1), count, replacement=True, generator=generator)
    return [spelt(path, classes) for path in paths.T.tolist()]
