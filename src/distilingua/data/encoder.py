"""How text becomes what a model reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distilingua.artifacts import cached, code_fingerprint, fingerprint, rows_fingerprint
from distilingua.tasks.task import Encoded, Task

TOKENS = "tokens.arrow"


@dataclass(frozen=True)
class Encoder:
    """A task, a tokenizer, and what goes in front of every text: together they say what a model reads of a row.

    Args:
        tokenizer: or a `Listener`, for models that hear.
        prefix: some models want one (E5: "query: ").
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    prefix: str = ""

    def __call__(self, rows: Dataset, cache: Path | None) -> list[Encoded]:
        """Every row as a model reads it; kept, and addressed by text, tokenizer, length and code."""
        task = self.task

        def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
            encoded = task.encode(batch, self.tokenizer, self.prefix)
            return {name: [row[name] for row in encoded] for name in encoded[0]}

        def build(folder: Path | None, name: str) -> Dataset:
            return rows.select_columns(list(task.reads)).map(
                encode,
                batched=True,
                remove_columns=list(task.reads),
                cache_file_name=str(folder / TOKENS) if folder is not None else None,
                new_fingerprint=name,
                desc="Tokenising",
            )

        if cache is None or not len(rows):  # of nothing, `datasets` keeps nothing
            # a name, or `datasets` would hash all of the above to find one
            return build(None, generate_random_fingerprint()).to_list()
        recipe = {
            "rows": rows_fingerprint(rows, task.reads),
            "tokenizer": self.fingerprint,
            "prefix": self.prefix,
            "task": task.recipe,
            "code": code_fingerprint(task),
        }
        kept = cached(cache, "tokens", recipe, partial(build, name=fingerprint(recipe)))
        return Dataset.from_file(str(kept / TOKENS)).to_list()

    def changed(self, rows: Sequence[dict[str, Any]]) -> list[Encoded]:
        """Rows that an augmentation has changed, as a model reads them."""
        given = {name: [row[name] for row in rows] for name in self.task.reads}
        return self.task.encode(given, self.tokenizer, self.prefix)

    def collate(self, encoded: Sequence[Encoded]) -> tuple[dict[str, Tensor], Tensor | None]:
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
