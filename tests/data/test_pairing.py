"""Which labels training may see, and whose text the teacher reads: on a corpus small enough to check by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest
from datasets import Dataset

from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.pairing import PairingReport, pair_rows
from distilingua.data.protocol import PROTOCOLS, Pair
from distilingua.errors import UserError
from tests.conftest import with_names

# id: (language, split, label, group, block). Group k2 is twice in English; "de4" is aligned with nothing, and the only
# English row that "de5" is aligned with is a labelled one.
CORPUS = {
    "en1": ("en", "train", "light", "k0", "b-light"),
    "en2": ("en", "train", "music", "", "b-music"),
    "en3": ("en", "parallel", "light", "k1", "b-light"),
    "en4": ("en", "parallel", "music", "k2", "b-music"),
    "en5": ("en", "parallel", "music", "k2", "b-music"),
    "de1": ("de", "train", "light", "k1", "b-light"),
    "de2": ("de", "parallel", "music", "k2", "b-music"),
    "de3": ("de", "train", "music", "k2", "b-music"),
    "de4": ("de", "train", "weather", "k9", "b-weather"),
    "de5": ("de", "train", "light", "k0", "b-light"),
    "fr1": ("fr", "train", "light", "k1", "b-light"),
    "fr2": ("fr", "train", "music", "", ""),
    "en6": ("en", "dev", "light", "k1", "b-light"),
    "de6": ("de", "test", "light", "k1", "b-light"),
}
SOURCE_LABELS = {"en1": "light", "en2": "music"}


def rows(corpus: dict[str, tuple[str, ...]] | None = None) -> Dataset:
    keys = ("lang", "split", "label", "group", "block")
    return dataset_from_rows(
        {"id": row_id, "text": f"text of {row_id}", **dict(zip(keys, values, strict=True))}
        for row_id, values in (CORPUS if corpus is None else corpus).items()
    )


def paired(
    corpus: Dataset | None = None,
    teacher: list[str] | None = None,
    targets: tuple[str, ...] = ("de", "fr"),
    **rules: Any,
) -> tuple[Dataset, PairingReport]:
    given = rows() if corpus is None else corpus
    found, _, report, _ = pair_rows(given, Pair("en", list(targets), **rules), teacher)
    return Dataset.from_list(with_names(found, given)), report


def labels(found: Dataset) -> dict[str, str]:
    return {row["id"]: row["label"] for row in found if row["label"]}


def reading(found: Dataset) -> dict[str, list[str]]:
    return {row["id"]: row["teacher_rows"] for row in found}


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", [None, ["en"]])
def test_zero_shot_shows_labels_of_the_source_alone(teacher: list[str] | None) -> None:
    found, _ = paired(teacher=teacher)
    assert labels(found) == SOURCE_LABELS


@pytest.mark.parametrize("teacher", [None, ["en"]])
def test_supervised_shows_every_label(teacher: list[str] | None) -> None:
    found, _ = paired(teacher=teacher, protocol="supervised")
    assert labels(found) == {i: v[2] for i, v in CORPUS.items() if v[1] in ("train", "parallel")}


@pytest.mark.parametrize("teacher", [None, ["en"]])
def test_translate_train_shows_the_label_of_the_aligned_source_text(teacher: list[str] | None) -> None:
    found, _ = paired(teacher=teacher, protocol="translate_train")
    aligned = {"de1": "light", "de2": "music", "de3": "music", "fr1": "light"}
    assert {row_id: label for row_id, label in labels(found).items() if row_id in ("de4", "fr2", *aligned)} == aligned
    assert {row_id for row_id in labels(found) if row_id.startswith("en")} == set(SOURCE_LABELS)


def test_translate_train_needs_no_label_of_the_target() -> None:
    corpus = {i: v if v[0] == "en" else (*v[:2], "", *v[3:]) for i, v in CORPUS.items()}
    found, _ = paired(rows(corpus), protocol="translate_train")
    assert labels(found)["de1"] == "light"
    assert labels(found)["de3"] == "music"


def test_translate_train_never_shows_a_label_of_the_target() -> None:
    corpus = {i: v if v[0] == "en" else (*v[:2], "secret", *v[3:]) for i, v in CORPUS.items()}
    found, _ = paired(rows(corpus), protocol="translate_train")
    assert set(labels(found).values()) == {"light", "music"}


@pytest.mark.parametrize(("shots", "german"), [(1, 3), (2, 5), (8, 5)])
def test_few_shot_shows_that_many_per_class_and_target(shots: int, german: int) -> None:
    """German has 2 light, 2 music and 1 weather; French 1 light and 1 music."""
    found, _ = paired(protocol="few_shot", shots=shots)
    shown = labels(found)
    assert sum(row_id.startswith("de") for row_id in shown) == german
    assert {row_id for row_id in shown if row_id.startswith("fr")} == {"fr1", "fr2"}
    assert {row_id for row_id in shown if row_id.startswith("en")} == set(SOURCE_LABELS)
    assert all(label == CORPUS[row_id][2] for row_id, label in shown.items())


def test_few_shot_draws_by_its_seed() -> None:
    many = {f"de{n:02}": ("de", "train", "light", "", "") for n in range(30)} | {i: CORPUS[i] for i in ("en1", "en3")}
    drawn = [
        frozenset(labels(paired(rows(many), targets=("de",), protocol="few_shot", shots=5, seed=seed)[0]))
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert len(drawn[2]) == 5 + 1


def test_unlabelled_rows_are_no_shots() -> None:
    many = {f"de{n}": ("de", "train", "light" if n < 3 else "", "", "") for n in range(9)} | {
        i: CORPUS[i] for i in ("en1", "en3")
    }
    found, report = paired(rows(many), targets=("de",), protocol="few_shot", shots=3)
    assert report.labelled == {"en": 1, "de": 3}
    assert {row_id for row_id in labels(found) if row_id != "en1"} == {"de0", "de1", "de2"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("teacher", [None, ["en"]])
def test_held_out_rows_are_never_among_the_training_rows(protocol: str, teacher: list[str] | None) -> None:
    found, _ = paired(teacher=teacher, protocol=protocol)
    assert {"en6", "de6"} & set(found["id"][:]) == set()
    read = {row_id for rows_read in found["teacher_rows"] for row_id in rows_read}
    assert {"en6", "de6"} & read == set()


# --- what the teacher reads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", [None, ["de", "en", "fr"]])
def test_a_multilingual_teacher_reads_each_row_itself(teacher: list[str] | None) -> None:
    found, report = paired(teacher=teacher)
    assert reading(found) == {row_id: [row_id] for row_id in CORPUS if row_id not in ("en6", "de6")}
    assert report.without_partner == {}


def test_a_monolingual_teacher_reads_an_aligned_sentence_of_the_source() -> None:
    found, _ = paired(teacher=["en"])
    read = reading(found)
    assert {row_id: read[row_id] for row_id in read if row_id.startswith("en")} == {
        row_id: [row_id] for row_id in ("en1", "en2", "en3", "en4", "en5")
    }
    assert read["de1"] == read["fr1"] == ["en3"]
    assert read["de2"] in (["en4"], ["en5"])
    assert read["de3"] in (["en4"], ["en5"])
    assert set(read) == {"en1", "en2", "en3", "en4", "en5", "de1", "de2", "de3", "fr1"}


def test_the_languages_a_teacher_reads_are_judged_one_by_one() -> None:
    found, _ = paired(teacher=["en", "fr"])
    assert reading(found)["fr1"] == ["fr1"]
    assert reading(found)["fr2"] == ["fr2"]
    assert reading(found)["de1"] == ["en3"]


def test_a_partner_is_always_text_whose_label_the_teacher_never_saw() -> None:
    """de5 is aligned with en1 alone, which the teacher learns from: an answer about it is no news."""
    found, report = paired(teacher=["en"])
    assert "de5" not in reading(found)
    assert report.without_partner == {"de": 1, "fr": 1}  # de4 and fr2, which are aligned with nothing
    assert report.withheld == {"de": {"partner is labelled training text": 1}}
    for align in ("sentence", "block"):
        found, _ = paired(teacher=["en"], align=align)
        read = {i for row in found if row["lang"] != "en" for i in row["teacher_rows"]}
        assert read == {"en3", "en4", "en5"}


def test_source_text_without_a_label_is_a_partner_wherever_it_stands() -> None:
    """Nobody learns from a label that is not there, so the teacher's answer is news."""
    corpus = {**CORPUS, "en1": ("en", "train", "", "k0", "b-light")}
    found, report = paired(rows(corpus), teacher=["en"])
    assert reading(found)["de5"] == ["en1"]
    assert report.withheld == {}


def test_the_report_says_why_a_row_with_a_partner_is_dropped() -> None:
    corpus = {
        "en1": ("en", "train", "x", "k1", ""),
        "en2": ("en", "parallel", "x", "k2", ""),
        "en3": ("en", "dev", "x", "k3", ""),
        **{f"de{n}": ("de", "train", "x", f"k{n}" if n else "", "") for n in range(5)},
    }
    found, report = paired(rows(corpus), teacher=["en"], targets=("de",))
    assert set(reading(found)) == {"en1", "en2", "de2"}
    assert report.without_partner == {"de": 2}  # de0 has no group, and de4 one that no English row has
    assert report.withheld == {"de": {"partner is labelled training text": 1, "partner is dev or test": 1}}
    labelled = {row_id: values for row_id, values in corpus.items() if row_id in ("en1", "en2", "de1")}
    with pytest.raises(UserError, match=r"may read none.*\(partner is labelled training text 1\).*pair\.parallel=0\.7"):
        paired(rows(labelled), teacher=["en"], targets=("de",))


def test_all_aligned_rows_are_accounted_for_where_a_share_is_reserved() -> None:
    _, report = paired(without_parallel(), teacher=["en"], targets=("de",), parallel=0.4)
    assert report.without_partner == {}  # every German row has one
    assert report.withheld["de"]["partner is labelled training text"] == 400 - report.rows["de"]


def test_block_alignment_reads_every_parallel_text_of_the_block() -> None:
    found, report = paired(teacher=["en"], align="block")
    read = reading(found)
    assert read["de1"] == read["de5"] == read["fr1"] == ["en3"]
    assert read["de2"] == read["de3"] == ["en4", "en5"]
    assert report.without_partner == {"de": 1, "fr": 1}  # de4: no English row in its block; fr2: no block


def test_block_alignment_does_not_change_what_a_multilingual_teacher_reads() -> None:
    assert reading(paired(align="block")[0]) == reading(paired(align="sentence")[0])


def test_rows_without_group_are_not_aligned_with_each_other() -> None:
    corpus = {"en1": ("en", "parallel", "x", "", ""), "en2": ("en", "parallel", "x", "k", "")}
    corpus |= {"de1": ("de", "train", "x", "", ""), "de2": ("de", "train", "x", "k", "")}
    for align in ("sentence", "block"):
        if align == "block":
            corpus |= {"en3": ("en", "parallel", "x", "", "b"), "de3": ("de", "train", "x", "", "b")}
        found, _ = paired(rows(corpus), teacher=["en"], targets=("de",), align=align)
        assert "de1" not in reading(found)


def test_a_labelled_row_without_partner_stays_for_its_label() -> None:
    found, report = paired(teacher=["en"], protocol="supervised")
    assert reading(found)["de4"] == []
    assert labels(found)["de4"] == "weather"
    assert report.without_partner == {}


def test_a_row_with_neither_label_nor_teacher_is_dropped() -> None:
    corpus = {**CORPUS, "de4": ("de", "train", "", "k9", "b-weather")}
    for protocol in PROTOCOLS:
        found, report = paired(rows(corpus), teacher=["en"], protocol=protocol)
        assert "de4" not in reading(found)
        assert report.without_partner["de"] >= 1


def test_partners_are_drawn_from_the_whole_group() -> None:
    corpus = {f"en{n}": ("en", "parallel", "x", "k", "") for n in range(4)}
    corpus |= {f"de{n}": ("de", "train", "x", "k", "") for n in range(60)}
    found, _ = paired(rows(corpus), teacher=["en"], targets=("de",))
    drawn = [row["teacher_rows"][0] for row in found if row["lang"] == "de"]
    assert set(drawn) == {"en0", "en1", "en2", "en3"}
    assert max(map(drawn.count, set(drawn))) < 30


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("align", ["sentence", "block"])
def test_the_order_of_the_rows_changes_nothing(protocol: str, align: str) -> None:
    corpus = CORPUS | {f"en{n}": ("en", "parallel", "music", "k2", "b-music") for n in range(10, 20)}
    first, _ = paired(rows(corpus), teacher=["en"], protocol=protocol, align=align, shots=1)
    for seed in range(3):
        items = list(corpus.items())
        random.Random(seed).shuffle(items)
        again, _ = paired(rows(dict(items)), teacher=["en"], protocol=protocol, align=align, shots=1)
        assert reading(again) == reading(first)
        assert labels(again) == labels(first)


def test_the_result_keeps_order_and_columns() -> None:
    found, _ = paired()
    assert found["id"][:] == [row_id for row_id in CORPUS if row_id not in ("en6", "de6")]
    assert found.column_names == [*rows().column_names, "number", "teacher_texts", "teacher_rows"]
    assert found["number"][:] == [n for n, row_id in enumerate(CORPUS) if row_id not in ("en6", "de6")]
    assert found["text"][0] == "text of en1"


def test_no_aligned_row() -> None:
    corpus = {i: (*v[:3], "" if v[0] == "de" else v[3], *v[4:]) for i, v in CORPUS.items()}
    with pytest.raises(UserError) as caught:
        paired(rows(corpus), teacher=["en"])
    message = str(caught.value)
    assert (
        "it reads en, not 'de', and no 'de' text of this corpus is aligned with 'en' text (column `group`)" in message
    )
    assert "teacher=xlmr_base" in message
    assert "objective=direct" in message
    paired(rows(corpus), teacher=None)  # which needs no partner


def test_no_row_of_a_common_block() -> None:
    corpus = {i: (*v[:4], "" if v[0] == "de" else v[4]) for i, v in CORPUS.items()}
    with pytest.raises(UserError, match=r"no 'de' text of this corpus is aligned with 'en' text \(column `block`\)"):
        paired(rows(corpus), teacher=["en"], align="block")


def test_labels_are_no_substitute_for_aligned_rows() -> None:
    corpus = {i: (*v[:3], "", "") for i, v in CORPUS.items()}
    with pytest.raises(UserError, match="no 'de' text of this corpus is aligned"):
        paired(rows(corpus), teacher=["en"], protocol="supervised")


# --- where the corpus sets no parallel text aside ---------------------------------------------------------------------


def without_parallel(n: int = 400) -> Dataset:
    corpus = {f"{lang}{i}": (lang, "train", f"c{i % 4}", f"k{i}", "") for lang in ("en", "de") for i in range(n)}
    return rows(corpus)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7])
def test_a_share_of_the_source_text_is_reserved(share: float) -> None:
    found, report = paired(without_parallel(), teacher=["en"], targets=("de",), parallel=share)
    reserved = 400 - report.labelled["en"]
    assert reserved / 400 == pytest.approx(share, abs=0.01)
    assert report.rows == {"en": 400, "de": reserved}  # German rows aligned with labelled text have no partner
    hidden = {row["id"] for row in found if row["lang"] == "en" and not row["label"]}
    assert {row["teacher_rows"][0] for row in found if row["lang"] == "de"} == hidden


def test_the_reserve_depends_on_the_pair_s_seed_and_not_on_the_order() -> None:
    def hidden(corpus: Dataset, seed: int) -> set[str]:
        found, _ = paired(corpus, ["en"], targets=("de",), seed=seed)
        return {row["id"] for row in found if row["lang"] == "en" and not row["label"]}

    backwards = without_parallel().select(range(799, -1, -1))
    assert hidden(without_parallel(), 0) == hidden(backwards, 0)
    assert hidden(without_parallel(), 0) != hidden(without_parallel(), 1)


def test_rows_of_one_group_are_reserved_together() -> None:
    corpus = {f"en{i}": ("en", "train", "x", f"k{i // 5}", "") for i in range(200)}
    corpus |= {f"de{i}": ("de", "train", "x", f"k{i}", "") for i in range(40)}
    found, _ = paired(rows(corpus), ["en"], targets=("de",))
    hidden = {row["group"] for row in found if row["lang"] == "en" and not row["label"]}
    shown = {row["group"] for row in found if row["label"]}
    assert hidden
    assert shown
    assert hidden & shown == set()


def test_parallel_text_of_the_corpus_itself_is_enough() -> None:
    found, _ = paired(parallel=0.99)
    assert labels(found) == SOURCE_LABELS


def test_a_teacher_that_reads_every_target_hides_no_label() -> None:
    for teacher in (None, ["en", "de"]):
        _, report = paired(without_parallel(), teacher, targets=("de",))
        assert report.labelled["en"] == report.rows["en"] == report.rows["de"] == 400


def test_rows_with_a_partner_are_held_out_first_and_no_others() -> None:
    corpus = {f"en{i}": ("en", "train", f"c{i % 4}", f"k{i}", "") for i in range(210)}
    corpus |= {f"de{i}": ("de", "train", f"c{i % 4}", f"k{i}", "") for i in range(105)}
    _, report = paired(rows(corpus), ["en"], targets=("de",))
    assert (report.labelled["en"], report.rows["de"]) == (126, 84)  # 0.4 of 210, all of them with a partner
    _, report = paired(rows(corpus), ["en"], targets=("de",), parallel=0.9)
    assert (report.labelled["en"], report.rows["de"]) == (105, 105)  # hiding more would bring nothing


def test_every_class_keeps_a_label() -> None:
    corpus = {f"en{i}": ("en", "train", f"c{i}", f"k{i}", "") for i in range(4)}
    corpus |= {f"en{i}": ("en", "train", "many", f"k{i}", "") for i in range(4, 40)}
    corpus |= {f"de{i}": ("de", "train", "", f"k{i}", "") for i in range(40)}
    for rules in ({"parallel": 0.9}, {"labels": 0.01}):
        found, _ = paired(rows(corpus), ["en"], targets=("de",), **rules)
        assert {row["label"] for row in found if row["label"]} == {"c0", "c1", "c2", "c3", "many"}


def test_a_share_of_the_labels_is_seen_and_the_rest_is_text_for_the_teacher() -> None:
    found, report = paired(without_parallel(), ["en"], targets=("de",), labels=0.1)
    assert report.labelled == {"en": 40}
    assert report.rows == {"en": 400, "de": 360}
    assert all(row["teacher_rows"] for row in found if row["lang"] == "de")


def test_target_text_that_nobody_reads_is_handed_over_without_its_label() -> None:
    found, unpaired, report, _ = pair_rows(without_parallel(), Pair("en", ["de"]), ["en"])
    assert len(unpaired) == 400 - report.rows["de"]
    assert set(unpaired["label"]) == {""}
    assert unpaired.features == found.features
    assert not set(unpaired["id"]) & set(found["id"])


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_counts_per_language() -> None:
    _, report = paired(teacher=["en"], protocol="few_shot", shots=1)
    assert report.rows["en"] == 5
    assert report.labelled == {"en": 2, "de": 3, "fr": 2}
    assert report.with_teacher == {"en": 5, "de": 3, "fr": 1}
    _, report = paired(teacher=["en"])
    assert report.without_partner == {"de": 1, "fr": 1}
    assert report.withheld == {"de": {"partner is labelled training text": 1}}


@pytest.mark.parametrize(
    ("teacher", "rules", "hidden"),
    [
        (None, {}, {}),
        (["en"], {"parallel": 0.5}, {"pair.parallel": "200 of 400"}),
        (None, {"labels": 0.25}, {"pair.labels": "300 of 400"}),
        (["en"], {"labels": 0.75, "parallel": 0.5}, {"pair.labels": "100 of 400", "pair.parallel": "100 of 400"}),
        (["en"], {"protocol": "supervised"}, {}),
    ],
)
def test_what_hides_labels_is_counted(teacher: Any, rules: dict[str, Any], hidden: dict[str, str]) -> None:
    _, report = paired(without_parallel(), teacher, ("de",), **rules)
    assert report.hidden == hidden
    assert report.labelled["en"] == 400 - sum(int(n.split()[0]) for n in hidden.values())


def test_labels_of_the_corpus_own_split_are_hidden_by_nobody_else() -> None:
    _, report = paired(teacher=["en"])
    assert report.hidden == {"": "3 of 5"}


# --- Pair.check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"targets": []}, ["pair.targets is empty", "pair.targets=[de]"]),
        ({"targets": ["de", "en"]}, ["'en' is both the source and a target", "pair.targets=['de', 'en']"]),
        ({"targets": ["de", "fr", "de"]}, ["pair.targets names de twice"]),
        ({"protocol": "oracle"}, ["pair.protocol=oracle", "zero_shot, translate_train, few_shot, supervised"]),
        ({"align": "word"}, ["pair.align=word", "sentence, block"]),
        ({"shots": 0}, ["pair.shots=0", "at least 1"]),
        ({"parallel": -0.1}, ["pair.parallel=-0.1 ", "pair.parallel=0.4"]),
        ({"parallel": 1.0}, ["pair.parallel=1.0 ", "leaves no label"]),
        ({"labels": 0}, ["pair.labels=0 ", "pair.labels=1"]),
        ({"unpaired": "keep"}, ["pair.unpaired=keep", "drop, self_train"]),
    ],
)
def test_what_a_pair_refuses(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Pair(**{"source": "en", "targets": ["de"], **given}).check()
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("align", ["sentence", "block"])
def test_what_a_pair_accepts(protocol: str, align: str) -> None:
    pair = Pair("en", ["de", "zh-CN"], protocol=protocol, align=align, shots=1, parallel=0.01)
    pair.check()
    assert pair.languages == ["en", "de", "zh-CN"]
    assert pair.name == "en-de+zh-CN"
