"""Into another language: an encoder reads, a decoder writes one piece after another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from distilingua.columns import Encoded, Ragged, texts_of
from distilingua.distillation.signals import IGNORE_INDEX, Signals
from distilingua.errors import UserError, truth, whole
from distilingua.statistics.bootstrap import Tally, bleu
from distilingua.tasks.alignment import carried
from distilingua.tasks.pieces import as_tensor, ended, pad, piece_ids
from distilingua.tasks.slow import MetricCollection, PreTrainedModel, PreTrainedTokenizerBase
from distilingua.tasks.task import PADDING, EncodedRow, Example, WithoutClasses, check_length

REPEATED = re.compile(r"(?:^|\s)(\S+(?:\s+\S+){0,3})(?:\s+\1){2}(?:\s|$)")  # up to four words, three times in a row


class Translation(WithoutClasses):
    """Text into one language, with any encoder-decoder: Marian, mBART, M2M-100, NLLB, BART, T5.

    A position is a step of the decoder; its classes are the pieces of the vocabulary. Training forces the decoder along
    a known text: the reference where it may be seen, else the teacher's own translation (sequence-level distillation,
    Kim & Rush 2016, section 3.2), which works across vocabularies. Terms that compare distributions do so at every step
    along that text (word-level distillation, section 3.1) and need teacher and student to share their vocabulary, but
    for `aligned_uld`, for which both texts are cut into spans that both have pieces for, see `Alignment`.
    Judging and labelling translate by beam search.

    Args:
        name: in titles and in metrics.json.
        max_length: pieces of the text, and of its translation.
        beams: hypotheses of the beam search; 1 is greedy.
        pseudo_labels: whether the teacher translates the rows without a visible reference.
        ratio: the teacher's translation is dropped where it has more than `ratio` times the text's pieces, or fewer
            than its `ratio`-th part; above 1, or null to keep all.
        tokenize: sacrebleu's tokenizer for BLEU: 13a, zh, ja-mecab, ko-mecab, char, intl.
        into: the language of the translations as the tokenizer spells it, for models of many languages; null for
            models of one direction.
        codes: language code -> how the tokenizer spells it, for models of many languages.
    """

    auto = "AutoModelForSeq2SeqLM"
    searches = True
    mean_probability = True
    backbone = "encoder-decoder"
    shown: ClassVar[Mapping[str, str]] = {"bleu": "BLEU", "chrf": "chrF"}
    reads: ClassVar[tuple[str, ...]] = ("text", "label", "lang")
    pseudo_labels = True

    def __init__(
        self,
        name: str = "translation",
        max_length: int = 64,
        beams: int = 4,
        pseudo_labels: bool = True,
        ratio: float | None = 2.5,
        tokenize: str = "13a",
        into: str | None = None,
        codes: Mapping[str, str] | None = None,
    ) -> None:
        check_length(
            max_length,
            whole("task.beams", beams, 1),
            truth("task.pseudo_labels", pseudo_labels),
            None
            if ratio is None or (type(ratio) in (int, float) and ratio > 1)
            else f"task.ratio={ratio}: expected a number above 1, such as 2.5, or null to keep every translation.",
        )
        self.name, self.max_length, self.beams = name, max_length, beams
        self.pseudo_labels, self.ratio, self.tokenize = pseudo_labels, ratio, tokenize
        self.into, self.codes = into, dict(codes or {})
        try:
            self._scorers()  # a missing package is told at once
        except KeyError:
            raise UserError(
                f"task.tokenize={tokenize}: sacrebleu has no such tokenizer. Choose 13a, or zh, ja-mecab, ko-mecab, "
                f"char or intl where words are not between spaces."
            ) from None

    # --- reading ------------------------------------------------------------------------------------------------------
    @property
    def model_options(self) -> dict[str, Any]:
        return {}

    @property
    def recipe(self) -> Any:
        return [self.max_length, self.into, self.codes]

    def encode(self, rows: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, prefix: str) -> Encoded:
        """`input_ids` of the text and `target_ids` of its translation, both with the tokenizer's own special pieces;
        no `target_ids` where the translation is hidden."""
        self._check_codes(tokenizer)
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_length}
        texts = [prefix + text for text in rows["text"]]
        if self.codes:
            order: list[int] = []
            parts, before = [], tokenizer.src_lang
            for lang in dict.fromkeys(rows["lang"]):
                own = [i for i, other in enumerate(rows["lang"]) if other == lang]
                tokenizer.src_lang = self._code(lang, tokenizer)
                parts.append(Encoded(piece_ids(tokenizer, [texts[i] for i in own], None, self.max_length)))
                order += own
            read = Encoded.join(parts)[np.argsort(order)]
            tokenizer.src_lang, tokenizer.tgt_lang = before, self.into  # as it was: addresses of caches look at it
        else:
            read = Encoded(piece_ids(tokenizer, texts, None, self.max_length))
        written = [label for label in rows["label"] if label]
        targets = iter(tokenizer(text_target=written, **options)["input_ids"] if written else ())
        target_ids = [next(targets) if label else [] for label in rows["label"]]
        return Encoded({**read.columns, "target_ids": Ragged.of(target_ids)})

    def positions(self, encoded: Encoded) -> np.ndarray:
        return encoded.lists("target_ids").lengths

    def collate(self, encoded: Encoded, pad_id: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """The text, and under `labels` its translation, (rows, most steps): the model itself makes the decoder's input
        of it, each kind in its own way."""
        inputs = pad(encoded.lists("input_ids"), pad_id)
        labels = as_tensor(encoded.lists("target_ids").padded(IGNORE_INDEX))
        inputs["labels"] = labels if labels.shape[1] else torch.full((len(encoded), 1), IGNORE_INDEX)
        steps = torch.arange(inputs["labels"].shape[1])
        count = torch.from_numpy(self.positions(encoded))[:, None]
        # some decoders (mBART) want a piece that is no padding, even where no position is
        inputs["labels"][:, :1].masked_fill_(count == 0, int(pad_id == 0))
        return inputs, torch.where(steps < count, steps, PADDING)

    def unread(self, encoded: EncodedRow) -> dict[str, Any]:
        return {**super().unread(encoded), "target_ids": encoded["target_ids"]}

    def prepare_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """A model of many languages is told which one to write: in its first piece, or before it (mBART-25)."""
        self._check_codes(tokenizer)
        if self.into is None:
            return
        code = self._code(self.into, tokenizer, {self.into: self.into})
        tokenizer.tgt_lang = self.into
        written = _piece(code, tokenizer)
        if tokenizer(text_target="x")["input_ids"][0] == written:
            model.generation_config.forced_bos_token_id = written
        else:
            model.generation_config.decoder_start_token_id = written

    def _check_codes(self, tokenizer: PreTrainedTokenizerBase) -> None:
        many = hasattr(tokenizer, "src_lang")
        if not (self.into and self.codes if many else not self.into and not self.codes):
            name = type(tokenizer).__name__
            raise UserError(
                f"task.codes: {name} is of a model of many languages and has to be told which it reads and writes. Set "
                f"task.into and task.codes as it spells them, e.g. task.into=deu_Latn 'task.codes={{en: eng_Latn}}'."
                if many
                else f"task.into={self.into}, task.codes={self.codes or None}: {name} knows no language codes. Set "
                f"both to null, or choose a model of many languages."
            )

    def _code(self, lang: str, tokenizer: PreTrainedTokenizerBase, codes: Mapping[str, str] | None = None) -> str:
        codes = codes or self.codes
        if lang not in codes:
            raise UserError(
                f"task.codes has no {lang!r}; it has {', '.join(codes)}. Add it as {type(tokenizer).__name__} spells "
                f"it."
            )
        if _piece(codes[lang], tokenizer) in (None, tokenizer.unk_token_id):
            raise UserError(
                f"task.codes: {type(tokenizer).__name__} has no language {codes[lang]!r}. Spell it as that model does, "
                f"such as deu_Latn for NLLB, de_DE for mBART, de for M2M-100."
            )
        return codes[lang]

    # --- learning -----------------------------------------------------------------------------------------------------
    def targets(self, rows: Dataset, encoded: Encoded) -> Ragged:
        return encoded.lists("target_ids")

    def signals(self, student: Tensor, teacher: Tensor | None, batch: Mapping[str, Any]) -> Signals:
        if teacher is None or "alignment" not in batch:
            return super().signals(student, teacher, batch)
        teacher, shared = carried(teacher, batch["alignment"], student.shape[-1])
        return replace(super().signals(student, teacher, batch), span=batch["alignment"]["span"], shared=shared)

    def comparable(self, student: Any, teacher: Any, distributions: bool) -> None:
        if not distributions:  # a text is a text, whatever its pieces
            return
        own, other = student.get_vocab(), teacher.get_vocab()
        if own != other:
            raise UserError(
                f"objective: its soft terms compare the choice of every piece, and the student's vocabulary "
                f"({len(own)} pieces) is not the teacher's ({len(other)} pieces, {len(own.items() & other.items())} of "
                f"them with the same number). Let the student learn the teacher's text alone, which works across "
                f"vocabularies (objective=sequence), compare what both have (objective=custom "
                f"objective/terms=[aligned_uld,ce]), or give both the same one (teacher=seq2seq_scratch, or for a "
                f"pretrained teacher student=seq2seq_hub with its student.path)."
            )

    def pseudo_label(self, answer: Tensor, row: Example, encoded: EncodedRow, tokenizer: Any) -> str:
        """The teacher's translation; "" where it says the same thing three times over, or where its length is far from
        the text's, as both betray a decoder that has lost its way."""
        text = self.decode(answer, row, encoded, tokenizer)
        if not text or REPEATED.search(text):
            return ""
        if self.ratio is not None:
            again = self.encode({"text": [""], "label": [text], "lang": [row["lang"]]}, tokenizer, "")
            own, written = len(encoded["input_ids"]), int(self.positions(again)[0])
            if not 1 / self.ratio <= written / own <= self.ratio:
                return ""
        return text

    # --- judging ------------------------------------------------------------------------------------------------------
    def metrics(self) -> MetricCollection:
        """While it trains, along the reference: the share of steps at which the likeliest piece is the right one, and
        the perplexity. BLEU and chrF take a search, see `evaluate`."""
        from distilingua.tasks.metrics import piece_metrics

        return piece_metrics()

    def answer(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], at: Tensor | None) -> list[Tensor]:
        """The likeliest translation that a beam search finds, as pieces, (steps,)."""
        text = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        # early stopping would end the search with the first few short translations, before a better one is finished
        found = model.generate(
            **text, num_beams=self.beams, max_new_tokens=self.max_length, do_sample=False, early_stopping=False
        )
        return list(found)

    def probabilities(self, answers: Sequence[Tensor], model: Any, inputs: Mapping[str, Tensor]) -> list[float]:
        """The geometric mean over the steps, as a product would only tell how long a translation is: of what the model
        gives every piece of it, read along."""
        found = []
        for n, pieces in enumerate(answers):  # one by one: steps times vocabulary is large
            written = pieces[1:] if pieces[0] == model.config.decoder_start_token_id else pieces
            written = written[~ended(written, model.generation_config.eos_token_id)].to(inputs["input_ids"].device)
            text = {name: tensor[n : n + 1] for name, tensor in inputs.items() if name != "labels"}
            logits = model(**text, labels=written[None]).logits[0].float()
            chosen = logits.log_softmax(-1).gather(1, written[:, None])
            found.append(float(chosen.mean().exp()))
        return found

    def decode(self, answer: Tensor, row: Mapping[str, str], encoded: EncodedRow, tokenizer: Any) -> str:
        if self.into is not None:
            answer = answer[answer != _piece(self.into, tokenizer)]  # not every tokenizer skips it by itself
        return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()

    def evaluate(
        self, answers: Sequence[Tensor], rows: Dataset, encoded: Encoded, tokenizer: Any
    ) -> tuple[dict[str, float], list[str]]:
        """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of all rows together by sacrebleu (Post 2018), 0 to 1,
        and the translations."""
        told = self.decode_all(answers, rows, encoded, tokenizer)
        scores = {
            name: score.corpus_score(told, [texts_of(rows, "label")]).score / 100 for name, score in self._scorers()
        }
        return scores, told

    def tally(self, predicted: Sequence[str], rows: Dataset) -> Tally:
        scorer = self._sacrebleu().BLEU(tokenize=self.tokenize, effective_order=False)
        counts, right = [], []
        for said, label in zip(predicted, texts_of(rows, "label"), strict=True):
            found = scorer.corpus_score([said], [[label]])  # `sentence_score` warns that smoothing is off
            counts.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
            right.append(said == label)
        return Tally(np.array(counts, dtype=float), bleu, np.array(right, dtype=bool))

    @property
    def note(self) -> str:  # type: ignore[override]  # constant elsewhere
        """sacrebleu's signatures: what has to be the same for scores to be comparable."""
        scorers = self._scorers()
        for _, scorer in scorers:
            scorer.corpus_score([""], [[""]])  # a signature counts references, so it needs some
        return "; ".join(f"{self.shown[name]}: {scorer.get_signature()}" for name, scorer in scorers)

    def _scorers(self) -> list[tuple[str, Any]]:
        metrics = self._sacrebleu()
        return [("bleu", metrics.BLEU(tokenize=self.tokenize)), ("chrf", metrics.CHRF())]

    def _sacrebleu(self) -> Any:
        try:
            import sacrebleu.metrics
        except ImportError:
            raise UserError(
                "task=translation is judged by sacrebleu, which is not installed. Type: pip install "
                "'distilingua[translation]'"
            ) from None
        return sacrebleu.metrics


def _piece(code: str, tokenizer: Any) -> int | None:
    """The piece that stands for a language."""
    if hasattr(tokenizer, "get_lang_token"):  # M2M-100 writes __de__
        code = tokenizer.lang_code_to_token.get(code, "")
    return tokenizer.convert_tokens_to_ids(code)
