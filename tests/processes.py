"""Commands as a user meets them: each in a process of its own, with pipes, signals and an exit code.

Importing libraries is most of what a small command takes. On Linux its process is therefore forked from one that has
imported them, and not a line of this package. All of these have the same salt of `hash()`: where two processes have to
agree, one of them is started by `launch`, which runs the installed script. So is every one where nothing forks.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SCRIPT = str(Path(sys.executable).with_name("distilingua"))
HANGS = 1800  # seconds; nothing here is judged by time, a test that never ends is ended
ENVIRONMENT = {
    **os.environ,
    "COLUMNS": "200",
    # for tests.saboteur
    "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[1])])),
}
LIBRARIES = [
    *("datasets", "hydra.main", "lightning.pytorch.callbacks", "matplotlib.pyplot", "pandas", "pyarrow.parquet"),
    *("safetensors.torch", "tensorboard", "torch.utils.tensorboard", "torchmetrics.functional"),
    *("transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert"),
]
FORKS: Any = None
if sys.platform == "linux":
    FORKS = multiprocessing.get_context("forkserver")
    FORKS.set_forkserver_preload(LIBRARIES)


def from_source(folder: Path) -> str:
    """Code for `start` that runs the package in this folder in place of the installed one."""
    return f"import sys; sys.path.insert(0, {str(folder)!r}); from distilingua.cli import main; main()"


def launch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The installed script, from its first import on."""
    return subprocess.run(
        [SCRIPT, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=HANGS
    )


def run(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command from its start to its end; see `start`."""
    with start(*arguments, folder=folder, **options) as job:
        out, err = job.communicate(timeout=HANGS)
    assert job.returncode is not None
    return subprocess.CompletedProcess(arguments, job.returncode, out, err)


def succeed(*arguments: str, folder: Path, **options: Any) -> str:
    """What a command prints that has to succeed."""
    answer = run(*arguments, folder=folder, **options)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def refused(*arguments: str, folder: Path, **options: Any) -> str:
    """What a command says of what it cannot do: in a line, with 1 as its exit code."""
    answer = run(*arguments, folder=folder, **options)
    assert answer.returncode == 1, answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    return answer.stderr


def start(*arguments: str, folder: Path, limit: int | None = None, code: str | None = None, **more: str) -> Job:
    """A command that goes on meanwhile.

    Args:
        limit: bytes that a file may have.
        code: Python to run in place of the script.
        more: of its environment.
    """
    environment = {**ENVIRONMENT, **more}
    if FORKS is not None:
        return Forked(arguments, folder, environment, limit, code)
    return subprocess.Popen(
        [SCRIPT, *arguments] if code is None else [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(_prepare, limit),
    )


class Forked:
    """What tests use of `subprocess.Popen`, of a command in a forked process."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        limit: int | None,
        code: str | None,
    ) -> None:
        pipes = [FORKS.Pipe(duplex=False) for _ in range(2)]
        given = [list(arguments), str(folder), dict(environment), limit, code, *(writer for _, writer in pipes)]
        self.process = FORKS.Process(target=_command, args=given)
        self.process.start()
        self.told: list[list[bytes]] = [[], []]
        self.readers = []
        for (reader, writer), told in zip(pipes, self.told, strict=True):
            writer.close()  # of this process, or there would be no end to read
            self.readers.append(threading.Thread(target=_read, args=(reader, told), daemon=True))
            self.readers[-1].start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired("distilingua", timeout)
        return self.process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        self.wait(timeout)
        for reader in self.readers:
            reader.join(timeout)
        out, err = (b"".join(told).decode() for told in self.told)
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(HANGS)


Job = Forked | subprocess.Popen[str]


def _read(pipe: Connection, told: list[bytes]) -> None:
    while block := os.read(pipe.fileno(), 1 << 16):
        told.append(block)
    pipe.close()


def _prepare(size: int | None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may have been started by nohup
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _command(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    limit: int | None,
    code: str | None,
    out: Connection,
    err: Connection,
) -> None:
    """In the forked process: what the installed script does, where and how it was asked to."""
    multiprocessing.set_start_method(None, force=True)  # the workers of a data loader are its own affair
    for number, pipe in enumerate((out, err), start=1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _prepare(limit)
    sys.argv = ["-c" if code else SCRIPT, *arguments]
    try:
        if code is not None:
            exec(code, {"__name__": "__main__"})
        else:
            from distilingua.cli import main

            main()
    finally:
        atexit._run_exitfuncs()
