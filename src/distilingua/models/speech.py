"""Students that hear: CTC encoders with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from datasets import Dataset

from distilingua.artifacts import cached
from distilingua.columns import texts_of
from distilingua.corpora.sound import RATE
from distilingua.errors import refuse
from distilingua.extras import check_speech
from distilingua.models.processors import HOP_MS, KERNELS, STRIDES, SpeechProcessor
from distilingua.models.scratch import check_values
from distilingua.models.student import Student
from distilingua.tasks.slow import PreTrainedModel
from distilingua.tasks.speech import BLANK_NAME
from distilingua.tasks.task import Task, model_class
from distilingua.tasks.transcripts import characters


@dataclass
class SpeechScratch(Student):
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
        check_values(self, role)
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

    def tokenizer(self, rows: Dataset, cache: Path, words: bool = False) -> SpeechProcessor:
        """The alphabet given, or that of the visible labels of `rows`."""
        alphabet = list(self.alphabet or characters(label for label in texts_of(rows, "label") if label))
        recipe = {"alphabet": alphabet, "sound": self.sound, "mels": self.mels, "frame_ms": self.frame_ms}

        def build(folder: Path) -> None:
            self._processor(alphabet).save_pretrained(folder)

        return SpeechProcessor.load(cached(cache, "tokenizers", recipe, build))

    def _processor(self, alphabet: list[str]) -> Any:
        from transformers import (
            SeamlessM4TFeatureExtractor,
            Wav2Vec2BertProcessor,
            Wav2Vec2CTCTokenizer,
            Wav2Vec2FeatureExtractor,
            Wav2Vec2Processor,
        )

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

    def model(self, task: Task, tokenizer: SpeechProcessor) -> PreTrainedModel:
        from transformers import Wav2Vec2BertConfig, Wav2Vec2Config

        self.check(task.max_length)
        shape = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.feed_forward,
            "hidden_dropout": self.dropout,
            "activation_dropout": self.dropout,
            **dict.fromkeys(("feat_proj_dropout", "final_dropout", "layerdrop"), 0.0),
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
