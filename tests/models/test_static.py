"""The student without layers: its arithmetic, its first vectors, what refuses it, and that numpy alone can run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hydra.utils import instantiate
from transformers import PreTrainedTokenizerFast

from distilingua.checks import check
from distilingua.errors import UserError
from distilingua.locations import conf_folder
from distilingua.models.bag import BagConfig, BagForSequenceClassification
from distilingua.models.loading import load_student
from distilingua.models.source import TeacherSource
from distilingua.models.static import Static, piece_vectors, principal
from distilingua.tasks.text_classification import TextClassification
from tests.benchmarks.static import snippet
from tests.conftest import Compose
from tests.models.conftest import PAIR, Encoder, unigram
from tests.small_jobs import train

SMALL = ("student=static", "student.hidden_size=16", "student.feed_forward=32", "student.vocabulary=200")


def test_a_sentence_is_the_weighted_mean_of_its_pieces() -> None:
    model = BagForSequenceClassification(BagConfig(vocab_size=4, hidden_size=2, feed_forward=2, num_labels=2)).eval()
    with torch.no_grad():
        model.pieces["vectors"].weight.copy_(torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [-3.0, 1.0]]))
        model.pieces["importance"].weight.copy_(torch.tensor([5.0, 0.0, 3.0, 0.0]).log().clamp(min=0)[:, None])
        model.hidden.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        model.hidden.bias.copy_(torch.tensor([0.0, 1.0]))
        model.classifier.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        model.classifier.bias.copy_(torch.tensor([0.5, 0.0]))
    ids, mask = torch.tensor([[1, 2, 0], [1, 2, 3]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    output = model(ids, mask, output_hidden_states=True)
    # (1·[1,0] + 3·[0,1]) / 4 = [.25, .75]; with [-3,1] too (1, 3, 1 of 5): [-.4, .8]
    vectors = torch.tensor([[0.25, 0.75], [-0.4, 0.8]])
    # relu(W₁v + b₁) = [.25, 2.5] and [0, 2.6]
    torch.testing.assert_close(output.logits, torch.tensor([[0.75, 2.75], [0.5, 2.6]]))
    states, counts = output.hidden_states[-1], mask.sum(1, keepdim=True)
    torch.testing.assert_close((states * mask[..., None]).sum(1) / counts, vectors)


def test_it_starts_from_the_teachers_vectors(encoder: Encoder, task: TextClassification) -> None:
    """The vector of the same piece, and the mean of several where the teacher takes one apart."""
    folder = encoder("bert", "wordpiece")
    ours, theirs = unigram(), PreTrainedTokenizerFast.from_pretrained(folder)
    source = TeacherSource(str(folder))
    found, vectors = piece_vectors(ours, source)
    known = load_embedding(folder)
    assert not set(found) & set(ours.all_special_ids)
    apart = 0
    for n, vector in zip(found, vectors, strict=True):
        pieces = theirs.tokenize(ours.decode([n]))
        apart += len(pieces) > 1
        torch.testing.assert_close(vector, known[theirs.convert_tokens_to_ids(pieces)].mean(0))
    assert 0 < apart < len(found)

    model = Static(str(folder), hidden_size=8).model(task, ours)
    start = model.get_input_embeddings().weight.detach()
    directions = principal(vectors, 8)
    torch.testing.assert_close(start[found] / start[found].std(), directions / directions.std())
    assert float(start[found].std()) == pytest.approx(0.02, rel=0.05)


def load_embedding(folder: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]


def test_principal_directions_keep_distances() -> None:
    """Three points on a line in space are as far apart in one dimension."""
    line = torch.tensor([[0.0, 0.0, 1.0], [2.0, 1.0, 3.0], [6.0, 3.0, 7.0]])  # steps of 3 and 6
    (a, b, c) = principal(line, 1)[:, 0]
    torch.testing.assert_close(torch.stack([abs(b - a), abs(c - b)]), torch.tensor([3.0, 6.0]))
    assert principal(line, 5).shape == (3, 3)


def test_a_teacher_that_spells_nothing_leaves_random_vectors(encoder: Encoder, task: TextClassification) -> None:
    from distilingua.models.vocabulary import train_tokenizer

    greek = train_tokenizer(["καλημέρα κόσμε", "φως στην κουζίνα"], 60)
    source = TeacherSource(str(encoder("bert", "wordpiece")))
    assert piece_vectors(greek, source)[0] == []
    assert Static(source.path, hidden_size=8).model(task, greek).get_input_embeddings().weight.isfinite().all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=slots", "student=static"], "student: task=slots needs an AutoModelForTokenClassification"),
        (["experiment=answers", "student=static"], "student: task=answers needs an AutoModelForQuestionAnswering"),
        (["student=static", "student.hidden_size=0"], "student.hidden_size=0: expected a whole number of at least 1"),
        (["student=static", "student.path=./nowhere"], "student.path=./nowhere: no such folder"),
        (["student=static", "teacher=ensemble"], "student.path=FOLDER"),
        (
            ["student=static", "objective=custom", "objective/terms=[hidden,attention,ce]"],
            "attention, hidden compare layers, and this student has none.*embedding.*student=nano",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(compose_run: Compose, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(compose_run(*overrides))


def test_pairs_of_sentences_are_refused(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a man sleeps"], "text_pair": ["nobody is awake"]})
    with pytest.raises(UserError, match=r"cannot tell the two sentences of a pair apart\. Choose student=nano"):
        Static().tokenizer(rows, tmp_path)


def test_the_yaml_states_its_size(compose_run: Compose) -> None:
    cfg = compose_run("student=static", "student.path=null")
    tokenizer = unigram()
    model = instantiate(cfg.student).model(TextClassification().fit_labels([str(n) for n in range(42)]), tokenizer)
    missing = (cfg.student.vocabulary - len(tokenizer)) * (cfg.student.hidden_size + 1)
    stated = (conf_folder() / "student" / "static.yaml").read_text("utf-8").split()[1]
    assert float(stated) == pytest.approx((sum(p.numel() for p in model.parameters()) + missing) / 1e6, abs=0.005)


def answered_by_numpy(folder: Path, texts: list[str]) -> list[str]:
    """By the lines of docs/recipes.md, in a process that must not import torch."""
    lines = "\nimport sys\nprint(json.dumps([answer(json.load(sys.stdin)), 'torch' in sys.modules]))"
    command = [sys.executable, "-c", snippet(folder) + lines]
    told = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True).stdout
    answers, torch_was_there = json.loads(told)
    assert not torch_was_there
    return answers


@pytest.mark.long
def test_it_learns_and_numpy_alone_answers_as_it_does(next_run: Compose) -> None:
    """From a teacher's distributions and its sentence vectors."""
    cfg = next_run(
        "objective=custom", "objective/terms=[kl,ce,embedding,contrastive]", "optimizer.lr=1e-2", student=SMALL
    )
    check(cfg)
    metrics = train(cfg)
    scores = {name: found["languages"]["de"]["accuracy"] for name, found in metrics["models"].items()}
    assert scores["student"] > scores["direct"] + 0.2
    folder = Path(cfg.paths.run) / "student"
    task = TextClassification().fit_labels(["light", "music", "weather"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    texts = [*PAIR[::7], "", "unseen ☃ 日本語"]
    encoded = [row["input_ids"] for row in task.encode({"text": texts, "text_pair": [""] * len(texts)}, tokenizer, "")]
    model = load_student(folder, task)
    with torch.no_grad():
        each = [model(torch.tensor([ids]), torch.ones(1, len(ids))).logits[0].numpy() for ids in encoded]
    assert answered_by_numpy(folder, texts) == [task.labels[int(np.argmax(logits))] for logits in each]


@pytest.mark.long
def test_it_decides_every_class_by_itself(next_run: Compose) -> None:
    options = ["task=labels", "objective=direct", "objective/terms=[bce]", "optimizer.lr=1e-2", "training.epochs=30"]
    cfg = next_run(*options, student=SMALL)
    check(cfg)
    assert train(cfg)["models"]["student"]["languages"]["en"]["f1"] > 0.9
