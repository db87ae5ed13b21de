"""Draws what more passes bring: `distilingua train -m training.epochs=1,2,5,10,20`, then

python -m tests.benchmarks.passes multirun/DATE/TIME docs/passes.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import yaml


def read(sweep: Path) -> dict[int, dict[str, float]]:
    """Passes -> scores of the student per language, in percent."""
    found = {}
    for file in sweep.glob("*/metrics.json"):
        typed = yaml.safe_load((file.parent / ".hydra" / "overrides.yaml").read_text("utf-8"))
        epochs = next(int(o.partition("=")[2]) for o in typed if o.startswith("training.epochs="))
        languages = json.loads(file.read_text("utf-8"))["models"]["student"]["languages"]
        found[epochs] = {
            **{lang: 100 * scores["accuracy"] for lang, scores in languages.items()},
            **{f"{lang}, macro F1": 100 * scores["f1"] for lang, scores in languages.items()},
        }
    return dict(sorted(found.items()))


def draw(found: dict[int, dict[str, float]], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name in next(iter(found.values())):
        style = "--" if "F1" in name else "-"
        axes.plot(list(found), [scores[name] for scores in found.values()], style, marker="o", label=name)
    axes.set(xscale="log", xlabel="passes over the training rows", ylabel="%")
    axes.set_xticks(list(found), [str(n) for n in found])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    sweep, file = map(Path, sys.argv[1:])
    draw(read(sweep), file)
