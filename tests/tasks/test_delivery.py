"""What tasks say of themselves for those who export, judge and ask their models."""

from __future__ import annotations

import pytest

from distilingua.tasks.delivery import task_by_head
from distilingua.tasks.multi_label import MultiLabel
from distilingua.tasks.question_answering import QuestionAnswering
from distilingua.tasks.speech import SpeechRecognition
from distilingua.tasks.task import Task
from distilingua.tasks.text_classification import TextClassification
from distilingua.tasks.token_classification import TokenClassification
from distilingua.tasks.translation import Translation


@pytest.mark.parametrize(
    ("task", "pipeline", "problem", "names_classes"),
    [
        (TextClassification(), "text-classification", "single_label_classification", True),
        (MultiLabel(), "text-classification", "multi_label_classification", True),
        (TokenClassification(), "token-classification", None, True),
        (QuestionAnswering(), "question-answering", None, False),
        (Translation(), "translation", None, False),
        (SpeechRecognition(), "automatic-speech-recognition", None, False),
    ],
)
def test_how_a_task_is_exported(task: Task, pipeline: str, problem: str | None, names_classes: bool) -> None:
    assert (task.hub_pipeline, task.problem_type, task.names_classes) == (pipeline, problem, names_classes)
    assert task.searches == (pipeline == "translation")
    head = task.auto.removeprefix("AutoModel")
    assert task_by_head(f"Bert{head}", problem) is (None if task.searches else type(task))
