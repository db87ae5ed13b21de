"""Sentences that a student without layers answers in a second of one core, with the lines of docs/recipes.md.

    .venv/bin/python -m tests.benchmarks.static [FOLDER]

FOLDER is a student that `distilingua train student=static` has saved; without one random weights, as fast.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
CLOCK = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
texts = sys.stdin.read().splitlines()
times = []
for _ in range(5):
    start = time.process_time()
    for n in range(0, len(texts), 1000):
        answer(texts[n : n + 1000])
    times.append(time.process_time() - start)
print(f"{len(texts) / sorted(times)[2]:,.0f} sentences a second, of {sum(map(len, texts)) / len(texts):.0f} characters")
"""


def snippet(folder: Path) -> str:
    """The lines of the page that answer without PyTorch, for a student in this folder."""
    (found,) = re.findall(r"```python\n(import json.*?def answer.*?)```", PAGE.read_text("utf-8"), re.S)
    return re.sub(r'Path\(".*?"\)', f"Path({str(folder)!r})", found)


def main() -> None:
    from distilingua.corpora.smart_home import SmartHome
    from distilingua.models.static import Static
    from distilingua.tasks.text_classification import TextClassification

    texts = [row["text"] for row in SmartHome().load(["en", "de"]).to_list()]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else made)
        if len(sys.argv) == 1:
            student = Static()
            tokenizer = student.train_tokenizer(texts)
            tokenizer.save_pretrained(folder)
            task = TextClassification().fit_labels([str(n) for n in range(42)])
            student.model(task, tokenizer).save_pretrained(folder)
        # seconds of a processor: what else runs on the machine does not count
        subprocess.run([sys.executable, "-c", snippet(folder) + CLOCK], input="\n".join(texts), text=True, check=True)


if __name__ == "__main__":
    main()
