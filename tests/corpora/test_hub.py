"""Every hub corpus in `conf/corpus`, read from a local folder laid out like the data set on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, List, Value
from hydra.utils import instantiate
from omegaconf import OmegaConf

from distilingua.corpora.hub import Hub
from distilingua.corpora.schema import COLUMNS
from distilingua.corpora.sound import waveform
from distilingua.data.cleaning import Cleaning
from distilingua.data.protocol import Pair
from distilingua.data.rows import load_rows
from distilingua.errors import UserError
from distilingua.locations import conf_folder
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.speech import SpeechRecognition
from distilingua.tasks.token_classification import TokenClassification
from tests.conftest import cleaned
from tests.corpora.look_alikes import hub_folder, table
from tests.corpora.own_files import full_row

CONFIGS = {file.stem: OmegaConf.load(file) for file in sorted((conf_folder() / "corpus").glob("*.yaml"))}
HUB = {name: cfg for name, cfg in CONFIGS.items() if cfg._target_ == "distilingua.corpora.hub.Hub"}
del HUB["opus100"]  # its columns have fields: test_translations.py
FIRST = {"masakhaner": "ha"}  # it has no English
PAIRS = {name: (FIRST.get(name, "en"), "de" if "de" in cfg.languages else "sw") for name, cfg in HUB.items()}
ROWS = {"train": 5, "validation": 3, "test": 4}
Table = Callable[[str, str, int], Dataset]  # (language, their split, rows) -> what one file of theirs holds


def xnli(lang: str, split: str, n: int) -> Dataset:
    rows = table(
        n, premise=f"{lang} premise {split} #", hypothesis=f"{lang} hypothesis {split} #", label=lambda i: i % 3
    )
    return rows.cast_column("label", ClassLabel(names=["entailment", "neutral", "contradiction"]))


def massive(lang: str, split: str, n: int) -> Dataset:
    """Ids are shared by all languages, and their order is not."""
    order = sorted(range(n), key=lambda i: (i * 7 + len(lang)) % n) if lang != "en" else list(range(n))
    first = {"train": 0, "validation": 100, "test": 200}[split]

    def intent(i: int) -> str:
        return ["alarm_set", "play_music", "weather_query"][order[i] % 3]

    return table(
        n,
        id=lambda i: str(first + order[i]),
        label=intent,
        label_text=intent,
        text=lambda i: f"{lang} utterance {split} {order[i]}",
        lang=lang,
    )


def sib200(lang: str, split: str, n: int) -> Dataset:
    first = {"train": 0, "validation": 1000, "test": 2000}[split]
    topics = ["geography", "science/technology", "travel"]
    return table(n, index_id=lambda i: first + i, category=lambda i: topics[i % 3], text=f"{lang} sentence {split} #")


def amazon_reviews(lang: str, split: str, n: int) -> Dataset:
    return table(
        n,
        id=lambda i: f"{lang}_{split}_{i:07}",
        text=f"{lang} review {split} #",
        label=lambda i: i % 5,
        label_text=lambda i: str(i % 5),
    )


def tweet_sentiment(lang: str, split: str, n: int) -> Dataset:
    """Numbers written as text, as the public copy is said to have them."""
    return table(n, text=f"@user {lang} tweet {split} #", label=lambda i: str(i % 3))


def pawsx(lang: str, split: str, n: int) -> Dataset:
    """Ids count from 1 in every split."""
    pair = {"sentence1": f"{lang} first {split} #", "sentence2": f"{lang} second {split} #"}
    rows = table(n, id=lambda i: 1 + i, **pair, label=lambda i: i % 2)
    return rows.cast_column("id", Value("int32")).cast_column("label", ClassLabel(names=["0", "1"]))


def masakhanews(lang: str, split: str, n: int) -> Dataset:
    return table(
        n,
        category=lambda i: ["business", "health", "sports"][i % 3],
        headline=f"{lang} headline {split} #",
        text=f"{lang} article {split} #. " * 300,
        url=f"https://example.org/{lang}/{split}/#",
    )


def tokens(names: list[str]) -> Table:
    def tagged(lang: str, split: str, n: int) -> Dataset:
        tags = [names.index(name) for name in ("B-PER", "I-PER", "O", "B-LOC")]
        words = table(n, tokens=lambda i: [f"{lang}{i}", "Name", split, "Ort"], ner_tags=tags, langs=[lang] * 4)
        return words.cast_column("ner_tags", List(ClassLabel(names=names)))

    return tagged


TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]


def squad(lang: str, split: str, n: int) -> Dataset:
    """As XQuAD, MLQA and SQuAD have it; ids and answers are the same in every language."""
    context = f"{lang} lamp {split} in the living room"
    answers = {"text": ["living room"], "answer_start": [context.index("living")]}
    texts = {"context": f"{context}, number #", "question": f"{lang} where is lamp #?"}
    return table(n, id=f"{split}-#", title="Lamp", **texts, answers=answers)


def tydiqa(lang: str, split: str, n: int) -> Dataset:
    """All languages in one table, one after the other."""
    names = [HUB["tydiqa"].languages[x] for x in PAIRS["tydiqa"]]
    rows = squad("all", split, 2 * n)
    return rows.map(lambda row, i: {"id": f"{names[i // n]}-{split}-{i}"}, with_indices=True)


def recording(i: int, rate: int, suffix: str) -> dict[str, Any]:
    """A cell of an audio column as a table on the hub stores it: the file's bytes under its bare name."""
    file = BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * (200 + 20 * i) * np.arange(rate) / rate), rate, format=suffix)
    return {"bytes": file.getvalue(), "path": f"{i}.{suffix}"}


def fleurs(lang: str, split: str, n: int) -> Dataset:
    """A sentence has one id in all languages; several people may read it."""
    first = {"train": 0, "validation": 1000, "test": 2000}[split]
    return table(
        n,
        id=lambda i: first + i // 2,
        num_samples=16_000,
        path="#.wav",
        audio=lambda i: recording(i, 16_000, "wav"),
        transcription=lambda i: f"{lang} sentence {split} {'abc'[i // 2]}",
        raw_transcription=lambda i: f"{lang.upper()} sentence, {split} {'abc'[i // 2]}.",
        gender=lambda i: i % 2,
        language=lang,
    ).cast_column("audio", Audio(sampling_rate=16_000, decode=False))


def common_voice(lang: str, split: str, n: int) -> Dataset:
    return table(
        n,
        client_id=lambda i: f"{i:032x}",
        path=f"common_voice_{lang}_#.mp3",
        audio=lambda i: recording(i, 32_000, "mp3"),
        sentence=lambda i: f"{lang.title()} sentence, “{split}” {'abcdef'[i]}!",
        up_votes=2,
        locale=lang,
    ).cast_column("audio", Audio(sampling_rate=48_000, decode=False))


LOOK_ALIKES: dict[str, Table] = {
    "xnli": xnli,
    "massive": massive,
    "sib200": sib200,
    "amazon_reviews": amazon_reviews,
    "tweet_sentiment": tweet_sentiment,
    "pawsx": pawsx,
    "masakhanews": masakhanews,
    "wikiann": tokens(TAGS),
    "masakhaner": tokens([*TAGS, "B-DATE", "I-DATE"]),
    "xquad": squad,
    "mlqa": squad,
    "tydiqa": tydiqa,
    "fleurs": fleurs,
    "common_voice": common_voice,
}


ONE_SPLIT = {"xquad": {"validation": 40}, "tydiqa": {"train": 40, "validation": 10}}
"""Rows of data sets that are cut into our splits by shares."""


def lay_out(folder: Path, name: str, look_alike: Table | None = None) -> Path:
    """The files of a look-alike for its languages, and the README that declares them, as on the hub."""
    cfg, made = HUB[name], look_alike or LOOK_ALIKES[name]
    options, parts = cfg.get("load_options", {}), cfg.get("parts", {})
    tables: dict[str, dict[str, Dataset]] = {}
    for lang, (split, n) in product(PAIRS[name], ONE_SPLIT.get(name, ROWS).items()):
        config = parts.train.name if split == "train" in parts else options.get("name") or cfg.languages[lang]
        config = config.replace("{config}", cfg.languages[lang])
        tables.setdefault(config, {})[split] = made(lang, split, n)
    if "en/train" in parts:
        hub_folder(folder / "squad", {"plain_text": {"train": (look_alike or squad)("en", "train", ROWS["train"])}})
    return hub_folder(folder, tables, readme="data_dir" not in options)


def corpus(name: str, folder: Path, **overrides: Any) -> Hub:
    """As the command line makes it: the YAML, with `corpus.path=` and others overridden."""
    given = {"path": str(folder), **overrides}
    if "en/train" in HUB[name].get("parts", {}):
        given["parts"] = {"en/train": {"path": str(folder / "squad")}}
    return instantiate(OmegaConf.merge(HUB[name], given))


def load(name: str, folder: Path, **overrides: Any) -> list[dict[str, str]]:
    return corpus(name, lay_out(folder, name), **overrides).load(list(PAIRS[name])).to_list()


def test_every_hub_corpus_has_a_look_alike() -> None:
    assert set(HUB) == set(LOOK_ALIKES)


@pytest.mark.parametrize("name", HUB)
def test_all_rows_of_all_splits_arrive_in_the_schema(name: str, tmp_path: Path) -> None:
    rows = load(name, tmp_path / name)
    assert list(rows[0]) == list(COLUMNS)
    found = [(row["lang"], row["split"]) for row in rows]
    for lang in PAIRS[name]:
        expected = {"train": ROWS["train"], "dev": ROWS["validation"], "test": ROWS["test"]}
        if name == "xquad":
            expected = {"train": 5 if lang == "en" else 24, "dev": 4, "test": 12}
        if name == "tydiqa":
            expected = {"train": 36, "dev": 4, "test": 10}
        assert {split: found.count((lang, split)) for split in ("train", "dev", "test")} == expected
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(type(value) is str for row in rows for value in row.values())


def test_xnli_is_a_pair_of_sentences_with_the_names_of_its_classes(tmp_path: Path) -> None:
    rows = load("xnli", tmp_path)
    assert rows[1] == full_row(
        id="en-train-1",
        lang="en",
        split="train",
        text="en premise train 1",
        text_pair="en hypothesis train 1",
        label="neutral",
        group="train-1",
    )
    english = [row["label"] for row in rows if (row["lang"], row["split"]) == ("en", "train")]
    assert english == ["entailment", "neutral", "contradiction", "entailment", "neutral"]


def test_xnli_rows_align_line_by_line_within_a_split(tmp_path: Path) -> None:
    by_group: dict[str, list[str]] = {}
    for row in load("xnli", tmp_path):
        by_group.setdefault(row["group"], []).append(row["text"])
    assert len(by_group) == sum(ROWS.values())
    assert by_group["dev-2"] == ["en premise validation 2", "de premise validation 2"]
    assert by_group["test-2"] == ["en premise test 2", "de premise test 2"]


def test_massive_aligns_by_id_whatever_the_order(tmp_path: Path) -> None:
    rows = load("massive", tmp_path)
    texts = {(row["lang"], row["group"]): row["text"] for row in rows}
    assert texts["en", "train-3"] == "en utterance train 3"
    german = [row for row in rows if row["lang"] == "de"]
    assert [row["group"] for row in german[:5]] != [f"train-{i}" for i in range(5)]
    for row in german:
        assert texts["en", row["group"]] == row["text"].replace("de ", "en ", 1)
    assert {row["label"] for row in rows} == {"alarm_set", "play_music", "weather_query"}
    assert {row["text_pair"] for row in rows} == {""}


def test_sib200_topics_and_numbered_ids(tmp_path: Path) -> None:
    rows = load("sib200", tmp_path)
    english, german = rows[1], rows[sum(ROWS.values()) + 1]
    assert (english["label"], english["group"], english["id"]) == ("science/technology", "train-1", "en-train-1")
    assert (german["label"], german["group"], german["id"]) == ("science/technology", "train-1", "de-train-1")


def test_amazon_reviews_name_the_stars_and_align_nothing(tmp_path: Path) -> None:
    rows = load("amazon_reviews", tmp_path)
    assert [row["label"] for row in rows[:5]] == ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]
    assert {row["group"] for row in rows} == {""}
    assert rows[0]["id"] == "en-train-en_train_0000000"


def test_tweet_sentiment_keeps_numbers_that_are_text_and_names_those_that_are_not(tmp_path: Path) -> None:
    assert [row["label"] for row in load("tweet_sentiment", tmp_path / "text")[:4]] == ["0", "1", "2", "0"]

    def numbered(lang: str, split: str, n: int) -> Dataset:
        return tweet_sentiment(lang, split, n).cast_column("label", Value("int64"))

    rows = corpus("tweet_sentiment", lay_out(tmp_path / "numbers", "tweet_sentiment", numbered)).load(["de"])
    assert rows["label"][:4] == ["negative", "neutral", "positive", "negative"]
    assert set(rows["group"]) == {""}


def test_pawsx_is_a_pair_of_sentences_aligned_by_id(tmp_path: Path) -> None:
    rows = load("pawsx", tmp_path)
    german = sum(ROWS.values())
    assert rows[1] == full_row(
        id="en-train-2",
        lang="en",
        split="train",
        text="en first train 1",
        text_pair="en second train 1",
        label="1",
        group="train-2",
    )
    assert [row["group"] for row in rows[:german]] == [row["group"] for row in rows[german:]]
    assert len({row["group"] for row in rows}) == german  # the same id in another split is another pair


def test_masakhanews_reads_headlines_and_can_read_articles(tmp_path: Path) -> None:
    rows = load("masakhanews", tmp_path / "headlines")
    assert (rows[1]["text"], rows[1]["text_pair"], rows[1]["label"]) == ("en headline train 1", "", "health")
    assert {row["group"] for row in rows} == {""}
    articles = load("masakhanews", tmp_path / "articles", columns={"text": "text"})
    assert articles[1]["text"].startswith("en article train 1. en article")


@pytest.mark.parametrize("name", HUB)
def test_limit_is_per_language_and_split(name: str, tmp_path: Path) -> None:
    found = [(row["lang"], row["split"]) for row in load(name, tmp_path, limit=4)]
    for lang in PAIRS[name]:
        dev = 4 if name in ONE_SPLIT else 3
        assert [found.count((lang, split)) for split in ("train", "dev", "test")] == [4, dev, 4]


@pytest.mark.parametrize("name", HUB)
def test_unknown_language_is_refused_before_anything_is_read(name: str) -> None:
    with pytest.raises(UserError) as caught:
        corpus(name, Path("/nowhere")).load([PAIRS[name][0], "tlh"])
    message = str(caught.value)
    assert "/nowhere has no language 'tlh'" in message
    assert "Choose from: " in message
    assert PAIRS[name][1] in message
    assert "+corpus.languages.tlh=CONFIGURATION" in message


def test_a_language_can_be_added_as_the_message_says(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, "sib200")
    rows = corpus("sib200", folder, languages={"de-AT": "deu_Latn"}).load(["de-AT"])
    assert set(rows["lang"][:]) == {"de-AT"}
    assert rows["text"][0] == "de sentence train 0"


@pytest.mark.parametrize("name", HUB)
def test_missing_column_names_the_ones_there_are(name: str, tmp_path: Path) -> None:
    wanted = HUB[name].columns.label

    def renamed(lang: str, split: str, n: int) -> Dataset:
        return LOOK_ALIKES[name](lang, split, n).rename_column(wanted, "gold")

    with pytest.raises(UserError) as caught:
        corpus(name, lay_out(tmp_path, name, renamed)).load(list(PAIRS[name]))
    message = str(caught.value)
    assert f"{tmp_path} ({HUB[name].languages[PAIRS[name][0]]}) has no column {wanted!r}" in message
    assert "gold" in message
    assert "corpus.columns" in message


def test_both_columns_of_a_sentence_pair_are_required(tmp_path: Path) -> None:
    def renamed(lang: str, split: str, n: int) -> Dataset:
        return xnli(lang, split, n).rename_columns({"premise": "sentence1", "hypothesis": "sentence2"})

    with pytest.raises(UserError, match="has no column 'premise', 'hypothesis'; it has sentence1, sentence2, label"):
        corpus("xnli", lay_out(tmp_path, "xnli", renamed)).load(["en"])


def test_a_hidden_label_is_no_label(tmp_path: Path) -> None:
    """The hub's habit for test sets without labels: the class -1."""

    def hidden(lang: str, split: str, n: int) -> Dataset:
        rows = xnli(lang, split, n)
        return rows.map(lambda row: {"label": -1 if split == "test" else row["label"]}, features=rows.features)

    rows = corpus("xnli", lay_out(tmp_path, "xnli", hidden)).load(["en"])
    assert {row["label"] for row in rows if row["split"] == "test"} == {""}
    assert "" not in {row["label"] for row in rows if row["split"] == "train"}


def test_more_labels_than_names(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, "amazon_reviews")
    with pytest.raises(UserError, match=r"a label 2, and names for 0 to 1 only: bad, good.*corpus\.labels=\[bad,good"):
        corpus("amazon_reviews", folder, labels=["bad", "good"]).load(["en"])


def test_tokens_become_words_and_tags(tmp_path: Path) -> None:
    for name in ("wikiann", "masakhaner"):
        rows = load(name, tmp_path / name)
        source = PAIRS[name][0]
        assert (rows[1]["text"], rows[1]["label"]) == (f"{source}1 Name train Ort", "B-PER I-PER O B-LOC")
        assert all(TokenClassification.problem(row) is None for row in rows)


@pytest.mark.parametrize("name", ["xquad", "mlqa", "tydiqa"])
def test_answers_stand_where_they_are_said_to(name: str, tmp_path: Path) -> None:
    rows = load(name, tmp_path)
    assert all(QuestionAnswering.problem(row) is None for row in rows)
    assert json.loads(rows[0]["label"])[0]["text"] == "living room"
    assert "where is lamp" in rows[0]["text"]
    assert "in the living room" in rows[0]["text_pair"]


def test_english_learns_from_squad_and_xquad_is_cut_into_splits(tmp_path: Path) -> None:
    rows = load("xquad", tmp_path)
    assert {row["text_pair"].split()[2] for row in rows if row["split"] == "train" and row["lang"] == "en"} == {"train"}
    german = [row["id"].rpartition("-")[2] for row in rows if row["lang"] == "de"]
    assert german == [str(n) for n in range(40)]  # no row twice, none left out


def test_a_share_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'validation\[5:\]' is no split. Write validation, or a share"):
        corpus("xnli", lay_out(tmp_path, "xnli"), splits={"train": "validation[5:]"}).load(["en"])


def test_fleurs_recordings_are_heard_and_aligned_whoever_reads_them(tmp_path: Path) -> None:
    rows = load("fleurs", tmp_path)
    english = [row for row in rows if (row["lang"], row["split"]) == ("en", "train")]
    assert [row["group"] for row in english] == ["train-0", "train-0", "train-1", "train-1", "train-2"]
    assert english[0]["label"] == english[0]["text"] == "en sentence train a"
    assert english[0]["audio"] != english[1]["audio"]  # two readers
    assert {row["group"] for row in rows if row["lang"] == "de"} == {
        row["group"] for row in rows if row["lang"] == "en"
    }
    assert len(waveform(english[0]["audio"])) == 16_000


def test_two_recordings_of_a_sentence_are_two_rows_and_never_on_both_sides(tmp_path: Path) -> None:
    rows = corpus("fleurs", lay_out(tmp_path, "fleurs")).load(["en", "de"])
    clean, report = cleaned(rows)
    assert len(clean) == len(rows)
    assert not report.dropped
    again = datasets.concatenate_datasets([rows, rows.map(lambda row: {"id": row["id"] + "-again"})])
    assert len(cleaned(again)[0]) == len(rows)  # the same recordings
    mixed = rows.map(lambda row: {"text": "the same everywhere"})
    assert set(cleaned(mixed)[0]["split"]) == {"test"}


def test_common_voice_recordings_are_brought_down_to_the_rate_that_models_hear(tmp_path: Path) -> None:
    rows = load("common_voice", tmp_path)
    assert rows[0]["text"] == rows[0]["label"] == "En sentence, “train” a!"
    assert rows[0]["audio"].partition("#")[0].endswith(".mp3")
    assert abs(len(waveform(rows[0]["audio"])) - 16_000) < 1500  # MP3 pads
    assert {row["group"] for row in rows} == {""}


def bad_recordings(lang: str, split: str, n: int) -> Dataset:
    """One is empty, one is corrupt, one has a telephone's rate."""
    cells = [recording(i, 16_000, "wav") for i in range(n)]
    if split == "train" and lang == "de":
        cells[0]["bytes"], cells[1]["bytes"] = b"", b"RIFF and then nonsense" * 50
        cells[2] = recording(0, 8_000, "wav")
    return (
        fleurs(lang, split, n)
        .remove_columns("audio")
        .add_column("audio", cells)
        .cast_column("audio", Audio(decode=False))
    )


def test_bad_recordings_are_refused_by_name_or_left_out_and_counted(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, "fleurs", bad_recordings)
    pair = Pair("en", ["de"], "zero_shot")
    with pytest.raises(UserError, match=r"row 'de-train-0'.*it is empty.*skip_bad_rows=true"):
        load_rows(corpus("fleurs", folder), Cleaning(), pair, None, task=SpeechRecognition())
    rows = load_rows(corpus("fleurs", folder, skip_bad_rows=True), Cleaning(), pair, None, task=SpeechRecognition())
    assert rows.cleaning.dropped == {"de": {"bad": 3}}
    assert {row_id for row_id in rows.train["id"] if row_id.startswith("de")} == {"de-train-3", "de-train-4"}


def test_a_row_without_a_recording_is_bad(tmp_path: Path) -> None:
    def silent(lang: str, split: str, n: int) -> Dataset:
        silence = fleurs(lang, split, n).remove_columns("audio").add_column("audio", [None] * n)
        return silence.cast_column("audio", Audio(decode=False))

    rows = corpus("fleurs", lay_out(tmp_path, "fleurs", silent)).load(["en"])
    assert SpeechRecognition.problem(rows[0]) == "it has no sound."


@pytest.mark.parametrize("content", [b"PAR1", b"\x1f\x8bnone", b"", b"\xff\xfea"])
@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_what_datasets_cannot_load_is_told(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / "rows").write_bytes(content)
    hub = Hub(
        kind,
        {"en": "default"},
        {"text": "text", "label": "label"},
        {"train": "train"},
        load_options={"data_files": {"train": str(tmp_path / "rows")}},
    )
    with pytest.raises(UserError, match=rf"corpus: {kind}, train of 'en': `datasets` cannot load it \(|has no column"):
        hub.load(["en"])
