"""What is typed, printed and pasted: names of folders, quotes, pipes, narrow terminals, copies of runs."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from mlflow.exceptions import MlflowException

from distilingua.console import Printer, console
from distilingua.corpora import smart_home
from distilingua.corpora.smart_home import SmartHome
from distilingua.errors import UserError, as_user_error
from distilingua.locations import new_folder
from distilingua.monitoring.compare import compare
from distilingua.monitoring.sweep import SWEEP, varied_keys
from distilingua.monitoring.tables import results_table
from distilingua.overrides import for_resume, job_name, quoted, run_name
from tests.processes import HANGS, SCRIPT, refused, succeed

# --- names of folders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ([], "default"),
        (["seed=2", "optimizer.lr=5e-4", "pair=en-fr"], "pair-en-fr_lr-5e-4_seed-2"),
        (["objective/terms=[kl,ce]", "objective=custom"], "objective-custom_terms-kl+ce"),
        (["student.layers=even:3", "student=layers"], "student-layers_layers-even-3"),
        (["paths.cache=/tmp/x", "hydra.sweep.dir=y", "~callbacks.speed", "pair=en-de"], "pair-en-de"),
        (["optimizer.lr=1", "teacher.fine_tune.lr=2"], "optimizer.lr-1_teacher.fine_tune.lr-2"),
        (["+objective.teacher=true", "~task.order"], "teacher-true_order-no"),
    ],
)
def test_a_folder_is_named_after_what_was_typed_most_telling_first(typed: list[str], name: str) -> None:
    found = run_name(typed)
    assert re.sub(r"-[0-9a-f]{8}$", "", found) == name
    assert found == run_name(list(reversed(typed)))


ODD = [
    *("'a b (v2)'", "сообщение", '"x"', "a/b", "{a: b}", "x=y", "it's", "$HOME", "a;b", "*", "", "ß" * 300),
    *("[1,2]", "1+2", "[[1],[2]]", "[[1,2]]", "a-", "a", "[]"),
]


def test_names_can_be_pasted_and_other_settings_have_other_names() -> None:
    found = [run_name([f"corpus.path={value}", f"seed={seed}"]) for value in ODD for seed in (1, 2)]
    assert len(set(found)) == len(found)
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9._+-]{1,120}", name), name
        assert shlex.split(f"echo {name}")[1] == name
        folder = f"outputs/2026-11-25/01-02-03_{name}/student"
        (override,) = OverridesParser.create().parse_overrides([f"teacher.path={folder}"])
        assert override.value() == folder


def test_numbers_have_three_digits_and_still_names_of_their_own() -> None:
    near = [run_name([f"optimizer.lr={lr}", "seed=12345"]) for lr in ("0.00023487234", "0.00023491", "2.35e-4")]
    assert [re.sub(r"-[0-9a-f]{8}$", "", name) for name in near[:2]] == ["lr-0.000235_seed-12345"] * 2
    assert near[2] == "lr-2.35e-4_seed-12345"
    assert run_name(["optimizer.betas=[0.87654,0.99]"]).startswith("betas-0.877+0.99-")
    assert len(set(near)) == 3


def test_a_job_is_named_after_what_varies(tmp_path: Path) -> None:
    told = {"hydra": [], "task": [], "varied": varied_keys(["pair=en-de,en-fr", "seed=1,2", "seed=1", "student=nano"])}
    (tmp_path / SWEEP).write_text(yaml.safe_dump(told))
    overrides = ["student=nano", "seed=1", "pair=en-fr"]
    assert job_name(str(tmp_path), overrides) == "pair-en-fr"
    assert job_name(str(tmp_path / "unknown"), overrides) == run_name(overrides)
    told["varied"] = varied_keys(["callbacks=default,early_stopping"])
    (tmp_path / SWEEP).write_text(yaml.safe_dump(told))
    assert job_name(str(tmp_path), ["seed=1", "callbacks=default"]) == "callbacks-default"


def test_two_folders_of_one_second(tmp_path: Path) -> None:
    found = [new_folder(str(tmp_path / "a" / "b")) for _ in range(3)]
    assert [Path(path).name for path in found] == ["b", "b-2", "b-3"]
    assert all(Path(path).is_dir() for path in found)


@pytest.mark.parametrize("value", ["plain", "a b (v2)", "it's", "a=b,c", "сообщение", "50%", "a'b'c"])
def test_any_text_can_be_the_value_of_an_override(value: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quoted(value)}"])
    assert override.value() == value


# --- a run whose overrides are quoted ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quoted_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Started from a folder with spaces and brackets, as the documentation types it, without a teacher."""
    folder = tmp_path_factory.mktemp("my project (v2)")
    data = folder / "my data (v2)"
    for lang in ("en", "de"):
        (data / lang).mkdir(parents=True)
        for split, rows in (("train", 24), ("dev", 6), ("test", 6)):
            labels = ["good" if n % 2 else "bad" for n in range(rows)]
            lines = ["text,label", *(f"{split} {lang} {n} {label},{label}" for n, label in enumerate(labels))]
            (data / lang / f"{split}.csv").write_text("\n".join(lines), "utf-8")
    typed = ["corpus=files", "corpus.path='my data (v2)'", "objective=direct", "student=nano", "training.epochs=1"]
    return folder, succeed("train", *typed, "student.vocabulary=100", folder=folder)


@pytest.mark.long
def test_it_resumes_by_its_folder_and_as_the_latest(quoted_run: Any) -> None:
    folder, _ = quoted_run
    (made,) = folder.glob("outputs/*/*")
    assert re.fullmatch(
        r"[\d-]+_corpus-files_student-nano_objective-direct_path-mydata-v2_vocabulary-100_epochs-1-.*", made.name
    )
    for arguments in ([], [str(made)]):
        succeed("resume", *arguments, folder=folder)
    assert len(list(folder.glob("outputs/*/*"))) == 1


def test_a_folder_with_any_signs_resumes(tmp_path: Path) -> None:
    odd = tmp_path / "it's a, [run] = 1"
    (odd / ".hydra").mkdir(parents=True)
    (odd / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["corpus.path='my data (v2)'", "seed=2"]))
    *typed, place = OverridesParser.create().parse_overrides(for_resume([str(odd)]))
    assert place.value() == str(odd)
    assert [override.value() for override in typed] == ["my data (v2)", 2]


@pytest.mark.long
def test_the_printed_folder_can_be_pasted_the_log_is_what_was_printed_and_nobody_was_distilled(quoted_run: Any) -> None:
    folder, first = quoted_run
    printed = re.search(r"the student is in (.*)\.$", first.strip().splitlines()[-1])
    assert printed is not None
    assert (folder / printed[1] / "config.json").is_file()
    made = re.search(r"outputs/(.*)/metrics\.json", first)
    assert made is not None
    assert shlex.split(made[1]) == [made[1]]
    (log,) = folder.glob("outputs/*/*/train.log")
    kept = log.read_text("utf-8")
    for words in ("data ─", "soft labels", "direct transfer", "Written to"):
        assert words in kept
        assert words in first
    assert "\x1b" not in kept
    table = first[first.index(" lang ") :]
    assert table.count("direct transfer") == 2  # English and German
    assert "distilled" not in table


# --- narrow terminals, pipes ------------------------------------------------------------------------------------------


def test_sixty_columns_cut_no_score() -> None:
    scores = {"accuracy": 0.4567, "precision": 0.3456, "recall": 0.2345, "f1": 0.1234}
    model = {"parameters": 22_700_000, "bytes": 90_900_000, "latency_ms": 12.3, "languages": {"zh-CN": scores}}
    metrics = {
        **{"task": "intent", "pair": "en-zh-CN", "protocol": "zero_shot", "seed": 1, "device": "cpu"},
        "shown": {"accuracy": "acc", "precision": "prec", "recall": "rec", "f1": "F1"},
        "models": dict.fromkeys(("teacher", "direct", "student"), model),
        "retention": {"languages": {"zh-CN": 0.9876}},
    }
    narrow = Printer()
    narrow.width = 60
    with narrow.capture() as shown:
        narrow.print_whole(results_table(metrics))
    for digits in ("45.7", "34.6", "23.4", "12.3", "98.8", "22.70M", "90.9", "direct transfer"):
        assert digits in shown.get()
    assert "…" not in shown.get()
    assert narrow.width == 60


@pytest.mark.parametrize(("title", "every", "lines"), [("Soft labels", 0, 3), ("Soft labels", 3600, 0), ("", 0, 0)])
def test_a_line_now_and_then_where_there_is_no_terminal(title: str, every: float, lines: int) -> None:
    printer = Printer()
    printer.file = io.StringIO()
    assert list(printer.steps(range(0, 12, 4), title, every)) == [0, 4, 8]
    told = printer.file.getvalue().splitlines()
    assert len(told) == lines
    assert all(re.fullmatch(r"Soft labels: [123] of 3 batches, 0:00:00 left", line) for line in told)


@pytest.mark.parametrize("command", ["train --help", "train --cfg job", "--help", "corpus --cfg job"])
def test_a_reader_may_leave_early(tmp_path: Path, command: str) -> None:
    """`distilingua train --help | head -1`: no traceback."""
    piped = f"{shlex.quote(SCRIPT)} {command} | head -1; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", piped], cwd=tmp_path, capture_output=True, text=True, timeout=HANGS)
    assert answer.stdout.strip()
    assert "Traceback" not in answer.stderr
    assert "BrokenPipe" not in answer.stderr
    assert answer.returncode in (0, 141, -13)


@pytest.mark.parametrize("how", ["| head -1; exit ${PIPESTATUS[0]}", ">&-", ">/dev/full"])
def test_what_goes_on_without_a_reader(tmp_path: Path, how: str) -> None:
    """As `train` does; a standard output that takes no more for another reason is named."""
    code = """
import sys, time
from distilingua.cli import outlast_readers
outlast_readers()
try:
    for n in range(30):
        print(n, flush=True)
        time.sleep(0.02)
except OSError as error:
    print(error.filename, file=sys.stderr)
open("end", "w").close()
print("end", file=sys.stderr)
"""
    piped = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {how}"
    answer = subprocess.run(["bash", "-c", piped], cwd=tmp_path, capture_output=True, text=True, timeout=HANGS)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.splitlines() == [*(["the standard output"] if "full" in how else []), "end"]
    assert (tmp_path / "end").read_text() == ""


# --- compare ----------------------------------------------------------------------------------------------------------


def finished(folder: Path, seed: int, accuracy: float) -> Path:
    model = {"languages": {"de": {"accuracy": accuracy}}}
    metrics = {
        **{"task": "intent", "pair": "en-de", "seed": seed, "shown": {"accuracy": "acc"}, "soft_labels": {}},
        "models": {"direct": model, "student": model},
        "retention": {},
        "dev": {"score": 1.0, "agreement": {}},
        "seconds": {"student": 1.0},
    }
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["pair=en-de", f"seed={seed}"]))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def shown(*folders: Path) -> str:
    with console.capture() as printed:
        console.print_whole(compare(list(folders)))
    return printed.get()


def test_a_copy_of_a_run_is_no_seed(tmp_path: Path) -> None:
    first = finished(tmp_path / "sweep" / "a", 1, 0.5)
    finished(tmp_path / "sweep" / "b", 2, 0.7)
    plain = shown(tmp_path / "sweep")
    assert "seeds: 2" in plain
    assert "60.0 ± 14.1" in plain
    shutil.copytree(first, tmp_path / "sweep" / "copy of a")
    copied = shown(tmp_path / "sweep")
    assert "seeds: 2 (again: 1)" in copied
    assert "60.0 ± 14.1" in copied
    assert shown(tmp_path / "sweep", tmp_path / "sweep") == copied  # named twice, counted once


def test_of_a_run_that_was_repeated_the_latest_counts(tmp_path: Path) -> None:
    old, new = finished(tmp_path / "old", 1, 0.1), finished(tmp_path / "new", 1, 0.9)
    os.utime(old / "metrics.json", (1, 1))
    assert "90.0" in shown(new, old)
    assert "10.0" not in shown(new, old)


@pytest.mark.parametrize("damage", ["half", "empty", "list", "no seed", "text", "binary", "no student"])
def test_damaged_runs_are_told_by_file(tmp_path: Path, damage: str) -> None:
    finished(tmp_path / "good", 1, 0.5)
    file = finished(tmp_path / "bad", 2, 0.5) / "metrics.json"
    whole, metrics = file.read_text(), json.loads(file.read_text())
    file.write_bytes(
        {
            "half": whole[: len(whole) // 2].encode(),
            "empty": b"",
            "list": b"[]",
            "no seed": json.dumps({name: value for name, value in metrics.items() if name != "seed"}).encode(),
            "text": whole.replace("0.5", '"x"').encode(),
            "binary": b"\xff\xfe\0",
            "no student": json.dumps({**metrics, "models": {"direct": metrics["models"]["direct"]}}).encode(),
        }[damage]
    )
    told = refused("compare", str(tmp_path), folder=tmp_path)
    assert told.startswith(f"distilingua compare: {file} is not as a run writes it")


def test_so_is_what_was_typed_for_them(tmp_path: Path) -> None:
    overrides = finished(tmp_path / "bad", 2, 0.5) / ".hydra" / "overrides.yaml"
    for damage in ("- [", "3", "\0"):
        overrides.write_text(damage)
        with pytest.raises(UserError, match=r"overrides\.yaml is damaged"):
            compare([tmp_path])
        assert "overrides.yaml is damaged" in refused("resume", str(tmp_path / "bad"), folder=tmp_path)


def test_no_password_is_shown(tmp_path: Path) -> None:
    typed = "logger.mlflow.tracking_uri=http://joe:hunter2@server:5000"
    for n in (1, 2):
        (finished(tmp_path / str(n), n, 0.5) / ".hydra/overrides.yaml").write_text(yaml.safe_dump([typed]))
    assert "tracking_uri=http://***@server:5000" in shown(tmp_path).replace("\n", "")
    error = as_user_error(MlflowException("API request to http://joe:hunter2@server:5000/api failed"))
    assert re.match(r"logger: the tracking server .* http://\*\*\*@server:5000/api failed", str(error))


def test_a_run_without_a_teacher_is_compared_too(tmp_path: Path) -> None:
    file = finished(tmp_path / "direct", 1, 0.5) / "metrics.json"
    file.write_text(file.read_text().replace('"seconds": {"student"', '"seconds": {"direct"'))
    assert "50.0" in shown(tmp_path)


# --- a gap in the glossary --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", ["missing", "short"])
def test_a_gap_in_the_glossary_is_named(monkeypatch: pytest.MonkeyPatch, gap: str) -> None:
    whole = smart_home._glossary()
    german = dict(whole["de"])
    if gap == "missing":
        del german["area"]
    else:
        german["area"] = german["area"][:-1]
    monkeypatch.setattr(smart_home, "_glossary", lambda: {**whole, "de": german})
    with pytest.raises(UserError, match=r"smart_home_glossary\.yaml: 'de' has \d+ words under area, and English has"):
        SmartHome().check(["en", "de"])
