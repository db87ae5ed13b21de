"""Questions over the embedded corpus: which room, how bright, for how long? The answer is a slot of the command."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from distilingua.artifacts import stable_hash
from distilingua.columns import column, select, strings, with_columns
from distilingua.corpora.schema import each_row
from distilingua.corpora.smart_home import SmartHome, packaged
from distilingua.errors import UserError

QUESTIONS = "questions.yaml"


@dataclass
class Questions:
    """One question to every command that has an answer to one, and to some a question that it does not answer.

    Aligned commands are asked the same.

    Args:
        corpus: where the commands come from.
        unanswerable: share of the commands, 0 to 1, that are also asked for what they do not say.
        seed: of the questions.
    """

    corpus: SmartHome
    unanswerable: float = 0.3
    seed: int = 0

    def check(self, languages: list[str]) -> None:
        """Raises UserError for a language without questions, or one that the corpus cannot serve."""
        self.corpus.check(languages)
        known = packaged(QUESTIONS)
        unknown = [lang for lang in languages if lang not in known]
        if unknown:
            raise UserError(
                f"pair: there are no questions in {', '.join(unknown)}. Choose from {', '.join(known)}, or add some to "
                f"src/distilingua/corpora/questions.yaml."
            )

    def load(self, languages: list[str]) -> Dataset:
        self.check(languages)
        commands = self.corpus.load(languages)
        each = enumerate(each_row(commands, ["id", "lang", "text", "group", "slots"]))
        asked = [(number, *question) for number, command in each for question in self._ask(command)]
        numbers, slots, questions, answers = zip(*asked, strict=True)
        rows = select(commands.remove_columns("slots"), numbers)

        def of_slot(name: str, between: str) -> pa.ChunkedArray:
            return pc.binary_join_element_wise(column(rows, name), strings(slots), between)

        own = {"id": of_slot("id", "-"), "group": of_slot("group", "?"), "block": of_slot("block", "?")}
        texts = {"text": strings(questions), "text_pair": column(rows, "text"), "label": strings(answers)}
        return with_columns(rows, {**own, **texts})

    def _ask(self, command: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
        """Slots that a command is asked for, each with the question and the label."""
        questions = packaged(QUESTIONS)[command["lang"]]
        draw = functools.partial(stable_hash, self.seed, command["group"])

        def asked(slot: str, answers: list[dict[str, Any]]) -> tuple[str, str, str]:
            wording = stable_hash(self.seed, command["id"], slot) % len(questions[slot])
            return slot, questions[slot][wording], json.dumps(answers, ensure_ascii=False)

        known = [slot for slot in command["slots"] if slot["name"] in questions]
        if known:
            slot = min(known, key=lambda slot: draw(slot["name"]))
            text = command["text"][slot["start"] : slot["end"]]
            yield asked(slot["name"], [{"text": text, "start": slot["start"]}])
        if draw("unanswerable") / 2**64 < self.unanswerable:
            unsaid = sorted(set(questions) - {slot["name"] for slot in command["slots"]})
            yield asked(min(unsaid, key=draw), [])
