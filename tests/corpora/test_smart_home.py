"""The embedded corpus: real templates, real languages, no network."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections import defaultdict
from typing import Any

import pytest
from datasets import Dataset
from hassil.intents import TextSlotList, WildcardSlotList
from hassil.string_matcher import MatchContext, MatchSettings, match_expression
from hassil.util import CJK_WHITESPACE, normalize_for_matching
from home_assistant_intents import get_intents, get_languages

from distilingua.corpora.schema import COLUMNS, SPLITS
from distilingua.corpora.smart_home import (
    ALL_INTENTS,
    Sampler,
    SmartHome,
    Template,
    _glossary,
    split_sentences,
    split_templates,
)
from distilingua.errors import UserError
from tests.conftest import cleaned

LANGUAGES = list(_glossary())


@functools.cache
def sampler(lang: str) -> Sampler:
    return Sampler(lang, seed=0)


@functools.cache
def templates(lang: str) -> dict[str, Template]:
    return {template.id: template for template in sampler(lang).templates()}


@functools.cache
def rows(lang: str) -> Dataset:
    return SmartHome(sentences=1, eval_sentences=1).load([lang])


@functools.cache
def three_languages() -> Dataset:
    """English with its closest relatives, which are the likeliest to share a sentence with it."""
    return SmartHome(sentences=1, eval_sentences=1).load(["en", "de", "nl"])


def template_of(row_id: str) -> str:
    return row_id.rpartition("-")[0]


def meaning(lang: str, template: Template, draw: int) -> tuple[str, dict[str, str]]:
    """Intent and slot values of a sentence: those its block fixes, and those that were drawn."""
    spoken = {slot["name"]: slot["value"] for slot in sampler(lang).sentence(template, draw)[1]}
    return template.intent, {**{name: str(value) for name, value in template.data.slots.items()}, **spoken}


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_two_loads_give_the_same_rows() -> None:
    corpus = SmartHome(sentences=1, eval_sentences=1)
    assert corpus.load(["en"]).to_list() == rows("en").to_list()


def test_a_language_is_sampled_alike_whatever_accompanies_it() -> None:
    together = SmartHome(sentences=1, eval_sentences=1).load(["hu", "cs"]).to_list()
    assert together == rows("hu").to_list() + rows("cs").to_list()


def test_another_process_samples_the_same() -> None:
    """Python salts `hash()` per process; nothing here may depend on it."""
    code = (
        "import json\n"
        "from distilingua.corpora.smart_home import SmartHome\n"
        "rows = SmartHome(sentences=1, eval_sentences=1)._rows('hu')\n"
        "print(json.dumps([[row['id'], row['split'], row['text'], row['group']] for row in rows]))\n"
    )
    here = [[row["id"], row["split"], row["text"], row["group"]] for row in rows("hu")]
    for salt in ("1", "2"):
        options: Any = {
            "env": {**os.environ, "PYTHONHASHSEED": salt},
            "capture_output": True,
            "text": True,
            "check": True,
        }
        assert json.loads(subprocess.run([sys.executable, "-c", code], **options).stdout) == here


def test_the_seed_changes_sentences_and_leaves_the_split_alone() -> None:
    other = SmartHome(sentences=1, eval_sentences=1, seed=1).load(["hu"])
    assert other["id"][:] == rows("hu")["id"][:]
    assert other["split"][:] == rows("hu")["split"][:]
    different = sum(a != b for a, b in zip(other["text"], rows("hu")["text"], strict=True))
    assert different > len(other) / 2


def test_more_sentences_keep_the_earlier_ones() -> None:
    few = {row["id"]: row["text"] for row in rows("hu")}
    many = {row["id"]: row["text"] for row in SmartHome(sentences=3, eval_sentences=2).load(["hu"])}
    assert len(many) > 2 * len(few)
    assert {row_id: many[row_id] for row_id in few} == few


def test_rows_follow_the_schema() -> None:
    assert set(COLUMNS) <= set(three_languages().column_names)
    assert len(set(three_languages()["id"][:])) == len(three_languages())
    assert set(three_languages()["split"][:]) == set(SPLITS)
    assert all(text and text == text.strip() and "  " not in text for text in three_languages()["text"][:])


# --- split ------------------------------------------------------------------------------------------------------------


def test_no_template_is_trained_on_and_judged() -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    found = SmartHome(sentences=4, eval_sentences=2).load(["en", "de", "nl"])
    for row_id, split in zip(found["id"][:], found["split"][:], strict=True):
        splits[template_of(row_id)].add("train" if split == "parallel" else split)
    known = {template_id for lang in ("en", "de", "nl") for template_id in templates(lang)}
    assert set(splits) == known
    assert [template_id for template_id, found in splits.items() if len(found) > 1] == []


@pytest.mark.parametrize("lang", ["en", "zh-CN", "ml"])
def test_the_split_does_not_depend_on_the_order_of_the_templates(lang: str) -> None:
    found = list(templates(lang).values())
    assert split_templates(found, 0.5, 0.1, 0.15) == split_templates(found[::-1], 0.5, 0.1, 0.15)


@pytest.mark.parametrize("lang", ["en", "hu", "ml"])
def test_training_knows_every_block_that_parallel_text_is_from(lang: str) -> None:
    """A teacher errs on what it has not seen, and its errors would be taught."""
    blocks: dict[str, set[str]] = defaultdict(set)
    for template_id, split in split_templates(templates(lang).values(), 0.5, 0.1, 0.15).items():
        blocks[split].add(templates(lang)[template_id].block)
    assert len(blocks["parallel"]) > 20
    assert blocks["parallel"] <= blocks["train"]


@pytest.mark.parametrize("lang", ["en", "de", "ru"])
def test_small_blocks_share_sentences_and_these_speak_of_other_values(lang: str) -> None:
    groups: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    texts: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    blocks: dict[str, set[str]] = defaultdict(set)
    for row in SmartHome(sentences=8, eval_sentences=1).load([lang]):
        if row["split"] in ("train", "parallel"):
            template = template_of(row["id"])
            blocks[row["block"]].add(template)
            groups[template][row["split"]].add(row["group"])
            texts[template][row["split"]].add(row["text"])
    shared = {template for template, splits in groups.items() if len(splits) == 2}
    assert len(shared) > 20
    assert shared <= {template for members in blocks.values() if len(members) <= 2 for template in members}
    for template in shared:
        assert not texts[template]["train"] & texts[template]["parallel"]
        everything = groups[template]["train"] | groups[template]["parallel"]
        assert len(everything) == 1 or not groups[template]["train"] & groups[template]["parallel"]
    # what cannot be shared, as it can be said in one way only, is taught
    alone = {template for members in blocks.values() if len(members) <= 2 for template in members} - shared
    assert all(set(texts[template]) == {"train"} and len(texts[template]["train"]) == 1 for template in alone)


def test_sentences_are_shared_by_group_and_by_wording_where_there_is_one_group() -> None:
    drawn = [(f"g{n % 4}", f"text {n}") for n in range(12)]
    found = split_sentences(drawn, 0.5)
    assert {len({found[one] for one in drawn if one[0] == f"g{n}"}) for n in range(4)} == {1}
    assert sorted(found.values()) == ["parallel"] * 6 + ["train"] * 6
    same = split_sentences([("g", f"text {n}") for n in range(4)], 0.5)
    assert sorted(same.values()) == ["parallel"] * 2 + ["train"] * 2
    assert split_sentences([("g", "one way")], 0.5) == {("g", "one way"): "train"}


def test_shares_of_the_split_are_near_what_was_asked() -> None:
    found = list(split_templates(templates("de").values(), 0.5, 0.1, 0.15).values())
    share = {split: found.count(split) / len(found) for split in SPLITS}
    assert share["test"] == pytest.approx(0.15, abs=0.03)
    assert share["dev"] == pytest.approx(0.1, abs=0.03)
    assert share["parallel"] == pytest.approx(0.375, abs=0.06)  # half of the rest


def test_no_clean_training_text_of_any_language_is_a_held_out_text() -> None:
    clean, _ = cleaned(three_languages())
    texts: dict[str, set[str]] = defaultdict(set)
    for split, text in zip(clean["split"][:], clean["text"][:], strict=True):
        texts[split].add(text.casefold())
    assert min(len(texts[split]) for split in SPLITS) > 200
    assert (texts["train"] | texts["parallel"]) & (texts["dev"] | texts["test"]) == set()
    assert texts["train"] & texts["parallel"] == set()


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_intent_keeps_a_training_template(lang: str) -> None:
    clean, _ = cleaned(rows(lang))
    trained = {label for label, split in zip(clean["label"][:], clean["split"][:], strict=True) if split == "train"}
    assert trained == set(get_intents(lang)["intents"])


# --- slots and alignment ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lang", LANGUAGES)
def test_hassil_reads_every_slot_where_the_sampler_put_it(lang: str) -> None:
    """The library that defines the templates is the judge: it must find the same slots at the same places."""
    intents = sampler(lang).intents
    words = {name: [(word, value) for value, word in entries] for name, entries in sampler(lang).words.items()}
    words["name"] = [entry for entries in words.values() for entry in entries]
    own = {name: TextSlotList.from_tuples(entries, name=name) for name, entries in words.items()}
    listed = {name: known for name, known in intents.slot_lists.items() if not isinstance(known, WildcardSlotList)}
    slots_seen = 0
    for template in list(templates(lang).values())[::15]:
        text, slots = sampler(lang).sentence(template, 0)
        settings = MatchSettings(
            slot_lists={**own, **listed, **template.data.slot_lists},
            expansion_rules={**intents.expansion_rules, **template.data.expansion_rules},
            ignore_whitespace=intents.settings.ignore_whitespace,
            language=lang,
        )
        spoken = normalize_for_matching(text).text
        spoken = CJK_WHITESPACE.sub("", spoken) if settings.ignore_whitespace else f"{spoken} "
        readings = [
            sorted((entity.name, spoken[slice(*entity.text_span)].strip()) for entity in match.entities)
            for match in match_expression(settings, MatchContext(spoken, original_text=text), template.expression)
            if match.is_match
        ]
        assert sorted((slot["name"], text[slot["start"] : slot["end"]]) for slot in slots) in readings, text
        slots_seen += len(slots)
    assert slots_seen > 15


@pytest.mark.parametrize("lang", ["en", "fr", "zh-CN", "ml"])
def test_slot_values_name_the_words_in_the_text(lang: str) -> None:
    """`{area}` and `{floor}` come from the glossary: the value is the English word of the same position."""
    english, words = _glossary()["en"], _glossary()[lang]
    seen = set()
    for template in templates(lang).values():
        text, slots = sampler(lang).sentence(template, 0)
        for slot in slots:
            if slot["name"] in ("area", "floor"):
                position = english[slot["name"]].index(slot["value"])
                assert text[slot["start"] : slot["end"]] == words[slot["name"]][position]
                seen.add((slot["name"], slot["value"]))
    assert len(seen) > 10


@pytest.mark.parametrize("target", ["de", "zh-CN", "hu"])
def test_rows_of_one_group_mean_the_same_in_two_languages(target: str) -> None:
    meanings: dict[str, dict[str, list[tuple[str, dict[str, str]]]]] = {}
    for lang in ("en", target):
        found = meanings[lang] = defaultdict(list)
        for row_id, group in zip(rows(lang)["id"][:], rows(lang)["group"][:], strict=True):
            template, draw = templates(lang)[template_of(row_id)], int(row_id.rpartition("-")[2])
            found[group].append(meaning(lang, template, draw))
    shared = set(meanings["en"]) & set(meanings[target])
    assert len(shared) > 0.4 * len(meanings[target])
    for group in shared:
        first, *others = meanings["en"][group] + meanings[target][group]
        assert all(other == first for other in others), group


def test_labels_are_the_intents_and_blocks_are_inside_one_intent() -> None:
    labels: dict[str, set[str]] = defaultdict(set)
    for row in three_languages().select_columns(["id", "lang", "label", "block"]):
        assert row["label"] == templates(row["lang"])[template_of(row["id"])].intent
        labels[row["block"]].add(row["label"])
    assert all(len(found) == 1 for found in labels.values())


# --- glossary ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lang", LANGUAGES)
def test_glossary_has_the_same_entries_in_every_language(lang: str) -> None:
    english, words = _glossary()["en"], _glossary()[lang]
    assert {name: len(entries) for name, entries in words.items()} == {name: len(e) for name, e in english.items()}
    for name, entries in words.items():
        # YAML reads a bare `on` or `12` as something else than text
        assert [word for word in entries if not isinstance(word, str) or not word.strip()] == [], name


def test_english_glossary_entries_are_distinct() -> None:
    """They are canonical values: two equal ones would be one meaning with two words."""
    assert [name for name, words in _glossary()["en"].items() if len(set(words)) < len(words)] == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_language_samples_every_template(lang: str) -> None:
    assert {template_of(row_id) for row_id in rows(lang)["id"][:]} == set(templates(lang))
    assert len(rows(lang)) == len(templates(lang))
    assert set(rows(lang)["split"][:]) == set(SPLITS)
    SmartHome().check([lang])


# --- check ------------------------------------------------------------------------------------------------------------


COUNTS = {"xx": 0} | {lang: len(get_intents(lang)["intents"]) for lang in get_languages()}
POOR = min(("ja", "ko", "ta"), key=COUNTS.__getitem__)
WITHOUT = max((lang for lang in ("eu", "sk", "ro", "zh-TW") if lang not in LANGUAGES), key=COUNTS.__getitem__)


@pytest.mark.parametrize(
    ("lang", "told", "not_told"),
    [
        ("xx", ["pair=en-xx", "'xx' is not a language of smart_home", "Choose one of: de, fr"], "min_intents"),
        (
            POOR,
            [f"pair=en-{POOR}: {POOR!r} has {COUNTS[POOR]} of 42 intents in smart_home", "Choose one of: de, fr"],
            "glossary",
        ),
        (
            WITHOUT,
            [f"{WITHOUT!r} has no words for rooms and devices yet", f"add {WITHOUT!r} to smart_home_glossary.yaml"],
            "set corpus",
        ),
    ],
)
def test_languages_that_it_cannot_serve(lang: str, told: list[str], not_told: str) -> None:
    with pytest.raises(UserError) as caught:
        SmartHome().load(["en", lang])
    message = str(caught.value)
    assert [part for part in told if part not in message] == []
    assert not_told not in message
    assert (f"set corpus.min_intents={COUNTS[lang]}" in message) == (lang == POOR)
    assert " en," not in message.partition("Choose one of:")[2]  # it is taken already


def test_the_remedy_for_too_few_intents_works() -> None:
    found = COUNTS["ne"]
    with pytest.raises(UserError, match=f"set corpus.min_intents={found}"):
        SmartHome(min_intents=found + 1).check(["en", "ne"])
    SmartHome(min_intents=found).check(["en", "ne"])


def test_the_richest_languages_have_as_many_intents_as_the_messages_say() -> None:
    assert max(COUNTS.values()) == ALL_INTENTS
