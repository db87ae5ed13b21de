"""What a task says of itself once a model has been trained for it: how answers are judged, exported and piped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from datasets import Dataset
from hydra.utils import get_class

from distilingua.statistics.bootstrap import Tally

HEADS = {  # of models of transformers: pipeline, as the hub spells it, and task
    "ForSequenceClassification": ("text-classification", "text_classification.TextClassification"),
    "ForTokenClassification": ("token-classification", "token_classification.TokenClassification"),
    "ForQuestionAnswering": ("question-answering", "question_answering.QuestionAnswering"),
    "ForCTC": ("automatic-speech-recognition", "speech.SpeechRecognition"),
}


class Delivery:
    """Half of a `Task`: what its models are judged, exported and asked by, all of which may stay as it is."""

    auto: ClassVar[str]
    backbone: ClassVar[str]
    distributed: ClassVar[int | None]
    names_classes: ClassVar[bool] = True
    """Whether an answer is a choice among classes with names, of which each has a probability."""
    searches: ClassVar[bool] = False
    """Whether an answer is written piece by piece, in a search, which takes several graphs and far more time."""
    mean_probability: ClassVar[bool] = False
    """Whether the probability of an answer is a mean over its pieces, which does not say how often it is right."""

    @classmethod
    def encodes_text(cls) -> bool:
        """Whether its model is an encoder of text, whose layers and classes can be compared piece by piece."""
        return cls.backbone == "encoder"

    @classmethod
    def writes(cls) -> bool:
        """Whether its model is an encoder-decoder, whose answers are texts."""
        return cls.backbone == "encoder-decoder"

    @classmethod
    def hears(cls) -> bool:
        """Whether its model is an encoder of speech."""
        return cls.backbone == "speech encoder"

    @property
    def hub_pipeline(self) -> str:
        """The pipeline of transformers that answers like it."""
        return (
            "translation"
            if self.writes()
            else HEADS.get(self.auto.removeprefix("AutoModel"), HEADS["ForSequenceClassification"])[0]
        )

    @property
    def problem_type(self) -> str | None:
        """What transformers calls a classification of whole texts; None where an answer is of another kind."""
        if self.auto != "AutoModelForSequenceClassification":
            return None
        return "multi_label_classification" if self.distributed is None else "single_label_classification"

    def tally(self, predicted: Sequence[str], rows: Dataset) -> Tally | None:
        """What the main score is made of, row by row; None where nobody has said, and scores have no intervals.

        Args:
            predicted: the answers, see `Task.decode`.
            rows: with their labels.
        """
        return None


def task_by_head(architecture: str, problem_type: str | None) -> Any:
    """The class of the task that a model of transformers does by its head; None where that says too little.

    Args:
        architecture: as its config.json names it, such as "BertForTokenClassification".
        problem_type: of the same file.
    """
    kind = next((task for head, (_, task) in HEADS.items() if architecture.endswith(head)), None)
    if problem_type == "multi_label_classification":
        kind = "multi_label.MultiLabel"
    return get_class(f"distilingua.tasks.{kind}") if kind else None
