"""The pictures of a report, as SVG that stands inside a page: text stays text, in whatever script."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

COLOURS = {"teacher": "#6b7280", "direct": "#b45309", "student": "#1d4ed8", "oracle": "#15803d"}
NAMES = {"teacher": "teacher", "direct": "direct transfer", "student": "distilled", "oracle": "oracle"}
MARKS = {"teacher": "s", "direct": "^", "student": "o", "oracle": "D"}
NUMBERS = count(1)


@dataclass
class Point:
    """A model among others.

    Args:
        name: what stands beside it.
        kind: teacher, direct, student or oracle.
        score: mean over targets, 0 to 1.
    """

    name: str
    kind: str
    score: float
    megabytes: float
    milliseconds: float


def svg(figure: Figure, description: str) -> str:
    """The figure as an element of HTML.

    Args:
        description: what it shows, for those who do not see it.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": ["sans-serif"]}), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        text = file.getvalue()
    text, own = text[text.index("<svg") :], f"p{next(NUMBERS)}-"  # several in a page must not share names
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{own}", text)
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def languages(models: Mapping[str, Mapping[str, Any]], metric: str, heading: str) -> str:
    """Scores with their intervals, a row per language.

    Args:
        models: kind -> as in metrics.json.
    """
    kinds = [kind for kind in COLOURS if kind in models]
    listed = list(next(iter(models.values()))["languages"])
    figure = Figure(figsize=(7, 0.7 + 0.55 * len(listed)), layout="constrained")
    axes = figure.subplots()
    for n, kind in enumerate(kinds):
        model = models[kind]
        known = [lang for lang in listed if lang in model["languages"]]
        places = [listed.index(lang) + 0.16 * (n - (len(kinds) - 1) / 2) for lang in known]
        scores = [100 * model["languages"][lang][metric] for lang in known]
        for place, lang in zip(places, known, strict=True):
            if interval := model.get("reliability", {}).get(lang, {}).get("interval"):
                axes.plot([100 * end for end in interval], [place] * 2, color=COLOURS[kind], linewidth=2, alpha=0.5)
        axes.scatter(scores, places, color=COLOURS[kind], marker=MARKS[kind], label=NAMES[kind], zorder=3, s=28)
    axes.set(yticks=range(len(listed)), yticklabels=listed, xlim=(-2, 102), xlabel=f"{heading}, %")
    axes.set_ylim(len(listed) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(kinds), frameon=False)
    best = ", ".join(f"{lang} {100 * models['student']['languages'][lang][metric]:.1f}" for lang in listed)
    return svg(figure, f"{heading} in percent by language and model, with intervals. Distilled: {best}.")


def causes(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What is missing to 100 %, a bar per language, cause by cause.

    Args:
        found: of `why.json`, see `delivery.why`.
    """
    figure = Figure(figsize=(7, 0.9 + 0.45 * len(found)), layout="constrained")
    axes = figure.subplots()
    ends = dict.fromkeys(found, 0.0)
    names = list(next(iter(found.values()))["causes"])
    for n, cause in enumerate(names):
        shares = {lang: 100 * one["causes"][cause]["share"] for lang, one in found.items()}
        if any(shares.values()):
            axes.barh(list(shares), list(shares.values()), left=list(ends.values()), color=f"C{n}", label=cause)
        ends = {lang: ends[lang] + share for lang, share in shares.items()}
    axes.set(xlabel="points to 100 %")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    if axes.containers:
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return svg(figure, f"Points to 100 %: {', '.join(f'{lang} {end:.1f}' for lang, end in ends.items())}.")


def size_and_speed(points: Sequence[Point], heading: str) -> str:
    """The mean score of the targets against size and time, on logarithmic scales."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, (value, title) in zip(
        figure.subplots(1, 2, sharey=True), (("megabytes", "MB"), ("milliseconds", "ms a sentence")), strict=True
    ):
        for point in points:
            style = {"color": COLOURS[point.kind], "marker": MARKS[point.kind], "s": 28}
            place = getattr(point, value), 100 * point.score
            axes.scatter(*place, **style)
            if len(points) <= 5 or point.kind != "student":  # the students of a sweep lie upon each other
                axes.annotate(point.name, place, (4, 4), textcoords="offset points", fontsize=8, parse_math=False)
        axes.set(xscale="log", xlabel=title)
        axes.xaxis.set_minor_formatter(NullFormatter())  # or they overlap where the scale is short
        axes.margins(0.25, 0.15)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel=f"{heading}, mean of targets, %")
    lines = (f"{p.name}: {100 * p.score:.1f} %, {p.megabytes:.1f} MB, {p.milliseconds:.1f} ms" for p in points)
    return svg(figure, f"Score against size and speed. {'; '.join(lines)}.")


def curves(run: Path, metric: str, heading: str) -> str:
    """Dev scores of student and baseline while they learn; "" where TensorBoard's files are not there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scores: dict[str, dict[str, list[Any]]] = {}
    for kind in ("direct", "student"):
        folder = run / "tensorboard" / kind
        if not folder.is_dir():
            continue
        events = EventAccumulator(str(folder)).Reload()
        for tag in events.Tags()["scalars"]:
            if parts := re.fullmatch(rf"dev/([^/]+)/{re.escape(metric)}", tag):
                scores.setdefault(parts[1], {})[kind] = events.Scalars(tag)
    if not scores:
        return ""
    across = min(len(scores), 3)
    down = -(-len(scores) // across)
    figure = Figure(figsize=(7, 0.5 + 2.2 * down), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat
    for n in range(len(scores), across * down):
        panels[n].remove()
        panels[n - across].tick_params(labelbottom=True)
    for axes, (lang, each) in zip(panels, scores.items(), strict=False):
        for kind, scalars in each.items():
            label = NAMES[kind] if lang == next(iter(scores)) else None
            values = [100 * scalar.value for scalar in scalars]
            steps, mark = [scalar.step for scalar in scalars], "o" if len(scalars) == 1 else ""
            axes.plot(steps, values, color=COLOURS[kind], label=label, marker=mark)
        axes.set_title(lang, fontsize=10)
        axes.grid(alpha=0.3)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel(f"{heading} on dev, %", fontsize=9)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return svg(figure, f"{heading} on the dev split by step, for {', '.join(scores)}.")
