"""Where in a text the answer to a question stands, if it does."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from distilingua.columns import Encoded, Ragged, texts_of
from distilingua.corpora.words import aligned, parsed, words_of
from distilingua.distillation.signals import IGNORE_INDEX, Signals
from distilingua.errors import UserError, whole
from distilingua.statistics.bootstrap import Tally, ratio
from distilingua.tasks.pieces import as_tensor, needs_offsets, pad_windows
from distilingua.tasks.slow import MetricCollection, PreTrainedTokenizerBase
from distilingua.tasks.task import PADDING, EncodedRow, Example, WithoutClasses, check_length, too_far

FAR = -1e4  # the logit of a character beyond the end of a shorter context: probability 0, and still a number
LEAST = 1e-8  # probability: its logarithm must stay finite
ARTICLES = {  # Lewis et al. (2020), MLQA, evaluation script
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",
}
BEST = 20  # starts and ends that are tried with one another, as the SQuAD example of transformers does


class QuestionAnswering(WithoutClasses):
    """The first and the last character of the answer; or that the context holds none.

    `text` is the question, `text_pair` the context. A label is JSON, `[{"text": …, "start": …}, …]`, every one of them
    right; `[]` says that there is no answer.

    A row's positions are "no answer" and every character of the context that is not a space, with two logits each:
    starts here, ends here. A piece starts with its first character and ends with its last, so teacher and student meet
    at characters whatever pieces they read. The objective sees two distributions over the student's pieces: what the
    teacher says of any character in a piece is said of that piece.

    A context longer than `max_length` is read in windows that overlap, each character in the window that shows most
    around it, and all windows of a context compete in one distribution (Clark and Gardner 2018, section 3.3); "no
    answer" counts as much as in the window that finds it least likely.

    Args:
        name: what is asked, for titles.
        max_length: pieces of question and window together.
        stride: pieces that two windows have in common; null refuses contexts that do not fit.
        max_answer: characters of the longest answer.
    """

    auto = "AutoModelForQuestionAnswering"
    distributed = 0
    shown: ClassVar[Mapping[str, str]] = {"f1": "F1", "exact": "EM"}
    points_into: ClassVar[Mapping[str, str]] = {"text_pair": "character"}

    def __init__(
        self,
        name: str = "answers",
        max_length: int = 128,
        stride: int | None = 32,
        max_answer: int = 80,
    ) -> None:
        check_length(
            max_length,
            whole("task.max_answer", max_answer, 1),
            None if stride is None else whole("task.stride", stride, 0) or too_far(stride, max_length),
        )
        self.name, self.max_length, self.stride, self.max_answer = name, max_length, stride, max_answer

    @property
    def recipe(self) -> Any:
        return [self.max_length, self.stride]

    @property
    def model_options(self) -> dict[str, Any]:
        return {"num_labels": 2}

    @staticmethod
    def problem(row: Mapping[str, str]) -> str | None:
        if not row["label"]:
            return None
        context = row["text_pair"]
        try:
            answers = [(answer["text"], answer["start"]) for answer in parsed(row["label"])]
            if not all(isinstance(text, str) and type(start) is int for text, start in answers):
                raise TypeError(answers)
        except (KeyError, TypeError, ValueError):
            return (
                f"the label {row['label'][:60]!r} is no list of answers. A corpus gives them as SQuAD does, "
                f'{{"text": ["in the hall"], "answer_start": [17]}}, with empty lists where there is none.'
            )
        for text, start in answers:
            if not text.strip() or context[start : start + len(text)] != text:
                there = context[start : start + len(text)]
                elsewhere = context.find(text)
                hint = f"; it is at {elsewhere}" if text.strip() and elsewhere >= 0 else ""
                return f"the answer {text!r} is not at character {start} of the context, {there!r} is{hint}."
        return None

    def encode(self, rows: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, prefix: str) -> Encoded:
        """`input_ids` of all windows one after the other, `lengths` of them, and for every character that is no space
        `window` and `at`, the piece in it.

        Raises:
            UserError: a context that does not fit, without windows; a question that leaves no room for one; a tokenizer
                that does not say which characters a piece stands for.
        """
        needs_offsets(tokenizer)
        questions = [prefix + text for text in rows["text"]]
        self._leave_room(max(len(ids) for ids in tokenizer(questions)["input_ids"]))
        read = tokenizer(
            questions,
            rows["text_pair"],
            truncation="only_second",
            max_length=self.max_length,
            stride=self.stride or 0,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        ids = Ragged.of(read["input_ids"])
        counts = np.bincount(read["overflow_to_sample_mapping"], minlength=len(questions))
        windows = Ragged.by_lengths(ids.lengths.astype(np.int32), counts)
        if self.stride is None and counts.max() > 1:
            context = rows["text_pair"][int((counts > 1).argmax())]
            raise UserError(
                f"task.max_length={self.max_length}: the context {context[:40]!r}… has more pieces, and windows are "
                f"off. Set task.stride={self.max_length // 4}, or a larger task.max_length."
            )
        of_context = [
            [span if part == 1 else None for span, part in zip(spans, read.sequence_ids(n), strict=True)]
            for n, spans in enumerate(read["offset_mapping"])
        ]
        places = zip(rows["text_pair"], windows.offsets, windows.offsets[1:], strict=False)
        best = [best_windows(context, of_context[first:last]) for context, first, last in places]
        return Encoded(
            {
                "input_ids": Ragged.by_lengths(ids.values, [lengths.sum() for lengths in windows]),
                "lengths": windows,
                "window": Ragged.of([window for window, _ in best]),
                "at": Ragged.of([at for _, at in best]),
            }
        )

    def _leave_room(self, longest: int) -> None:
        """Raises UserError for a question of so many pieces that no context fits beside it."""
        if longest + (self.stride or 0) + 3 >= self.max_length:
            raise UserError(
                f"task.max_length={self.max_length}: a question alone has {longest} pieces, which leaves no room for a "
                f"context. Set task.max_length={2 * longest + 2 * (self.stride or 0)}."
            )

    def positions(self, encoded: Encoded) -> np.ndarray:
        return 1 + super().positions(encoded)

    def unread(self, encoded: EncodedRow) -> dict[str, Any]:
        blank, windows = [0] * len(encoded["at"]), len(encoded["lengths"])
        return {"input_ids": [0] * windows, "lengths": [1] * windows, "window": blank, "at": blank}

    def collate(self, encoded: Encoded, pad_id: int) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs have a row for every window; `at` holds, per row and position, window · longest window + piece."""
        (inputs, first), at = pad_windows(encoded, pad_id), encoded.lists("at")
        longest = inputs["input_ids"].shape[1]
        window = encoded.lists("window").values + np.repeat(first, at.lengths)
        inside = Ragged(window * longest + at.values, at.offsets).padded(PADDING)
        return inputs, as_tensor(np.concatenate([(first * longest)[:, None], inside], axis=1))

    def cells(self, output: Any, at: Tensor | None, windows: Tensor | None = None) -> Tensor:
        """Logits of starting and of ending at every position, (positions, 2): those of the piece that starts, or ends,
        with this character; `FAR` inside of pieces."""
        assert at is not None
        both = torch.stack([output.start_logits, output.end_logits], dim=-1).float()
        nothing = both[:, 0] if windows is None else torch.segment_reduce(both[:, 0], "min", lengths=windows)
        index = at[:, 1:].clamp(min=0)
        edges = torch.stack([first_of_piece(index), first_of_piece(index.flip(1)).flip(1)], dim=-1)
        # padding repeats piece 0 of the batch, which is no character's
        characters = torch.where(edges, both.flatten(0, 1)[index], FAR)
        cells = torch.cat([nothing[:, None], characters], dim=1)
        return cells[at != PADDING]

    def targets(self, rows: Dataset, encoded: Encoded) -> Ragged:
        """Start and end of the first answer, as numbers of positions; 0 and 0 where there is none."""
        each = zip(texts_of(rows, "label"), texts_of(rows, "text_pair"), strict=True)
        return Ragged.of([first_and_last(label, context) for label, context in each], np.int64)

    def signals(self, student: Tensor, teacher: Tensor | None, batch: Mapping[str, Any]) -> Signals:
        """Two positions a row, its start and its end; classes are "no answer" and the row's pieces in order."""
        counts, read, at = batch["counts"], batch["has_teacher"], batch["student_at"]
        piece = torch.cat([at.new_zeros(len(at), 1), first_of_piece(at[:, 1:]).cumsum(1)], dim=1)
        if teacher is not None:
            read = read & torch.stack([~part.isnan().any() for part in teacher.split(counts.tolist())])
            teacher = by_piece(teacher.nan_to_num(), counts, piece)
        labels = batch["labels"].view(-1, 2)
        labels = torch.where(labels == IGNORE_INDEX, IGNORE_INDEX, piece.gather(1, labels.clamp(min=0)))
        return Signals(
            student=by_piece(student, counts, piece),
            teacher=teacher,
            labels=labels.flatten(),
            has_teacher=read.repeat_interleave(2),
            rows=len(counts),
            row=torch.arange(len(counts), device=counts.device).repeat_interleave(2),
            rows_read=read,
            read=batch.get("read"),
        )

    def project(self, cells: np.ndarray, read: Mapping[str, Any], row: Example) -> np.ndarray:
        """The teacher's answer to an aligned question over aligned text, see `TokenClassification.project`.

        What starts inside a stretch starts with the first character of the stretch of equal value, what ends inside one
        ends with its last; what is outside of all stretches is spread evenly. "No answer" stays.
        """
        source, target = characters_of(read["text_pair"]), characters_of(row["text_pair"])
        mass = torch.from_numpy(cells).softmax(0).numpy()
        carried = np.zeros((1 + len(target), 2), dtype=np.float32)
        carried[0] = mass[0]
        for theirs, ours in aligned(read["spans"], row["spans"]):
            there = [1 + n for n, place in enumerate(source) if theirs and theirs[0] <= place < theirs[1]]
            here = [1 + n for n, place in enumerate(target) if ours[0] <= place < ours[1]]
            if there and here:
                carried[here[0], 0] += mass[there, 0].sum()
                carried[here[-1], 1] += mass[there, 1].sum()
        carried[1:] += np.maximum(1 - carried.sum(0), 0) / max(len(target), 1)
        return np.log(np.maximum(carried, LEAST))

    def metrics(self) -> MetricCollection:
        """On dev: how often the likeliest start and the likeliest end are both right."""
        from distilingua.tasks.metrics import BothRight, MetricCollection

        return MetricCollection({"exact": BothRight()})

    def watch(self, metrics: MetricCollection, signals: Signals, batch: Mapping[str, Any]) -> None:
        metrics.update(signals.student, signals.labels)

    def agree(self, answer: Tensor, other: Tensor) -> Tensor:
        """Of batches, see `signals`; or a row's cells, (characters, 2), against its start and end."""
        return super().agree(answer if other.ndim == answer.ndim else answer.T, other)

    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: EncodedRow, tokenizer: Any) -> str:
        """The answer's text, of the two pieces whose logits have the highest sum; "" where "no answer" has a higher."""
        places = characters_of(row["text_pair"])
        if not places:
            return ""
        starts, ends = (answer[1:, column].topk(min(BEST, len(places))) for column in (0, 1))
        length = torch.tensor(places)[ends.indices][None] - torch.tensor(places)[starts.indices][:, None]
        score = starts.values[:, None] + ends.values[None]
        score = score.masked_fill((length < 0) | (length >= self.max_answer), -torch.inf)
        if score.max() <= answer[0].sum():
            return ""
        start, end = divmod(int(score.argmax()), score.shape[1])
        return row["text_pair"][places[int(starts.indices[start])] : places[int(ends.indices[end])] + 1]

    def show(self, label: str) -> str:
        return next((answer["text"] for answer in json.loads(label)), "")

    def evaluate(
        self, answers: Sequence[Tensor], rows: Dataset, encoded: Encoded, tokenizer: Any
    ) -> tuple[dict[str, float], list[str]]:
        """F1 over words and exact match, as SQuAD and MLQA define them, the best over a row's answers."""
        told = self.decode_all(answers, rows, encoded, tokenizer)
        scores = {"f1": best_scores(token_f1, told, rows), "exact": best_scores(exact_match, told, rows)}
        return {name: sum(values) / len(values) for name, values in scores.items()}, told

    def tally(self, predicted: Sequence[str], rows: Dataset) -> Tally:
        f1 = np.array(best_scores(token_f1, predicted, rows))
        return Tally(np.stack([f1, np.ones(len(f1))], axis=1), ratio, f1 == 1)


def best_scores(score: Callable[[str, str, str], float], predicted: Sequence[str], rows: Dataset) -> list[float]:
    """How good each answer is by the right answer that it is closest to."""
    each = zip(predicted, texts_of(rows, "label"), texts_of(rows, "lang"), strict=True)
    return [
        max(score(said, truth, lang) for truth in [answer["text"] for answer in json.loads(label)] or [""])
        for said, label, lang in each
    ]


def characters_of(context: str) -> list[int]:
    """Where the characters are that are not spaces."""
    return [n for n, character in enumerate(context) if not character.isspace()]


def first_and_last(label: str, context: str) -> list[int]:
    """Positions of the first answer's first and last character."""
    if not label:
        return [IGNORE_INDEX, IGNORE_INDEX]
    for answer in json.loads(label):
        start, end = answer["start"], answer["start"] + len(answer["text"])
        inside = [1 + n for n, place in enumerate(characters_of(context)) if start <= place < end]
        return [inside[0], inside[-1]]
    return [0, 0]


def best_windows(context: str, offsets: Sequence[Sequence[tuple[int, int] | None]]) -> tuple[list[int], list[int]]:
    """For every character that is not a space: the window that shows most around it, and its piece in there.

    A character that no piece stands for (a tokenizer may drop it) goes with the one before, or with the first.

    Args:
        offsets: per window and piece, the characters of the context it stands for; None for pieces of something else.
    """
    best: dict[int, tuple[int, int, int]] = {}  # pieces around it; of equal ones the first window, and the first piece
    for window, spans in enumerate(offsets):
        inside = [(piece, span) for piece, span in enumerate(spans) if span is not None]
        for piece, span in inside:
            around = min(piece - inside[0][0], inside[-1][0] - piece)
            for n in range(*span):
                best[n] = max(best.get(n, (-1, 0, 0)), (around, -window, -piece))
    before = best[min(best)] if best else (0, 0, 0)
    found = []
    for n, character in enumerate(context):
        before = best.get(n, before)
        if not character.isspace():
            found.append(before)
    return [-window for _, window, _ in found], [-piece for *_, piece in found]


def first_of_piece(at: Tensor) -> Tensor:
    """Whether the character before stands for another piece, (rows, characters) bool."""
    return torch.cat([torch.ones_like(at[:, :1], dtype=torch.bool), at[:, 1:] != at[:, :-1]], dim=1)


def by_piece(cells: Tensor, counts: Tensor, piece: Tensor) -> Tensor:
    """Logits of the pieces that characters belong to: start and end of every row, (2 · rows, most pieces of a row).

    Args:
        cells: logits of characters, (positions, 2).
        counts: positions per row, (rows,).
        piece: number of the piece within its row, (rows, most positions), ascending.
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(cells.split(counts.tolist())), batch_first=True, padding_value=FAR)
    index = piece[..., None].expand_as(padded)
    highest = padded.detach().amax(1, keepdim=True)
    total = torch.zeros(len(padded), int(piece.max()) + 1, 2, device=cells.device)
    total = total.scatter_add(1, index, (padded - highest).exp())
    logits = torch.where(total > 0, total.clamp(min=1e-38).log() + highest, FAR)
    return logits.transpose(1, 2).flatten(0, 1)


# --- scores, as SQuAD defines them, with the normalisation of MLQA for each language ----------------------------------


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
