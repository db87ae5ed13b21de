"""Two tokenizers on one text: spans, pieces in common, and a teacher's answer carried over."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distilingua.columns import Ragged
from distilingua.models.vocabulary import train_writing_tokenizer
from distilingua.tasks.alignment import Alignment, carried, pieces_in_common, plain, spans, written
from tests.models.conftest import PAIR, TOKENIZERS, byte_bpe

SENTENCES = ["bitte prüfe Licht im Stock 42", "jetzt Lampe Nummer 7", "Regen in Zimmer 3"]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        # Lich|t|an|e and Licht|a|ne, of which the last ends the text without a letter
        (
            [(0, "lich"), (1, "licht"), (2, "lichtan"), (3, "lichtane"), (4, "lichtane")],
            [(1, "licht"), (2, "lichta"), (3, "lichtane"), (4, "lichtane")],
            [([0, 1], [1]), ([2, 3], [2, 3]), ([4], [4])],
        ),
        # one is cut off, or spells another letter: from there on nothing is aligned
        ([(0, "ab"), (1, "abc"), (2, "abc")], [(0, "ab"), (1, "abx"), (2, "abxd")], [([0], [0])]),
        # one writes a character in three parts and the other in two, of which nobody knows what each is
        (
            [(0, "a"), (1, "a\ufffd"), (2, "a\ufffd"), (3, "a日"), (4, "a日b")],
            [(0, "a"), (1, "a\ufffd"), (2, "a日"), (3, "a日b")],
            [([0], [0]), ([1, 2, 3, 4], [1, 2, 3])],
        ),
    ],
)
def test_spans_end_where_both_have_written_the_same(ours: Any, theirs: Any, expected: Any) -> None:
    assert spans(ours, theirs) == expected


def test_what_tokenizers_differ_in_is_no_difference() -> None:
    assert plain("▁Prüfe das\tLicht") == plain("pru\u0308fe dasLICHT") == "prufedaslicht"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_whatever_the_tokenizers_a_whole_text_is_aligned(kind: str) -> None:
    ours, theirs = train_writing_tokenizer(PAIR, 90), TOKENIZERS[kind]()
    both = 0
    for text in SENTENCES:
        own, other = ours(text_target=text)["input_ids"], theirs(text_target=text)["input_ids"]
        found = spans(written(own, ours), written(other, theirs))
        assert [n for steps, _ in found for n in steps] == list(range(len(own)))
        begins = {theirs.bos_token_id}  # which writes nothing
        assert [n for _, steps in found for n in steps] == [n for n, piece in enumerate(other) if piece not in begins]
        for steps, their_steps in found[:-1]:
            said, heard = ours.decode([own[n] for n in steps]), theirs.decode([other[n] for n in their_steps])
            assert plain(said) == plain(heard)
            both += len(steps) > 1 or len(their_steps) > 1
    assert both


def test_nothing_is_aligned_from_an_unknown_piece_on() -> None:
    tokenizer = train_writing_tokenizer(PAIR, 90)
    pieces = tokenizer("Licht 日 in Zimmer")["input_ids"]
    first = pieces.index(tokenizer.unk_token_id)
    assert [n for n, _ in written(pieces, tokenizer)] == list(range(first))


def test_pieces_in_common_are_spelt_the_same_and_the_end_is_one() -> None:
    ours, theirs = train_writing_tokenizer(PAIR, 90), byte_bpe()
    found = pieces_in_common(ours, theirs)
    assert int(found[ours.eos_token_id]) == theirs.eos_token_id
    assert int(found[ours.pad_token_id]) == int(found[ours.unk_token_id]) == -1
    words = 0
    for piece, n in ours.get_vocab().items():
        if found[n] >= 0 and n != ours.eos_token_id:
            assert theirs.convert_ids_to_tokens(int(found[n])).replace("Ġ", "▁") == piece
            words += piece.startswith("▁") and len(piece) > 2
    assert words


class Spelling:
    """Pieces of one or two letters, and an end."""

    unk_token_id, eos_token_id = -7, 0
    all_special_ids = (0,)

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def get_vocab(self) -> dict[str, int]:
        return {piece: n for n, piece in enumerate(self.pieces)}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(self.pieces[n] for n in ids if n)


def test_an_answer_in_the_students_positions_and_classes() -> None:
    """Two rows, of which the teacher has read the second: steps x|yz|end to the student's xy|z|end."""

    ours, theirs = Spelling("</s>", "xy", "z"), Spelling("</s>", "x", "yz", "z")
    alignment = Alignment(ours, theirs)
    batch = alignment(Ragged.of([[2, 0], [1, 2, 0]]), Ragged.of([[], [1, 2, 0]]), [False, True])
    assert batch["classes"].tolist() == [0, -1, 3]
    assert batch["span"].tolist() == [-1, -1, 2, 2, 4]
    assert batch["begins"].tolist() == [-1, -1, 2, -1, 4]
    unread = torch.full((2, 4), torch.nan, dtype=torch.float64)
    answer = torch.tensor([[0.1, 0.5, 0.2, 0.2], [0.1, 0.2, 0.6, 0.1], [0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)
    found, shared = carried(torch.cat([unread, answer.log()]), batch, width=4)  # one class that no piece has
    assert shared.tolist() == [True, False, True, False, False]
    # the end, xy, z, nothing, then what is beside the span, then the teacher's x and yz
    expected = [[0.06, 0, 0.12, 0, 0.4, 0.3, 0.12], [0.7, 0, 0.1, 0, 0, 0.1, 0.1]]
    torch.testing.assert_close(found[[2, 4]].exp(), torch.tensor(expected, dtype=torch.float64))
    assert found[[0, 1, 3]].isnan().all()


def test_a_row_that_nobody_reads_along_may_be_of_pieces_beyond_the_teacher_s() -> None:
    alignment = Alignment(Spelling("</s>", *"abcd"), Spelling("</s>", "a"))
    batch = alignment(Ragged.of([[4, 0]]), Ragged.of([[]]), [False])
    found, shared = carried(torch.full((2, 2), torch.nan), batch, width=5)
    assert found.isnan().all()
    assert shared.tolist() == [True, True, False, False, False, False]
