"""What a refusal costs: seconds of a processor, the median of five starts, commands taking turns.

    .venv/bin/python -m tests.benchmarks.refusal

No test asserts seconds, as they belong to a machine; `test_cli.py` asserts what costs them, which is what is imported.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = {
    "a pair that is not there": ["train", "pair.targets=[xx]"],
    "a temperature of 0": ["train", "objective.temperature=0"],
    "a term of negative weight (needs torch)": ["train", "objective.terms.kl.weight=-1"],
    "the whole configuration": ["train", "--cfg", "job"],
    "help": ["--help"],
}


def seconds(arguments: list[str]) -> float:
    """Of a processor, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(Path(sys.executable).with_name("distilingua")), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(5):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    for name, found in times.items():
        print(f"{statistics.median(found):6.2f} s  {name}")
