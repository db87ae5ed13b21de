"""A factorised embedding: as good as its rank, saved and loaded like any other weight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedModel,
)

from distilingua.errors import UserError
from distilingua.models.factorise import FactorisedEmbedding, factorise, unfactorise
from distilingua.models.loading import load_student
from distilingua.models.pretrained import Pretrained
from tests.models.conftest import MAKES, PAIR, Bench, Encoder
from tests.models.test_trimming import hidden

IDS = torch.tensor([[2, 7, 5, 9], [2, 8, 3, 1]])


def tiny_bert() -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=40, pad_token_id=1, **MAKES["bert"]))


def test_full_rank_changes_nothing() -> None:
    model = tiny_bert().eval()
    expected = model(IDS).logits
    factorise(model, 16)
    torch.testing.assert_close(model(IDS).logits, expected)
    assert model.config.embedding_rank == 16


def test_the_error_falls_with_the_rank_and_is_the_smallest_there_is() -> None:
    table = tiny_bert().get_input_embeddings().weight.detach()
    left_out = torch.linalg.svdvals(table.double())
    errors = []
    for rank in (1, 4, 8, 12, 15):
        model = tiny_bert()
        factorise(model, rank)
        errors.append(float((model.get_input_embeddings().product - table).norm()))
        assert errors[-1] == pytest.approx(float(left_out[rank:].norm()), rel=1e-5)  # Eckart & Young
    assert errors == sorted(errors, reverse=True)


def test_factors_worked_out_by_hand() -> None:
    thin = FactorisedEmbedding(pieces=3, rank=1, width=2)
    with torch.no_grad():
        thin.narrow.weight.copy_(torch.tensor([[1.0], [2.0], [-1.0]]))
        thin.widen.weight.copy_(torch.tensor([[3.0], [4.0]]))
    assert thin.product.tolist() == [[3, 4], [6, 8], [-3, -4]]
    assert thin(torch.tensor([[1, 2]])).tolist() == [[[6, 8], [-3, -4]]]


@pytest.mark.parametrize("make", MAKES)
def test_a_student_with_every_cut_is_saved_and_loaded(
    make: str, encoder: Encoder, bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "transformers")
    student = Pretrained(str(encoder(make, "byte_bpe")), layers="even:2", trim_vocabulary=True, embedding_rank=4)
    model, tokenizer = bench.made(student)
    assert "LOAD REPORT" in caplog.text  # of the new head: so a warning would be heard
    model(**tokenizer(PAIR[:4], return_tensors="pt", padding=True)).logits.sum().backward()
    assert all(p.grad is not None for p in model.get_input_embeddings().parameters())
    model.save_pretrained(tmp_path / "student")
    assert json.loads((tmp_path / "student" / "config.json").read_text())["embedding_rank"] == 4

    caplog.clear()  # that one is as it should be
    loaded = load_student(tmp_path / "student", bench.task)
    assert not caplog.records
    torch.testing.assert_close(hidden(loaded, tokenizer, PAIR), hidden(model, tokenizer, PAIR), rtol=0, atol=0)

    plain = unfactorise(loaded)
    torch.testing.assert_close(hidden(plain, tokenizer, PAIR), hidden(model, tokenizer, PAIR), rtol=1e-5, atol=1e-5)
    plain.save_pretrained(tmp_path / "plain")
    assert not hasattr(AutoConfig.from_pretrained(tmp_path / "plain"), "embedding_rank")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(hidden(again, tokenizer, PAIR), hidden(plain, tokenizer, PAIR), rtol=0, atol=0)
    assert not caplog.records


def test_a_plain_model_is_left_as_it_is() -> None:
    model = tiny_bert()
    embedding = model.get_input_embeddings()
    assert unfactorise(model).get_input_embeddings() is embedding


def test_a_shared_embedding_is_refused() -> None:
    model = AutoModelForMaskedLM.from_config(BertConfig(vocab_size=40, **MAKES["bert"]))
    with pytest.raises(UserError, match=r"BertForMaskedLM uses the same weights for its output.*embedding_rank=null"):
        factorise(model, 4)


@pytest.mark.parametrize("rank", [0, 17])
def test_ranks_that_do_not_exist_are_refused(rank: int) -> None:
    with pytest.raises(UserError, match=rf"embedding_rank={rank} is outside 1 … 16: .* 40 pieces of width 16. Try 4"):
        factorise(tiny_bert(), rank)


def test_an_embedding_is_factorised_once() -> None:
    model = tiny_bert()
    factorise(model, 4)
    with pytest.raises(UserError, match="is a FactorisedEmbedding, expected a plain Embedding"):
        factorise(model, 2)
