"""Voice commands for the home in 65 languages, sampled from the templates of `home-assistant-intents`.

The package (Apache-2.0) lists sentence templates that native speakers wrote, in blocks under some 40 intents. A block
carries the same key in every language, so blocks, and the sentences drawn from them, align across languages.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from datasets import Dataset
from hassil.expression import Alternative, Expression, Group, ListReference, Permutation, RuleReference, TextChunk
from hassil.intents import IntentData, Intents, RangeSlotList, TextSlotList
from home_assistant_intents import get_intents, get_languages

from distilingua.artifacts import stable_hash
from distilingua.corpora.schema import dataset_from_rows
from distilingua.corpora.words import tags_of
from distilingua.errors import UserError

ALL_INTENTS = 42  # what the richest languages cover; the yardstick of `min_intents`
LABELS = ("intent", "slots")
UNTAGGED = {"domain"}  # a kind of device, which German templates alone treat as a slot
GLOSSARY = "smart_home_glossary.yaml"
FEW = 2  # templates of a block that share their sentences, as one would be left to learn from
Piece = tuple[str, dict[str, Any] | None]  # a stretch of text and the slot it fills, if any


@functools.cache
def packaged(name: str) -> dict[str, dict[str, list[str]]]:
    """Lists of texts in a YAML of this package, by language and by what they are for."""
    return yaml.safe_load(resources.files(__package__).joinpath(name).read_text("utf-8"))


def _glossary() -> dict[str, dict[str, list[str]]]:
    return packaged(GLOSSARY)


def _check_glossary(lang: str) -> None:
    """Raises UserError for a language that lacks words: word n of a list means the same in every language."""
    for name, wanted in _glossary()["en"].items():
        words = _glossary()[lang].get(name) or ()
        if len(words) != len(wanted):
            raise UserError(
                f"{GLOSSARY}: {lang!r} has {len(words)} words under {name}, and English has {len(wanted)}: "
                f"{', '.join(wanted)}. Give each of them, in this order."
            )


@dataclass(frozen=True)
class Template:
    """One template line: what it means (`block`), which intent it states, and how to draw sentences from it."""

    lang: str
    intent: str
    block: str
    text: str
    expression: Expression
    data: IntentData

    @property
    def id(self) -> str:
        return f"{self.lang}-{stable_hash(self.block, self.text):016x}"


class Sampler:
    """Draws sentences at random from one language's templates (hassil itself can only enumerate them)."""

    def __init__(self, lang: str, seed: int, reword: bool = True) -> None:
        self.lang, self.seed, self.reword = lang, seed, reword
        self.intents = Intents.from_dict(get_intents(lang))
        words, english = _glossary()[lang], _glossary()["en"]
        # (canonical value, words): the English word of the same position is the canonical value of a glossary entry
        self.words = {name: list(zip(english[name], values, strict=True)) for name, values in words.items()}

    def templates(self) -> Iterator[Template]:
        for intent, content in self.intents.intents.items():
            for data in content.data:
                block = f"{intent}/{(data.metadata or {}).get('slot_combination')}"
                for sentence in data.sentences:
                    yield Template(self.lang, intent, block, sentence.text or "", sentence.expression, data)

    def sentence(self, template: Template, draw: int) -> tuple[str, list[dict[str, Any]]]:
        """The `draw`-th sentence of a template, and its slots as `{name, value, start, end}` in characters."""
        rng = random.Random(f"{self.seed}/{template.id}/{draw}" if self.reword else f"{self.seed}/{template.id}")
        text, slots = "", []
        for piece, slot in self._pieces(template.expression, template, draw, rng):
            piece = re.sub(r"\s+", " ", piece)
            if not text or text.endswith(" "):
                piece = piece.lstrip()
            if slot and piece.strip():
                slots.append({**slot, "start": len(text), "end": len(text) + len(piece.rstrip())})
            text += piece
        return text.strip(), slots

    def _pieces(self, node: Expression, template: Template, draw: int, rng: random.Random) -> Iterator[Piece]:
        if isinstance(node, TextChunk):
            yield node.original_text, None
        elif isinstance(node, Alternative):
            yield from self._pieces(rng.choice(node.items), template, draw, rng)
        elif isinstance(node, Group):
            items = rng.sample(node.items, len(node.items)) if isinstance(node, Permutation) else node.items
            for item in items:
                yield from self._pieces(item, template, draw, rng)
                if isinstance(node, Permutation):
                    yield " ", None
        elif isinstance(node, RuleReference):
            rules = template.data.expansion_rules
            rule = rules.get(node.rule_name) or self.intents.expansion_rules[node.rule_name]
            yield from self._pieces(rule.expression, template, draw, rng)
        elif isinstance(node, ListReference):
            value, words = self._value(node, template, draw)
            if not isinstance(words, str):
                words = "".join(piece for piece, _ in self._pieces(words, template, draw, rng))
            yield words, {"name": node.slot_name, "value": str(value)}
        else:
            raise TypeError(f"hassil has grown an expression this sampler does not know: {type(node).__name__}")

    def _value(self, node: ListReference, template: Template, draw: int) -> tuple[Any, str | Expression]:
        """The slot's value in this draw: a function of the block, not of the language, so that languages agree.

        Each candidate gets a rank by hash and the lowest wins (rendezvous hashing): two languages whose lists differ
        in a few values still draw the same one whenever both have it.
        """
        rank = functools.partial(stable_hash, self.seed, template.block, draw, node.slot_name)
        inline = node.get_inline_range()
        known = template.data.slot_lists.get(node.list_name) or self.intents.slot_lists.get(node.list_name)
        if inline or isinstance(known, RangeSlotList):
            first, last, step = inline or (known.start, known.stop, known.step)
            numbers = range(first, last + 1, step)
            value = numbers[rank() % len(numbers)]
            return value, str(value)
        candidates: list[tuple[Any, Any]]
        if isinstance(known, TextSlotList):
            candidates = [(value.value_out, value.text_in) for value in known.values]
        elif node.list_name == "name":
            domain = template.data.requires_context.get("domain") or template.data.slots.get("domain") or "light"
            domains = [domain] if isinstance(domain, str) else domain
            candidates = [entry for name in domains for entry in self.words.get(name, [])]
        elif node.list_name in self.words:
            candidates = self.words[node.list_name]
        else:
            raise UserError(
                f"{GLOSSARY}: a template of {self.lang!r} ({template.text}) wants {node.list_name}, and there is no "
                f"such list. Add {node.list_name} to every language."
            )
        return min(candidates, key=lambda entry: rank(entry[0]))


def split_templates(templates: Iterable[Template], parallel: float, dev: float, test: float) -> dict[str, str]:
    """Template id -> train, parallel, dev or test; decided by hash, so the same on every machine.

    An intent's first two templates (in hash order) stay in training; the others go to test and dev by lot. What is left
    is shared block by block: train knows every block, and so does parallel, as a teacher that has not seen a block errs
    on it, and nothing teaches a block without partners. Nobody learns a block from a single template, so a block of two
    or one has "both": its templates share their sentences, see `split_sentences`.
    """
    by_intent: dict[str, list[Template]] = {}
    for template in templates:
        by_intent.setdefault(template.intent, []).append(template)
    split: dict[str, str] = {}
    for members in by_intent.values():
        members = sorted({t.id: t for t in members}.values(), key=lambda t: stable_hash("order", t.id))
        blocks: dict[str, list[str]] = {}
        for position, template in enumerate(members):
            lot = stable_hash("split", template.id) / 2**64
            if position > 1 and lot < dev + test:
                split[template.id] = "test" if lot < test else "dev"
            else:
                blocks.setdefault(template.block, []).append(template.id)
        for ids in blocks.values():
            taught = len(ids) - round(parallel * len(ids))
            split.update({template_id: "train" if n < taught else "parallel" for n, template_id in enumerate(ids)})
            if len(ids) <= FEW and parallel:
                split.update(dict.fromkeys(ids, "both"))
    return split


def split_sentences(sentences: Iterable[tuple[str, str]], parallel: float) -> dict[tuple[str, str], str]:
    """`(group, text)` of one template's sentences -> train or parallel; decided by hash.

    Whole groups, so that parallel sentences speak of other values than those that are taught; where all speak of the
    same, they are worded otherwise.

    Args:
        parallel: their share; one at least is taught.
    """
    found = set(sentences)
    by_group = len({group for group, _ in found}) > 1
    parts = sorted({one[: 1 if by_group else 2] for one in found}, key=lambda part: stable_hash("part", *part))
    taught = len(parts) - min(max(round(parallel * len(parts)), 1), len(parts) - 1)
    return {one: "train" if parts.index(one[: 1 if by_group else 2]) < taught else "parallel" for one in found}


@dataclass
class SmartHome:
    """The embedded corpus: real sentences for every task, without a download.

    Args:
        sentences: sentences drawn from each training template.
        eval_sentences: sentences drawn from each dev and test template.
        parallel, dev, test: shares of the templates; the rest is the labelled training set.
        min_intents: refuse languages with fewer intents than this.
        label: what is to be learnt: `intent`, or `slots` as BIO tags.
        seed: of the sampled sentences. The split depends on the templates alone.
        reword: draw a template's wording anew for every sentence; false draws it once, so that the sentences of a
            template differ in what they speak of alone.
    """

    sentences: int = 12
    eval_sentences: int = 6
    parallel: float = 0.5
    dev: float = 0.1
    test: float = 0.15
    min_intents: int = 25
    seed: int = 0
    label: str = "intent"
    reword: bool = True

    def check(self, languages: list[str]) -> None:
        """Raises UserError for a language that is unknown, too poor in intents, or without glossary."""
        if self.label not in LABELS:
            raise UserError(f"corpus.label={self.label} is not known. Choose one of: {', '.join(LABELS)}.")
        for lang in languages:
            found = len(get_intents(lang)["intents"]) if lang in get_languages() else 0
            if found >= self.min_intents and lang in _glossary():
                _check_glossary(lang)
                continue
            rich = [x for x in _glossary() if len(get_intents(x)["intents"]) >= self.min_intents and x not in languages]
            if not found:
                problem, remedy = f"{lang!r} is not a language of smart_home", ""
            elif found < self.min_intents:
                problem = f"{lang!r} has {found} of {ALL_INTENTS} intents in smart_home"
                remedy = f", or set corpus.min_intents={found}"
            else:
                problem = f"{lang!r} has no words for rooms and devices yet"
                remedy = f", or add {lang!r} to {GLOSSARY}"
            raise UserError(f"pair={'-'.join(languages)}: {problem}. Choose one of: {', '.join(rich)}{remedy}.")

    def load(self, languages: list[str]) -> Dataset:
        self.check(languages)
        return dataset_from_rows(row for lang in languages for row in self._rows(lang))

    def lexicon(self, languages: Sequence[str]) -> dict[str, list[str]]:
        """What the rooms, devices and errands of the glossary are called: position n means the same everywhere."""
        return {lang: [word for words in _glossary()[lang].values() for word in words] for lang in languages}

    def _rows(self, lang: str) -> Iterator[dict[str, Any]]:
        sampler = Sampler(lang, self.seed, self.reword)
        templates = {t.id: t for t in sampler.templates()}
        split = split_templates(templates.values(), self.parallel, self.dev, self.test)
        for template_id, template in templates.items():
            part = split[template_id]
            drawn = []
            for draw in range(self.eval_sentences if part in ("dev", "test") else self.sentences):
                text, slots = sampler.sentence(template, draw)
                meaning = {**template.data.slots, **{slot["name"]: slot["value"] for slot in slots}}
                group = f"{template.block}/" + ",".join(f"{k}={v}" for k, v in sorted(meaning.items()))
                drawn.append((draw, text, slots, group))
            parts = split_sentences(((group, text) for _, text, _, group in drawn), self.parallel)
            for draw, text, slots, group in drawn:
                spans = [(slot["start"], slot["end"], slot["name"]) for slot in slots if slot["name"] not in UNTAGGED]
                yield {
                    "id": f"{template_id}-{draw}",
                    "lang": lang,
                    "split": parts[group, text] if part == "both" else part,
                    "text": text,
                    "label": template.intent if self.label == "intent" else tags_of(text, spans),
                    "group": group,
                    "block": template.block,
                    "cluster": template_id,
                    "spans": json.dumps([[str(s["value"]), s["start"], s["end"]] for s in slots], ensure_ascii=False),
                    "slots": slots,
                }
