"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from distilingua.commands import readable_errors
from tests.processes import ENVIRONMENT, HANGS, launch, refused, run, start, succeed


def files_overrides(data: Path) -> list[str]:
    return ["corpus=files", f"corpus.path='{data}/{{lang}}/{{split}}.jsonl'", "corpus.columns.group=key"]


def as_it_is(teacher: Path) -> list[str]:
    """A teacher that is not fine-tuned."""
    return ["teacher=local", f"teacher.path={teacher}", "teacher.languages=[en]", "teacher.fine_tune=null"]


SLOW = ("transformers", "lightning", "torchmetrics")  # to import, each a second or more
SEVERAL = """
import contextlib, io, json, os, sys, traceback
from pathlib import Path
from distilingua.cli import main

modules, runs = sys.argv[1].split(","), json.loads(sys.argv[2])
for n, arguments in enumerate(runs):
    folder = Path(str(n))
    folder.mkdir()
    os.chdir(folder)
    sys.argv = ["distilingua", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 1
    os.chdir("..")
    left = [str(path) for path in folder.rglob("*") if path.is_file()]
    loaded = [name for name in modules if name in sys.modules]
    told = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "left": left, "loaded": loaded}
    print(json.dumps(told), flush=True)
"""


def run_several(*runs: list[str], folder: Path, modules: Sequence[str] = SLOW) -> list[dict[str, Any]]:
    """Command lines one after another in one process of their own, as starting Python is most of what each would take.

    Returns:
        for each: `code`, `out` and `err` as a shell sees them, files that are `left`, and which of `modules` this one
        or one before it has `loaded`.
    """
    command = [sys.executable, "-c", SEVERAL, ",".join(modules), json.dumps(runs)]
    answer = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=HANGS)
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def all_refused(command: str, told: Mapping[tuple[str, ...], str], folder: Path) -> None:
    """Each of what is typed ends in one line that says so, before anything slow is imported, and leaves nothing."""
    end_in_a_line([([command, *words], message, []) for words, message in told.items()], folder)


def end_in_a_line(expected: Sequence[tuple[list[str], str, list[str]]], folder: Path) -> None:
    """As `all_refused`, of what is typed, what is said of it, and which slow modules are there by then."""
    answers = run_several(*(typed for typed, _, _ in expected), folder=folder)
    for (typed, message, loaded), answer in zip(expected, answers, strict=True):
        assert answer["code"] == 1, typed
        assert message in answer["err"], (typed, answer["err"])
        assert len(answer["err"].strip().splitlines()) == 1, (typed, answer["err"])
        assert answer["loaded"] == loaded, typed
        assert not answer["left"], typed


AT_ONCE = [
    ("--help", 0),
    ("train --help", 0),
    ("train --cfg job", 0),
    ("resume nowhere", 1),
    ("compare nowhere", 1),
    ("corpus pair.targets=[xx]", 1),
    ("train task.class_weights=heavy", 1),
    ("train training.epochs=0 objective.temperature=0", 1),
    ("train teacher.precision=fp4 schedule=two_stage schedule.soft.at=1.5", 1),
    ("train experiment=translation task.beams=0", 1),
]


def test_what_is_said_at_once_imports_nothing_slow(tmp_path: Path) -> None:
    """Seconds belong to a machine, see tests/benchmarks/refusal.py; what takes them is what is imported."""
    answers = run_several(*(typed.split() for typed, _ in AT_ONCE), folder=tmp_path)
    assert len(answers) == len(AT_ONCE)
    for (typed, code), answer in zip(AT_ONCE, answers, strict=True):
        assert (answer["code"], answer["loaded"]) == (code, []), typed


def test_help_imports_nothing_at_all(tmp_path: Path) -> None:
    (answer,) = run_several(["--help"], folder=tmp_path, modules=(*SLOW, "hydra", "omegaconf", "numpy", "rich"))
    assert "distilingua train" in answer["out"]
    assert not answer["loaded"]


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("--help", 0, "distilingua corpus"),
        ("trian", 1, "'trian' is not a command"),
        ("trian", 1, "distilingua train"),
        ("train pair.targets=[xx]", 1, "distilingua: pair=en-xx: 'xx' is not a language of smart_home. Choose one of"),
        ("corpus pair.targets=[xx]", 1, "distilingua: pair=en-xx: 'xx' is not a language of smart_home. Choose one of"),
    ],
)
def test_the_installed_script_says_the_same(tmp_path: Path, typed: str, code: int, said: str) -> None:
    answer = launch(*typed.split(), folder=tmp_path)
    assert answer.returncode == code
    assert said in (answer.stderr if code else answer.stdout)
    assert "=" not in typed or len(answer.stderr.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


OF_ONE_PART = [  # of every group one or two; more of them in tests/test_checks.py
    (["pair.targets=[xx]"], "'xx' is not a language of smart_home. Choose one of: de, fr"),
    (["pair.targets=[ja]"], "'ja' has 4 of 42 intents in smart_home"),
    (["objective.temperature=abc"], "objective.temperature=abc: expected a number above 0"),
    (["objective/terms=[dist,ce]"], "objective.terms.kl is weighed by this objective"),
    (["training.batch_size=0"], "training.batch_size=0: expected a whole number of at least 1"),
    (["optimizer.lr=-1"], "optimizer.lr=-1: expected a number above 0"),
    (["student.hidden_size=100"], "student.hidden_size=100 is no multiple of student.heads=6"),
    (["teacher=local"], "teacher.path is not set"),
    (["schedule=two_stage", "schedule.soft.at=1.5"], "neither a fraction nor a number of steps"),
    (["teacher.sha256=abc"], "expected abc"),
    (["corpus=files"], "data/en/train.csv does not exist"),
    (["corpus=sib200", "pair.targets=[xx]"], "mteb/sib200 has no language 'xx'"),
]
OF_SEVERAL_PARTS = [  # the objective among them
    (["objective.terms.kl.weight=-1"], "KL has weight -1"),
    (["objective=custom", "objective/terms=[hidden,ce]", "teacher.store=true"], "teacher.store=false, so that it"),
    (["augmentation=[word_dropout]"], "augmentation=word_dropout may change what a sentence means"),
]
OF_A_MODEL = [  # whose configuration is read
    (["student=layers", "student.layers=even:9"], "even:9"),
]


def test_bad_input_ends_at_once_in_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    """At once is: before a library is imported that no refusal up to here needs."""
    kinds = [(OF_ONE_PART, []), (OF_SEVERAL_PARTS, []), (OF_A_MODEL, ["transformers"])]
    end_in_a_line([(["train", *typed], told, needed) for some, needed in kinds for typed, told in some], tmp_path)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    import torch

    there = {"mps": torch.backends.mps.is_available(), **dict.fromkeys(("gpu", "fsdp"), torch.cuda.is_available())}
    assert not there["mps"] or sys.platform == "darwin"
    missing = [device for device, available in there.items() if not available]
    answers = run_several(*(["train", f"device={device}"] for device in missing), folder=tmp_path)
    for device, answer in zip(missing, answers, strict=True):
        assert answer["code"] == 1, device
        assert "Type device=cpu instead" in answer["err"], device


def test_a_folder_without_weights_and_damaged_ones_are_refused(tmp_path: Path, teacher_folder: Path) -> None:
    from distilingua.artifacts import file_sha256

    (tmp_path / "empty").mkdir()
    told = refused("train", "teacher=local", "teacher.path=empty", folder=tmp_path)
    assert "the folder has no weights (model.safetensors" in told
    weights = teacher_folder / "model.safetensors"
    good = file_sha256(weights)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1  # one flipped bit
    weights.write_bytes(content)
    typed = ["teacher=local", f"teacher.path={teacher_folder}", f"teacher.sha256={good}"]
    assert "model.safetensors hashes to" in refused("train", *typed, folder=tmp_path)


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refused("train", f"hydra.run.dir={tmp_path}/file/run", folder=tmp_path)


def test_several_processes_under_multirun_are_refused(tmp_path: Path) -> None:
    typed = ["-m", "device=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=1,2"]
    answer = run("train", *typed, folder=tmp_path)
    assert answer.returncode == 1
    assert "every process would start the whole sweep again" in answer.stderr


def test_corpus_files_with_a_missing_column_an_empty_split_or_unknown_labels(
    tmp_path: Path, files_corpus: Path
) -> None:
    def told(data: Path, *typed: str) -> str:
        return refused("train", *files_overrides(data), *typed, folder=tmp_path)

    assert "has no column 'intent'; it has text, label, key" in told(files_corpus, "corpus.columns.label=intent")
    assert "no 'de' text of this corpus is aligned with 'en' text" in told(files_corpus, "corpus.columns.group=null")
    shutil.copytree(files_corpus, tmp_path / "empty")
    (tmp_path / "empty/de/dev.jsonl").write_text("")
    assert "dev.jsonl is empty" in told(tmp_path / "empty")
    german = files_corpus / "de/train.jsonl"
    german.write_text(german.read_text().replace('"label": "music"', '"label": "musik"'))
    unknown = "'de' has labels that no 'en' training row has, so the teacher does not know them: musik"
    assert unknown in told(files_corpus)
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.long
def test_two_processes_train_like_one(tmp_path: Path, files_corpus: Path, teacher_folder: Path) -> None:
    """Promise 3: two gloo processes of batch b give the weights of one process that accumulates two batches of b.

    With SGD: Adam divides gradients that are zero but for rounding by their own size, and makes rounding visible.
    """
    from safetensors.torch import load_file

    settings = [
        *files_overrides(files_corpus),
        *as_it_is(teacher_folder),
        *("student=nano", "student.layers=1", "student.hidden_size=32", "student.heads=2", "student.dropout=0"),
        *("trainer.precision=32-true", "training.epochs=2"),
        *("optimizer._target_=torch.optim.SGD", "optimizer.lr=0.3", "~optimizer.betas", "~optimizer.fused"),
        f"paths.cache={tmp_path}/cache",
    ]
    rows = 0
    weights = {}
    for name, device in (
        ("one", ["trainer.accumulate_grad_batches=2"]),
        ("two", ["device=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]),
    ):
        if not rows:  # how many rows there are to train on decides which batch size both can share
            shown = succeed("corpus", *settings, folder=tmp_path)
            rows = sum(int(line.split()[2]) for line in shown.splitlines() if line.startswith((" en ", " de ")))
        batch = next(b for b in range(32, 96) if (rows // b) % 2 == 0)
        own = [f"training.batch_size={batch}", f"hydra.run.dir={tmp_path}/{name}"]
        succeed("train", *settings, *device, *own, folder=tmp_path)
        assert (tmp_path / name / "metrics.json").exists()
        weights[name] = load_file(tmp_path / name / "student" / "model.safetensors")
    assert rows > 100
    for key, value in weights["one"].items():
        assert value.allclose(weights["two"][key], atol=1e-5), key
    assert len(list((tmp_path / "cache/soft_labels").glob("*/logits.npy"))) == 1  # written once, read by both processes


@pytest.fixture(scope="module")
def uninterrupted(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], bytes]:
    """Settings of a run, and the weights it ends with when nothing stops it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    settings = [
        *files_overrides(kept / "data"),
        *as_it_is(kept / "teacher"),
        *("student=nano", "student.layers=1", "student.hidden_size=32", "student.heads=2", "training.epochs=3"),
        "training.batch_size=8",
        f"paths.cache={kept / 'cache'}",
    ]
    succeed("train", *settings, "hydra.run.dir=whole", folder=folder)
    return settings, (folder / "whole/student/model.safetensors").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_stopped_run_resumes_to_the_same_weights(
    tmp_path: Path, uninterrupted: tuple[list[str], bytes], how: str
) -> None:
    """Promise 6, killed or by Ctrl-C in the middle of the student's training: bit for bit on one device."""
    settings, weights = uninterrupted
    folder = tmp_path / how / "seed=1,student=nano"
    job = start("train", *settings, f"hydra.run.dir='{folder}'", folder=tmp_path)
    last = folder / "checkpoints" / "student" / "last.ckpt"
    deadline = time.monotonic() + HANGS  # not to hang for ever
    while not last.exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(getattr(signal, how))
    job.communicate(timeout=HANGS)
    assert last.exists()
    assert not (folder / "metrics.json").exists()  # it died before its end
    typed = [*settings, "optimizer.lr=0.5", f"hydra.run.dir='{folder}'"]
    hydra = (folder / ".hydra/overrides.yaml").read_text()
    assert "holds a run with other settings" in refused("train", *typed, folder=tmp_path)
    assert "holds a run with other settings" in refused(
        "resume", str(folder), "callbacks=early_stopping", folder=tmp_path
    )
    assert (folder / ".hydra/overrides.yaml").read_text() == hydra
    resumed = launch("resume", str(folder), folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert (folder / "student/model.safetensors").read_bytes() == weights


def test_resume_and_compare_say_what_they_need(tmp_path: Path) -> None:
    assert "no metrics.json under nowhere" in refused("compare", "nowhere", folder=tmp_path)
    assert "no run under outputs/ or multirun/" in refused("resume", folder=tmp_path)
    assert "is not the folder of a run or a sweep" in refused("resume", str(tmp_path), folder=tmp_path)


def test_corpus_describes_without_leaving_anything_behind(tmp_path: Path, files_corpus: Path) -> None:
    shown = succeed("corpus", *files_overrides(files_corpus), folder=tmp_path)
    assert "Best accuracy any model can reach" in shown
    assert "en 100.00 %, de 100.00 %" in shown
    assert not (tmp_path / "outputs").exists()


def test_ctrl_c_outside_of_training_leaves_no_traceback() -> None:
    with (
        pytest.raises(SystemExit, match="What was finished is kept: distilingua resume"),
        readable_errors(),
    ):
        raise KeyboardInterrupt


MACHINE = [
    (errno.EROFS, "there/page.html: Read-only file system"),
    (errno.ENAMETOOLONG, "there/page.html: File name too long"),
    (errno.EACCES, "there/page.html: Permission denied"),
    (errno.ENOSPC, r"there is no room for there/page.html .*: there has .* left"),
    (errno.EMFILE, r"Too many open files for this command.*ulimit -n"),
]


@pytest.mark.parametrize(("number", "told"), MACHINE)
def test_what_the_machine_refuses_is_a_line(number: int, told: str) -> None:
    with pytest.raises(SystemExit, match=f"^distilingua report: {told}"), readable_errors("distilingua report"):
        raise OSError(number, os.strerror(number), "there/page.html")


def test_a_mistake_of_this_package_stays_one() -> None:
    with pytest.raises(OSError, match="of a library"), readable_errors("distilingua report"):
        raise OSError("of a library")


def test_a_folder_that_was_deleted_while_a_run_was_at_work_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"{tmp_path}/run was deleted while"), readable_errors(run=tmp_path / "run"):
        (tmp_path / "run" / "predictions.parquet").write_text("")


@pytest.mark.parametrize("command", ["compare", "report", "cache", "evaluate", "resume", "corpus"])
def test_names_that_no_disk_takes(tmp_path: Path, command: str) -> None:
    typed = ["corpus=files", f"corpus.path={'x' * 300}"] if command == "corpus" else ["x" * 300]
    assert "too long" in refused(command, *typed, folder=tmp_path).replace("does not exist", "too long")


@pytest.mark.parametrize("there", [None, [], ["server.log", "train.log"]])
def test_a_refused_run_takes_away_what_it_has_made(tmp_path: Path, there: list[str] | None) -> None:
    folder = tmp_path / "run"
    for name in there or ():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("of others")
    if there is not None:
        folder.mkdir(exist_ok=True)
    refused("train", "corpus=files", "corpus.path=nowhere", "hydra.run.dir=run", folder=tmp_path)
    assert folder.exists() == (there is not None)
    assert sorted(path.name for path in folder.glob("*")) == (there or [])
