"""Encoder-decoders from scratch, for translation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from distilingua.models.scratch import Scratch, random_model
from distilingua.tasks.slow import PreTrainedModel, PreTrainedTokenizerBase
from distilingua.tasks.task import Task


@dataclass
class Seq2Seq(Scratch):
    """A small encoder-decoder with random weights, and one vocabulary for both sides, trained on the pair's own text
    and on the translations that training may see.

    Args:
        decoder_layers: of the decoder; `layers` are the encoder's. A shallow decoder translates faster at little loss
            (Kasai et al. 2021).
        architecture: any encoder-decoder of transformers whose configuration has BART's names. Those with norms before
            their layers (m2m_100, which is NLLB's shape too, mbart, pegasus) take larger steps from random weights than
            those with norms after (marian, bart).

    See `Scratch` for the others.
    """

    architecture: str = "m2m_100"
    lowercase: bool = False
    decoder_layers: int = 2

    backbones: ClassVar[Sequence[str]] = ("encoder-decoder",)
    spells: ClassVar[tuple[str, ...]] = ("text", "label")

    def train_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        from distilingua.models.vocabulary import train_writing_tokenizer

        return train_writing_tokenizer(texts, self.vocabulary, self.lowercase)

    def model(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        self.check(task.max_length)
        return random_model(
            task,
            self.architecture,
            vocab_size=len(tokenizer),
            d_model=self.hidden_size,
            encoder_layers=self.layers,
            decoder_layers=self.decoder_layers,
            encoder_attention_heads=self.heads,
            decoder_attention_heads=self.heads,
            encoder_ffn_dim=self.feed_forward,
            decoder_ffn_dim=self.feed_forward,
            max_position_embeddings=self.positions,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            scale_embedding=True,
            # scaled embeddings are as large as the positions added to them; with the usual 0.02 they would drown
            init_std=self.hidden_size**-0.5,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,  # BART's, and the only one that mBART's decoder can have
            forced_eos_token_id=tokenizer.eos_token_id,
        )
