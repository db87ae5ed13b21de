"""Translation: what an encoder-decoder reads and writes, and how it is judged, with tiny models of every make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distilingua.columns import Encoded
from distilingua.data.encoder import Encoder
from distilingua.distillation.losses.ce import IGNORE_INDEX
from distilingua.errors import UserError
from distilingua.models.loading import load_student
from distilingua.models.pretrained import Pretrained
from distilingua.models.seq2seq import Seq2Seq
from distilingua.models.teacher import load_model
from distilingua.tasks.task import PADDING
from distilingua.tasks.translation import Translation

TEXTS = ["turn the light on", "turn the light off please", "how warm is it", "open the door", "close the door now"]
GERMAN = ["mach das Licht an", "mach das Licht aus bitte", "wie warm ist es", "öffne die Tür", "schließe jetzt die Tür"]
ROWS = Dataset.from_dict({"text": TEXTS, "label": GERMAN, "lang": ["en"] * len(TEXTS)})
SHAPE = {"d_model": 32, "max_position_embeddings": 64, "encoder_layers": 1, "decoder_layers": 1}
SHAPE |= {
    f"{side}_{size}": n for side in ("encoder", "decoder") for size, n in (("attention_heads", 2), ("ffn_dim", 64))
}
SHAPE |= {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
SHAPE |= {"scale_embedding": True, "init_std": 32**-0.5}  # learns faster
CODES = {
    "nllb": {"into": "deu_Latn", "codes": {"en": "eng_Latn", "fr": "fra_Latn"}},
    "mbart": {"into": "de_DE", "codes": {"en": "en_XX", "fr": "fr_XX"}},
    "m2m_100": {"into": "de", "codes": {"en": "en", "fr": "fr"}},
}


@pytest.fixture
def student() -> Seq2Seq:
    return Seq2Seq(1, 32, 2, 64, vocabulary=100, positions=64, dropout=0.0, decoder_layers=1)


@pytest.fixture
def tokenizer(student: Seq2Seq, tmp_path: Path) -> PreTrainedTokenizerBase:
    return student.tokenizer(ROWS, tmp_path)


def learn(
    task: Translation,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    steps: int = 150,
    rows: Dataset = ROWS,
) -> float:
    """Trains until the model knows the rows by heart; returns the last loss, in nats per piece."""
    encoded = task.encode(rows[:], tokenizer, "")
    inputs, at = task.collate(encoded, tokenizer.pad_token_id)
    labels = task.collate_labels(task.targets(rows, encoded))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    model.train()
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(task.cells(model(**inputs), at), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    return float(loss.detach())


def translate(
    task: Translation, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset = ROWS
) -> list[str]:
    """Of rows that hide their labels."""
    hidden = rows.remove_columns("label").add_column("label", [""] * len(rows))
    encoded = task.encode(hidden[:], tokenizer, "")
    inputs, at = task.collate(encoded, tokenizer.pad_token_id)
    with torch.inference_mode():
        answers = task.answer(model, inputs, at)
    return [task.decode(*each, tokenizer) for each in zip(answers, hidden, encoded, strict=True)]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_row_has_one_position_for_every_piece_of_its_translation(tokenizer: PreTrainedTokenizerBase) -> None:
    task = Translation()
    rows = {"text": TEXTS[:2], "label": [GERMAN[0], ""], "lang": ["en", "en"]}
    shown, hidden = task.encode(rows, tokenizer, prefix="")
    assert shown["input_ids"] == tokenizer(TEXTS[0])["input_ids"]
    assert shown["target_ids"] == tokenizer(GERMAN[0])["input_ids"]
    assert shown["target_ids"][-1] == tokenizer.eos_token_id
    assert task.positions(Encoded.of([shown, hidden])).tolist() == [len(shown["target_ids"]), 0]


def test_both_sides_are_cut_and_still_end(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {"text": [TEXTS[0] * 9], "label": [GERMAN[0] * 9], "lang": ["en"]}
    (row,) = Translation(max_length=8).encode(rows, tokenizer, prefix="")
    assert len(row["input_ids"]) == len(row["target_ids"]) == 8
    assert row["input_ids"][-1] == row["target_ids"][-1] == tokenizer.eos_token_id
    assert row["lost"] == len(tokenizer(rows["text"][0])["input_ids"]) - 8


def test_the_prefix_is_for_the_text_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {"text": ["the door"], "label": ["die Tür"], "lang": ["en"]}
    (row,) = Translation().encode(rows, tokenizer, prefix="open ")
    assert row["input_ids"] == tokenizer("open the door")["input_ids"]
    assert row["target_ids"] == tokenizer("die Tür")["input_ids"]


def test_rows_keep_their_types_on_disk_however_many_have_no_translation(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """The first rows that are read together have none at all."""
    labels = [""] * 2500 + ["die Tür"] * 10
    rows = Dataset.from_dict({"text": ["the door"] * 2510, "label": labels, "lang": ["en"] * 2510})
    encoded = Encoder(Translation(), tokenizer)(rows, tmp_path)
    assert encoded[0]["target_ids"] == []
    assert encoded[-1]["target_ids"] == tokenizer("die Tür")["input_ids"]


def test_positions_of_a_batch(student: Seq2Seq, tokenizer: PreTrainedTokenizerBase) -> None:
    """Cells come in the order of rows and steps, none for a row without a translation, none for padding."""
    task = Translation()
    rows = [{"input_ids": [5, 6, 3], "target_ids": [7, 8, 3]}, {"input_ids": [5, 3], "target_ids": []},
            {"input_ids": [6, 3], "target_ids": [9, 3]}]  # fmt: skip
    encoded = Encoded.of(rows)
    inputs, at = task.collate(encoded, pad_id=0)
    assert at is not None
    assert at.tolist() == [[0, 1, 2], [PADDING] * 3, [0, 1, PADDING]]
    assert inputs["labels"].tolist() == [[7, 8, 3], [1, IGNORE_INDEX, IGNORE_INDEX], [9, 3, IGNORE_INDEX]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    model = student.model(task, tokenizer).eval()
    cells = task.cells(model(**inputs), at)
    assert cells.shape == (5, len(tokenizer))
    alone = [task.cells(model(**i), a) for i, a in (task.collate(Encoded.of([row]), 0) for row in rows)]
    torch.testing.assert_close(cells, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert task.targets(ROWS.select(range(3)), encoded).values.tolist() == [7, 8, 3, 9, 3]


def test_a_row_that_is_not_read_has_the_same_positions(student: Seq2Seq, tokenizer: PreTrainedTokenizerBase) -> None:
    task = Translation()
    row = {"input_ids": [5, 6, 3], "target_ids": [7, 8, 3]}
    assert task.positions(Encoded.of([task.unread(row)])) == 3
    inputs, at = task.collate(Encoded.of([task.unread(row)]), pad_id=0)
    assert len(task.cells(student.model(task, tokenizer)(**inputs), at)) == 3


def test_a_step_sees_what_was_written_before_and_nothing_after(
    student: Seq2Seq, tokenizer: PreTrainedTokenizerBase
) -> None:
    task = Translation()
    model = student.model(task, tokenizer).eval()
    one, other = ({"input_ids": [5, 6, 3], "target_ids": [7, 8, piece, 9, 3]} for piece in (10, 11))
    first, second = (task.cells(model(**i), a) for i, a in (task.collate(Encoded.of([e]), 0) for e in (one, other)))
    torch.testing.assert_close(first[:3], second[:3])
    assert not torch.allclose(first[3], second[3])


# --- learning, answering ----------------------------------------------------------------------------------------------


def test_what_is_learnt_is_written(student: Seq2Seq, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    task = Translation(max_length=32)
    torch.manual_seed(0)
    model = student.model(task, tokenizer)
    assert learn(task, model, tokenizer) < 0.05
    assert translate(task, model, tokenizer) == GERMAN
    model.save_pretrained(tmp_path / "student")
    assert translate(task, load_student(tmp_path / "student", task), tokenizer) == GERMAN


def test_beams_find_a_likelier_translation_than_greed(student: Seq2Seq, tmp_path: Path) -> None:
    """The likeliest first word, 3 in 5, leads to translations of 1 in 5 each; the other one is 2 in 5 altogether."""
    labels = ["ein Haus", "ein Baum", "ein Hund", "zwei Katzen", "zwei Katzen"]
    rows = Dataset.from_dict({"text": ["look"] * 5, "label": labels, "lang": ["en"] * 5})
    tokenizer = student.tokenizer(rows, tmp_path)
    greedy, beams = Translation(beams=1), Translation(beams=4)
    torch.manual_seed(0)
    model = student.model(greedy, tokenizer)
    learn(greedy, model, tokenizer, rows=rows)
    assert translate(greedy, model, tokenizer, rows)[0].startswith("ein ")
    assert translate(beams, model, tokenizer, rows)[0] == "zwei Katzen"


def test_dev_metrics_by_hand() -> None:
    """Probabilities 0.8, 0.6, 0.2 of the right piece, the first two the likeliest; one step is hidden."""
    share = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.8, 0.2], [0.5, 0.5]])
    scores = Translation().metrics()
    scores.update(share.log(), torch.tensor([0, 1, 1, IGNORE_INDEX]), row=torch.tensor([0, 0, 1, 1]))
    found = {name: float(value) for name, value in scores.compute().items()}
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["perplexity"] == pytest.approx((0.8 * 0.6 * 0.2) ** (-1 / 3), rel=1e-5)
    even = Translation().metrics()
    even.update(torch.zeros(6, 50), torch.arange(6), row=torch.arange(6))
    assert float(even.compute()["perplexity"]) == pytest.approx(50, rel=1e-5)


# --- judging ----------------------------------------------------------------------------------------------------------


def judged(told: list[str], truth: list[str], tokenizer: PreTrainedTokenizerBase, **options: str) -> dict[str, float]:
    rows = Dataset.from_dict({"text": truth, "label": truth, "lang": ["en"] * len(truth)})
    answers = [torch.tensor(tokenizer(text)["input_ids"]) for text in told]
    return Translation(**options).evaluate(answers, rows, [{}] * len(truth), tokenizer)[0]


def test_bleu_and_chrf_of_all_rows_together(tokenizer: PreTrainedTokenizerBase) -> None:
    """The same words in the same order are perfect. BLEU by hand for one wrong word of five: precisions 4/5, 3/4, 2/3,
    1/2 and no brevity penalty."""
    assert judged(GERMAN, GERMAN, tokenizer) == {"bleu": pytest.approx(1.0), "chrf": pytest.approx(1.0)}
    almost = judged(["mach das Licht an bitte"], ["mach das Licht an jetzt"], tokenizer)
    assert almost["bleu"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))
    assert judged(["bitte"], ["mach das Licht an jetzt"], tokenizer)["chrf"] < almost["chrf"] < 1


def test_the_signature_says_how_it_was_judged() -> None:
    import sacrebleu

    note = Translation(tokenize="char").note
    assert "BLEU: nrefs:1|case:mixed|eff:no|tok:char|smooth:exp|version:" + sacrebleu.__version__ in note
    assert "chrF: nrefs:1|case:mixed|eff:yes|nc:6|nw:0" in note


def test_capitals_and_umlauts_survive(tokenizer: PreTrainedTokenizerBase) -> None:
    answer = torch.tensor([tokenizer.eos_token_id, *tokenizer("schließe die Tür")["input_ids"], tokenizer.pad_token_id])
    assert Translation().decode(answer, {}, {}, tokenizer) == "schließe die Tür"


# --- the teacher's own translations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("mach das Licht an", True),
        ("", False),
        ("Licht Licht Licht", False),
        ("mach das Licht mach das Licht mach das Licht an", False),
        ("mach das Licht an und das Licht aus", True),
        ("an", False),
        (" ".join(GERMAN), False),
    ],
)
def test_what_a_lost_decoder_writes_is_dropped(written: str, kept: bool, tokenizer: PreTrainedTokenizerBase) -> None:
    task = Translation(ratio=2.5)
    row = {"text": "turn the light off please now", "label": "", "lang": "en"}
    (encoded,) = task.encode({name: [value] for name, value in row.items()}, tokenizer, "")
    found = task.pseudo_label(torch.tensor(tokenizer(written)["input_ids"]), row, encoded, tokenizer)
    assert found == (written if kept else "")


def test_without_a_ratio_any_length_is_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    row = {"text": TEXTS[0], "label": "", "lang": "en"}
    answer = torch.tensor(tokenizer("an")["input_ids"])
    assert Translation(ratio=None).pseudo_label(answer, row, {"input_ids": [5] * 9}, tokenizer) == "an"


@pytest.mark.parametrize(("options", "message"), [({"beams": 0}, "task.beams=0"), ({"ratio": 0.5}, "task.ratio=0.5")])
def test_impossible_settings(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Translation(**options)  # type: ignore[arg-type]


def test_labels_are_free_text() -> None:
    assert Translation.classes(GERMAN) == []
    assert {Translation.stratify_by(text) for text in GERMAN} == {""}


# --- models of the hub: Marian, mBART, M2M-100, NLLB ------------------------------------------------------------------


def sentence_pieces(folder: Path) -> sentencepiece.SentencePieceProcessor:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((TEXTS + GERMAN) * 5), model_prefix=str(folder / "spm"), vocab_size=45, minloglevel=9
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))


def tokenizer_of(make: str, folder: Path) -> PreTrainedTokenizerBase:
    """As that model's, with a vocabulary of some forty pieces."""
    pieces = sentence_pieces(folder)
    spm, words = str(folder / "spm.model"), [pieces.id_to_piece(i) for i in range(3, pieces.vocab_size())]
    vocabulary = ["</s>", "<unk>", *words, "<pad>"] if make == "marian" else ["<s>", "<pad>", "</s>", "<unk>", *words]
    (folder / "vocab.json").write_text(json.dumps({piece: n for n, piece in enumerate(vocabulary)}))
    if make == "marian":
        return MarianTokenizer(source_spm=spm, target_spm=spm, vocab=str(folder / "vocab.json"))
    if make == "m2m_100":
        return M2M100Tokenizer(vocab_file=str(folder / "vocab.json"), spm_file=spm)
    letters = sorted({"▁", *"".join(TEXTS + GERMAN).replace(" ", "")})
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if make == "nllb":
        return NllbTokenizer(vocab={piece: n for n, piece in enumerate([*special, *letters])}, merges=[])
    return MBartTokenizer(vocab=[*((piece, 0.0) for piece in special), *((piece, -2.0) for piece in letters)])


@pytest.fixture(params=["marian", "mbart", "m2m_100", "nllb"])
def make(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(make: str, tmp_path: Path) -> Path:
    """A model of this make and its tokenizer, as on the hub."""
    tokenizer = tokenizer_of(make, tmp_path)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    start = tokenizer.pad_token_id if make == "marian" else tokenizer.eos_token_id
    kind = "m2m_100" if make == "nllb" else make
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer) + 120,
        decoder_start_token_id=start,
        forced_eos_token_id=ids["eos_token_id"],
        **ids,
        **SHAPE,
    )
    torch.manual_seed(0)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_every_make_learns_and_writes(make: str, folder: Path, tmp_path: Path) -> None:
    """Also as a student, and again after it was saved: a model of many languages knows then which one to write."""
    task = Translation(max_length=40, **CODES.get(make, {}))  # type: ignore[arg-type]
    student = Pretrained(str(folder))
    tokenizer = student.tokenizer(ROWS, tmp_path)
    model = student.model(task, tokenizer)
    assert learn(task, model, tokenizer, steps=350) < 0.1
    assert translate(task, model, tokenizer) == GERMAN
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert translate(task, load_student(tmp_path / "saved", task), again) == GERMAN
    assert translate(task, load_model(tmp_path / "saved", task, again).eval(), again) == GERMAN


def test_a_model_of_many_languages_reads_each_row_in_its_own(make: str, folder: Path) -> None:
    if make not in CODES:
        make = "marian"
    task = Translation(**CODES.get(make, {}))  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = Encoder(task, tokenizer).fingerprint
    rows = {"text": ["the door"] * 3, "label": ["die Tür"] * 3, "lang": ["fr", "en", "fr"]}
    french, english, again = task.encode(rows, tokenizer, "")
    assert Encoder(task, tokenizer).fingerprint == before  # caches are found by it
    assert french["input_ids"] == again["input_ids"]
    assert (french["input_ids"] == english["input_ids"]) == (make == "marian")
    assert french["target_ids"] == english["target_ids"]


def test_languages_must_be_named_as_the_tokenizer_does(make: str, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = {"text": ["the door"], "label": [""], "lang": ["en"]}
    if make == "marian":
        with pytest.raises(UserError, match=r"task.into=deu_Latn, .*: MarianTokenizer knows no language codes"):
            Translation(**CODES["nllb"]).encode(rows, tokenizer, "")  # type: ignore[arg-type]
        return
    with pytest.raises(UserError, match=r"task.codes: \w+ is of a model of many languages"):
        Translation().encode(rows, tokenizer, "")
    with pytest.raises(UserError, match="has no language 'english'"):
        Translation(into=CODES[make]["into"], codes={"en": "english"}).encode(rows, tokenizer, "")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"task.codes has no 'en'; it has fr"):
        Translation(into=CODES[make]["into"], codes={"fr": CODES[make]["codes"]["fr"]}).encode(rows, tokenizer, "")  # type: ignore[arg-type, index]
    with pytest.raises(UserError, match="has no language 'german'"):
        load_model(folder, Translation(into="german", codes=CODES[make]["codes"]), tokenizer)  # type: ignore[arg-type]
