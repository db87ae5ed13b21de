"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import json
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
from tests.processes import ENVIRONMENT, HANGS, launch, run, start


def files_overrides(data: Path) -> list[str]:
    return ["corpus=files", f"corpus.path='{data}/{{lang}}/{{split}}.jsonl'", "corpus.columns.group=key"]


SLOW = ("torch", "transformers", "datasets", "lightning", "torchmetrics")  # to import, from half a second on
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
    answers = run_several(*([command, *words] for words in told), folder=folder)
    for (words, message), answer in zip(told.items(), answers, strict=True):
        assert answer["code"] == 1, words
        assert message in answer["err"], (words, answer["err"])
        assert len(answer["err"].strip().splitlines()) == 1, (words, answer["err"])
        assert not answer["loaded"], (words, answer["loaded"])
        assert not answer["left"], words


def test_help_lists_the_commands(tmp_path: Path) -> None:
    shown = launch("--help", folder=tmp_path)
    assert shown.returncode == 0
    for command in ("train", "resume", "compare", "corpus"):
        assert f"distilingua {command}" in shown.stdout


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


def test_unknown_command_shows_the_known_ones(tmp_path: Path) -> None:
    answer = launch("trian", folder=tmp_path)
    assert answer.returncode != 0
    assert "'trian' is not a command" in answer.stderr
    assert "distilingua train" in answer.stderr


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
OF_SEVERAL_PARTS = [  # the objective among them, which takes torch
    (["objective.terms.kl.weight=-1"], "KL has weight -1"),
    (["objective=custom", "objective/terms=[hidden,ce]", "teacher.store=true"], "teacher.store=false, so that it"),
    (["augmentation=[word_dropout]"], "augmentation=word_dropout may change what a sentence means"),
]
OF_A_MODEL = [  # whose configuration is read
    (["student=layers", "student.layers=even:9"], "even:9"),
]


def test_bad_input_ends_at_once_in_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    """At once is: before a library is imported that no refusal up to here needs."""
    kinds = [(OF_ONE_PART, []), (OF_SEVERAL_PARTS, ["torch"]), (OF_A_MODEL, ["torch", "transformers"])]
    expected = [(typed, message, needed) for refused, needed in kinds for typed, message in refused]
    answers = run_several(*(["train", *typed] for typed, _, _ in expected), folder=tmp_path)
    assert len(answers) == len(expected)
    for (typed, message, needed), answer in zip(expected, answers, strict=True):
        assert answer["code"] == 1, typed
        assert message in answer["err"], typed
        assert "Traceback" not in answer["err"], typed
        assert len(answer["err"].strip().splitlines()) == 1, typed
        assert not answer["left"], typed
        assert answer["loaded"] == needed, typed


def test_bad_input_in_a_process_of_its_own_says_the_same(tmp_path: Path) -> None:
    for command in ("train", "corpus"):
        answer = launch(command, "pair.targets=[xx]", folder=tmp_path)
        assert answer.returncode == 1
        assert answer.stderr.startswith("distilingua: pair=en-xx: 'xx' is not a language of smart_home. Choose one of")
        assert len(answer.stderr.strip().splitlines()) == 1
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    import torch

    there = {"mps": torch.backends.mps.is_available(), **dict.fromkeys(("gpu", "fsdp"), torch.cuda.is_available())}
    assert not there["mps"] or sys.platform == "darwin"
    missing = [device for device, available in there.items() if not available]
    answers = run_several(*(["train", f"device={device}"] for device in missing), folder=tmp_path)
    for device, answer in zip(missing, answers, strict=True):
        assert answer["code"] == 1, device
        assert "Type device=cpu instead" in answer["err"], device


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = run("train", "teacher=local", "teacher.path=empty", folder=tmp_path)
    assert answer.returncode == 1
    assert "the folder has no weights (model.safetensors" in answer.stderr


def test_damaged_weights_are_refused_before_they_are_loaded(tmp_path: Path, teacher_folder: Path) -> None:
    from distilingua.artifacts import file_sha256

    weights = teacher_folder / "model.safetensors"
    good = file_sha256(weights)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1  # one flipped bit
    weights.write_bytes(content)
    answer = run("train", "teacher=local", f"teacher.path={teacher_folder}", f"teacher.sha256={good}", folder=tmp_path)
    assert answer.returncode == 1
    assert "model.safetensors hashes to" in answer.stderr


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    answer = run("train", f"hydra.run.dir={tmp_path}/file/run", folder=tmp_path)
    assert answer.returncode == 1
    assert "cannot be written" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_several_processes_under_multirun_are_refused(tmp_path: Path) -> None:
    answer = run(
        "train", "-m", "device=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=1,2", folder=tmp_path
    )
    assert answer.returncode == 1
    assert "every process would start the whole sweep again" in answer.stderr


def test_corpus_files_with_a_missing_column_an_empty_split_or_unknown_labels(
    tmp_path: Path, files_corpus: Path
) -> None:
    missing = run("train", *files_overrides(files_corpus), "corpus.columns.label=intent", folder=tmp_path)
    assert missing.returncode == 1
    assert "has no column 'intent'; it has text, label, key" in missing.stderr

    shutil.copytree(files_corpus, tmp_path / "empty")
    (tmp_path / "empty/de/dev.jsonl").write_text("")
    empty = run("train", *files_overrides(tmp_path / "empty"), folder=tmp_path)
    assert empty.returncode == 1
    assert "dev.jsonl is empty" in empty.stderr

    shutil.copytree(files_corpus, tmp_path / "other")
    german = tmp_path / "other/de/train.jsonl"
    german.write_text(german.read_text().replace('"label": "music"', '"label": "musik"'))
    unknown = run("train", *files_overrides(tmp_path / "other"), folder=tmp_path)
    assert unknown.returncode == 1
    assert "'de' has labels that no 'en' training row has, so the teacher does not know them: musik" in unknown.stderr

    alone = run("train", *files_overrides(files_corpus), "corpus.columns.group=null", folder=tmp_path)
    assert alone.returncode == 1
    assert "no 'de' text of this corpus is aligned with 'en' text" in alone.stderr
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.long
def test_a_sweep_names_its_folders_after_what_varies_and_compare_reads_them(kept: Path, tmp_path: Path) -> None:
    small = [
        *files_overrides(kept / "data"),
        *("objective=direct", "student=nano", "student.layers=1", "training.epochs=1", "training.batch_size=16"),
        *("~logger", "~callbacks.learning_rate", f"paths.cache={kept / 'cache'}", "hydra.sweep.dir=sweep"),
    ]
    swept = run("train", "-m", "student.hidden_size=32,64", "student.heads=2", "seed=1,2", *small, folder=tmp_path)
    assert swept.returncode == 0, swept.stderr
    names = sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/metrics.json"))
    assert names == [f"hidden_size-{h}_seed-{s}" for h in (32, 64) for s in (1, 2)]

    compared = run("compare", "sweep", folder=tmp_path)
    assert compared.returncode == 0
    assert compared.stdout.count("seeds: 2") == 2  # two settings
    assert "±" in compared.stdout
    nothing = run("compare", "nowhere", folder=tmp_path)
    assert nothing.returncode == 1
    assert "no metrics.json under nowhere" in nothing.stderr


@pytest.mark.long
def test_two_processes_train_like_one(tmp_path: Path, files_corpus: Path, teacher_folder: Path) -> None:
    """Promise 3: two gloo processes of batch b give the weights of one process that accumulates two batches of b.

    With SGD: Adam divides gradients that are zero but for rounding by their own size, and makes rounding visible.
    """
    from safetensors.torch import load_file

    settings = [
        *files_overrides(files_corpus),
        *("teacher=local", f"teacher.path={teacher_folder}", "teacher.languages=[en]", "teacher.fine_tune=null"),
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
            shown = run("corpus", *settings, folder=tmp_path)
            rows = sum(int(line.split()[2]) for line in shown.stdout.splitlines() if line.startswith((" en ", " de ")))
        batch = next(b for b in range(32, 96) if (rows // b) % 2 == 0)
        answer = run(
            "train", *settings, *device, f"training.batch_size={batch}", f"hydra.run.dir={tmp_path}/{name}",
            folder=tmp_path,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
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
        *("teacher=local", f"teacher.path={kept / 'teacher'}", "teacher.languages=[en]", "teacher.fine_tune=null"),
        *("student=nano", "student.layers=1", "student.hidden_size=32", "student.heads=2", "training.epochs=3"),
        "training.batch_size=8",
        f"paths.cache={kept / 'cache'}",
    ]
    whole = run("train", *settings, "hydra.run.dir=whole", folder=folder)
    assert whole.returncode == 0, whole.stderr
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
    other = run("train", *settings, "optimizer.lr=0.5", f"hydra.run.dir='{folder}'", folder=tmp_path)
    assert other.returncode == 1
    assert "holds a run with other settings" in other.stderr
    resumed = launch("resume", str(folder), folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert (folder / "student/model.safetensors").read_bytes() == weights


def test_resume_says_what_it_needs(tmp_path: Path) -> None:
    assert "no run under outputs/ or multirun/" in run("resume", folder=tmp_path).stderr
    assert "is not the folder of a run or a sweep" in run("resume", str(tmp_path), folder=tmp_path).stderr


def test_corpus_describes_without_leaving_anything_behind(tmp_path: Path, files_corpus: Path) -> None:
    shown = run("corpus", *files_overrides(files_corpus), folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Best accuracy any model can reach" in shown.stdout
    assert "en 100.00 %, de 100.00 %" in shown.stdout
    assert not (tmp_path / "outputs").exists()


def test_ctrl_c_outside_of_training_leaves_no_traceback() -> None:
    with (
        pytest.raises(SystemExit, match="What was finished is kept: distilingua resume"),
        readable_errors(),
    ):
        raise KeyboardInterrupt
