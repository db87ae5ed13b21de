"""Whether a model's probabilities mean what they say, and how far it can be trusted alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_calibration_error

BINS = 15
WIDEST = 20.0  # a temperature beyond makes every answer a guess


def calibration_error(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over 15 bins of confidence, weighed by their
    rows (Guo et al. 2017, equation 5); 0 is perfect.

    Args:
        probabilities: what the model gives its answer to each row.
        right: whether that answer is true.
    """
    confidences = torch.tensor(list(probabilities), dtype=torch.float32).clamp(0, 1)
    hits = torch.tensor(list(right), dtype=torch.long)
    return float(binary_calibration_error(confidences, hits, n_bins=BINS, norm="l1"))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The one temperature that makes the labels likeliest (Guo et al. 2017, section 4.2); decisions stay as they are.

    As if one label more were wrong (Platt 1999, section 2.2): a model that has all right is not sure of everything.

    Args:
        logits: (positions, classes).
        labels: class indices, (positions,), below 0 where there is none; or 0 and 1 for every class, (positions,
            classes).
    """
    each = labels.ndim == logits.ndim
    seen = (labels >= 0).all(-1) if each else labels >= 0
    cells, truth = logits[seen].double(), labels[seen]

    doubt = 1 / (len(cells) + 2)

    def loss(log_temperature: float) -> float:
        scaled = cells / np.exp(log_temperature)
        if each:
            return float(F.binary_cross_entropy_with_logits(scaled, truth * (1 - 2 * doubt) + doubt))
        return float(F.cross_entropy(scaled, truth, label_smoothing=doubt))

    bound = float(np.log(WIDEST))
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def coverage(probabilities: Sequence[float], right: Sequence[bool], precision: float = 0.95) -> float:
    """The largest share of rows that a model could answer alone, those it is surest of, with so many of them right
    (selective prediction: El-Yaniv and Wiener 2010); rows of equal confidence go together.

    >>> coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, True], precision=0.75)
    1.0
    """
    sure = np.asarray(probabilities)
    order = np.argsort(-sure, kind="stable")
    hits = np.cumsum(np.asarray(right, dtype=float)[order]) / np.arange(1, len(sure) + 1)
    last_of_equals = np.append(np.diff(sure[order]) != 0, True)
    good = np.nonzero((hits >= precision) & last_of_equals)[0]
    return float(good[-1] + 1) / len(sure) if len(good) else 0.0
