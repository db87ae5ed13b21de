"""What a student is. A new kind is a subclass of `Student` and a YAML under `conf/student/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset

from distilingua.tasks.slow import PreTrainedModel, PreTrainedTokenizerBase
from distilingua.tasks.task import Task


class Student(ABC):
    """A model that is trained here: where its tokenizer and its first weights come from."""

    prefix: str = ""
    """Goes in front of every text it reads."""
    autos: ClassVar[Sequence[str]] = ()
    """The heads that it can have, see `Task.auto`, where these are not all of its kind."""
    layered: ClassVar[bool] = True
    """Whether it has layers that a term can compare."""
    lr: float | None = None
    """Peak learning rate unless `optimizer.lr` is set; None takes one for its size."""
    frame_ms: int | None = None
    """Length of a frame of sound; None where the model says so itself, or hears nothing."""
    alphabet: str | list[str] | None = None
    """Characters that it writes, where it hears and they are given."""

    @property
    @abstractmethod
    def backbones(self) -> Sequence[str]:
        """What it can be, as far as is known before weights load; see `Task.backbone`."""

    def can_serve(self, task: type[Task]) -> bool:
        """Whether it can have the head of this task, as far as is known before weights load."""
        return task.backbone in self.backbones and (not self.autos or task.auto in self.autos)

    @abstractmethod
    def check(self, max_length: int | None = None, role: str = "student") -> None:
        """
        Args:
            max_length: tokens of a text, see `Task.max_length`; None where that is not known.
            role: what the user calls it, for messages; a teacher may start from random weights too.

        Raises:
            UserError: what cannot work and is known before weights load.
        """

    def origin(self) -> Any:
        """What its first weights come from, for cache addresses; None for nowhere."""
        return None

    @abstractmethod
    def tokenizer(self, rows: Dataset, cache: Path, words: bool = False) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Args:
            rows: the texts that training may see.
            words: whether answers are given word by word, so that no token may stand for the space between words.
        """

    @abstractmethod
    def model(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The untrained student with the task's head. Random weights come from torch's generator: seed it before."""
