"""Encoder-decoders from scratch: shape, vocabulary, first weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import OmegaConf

from distilingua.errors import UserError
from distilingua.locations import conf_folder
from distilingua.models.seq2seq import Seq2Seq
from distilingua.models.vocabulary import SPECIAL, train_writing_tokenizer
from distilingua.tasks.translation import Translation
from tests.conftest import Compose

ROWS = Dataset.from_dict({"text": ["set the timer to 47 minutes"] * 3, "label": ["Timer auf 47 Minuten", "", ""]})
SMALL = Seq2Seq(2, 32, 2, 64, vocabulary=120, positions=64, decoder_layers=1)


def test_the_vocabulary_is_that_of_texts_and_visible_translations(tmp_path: Path) -> None:
    tokenizer = SMALL.tokenizer(ROWS, tmp_path)
    for text in ("set the timer to 47 minutes", "Timer auf 47 Minuten"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    hidden = ROWS.remove_columns("label").add_column("label", [""] * 3)
    assert tokenizer.unk_token_id in SMALL.tokenizer(hidden, tmp_path)("Minuten auf")["input_ids"]


def test_digits_stand_alone_and_frequent_words_stay_whole() -> None:
    tokenizer = train_writing_tokenizer(["the timer to 47", "the timer to 12"] * 5, 60)
    assert tokenizer.tokenize("the timer to 4712") == ["▁the", "▁timer", "▁to", "▁", "4", "7", "1", "2"]
    assert tokenizer.convert_ids_to_tokens(range(len(SPECIAL))) == SPECIAL
    assert tokenizer("the")["input_ids"] == [*tokenizer.convert_tokens_to_ids(["▁the"]), tokenizer.eos_token_id]


@pytest.mark.parametrize("architecture", ["m2m_100", "marian", "bart", "mbart", "pegasus"])
def test_shapes_and_first_weights(architecture: str, tmp_path: Path) -> None:
    student = Seq2Seq(2, 32, 2, 64, vocabulary=120, positions=64, decoder_layers=1, architecture=architecture)
    tokenizer = student.tokenizer(ROWS, tmp_path)
    torch.manual_seed(0)
    model = student.model(Translation(), tokenizer)
    assert (model.config.model_type, model.config.is_encoder_decoder) == (architecture, True)
    assert (len(model.get_encoder().layers), len(model.get_decoder().layers)) == (2, 1)
    table = model.get_input_embeddings().weight
    assert table.shape == (len(tokenizer), 32)
    assert float(table[len(SPECIAL) :].std()) == pytest.approx(32**-0.5, rel=0.1)
    assert model.get_output_embeddings().weight is table  # one vocabulary for both sides
    torch.manual_seed(0)
    again = student.model(Translation(), tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_longer_texts_than_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task.max_length=65 is more than the student's 64 positions"):
        SMALL.model(Translation(max_length=65), SMALL.tokenizer(ROWS, tmp_path))


def test_the_size_that_the_configuration_states(compose_run: Compose, tmp_path: Path) -> None:
    cfg = compose_run("student=seq2seq_tiny", "task=translation")
    tokenizer = instantiate(cfg.student).tokenizer(ROWS, tmp_path)
    model = instantiate(cfg.student).model(instantiate(cfg.task), tokenizer)
    missing = (cfg.student.vocabulary - len(tokenizer)) * cfg.student.hidden_size
    millions = (sum(p.numel() for p in model.parameters()) + missing) / 1e6
    assert f"{millions:.2f} M weights" in (conf_folder() / "student" / "seq2seq_tiny.yaml").read_text()


def test_the_teacher_has_the_student_s_vocabulary(compose_run: Compose, tmp_path: Path) -> None:
    cfg = compose_run("experiment=translation", "student.vocabulary=77")
    OmegaConf.resolve(cfg)
    source = instantiate(cfg.teacher, _convert_="all")
    assert source.languages == ["en"]
    own, other = (kind.tokenizer(ROWS, tmp_path).get_vocab() for kind in (instantiate(cfg.student), source.scratch))
    assert own == other
