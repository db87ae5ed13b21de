"""The student's own tokenizer."""

from __future__ import annotations

import os
import subprocess
import sys

from distilingua.corpora.smart_home import SmartHome
from distilingua.models.vocabulary import SPECIAL, train_tokenizer, without_spaces

TRAIN = """
import sys
from distilingua.models.vocabulary import train_tokenizer
print(ascii(train_tokenizer(sys.stdin.read().split("\\n"), 1500).backend_tokenizer.to_str()))
"""


def test_every_process_learns_the_same_pieces() -> None:
    texts = SmartHome(sentences=2).load(["en", "de"])["text"][:]
    here = ascii(train_tokenizer(texts, 1500).backend_tokenizer.to_str())
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONUTF8": "1"}
        told = subprocess.run(
            [sys.executable, "-c", TRAIN],
            env=environment,
            input="\n".join(texts),
            capture_output=True,
            encoding="utf-8",
        )
        assert told.stdout.strip() == here


def test_special_pieces_come_first_and_frame_every_text() -> None:
    tokenizer = train_tokenizer(["turn on the lamp", "schalte die Lampe an", "打开灯"] * 5, 60)
    assert tokenizer.convert_ids_to_tokens(range(len(SPECIAL))) == SPECIAL
    ids = tokenizer("the lamp")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    pair = tokenizer("the lamp", "die Lampe")["input_ids"]
    assert pair.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the lamp"


def test_case_carries_no_meaning_unless_it_should() -> None:
    texts = ["Turn on the Lamp", "turn off the lamp"] * 5
    assert train_tokenizer(texts, 60).tokenize("LAMP") == train_tokenizer(texts, 60).tokenize("lamp")
    cased = train_tokenizer(texts, 60, lowercase=False)
    assert cased.tokenize("Lamp") != cased.tokenize("lamp")


def test_where_words_are_tagged_no_token_is_a_space() -> None:
    """What reads tags word by word, such as transformers' pipeline, would take a lone space for a word."""
    texts = ["lives in Paris .", "Ann saw Zoë ( in Oslo )", "quite often , said Ben"]
    plain = train_tokenizer(texts, 60)
    own = without_spaces(plain, 60)
    assert any("▁" in plain.tokenize(text) for text in texts)
    assert len(own) <= 60
    for text in [*texts, "vive en Oslo", "(so) 'tis"]:
        assert "▁" not in own.tokenize(text)
        read = own(text, return_offsets_mapping=True, add_special_tokens=False)
        assert all(text[start:end].strip() for start, end in read["offset_mapping"])
        known = own.unk_token_id not in read["input_ids"]
        assert own.decode(read["input_ids"]).strip() == text.lower() or not known
    assert own.convert_tokens_to_ids(["<pad>", "<s>"]) == plain.convert_tokens_to_ids(["<pad>", "<s>"])
