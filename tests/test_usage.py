"""What every command says of itself and of what it cannot read, and what a shell completes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from distilingua.cli import COMMANDS, USAGE
from distilingua.commands import words
from tests.processes import ENVIRONMENT, SCRIPT, refused, run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(tmp_path: Path, command: str) -> None:
    assert f"distilingua {command} " in USAGE
    told = run(command, "--help", folder=tmp_path)
    assert told.returncode == 0
    assert "distilingua" in told.stdout
    examples = [line for line in told.stdout.splitlines() if re.match(rf"  .*distilingua {command}\b", line)]
    assert examples, told.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            ["train", "pair=en-dx"],
            "Did you mean en-de? There are en-de, en-es, en-fr, en-it, en-many, en-nl, en-pl, en-ru, en-zh.",
        ),
        (["train", "student=x"], "student=x: there is no such file in conf/student. Choose one of factorised,"),
        (["train", "training.epoch=3"], "there is no key training.epoch. Did you mean training.epochs?"),
        (["corpus", "pari=en-de"], "there is no key pari. Did you mean pair?"),
        (["train", "+training.batch_size=3"], "training.batch_size is there already. Type it without +."),
        (["train", "~nope"], "there is no key nope. `distilingua train --cfg job` prints all of them."),
        (["train", "corpus.path=my data (v2)"], "\"corpus.path='my data (v2)'\""),
        (["train", "nonsense"], "'nonsense' cannot be read as KEY=VALUE"),
        (["train", "-m", "seed=1,,"], "'seed=1,,' cannot be read as KEY=VALUE"),
        (["train", "logger=null"], "such as logger=[], and not GROUP=null."),
        (["train", "pair="], "pair=: there is no such file in conf/pair. Choose one of en-de,"),
        (["train", "+experiment=nope"], "experiment=nope: there is no such file in conf/experiment."),
    ],
)
def test_what_was_mistyped_is_told_in_a_line(tmp_path: Path, typed: list[str], words: str) -> None:
    told = refused(*typed, folder=tmp_path)
    assert told.startswith("distilingua: ")
    assert words in told
    assert "Config search path" not in told


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("distilingua tr", {"train"}),
        ("distilingua train student=na", {"student=nano"}),
        ("distilingua train training.ba", {"training.batch_size="}),
        ("distilingua train student=nano teacher=xlmr_b", {"teacher=xlmr_base"}),
        ("distilingua train -m objective=kd_", {"objective=kd_ctc", "objective=kd_embedding"}),
        ("distilingua evaluate outputs/a pair=en-z", {"pair=en-zh"}),
        ("distilingua export RUN form", {"format=", "format."}),
        ("distilingua cache --pr", set()),
    ],
)
def test_words_that_a_shell_may_offer(line: str, expected: set[str]) -> None:
    assert set(words(line)) == expected


def test_bash_completes(tmp_path: Path) -> None:
    """As bash calls it: words taken apart at `=`, of which the last one is completed."""
    code = """
        eval "$(distilingua completion bash)"
        complete -p distilingua
        COMP_LINE='distilingua train student=na' COMP_POINT=28
        COMP_WORDS=(distilingua train student = na) COMP_CWORD=4
        _distilingua
        echo "${COMPREPLY[@]}"
    """
    path = {**ENVIRONMENT, "PATH": f"{Path(SCRIPT).parent}:{ENVIRONMENT['PATH']}"}
    told = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, env=path)
    assert told.stdout.splitlines()[-1] == "nano", told.stderr


def test_a_script_for_every_shell(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        told = run("completion", shell, folder=tmp_path)
        assert "distilingua completion --words" in told.stdout
        if shutil.which(shell):
            check = subprocess.run([shell, "-n"], input=told.stdout, text=True, capture_output=True)
            assert check.returncode == 0, check.stderr
    assert "one of bash, zsh, fish" in refused("completion", "tcsh", folder=tmp_path)
