"""How text becomes what a model reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distilingua.artifacts import cached, code_fingerprint, fingerprint, rows_fingerprint
from distilingua.columns import Encoded, select, texts_of
from distilingua.console import console
from distilingua.tasks.task import Task

AT_ONCE = 2_000  # rows: enough for the tokenizer's threads, few enough for sound to be in memory
SHOWN = 50_000  # rows from which on there is something to wait for


@dataclass(frozen=True)
class Encoder:
    """A task, a tokenizer, and what goes in front of every text: together they say what a model reads of a row.

    Args:
        tokenizer: or a `SpeechProcessor`, for models that hear.
        prefix: some models want one (E5: "query: ").
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    prefix: str = ""

    def __call__(self, rows: Dataset, cache: Path | None) -> Encoded:
        """Every row as a model reads it; kept, and addressed by text, tokenizer, length and code."""
        if not len(rows):
            return Encoded({})
        if cache is None:
            return Encoded.join(list(self._parts(rows)))
        recipe = {
            "rows": rows_fingerprint(rows, self.task.reads),
            "tokenizer": self.fingerprint,
            "prefix": self.prefix,
            "task": self.task.recipe,
            "code": code_fingerprint(self, self.task),
        }
        return Encoded.read(cached(cache, "tokens", recipe, partial(Encoded.write, parts=self._parts(rows))))

    def _parts(self, rows: Dataset) -> Iterator[Encoded]:
        for start in console.steps(range(0, len(rows), AT_ONCE), "Tokenising" if len(rows) > SHOWN else ""):
            part = select(rows, np.arange(start, min(start + AT_ONCE, len(rows))))
            given = {name: texts_of(part, name) for name in self.task.reads}
            yield self.task.encode(given, self.tokenizer, self.prefix)

    def changed(self, rows: Sequence[Mapping[str, Any]]) -> Encoded:
        """Rows that an augmentation has changed, as a model reads them."""
        given = {name: [row[name] for row in rows] for name in self.task.reads}
        return self.task.encode(given, self.tokenizer, self.prefix)

    def collate(self, encoded: Encoded) -> tuple[dict[str, Tensor], Tensor | None]:
        """See `Task.collate`."""
        return self.task.collate(encoded, self.tokenizer.pad_token_id)

    @property
    def fingerprint(self) -> str:
        """What shapes the tokenizer's pieces. Truncation and padding are left out: they are traces of its last call."""
        tokenizer = self.tokenizer
        if hasattr(tokenizer, "state"):  # it hears
            return fingerprint(tokenizer.state)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return fingerprint(sorted(tokenizer.get_vocab().items()))
        state = json.loads(backend.to_str())
        return fingerprint({name: part for name, part in state.items() if name not in ("truncation", "padding")})
