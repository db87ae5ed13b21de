"""What a sweep leaves in TensorBoard's files, and other loggers in theirs."""

from __future__ import annotations

import csv
import re
import shlex
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from distilingua.errors import UserError
from distilingua.locations import conf_folder
from distilingua.monitoring.callbacks import SELECT
from distilingua.monitoring.hydra_callback import check_same_sweep, check_sweep
from distilingua.monitoring.sweep import SWEEP, final_scores, varied_keys
from distilingua.parts import Settings
from distilingua.training.fitting import settings_of
from distilingua.training.job import training_recipe
from tests.processes import succeed
from tests.test_sweeps import SMALL, of


@pytest.fixture(scope="module")
def events(swept: Path) -> EventAccumulator:
    return EventAccumulator(str(swept / "temperature-2/tensorboard/student")).Reload()


def hparams_of(events: EventAccumulator, tag: str) -> Any:
    content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return HParamsPluginData.FromString(content)


@pytest.mark.long
def test_what_varies_and_the_target_come_first(events: EventAccumulator) -> None:
    experiment = hparams_of(events, "experiment").experiment
    assert [info.name for info in experiment.hparam_infos if info.differs] == ["temperature"]
    assert [info.name.tag for info in experiment.metric_infos][:3] == [
        "test/de/accuracy",
        "retention/mean",
        "retention/worst",
    ]
    assert experiment.metric_infos[-1].name.tag.startswith("test/en/")
    values = hparams_of(events, "session_start_info").session_start_info.hparams
    assert values["temperature"].number_value == 2.0
    assert values["student"].string_value == "nano"


def test_scores_of_the_targets_stand_before_the_source_s() -> None:
    scores = {"accuracy": 0.5, "f1": 0.4}
    student = {"languages": dict.fromkeys(("en", "de", "fr"), scores)}
    metrics = {"models": {"student": student}, "shown": {"accuracy": "acc", "f1": "F1"}, "retention": {}}
    assert list(final_scores(metrics)) == [
        *("test/de/accuracy", "test/fr/accuracy", "test/de/f1", "test/fr/f1", "test/en/accuracy", "test/en/f1")
    ]


@pytest.mark.long
def test_time_and_memory_are_logged(events: EventAccumulator) -> None:
    shares = [event.value for event in events.Scalars("train/share_waiting")]
    assert shares
    assert all(0 < share < 1 for share in shares)
    assert all(event.value > 0 for event in events.Scalars("train/sentences_per_second"))
    assert all(0.05 < event.value < 100 for event in events.Scalars("train/memory_gb"))


@pytest.mark.long
def test_languages_share_a_chart(events: EventAccumulator) -> None:
    (found,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(found.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["accuracy"] == ["dev/en/accuracy$", "dev/de/accuracy$"]
    tags = events.Tags()["scalars"]
    assert all(any(re.match(pattern, tag) for tag in tags) for pattern in charts["agreement"])


@pytest.mark.long
def test_both_models_vectors_of_the_same_sentences_are_there(swept: Path) -> None:
    folder = swept / "temperature-2/tensorboard/student/00000"
    table = {
        model: [line.split("\t") for line in (folder / model / "metadata.tsv").read_text().splitlines()]
        for model in ("teacher", "student")
    }
    assert table["student"][0] == ["lang", "label", "text"]
    assert {row[0] for row in table["student"][1:]} == {"en", "de"}
    assert {row[0] for row in table["teacher"][1:]} == {"en"}  # what it reads in place of the target
    for model in table:
        vectors = (folder / model / "tensors.tsv").read_text().splitlines()
        assert len(vectors) == len(table[model]) - 1
        assert {len(vector.split("\t")) for vector in vectors} == {32}


@pytest.mark.long
def test_a_line_of_progress_where_there_is_no_terminal(swept: Path) -> None:
    told = (swept.parent / "out.txt").read_text()
    lines = re.findall(r"^step (\d+) of (\d+), loss \d+\.\d+, \d:\d\d:\d\d left at most$", told, re.M)
    assert len(lines) > 100
    assert all(int(step) <= int(steps) for step, steps in lines)
    assert "━" not in told


@pytest.mark.long
def test_other_loggers_write_without_a_network(kept: Path, tmp_path: Path) -> None:
    """Several at once. A table of curves, offline runs for `wandb sync`, and a file for `mlflow ui`."""
    typed = [*SMALL, of(kept / "data"), f"paths.cache={tmp_path / 'cache'}", "hydra.run.dir=run", "training.epochs=1"]
    succeed("train", *typed, "logger=[csv,wandb,mlflow]", "trainer.log_every_n_steps=5", folder=tmp_path)
    curves = list(csv.DictReader((tmp_path / "run/csv/direct/metrics.csv").read_text().splitlines()))
    assert any(row["dev/de/accuracy"] for row in curves)
    assert any(row["train/loss"] for row in curves)
    (scores,) = csv.DictReader((tmp_path / "run/csv/scores/metrics.csv").read_text().splitlines())
    assert float(scores["test/de/accuracy"]) >= 0
    offline = list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert len(offline) == 2  # the baseline's curves, the scores
    with sqlite3.connect(tmp_path / "mlflow.db") as runs:
        names = {name for (name,) in runs.execute("select name from runs")}
        assert names == {"run/direct", "run/scores"}
        assert runs.execute("select count(*) from metrics where key = 'test/de/accuracy'").fetchone() == (1,)
    assert not (tmp_path / "run/tensorboard").exists()


def test_early_stopping_watches_what_weights_are_chosen_by(compose_run) -> None:  # type: ignore[no-untyped-def]
    callbacks = compose_run("callbacks=early_stopping").callbacks
    assert set(callbacks) > {"early_stopping", "checkpoint"}
    stopper = instantiate(callbacks.early_stopping)
    assert (stopper.monitor, stopper.mode) == (SELECT, "max")


COMMANDS = [
    line.partition("distilingua train -m ")[2].partition("     ")[0]
    for file in sorted((conf_folder() / "sweep").glob("*.yaml"))
    for line in file.read_text("utf-8").splitlines()
    if line.startswith("#   distilingua train -m ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_a_sweep_is_one_that_starts(command: str) -> None:
    typed = shlex.split(command)
    single = [item for item in typed if item.partition("=")[0] not in varied_keys(typed)]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", [*single, "hydra.sweep.dir=sweep"], return_hydra_config=True)
    check_sweep(config)
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    assert varied_keys([*params, *typed])


def test_what_was_kept_from_a_training_that_did_not_stop_is_another(compose_run) -> None:  # type: ignore[no-untyped-def]
    def recipe(*typed: str) -> dict[str, Any]:
        task = SimpleNamespace(labels=[], hard=object)
        job: Any = SimpleNamespace(settings=Settings.of(compose_run(*typed)), task=task, student=None, augmentations={})
        return training_recipe(job, [])

    usual, stopped = recipe(), recipe("callbacks=early_stopping")
    assert usual == recipe("~callbacks.speed")
    assert usual != stopped
    assert stopped != recipe("callbacks=early_stopping", "callbacks.early_stopping.patience=5")


def test_so_is_what_any_callback_may_have_shaped_and_a_run_has_these_settings(compose_run) -> None:  # type: ignore[no-untyped-def]
    averaged = "+callbacks.mean._target_=lightning.pytorch.callbacks.StochasticWeightAveraging"
    usual, watched, stopped, mean = (
        settings_of(Settings.of(compose_run(typed)))
        for typed in ("seed=1", "~callbacks.curves", "callbacks=early_stopping", averaged)
    )
    assert usual == watched
    assert len({str(one.get("callbacks")) for one in (usual, stopped, mean)}) == 3


def test_a_folder_has_one_sweep(tmp_path: Path) -> None:
    first = {"hydra": [], "task": ["seed=1,2", "optimizer.lr=1e-3"], "varied": ["seed"]}
    other = {**first, "task": ["seed=1,2", "optimizer.lr=2e-3"]}
    more = {**first, "hydra": ["hydra.sweeper.n_trials=60"], "task": [*first["task"], "logger=csv"]}
    searched = {**first, "hydra": ["hydra.sweeper.params.seed=1"]}
    (tmp_path / SWEEP).write_text(yaml.safe_dump(first))
    check_same_sweep(tmp_path, other)  # no job of the first one has begun
    (tmp_path / "seed-1/checkpoints").mkdir(parents=True)
    (tmp_path / "seed-1/checkpoints/settings.yaml").touch()
    check_same_sweep(tmp_path, more)
    for note in (other, searched):
        with pytest.raises(UserError, match=r"holds a sweep with other settings.*distilingua resume"):
            check_same_sweep(tmp_path, note)
    (tmp_path / SWEEP).write_text("{hydra: [")
    with pytest.raises(UserError, match=r"sweep\.yaml is not as a run writes it"):
        check_same_sweep(tmp_path, first)
