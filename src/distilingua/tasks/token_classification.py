"""A tag for every word: slots, named entities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from distilingua.columns import Encoded, Ragged, texts_of
from distilingua.corpora.schema import visible
from distilingua.corpora.words import OUTSIDE, Span, aligned, broken, entities, overlap, words_of
from distilingua.distillation.signals import IGNORE_INDEX
from distilingua.statistics.bootstrap import Tally, ratio
from distilingua.tasks.pieces import needs_offsets
from distilingua.tasks.slow import MetricCollection, PreTrainedTokenizerBase, Self
from distilingua.tasks.task import ABSENT, EncodedRow, Example, Task, check_length

LEAST = 1e-8  # probability: its logarithm must stay finite


class TokenClassification(Task):
    """BIO tags, one a word. Teacher and student meet at words: a word's logits are those of its first piece.

    A label is the tags of a text, with spaces between. Where the teacher reads an aligned text instead of the row
    itself, word n of one is not word n of the other: its answers are projected, see `project`.

    Args:
        name: what the tags say, for titles.
        max_length: pieces per text; words beyond have no answer.
    """

    auto = "AutoModelForTokenClassification"
    shown: ClassVar[Mapping[str, str]] = {"f1": "F1", "precision": "prec", "recall": "rec"}
    reads = ("text",)
    points_into: ClassVar[Mapping[str, str]] = {"text": "word"}

    def __init__(self, name: str = "slots", max_length: int = 64) -> None:
        check_length(max_length)
        self.labels, self.name, self.max_length = [], name, max_length

    def fit_labels(self, names: Sequence[str], visible: Iterable[str] = ()) -> Self:
        self.labels = list(names)
        self._index = {label: i for i, label in enumerate(self.labels)}
        stretches = sorted({tag[2:] for tag in self.labels if tag != OUTSIDE})
        self._begin = [self._index[f"B-{stretch}"] for stretch in stretches]
        self._inside = [self._index[f"I-{stretch}"] for stretch in stretches]
        return self

    @staticmethod
    def classes(labels: Iterable[str]) -> list[str]:
        """O, then B and I of every name that occurs, whichever of the two does."""
        names = sorted({tag[2:] for label in labels for tag in label.split() if tag != OUTSIDE})
        return [OUTSIDE, *(f"{part}-{name}" for name in names for part in "BI")]

    @staticmethod
    def spelling(label: str) -> str:
        return visible(label)  # white space is what is between tags

    @staticmethod
    def stratify_by(label: str) -> str:
        return ""

    @staticmethod
    def problem(row: Mapping[str, str]) -> str | None:
        if not row["label"]:
            return None
        words, tags = words_of(row["text"]), row["label"].split()
        if len(words) != len(tags):
            return f"{len(words)} words and {len(tags)} tags ({row['label'][:40]!r})."
        return broken(tags)

    def encode(self, rows: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, prefix: str) -> Encoded:
        """`input_ids`, and `at`: the number of every word's first piece.

        Raises:
            UserError: a tokenizer that does not say which characters a piece stands for.
        """
        needs_offsets(tokenizer)
        texts = [prefix + text for text in rows["text"]]
        read = tokenizer(
            texts,
            truncation=True,
            max_length=self.max_length,
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
        )
        row, ids = np.array(read["overflow_to_sample_mapping"]), Ragged.of(read["input_ids"])
        first = np.flatnonzero(np.diff(row, prepend=-1))  # what is left of a text; what is cut off comes after
        at = [
            first_pieces(read["offset_mapping"][n], words_of(text), len(prefix))
            for n, text in zip(first.tolist(), rows["text"], strict=True)
        ]
        beyond = ids.lengths - tokenizer.num_special_tokens_to_add()
        beyond[first] = 0
        lost = np.bincount(row, beyond).astype(np.int32)
        return Encoded({"input_ids": ids[first], "at": Ragged.of(at), "lost": lost})

    def targets(self, rows: Dataset, encoded: Encoded) -> Ragged:
        words = self.positions(encoded).tolist()
        tags = [label.split() or [""] * n for label, n in zip(texts_of(rows, "label"), words, strict=True)]
        index = {**self._index, "": IGNORE_INDEX}
        return Ragged.of([[index[tag] for tag in each] for each in tags], np.int64)

    def project(self, cells: np.ndarray, read: Mapping[str, Any], row: Example) -> np.ndarray:
        """Annotation projection (Yarowsky, Ngai and Wicentowski 2001), of distributions instead of tags.

        A stretch of the row gets the teacher's answer to the stretch of equal value in the text it read: its first word
        that to the first word, the others the mean of that to the others (or, if there is but one, its answer with the
        probability of every B moved to its I). All other words get the mean answer to words outside of stretches. A
        stretch without a counterpart has no answer.

        It knows which stretches correspond, as a word aligner would, and not what they are called.
        """
        source, target = words_of(read["text"]), words_of(row["text"])
        probabilities = torch.from_numpy(cells).softmax(-1).numpy()
        pairs = aligned(read["spans"], row["spans"])
        taken = {n for theirs, _ in pairs if theirs for n in overlap(source, *theirs)}
        outside = [n for n in range(len(source)) if n not in taken]
        plain = np.eye(len(self.labels), dtype=np.float32)[self._index[OUTSIDE]]
        projected = np.tile(probabilities[outside].mean(0) if outside else plain, (len(target), 1))
        for theirs, ours in pairs:
            here, there = overlap(target, *ours), overlap(source, *theirs) if theirs else []
            if not there:
                projected[here] = np.nan
                continue
            first, rest = probabilities[there[0]], probabilities[there[1:]]
            projected[here[:1]] = first
            projected[here[1:]] = rest.mean(0) if len(rest) else self._going_on(first)
        return np.log(np.maximum(projected, LEAST))  # keeps NaN

    def _going_on(self, probabilities: np.ndarray) -> np.ndarray:
        moved = probabilities.copy()
        moved[self._inside] += moved[self._begin]
        moved[self._begin] = 0
        return moved

    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: EncodedRow, tokenizer: Any) -> str:
        return " ".join(self.labels[i] for i in answer.nan_to_num().argmax(-1).tolist())

    def tally(self, predicted: Sequence[str], rows: Dataset) -> Tally:
        counts = []
        for guess, truth in zip(predicted, texts_of(rows, "label"), strict=True):
            ours, theirs = set(entities(guess.split())), set(entities(truth.split()))
            counts.append([2 * len(ours & theirs), len(ours) + len(theirs)])
        return Tally(np.array(counts, dtype=float), ratio, np.array([a == b for a, b in counts], dtype=bool))

    def metrics(self) -> MetricCollection:
        """Precision, recall and F1 over whole stretches of all classes together, as seqeval defines them."""
        from distilingua.tasks.metrics import EntityScores, MetricCollection

        return MetricCollection({"entities": EntityScores(self.labels)})


def first_pieces(offsets: Sequence[Span], words: Sequence[Span], shift: int) -> list[int]:
    """Per word, the number of the piece in which it begins; `ABSENT` where it is cut off.

    Args:
        offsets: of every piece, in characters; `(0, 0)` for those that stand for none.
        words: in characters.
        shift: characters in front of the first word's text.
    """
    found, piece = [], 0
    for start, end in words:
        while piece < len(offsets) and offsets[piece][1] <= start + shift:
            piece += 1
        found.append(piece if piece < len(offsets) and offsets[piece][0] < end + shift else ABSENT)
    return found
