"""Spelling, decoding, error rates and trust."""

from __future__ import annotations

import pytest
import torch

from distilingua.tasks.metrics import transcript_metrics
from distilingua.tasks.transcripts import (
    best_path,
    characters,
    disagreement,
    drawn_hearings,
    errors,
    normal,
    spelt,
)

NAMES = ["<pad>", " ", "a", "b", "c"]


def logits(path: list[int], sure: float = 9.0) -> torch.Tensor:
    return sure * torch.nn.functional.one_hot(torch.tensor(path), len(NAMES)).float()


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("Turn the lights ON!", "turn the lights on"),
        ("Garage-door, please…", "garage door please"),
        ("  Don’t  stop ", "don't stop"),
        ("'quoted' dogs' bone", "quoted dogs bone"),
        ("Schließ die Tür", "schließ die tür"),
        ("20 % mehr", "20 mehr"),
        ("हिन्दी में", "हिन्दी में"),
        ("—", ""),
    ],
)
def test_normal_spelling(text: str, heard: str) -> None:
    assert normal(text) == heard
    assert normal(heard) == heard


def test_characters_put_the_space_first() -> None:
    assert characters(["Bad", "cab"]) == [" ", "a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([0, 2, 2, 0, 3], "ab"),
        ([2, 0, 2], "aa"),
        ([2, 2, 2], "a"),
        ([1, 2, 1, 1, 0, 1, 3, 1], "a b"),
        ([0, 0], ""),
    ],
)
def test_repetitions_merge_and_blanks_go(path: list[int], text: str) -> None:
    assert spelt(path, NAMES) == text
    assert best_path(logits(path), NAMES) == text


def test_errors_by_hand() -> None:
    found = errors(["a b c", "a"], ["a c", "b"])  # one word missing, one wrong, of four
    assert found["wer"] == pytest.approx(2 / 4)
    assert found["wacc"] == pytest.approx(1 - 2 / 4)
    assert found["cer"] == pytest.approx(3 / 6)  # "b " missing and a for b
    assert errors(["a"], ["b b b"])["wacc"] == 0
    assert errors(["a b"], [""])["wer"] == 1


def test_the_metrics_of_batches_are_those_of_all_rows_together() -> None:
    truth = [[2, 1, 3], [2], [3, 1, 2, 1, 4]]
    heard = [[2, 0, 1, 3], [3, 0], [3, 1, 2]]
    metrics = transcript_metrics(NAMES)
    for rows in ([0, 1], [2]):
        labels = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(truth[i]) for i in rows], batch_first=True, padding_value=-100
        )
        row = torch.repeat_interleave(torch.tensor([len(heard[i]) for i in rows]))
        metrics.update(torch.cat([logits(heard[i]) for i in rows]), labels, row=row)
    texts = (["".join(NAMES[i] for i in t) for t in truth], [spelt(h, NAMES) for h in heard])
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx(errors(*texts))
    assert found["wer"] == pytest.approx(2 / 6)


def test_rows_without_a_label_are_not_judged() -> None:
    metrics = transcript_metrics(NAMES)
    labels = torch.tensor([[2, -100], [-100, -100]])
    metrics.update(logits([2, 0, 3, 3]), labels, row=torch.tensor([0, 0, 1, 1]))
    assert float(metrics.compute()["wer"]) == 0


def test_disagreement_is_the_mean_error_of_the_others() -> None:
    assert disagreement("a b", ["a b", "a c"]) == pytest.approx(0.25)
    assert disagreement("a b", ["a b"]) == 0
    assert disagreement("", [""]) == 1


def test_a_sure_model_agrees_with_itself_and_an_unsure_one_does_not() -> None:
    path = [2, 0, 3, 1, 2, 4, 0, 1, 3]
    sure, unsure = logits(path, 20.0), logits(path, 1.5)
    assert best_path(sure, NAMES) == best_path(unsure, NAMES)
    doubts = [disagreement(spelt(path, NAMES), drawn_hearings(a, NAMES, 8, "row")) for a in (sure, unsure)]
    assert doubts[0] == 0
    assert doubts[1] > 0.3


def test_hearings_are_drawn_from_the_models_distribution_and_the_same_every_time() -> None:
    answer = torch.tensor([[0.0, 0.0, 1.0, 2.0, 0.5]])
    drawn = drawn_hearings(answer, NAMES, 4000, "row")
    share = answer.softmax(-1)[0]
    for i in (2, 3, 4):
        assert drawn.count(NAMES[i]) / 4000 == pytest.approx(float(share[i]), abs=0.03)
    assert drawn == drawn_hearings(answer, NAMES, 4000, "row")
    assert drawn != drawn_hearings(answer, NAMES, 4000, "another")
