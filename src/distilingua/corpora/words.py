"""Words, where teacher and student meet whatever pieces they read; and tags, one a word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# scripts that write no spaces: every character is a word of its own (Thai, Lao, Khmer, Myanmar, kana, Han)
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
OUTSIDE = "O"

Span = tuple[int, int]


def parsed(cell: str) -> Any:
    """What a cell holds as JSON; raises ValueError for whatever it cannot be, too deep to be read included."""
    try:
        return json.loads(cell)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def words_of(text: str) -> list[Span]:
    """Start and end of every word, in characters: runs without spaces, or single characters in unspaced scripts."""
    return [found.span() for found in WORD.finditer(text)]


def overlap(words: Sequence[Span], start: int, end: int) -> list[int]:
    """Numbers of the words that share a character with `[start, end)`."""
    return [n for n, (first, last) in enumerate(words) if first < end and start < last]


def tags_of(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """BIO tags, one a word, of named stretches `(start, end, name)` in characters; the first to claim a word has it."""
    words = words_of(text)
    tags = [OUTSIDE] * len(words)
    for start, end, name in spans:
        inside = [n for n in overlap(words, start, end) if tags[n] == OUTSIDE]
        for n in inside:
            tags[n] = f"{'B' if n == inside[0] else 'I'}-{name}"
    return " ".join(tags)


def tagged(tokens: Sequence[str], tags: Sequence[str]) -> tuple[str, str]:
    """Text and tags of a sentence that comes as tokens; a token of several words goes on with what it began.

    Tags that are not one a token stay as they are, for `problem` to find; without any, the label is hidden.
    """
    if len(tags) != len(tokens):
        return " ".join(tokens), " ".join(tags)
    words = [len(words_of(token)) for token in tokens]
    spread = [
        tag if n == 0 or tag == OUTSIDE else f"I-{tag[2:]}"
        for tag, count in zip(tags, words, strict=True)
        for n in range(count)
    ]
    return " ".join(tokens), " ".join(spread)


def broken(tags: Sequence[str]) -> str | None:
    """The first tag that continues what the tag before has not begun, in words; None where all chain."""
    before = OUTSIDE
    for n, tag in enumerate(tags):
        if tag != OUTSIDE and tag[:2] not in ("B-", "I-"):
            return f"tag {n + 1} is {tag!r}, and BIO tags are O, B-NAME and I-NAME."
        if tag.startswith("I-") and before[2:] != tag[2:]:
            return f"tag {n + 1} is {tag!r} after {before!r}: it continues what has not begun."
        before = tag
    return None


def entities(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Named stretches `(first word, word after the last, name)`.

    As seqeval reads tags by default: an I that continues nothing, or another name, begins a stretch of its own.
    """
    start, name = 0, ""
    for n, tag in enumerate([*tags, OUTSIDE]):
        goes_on = tag.startswith("I-") and tag[2:] == name
        if name and not goes_on:
            yield start, n, name
        if not goes_on:
            start, name = n, "" if tag == OUTSIDE else tag[2:]


def aligned(read: str, row: str) -> list[tuple[Span | None, Span]]:
    """Stretches of a row, each with the stretch of the text that was read which has the same value, or None.

    Equal values are matched in the order in which they stand.

    Args:
        read, row: `spans` of both, see the corpus schema.
    """
    known: dict[str, list[Span]] = {}
    for value, start, end in json.loads(read or "[]"):
        known.setdefault(str(value), []).append((start, end))
    return [
        (known[str(value)].pop(0) if known.get(str(value)) else None, (start, end))
        for value, start, end in json.loads(row or "[]")
    ]
