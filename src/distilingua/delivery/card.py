"""The model card: what a student is, how good, how it was made, where it ends, and how to cite it; see card.md.j2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from omegaconf import DictConfig

from distilingua.errors import listed
from distilingua.monitoring.tables import markdown, models_frame, trust_frame

NAMED = 60  # classes


def write_card(cfg: DictConfig, settings: Mapping[str, Any], export: Mapping[str, Any], folder: Path) -> None:
    """README.md with `model-index`.

    Args:
        settings: of the run, see `Delivered`.
        export: what export.json holds.
    """
    from distilingua.models.bag import BagConfig

    name, corpus, student = f"{export['task']}-{export['pair']}", corpus_of(export), export["models"]["student"]
    results = [
        EvalResult(
            task_type=export["pipeline"],
            dataset_type=corpus,
            dataset_name=f"{corpus} ({lang})",
            dataset_config=lang,
            dataset_split="test",
            metric_type=metric,
            metric_name=heading,
            metric_value=round(scores[metric], 4),
        )
        for lang, scores in student["languages"].items()
        for metric, heading in export["shown"].items()
    ]
    data = ModelCardData(
        language=[lang.split("-")[0] for lang in export["languages"]],
        license=cfg.license,
        library_name="transformers",
        pipeline_tag=export["pipeline"],
        tags=["knowledge-distillation", "cross-lingual", "distilingua"],
        model_name=name,
        eval_results=results,
    )
    cleaning = settings.get("cleaning") or {}
    trust = trust_frame({"student": student["reliability"]})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("card.md.j2")),
        name=name,
        cfg=cfg,
        export=export,
        corpus=corpus,
        table=markdown(models_frame("", export["models"], export["shown"]).drop(columns="weights")),
        trust="" if trust.empty else markdown(trust),
        labels=listed([f"`{label}`" for label in export["labels"] or ()], NAMED),
        teacher=path_as_shown(cfg.teacher.get("path")),
        cleaned=[step for step in ("repair", "markup", "url") if cleaning.get(step)],
        long=(settings.get("task") or {}).get("long", "head"),
        imports="import distilingua.models.bag" if config.get("model_type") == BagConfig.model_type else "",
        calibrated=config.get("calibrated"),
    ).save(folder / "README.md")


def corpus_of(export: Mapping[str, Any]) -> str:
    """A data set of the hub by its name, another corpus by that of its class."""
    corpus = export["corpus"]
    path = str(corpus.get("path") or "")
    hub = corpus["_target_"].endswith(".Hub") and path.count("/") == 1 and not path.startswith((".", "/", "~"))
    return path if hub else corpus["_target_"].rpartition(".")[2]


def path_as_shown(path: Any) -> str:
    """Without the folders of this machine."""
    name = str(path or "trained from scratch")
    return Path(name).name if name.startswith(("/", "~", ".")) else name
