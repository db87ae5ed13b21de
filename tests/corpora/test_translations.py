"""Sentences with their translations as labels: the embedded ones, and those of the hub from local look-alikes."""

from __future__ import annotations

import functools
from collections import defaultdict
from pathlib import Path

import pytest
from datasets import Dataset, Features, Translation, Value
from hydra.utils import instantiate
from omegaconf import OmegaConf

from distilingua.corpora.smart_home import SmartHome
from distilingua.corpora.translations import Joined, Translations
from distilingua.errors import UserError
from tests.conftest import Compose
from tests.corpora.look_alikes import hub_folder, table
from tests.corpora.own_files import Given


@functools.cache
def german() -> Dataset:
    """English and French commands into German, by the configuration's rules at a small scale."""
    return smart_home("de").load(["en", "fr"])


def smart_home(into: str, unseen: bool = True) -> Translations:
    return Translations(
        SmartHome(sentences=3, eval_sentences=2), SmartHome(sentences=3, eval_sentences=3, reword=False), into, unseen
    )


def fixed(*rows: tuple[str, str, str, str, str, str]) -> Given:
    return Given([dict(zip(("id", "lang", "split", "text", "group", "block"), row, strict=True)) for row in rows])


# --- the embedded corpus ----------------------------------------------------------------------------------------------


def test_the_configuration_builds_it(compose_run: Compose) -> None:
    cfg = compose_run("corpus=translations", "pair=en-fr", "corpus.corpus.sentences=3", "corpus.corpus.seed=5")
    corpus = instantiate(cfg.corpus)
    assert (corpus.answers.sentences, corpus.answers.eval_sentences, corpus.answers.seed) == (3, 3, 5)
    assert (corpus.corpus.reword, corpus.answers.reword) == (True, False)


def test_labels_are_german_and_the_same_wherever_the_meaning_is() -> None:
    labels: dict[str, set[str]] = defaultdict(set)
    langs: dict[str, set[str]] = defaultdict(set)
    for row in german():
        labels[row["group"]].add(row["label"])
        langs[row["group"]].add(row["lang"])
    assert all(len(found) == 1 for found in labels.values())
    assert sum(found == {"en", "fr"} for found in langs.values()) > 300
    spoken = {row["text"] for row in SmartHome(sentences=3, eval_sentences=3, reword=False).load(["de"])}
    assert {label for found in labels.values() for label in found} <= spoken


def test_a_block_is_translated_in_one_way_wherever_its_rooms_and_numbers_allow_it() -> None:
    """Rooms and numbers left out, a block's translations are of one template."""
    rows = smart_home("de").answers.load(["de"])
    template = {row["text"]: row["id"].rpartition("-")[0] for row in rows}
    used: dict[str, list[str]] = defaultdict(list)
    for row in german():
        used[row["block"]].append(template[row["label"]])
    alike = [max(map(found.count, set(found))) / len(found) for found in used.values()]
    assert sum(alike) / len(alike) > 0.9


def test_splits_are_those_of_the_sentences_that_are_translated() -> None:
    before = {row["id"]: row["split"] for row in SmartHome(sentences=3, eval_sentences=2).load(["en", "fr"])}
    assert {row["id"]: row["split"] for row in german()}.items() <= before.items()


def test_no_training_row_has_a_translation_that_is_judged_unless_its_block_has_no_other() -> None:
    rows = german().to_list()
    held_out = {row["label"] for row in rows if row["split"] in ("dev", "test")}
    learnt: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    for row in rows:
        if row["split"] in ("train", "parallel"):
            learnt[row["lang"], row["block"]].append(row["label"] in held_out)
    assert all(all(seen) or not any(seen) for seen in learnt.values())
    assert sum(all(seen) for seen in learnt.values()) < 0.2 * len(learnt)
    everything = smart_home("de", unseen=False).load(["en", "fr"]).to_list()
    assert [row for row in everything if row["split"] == "test"] == [row for row in rows if row["split"] == "test"]
    assert len(everything) > len(rows)


def test_the_other_direction() -> None:
    rows = smart_home("en").load(["de"])
    assert {"turn", "the"} <= {word for row in rows for word in row["label"].split()}
    assert set(rows["lang"][:]) == {"de"}


def test_wording_that_is_not_drawn_anew_differs_in_slots_alone() -> None:
    """The words around the slots are the same in every sentence of a template."""
    around: dict[str, set[str]] = defaultdict(set)
    for row in SmartHome(sentences=4, reword=False).load(["en"]):
        slots = {slot["name"] for slot in row["slots"]}
        if row["split"] == "train" and slots <= {"minutes", "hours", "seconds", "percentage"} and slots:
            around[row["id"].rpartition("-")[0]].add("".join(c for c in row["text"] if not c.isdigit()))
    assert len(around) > 20
    assert all(len(found) == 1 for found in around.values())


# --- any corpora ------------------------------------------------------------------------------------------------------


def test_one_translation_is_chosen_whatever_the_order() -> None:
    sentences = fixed(("en-1", "en", "train", "light on", "on", "lamp"), ("en-2", "en", "train", "hi", "", ""))
    answers = [("de-a-0", "de", "train", "Licht an", "on", "lamp"), ("de-b-0", "de", "test", "mach an", "on", "lamp")]
    found = [Translations(sentences, fixed(*order), "de").load(["en"]) for order in (answers, answers[::-1])]
    assert found[0].to_list() == found[1].to_list()
    assert found[0]["label"][:] in (["Licht an"], ["mach an"])
    assert found[0]["id"][:] == ["en-1"]


def test_a_language_is_not_translated_into_itself() -> None:
    with pytest.raises(UserError) as caught:
        smart_home("de").check(["en", "de"])
    message = str(caught.value)
    assert "corpus.into=de" in message
    assert "(en)" in message


def test_what_either_corpus_refuses_is_refused() -> None:
    with pytest.raises(UserError, match="'xx' is not a language of smart_home"):
        smart_home("de").check(["xx"])
    with pytest.raises(UserError, match="'xx' is not a language of smart_home"):
        smart_home("xx").check(["en"])


def test_corpora_that_do_not_align_are_refused_by_language() -> None:
    sentences = fixed(("en-1", "en", "train", "on", "a", ""), ("fr-1", "fr", "train", "marche", "b", ""))
    answers = fixed(("de-1", "de", "train", "an", "a", ""))
    with pytest.raises(UserError, match="no 'fr' row has the group of a 'de' row"):
        Translations(sentences, answers, "de").load(["en", "fr"])


# --- the hub ----------------------------------------------------------------------------------------------------------


def opus(lang: str, split: str, n: int) -> Dataset:
    """OPUS-100: one column, `translation`, with a field per language."""
    pairs = [{lang: f"{lang} {split} {i}", "en": f"en {lang} {split} {i}"} for i in range(n)]
    features = Features({"translation": Translation(languages=sorted((lang, "en")))})
    return Dataset.from_dict({"translation": pairs}, features=features)


def flores(lang: str, split: str, n: int) -> Dataset:
    """FLORES-200: a configuration per language, sentences with the same ids in all of them."""
    about = {"URL": "https://example.org", "domain": "wikinews", "topic": "health"}
    flags = {"has_image": 0, "has_hyperlink": 0}
    rows = table(n, id=lambda i: 1 + i, **about, **flags, sentence=f"{lang} sentence {split} #")
    return rows.cast(Features({**rows.features, **dict.fromkeys(("id", *flags), Value("int32"))}))


def opus_folder(folder: Path) -> Path:
    sizes = {"train": 5, "validation": 3, "test": 4}
    configs = {"de": "de-en", "fr": "en-fr"}
    return hub_folder(folder, {configs[lang]: {s: opus(lang, s, n) for s, n in sizes.items()} for lang in configs})


def test_opus100_reads_a_field_per_language(compose_run: Compose, tmp_path: Path) -> None:
    cfg = compose_run("corpus=opus100", f"corpus.path={opus_folder(tmp_path / 'opus')}", "corpus.limit=4")
    rows = instantiate(cfg.corpus).load(["de", "fr"]).to_list()
    assert [(r["text"], r["label"]) for r in rows[:2]] == [
        ("de train 0", "en de train 0"),
        ("de train 1", "en de train 1"),
    ]
    found = [(row["lang"], row["split"]) for row in rows]
    for lang in ("de", "fr"):
        assert [found.count((lang, split)) for split in ("train", "dev", "test")] == [4, 3, 4]
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_field_that_is_not_there_is_named(compose_run: Compose, tmp_path: Path) -> None:
    folder = opus_folder(tmp_path / "opus")
    cfg = compose_run("corpus=opus100", f"corpus.path={folder}", "corpus.columns.label=translation.it")
    with pytest.raises(UserError, match=r"has no column 'translation.it'; it has translation, translation.de, "):
        instantiate(cfg.corpus).load(["de"])


def test_flores_judges_what_opus100_teaches(compose_run: Compose, tmp_path: Path) -> None:
    tables = {config: {"dev": flores(config, "dev", 3), "devtest": flores(config, "devtest", 6)}
              for config in ("deu_Latn", "fra_Latn", "eng_Latn")}  # fmt: skip
    cfg = compose_run(
        "corpus=flores",
        f"corpus.corpora.training.path={opus_folder(tmp_path / 'opus')}",
        f"corpus.corpora.test.corpus.path={hub_folder(tmp_path / 'flores', tables)}",
    )
    corpus = instantiate(cfg.corpus)
    assert isinstance(corpus, Joined)
    corpus.check(["de", "fr"])
    rows = corpus.load(["de", "fr"]).to_list()
    test = [row for row in rows if row["split"] == "test"]
    assert [(row["text"], row["label"]) for row in test[:1]] == [
        ("deu_Latn sentence devtest 0", "eng_Latn sentence devtest 0")
    ]
    assert len(test) == 12
    assert {row["split"] for row in rows if row["text"].startswith("de train")} == {"train"}
    assert len({row["id"] for row in rows}) == len(rows)


def test_languages_of_all_parts_are_checked(compose_run: Compose) -> None:
    cfg = compose_run("corpus=flores", "pair.source=de", "pair.targets=[fr]")
    with pytest.raises(UserError, match="opus-100 has no language 'tlh'"):
        instantiate(cfg.corpus).check(["de", "tlh"])
    OmegaConf.update(cfg, "corpus.corpora.training.languages.sw", "en-sw", force_add=True)
    with pytest.raises(UserError, match="flores has no language 'sw'"):
        instantiate(cfg.corpus).check(["de", "sw"])
