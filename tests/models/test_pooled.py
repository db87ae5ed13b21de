"""A head on a text's vector: its arithmetic, the probe that it begins as, and that it loads as it was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import AutoModel, AutoModelForSequenceClassification

from distilingua.models.pooled import PooledForSequenceClassification, probe
from distilingua.tasks.text_classification import TextClassification
from tests.models.conftest import Encoder


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_head_reads_the_direction_of_the_texts_vector(
    encoder: Encoder, task: TextClassification, pooling: str, tmp_path: Path
) -> None:
    body = AutoModel.from_pretrained(encoder("bert", "wordpiece"))
    model = PooledForSequenceClassification.around(body, pooling, task.model_options).eval()
    ids, mask = torch.tensor([[2, 7, 3, 0], [2, 5, 6, 3]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    last = body.eval()(ids, attention_mask=mask).last_hidden_state
    vectors = [last[0, :1], last[1, :1]] if pooling == "cls" else [last[0, :3], last[1]]
    unit = torch.stack([each.mean(0) / each.mean(0).norm() for each in vectors])
    wanted = model.classifier(unit * last.shape[-1] ** 0.5)
    torch.testing.assert_close(model(ids, mask).logits, wanted)

    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids, mask).logits, wanted)
    assert again.config.id2label == dict(enumerate(task.labels))


def test_a_probe_is_where_the_slope_of_its_loss_vanishes() -> None:
    """Of the loss in the docstring, worked out for standardised features."""
    draw = np.random.default_rng(0)
    classes = np.array([0] * 30 + [1] * 10 + [2] * 5)
    features = draw.normal(size=(45, 4)) + 2 * np.eye(3, 4)[classes] + 7
    weight, bias = probe(features, classes, 3, penalty=0.1)
    scale, middle = features.std(0), features.mean(0)
    own = weight * scale
    shares = softmax(features @ weight.T + bias, axis=1)
    each = (45 / (3 * np.bincount(classes)))[classes] / 45  # a class counts a third, however many rows it has
    off = each[:, None] * (shares - np.eye(3)[classes])
    np.testing.assert_allclose(off.T @ ((features - middle) / scale) + 0.1 * own, 0, atol=1e-4)
    np.testing.assert_allclose(off.sum(0), 0, atol=1e-4)


def test_a_class_without_a_row_is_never_the_answer() -> None:
    features, classes = np.eye(2).repeat(5, 0), np.array([0] * 5 + [2] * 5)
    weight, bias = probe(features, classes, 3, penalty=1e-3)
    assert (np.argmax(features @ weight.T + bias, axis=1) == classes).all()
