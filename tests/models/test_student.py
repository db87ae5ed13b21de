"""Where students come from: layers of another model, their length limits, their origin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AlbertConfig, AutoModelForSequenceClassification, AutoTokenizer

from distilingua.errors import UserError
from distilingua.models.depth import chosen_layers, layer_list
from distilingua.models.loading import load_student
from distilingua.models.pretrained import Pretrained
from distilingua.models.scratch import Scratch
from distilingua.tasks.text_classification import TextClassification
from tests.models.conftest import BERT, MAKES, PAIR, Bench, Encoder, configure
from tests.models.test_trimming import hidden


@pytest.mark.parametrize(
    ("layers", "total", "expected"),
    [
        (None, 3, [0, 1, 2]),
        ([2, 0], 3, [2, 0]),
        ("first:3", 6, [0, 1, 2]),
        ("last:3", 6, [3, 4, 5]),
        ("even:3", 7, [0, 3, 6]),
        ("even:4", 12, [0, 4, 7, 11]),
        ("even:1", 6, [0]),
        ("even:6", 6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_chosen_layers(layers: str | list[int] | None, total: int, expected: list[int]) -> None:
    assert chosen_layers(layers, total) == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("every:2", r"student.layers=every:2: expected null, a list like \[0,3,5\], or first:N.*even:3"),
        ("first:0", "student.layers=first:0: expected null"),
        ("even:9", "student.layers=even:9: there are 6 layers. Type student.layers=even:6"),
        ([0, 6], r"student.layers=\[0, 6\]: expected numbers of layers from 0 to 5. Type student.layers=\[0,5\]"),
        ([-1], r"student.layers=\[-1\]: expected numbers"),
        ([], r"student.layers=\[\]: expected numbers"),
    ],
)
def test_layers_that_cannot_be_chosen(layers: str | list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen_layers(layers, 6)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("layers", [[0, 2], [0, 3, 3], [2, 3]])
def test_layers_are_copied_and_load_again(
    make: str, layers: Sequence[int], encoder: Encoder, bench: Bench, tmp_path: Path
) -> None:
    folder = str(encoder(make, "byte_bpe"))
    part = Pretrained(folder, layers=layers)
    part.check(bench.task.max_length)
    (large, _), (small, tokenizer) = bench.made(Pretrained(folder)), bench.made(part)
    assert small.config.num_hidden_layers == len(layers)
    place = str(layer_list(large))
    kept, given = small.get_submodule(place), large.get_submodule(place)
    for new, old in enumerate(layers):
        weights = given[old].state_dict()
        for name, weight in kept[new].state_dict().items():
            torch.testing.assert_close(weight, weights[name], rtol=0, atol=0)
    if make == "modernbert":
        assert small.config.layer_types == [large.config.layer_types[i] for i in layers]

    # taking the others out of the large model gives the same answers, where layers are all alike
    if make != "modernbert" or layers[0] == 0:
        stem, _, name = place.rpartition(".")
        setattr(large.get_submodule(stem), name, torch.nn.ModuleList([given[i] for i in layers]))
        large.config.num_hidden_layers, large.config.use_cache = len(layers), False  # a cache is filed by old numbers
        if make == "modernbert":
            large.config.layer_types = small.config.layer_types
        torch.testing.assert_close(hidden(small, tokenizer, PAIR), hidden(large, tokenizer, PAIR), rtol=0, atol=0)

    small.save_pretrained(tmp_path / "student")
    loaded = load_student(tmp_path / "student", bench.task)
    torch.testing.assert_close(hidden(loaded, tokenizer, PAIR), hidden(small, tokenizer, PAIR), rtol=0, atol=0)


def test_a_model_without_a_list_of_layers_is_refused(
    task: TextClassification, tmp_path: Path, encoder: Encoder
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder("bert", "unigram"))
    config = AlbertConfig(vocab_size=len(tokenizer), embedding_size=8, **BERT)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "albert")
    tokenizer.save_pretrained(tmp_path / "albert")
    with pytest.raises(UserError, match=r"student.layers: AlbertForSequenceClassification has no list of 4 layers"):
        Pretrained(str(tmp_path / "albert"), layers="first:2").model(task, tokenizer)


def test_wrong_configurations_are_found_before_weights_load(encoder: Encoder) -> None:
    folder = encoder("bert", "unigram")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # whole, and without any weight
    for student, length, message in (
        (Pretrained(str(folder), layers="first:5"), 64, "student.layers=first:5: there are 4 layers"),
        (Pretrained(str(folder), embedding_rank=17), 64, "student.embedding_rank=17 is outside 1 … 16"),
        (Pretrained(str(folder)), 65, "task.max_length=65 is more than the student's 64 positions"),
        (Pretrained(str(folder / "nowhere")), 64, "student.path=.*nowhere: no such folder"),
        (Pretrained("package:no_such_package/model"), 64, "student.path=.*'no_such_package' is not installed"),
        (Pretrained("hub/model", layers="best:3"), 64, "student.layers=best:3: expected null"),
        (Scratch(1, 8, 1, 8, positions=32), 33, "task.max_length=33 is more than the student's 32 positions"),
    ):
        with pytest.raises(UserError, match=message):
            student.check(length)
    Pretrained("hub/model", layers="first:3").check(64)
    Pretrained(str(folder)).check(64)


def test_positions_that_a_model_keeps_for_itself_do_not_count(encoder: Encoder, bench: Bench) -> None:
    """XLM-RoBERTa counts from padding + 1: of 66 positions, 64 are for pieces."""
    student = Pretrained(str(encoder("xlm-roberta", "byte_bpe")))
    bench.made(student)
    bench.task.max_length = 65
    with pytest.raises(UserError, match=r"task.max_length=65 is more than the student's 64 positions"):
        bench.made(student)


def test_half_precision_files_are_trained_in_full(encoder: Encoder, bench: Bench) -> None:
    folder = encoder("bert", "unigram")
    AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    model, _ = bench.made(Pretrained(str(folder)))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_decoder_without_padding_gets_some(encoder: Encoder, bench: Bench) -> None:
    folder = encoder("gpt2", "byte_bpe")
    for file in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({k: v for k, v in settings.items() if not k.startswith("pad_token")}))
    model, tokenizer = bench.made(Pretrained(str(folder), trim_vocabulary=True))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.config.pad_token_id


def test_a_factorised_folder_is_no_beginning(encoder: Encoder, task: TextClassification) -> None:
    folder = encoder("bert", "unigram")
    configure(folder, embedding_rank=4)
    with pytest.raises(UserError, match=r"embedding is factorised.*unfactorise"):
        Pretrained(str(folder)).check(task.max_length)


def test_equal_seeds_give_equal_heads(encoder: Encoder, bench: Bench) -> None:
    student = Pretrained(str(encoder("bert", "unigram")), layers="last:2", trim_vocabulary=True, embedding_rank=4)
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(bench.made(student)[0].classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_origins(encoder: Encoder) -> None:
    folder = encoder("bert", "unigram")
    before = Pretrained(str(folder)).origin()
    assert before == Pretrained(str(folder), layers="first:2").origin()
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert Pretrained(str(folder)).origin() != before
    assert Pretrained("hub/model", revision="abc").origin() == ["hub/model", "abc"]
    assert Scratch(1, 8, 1, 8).origin() is None
    assert Scratch(1, 8, 1, 8).prefix == Pretrained("hub/model").prefix == ""


def test_trimmed_tokenizers_are_kept_for_what_made_them(encoder: Encoder, pair_rows: Dataset, tmp_path: Path) -> None:
    folder = str(encoder("bert", "unigram"))

    def kept() -> int:
        return len([path for path in (tmp_path / "cache" / "tokenizers").iterdir() if path.is_dir()])

    for student, rows, expected in (
        (Pretrained(folder, trim_vocabulary=True), pair_rows, 1),
        (Pretrained(folder, trim_vocabulary=True, layers="first:1"), pair_rows, 1),
        (Pretrained(folder, trim_vocabulary=True, prefix="query: "), pair_rows, 2),
        (Pretrained(folder, trim_vocabulary=True), pair_rows.select(range(9)), 3),
    ):
        student.tokenizer(rows, tmp_path / "cache")
        assert kept() == expected


def test_second_texts_count_too(encoder: Encoder, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["lamp"], "text_pair": ["allume musique"]})
    folder = str(encoder("bert", "unigram"))
    whole = Pretrained(folder).tokenizer(rows, tmp_path)
    cut = Pretrained(folder, trim_vocabulary=True).tokenizer(rows, tmp_path)
    assert cut.tokenize("allume musique") == whole.tokenize("allume musique")
