"""Calibration against figures that can be worked out, and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distilingua.statistics.calibration import calibration_error, coverage, fit_temperature


def test_calibration_error_by_hand() -> None:
    """Half of the rows at 0.9 of which 0.5 are right, half at 0.6 of which all are: 0.5 · 0.4 + 0.5 · 0.4."""
    probabilities = [0.9] * 4 + [0.6] * 4
    right = [True, True, False, False] + [True] * 4
    assert calibration_error(probabilities, right) == pytest.approx(0.4, abs=1e-6)
    assert calibration_error([1.0, 1.0], [True, True]) == pytest.approx(0, abs=1e-6)


def test_the_temperature_of_logits_that_were_multiplied_is_the_factor() -> None:
    torch.manual_seed(0)
    honest = torch.randn(20_000, 5)
    labels = torch.distributions.Categorical(logits=honest).sample()
    assert fit_temperature(3 * honest, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(honest, labels) == pytest.approx(1, rel=0.05)
    hidden = torch.where(torch.arange(len(labels)) % 2 == 0, labels, -100)
    assert fit_temperature(3 * honest, hidden) == pytest.approx(3, rel=0.05)
    yes = torch.bernoulli(honest.sigmoid()).long()
    assert fit_temperature(2 * honest, yes) == pytest.approx(2, rel=0.05)


def test_coverage_by_hand() -> None:
    assert coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, True], precision=0.75) == 1.0
    assert coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, True], precision=0.9) == 0.5
    assert coverage([0.9, 0.9], [False, True], precision=0.6) == 0.0
    assert coverage([0.5, 0.5, 0.4], [True, False, True], precision=0.95) == 0.0  # equals go together
    rng = np.random.default_rng(0)
    sure = rng.random(1000)
    assert coverage(sure, rng.random(1000) < sure) < coverage(sure, np.ones(1000, bool)) == 1.0


def test_a_model_that_is_always_right_is_not_sure_of_everything() -> None:
    """Of 98 answers, all of them right, about one in a hundred is to be doubted."""
    labels = torch.arange(98) % 2
    logits = torch.nn.functional.one_hot(labels, 2).float()
    sure = (logits / fit_temperature(logits, labels)).softmax(-1).amax(-1)
    assert sure.mean() == pytest.approx(1 - 1 / 200, abs=2e-3)
    yes = torch.ones(98, 2)
    sure = (yes / fit_temperature(yes, yes)).sigmoid()
    assert sure.mean() == pytest.approx(1 - 1 / 100, abs=2e-3)
