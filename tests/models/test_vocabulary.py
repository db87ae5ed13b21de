"""The student's own tokenizer."""

from __future__ import annotations

import subprocess
import sys

from distilingua.models.vocabulary import SPECIAL, train_tokenizer

TRAIN = """
import hashlib
from distilingua.corpora.smart_home import SmartHome
from distilingua.models.vocabulary import train_tokenizer
texts = SmartHome(sentences=2).load(["en", "de"])["text"][:]
print(hashlib.sha256(train_tokenizer(texts, 1500).backend_tokenizer.to_str().encode()).hexdigest())
"""


def test_every_process_learns_the_same_pieces() -> None:
    found = {subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True).stdout for _ in range(3)}
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


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
