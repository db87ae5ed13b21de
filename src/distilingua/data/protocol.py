"""The rules of a cross-lingual experiment: which languages, and which labels training may see."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from distilingua.corpora.schema import language_code
from distilingua.errors import UserError, one_of, refuse, share

PROTOCOLS = ("zero_shot", "translate_train", "few_shot", "supervised")


@dataclass
class Pair:
    """A source language, its targets, and the supervision that training may see.

    Args:
        source: the language the teacher's labels come from.
        targets: the languages the student must serve.
        protocol: `zero_shot`: labels in the source only; `translate_train`: target text carries the label of its
            aligned source text; `few_shot`: `shots` labels per class and target language; `supervised`: every label.
        align: for a teacher that does not read the target: `sentence` pairs a target text with one source text of the
            same meaning; `block` with every source text of its block, whose soft labels are averaged. The latter
            borrows the block's identity, which is nearly the label.
        shots: labels per class and target language under `few_shot`.
        labels: share of the source's training labels that may be seen; the rest is text without labels.
        parallel: share of the source training text whose labels are hidden at most, so that it can stand for its
            aligned text: where the teacher cannot read a target and the corpus sets no such text aside itself (split
            "parallel").
        unpaired: what becomes of target text that no teacher reads, for want of an aligned partner: `drop`, or
            `self_train`: the student labels what it is sure of after its training, and goes on with it.
        sure: the least probability of such an answer.
        seed: of the choices made here.
    """

    source: str
    targets: list[str]
    protocol: str = "zero_shot"
    align: str = "sentence"
    shots: int = 8
    labels: float = 1.0
    parallel: float = 0.4
    unpaired: str = "drop"
    sure: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        self.source = language_code(self.source)
        if not isinstance(self.targets, str):
            self.targets = [language_code(lang) for lang in self.targets or ()]

    @property
    def languages(self) -> list[str]:
        return [self.source, *self.targets]

    @property
    def name(self) -> str:
        return "-".join(filter(None, [self.source, "+".join(self.targets)]))

    def check(self, alone: bool = False) -> None:
        """
        Args:
            alone: whether the source may do without targets, as where it is translated.

        Raises:
            UserError: rules that contradict themselves.
        """
        if isinstance(self.targets, str):
            raise UserError(f"pair.targets={self.targets} is one word. Give a list: pair.targets=[{self.targets}].")
        repeated = [lang for lang, n in Counter(self.targets).items() if n > 1]
        refuse(
            "pair.targets is empty. Give at least one language, e.g. pair.targets=[de]."
            if not self.targets and not alone
            else None,
            f"pair: {self.source!r} is both the source and a target. A teacher's own language needs no transfer: "
            f"drop it from pair.targets={self.targets}."
            if self.source in self.targets
            else None,
            f"pair.targets names {', '.join(repeated)} twice. Name each language once." if repeated else None,
            one_of("pair.protocol", self.protocol, PROTOCOLS),
            one_of("pair.align", self.align, ("sentence", "block")),
            one_of("pair.unpaired", self.unpaired, ("drop", "self_train")),
            share("pair.sure", self.sure),
            f"pair.shots={self.shots}: few_shot needs at least 1 label per class." if self.shots < 1 else None,
            f"pair.labels={self.labels} is no share above 0. Type pair.labels=1 for all of them."
            if not 0 < self.labels <= 1
            else None,
            f"pair.parallel={self.parallel} leaves no label to learn from, or is no share. Try pair.parallel=0.4."
            if not 0 <= self.parallel < 1
            else None,
        )
