"""What an augmentation may change, that it depends on seed, row and epoch alone, and who may use which."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hydra.utils import instantiate

from distilingua.checks import check
from distilingua.corpora.schema import dataset_from_rows
from distilingua.corpora.smart_home import SmartHome
from distilingua.data import augmentation
from distilingua.data.augmentation import (
    Augmentation,
    AugmentedRows,
    Carriers,
    CharacterNoise,
    CodeSwitching,
    SpanDeletion,
    SwapPair,
    WordDropout,
    make_augmentations,
)
from distilingua.data.datamodule import Lessons, MultilingualDataModule
from distilingua.data.encoder import Encoder
from distilingua.errors import UserError
from distilingua.parts import assemble
from tests.conftest import Compose, LengthEncoder

TEXT = "please turn on the lights in the kitchen and in the bathroom"


def texts(augmentation: Augmentation, text: str = TEXT, lang: str = "en", n: int = 200) -> list[str]:
    row = {"text": text, "text_pair": "", "lang": lang}
    return [augmentation(row, Random(i))["text"] for i in range(n)]


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


def test_word_dropout_leaves_out_words_in_place_and_never_all() -> None:
    found = texts(WordDropout(rate=0.3, probability=1.0))
    assert all(is_subsequence(text.split(), TEXT.split()) for text in found)
    dropped = [len(TEXT.split()) - len(text.split()) for text in found]
    assert sum(dropped) / len(dropped) == pytest.approx(0.3 * len(TEXT.split()), rel=0.15)
    assert all(texts(WordDropout(rate=1.0, probability=1.0), "turn it on"))


def test_span_deletion_leaves_out_one_run_of_at_most_that_share() -> None:
    words = TEXT.split()
    for text in texts(SpanDeletion(share=0.5, probability=1.0)):
        left = text.split()
        gone = len(words) - len(left)
        assert 1 <= gone <= len(words) // 2
        assert any(left == words[:i] + words[i + gone :] for i in range(len(left) + 1))
    assert set(texts(SpanDeletion(share=1.0, probability=1.0), "on")) <= {"o", "n"}  # a word alone is taken by letters
    assert set(texts(SpanDeletion(share=0.1, probability=1.0), "turn on")) == {"turn on"}


def test_text_without_spaces_is_taken_character_by_character() -> None:
    found = texts(WordDropout(rate=0.3, probability=1.0), "打开厨房的灯", "zh-CN")
    assert len(set(found)) > 10
    assert all(is_subsequence(list(text), list("打开厨房的灯")) for text in found)


def test_character_noise_keeps_short_words_and_first_letters() -> None:
    found = texts(CharacterNoise(rate=0.5, probability=1.0))
    assert len(set(found)) > 150
    for text in found:
        for before, after in zip(TEXT.split(), text.split(), strict=True):
            assert after[0] == before[0]
            assert after == before or len(before) > 3
    assert set(texts(CharacterNoise(rate=0.0, probability=1.0))) == {TEXT}


def test_each_kind_of_typing_error_occurs() -> None:
    found = set(texts(CharacterNoise(rate=0.3, probability=1.0), "lamp", n=500))
    assert {"llamp"} & found == set()  # the first letter is never doubled
    assert {"laamp", "lmp", "lmap"} <= found  # doubled, left out, swapped


def test_probability_is_that_of_changing_a_row() -> None:
    changed = sum(text != TEXT for text in texts(WordDropout(rate=0.9, probability=0.25), n=2000))
    assert changed / 2000 == pytest.approx(0.25, abs=0.03)
    with pytest.raises(UserError, match=r"probability=1\.5 is outside \[0, 1\]"):
        WordDropout(probability=1.5)


def test_swapping_exchanges_the_sentences_of_a_pair_only() -> None:
    row = {"text": "It rains", "text_pair": "It is wet", "lang": "en"}
    assert SwapPair(1.0)(row, Random(0)) == {"text": "It is wet", "text_pair": "It rains", "lang": "en"}
    assert row["text"] == "It rains"
    alone = {"text": "It rains", "text_pair": "", "lang": "en"}
    assert SwapPair(1.0)(alone, Random(0)) == alone


def test_code_switching_uses_the_aligned_words_of_the_corpus() -> None:
    switch = CodeSwitching(rate=1.0, probability=1.0)
    switch.connect(SmartHome(), ["en", "de", "zh-CN"])
    words = SmartHome().lexicon(["en", "de", "zh-CN"])
    kettle, room = (words["en"].index(word) for word in ("kettle", "living room"))
    assert set(texts(switch, "turn on the kettle in the Living Room")) == {
        f"turn on the {words[x][kettle]} in the {words[y][room]}" for x in ("de", "zh-CN") for y in ("de", "zh-CN")
    }
    assert set(texts(switch, "an office", n=20)).isdisjoint({"an office"})
    assert set(texts(switch, "backoffice", n=20)) == {"backoffice"}  # not inside another word


def test_code_switching_finds_words_in_text_without_spaces(tmp_path: Path) -> None:
    (tmp_path / "words.tsv").write_text("en\tzh-CN\nkitchen\t厨房\nlamp\t灯\n", "utf-8")
    switch = CodeSwitching(rate=1.0, probability=1.0, lexicon=str(tmp_path / "words.tsv"))
    switch.connect(None, ["en", "zh-CN"])
    assert texts(switch, "打开厨房的灯", "zh-CN", n=1) == ["打开kitchen的lamp"]
    assert texts(switch, "the Kitchen lamp", "en", n=1) == ["the 厨房 灯"]


def test_code_switching_says_which_words_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this corpus brings no aligned words"):
        CodeSwitching().connect(object(), ["en", "de"])
    with pytest.raises(UserError, match="no such file"):
        CodeSwitching(lexicon="nowhere.tsv").connect(None, ["en"])
    (tmp_path / "words.tsv").write_text("en\tfr\nlamp\tlampe\n", "utf-8")
    with pytest.raises(UserError, match="no words in de; it has en, fr"):
        CodeSwitching(lexicon=str(tmp_path / "words.tsv")).connect(None, ["en", "de"])


def lessons(n: int = 20, **changed: Any) -> Lessons:
    """Rows that a teacher reads themselves, but for what is changed: number -> what it reads instead."""
    rows = [
        {
            "id": f"row-{i}",
            "lang": "en",
            "text": f"{TEXT} {i}",
            "number": i,
            "teacher_texts": [changed.get(f"row{i}", i)],
        }
        for i in range(n)
    ]
    encoder: Any = LengthEncoder()
    return Lessons(dataset_from_rows(rows), encoder, None)


lengths = LengthEncoder().changed


def test_changes_depend_on_seed_row_and_epoch_alone() -> None:
    def read(order: list[int], epoch: int, seed: int = 3) -> dict[str, str]:
        rows = AugmentedRows(lessons(), {"noise": CharacterNoise(0.3, 1.0)}, lengths, None, seed)
        return {row["id"]: row["text"] for row in rows.__getitems__([(i, epoch) for i in order]).texts}

    forwards = read(list(range(20)), 1)
    assert read(list(reversed(range(20))), 1) == forwards
    assert {**read([3, 5], 1), **read([7], 1)} == {name: forwards[name] for name in ("row-3", "row-5", "row-7")}
    assert all(read(list(range(20)), 2)[name] != text for name, text in forwards.items())
    assert read(list(range(20)), 1, seed=4) != forwards


def test_a_live_teacher_reads_what_may_have_changed_its_meaning() -> None:
    given = lessons(40, row0=7)
    changing = AugmentedRows(given, {"drop": WordDropout(0.5, 0.5)}, lengths, lengths, 0)
    batch = changing.__getitems__([(i, 0) for i in range(40)])
    for n, (before, after) in enumerate(zip(given.rows, batch.texts, strict=True)):
        read_anew = after["text"] != before["text"] and before["id"] != "row-0"
        assert batch.teacher_reads.get(n) == ({"input_ids": [len(after["text"])]} if read_anew else None)
        assert batch.encoded[n]["input_ids"] == [len(after["text"])]
    keeping = AugmentedRows(given, {"noise": CharacterNoise(0.5, 1.0)}, lengths, lengths, 0)
    assert keeping.__getitems__([(i, 0) for i in range(40)]).teacher_reads is None


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_in_worker_processes_and_change_with_the_epoch(tiny_run, workers: int) -> None:  # type: ignore[no-untyped-def]
    from distilingua.data.rows import load_rows

    cfg = tiny_run("augmentation=[char_noise]", "augmentation.char_noise.probability=1")
    rows = load_rows(instantiate(cfg.corpus), instantiate(cfg.cleaning), instantiate(cfg.pair), ["en"])
    task = instantiate(cfg.task).fit_labels(rows.labels)
    tokenizer = instantiate(cfg.student).tokenizer(rows.train, Path(cfg.paths.cache))
    augmentations = make_augmentations(cfg.augmentation, None, ["en", "de"])

    def read(workers: int) -> list[list[list[int]]]:
        data = MultilingualDataModule(
            rows.train, rows.dev, Encoder(task, tokenizer), batch_size=16, workers=workers, augmentations=augmentations
        )
        data.setup("fit")
        loader = data.train_dataloader()
        found = []
        for epoch in range(2):
            loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
            by_id: dict[int, list[int]] = {}
            for batch in loader:
                by_id |= dict(zip(batch["rows"].tolist(), batch["student"]["input_ids"].tolist(), strict=True))
            found.append([[x for x in by_id[i] if x] for i in sorted(by_id)])
        return found

    first, second = read(workers)
    assert [first, second] == read(0)
    assert first != second


def test_an_augmentation_that_may_change_the_meaning_needs_a_teacher_that_reads_it(tiny_run) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"augmentation=word_dropout may change .* Set teacher\.store=false"):
        check(tiny_run("augmentation=[word_dropout]", "teacher.store=true"))
    with pytest.raises(UserError, match=r"this teacher reads an aligned sentence"):
        check(tiny_run("augmentation=[word_dropout]"))
    check(tiny_run("augmentation=[word_dropout]", "teacher.languages=null"))
    check(tiny_run("augmentation=[word_dropout]", "augmentation.word_dropout.keeps_meaning=true"))
    check(tiny_run("augmentation=[word_dropout]", "objective=direct"))
    check(tiny_run("augmentation=[char_noise]"))
    with pytest.raises(UserError, match="brings no aligned words"):
        check(tiny_run("augmentation=[code_switching]"))


def test_carriers_stand_around_a_request_and_leave_its_words() -> None:
    carriers = Carriers(1.0)
    known = yaml.safe_load(Path(augmentation.__file__).with_name("carriers.yaml").read_text("utf-8"))
    assert all(set(each) == {"before", "after", "inside"} and all(each.values()) for each in known.values())
    for lang, said in (("en", "turn on the light"), ("pt-BR", "apague a luz"), ("de", "aus")):
        made = set(texts(carriers, said, lang))
        assert said not in made
        assert len(made) > 50
        assert all(is_subsequence(said.split(), text.split()) for text in made)
    assert set(texts(carriers, "poista", "fi")) == {"poista"}


def test_students_of_requests_read_them_unless_a_term_compares_pieces(compose_run: Compose) -> None:
    made = {
        terms: assemble(compose_run(*terms)).augmentations
        for terms in [(), ("task.carriers=0",), ("objective=custom", "objective/terms=[minilm]"), ("task=sentiment",)]
    }
    assert [list(each) for each in made.values()] == [["carriers"], [], [], []]
    with pytest.raises(UserError, match=r"task\.carriers=2 is outside \[0, 1\]"):
        assemble(compose_run("task.carriers=2"))
