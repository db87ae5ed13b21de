"""What a folder with a model of transformers is: its files, and whether they can be read. Loads no weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distilingua.errors import UserError, full_disk, refuse

FROM_PADDING = (  # they count positions from the padding piece's id on
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "longformer",
    "mpnet",
    "esm",
    "luke",
)
DESCRIBING = (  # what transformers and sentence-transformers read; whatever else is there is not ours to judge
    *("config.json", "generation_config.json", "modules.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
)
STUDENTS = ("student", "student_of_all")
"""Where in its folder a run, or a task of it among several, keeps its student."""
OWN = "distilingua"
"""The key of config.json under which a student says how it reads."""
DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_layer")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@contextmanager
def readable(name: str, folder: Path | None) -> Iterator[None]:
    """Whatever a library raises for a model's files, or while it computes, becomes one sentence that names the file.

    Args:
        name: what the user set: `teacher.path=FOLDER`.
        folder: where the files are; None on the hub.
    """
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # there is no end to what they raise, and a panic of Rust is not even an Exception
        if full_disk(error) or type(error).__name__ == "OutOfMemoryError":
            raise
        refuse(damaged(name, folder) if folder is not None else None)
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason:
            reason = "it has code of its own, which is not run here"
        elif "weights_only" in reason:
            reason = "its .bin file holds more than weights, or none; what it would run is not run here"
        raise UserError(
            f"{name}: transformers cannot load or ask this model ({type(error).__name__}: {reason[:200]}). Save or "
            f"download it again, or choose another one."
        ) from error


def read_json(name: str, file: Path) -> dict[str, Any]:
    """An object in a file of a model.

    Args:
        name: what the user set, for the message.

    Raises:
        UserError: a file that cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
        if isinstance(content, dict):
            return content
        problem = "it is no object"
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    raise UserError(f"{name}: {file.name} is damaged ({problem}). Save or download the model again.")


def damaged(name: str, folder: Path) -> str | None:
    """The first file of a model's folder that is incomplete, in a sentence; reads no weights.

    Args:
        name: what the user set, for the message.
    """
    for file in sorted(folder.iterdir()):
        problem = None
        try:
            if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe has no end
                problem = "it is no file"
            elif file.name.endswith(".index.json"):
                problem = _missing_shard(file)
            elif file.name in DESCRIBING:
                json.loads(file.read_text("utf-8"))
            elif file.suffix == ".safetensors":
                problem = _cut(file)
        except OSError as error:
            problem = error.strerror
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            return f"{name}: {file.name} is damaged ({problem}). Save or download the model again."
    return _beyond_weights(name, folder)


def _beyond_weights(name: str, folder: Path) -> str | None:
    """What to say of a config.json that describes more than its weights can hold: to build that takes for ever."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    if not (config.is_file() and weights.is_file()):
        return None
    tensors, size = len(_header(weights)), weights.stat().st_size
    for key, value in read_json(name, config).items() if tensors else ():
        most = tensors if key in DEPTHS else size if key.endswith(("_size", "_dim", "_heads")) else None
        if type(value) is int and most and value > most:
            return f"{name}: config.json says {key}={value}, and the weights beside it are {tensors} of {size} bytes."
    return None


def _header(weights: Path) -> dict[str, Any]:
    """What a file of safetensors begins with: of each tensor, type, shape and place."""
    with weights.open("rb") as content:
        header: dict[str, Any] = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    header.pop("__metadata__", None)
    return header


def _missing_shard(index: Path) -> str | None:
    """What is wrong with the files of weights that an index names, each of which lies beside it."""
    names = set(map(str, json.loads(index.read_text("utf-8"))["weight_map"].values()))
    away = sorted(name for name in names if Path(name).name != name or not (index.parent / name).is_file())
    return f"it names {away[0]}, which does not lie beside it" if away else None


def _cut(file: Path) -> str | None:
    """What is wrong with the length of a file of weights, which begins with a list of what follows."""
    size = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(8)
        header = int.from_bytes(start, "little")
        if len(start) < 8 or header > size - 8:
            lfs = (start + content.read(60)).startswith(b"version https://git-lfs")
            return "it is a pointer of git-lfs: run `git lfs pull`" if lfs else "it has no whole header"
    ends = [8 + header + one["data_offsets"][1] for one in _header(file).values()]
    return f"it has {size} bytes of {max(ends)}" if ends and max(ends) != size else None


def pooling(name: str, folder: Path) -> str:
    """How a model makes a sentence's vector of its last layer: mean or cls, else another mode of sentence-transformers,
    or the name of a module that comes after. A folder that does not say is averaged.

    Args:
        name: what the user set, for the message.
    """
    file, mode = folder / "modules.json", "mean"
    if not file.is_file():
        return mode
    with readable(name, folder):
        for module in json.loads(file.read_text("utf-8")):
            kind = module["type"].rpartition(".")[2]
            if kind not in ("Transformer", "Pooling", "Normalize"):
                return str(kind)
            if kind == "Pooling":
                mode = _pooling_mode(json.loads((folder / module["path"] / "config.json").read_text("utf-8")))
                if mode not in ("mean", "cls"):
                    return mode
    return mode


def _pooling_mode(settings: Mapping[str, Any]) -> str:
    if isinstance(settings.get("pooling_mode"), str):  # newer files name the mode itself
        return str(settings["pooling_mode"])
    modes = [name for name, on in settings.items() if name.startswith("pooling_mode") and on]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    return known.get(modes[0], modes[0]) if len(modes) == 1 else " and ".join(modes)


def reserved_positions(config: Mapping[str, Any]) -> int:
    """Positions that no text ever has, by a config.json: RoBERTa and its kin count from the padding piece's id on."""
    return int(config.get("pad_token_id", 1)) + 1 if config.get("model_type") in FROM_PADDING else 0


def check_positions(max_length: int | None, positions: int | None, reserved: int, role: str) -> None:
    """Raises UserError for texts beyond a model's positions, of which some are reserved; None is not known."""
    if positions and max_length is not None and max_length > positions - reserved:
        raise UserError(
            f"task.max_length={max_length} is more than the {role}'s {positions - reserved} positions. "
            f"Set task.max_length={positions - reserved}, or choose another {role}.path."
        )
