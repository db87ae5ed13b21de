"""Vectors of pieces, their weighted mean, and a small perceptron: a classifier of text without a single layer.

Whoever opens a saved one has to import this file first, which tells transformers about it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

SCALE = 0.02
"""Standard deviation of the first vectors of pieces."""


class BagConfig(PreTrainedConfig):
    """
    Args:
        vocab_size: pieces.
        hidden_size: width of a piece's vector.
        feed_forward: width of the perceptron's hidden layer.
        dropout: probability, of the sentence's vector and of the hidden layer.
    """

    model_type = "bag_of_pieces"

    def __init__(
        self,
        vocab_size: int = 4000,
        hidden_size: int = 128,
        feed_forward: int = 256,
        dropout: float = 0.1,
        pad_token_id: int | None = 0,
        **others: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.feed_forward = vocab_size, hidden_size, feed_forward
        self.dropout, self.pad_token_id = dropout, pad_token_id
        self.num_hidden_layers = 0  # a piece's vector knows nothing of its neighbours
        super().__init__(**others)


class BagForSequenceClassification(PreTrainedModel):
    """`logits = W₂ · relu(W₁ · v + b₁) + b₂` of a sentence's vector `v = Σᵢ exp(wᵢ) eᵢ / Σᵢ exp(wᵢ)` over its pieces i.

    e are the pieces' vectors and w, a number each, says how much a piece counts: 0 for all at first, which is the mean.

    Args:
        config: see `BagConfig`.

    Reference:
        The mean is that of Iyyer et al. (2015), Deep Unordered Composition Rivals Syntactic Methods for Text
        Classification, section 2; a learnt weight for every piece is in the spirit of Arora et al. (2017), A Simple but
        Tough-to-Beat Baseline for Sentence Embeddings, whose weights are frequencies, and of model2vec.
    """

    config_class = BagConfig
    base_model_prefix = "pieces"
    main_input_name = "input_ids"

    def __init__(self, config: BagConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.pieces = nn.ModuleDict(
            {
                "vectors": nn.Embedding(config.vocab_size, config.hidden_size),
                "importance": nn.Embedding(config.vocab_size, 1),
            }
        )
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(config.hidden_size, config.feed_forward)
        self.classifier = nn.Linear(config.feed_forward, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        vectors = self.pieces["vectors"]
        assert isinstance(vectors, nn.Embedding)
        return vectors

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.0 if module is self.pieces["importance"] else SCALE)
        elif isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool = False, **_: Any
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_ids: (rows, length).
            attention_mask: 1 for a piece, 0 for padding, (rows, length).
            output_hidden_states: whether to hand over what each piece adds to the sentence's vector, times their
                number, (rows, length, width): so the mean over a row's pieces is its sentence's vector.
        """
        mask = attention_mask.bool()
        shares = self.pieces["importance"](input_ids).squeeze(-1).masked_fill(~mask, -torch.inf).softmax(-1)
        added = shares[..., None] * self.pieces["vectors"](input_ids)
        hidden = self.dropout(self.hidden(self.dropout(added.sum(1))).relu())
        states = (added * mask.sum(1)[:, None, None],) if output_hidden_states else None
        return SequenceClassifierOutput(logits=self.classifier(hidden), hidden_states=states)


AutoConfig.register(BagConfig.model_type, BagConfig)
AutoModelForSequenceClassification.register(BagConfig, BagForSequenceClassification)
