"""Speech to text, by connectionist temporal classification (CTC)."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from distilingua.artifacts import fingerprint
from distilingua.columns import Encoded, Ragged, texts_of
from distilingua.corpora.sound import RATE, BadSound, waveform
from distilingua.distillation.losses.ctc import CTC
from distilingua.distillation.losses.term import Term
from distilingua.distillation.signals import IGNORE_INDEX, Signals
from distilingua.errors import UserError, refuse, truth, whole
from distilingua.statistics.bootstrap import Tally, word_accuracy
from distilingua.tasks.pieces import as_tensor
from distilingua.tasks.slow import MetricCollection, Self
from distilingua.tasks.task import ABSENT, PADDING, EncodedRow, Example, WithoutClasses
from distilingua.tasks.transcripts import (
    best_path,
    characters,
    disagreement,
    drawn_hearings,
    errors,
    normal,
    wrong_and_said,
)

BLANK_NAME = "<pad>"  # what transformers' CTC tokenizers call the blank
EDGE = 2  # frames by which two models of one rate may differ: they treat the ends of a sound in their own way
RARE = 1e-3  # share of all characters from which on one that the alphabet lacks is a mistake


class Recent:
    """What was heard last in this process, up to so many bytes: a run reads most rows four times, as the teacher's
    lessons, for its transcripts, for its store and for the student, and hearing takes longer than a training step."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self.kept: OrderedDict[Any, EncodedRow] = OrderedDict()

    def get(self, key: Any, make: Callable[[], EncodedRow]) -> EncodedRow:
        """A copy, so that nobody changes what others get."""
        found = self.kept.pop(key, None)
        if found is None:
            found = make()
            self.size += found["features"].nbytes
        self.kept[key] = found  # the last again
        while self.size > self.most:
            _, oldest = self.kept.popitem(last=False)
            self.size -= oldest["features"].nbytes
        return dict(found)


RECENT = Recent(512 * 2**20)


class SpeechRecognition(WithoutClasses):
    """A character for every frame. Teacher and student hear the same sound at the same frame rate and meet at frames.

    Labels are transcripts as people write them; what is learnt and compared is their `normal` spelling.

    Args:
        name: in titles.
        max_length: seconds a model hears at most. A row that goes beyond is cut, and its label is not learnt from.
        alphabet: characters after the blank, in the order of the logits: one text, or a list where an entry has several
            letters. Null takes those of the visible labels. A teacher must have been taught the same.
        pseudo_labels: learn from the teacher's transcripts of unlabelled sound, see `pseudo_label`.
        most_wer: mean word error rate between a transcript and `hearings` others up to which it is trusted.
        hearings: how many are drawn.

    Raises:
        UserError: characters named twice; a threshold below 0; no hearings.
    """

    auto = "AutoModelForCTC"
    mean_probability = True
    backbone = "speech encoder"
    shown: ClassVar[Mapping[str, str]] = {"wacc": "words", "wer": "WER", "cer": "CER"}
    reads = ("audio",)

    def __init__(
        self,
        name: str = "speech",
        max_length: int = 30,
        alphabet: str | Sequence[str] | None = None,
        pseudo_labels: bool = True,
        most_wer: float = 0.1,
        hearings: int = 8,
    ) -> None:
        refuse(
            whole("task.max_length", max_length, 1),
            truth("task.pseudo_labels", pseudo_labels),
            whole("task.hearings", hearings, 1),
            None
            if type(most_wer) in (int, float) and most_wer >= 0
            else f"task.most_wer={most_wer}: expected a number of at least 0, such as 0.1.",
        )
        self.name, self.max_length, self.pseudo_labels = name, max_length, pseudo_labels
        self.most_wer, self.hearings = most_wer, hearings
        self._set(list(alphabet) if alphabet is not None else [])

    def _set(self, alphabet: list[str]) -> None:
        twice = [c for c, n in Counter(alphabet).items() if n > 1]
        if twice:
            raise UserError(f"task.alphabet names {', '.join(map(repr, twice))} twice. Name every character once.")
        self.labels = [BLANK_NAME, *alphabet] if alphabet else []
        self._index = {label: i for i, label in enumerate(self.labels)}

    # --- labels -------------------------------------------------------------------------------------------------------
    @staticmethod
    def problem(row: Mapping[str, str]) -> str | None:
        if not row["audio"]:
            return "it has no sound."
        if not row["audio"].startswith("espeak:"):  # which is made, not found; `encode` will hear it
            try:
                waveform(row["audio"])
            except BadSound as bad:
                return f"{row['audio'].rpartition('#')[0]}: {bad}."
        if row["label"] and not normal(row["label"]):
            return f"the transcript {row['label']!r} has nothing that can be heard."
        return None

    def fit_labels(self, names: Sequence[str], visible: Iterable[str] = ()) -> Self:
        """Classes are characters: those of the alphabet, or of the visible transcripts."""
        if not self.labels:
            self._set(characters(visible))
        return self

    def comparable(self, student: Any, teacher: Any, distributions: bool) -> None:
        if student.frame_ms != teacher.frame_ms:
            raise UserError(
                f"teacher: it has a frame every {teacher.frame_ms:g} ms and the student every {student.frame_ms:g} ms, "
                f"so there is no telling which of them belong together. Set student.frame_ms={teacher.frame_ms:g}."
            )

    # --- reading ------------------------------------------------------------------------------------------------------
    @property
    def model_options(self) -> dict[str, Any]:
        return {**super().model_options, "vocab_size": len(self.labels), "pad_token_id": 0}

    def encode(self, rows: Mapping[str, list[str]], tokenizer: Any, prefix: str) -> Encoded:
        """What the model's own feature extractor makes of the sound, in float16, and how many frames it has.

        Float16 keeps three digits of features that are normalised to a variance of 1, in half the space.

        Args:
            tokenizer: a `SpeechProcessor`.

        Raises:
            UserError: sound that cannot be learnt from.
        """
        address = fingerprint(tokenizer.state)
        heard = (partial(self._encode, audio, tokenizer) for audio in rows["audio"])
        keys = ((address, self.max_length, audio) for audio in rows["audio"])
        return Encoded.of([RECENT.get(key, make) for key, make in zip(keys, heard, strict=True)])

    def _encode(self, audio: str, tokenizer: Any) -> EncodedRow:
        try:
            sound = waveform(audio)
        except BadSound as bad:
            raise UserError(f"corpus: {audio}: {bad}. Mend it, or set corpus.skip_bad_rows=true.") from None
        features = tokenizer.features(sound[: self.max_length * RATE])
        return {
            "features": features.astype(np.float16).ravel(),
            "width": features.shape[1] if features.ndim > 1 else 0,
            "masked": tokenizer.masked,
            "frames": tokenizer.frames(len(features)),
            "cut": len(sound) > self.max_length * RATE,
            "absent": False,
        }

    def positions(self, encoded: Encoded) -> np.ndarray:
        return encoded.numbers("frames")

    def unread(self, encoded: EncodedRow) -> dict[str, Any]:
        return {**encoded, "absent": True}

    def collate(self, encoded: Encoded, pad_id: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """`input_features` (rows, frames, width) or `input_values` (rows, samples), and `attention_mask` if wanted."""
        width, sounds = int(encoded.numbers("width")[0]), encoded.lists("features")
        features = torch.from_numpy(sounds.padded(0).astype(np.float32))
        inputs = {"input_features": features.view(len(sounds), -1, width)} if width else {"input_values": features}
        if encoded.numbers("masked")[0]:
            steps = sounds.lengths[:, None] // max(width, 1)
            inputs["attention_mask"] = as_tensor(np.arange(int(steps.max())) < steps)
        frames, frame = encoded.numbers("frames")[:, None], np.arange(int(encoded.numbers("frames").max()))
        heard = np.where(encoded.numbers("absent")[:, None], ABSENT, frame)
        return inputs, as_tensor(np.where(frame < frames, heard, PADDING))

    # --- learning -----------------------------------------------------------------------------------------------------
    def targets(self, rows: Dataset, encoded: Encoded) -> Ragged:
        """Per row the classes of its characters, (characters,); one `IGNORE_INDEX` where the label is not shown.

        A character that the alphabet lacks is left out, if it is rare; what is judged at the end keeps it.

        Raises:
            UserError: such a character is not rare.
        """
        texts = [normal(label) for label in texts_of(rows, "label")]
        counts = Counter("".join(texts))
        missing = [c for c, n in counts.most_common() if c not in self._index and n > RARE * counts.total()]
        if missing:
            raise UserError(
                f"task.alphabet lacks {' '.join(missing)}, which transcripts are written with. Name every character, "
                f'the space included: task.alphabet="{"".join(sorted({*self.labels[1:], *missing}))}".'
            )
        classes = [[self._index[c] for c in text if c in self._index] for text in texts]
        each = zip(classes, encoded.numbers("cut"), strict=True)
        return Ragged.of([found if found and not cut else [IGNORE_INDEX] for found, cut in each], np.int64)

    def collate_labels(self, targets: Ragged) -> Tensor:
        """(rows, most characters), `IGNORE_INDEX` after the last."""
        return as_tensor(targets.padded(IGNORE_INDEX))

    @staticmethod
    def hard() -> Term:
        return CTC()

    def pseudo_label(self, answer: Tensor, row: Example, encoded: EncodedRow, tokenizer: Any) -> str:
        """The teacher's transcript, where it is expected to be at most `most_wer` off: see `drawn_hearings`."""
        transcript = best_path(answer, self.labels)
        others = drawn_hearings(answer, self.labels, self.hearings, seed=row["id"])
        return transcript if not encoded["cut"] and disagreement(transcript, others) <= self.most_wer else ""

    def project(self, cells: np.ndarray, read: Mapping[str, Any], row: Example) -> np.ndarray:
        """The same sound, heard in a frame or two more or less."""
        return cells[closest(len(cells), row["frames"])]

    def signals(self, student: Tensor, teacher: Tensor | None, batch: Mapping[str, Any]) -> Signals:
        if teacher is not None and batch.get("teacher_at") is not None:
            heard = (batch["teacher_at"] != PADDING).sum(1).tolist()
            rows = zip(teacher.split(heard), batch["counts"].tolist(), strict=True)
            teacher = torch.cat([cells[closest(len(cells), count)] for cells, count in rows])
        return super().signals(student, teacher, batch)

    # --- judging ------------------------------------------------------------------------------------------------------
    def metrics(self) -> MetricCollection:
        from distilingua.tasks.metrics import transcript_metrics

        return transcript_metrics(self.labels)

    def probabilities(self, answers: Sequence[Tensor], model: Any, inputs: Mapping[str, Tensor]) -> list[float]:
        """The geometric mean over the frames of the best path, as a product would only tell how long a sound is."""
        return [float(cells.log_softmax(-1).amax(-1).mean().exp()) for cells in answers]

    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: EncodedRow, tokenizer: Any) -> str:
        return best_path(answer, self.labels)

    def evaluate(
        self, answers: Sequence[Tensor], rows: Dataset, encoded: Encoded, tokenizer: Any
    ) -> tuple[dict[str, float], list[str]]:
        told = [best_path(answer, self.labels) for answer in answers]
        return errors([normal(label) for label in texts_of(rows, "label")], told), told

    def tally(self, predicted: Sequence[str], rows: Dataset) -> Tally:
        labels = [normal(label) for label in texts_of(rows, "label")]
        each = [wrong_and_said(label, heard) for label, heard in zip(labels, predicted, strict=True)]
        wrong, said = np.array(each, dtype=float).T
        return Tally(np.stack([said - wrong, said], axis=1), word_accuracy, wrong == 0)


def closest(frames: int, wanted: int) -> list[int]:
    """Numbers of the frames that stand for `wanted` frames: the same ones, the last one again where one is missing.

    Raises:
        UserError: the two numbers belong to different frame rates.
    """
    if abs(frames - wanted) > EDGE:
        raise UserError(
            f"teacher: it hears a sound in {frames} frames and the student in {wanted}: their frame rates differ. Set "
            f"student.frame_ms to the teacher's."
        )
    return [min(i, frames - 1) for i in range(wanted)]
