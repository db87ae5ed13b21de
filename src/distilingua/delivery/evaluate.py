"""`distilingua evaluate`: judges finished models, on any corpus, pair and task, without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig

from distilingua.artifacts import whole_file, write_json
from distilingua.console import console, quieten
from distilingua.data.rows import fingerprint_of
from distilingua.delivery.model import Delivered, find, known_task
from distilingua.errors import Problems, UserError, listed
from distilingua.parts import Benchmark, assemble_benchmark
from distilingua.tasks.pieces import cut_counts, tell_cut
from distilingua.tasks.task import Task


def evaluate_models(cfg: DictConfig, folder: Path, task_typed: bool = True) -> dict[str, Any]:
    """Judges `cfg.models` on the same test rows; prints a table, and returns what it writes to `evaluation.json`,
    beside `predictions.parquet`.

    Args:
        folder: to write to.
        task_typed: whether the task is that of the configuration, or the one that the first model says it knows.

    Raises:
        UserError: a model that is not there, or does not know the classes of the corpus; settings that cannot work.
    """
    models, benchmark = find_models(cfg, cfg.models, task_typed)
    quieten()
    from distilingua.delivery.runtime import predictor_of
    from distilingua.training.evaluate import evaluate, figures, latency, predictions, trust
    from distilingua.training.inference import device_of

    rows = read_rows(cfg, benchmark)
    prefix, device = cfg.student.get("prefix", ""), device_of(cfg.trainer)
    predictors = {name: predictor_of(model, benchmark.task, device, prefix) for name, model in models.items()}
    for name, predictor in predictors.items():
        check_classes(models[name].given, predictor.encoder.task, rows.test)
        tell_other_rows(models[name], rows.test, benchmark.task)
    evaluations = {name: evaluate(predictor, rows.test, name) for name, predictor in predictors.items()}
    for name, one in evaluations.items():
        read = [cut_counts(of_language.outputs.encoded) for of_language in one.values()]
        tell_cut(name, predictors[name].encoder.task, sum(read))
    speed = latency(predictors, next(iter(rows.test.values())))
    first, *others = predictors
    pairs = [(first, name) for name in others]
    trusted = trust(predictors, evaluations, rows.test, predictors, pairs)
    evaluation = {
        "task": benchmark.task.name,
        "pair": benchmark.pair.name,
        "device": str(device),
        "shown": dict(benchmark.task.shown),
        "given": {name: model.given for name, model in models.items()},
        "models": figures(predictors, evaluations, speed, trusted),
        "differences": trusted.differences,
        "note": benchmark.task.note,
    }
    with whole_file(folder / "predictions.parquet") as file:
        predictions(rows.test, evaluations, trusted=trusted).to_parquet(str(file))
    write_json(folder / "evaluation.json", evaluation)
    show(evaluation)
    console.print(f"Written to {folder / 'evaluation.json'}, every answer to predictions.parquet.", soft_wrap=True)
    return evaluation


def find_models(
    cfg: DictConfig, given: Sequence[str], task_typed: bool, *checks: Callable[[], None]
) -> tuple[dict[str, Delivered], Benchmark]:
    """Models by name, and what they are judged on; whatever can be known to be wrong is told at once.

    Args:
        checks: raise UserError for what else may be wrong.
    """
    problems = Problems()
    models: list[Delivered] = []
    for one in given:
        with problems:
            models.append(find(str(one)))
    with problems:
        benchmark = assemble_benchmark(cfg)
    for check in checks:
        with problems:
            check()
    problems.tell()
    names = names_of([model.given for model in models])
    return dict(zip(names, models, strict=True)), with_task(benchmark, models, task_typed)


def with_task(benchmark: Benchmark, models: Sequence[Delivered], typed: bool) -> Benchmark:
    """With the task that the first model says it was trained for, unless one is typed, or it says none.

    Raises:
        UserError: a model was trained for a task with another head than the typed one, so that no row could be judged.
    """
    if not typed:
        return replace(benchmark, task=known_task(models[0].settings, models[0].given) or benchmark.task)
    for model in models:
        own = None
        with suppress(UserError):  # what a file of others names is not run, and the typed task is what counts
            own = known_task(model.settings, model.given)
        if own is not None and own.auto != benchmark.task.auto:
            raise UserError(
                f"{model.given}: it was trained for task={own.name}, and task={benchmark.task.name} needs another head "
                f"({benchmark.task.auto}, not {own.auto}). Leave out the task, or name a model that was trained for it."
            )
    return benchmark


def names_of(given: Sequence[str]) -> list[str]:
    """A short name for each model: `student` for a single one, as in the files of a run; else the end of its path, with
    as many folders as tell it from the others.

    >>> names_of(["outputs/a/student", "outputs/b/student"])
    ['a/student', 'b/student']
    """
    if len(given) == 1:
        return ["student"]
    parts = [Path(one).parts for one in given]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    twice = Counter(given).most_common(1)[0][0]
    raise UserError(f"{twice} is named twice. Name every model once.")


def read_rows(cfg: DictConfig, benchmark: Benchmark) -> Any:
    """Clean rows of test with their labels, see `data.rows.Rows`."""
    from distilingua.data.rows import load_rows

    given = benchmark.corpus, instantiate(cfg.cleaning), benchmark.pair
    return load_rows(*given, None, task=benchmark.task, judge=True)


def check_classes(given: str, task: Task, rows: Mapping[str, Any]) -> None:
    """Raises UserError for labels of the corpus that a model cannot give, as it does not know them."""
    if not (task.labels and task.names_classes):
        return
    known = set(task.labels)
    unknown = sorted({name for part in rows.values() for name in task.classes(part["label"][:]) if name not in known})
    if unknown:
        raise UserError(
            f"{given}: it does not know {listed(unknown)}, which the corpus has; its classes are "
            f"{listed(task.labels)}. Name the corpus and the task that it was trained for, or others with the same "
            f"classes: corpus=… task=…"
        )


def tell_other_rows(model: Delivered, test: Mapping[str, Dataset], task: Task) -> None:
    """Says where a model is judged on other rows than in its run: a path may lead elsewhere from another folder."""
    known = model.settings.get("rows", {})
    other = [lang for lang in test if lang in known and known[lang] != fingerprint_of(test[lang], task)]
    if other:
        console.print(
            f"{model.given}: judged on other rows in {', '.join(other)} than in its run. If these are not meant, name "
            f"its own, such as corpus.path=FOLDER.",
            soft_wrap=True,
        )


def show(evaluation: Mapping[str, Any]) -> None:
    from distilingua.monitoring.tables import models_table, trust_tables

    title = f"{evaluation['task']}, {evaluation['pair']}; ms on {evaluation['device']}"
    for table in (models_table(title, evaluation["models"], evaluation["shown"]), *trust_tables(evaluation)):
        console.print_whole(table)
    if evaluation["note"]:
        console.print(evaluation["note"])
