"""Each rule on text as it is found in the wild."""

from __future__ import annotations

import pytest
from datasets import Dataset

from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.cleaning import Cleaning, CleaningReport
from tests.conftest import cleaned

Row = tuple[str, str, str]  # language, split, text
OFF = Cleaning(repair=False, markup=False, url=None)


def rows(*found: Row) -> Dataset:
    return dataset_from_rows(
        {"id": f"{lang}-{split}-{n}", "lang": lang, "split": split, "text": text, "label": "x"}
        for n, (lang, split, text) in enumerate(found)
    )


def kept(cleaning: Cleaning, *found: Row) -> list[Row]:
    clean = cleaned(rows(*found), cleaning)[0]
    return list(zip(clean["lang"][:], clean["split"][:], clean["text"][:], strict=True))


# --- the text of a row ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("fÃ¼r die KÃ¼che", "für die Küche"),  # UTF-8 read as Latin-1
        ("c’est dÃ©jÃ\xa0 fait", "c'est déjà fait"),
        ("Ð²ÐºÐ»ÑŽÑ‡Ð¸ Ñ\x81Ð²ÐµÑ‚", "включи свет"),
        ("Zażółć gęślą jaźń", "Zażółć gęślą jaźń"),  # nothing to mend
        ("打开客厅的灯", "打开客厅的灯"),
    ],
)
def test_mojibake(broken: str, mended: str) -> None:
    assert Cleaning().text(broken) == mended


@pytest.mark.parametrize(
    ("text", "unified"),
    [
        ("２１度", "21度"),  # full-width digits, common in Chinese and Japanese
        ("ﬁnd the ﬂoor", "find the floor"),  # ligatures of a PDF
        ("カﾞﾚｰｼﾞ", "ガレージ"),  # half-width katakana
        ("21 ℃ in 30 ㎡", "21 °C in 30 m2"),
        ("Ku\u0308che", "Küche"),  # a letter and a combining mark
        ("20\u202f%", "20 %"),  # narrow no-break space, as French sets it
    ],
)
def test_compatible_characters_become_one(text: str, unified: str) -> None:
    assert Cleaning().text(text) == unified


def test_repair_can_be_turned_off() -> None:
    assert Cleaning(repair=False).text("fÃ¼r ２１") == "fÃ¼r ２１"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Great<br />product", "Great product"),
        ('<p class="review">Sehr <b>gut</b>!</p>', "Sehr gut !"),
        ("<!-- hidden -->seen", "seen"),
        ("I <3 this lamp", "I <3 this lamp"),
        ("brighter if x < y and y > 2", "brighter if x < y and y > 2"),
    ],
)
def test_markup(text: str, plain: str) -> None:
    assert Cleaning().text(text) == plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("caf&eacute;", "café"),
        ("it&#39;s &quot;on&quot;", 'it\'s "on"'),
        ("5&nbsp;%", "5 %"),
        ("&lt;b&gt; is a tag", "<b> is a tag"),  # escaped by its writer: text, not markup
    ],
)
def test_entities(text: str, plain: str) -> None:
    assert Cleaning().text(text) == plain


def test_markup_can_be_turned_off() -> None:
    assert OFF.text("a <b>&amp;</b>") == "a <b>&amp;</b>"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("see https://example.org/a?b=c&d=1#e for more", "see <url> for more"),
        ("http://example.org", "<url>"),
        ("www.example.org is down", "<url> is down"),
        ("详情请看https://example.cn/x谢谢", "详情请看<url>谢谢"),  # no space ends a URL in Chinese
        ("the http protocol", "the http protocol"),
    ],
)
def test_urls(text: str, plain: str) -> None:
    assert Cleaning().text(text) == plain


def test_what_a_url_becomes_is_a_choice() -> None:
    assert Cleaning(url="").text("see https://a.org now") == "see now"
    assert Cleaning(url=None).text("see https://a.org now") == "see https://a.org now"


@pytest.mark.parametrize("control", ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\ue000", "\ud800"])
def test_control_private_and_surrogate_characters_go(control: str) -> None:
    assert OFF.text(f"a{control}b") == "a b"


@pytest.mark.parametrize(
    "text",
    [
        "അവന്\u200dറെ",  # Malayalam, joiner
        "می\u200cخواهم",  # Persian, non-joiner
        "क्\u200dष",  # Devanagari, joiner
        "👩\u200d👧 home",  # a family, one emoji
    ],
)
def test_zero_width_joiners_stay(text: str) -> None:
    assert Cleaning().text(text) == text


def test_whitespace() -> None:
    assert OFF.text("  a\t b\r\n\u00a0c\u2003d\u3000e  ") == "a b c d e"


def test_rules_follow_each_other() -> None:
    raw = " <p>FÃ¼r&nbsp;mehr:\x00 https://a.org/ｘ </p>\n"
    assert Cleaning().text(raw) == "Für mehr: <url>"


def test_cleaning_a_clean_corpus_changes_nothing() -> None:
    clean, _ = cleaned(rows(("en", "train", "Turn <b>on</b> caf&eacute;"), ("de", "train", "fÃ¼r die Ｋüche")))
    again, report = cleaned(clean)
    assert again.to_list() == clean.to_list()
    assert report.dropped == {}


def test_both_sentences_of_a_pair_are_cleaned() -> None:
    pairs = dataset_from_rows([{"id": "1", "lang": "en", "split": "train", "text": "a<br>b", "text_pair": "c &amp; d"}])
    clean, _ = cleaned(pairs)
    assert [(row["text"], row["text_pair"]) for row in clean] == [("a b", "c & d")]


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_lengths_are_inclusive_and_count_the_clean_text() -> None:
    cleaning = Cleaning(min_characters=3, max_characters=5)
    found = [("en", "train", text) for text in ("ab", "abc", "abcde", "abcdef", "<b>", " xy  ", "<i>fghij</i>")]
    clean, report = cleaned(rows(*found), cleaning)
    assert clean["text"][:] == ["abc", "abcde", "fghij"]
    assert report.dropped == {"en": {"too_short": 2, "too_long": 1, "empty": 1}}


def test_the_length_of_a_pair_is_that_of_both_sentences() -> None:
    def pair(n: int, first: str, second: str) -> dict[str, str]:
        return {"id": str(n), "lang": "en", "split": "train", "text": first, "text_pair": second}

    pairs = dataset_from_rows([pair(0, "abc", "def"), pair(1, "abc", "defg"), pair(2, "a", "b")])
    clean, report = cleaned(pairs, Cleaning(min_characters=3, max_characters=6))
    assert clean["id"][:] == ["0"]
    assert report.dropped == {"en": {"too_long": 1, "too_short": 1}}


@pytest.mark.parametrize("text", ["", "   ", "\x00", "<br/>", "&nbsp;"])
def test_text_that_cleaning_empties_is_dropped(text: str) -> None:
    clean, report = cleaned(rows(("en", "train", text), ("en", "train", "word")), Cleaning(duplicates=False))
    assert clean["text"][:] == ["word"]
    assert report.dropped == {"en": {"empty": 1}}


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_the_first_of_two_equal_rows_stays() -> None:
    clean, report = cleaned(rows(("en", "train", "Lights ON"), ("en", "train", "other"), ("en", "train", "lights on")))
    assert clean["id"][:] == ["en-train-0", "en-train-1"]
    assert report.dropped == {"en": {"duplicate": 1}}


def test_case_is_folded_as_unicode_does() -> None:
    assert kept(Cleaning(), ("de", "train", "Straße"), ("de", "train", "STRASSE")) == [("de", "train", "Straße")]


def test_texts_are_compared_after_cleaning() -> None:
    found = kept(Cleaning(), ("en", "train", "a <b>lamp</b>"), ("en", "train", "a  lamp"), ("en", "train", "ａ lamp"))
    assert found == [("en", "train", "a lamp")]


@pytest.mark.parametrize("held_out", ["test", "dev"])
@pytest.mark.parametrize("trained", ["train", "parallel"])
def test_a_held_out_text_is_never_trained_on(held_out: str, trained: str) -> None:
    """Wherever it stands: training rows come first in most corpora."""
    clean, report = cleaned(rows(("en", trained, "Stop"), ("en", held_out, "stop"), ("en", trained, "go")))
    assert clean["id"][:] == [f"en-{held_out}-1", f"en-{trained}-2"]
    assert report.dropped == {"en": {"in_test_or_dev": 1}}


@pytest.mark.parametrize("trained", ["train", "parallel"])
def test_not_even_in_another_language(trained: str) -> None:
    """The earlier language keeps the text, whether it is the one that trains on it or the one that is judged by it."""
    clean, report = cleaned(rows(("en", trained, "Stop"), ("de", "test", "stop"), ("de", "test", "halt")))
    assert clean["id"][:] == [f"en-{trained}-0", "de-test-2"]
    assert report.dropped == {"de": {"in_training": 1}}
    clean, report = cleaned(rows(("en", "test", "Stop"), ("de", trained, "stop")))
    assert clean["id"][:] == ["en-test-0"]
    assert report.dropped == {"de": {"in_test_or_dev": 1}}


def test_the_source_does_not_depend_on_the_targets() -> None:
    """Which is why one teacher serves every pair."""
    english = [("en", "train", "stop"), ("en", "test", "go"), ("en", "parallel", "halt"), ("en", "train", "go")]
    alone = kept(Cleaning(), *english)
    with_german = kept(Cleaning(), *english, ("de", "test", "stop"), ("de", "train", "halt"), ("de", "dev", "los"))
    assert with_german[: len(alone)] == alone


def test_test_goes_before_dev() -> None:
    assert kept(Cleaning(), ("en", "dev", "stop"), ("en", "test", "stop")) == [("en", "test", "stop")]


def test_two_languages_may_share_a_test_text() -> None:
    """Else the score of one would be taken on fewer rows because of the other."""
    found = [("de", "test", "Timer stop"), ("nl", "test", "timer stop"), ("nl", "dev", "alarm"), ("de", "dev", "Alarm")]
    assert kept(Cleaning(), *found) == found


def test_training_text_is_unique_across_languages() -> None:
    found = kept(Cleaning(), ("en", "train", "radio"), ("de", "train", "Radio"), ("de", "parallel", "RADIO"))
    assert found == [("en", "train", "radio")]


def test_parallel_never_repeats_a_labelled_text() -> None:
    """A row read for its soft label must not be one whose label was seen, even when it stands first."""
    clean, report = cleaned(rows(("en", "parallel", "radio on"), ("en", "train", "Radio on"), ("en", "parallel", "tv")))
    assert clean["id"][:] == ["en-train-1", "en-parallel-2"]
    assert report.dropped == {"en": {"duplicate": 1}}


def test_pairs_are_duplicates_only_as_a_whole() -> None:
    def pair(n: int, split: str, first: str, second: str) -> dict[str, str]:
        return {"id": str(n), "lang": "en", "split": split, "text": first, "text_pair": second}

    pairs = [
        pair(0, "train", "It rains", "Wet"),
        pair(1, "train", "it rains", "dry"),
        pair(2, "test", "it rains", "wet"),
    ]
    clean, _ = cleaned(dataset_from_rows(pairs))
    assert clean["id"][:] == ["1", "2"]


def test_duplicates_can_be_kept() -> None:
    found = [("en", "train", "stop"), ("en", "train", "stop"), ("en", "test", "stop")]
    assert kept(Cleaning(duplicates=False), *found) == found


def test_a_row_that_is_dropped_for_its_length_hides_no_other() -> None:
    found = kept(Cleaning(max_characters=4), ("en", "test", "straße"), ("en", "train", "stop"), ("en", "test", "halts"))
    assert found == [("en", "train", "stop")]


def test_rows_keep_their_order_and_their_other_columns() -> None:
    source = rows(("de", "train", "b"), ("en", "test", "a"), ("en", "parallel", "c"), ("de", "dev", "d"))
    clean, _ = cleaned(source)
    assert clean.to_list() == source.to_list()


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_counts_per_language_and_rule() -> None:
    _, report = Cleaning(min_characters=2)(
        rows(
            ("en", "train", "stop"),
            ("en", "train", "Stop"),
            ("en", "train", "STOP"),
            ("en", "train", "a"),
            ("en", "test", "go on"),
            ("de", "train", "go on"),
            ("de", "train", "<br>"),
            ("fr", "train", "bonjour"),
        )
    )
    assert report.seen == {"en": 5, "de": 2, "fr": 1}
    assert report.dropped == {"en": {"duplicate": 2, "too_short": 1}, "de": {"in_test_or_dev": 1, "empty": 1}}
    english, german, french = str(report).split("; ")
    assert english.startswith("en: 5 rows, dropped ")
    assert {"duplicate 2", "too_short 1"} == set(english.removeprefix("en: 5 rows, dropped ").split(", "))
    assert {"in_test_or_dev 1", "empty 1"} == set(german.removeprefix("de: 2 rows, dropped ").split(", "))
    assert french == "fr: 1 rows, dropped nothing"


def test_what_decides_is_told_with_its_key() -> None:
    several = [("angry", "the lamp"), ("late", "The lamp"), ("late ", "the lamp came late"), ("late", "x" * 30)]
    again = [("late", "the lamp came late")]  # the same label, but for a space
    _, report = Cleaning(max_characters=20)(
        dataset_from_rows(
            {"id": str(n), "lang": "en", "split": "train", "text": text, "label": label}
            for n, (label, text) in enumerate([*several, *again])
        )
    )
    length, labels = report.notes
    assert length == "1 rows are too long and left out: cleaning.max_characters=20."
    assert labels.startswith("1 rows have a text that an earlier row has with another label")


def test_report_of_nothing_dropped() -> None:
    assert str(CleaningReport({"en": 3}, {})) == "en: 3 rows, dropped nothing"
