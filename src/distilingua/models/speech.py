"""What hears: feature extractors with their alphabet, and CTC encoders with random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distilingua.artifacts import cached
from distilingua.corpora.sound import RATE
from distilingua.errors import UserError, refuse
from distilingua.extras import check_speech
from distilingua.models.student import check_sizes
from distilingua.tasks.task import Task, model_class

if TYPE_CHECKING:  # slow to import, and `checks.check` must answer within a second or two
    from datasets import Dataset
    from transformers import PreTrainedModel


HOP_MS = 10  # between two columns of a log-mel spectrogram
# wav2vec 2.0's convolutions (Baevski et al. 2020, section 4.2), which all published models of its family share: a frame
# of 25 ms every 20 ms
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class Listener:
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
    def load(cls, folder: str | Path, revision: str | None = None) -> Listener:
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


@dataclass
class SpeechScratch:
    """A small CTC encoder with random weights.

    From a log-mel spectrogram it is a Conformer (Gulati et al. 2020) as in Wav2Vec2-BERT: convolutions for the
    neighbouring frames, attention for the rest. From the waveform it is a small wav2vec 2.0, which learns its own
    filters first and costs several times as much.

    Args:
        sound: mel or waveform.
        layers, hidden_size, heads, feed_forward: the encoder's shape.
        frame_ms: length of a frame, a multiple of 10; 20 or 40 from the waveform. Teacher and student want the same.
        mels: bins of the spectrogram; channels of the convolutions from the waveform.
        kernel: frames that a Conformer's convolution sees at once, odd.
        dropout: probability, in every layer.
        alphabet: see `SpeechRecognition`.
    """

    layers: int
    hidden_size: int
    heads: int
    feed_forward: int
    sound: str = "mel"
    frame_ms: int = 40
    mels: int = 40
    kernel: int = 15
    dropout: float = 0.1
    alphabet: str | list[str] | None = None
    prefix: str = ""
    backbones: ClassVar[Sequence[str]] = ("speech encoder",)

    def check(self, max_length: int | None = None, role: str = "student") -> None:
        check_speech()
        check_sizes(self, role, layers=1, feed_forward=1, mels=1, kernel=1)
        refuse(
            f"{role}.sound={self.sound} is not known. Choose mel or waveform."
            if self.sound not in ("mel", "waveform")
            else None,
            f"{role}.frame_ms={self.frame_ms}: choose 20 or 40; from mel any multiple of 10 up to 80."
            if self.frame_ms not in ((20, 40) if self.sound == "waveform" else range(10, 90, 10))
            else None,
            f"{role}.kernel={self.kernel} is even. Set {role}.kernel={self.kernel + 1}."
            if self.kernel % 2 == 0
            else None,
        )

    def origin(self) -> Any:
        return None

    def tokenizer(self, rows: Dataset, cache: Path) -> Listener:
        """The alphabet given, or that of the visible labels of `rows`."""
        from distilingua.tasks.transcripts import characters

        alphabet = list(self.alphabet or characters(label for label in rows["label"][:] if label))
        recipe = {"alphabet": alphabet, "sound": self.sound, "mels": self.mels, "frame_ms": self.frame_ms}

        def build(folder: Path) -> None:
            self._processor(alphabet).save_pretrained(folder)

        return Listener.load(cached(cache, "tokenizers", recipe, build))

    def _processor(self, alphabet: list[str]) -> Any:
        from transformers import (
            SeamlessM4TFeatureExtractor,
            Wav2Vec2BertProcessor,
            Wav2Vec2CTCTokenizer,
            Wav2Vec2FeatureExtractor,
            Wav2Vec2Processor,
        )

        from distilingua.tasks.speech import BLANK_NAME

        with TemporaryDirectory() as folder:
            file = Path(folder) / "vocab.json"
            names = [BLANK_NAME, *("|" if c == " " else c for c in alphabet)]
            file.write_text(json.dumps({name: i for i, name in enumerate(names)}), "utf-8")
            nothing = dict.fromkeys(("bos_token", "eos_token", "unk_token"))
            tokenizer = Wav2Vec2CTCTokenizer(
                str(file), pad_token=BLANK_NAME, word_delimiter_token="|", do_lower_case=False, **nothing
            )
        if self.sound == "mel":
            extractor = SeamlessM4TFeatureExtractor(
                feature_size=self.mels, num_mel_bins=self.mels, sampling_rate=RATE, stride=self.frame_ms // HOP_MS
            )
            return Wav2Vec2BertProcessor(extractor, tokenizer)
        extractor = Wav2Vec2FeatureExtractor(
            sampling_rate=RATE, return_attention_mask=True, do_normalize=True, **self._convolutions
        )
        return Wav2Vec2Processor(extractor, tokenizer)

    @property
    def _convolutions(self) -> dict[str, list[int]]:
        more = [2] if self.frame_ms == 40 else []
        return {"conv_kernel": [*KERNELS, *more], "conv_stride": [*STRIDES, *more]}

    def model(self, task: Task, tokenizer: Listener) -> PreTrainedModel:
        from transformers import Wav2Vec2BertConfig, Wav2Vec2Config

        self.check(task.max_length)
        shape = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.feed_forward,
            "hidden_dropout": self.dropout,
            "activation_dropout": self.dropout,
            "feat_proj_dropout": 0.0,
            "final_dropout": 0.0,
            "layerdrop": 0.0,
            "apply_spec_augment": False,  # it draws from numpy's generator, which a resumed run would not find again
        }
        if self.sound == "mel":
            config = Wav2Vec2BertConfig(
                **shape,
                **task.model_options,
                output_hidden_size=self.hidden_size,
                feature_projection_input_dim=self.mels * self.frame_ms // HOP_MS,
                conv_depthwise_kernel_size=self.kernel,
                conformer_conv_dropout=self.dropout,
                position_embeddings_type="relative_key",
            )
        else:
            convolutions = self._convolutions
            config = Wav2Vec2Config(
                **shape,
                **task.model_options,
                **convolutions,
                conv_dim=[self.mels] * len(convolutions["conv_kernel"]),
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
                num_conv_pos_embeddings=self.kernel + 1,
                num_conv_pos_embedding_groups=self.heads,
            )
        return model_class(task).from_config(config)
