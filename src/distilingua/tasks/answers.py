"""Exact match and F1 of answers, as SQuAD defines them, with the normalisation of MLQA for each language."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

from distilingua.corpora.words import words_of

ARTICLES = {  # Lewis et al. (2020), MLQA, evaluation script
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",
}


def normalised(text: str, lang: str) -> list[str]:
    """Words of an answer in lower case, without punctuation and articles; unspaced scripts character by character."""
    text = "".join(
        c for c in text.lower() if c not in string.punctuation and not unicodedata.category(c).startswith("P")
    )
    text = re.sub(ARTICLES.get(lang, r"(?!)"), " ", text)
    return [text[start:end] for start, end in words_of(text)]


def exact_match(said: str, truth: str, lang: str) -> float:
    """1 where both are the same once normalised, else 0."""
    return float(normalised(said, lang) == normalised(truth, lang))


def token_f1(said: str, truth: str, lang: str) -> float:
    """Harmonic mean of precision and recall over words (Rajpurkar et al. 2016, section 6.1); without an answer, 1 where
    both are empty, else 0 (Rajpurkar et al. 2018)."""
    ours, theirs = normalised(said, lang), normalised(truth, lang)
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
