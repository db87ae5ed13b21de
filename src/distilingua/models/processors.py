"""What turns text into tokens and sound into features: the tokenizer, or speech processor, that belongs to a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from distilingua.corpora.sound import RATE
from distilingua.errors import UserError
from distilingua.extras import check_speech
from distilingua.models.folder import readable

HOP_MS = 10  # between two columns of a log-mel spectrogram
# wav2vec 2.0's convolutions (Baevski et al. 2020, section 4.2), which all published models of its family share: a frame
# of 25 ms every 20 ms
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class SpeechProcessor:
    """A processor of transformers as this package uses tokenizers: features of sound, and the alphabet of the answer.

    Two kinds of feature extractor are known: log-mel spectrograms with several columns to a frame (Wav2Vec2-BERT,
    SeamlessM4T), and plain waveforms for a model with wav2vec 2.0's convolutions (also HuBERT, WavLM, XLS-R, MMS).

    Args:
        processor: with `feature_extractor` and `tokenizer`.

    Raises:
        UserError: another kind of feature extractor, or another rate than `RATE`.
    """

    pad_token_id = 0
    """Not used: sound is padded with zeros."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.extractor = processor, processor.feature_extractor
        if self.extractor.sampling_rate != RATE:
            raise UserError(f"speech: the model hears {self.extractor.sampling_rate} Hz, and sound comes in {RATE} Hz.")
        self.mel = hasattr(self.extractor, "stride") and hasattr(self.extractor, "num_mel_bins")
        if not self.mel and self.extractor.model_input_names[0] != "input_values":
            raise UserError(
                f"speech: {type(self.extractor).__name__} is not known here. Choose a model of the Wav2Vec2, HuBERT, "
                f"WavLM or Wav2Vec2-BERT family."
            )
        self.kernels = tuple(getattr(self.extractor, "conv_kernel", KERNELS))
        self.strides = tuple(getattr(self.extractor, "conv_stride", STRIDES))

    @classmethod
    def load(cls, folder: str | Path, revision: str | None = None) -> SpeechProcessor:
        check_speech()
        from transformers import AutoProcessor

        return cls(AutoProcessor.from_pretrained(folder, revision=revision, trust_remote_code=False))

    def save_pretrained(self, folder: str | Path) -> None:
        self.processor.save_pretrained(folder)

    @property
    def state(self) -> dict[str, Any]:
        """What shapes features and classes, for addresses."""
        return {"sound": self.extractor.to_dict(), "labels": self.labels}

    @property
    def labels(self) -> list[str]:
        """Classes in the order of the logits, lower case, the word delimiter as a space."""
        tokenizer = self.processor.tokenizer
        order = sorted(tokenizer.encoder, key=tokenizer.encoder.get)
        return [" " if c == tokenizer.word_delimiter_token else c.lower() for c in order]

    @property
    def masked(self) -> bool:
        """Whether the model is told which input is padding; wav2vec 2.0's base models were trained without."""
        return bool(self.mel or self.extractor.return_attention_mask)

    @property
    def frame_ms(self) -> float:
        return HOP_MS * self.extractor.stride if self.mel else 1000 * math.prod(self.strides) / RATE

    def features(self, sound: np.ndarray) -> np.ndarray:
        """(frames, width) of a log-mel spectrogram, or (samples,) of a waveform; float32, mean 0 and variance 1.

        Args:
            sound: (samples,) at `RATE`.
        """
        heard = self.extractor(sound, sampling_rate=RATE, return_tensors="np", padding=False)
        features: np.ndarray = heard[self.extractor.model_input_names[0]][0]
        return features

    def frames(self, length: int) -> int:
        """How many frames the model answers with, from the length of its features."""
        if not self.mel:
            for kernel, stride in zip(self.kernels, self.strides, strict=True):
                length = (length - kernel) // stride + 1
        return length


def read_tokenizer(
    name: str, location: str | Path, folder: Path | None, revision: str | None = None, hears: bool = False
) -> Any:
    """A model's own tokenizer, with a padding piece; of one that hears, its `SpeechProcessor`.

    Args:
        name, folder: see `readable`.
        location: of the model, a folder or a name of the hub.

    Raises:
        UserError: files that cannot be read, or a folder that has none: transformers then makes up a tokenizer to which
            every word is unknown.
    """
    with readable(name, folder):
        if hears:
            return SpeechProcessor.load(location, revision)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(
            f"{name}: there is no tokenizer beside the model. Save the model's own there: "
            f"AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER)."
        )
    if tokenizer.pad_token is None:  # decoders are trained without one
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_tokens(model: Any, tokenizer: Any, name: str) -> None:
    """Raises UserError for a tokenizer that has more tokens than its model: it belongs to another one."""
    known = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > known:
        raise UserError(
            f"{name}: its tokenizer has {len(tokenizer)} pieces and the model knows {known}, so they do not belong "
            f"together. Save the model's own tokenizer in that folder."
        )
