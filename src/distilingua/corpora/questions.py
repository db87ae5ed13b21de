"""Questions over the embedded corpus: which room, how bright, for how long? The answer is a slot of the command."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from datasets import Dataset

from distilingua.artifacts import stable_hash
from distilingua.corpora.schema import dataset_from_rows
from distilingua.corpora.smart_home import SmartHome
from distilingua.errors import UserError


@functools.cache
def _questions() -> dict[str, dict[str, list[str]]]:
    return yaml.safe_load(resources.files(__package__).joinpath("questions.yaml").read_text("utf-8"))


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
        unknown = [lang for lang in languages if lang not in _questions()]
        if unknown:
            raise UserError(
                f"pair: there are no questions in {', '.join(unknown)}. Choose from {', '.join(_questions())}, or add "
                f"some to src/distilingua/corpora/questions.yaml."
            )

    def load(self, languages: list[str]) -> Dataset:
        self.check(languages)
        return dataset_from_rows(row for command in self.corpus.load(languages).to_list() for row in self._ask(command))

    def _ask(self, command: dict[str, Any]) -> Iterator[dict[str, Any]]:
        questions = _questions()[command["lang"]]
        draw = functools.partial(stable_hash, self.seed, command["group"])
        said = {slot["name"] for slot in command["slots"]}
        known = [slot for slot in command["slots"] if slot["name"] in questions]
        if known:
            slot = min(known, key=lambda slot: draw(slot["name"]))
            answer = {"text": command["text"][slot["start"] : slot["end"]], "start": slot["start"]}
            yield self._row(command, slot["name"], [answer])
        unsaid = sorted(set(questions) - said)
        if draw("unanswerable") / 2**64 < self.unanswerable:
            yield self._row(command, min(unsaid, key=draw), [])

    def _row(self, command: dict[str, Any], slot: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
        wordings = _questions()[command["lang"]][slot]
        wording = stable_hash(self.seed, command["id"], slot) % len(wordings)
        return {
            "id": f"{command['id']}-{slot}",
            "lang": command["lang"],
            "split": command["split"],
            "text": wordings[wording],
            "text_pair": command["text"],
            "label": json.dumps(answers, ensure_ascii=False),
            "group": f"{command['group']}?{slot}",
            "block": f"{command['block']}?{slot}",
            "cluster": command["cluster"],
            "spans": command["spans"],
        }
