"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distilingua.commands import readable_errors

DISTILINGUA = str(Path(sys.executable).with_name("distilingua"))


def run(*arguments: str, folder: Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [DISTILINGUA, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds
    )


def files_overrides(data: Path) -> list[str]:
    return ["corpus=files", f"corpus.path='{data}/{{lang}}/{{split}}.jsonl'", "corpus.columns.group=key"]


def test_help_lists_the_commands(tmp_path: Path) -> None:
    shown = run("--help", folder=tmp_path)
    assert shown.returncode == 0
    for command in ("train", "resume", "compare", "corpus"):
        assert f"distilingua {command}" in shown.stdout


SLOW = ("torch", "transformers", "datasets", "lightning", "torchmetrics")  # to import, from half a second on


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--help", None),
        ("train --help", None),
        ("train --cfg job", None),
        ("train pair.targets=[xx]", 1),
        ("train student.hidden_size=100", 1),
        ("train training.epochs=0 objective.temperature=0", 1),
        ("train task.class_weights=heavy", 1),
        ("train corpus=files", 1),
        ("train teacher.precision=fp4 schedule=two_stage schedule.soft.at=1.5", 1),
        ("train experiment=translation task.beams=0", 1),
    ],
)
def test_what_is_said_at_once_imports_nothing_slow(tmp_path: Path, arguments: str, code: int | None) -> None:
    """Seconds belong to a machine, see tests/benchmarks/refusal.py; what takes them is what is imported."""
    program = f"""
import sys
from distilingua.cli import main

sys.argv = ["distilingua", *{arguments.split()!r}]
try:
    main()
except SystemExit as end:
    assert (end.code or None) == {code!r} or ({code!r} and isinstance(end.code, str)), end.code
else:
    assert {code!r} is None
found = [name for name in {SLOW!r} if name in sys.modules]
assert not found, found
"""
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr


def test_unknown_command_shows_the_known_ones(tmp_path: Path) -> None:
    answer = run("trian", folder=tmp_path)
    assert answer.returncode != 0
    assert "'trian' is not a command" in answer.stderr
    assert "distilingua train" in answer.stderr


BAD_INPUT = [
    (["pair.targets=[xx]"], "'xx' is not a language of smart_home. Choose one of: de, fr"),
    (["pair.targets=[ja]"], "'ja' has 4 of 42 intents in smart_home"),
    (["pair.targets=[en]"], "'en' is both the source and a target"),
    (["pair.targets=[]"], "pair.targets is empty"),
    (["pair.protocol=zero"], "Choose one of: zero_shot, translate_train, few_shot, supervised"),
    (["objective.temperature=0"], "objective.temperature=0: expected a number above 0"),
    (["objective.temperature=abc"], "objective.temperature=abc: expected a number above 0"),
    (["objective.alpha=1.5"], "objective.alpha=1.5 is outside [0, 1]"),
    (["objective.alpha=-0.1"], "objective.alpha=-0.1 is outside [0, 1]"),
    (["objective.terms.kl.weight=-1"], "KL has weight -1"),
    (["objective/terms=[dist,ce]"], "objective.terms.kl is weighed by this objective"),
    (["objective=custom", "objective/terms=[hidden,ce]", "teacher.store=true"], "teacher.store=false, so that it"),
    (["augmentation=[word_dropout]"], "augmentation=word_dropout may change what a sentence means"),
    (["student=layers", "student.layers=even:9"], "even:9"),
    (["training.batch_size=0"], "training.batch_size=0: expected a whole number of at least 1"),
    (["training.epochs=-1"], "training.epochs=-1: expected a whole number of at least 1"),
    (["optimizer.lr=-1"], "optimizer.lr=-1: expected a number above 0"),
    (["lr_schedule.warmup=3"], "lr_schedule.warmup=3 is outside [0, 1]"),
    (["lr_schedule.name=cubic"], "lr_schedule.name=cubic is none of linear, cosine"),
    (["seed=abc"], "seed=abc: expected a whole number"),
    (["student.hidden_size=100"], "student.hidden_size=100 is no multiple of student.heads=6"),
    (["pair.targets=es"], "Give a list: pair.targets=[es]"),
    (["teacher=local"], "teacher.path is not set"),
    (["teacher=local", "teacher.path=models/mine"], "no such folder"),
    (["teacher.precision=fp4"], "teacher.precision=fp4 is not known"),
    (["schedule=two_stage", "schedule.soft.at=1.5"], "neither a fraction nor a number of steps"),
    (["task.max_length=500"], "task.max_length=500 is more than the student's 128 positions"),
    (["teacher=local", "teacher.path=/no/such/folder"], "no such folder"),
    (["teacher.path=package:no_such_package/model"], "the Python package 'no_such_package' is not installed"),
    (["teacher.sha256=abc"], "expected abc"),
    (["corpus=files"], "data/en/train.csv does not exist"),
    (["corpus=sib200", "pair.targets=[xx]"], "mteb/sib200 has no language 'xx'"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD_INPUT, ids=[" ".join(o) for o, _ in BAD_INPUT])
def test_bad_input_ends_at_once_in_one_message_and_leaves_nothing(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    answer = run("train", *overrides, folder=tmp_path)
    assert answer.returncode == 1
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "Type device=cpu instead"), ("mps", "Type device=cpu instead"), ("fsdp", "Type device=cpu instead")],
)
def test_a_device_that_is_not_there(tmp_path: Path, device: str, message: str) -> None:
    import torch

    if device == "mps":
        assert not torch.backends.mps.is_available() or sys.platform == "darwin"
    answer = run("train", f"device={device}", folder=tmp_path)
    available = torch.cuda.is_available() if device != "mps" else torch.backends.mps.is_available()
    assert available or (answer.returncode == 1 and message in answer.stderr)


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


def test_a_sweep_names_its_folders_after_what_varies_and_compare_reads_them(
    tmp_path: Path, files_corpus: Path, teacher_folder: Path
) -> None:
    small = [
        *files_overrides(files_corpus),
        "teacher=local",
        f"teacher.path={teacher_folder}",
        "teacher.languages=[en]",
        "student=nano",
        "training.epochs=1",
        "training.batch_size=16",
        "teacher.fine_tune.epochs=1",
        "hydra.sweep.dir=sweep",
        "hydra.job.config.override_dirname.exclude_keys=[corpus,corpus.path,corpus.columns.group,teacher,teacher.path,"
        "teacher.languages,student,training.epochs,training.batch_size,teacher.fine_tune.epochs]",
    ]
    swept = run("train", "-m", "student.hidden_size=32,64", "student.heads=2", "seed=1,2", *small, folder=tmp_path)
    assert swept.returncode == 0, swept.stderr
    names = sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/metrics.json"))
    assert names == [f"heads-2_hidden_size-{h}_seed-{s}" for h in (32, 64) for s in (1, 2)]

    compared = run("compare", "sweep", folder=tmp_path)
    assert compared.returncode == 0
    assert compared.stdout.count("seeds: 2") == 2  # two settings
    assert "±" in compared.stdout
    nothing = run("compare", "nowhere", folder=tmp_path)
    assert nothing.returncode == 1
    assert "no metrics.json under nowhere" in nothing.stderr


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
        batch = next(b for b in range(8, 64) if (rows // b) % 2 == 0)
        answer = run(
            "train", *settings, *device, f"training.batch_size={batch}", f"hydra.run.dir={tmp_path}/{name}",
            folder=tmp_path, seconds=300,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        assert (tmp_path / name / "metrics.json").exists()
        weights[name] = load_file(tmp_path / name / "student" / "model.safetensors")
    assert rows > 100
    for key, value in weights["one"].items():
        assert value.allclose(weights["two"][key], atol=1e-5), key
    assert len(list((tmp_path / "cache/soft_labels").glob("*/logits.npy"))) == 1  # written once, read by both processes


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_stopped_run_resumes_to_the_same_weights(
    tmp_path: Path, files_corpus: Path, teacher_folder: Path, how: str
) -> None:
    """Promise 6, killed or by Ctrl-C in the middle of the student's training: bit for bit on one device."""
    settings = [
        *files_overrides(files_corpus),
        *("teacher=local", f"teacher.path={teacher_folder}", "teacher.languages=[en]", "teacher.fine_tune=null"),
        *("student=nano", "student.layers=1", "student.hidden_size=32", "student.heads=2", "training.epochs=12"),
        "training.batch_size=4",
        f"paths.cache={tmp_path}/cache",
    ]
    whole = run("train", *settings, f"hydra.run.dir={tmp_path}/whole", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr
    folder = tmp_path / how / "seed=1,student=nano"
    command = [DISTILINGUA, "train", *settings, f"hydra.run.dir='{folder}'"]
    job = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    last = folder / "checkpoints" / "student" / "last.ckpt"
    deadline = time.monotonic() + 600  # not to hang for ever
    while not last.exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(getattr(signal, how))
    job.wait()
    assert last.exists()
    assert not (folder / "metrics.json").exists()  # it died before its end
    other = run("train", *settings, "optimizer.lr=0.5", f"hydra.run.dir='{folder}'", folder=tmp_path)
    assert other.returncode == 1
    assert "holds a run with other settings" in other.stderr
    resumed = run("resume", str(folder), folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    weights = [(path / "student" / "model.safetensors").read_bytes() for path in (tmp_path / "whole", folder)]
    assert weights[0] == weights[1]


def test_resume_says_what_it_needs(tmp_path: Path) -> None:
    assert "no run under outputs/" in run("resume", folder=tmp_path).stderr
    assert "is not the folder of a run" in run("resume", str(tmp_path), folder=tmp_path).stderr


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
