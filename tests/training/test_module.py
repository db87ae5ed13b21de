"""The promises of the LightningModule, on a real run of a tiny teacher and student."""

from __future__ import annotations

import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from distilingua.data.datamodule import MultilingualDataModule
from distilingua.data.encoder import Encoder
from distilingua.errors import UserError
from distilingua.models.source import TeacherSource
from distilingua.models.teacher import FrozenTeacher, load_model, load_tokenizer
from distilingua.parts import Settings, module_parts
from distilingua.training.fitting import fit
from distilingua.training.inference import Predictor
from distilingua.training.module import DistillationModule
from distilingua.training.student import student_fit
from distilingua.training.teacher import teacher_outputs
from tests.conftest import passes, with_names
from tests.small_jobs import prepare


class Parts:
    """What `train` puts together, so that a test can look at the pieces."""

    def __init__(self, cfg: DictConfig) -> None:
        self.job = prepare(cfg)
        assert isinstance(self.job.source, TeacherSource)
        self.source = self.job.source
        tokenizer = load_tokenizer(self.source)
        load = partial(load_model, self.source.location, self.job.task, tokenizer)
        self.teacher = Predictor(load, Encoder(self.job.task, tokenizer), folder=Path(self.source.location))

    def module(self, store: bool) -> tuple[DistillationModule, MultilingualDataModule]:
        self.source.store = store
        outputs = teacher_outputs(self.job, {"teacher": self.teacher}, self.job.rows)
        return student_fit(self.job, self.job.objective, self.job.rows.train, self.job.rows.dev, outputs)[:2]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Watch(Callback):
    """Notes in which mode the teacher answers while the student trains."""

    def __init__(self) -> None:
        self.modes: set[bool] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, DistillationModule)
        assert pl_module.teacher is not None
        assert pl_module.student.training
        self.modes |= {module.training for module in pl_module.teacher.model.modules()}


def test_the_teacher_never_changes_and_is_not_in_the_checkpoint(next_run) -> None:  # type: ignore[no-untyped-def]
    parts = Parts(next_run("training.epochs=2"))
    before = weights(parts.teacher.model)
    module, data = parts.module(store=False)
    assert isinstance(module.teacher, FrozenTeacher)
    student_before = weights(module.student)
    watch = Watch()
    trainer = Trainer(
        max_epochs=2, callbacks=[watch], logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, data)
    assert watch.modes == {False}
    assert same(before, weights(parts.teacher.model))
    assert not any(p.requires_grad for p in parts.teacher.model.parameters())
    assert not same(student_before, weights(module.student))
    assert all(name.startswith("student.") for name in module.state_dict())
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in parts.teacher.model.parameters()}


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-6), ("float16", 1e-3)])
def test_stored_soft_labels_train_like_the_live_teacher(next_run, dtype: str, close: float) -> None:  # type: ignore[no-untyped-def]
    """The same losses, step by step. The live teacher pads other batches together, so its last bits differ."""
    parts = Parts(next_run())
    parts.source.store_dtype = dtype
    losses: list[list[float]] = []
    for store in (True, False):
        module, data = parts.module(store)
        losses.append([])
        trainer = Trainer(
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[Losses(losses[-1])],
        )
        trainer.fit(module, data)
    assert len(losses[0]) > 20
    assert losses[0] == pytest.approx(losses[1], abs=close)
    assert dtype == "float32" or losses[0] != losses[1]


def test_a_finished_store_never_loads_the_teacher(next_run) -> None:  # type: ignore[no-untyped-def]
    parts = Parts(next_run())
    parts.module(store=True)
    parts.teacher = Predictor(lambda: pytest.fail("loaded"), parts.teacher.encoder, folder=parts.teacher.folder)
    module, data = parts.module(store=True)
    Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(module, data)


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self, kept: list[float]) -> None:
        self.kept = kept

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *rest: Any) -> None:
        self.kept.append(float(outputs["loss"]))


class StopAt(Callback):
    """Ctrl-C between two steps, after which Lightning saves; or a crash, after which it does not."""

    def __init__(self, step: int, crash: bool) -> None:
        self.step, self.crash = step, crash

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash") if self.crash else KeyboardInterrupt


@pytest.mark.long
@pytest.mark.parametrize("crash", [False, True])
def test_a_stopped_run_resumes_to_the_same_weights_bit_for_bit(next_run, crash: bool) -> None:  # type: ignore[no-untyped-def]
    """Ctrl-C resumes in the middle of the epoch; after a crash, the last whole epoch is where it goes on."""
    cfg = next_run("training.epochs=3", "student.dropout=0.2")
    parts = Parts(cfg)
    module, data = parts.module(store=True)
    whole = fit(Settings.of(cfg), "whole", module, data, passes(3))
    steps = whole.global_step
    expected = weights(module.student)

    stopping = cfg.copy()
    OmegaConf.set_struct(stopping, False)
    stop = {"_target_": "tests.training.test_module.StopAt", "step": steps // 2, "crash": crash}
    stopping.callbacks.stop = stop
    stopping.callbacks.checkpoint.save_on_exception = not crash
    module, data = parts.module(store=True)
    with pytest.raises(RuntimeError if crash else SystemExit, match="crash" if crash else "distilingua resume"):
        fit(Settings.of(stopping), "student", module, data, passes(3))
    assert not same(expected, weights(module.student))
    saved = torch.load(Path(cfg.paths.run) / "checkpoints/student/last.ckpt", weights_only=True)["global_step"]
    assert saved == (steps // 3 if crash else steps // 2)

    torch.manual_seed(12345)  # a new process starts with another random state
    module, data = parts.module(store=True)
    resumed = fit(Settings.of(cfg), "student", module, data, passes(3))
    assert resumed.global_step == steps
    assert same(expected, weights(module.student))


def test_checkpoints_hold_plain_values_and_load_without_pickle(next_run) -> None:  # type: ignore[no-untyped-def]
    cfg = next_run("training.epochs=1")
    parts = Parts(cfg)
    module, data = parts.module(store=False)
    fit(Settings.of(cfg), "student", module, data, passes(1))
    checkpoint = torch.load(Path(cfg.paths.run) / "checkpoints/student/last.ckpt", weights_only=True)
    assert all(name.startswith("student.") for name in checkpoint["state_dict"])
    assert json.loads(json.dumps(checkpoint["hyper_parameters"])) == checkpoint["hyper_parameters"]


def test_training_step_is_a_handful_of_lines() -> None:
    body = inspect.getsource(DistillationModule.training_step).splitlines()[1:]
    assert len(body) <= 5


def test_accumulating_two_batches_gives_the_update_of_their_union(next_run) -> None:  # type: ignore[no-untyped-def]
    """One SGD step over two half batches, with labels and soft labels spread unevenly, equals one over the whole."""
    parts = Parts(next_run("student.dropout=0"))
    module, data = parts.module(store=True)
    data.setup("fit")
    rows = [
        *range(8),
        *range(len(data.train) - 8, len(data.train)),
    ]  # labelled English rows, then unlabelled German ones
    updates = []
    for sizes in ([16], [8, 8]):
        module, _ = parts.module(store=True)
        batches = [data.collate(data.train_rows, rows[sum(sizes[:i]) : sum(sizes[: i + 1])]) for i in range(len(sizes))]
        loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        module.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
        module.lr_schedule = {"name": "constant", "warmup": 0}
        trainer = Trainer(
            max_steps=1,
            accumulate_grad_batches=len(sizes),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            accelerator="cpu",
        )
        trainer.fit(module, train_dataloaders=loader)
        updates.append(weights(module.student))
    for name, value in updates[0].items():
        assert torch.allclose(value, updates[1][name], atol=1e-6), name


def test_rows_of_the_teacher_are_found_by_id_not_by_position(next_run) -> None:  # type: ignore[no-untyped-def]
    parts = Parts(next_run())
    _, data = parts.module(store=True)
    data.setup("fit")
    assert data.outputs.stored is not None
    texts = dict(zip(parts.job.rows.table["id"], parts.job.rows.table["text"], strict=True))
    shuffled = list(range(len(data.train)))[::-7]
    batch = data.collate(data.train_rows, shuffled)
    rows = with_names(data.train, parts.job.rows.table)
    for n, stored in zip(shuffled, batch["soft_labels"], strict=True):
        (read,) = rows[n]["teacher_rows"]
        alone = Dataset.from_dict({"text": [texts[read]], "text_pair": [""]})
        ids = Encoder(parts.job.task, parts.teacher.encoder.tokenizer)(alone, None)
        live = parts.teacher.model(torch.tensor([ids[0]["input_ids"]])).logits[0]
        assert torch.allclose(stored, live, atol=1e-5)


@pytest.mark.parametrize(
    "student",
    [("student=nano", "student.layers=1"), ("student=factorised", "student.embedding_rank=4", "student.layers=null")],
)
def test_a_checkpoint_says_itself_what_its_module_is(next_run: Any, tmp_path: Path, student: tuple[str, ...]) -> None:
    module, data = Parts(next_run("objective=kd_embedding", student=student)).module(store=True)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=1, **quiet)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    again = DistillationModule.load_from_checkpoint(tmp_path / "own.ckpt")
    assert same(weights(module.student), weights(again.student))
    plain = torch.load(tmp_path / "own.ckpt", weights_only=True)["hyper_parameters"]
    assert json.loads(json.dumps(plain)) == plain
    own = MultilingualDataModule(data.train, data.dev, data.encoder, batch_size=8, test=data.dev)
    assert "dev/en/accuracy" in Trainer(**quiet).validate(again, datamodule=own)[0]
    assert "test/en/accuracy" in Trainer(**quiet).test(again, datamodule=own)[0]
    plain["task"]["_target_"] = "torch.hub.load"
    with pytest.raises(UserError, match=r"names torch\.hub\.load"):
        module_parts(plain)
