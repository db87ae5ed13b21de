"""The model card: what a student is, how good, how it was made, where it ends, and how to cite it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from distilingua.monitoring.frames import piped
from distilingua.monitoring.tables import spread, trust_rows

PIPELINES = {  # as the hub spells them
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSeq2SeqLM": "translation",
    "AutoModelForCTC": "automatic-speech-recognition",
}
LISTED = 60  # classes that are named


def write_card(cfg: DictConfig, settings: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    """README.md with `model-index`, and `.eval_results/` for corpora of the hub.

    Args:
        settings: of the run, see `Delivered`.
        found: what export.json holds.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData
    from hydra.utils import get_class

    from distilingua.models.bag import BagConfig

    kind: Any = get_class(cfg.task._target_)
    pipeline = PIPELINES.get(kind.auto, "text-classification")
    name = f"{found['task']}-{found['pair']}"
    corpus = corpus_of(found)
    results = [
        EvalResult(
            task_type=pipeline,
            dataset_type=corpus,
            dataset_name=f"{corpus} ({lang})",
            dataset_config=lang,
            dataset_split="test",
            metric_type=metric,
            metric_name=heading,
            metric_value=round(scores[metric], 4),
        )
        for lang, scores in found["models"]["student"]["languages"].items()
        for metric, heading in found["shown"].items()
    ]
    data = ModelCardData(
        language=[lang.split("-")[0] for lang in found["languages"]],
        license=cfg.license,
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["knowledge-distillation", "cross-lingual", "distilingua"],
        model_name=name,
        eval_results=results,
    )
    own = json.loads((folder / "config.json").read_text("utf-8")).get("model_type") == BagConfig.model_type
    text = body(cfg, settings, found, name, "import distilingua.models.bag\n" if own else "")
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
    if corpus.count("/") == 1:
        write_eval_results(found, corpus, folder)


def body(cfg: DictConfig, settings: Mapping[str, Any], found: Mapping[str, Any], name: str, imports: str = "") -> str:
    """The card in words.

    Args:
        imports: a line of Python that tells transformers of this kind of model, where it does not know it.
    """
    source, *targets = found["languages"]
    labels = label_names(found)
    cleaning = settings.get("cleaning") or {}
    done = [key for key in ("repair", "markup") if cleaning.get(key)] + (["url"] if cleaning.get("url") else [])
    parts = [
        f"# {name}",
        f"A small model for the task *{found['task']}* in {', '.join(found['languages'])}, distilled across languages "
        f"with distilingua: a teacher that knows {source} taught it"
        + (f" to serve {', '.join(targets)}." if targets else "."),
        "## How good it is\n\nOn the test split, in percent, with 95 % intervals over groups of rows that stand "
        "and fall together (such as those of one template); `changed` is the share of decisions that are not the "
        "student's; times in milliseconds for one sentence, tokenising included.\n\n" + markdown_table(found),
        how_far(found),
        f"## Labels\n\n{labels}" if labels else "",
        f"## How it was made\n\n- **Data**: {corpus_of(found)}; training saw labels as `pair.protocol="
        f"{cfg.pair.protocol}` says.\n- **Teacher**: `{plain_path(cfg.teacher.get('path'))}`.\n- **Student**: "
        f"{found['models']['student']['parameters'] / 1e6:.2f} M weights.\n- **Objective**: "
        f"{', '.join(cfg.objective.terms)}.\n- **Seed**: {cfg.seed}.",
        "## How to use it\n\n" + usage(found, bool(done), imports),
        "## Limits\n\n- Texts beyond the tokenizer's `model_max_length` are cut.\n- It answers every text, "
        "also one that is about nothing it knows.\n- Scores are those of the test split named above, and say "
        "little of other text."
        + (f"\n- Its training texts were cleaned first ({', '.join(done)}); a pipeline does not." if done else ""),
        "## How to cite\n\nGeoffrey Hinton, Oriol Vinyals and Jeff Dean. 2015. *Distilling the Knowledge in a Neural "
        "Network.* arXiv:1503.02531.\n\nRuochen Xu and Yiming Yang. 2017. *Cross-lingual Distillation for Text "
        "Classification.* ACL 2017.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(found: Mapping[str, Any]) -> str:
    """The table of the export, without what only this machine can say at length."""
    score, heading = next(iter(found["shown"].items()))
    languages = list(found["models"]["student"]["languages"])
    rows = []
    for name, model in found["models"].items():
        speed = next(iter(model["speed"].values()))
        cells = [
            name,
            *(f"{100 * model['languages'][lang][score]:.1f} ({spread(model, lang)})" for lang in languages),
            "" if model["changed"] is None else f"{100 * model['changed']:.2f}",
            f"{model['bytes'] / 1e6:.1f}",
            f"{speed['median']:.2f}",
            f"{speed['p95']:.2f}",
        ]
        rows.append([cell.replace(" ()", "") for cell in cells])
    return piped(["model", *(f"{heading} {lang}" for lang in languages), "changed", "MB", "ms", "p95"], rows)


def how_far(found: Mapping[str, Any]) -> str:
    """A section on the student's worst class, calibration and other people's typing; "" where nothing is known."""
    heads, rows = trust_rows({"student": found["models"]["student"]["reliability"]})
    if not rows:
        return ""
    temperature = found["temperature"]
    scaled = f" `scaled` divides logits by {temperature:.2f}, fitted on the dev split." if temperature else ""
    return (
        "## How far to trust it\n\nIn percent: the class of which most is missed and its recall; expected calibration "
        f"error (`ECE`);{scaled} `alone` is the share of rows that could be left to it with 95 % of them right; then "
        "its score on copies of the test split with typing errors, in upper case, and without punctuation.\n\n"
        + piped(heads, rows)
    )


def usage(found: Mapping[str, Any], cleaned: bool, imports: str) -> str:
    made = found["models"]
    lines = []
    if "hub" in made:
        lines.append(
            f"```python\n{imports}from transformers import pipeline\n\npipe = pipeline(model=FOLDER)\n"
            'pipe("…", truncation=True)\n```'
        )
    if "web" in made:
        lines.append("The folder `web/` is a page that runs the student: `python -m http.server -d web`.")
    if set(made) - {"teacher", "student", "hub", "web"}:
        lines.append("The ONNX files in `onnx/` are laid out as transformers.js looks for them.")
    lines.append('With `distilingua predict FOLDER "…"`, texts are cleaned as in training.' if cleaned else "")
    return "\n\n".join(line for line in lines if line)


def label_names(found: Mapping[str, Any]) -> str:
    names = found.get("labels") or []
    rest = len(names) - LISTED
    return ", ".join(f"`{name}`" for name in names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def corpus_of(found: Mapping[str, Any]) -> str:
    """A data set of the hub by its name, another corpus by that of its class."""
    corpus = found["corpus"]
    path = str(corpus.get("path") or "")
    hub = corpus["_target_"].endswith(".Hub") and path.count("/") == 1 and not path.startswith((".", "/", "~"))
    return path if hub else corpus["_target_"].rpartition(".")[2]


def plain_path(path: Any) -> str:
    """Without the folders of this machine."""
    name = str(path or "trained from scratch")
    return Path(name).name if name.startswith(("/", "~", ".")) else name


def write_eval_results(found: Mapping[str, Any], corpus: str, folder: Path) -> None:
    """What the hub shows beside a data set of its own."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    score = next(iter(found["shown"]))
    (folder / ".eval_results").mkdir(exist_ok=True)
    for lang, scores in found["models"]["student"]["languages"].items():
        sure = spread(found["models"]["student"], lang)
        notes = f"{score}, 95 % interval {sure}" if sure else score
        entry = EvalResultEntry(dataset_id=corpus, task_id=lang, value=round(100 * scores[score], 2), notes=notes)
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        (folder / ".eval_results" / f"{lang}.yaml").write_text(text, "utf-8")
