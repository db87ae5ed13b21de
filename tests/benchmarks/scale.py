"""How a run grows with its rows: seconds from the end of imports to the student's first step, and memory beyond them.

    python -m tests.benchmarks.scale 10000 100000 1000000

Rows are 5 to 12 made-up words in two languages, aligned by a key, with 20 classes; the teacher has one layer of random
weights. Every size is run twice: from nothing, and with all that the first run has kept. `--address-space GB` runs it
under a limit of that much more address space than imports take.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLASSES, WORDS = 20, 6000
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def write_corpus(folder: Path, rows: int) -> None:
    """Two files a split, `rows` training rows in all."""
    rng = random.Random(1)
    words: dict[str, list[str]] = {}
    for lang, end in (("en", ""), ("de", "n")):
        made: set[str] = set()
        while len(made) < WORDS:
            made.add("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) + end)
        words[lang] = sorted(made)
        (folder / lang).mkdir(parents=True)
    for split, count in (("train", rows // 2), ("dev", 500), ("test", 500)):
        files = {lang: (folder / lang / f"{split}.csv").open("w", newline="", encoding="utf-8") for lang in words}
        writers = {lang: csv.writer(file) for lang, file in files.items()}
        for writer in writers.values():
            writer.writerow(["text", "label", "key"])
        for n in range(count):
            label = rng.randrange(CLASSES)
            ranks = [label * 7] + [min(int(rng.paretovariate(0.6)) - 1, WORDS - 1) for _ in range(rng.randint(4, 11))]
            for lang, writer in writers.items():
                writer.writerow([" ".join(words[lang][r] for r in ranks), f"class{label:02d}", f"{split}{n}"])
        for file in files.values():
            file.close()


def write_teacher(folder: Path, corpus: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from distilingua.models.vocabulary import train_tokenizer

    torch.manual_seed(0)
    texts = [row["text"] for row in csv.DictReader((corpus / "en/train.csv").open(encoding="utf-8"))][:5000]
    names = [f"class{n:02d}" for n in range(CLASSES)]
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    labels: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": {x: n for n, x in enumerate(names)}}
    tokenizer = train_tokenizer(texts, 8000)
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape, **labels)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(folder: Path, run: str, address_space: float | None) -> None:
    """One run, in a process of its own; prints what it measured as JSON."""
    import distilingua.training.train
    from distilingua.cli import main
    from distilingua.training import student
    from distilingua.training.module import DistillationModule

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if address_space is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(address_space * 1e9),) * 2)
    began, first = time.perf_counter(), 0.0
    step, distil = DistillationModule.training_step, student.distil
    learning = False

    def timed_distil(*given: Any) -> Any:
        nonlocal learning
        learning = True
        return distil(*given)

    def timed_step(module: DistillationModule, batch: Any, batch_idx: int) -> Any:
        nonlocal first
        first = first or learning * (time.perf_counter() - began)
        return step(module, batch, batch_idx)

    DistillationModule.training_step = timed_step  # type: ignore[method-assign]
    distilingua.training.train.distil = timed_distil
    sys.argv = [
        *("distilingua", "train", "corpus=files", f"corpus.path={folder / 'data'}", "corpus.columns.group=key"),
        *("task=intent", "pair.targets=[de]", "teacher=local", f"teacher.path={folder / 'teacher'}"),
        *("teacher.fine_tune=null", "+trainer.limit_train_batches=2", "training.epochs=1"),
        *(f"paths.cache={folder / 'cache'}", f"hydra.run.dir={folder / run}"),
    ]
    main()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": round(first, 1), "megabytes": (peak - before) // 1024}), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+")
    parser.add_argument("--address-space", type=float)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(Path(options.child[0]), options.child[1], options.address_space)
        return
    print("| rows | run | seconds to the first step | MB beyond imports |\n| --- | --- | --- | --- |")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_corpus(folder / "data", rows)
            write_teacher(folder / "teacher", folder / "data")
            limit = ["--address-space", str(options.address_space)] if options.address_space else []
            for run in ("first", "second"):
                command = [sys.executable, "-m", "tests.benchmarks.scale", str(rows), *limit, "--child", place, run]
                done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                found = json.loads(done.stderr.strip().splitlines()[-1])
                print(f"| {rows:,} | {run} | {found['seconds']} | {found['megabytes']} |", flush=True)


if __name__ == "__main__":
    main()
