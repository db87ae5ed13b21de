"""Where two tokenizers write the same text: which of their steps belong together, and which pieces both have."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilingua.columns import Ragged
from distilingua.distillation.spans import merged
from distilingua.tasks.pieces import as_tensor

Span = tuple[list[int], list[int]]
"""Steps of one and of the other that write the same characters."""


class Alignment:
    """How a teacher's steps and pieces lie to a student's, for tasks that write.

    Args:
        student, teacher: tokenizers.
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        self.student, self.teacher = student, teacher
        self.classes = pieces_in_common(student, teacher)
        self._known: dict[tuple[tuple[int, ...], ...], list[Span]] = {}

    def __call__(self, ours: Ragged, theirs: Ragged, read: Sequence[bool]) -> dict[str, Tensor]:
        """A batch's part of it, with positions of all rows in one line.

        Args:
            ours, theirs: what student and teacher write of every row.
            read: whether the teacher reads along.

        Returns:
            `classes`: of every class of the student that of the teacher, or -1 for none, (classes,).
            `span`: see `Signals.span`, (positions,).
            `begins`: the teacher's step at which that span begins, where it begins; else -1, (positions,).
            `teacher_span`, `teacher_pieces`: as `span`, and the pieces written, (the teacher's steps,).
        """
        # of a row that nobody reads along: any piece that the teacher has
        read_ids = [b if is_read else [0] * len(a) for a, b, is_read in zip(ours, theirs, read, strict=True)]
        others = Ragged.of(read_ids, np.int64)
        span, begins = np.full((2, ours.lengths.sum()), -1)
        teacher_span = np.full(len(others.values), -1)
        starts = zip(ours.offsets[:-1] - ours.offsets[0], others.offsets[:-1], strict=True)
        for n, (own, other) in enumerate(starts):
            for steps, their_steps in self.spans(ours[n].tolist(), others[n].tolist()) if read[n] else ():
                begins[own + steps[0]] = other + their_steps[0]
                span[own + np.array(steps)] = own + steps[0]
                teacher_span[other + np.array(their_steps)] = other + their_steps[0]
        found = {"span": span, "begins": begins, "teacher_span": teacher_span, "teacher_pieces": others.values}
        return {"classes": self.classes, **{name: as_tensor(values) for name, values in found.items()}}

    def spans(self, ours: Sequence[int], theirs: Sequence[int]) -> list[Span]:
        key = (tuple(ours), tuple(theirs))
        if key not in self._known:
            self._known[key] = spans(written(ours, self.student), written(theirs, self.teacher))
        return self._known[key]


def spans(ours: Sequence[tuple[int, str]], theirs: Sequence[tuple[int, str]]) -> list[Span]:
    """The shortest stretches of steps after which both have written the same.

    Args:
        ours, theirs: number of a step, and all that is written after it, see `written`.
    """
    found: list[Span] = []
    i = j = start = their_start = 0
    while i < len(ours) and j < len(theirs):
        text, their_text = ours[i][1], theirs[j][1]
        if text == their_text and not text.endswith("\ufffd"):  # which is any part of a character
            steps, their_steps = ours[start : i + 1], theirs[their_start : j + 1]
            found.append(([n for n, _ in steps], [n for n, _ in their_steps]))
            start, their_start = i + 1, j + 1
        shorter = len(text) - len(their_text)
        i, j = i + (shorter <= 0), j + (shorter >= 0)
    return found


def written(pieces: Sequence[int], tokenizer: Any) -> list[tuple[int, str]]:
    """Number of every step, and the text that is written after it: its letters without white space, case and accents,
    as tokenizers differ in these. Steps that write no text, such as a language code, are left out, but for the end; so
    is everything from an unknown piece on, as nobody knows what it stands for."""
    silent = set(tokenizer.all_special_ids) - {tokenizer.eos_token_id}
    found = []
    for n, piece in enumerate(pieces):
        if piece == tokenizer.unk_token_id:
            break
        if piece not in silent:
            text = tokenizer.decode(list(pieces[: n + 1]), skip_special_tokens=True)
            found.append((n, plain(text)))
    return found


def plain(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.casefold().replace("▁", " "))
    return "".join(c for c in parts if not c.isspace() and not unicodedata.combining(c))


def pieces_in_common(student: Any, teacher: Any) -> Tensor:
    """The teacher's number of every piece of the student, -1 where it has none, (the student's pieces,).

    A piece is the same where it is spelt the same (a word's beginning is ▁ to some and Ġ to others); of special pieces,
    the one that ends a text.
    """
    theirs = {piece.replace("Ġ", "▁"): n for piece, n in teacher.get_vocab().items()}
    special = set(teacher.all_special_ids)
    found = torch.full((max(student.get_vocab().values()) + 1,), -1)
    for piece, n in student.get_vocab().items():
        number = theirs.get(piece.replace("Ġ", "▁"), -1)
        if n not in student.all_special_ids and number not in special:
            found[n] = number
    found[student.eos_token_id] = teacher.eos_token_id
    return found


def carried(teacher: Tensor, alignment: Mapping[str, Tensor], width: int) -> tuple[Tensor, Tensor]:
    """A teacher's answer in the student's positions and classes.

    Args:
        teacher: logits, (the teacher's steps, its pieces).
        alignment: see `Alignment`.
        width: the student's classes, of which its tokenizer may not use the last ones.

    Returns:
        Log-probabilities, (positions, classes + 1 + the teacher's other pieces), NaN where no span begins; and which of
        these columns both models have, (classes + 1,). See `Signals.shared`.
    """
    classes, begins = alignment["classes"], alignment["begins"]
    classes = torch.cat([classes, classes.new_full((width - len(classes),), -1)])
    whole = merged(teacher, alignment["teacher_pieces"], alignment["teacher_span"])[begins.clamp(min=0)]
    shared = torch.cat([classes >= 0, classes.new_zeros(1, dtype=torch.bool)])
    same = whole[:, classes.clamp(min=0)].masked_fill(classes < 0, -torch.inf)
    alone = torch.ones(whole.shape[-1] - 1, dtype=torch.bool, device=whole.device)
    alone[classes[classes >= 0]] = False
    found = torch.cat([same, whole[:, -1:], whole[:, :-1][:, alone]], -1)
    return found.masked_fill((begins < 0)[:, None], torch.nan), shared
