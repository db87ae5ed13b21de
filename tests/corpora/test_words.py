"""Words and tags, by hand."""

from __future__ import annotations

import json

import pytest

from distilingua.corpora.words import aligned, broken, entities, overlap, tagged, tags_of, words_of


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in words_of(text)]


def test_words_are_runs_without_spaces_and_characters_of_unspaced_scripts() -> None:
    assert words(" mach das  Licht, an ") == ["mach", "das", "Licht,", "an"]
    assert words("打开TV 吧") == ["打", "开", "TV", "吧"]
    assert words("") == []


def test_a_word_belongs_to_a_stretch_that_it_shares_a_character_with() -> None:
    assert overlap(words_of("um 20% heller"), 3, 5) == [1]
    assert overlap(words_of("um 20% heller"), 2, 3) == []  # the space between


def test_tags_of_stretches() -> None:
    text = "mach Lampe links im Bad an"
    assert tags_of(text, [(5, 16, "name"), (20, 23, "area")]) == "O B-name I-name O B-area O"
    assert tags_of("打开客厅灯", [(2, 4, "area")]) == "O O B-area I-area O"
    assert tags_of("Badlicht an", [(0, 3, "area"), (3, 8, "name")]) == "B-area O"  # one word, one tag


def test_tokens_of_several_words_go_on_with_what_they_began() -> None:
    assert tagged(["the", "New York", "x"], ["O", "B-LOC", "O"]) == ("the New York x", "O B-LOC I-LOC O")
    assert tagged(["去", "北京"], ["O", "B-LOC"]) == ("去 北京", "O B-LOC I-LOC")
    assert tagged(["the", "lamp"], ["O"]) == ("the lamp", "O")  # for `problem` to name
    assert tagged(["the", "lamp"], []) == ("the lamp", "")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("O I-PER", "tag 2 is 'I-PER' after 'O'"),
        ("I-PER", "tag 1 is 'I-PER' after 'O'"),
        ("B-PER I-LOC", "tag 2 is 'I-LOC' after 'B-PER'"),
        ("O PER", "tag 2 is 'PER', and BIO tags are O, B-NAME and I-NAME"),
    ],
)
def test_tags_that_do_not_chain_are_named(tags: str, message: str) -> None:
    assert message in str(broken(tags.split()))


def test_tags_that_chain() -> None:
    assert broken(["B-PER", "I-PER", "B-PER", "O", "B-LOC"]) is None


def test_entities_as_seqeval_reads_them() -> None:
    """Nakayama (2018), seqeval's default: an I that continues nothing begins a stretch of its own."""
    found = list(entities(["B-PER", "I-PER", "B-PER", "O", "I-LOC", "I-LOC", "I-PER", "O", "B-X"]))
    assert found == [(0, 2, "PER"), (2, 3, "PER"), (4, 6, "LOC"), (6, 7, "PER"), (8, 9, "X")]
    assert list(entities([])) == []


def test_equal_values_are_matched_in_order() -> None:
    read = json.dumps([["12", 0, 2], ["kitchen", 5, 9], ["12", 10, 12]])
    row = json.dumps([["kitchen", 0, 5], [12, 6, 8], ["12", 9, 11], ["12", 12, 14]])
    assert aligned(read, row) == [((5, 9), (0, 5)), ((0, 2), (6, 8)), ((10, 12), (9, 11)), (None, (12, 14))]
    assert aligned("", "") == []
