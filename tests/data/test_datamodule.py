"""From rows to batches: two tokenizers, hidden labels, soft labels found by id; and the checks of `load_rows`."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distilingua.columns import Encoded
from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.cleaning import Cleaning
from distilingua.data.datamodule import LiveTeacher, MultilingualDataModule, TeacherOutputs
from distilingua.data.encoder import Encoder
from distilingua.data.pairing import pair_rows
from distilingua.data.protocol import Pair
from distilingua.data.rows import Rows, load_rows
from distilingua.errors import UserError
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.text_classification import TextClassification
from distilingua.training.soft_labels import Store, StoredSoftLabels
from tests.conftest import with_names

LABELS = ["light", "music", "weather"]
WORDS = {"en": ["lamp", "song", "rain"], "de": ["Lampe", "Lied", "Regen"]}
PHRASES = {
    "en": ["the {}", "please check the {} in room {}", "{} number {}"],
    "de": ["{}", "bitte prüfe {} im Zimmer {}", "jetzt {} Nummer {}"],
}
Batch = dict[str, Any]


def row(lang: str, split: str, n: int) -> dict[str, str]:
    text = PHRASES[lang][n % 2 + n % 3 // 2].format(WORDS[lang][n % 3], f"{n} {'and so on ' * (n % 5)}".strip())
    return {
        "id": f"{lang}-{split}-{n}",
        "lang": lang,
        "split": split,
        "text": f"{text} {n}",
        "label": LABELS[n % 3],
        "group": f"{split}-{n}",
        "block": LABELS[n % 3],
    }


@dataclass
class Handwritten:
    """A corpus of given rows."""

    rows: list[dict[str, str]]

    def check(self, languages: list[str]) -> None: ...

    def load(self, languages: list[str]) -> Dataset:
        return dataset_from_rows(row for row in self.rows if row["lang"] in languages)


def corpus() -> Handwritten:
    """30 training, 8 parallel, 6 dev and 6 test rows per language."""
    sizes = {"train": 30, "parallel": 8, "dev": 6, "test": 6}
    first = {"train": 0, "parallel": 100, "dev": 200, "test": 300}
    found = [row(lang, split, first[split] + n) for lang in WORDS for split, size in sizes.items() for n in range(size)]
    for r in found:
        r["group"] = r["group"].replace("train-", "k").replace("parallel-", "k")
        if r["lang"] == "de" and r["split"] == "train":
            r["group"] = f"k{100 + int(r['id'].rpartition('-')[2]) % 8}"  # means what an English parallel text means
    return Handwritten(found)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return load_rows(corpus(), Cleaning(), Pair("en", ["de"]), ["en"])


@pytest.fixture(scope="module")
def student_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([r["text"] for r in corpus().rows], 120)


@pytest.fixture(scope="module")
def teacher_tokenizer() -> PreTrainedTokenizerBase:
    """English only, and of another size: its ids mean nothing to the student."""
    return train_tokenizer([r["text"] for r in corpus().rows if r["lang"] == "en"], 60)


@pytest.fixture
def task() -> TextClassification:
    return TextClassification(name="intent", max_length=16).fit_labels(LABELS)


def module(
    rows: Rows,
    task: TextClassification,
    tokenizer: PreTrainedTokenizerBase,
    outputs: TeacherOutputs | None = None,
    **given: Any,
) -> MultilingualDataModule:
    data = MultilingualDataModule(rows.train, rows.dev, Encoder(task, tokenizer), outputs, **{"batch_size": 6, **given})
    data.setup("fit")
    return data


def batches(data: MultilingualDataModule, epoch: int = 0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def names(data: MultilingualDataModule, batch: Batch) -> list[str]:
    """Names of the rows of a batch."""
    return data.ids(batch, batch["rows"].numpy())


def partners(rows: Rows) -> dict[str, list[str]]:
    """Names of the texts that the teacher reads for each training row."""
    return {row["id"]: row["teacher_rows"] for row in with_names(rows.train, rows.table)}


def read(ids: Tensor, mask: Tensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [tokenizer.decode(i[m.bool()], skip_special_tokens=True) for i, m in zip(ids, mask, strict=True)]


def store(folder: Path, rows: Rows) -> tuple[StoredSoftLabels, dict[str, np.ndarray]]:
    """A store of random logits, in an order of its own."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(rows.table))
    logits = rng.normal(size=(len(order), len(LABELS))).astype(np.float32)
    folder.mkdir()
    np.save(folder / "logits.npy", logits)
    np.save(folder / "offsets.npy", np.arange(len(order) + 1))
    (folder / "index.json").write_text(json.dumps({"texts": len(order), "width": len(LABELS)}))
    (folder / "recipe.json").write_text("{}")
    task = TextClassification().fit_labels(LABELS)
    panel = StoredSoftLabels([Store(folder, {})], [1.0], task, rows.table, [np.argsort(order)])
    names = rows.table["id"][:]
    return panel, {names[number]: answer for number, answer in zip(order, logits, strict=True)}


# --- the student's view -----------------------------------------------------------------------------------------------


def test_a_batch_reads_what_its_rows_say(rows: Rows, task: TextClassification, student_tokenizer: Any) -> None:
    texts = dict(zip(rows.train["id"][:], rows.train["text"][:], strict=True))
    seen = []
    data = module(rows, task, student_tokenizer)
    for batch in batches(data):
        student = batch["student"]
        assert student["input_ids"].shape == student["attention_mask"].shape
        expected = [
            student_tokenizer.decode(
                student_tokenizer(texts[i], truncation=True, max_length=16)["input_ids"], skip_special_tokens=True
            )
            for i in names(data, batch)
        ]
        assert read(student["input_ids"], student["attention_mask"], student_tokenizer) == expected
        seen += names(data, batch)
    assert len(seen) == len(set(seen)) == len(texts) // 6 * 6


def test_padding_is_on_the_right_and_no_longer_than_needed(rows: Rows, task: Any, student_tokenizer: Any) -> None:
    lengths = set()
    data = module(rows, task, student_tokenizer)
    for batch in batches(data):
        ids, mask = batch["student"]["input_ids"], batch["student"]["attention_mask"]
        assert (ids[:, 0] == student_tokenizer.bos_token_id).all()
        assert (mask.diff(dim=1) <= 0).all()  # ones, then zeros
        assert (ids[mask == 0] == student_tokenizer.pad_token_id).all()
        assert (ids[mask == 1] != student_tokenizer.pad_token_id).all()
        assert mask.sum(1).max() == mask.shape[1] <= 16
        lengths.add(mask.shape[1])
    assert len(lengths) > 1


def test_labels_that_may_not_be_seen_are_minus_100(rows: Rows, task: Any, student_tokenizer: Any) -> None:
    truth = {r["id"]: r["label"] for r in corpus().rows}
    hidden = shown = 0
    data = module(rows, task, student_tokenizer)
    for batch in batches(data):
        for row_id, label in zip(names(data, batch), batch["labels"].tolist(), strict=True):
            if row_id.startswith("en-train"):
                assert LABELS[label] == truth[row_id]
                shown += 1
            else:
                assert label == -100
                hidden += 1
    assert min(hidden, shown) > 20


def test_dev_loaders_keep_labels_and_put_like_lengths_together(rows: Rows, task: Any, student_tokenizer: Any) -> None:
    data = module(rows, task, student_tokenizer, eval_batch_size=4)
    assert data.languages == ["en", "de"]
    for lang, loader in zip(data.languages, data.val_dataloader(), strict=True):
        found = list(loader)
        assert [len(names(data, batch)) for batch in found] == [4, 2]
        found_ids = [i for batch in found for i in names(data, batch)]
        labels = [LABELS[n] for batch in found for n in batch["labels"].tolist()]
        assert dict(zip(found_ids, labels, strict=True)) == dict(
            zip(rows.dev[lang]["id"][:], rows.dev[lang]["label"][:], strict=True)
        )
        lengths = [int(n) for batch in found for n in batch["student"]["attention_mask"].sum(1)]
        assert lengths == sorted(lengths)


def test_sentence_pairs_prefix_and_length(task: TextClassification, student_tokenizer: Any) -> None:
    pairs = dataset_from_rows([{"id": "1", "text": "the lamp", "text_pair": "the song in room 3 " * 5}])
    single = dataset_from_rows([{"id": "1", "text": "the lamp"}])
    with_pair = Encoder(task, student_tokenizer)(pairs, None)[0]["input_ids"]
    [with_prefix] = Encoder(TextClassification().fit_labels(LABELS), student_tokenizer, "please check ")(single, None)
    assert with_prefix["input_ids"] == student_tokenizer("please check the lamp")["input_ids"]
    assert len(with_pair) == 16
    assert with_pair.count(student_tokenizer.eos_token_id) == 2
    assert student_tokenizer.decode(with_pair, skip_special_tokens=True).startswith("the lamp the song")


# --- the teacher's view -----------------------------------------------------------------------------------------------


def test_a_live_teacher_reads_the_aligned_text_in_its_own_pieces(
    rows: Rows, task: TextClassification, student_tokenizer: Any, teacher_tokenizer: Any
) -> None:
    teacher_tokenizer = copy.deepcopy(teacher_tokenizer)
    teacher_tokenizer.pad_token = teacher_tokenizer.mask_token  # padding has another number than the student's
    pad_id, encoder = teacher_tokenizer.pad_token_id, Encoder(task, teacher_tokenizer)
    encoded = encoder(rows.table, None)
    tokens = dict(zip(rows.table["id"], encoded, strict=True))
    live = LiveTeacher(None, encoder, encoded, np.arange(len(rows.table)))
    data = module(rows, task, student_tokenizer, TeacherOutputs(live=live))
    partner = partners(rows)
    widths = set()
    for batch in batches(data):
        teacher = batch["teacher"]
        assert "soft_labels" not in batch
        assert batch["has_teacher"].all()
        for row_id, ids, mask in zip(names(data, batch), teacher["input_ids"], teacher["attention_mask"], strict=True):
            [read_id] = partner[row_id]
            assert ids[mask.bool()].tolist() == tokens[read_id]["input_ids"]
            assert (ids[mask == 0] == pad_id).all()
            assert read_id == row_id or read_id.startswith("en-parallel")
        widths.add((teacher["input_ids"].shape[1], batch["student"]["input_ids"].shape[1]))
    assert any(teacher != student for teacher, student in widths)


def test_soft_labels_are_found_by_id(rows: Rows, task: Any, student_tokenizer: Any, tmp_path: Path) -> None:
    soft_labels, logits = store(tmp_path / "store", rows)
    partner = partners(rows)
    reverse = rows.train.select(range(len(rows.train) - 1, -1, -1))
    forwards = module(rows, task, student_tokenizer, TeacherOutputs(soft_labels))
    backwards = MultilingualDataModule(
        reverse, rows.dev, Encoder(task, student_tokenizer), TeacherOutputs(soft_labels), batch_size=6
    )
    backwards.setup("fit")
    orders = []
    for data, epoch in ((forwards, 0), (forwards, 1), (backwards, 0)):
        found = batches(data, epoch)
        for batch in found:
            assert batch["soft_labels"].dtype == torch.float32
            expected = np.stack([logits[partner[i][0]] for i in names(data, batch)])
            assert np.array_equal(batch["soft_labels"].numpy(), expected)
        orders.append([i for batch in found for i in names(data, batch)])
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_rows_of_a_block_share_its_mean_probability(task: Any, student_tokenizer: Any, tmp_path: Path) -> None:
    rows = load_rows(corpus(), Cleaning(), Pair("en", ["de"], align="block"), ["en"])
    soft_labels, logits = store(tmp_path / "store", rows)
    read = partners(rows)
    averaged = 0
    data = module(rows, task, student_tokenizer, TeacherOutputs(soft_labels))
    for batch in batches(data):
        for row_id, found in zip(names(data, batch), batch["soft_labels"], strict=True):
            each = torch.from_numpy(np.stack([logits[i] for i in read[row_id]])).softmax(-1)
            assert torch.allclose(found.softmax(-1), each.mean(0), atol=1e-6)
            averaged += len(each) > 1
    assert averaged > 10


def test_rows_without_a_teacher_are_marked(task: Any, student_tokenizer: Any, tmp_path: Path) -> None:
    unaligned = corpus()
    for r in unaligned.rows:
        if r["lang"] == "de" and r["split"] == "train":
            r["group"] = ""
    rows = load_rows(unaligned, Cleaning(), Pair("en", ["de"], protocol="supervised"), ["en"])
    soft_labels, _ = store(tmp_path / "store", rows)
    without = 0
    tokens = Encoded.of([{"input_ids": [2, 7, 3], "lost": 0}] * len(rows.table))
    live = LiveTeacher(None, Encoder(task, student_tokenizer), tokens, np.arange(len(rows.table)))
    for outputs in (TeacherOutputs(soft_labels), TeacherOutputs(live=live)):
        data = module(rows, task, student_tokenizer, outputs)
    for batch in batches(data):
        expected = [not row_id.startswith("de-train") for row_id in names(data, batch)]
        assert batch["has_teacher"].tolist() == expected
        without += expected.count(False)
        if "soft_labels" in batch:
            assert batch["soft_labels"][~batch["has_teacher"]].isnan().all()
        else:
            assert (batch["teacher"]["attention_mask"].sum(1) > 0).all()  # no row of padding alone
    assert without > 20


def test_without_a_teacher_batches_carry_nothing_of_it(rows: Rows, task: Any, student_tokenizer: Any) -> None:
    lessons = rows.train.remove_columns("teacher_texts")
    data = MultilingualDataModule(lessons, rows.dev, Encoder(task, student_tokenizer), batch_size=6)
    data.setup("fit")
    for batch in batches(data):
        assert set(batch) == {"part", "rows", "student", "student_at", "labels", "counts", "has_teacher"}
        assert not batch["has_teacher"].any()


# --- tokenised text is kept -------------------------------------------------------------------------------------------


class Counting(TextClassification):
    """Counts the texts it tokenises."""

    texts = 0

    def encode(self, rows: Mapping[str, list[str]], *args: Any) -> Encoded:
        Counting.texts += len(rows["text"])
        return super().encode(rows, *args)


@pytest.fixture
def counting() -> TextClassification:
    Counting.texts = 0
    return Counting("intent", max_length=16).fit_labels(LABELS)


def test_text_is_tokenised_once(
    rows: Rows, counting: TextClassification, student_tokenizer: Any, tmp_path: Path
) -> None:
    first = module(rows, counting, student_tokenizer, cache=tmp_path)
    once = Counting.texts
    assert once == len(rows.train) + len(rows.dev["en"]) + len(rows.dev["de"])
    second = module(rows, counting, student_tokenizer, cache=tmp_path)
    assert Counting.texts == once
    assert list(second.train_rows.encoded) == list(first.train_rows.encoded)


def test_a_tokenizer_stays_the_same_by_being_used(student_tokenizer: PreTrainedTokenizerBase) -> None:
    before = Encoder(TextClassification(), student_tokenizer).fingerprint
    student_tokenizer(["a lamp", "a song and a lamp"], truncation=True, max_length=3, padding=True)
    assert Encoder(TextClassification(), student_tokenizer).fingerprint == before
    assert Encoder(TextClassification(), train_tokenizer(["another text"], 60)).fingerprint != before


def test_without_a_cache_nothing_is_kept(rows: Rows, counting: TextClassification, student_tokenizer: Any) -> None:
    for _ in range(2):
        Encoder(counting, student_tokenizer)(rows.dev["en"], None)
    assert Counting.texts == 2 * len(rows.dev["en"])


def test_whatever_shapes_the_pieces_makes_them_anew(
    rows: Rows, counting: TextClassification, student_tokenizer: Any, teacher_tokenizer: Any, tmp_path: Path
) -> None:
    dev = rows.dev["en"]
    shorter = Counting("intent", max_length=4).fit_labels(LABELS)
    other_text = dev.map(lambda r: {"text": r["text"] + "!"})
    other_order = dev.select(range(len(dev) - 1, -1, -1))
    results = []
    for text, task, tokenizer, prefix in (
        (dev, counting, student_tokenizer, ""),
        (dev, counting, teacher_tokenizer, ""),
        (dev, counting, student_tokenizer, "query: "),
        (dev, shorter, student_tokenizer, ""),
        (other_text, counting, student_tokenizer, ""),
        (other_order, counting, student_tokenizer, ""),
    ):
        before = Counting.texts
        found = Encoder(task, tokenizer, prefix)(text, tmp_path)
        assert Counting.texts == before + len(dev)
        assert list(found) == list(Encoder(task, tokenizer, prefix)(text, None))
        results.append(json.dumps(list(found)))
    assert len(set(results)) == len(results)


def test_kept_pieces_are_checked(
    rows: Rows, counting: TextClassification, student_tokenizer: Any, tmp_path: Path
) -> None:
    encoder, dev = Encoder(counting, student_tokenizer), rows.dev["en"]
    encoder(dev, tmp_path)
    (file,) = tmp_path.glob("tokens/*/input_ids.int32")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file} is damaged"):
        encoder(dev, tmp_path)


# --- resuming ---------------------------------------------------------------------------------------------------------


class Recorder(LightningModule):
    """Learns nothing, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.given: list[list[int]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.given.append(batch["rows"].tolist())
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@dataclass
class Save(Callback):
    """Saves a checkpoint after some step, or after an epoch."""

    file: Path
    step: int | None = None

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.step is None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.file)


def run(
    data: MultilingualDataModule, folder: Path, *callbacks: Callback, resume: Path | None = None
) -> list[list[int]]:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        limit_val_batches=0,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        default_root_dir=folder,
        **quiet,  # type: ignore[arg-type]
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=data, ckpt_path=resume, weights_only=True)
    return recorder.given


@pytest.mark.parametrize("step", [4, 12, 15, None], ids=["middle", "last batch", "second epoch", "end of epoch"])
def test_a_resumed_run_gets_the_batches_it_has_not_had(
    step: int | None, rows: Rows, task: Any, student_tokenizer: Any, tmp_path: Path
) -> None:
    whole = run(module(rows, task, student_tokenizer), tmp_path, Save(tmp_path / "last.ckpt", step))
    assert len(whole) == 3 * 12  # 76 rows in batches of 6
    resumed = run(module(rows, task, student_tokenizer), tmp_path, resume=tmp_path / "last.ckpt")
    assert resumed == whole[step or 12 :]
    assert whole[:12] != whole[12:24] != whole[24:]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_in_worker_processes(
    workers: int, rows: Rows, task: Any, student_tokenizer: Any, tmp_path: Path
) -> None:
    soft_labels, _ = store(tmp_path / "store", rows)
    alone = batches(module(rows, task, student_tokenizer, TeacherOutputs(soft_labels)))
    helped = batches(module(rows, task, student_tokenizer, TeacherOutputs(soft_labels), workers=workers))
    for one, other in zip(alone, helped, strict=True):
        for name in ("rows", "labels", "has_teacher", "soft_labels"):
            assert torch.equal(one[name], other[name])
        assert torch.equal(one["student"]["input_ids"], other["student"]["input_ids"])


# --- load_rows --------------------------------------------------------------------------------------------------------


def test_load_rows_returns_every_split_by_language(rows: Rows) -> None:
    assert rows.labels == LABELS
    for held_out, split in ((rows.dev, "dev"), (rows.test, "test")):
        assert list(held_out) == ["en", "de"]
        for lang, found in held_out.items():
            assert set(zip(found["lang"], found["split"], strict=True)) == {(lang, split)}
            assert len(found) == 6
            assert all(found["label"])
    assert set(rows.train["split"]) == {"train", "parallel"}
    expected, *_ = pair_rows(rows.texts, Pair("en", ["de"]), ["en"])
    assert rows.train.to_list() == expected.remove_columns("unusable").to_list()
    assert set(rows.texts["id"]) >= {name for names in partners(rows).values() for name in names}


def test_why_a_row_is_not_learnt_from_is_a_column() -> None:
    given = corpus()
    german = [r for r in given.rows if (r["lang"], r["split"]) == ("de", "train")]
    german[0]["text"] = german[1]["text"]
    german[2]["group"], german[3]["group"], german[4]["group"] = "nobody's", "dev-200", "k0"
    rows = load_rows(given, Cleaning(), Pair("en", ["de"]), ["en"])
    why = dict(zip(rows.table["id"], rows.table["why"], strict=True))
    assert [why[r["id"]] for r in german[1:6]] == [
        "duplicate",
        "no partner",
        "partner is dev or test",
        "partner is labelled training text",
        "",
    ]
    assert {row_id for row_id, reason in why.items() if not reason} == {
        *rows.train["id"], *(row_id for part in (*rows.dev.values(), *rows.test.values()) for row_id in part["id"])
    }  # fmt: skip


@pytest.mark.parametrize("split", ["train", "parallel", "dev", "test"])
def test_a_label_the_source_never_shows(split: str) -> None:
    strange = corpus()
    next(r for r in strange.rows if r["lang"] == "de" and r["split"] == split)["label"] = "heating"
    with pytest.raises(UserError) as caught:
        load_rows(strange, Cleaning(), Pair("en", ["de"]), None)
    message = str(caught.value)
    assert "'de' has labels that no 'en' training row has" in message
    assert "heating" in message
    assert "light, music, weather" in message
    assert "Rename them, or leave those rows out" in message


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_of_the_source_that_its_training_rows_lack(split: str) -> None:
    strange = corpus()
    next(r for r in strange.rows if r["lang"] == "en" and r["split"] == split)["label"] = "heating"
    with pytest.raises(UserError, match=r"'en' has labels that no 'en' training row has.*heating"):
        load_rows(strange, Cleaning(), Pair("en", ["de"]), None)


def test_unlabelled_target_text_is_welcome() -> None:
    unlabelled = corpus()
    for r in unlabelled.rows:
        if r["lang"] == "de" and r["split"] in ("train", "parallel"):
            r["label"] = ""
    rows = load_rows(unlabelled, Cleaning(), Pair("en", ["de"]), ["en"])
    assert rows.labels == LABELS
    assert rows.pairing.rows["de"] == 38


@pytest.mark.parametrize("split", ["dev", "test"])
def test_rows_without_a_label_are_not_judged(split: str) -> None:
    some, none = corpus(), corpus()
    for n, (r, s) in enumerate(zip(some.rows, none.rows, strict=True)):
        if (r["lang"], r["split"]) == ("de", split):
            r["label"] = "" if n % 2 else r["label"]
            s["label"] = ""
    found = load_rows(some, Cleaning(), Pair("en", ["de"]), None)
    assert len({"dev": found.dev, "test": found.test}[split]["de"]) == 3
    with pytest.raises(UserError, match=f"no {split} rows with a label for 'de' are left"):
        load_rows(none, Cleaning(), Pair("en", ["de"]), None)


@pytest.mark.parametrize(("lang", "split"), [("en", "train"), ("en", "dev"), ("de", "train"), ("de", "test")])
def test_an_empty_split(lang: str, split: str) -> None:
    short = corpus()
    for r in short.rows:
        if (r["lang"], r["split"]) == (lang, split):
            r["text"] = " <br> "
    with pytest.raises(UserError) as caught:
        load_rows(short, Cleaning(), Pair("en", ["de"]), None)
    message = str(caught.value)
    labelled = "" if split == "train" else " with a label"
    assert f"no {split} rows{labelled} for {lang!r} are left after cleaning" in message
    assert f"{lang}: 50 rows, dropped empty {30 if split == 'train' else 6}" in message
