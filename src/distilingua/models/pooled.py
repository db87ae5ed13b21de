"""An encoder whose head reads a text's vector, the mean of its pieces': what a probe of frozen vectors needs.

Whoever opens a saved one has to import this file first, which tells transformers about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from distilingua.distillation.losses.layers import masked_mean
from distilingua.tasks.slow import Self

PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Of a probe's squared weights, for features of unit variance; the source's dev split chooses."""


class PooledConfig(PreTrainedConfig):
    """
    Args:
        encoder: the encoder's own configuration, which answers for whatever is not said here.
        pooling: how a text's vector is made of its pieces': mean, or cls, which takes the first.
        dropout: probability, of the vector.
    """

    model_type = "pooled_encoder"

    def __init__(
        self, encoder: dict[str, Any] | None = None, pooling: str = "mean", dropout: float = 0.1, **others: Any
    ) -> None:
        self.encoder, self.pooling, self.dropout = encoder or {"model_type": "bert"}, pooling, dropout
        own = self.encoder_config
        self.hidden_size, self.vocab_size, self.num_hidden_layers = (
            own.hidden_size,
            own.vocab_size,
            own.num_hidden_layers,
        )
        self.max_position_embeddings = getattr(own, "max_position_embeddings", None)
        super().__init__(**{"pad_token_id": own.pad_token_id, **others})

    @property
    def encoder_config(self) -> PreTrainedConfig:
        given = dict(self.encoder)
        return AutoConfig.for_model(given.pop("model_type"), **given)


class PooledForSequenceClassification(PreTrainedModel):
    """`logits = W · √d · v/‖v‖ + b` of a text's vector v, (d,): sentence encoders are trained for its direction alone,
    and features of about unit variance suit any head."""

    config_class = PooledConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: PooledConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = AutoModel.from_config(config.encoder_config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def around(cls, encoder: PreTrainedModel, pooling: str, options: Mapping[str, Any]) -> Self:
        """A model of an encoder that is there already, with a head of random weights.

        Args:
            options: names of the classes, see `Task.model_options`.
        """
        model = cls(PooledConfig(encoder.config.to_dict(), pooling, **options))
        model.encoder = encoder
        return model

    @torch.no_grad()
    def set_head(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """
        Args:
            weight: (classes, width).
            bias: (classes,).
        """
        self.classifier.weight.copy_(torch.from_numpy(weight))
        self.classifier.bias.copy_(torch.from_numpy(bias))

    def features(self, vectors: Tensor) -> Tensor:
        """What the head reads of vectors, (texts, width)."""
        return F.normalize(vectors, dim=-1) * self.config.hidden_size**0.5

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Any) -> SequenceClassifierOutput:
        """
        Args:
            input_ids: (rows, length).
            attention_mask: 1 for a piece, 0 for padding, (rows, length).
            others: for the encoder, such as output_hidden_states.
        """
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **others)
        last = found.last_hidden_state
        vector = last[:, 0] if self.config.pooling == "cls" else masked_mean(last, attention_mask.bool())
        return SequenceClassifierOutput(
            logits=self.classifier(self.dropout(self.features(vector))),
            hidden_states=found.hidden_states,
            attentions=found.attentions,
        )


AutoConfig.register(PooledConfig.model_type, PooledConfig)
AutoModelForSequenceClassification.register(PooledConfig, PooledForSequenceClassification)


def probe(features: np.ndarray, classes: np.ndarray, number: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """A linear classifier of frozen features (Alain and Bengio 2017, arXiv:1610.01644): multinomial logistic regression
    whose classes count alike, however many rows each has, and whose weights are held small.

        minimise Σᵢ w(yᵢ) · -log softmax(W xᵢ + b)[yᵢ] / n + λ/2 · ‖W‖²,   w(c) = n / (classes · rows of c)

    Args:
        features: x, (rows, width); they are standardised before, so that λ means the same to each.
        classes: y, (rows,).
        number: of classes.
        penalty: λ.

    Returns:
        W, (classes, width), and b, (classes,), of the features as they are given.
    """
    middle, scale = features.mean(0), features.std(0) + 1e-6
    x = (features - middle) / scale
    counts = np.bincount(classes, minlength=number)
    weight = (len(classes) / (max((counts > 0).sum(), 1) * np.maximum(counts, 1)))[classes] / len(classes)
    truth = np.zeros((len(classes), number))
    truth[np.arange(len(classes)), classes] = 1

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        own = flat.reshape(number, -1)
        logits = x @ own[:, :-1].T + own[:, -1]
        off = weight[:, None] * (softmax(logits, axis=1) - truth)
        slope = np.concatenate([off.T @ x + penalty * own[:, :-1], off.sum(0)[:, None]], axis=1)
        missed = -(weight * log_softmax(logits, axis=1)[np.arange(len(classes)), classes]).sum()
        return missed + penalty / 2 * (own[:, :-1] ** 2).sum(), slope.ravel()

    found = minimize(loss, np.zeros(number * (x.shape[1] + 1)), jac=True, method="L-BFGS-B").x.reshape(number, -1)
    weights = found[:, :-1] / scale
    return weights, found[:, -1] - weights @ middle
