"""Where a teacher comes from. Imports nothing heavy, so that it can be checked before anything loads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from distilingua.artifacts import file_sha256, folder_fingerprint
from distilingua.corpora.schema import language_code
from distilingua.errors import UserError, full_disk, lengths, one_of, refuse, text, whole
from distilingua.locations import location

PRECISIONS = ("32", "bf16", "16", "int8")
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
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@contextmanager
def readable(name: str, folder: Path | None) -> Iterator[None]:
    """Whatever a library raises for files of a model becomes one sentence that says which file it is.

    Args:
        name: what the user set: `teacher.path=FOLDER`.
        folder: where the files are; None on the hub.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # there is no end to what they raise: transformers 20 kinds, safetensors its own
        if full_disk(error) or type(error).__name__ == "OutOfMemoryError":
            raise
        refuse(damaged(name, folder) if folder is not None else None)
        told = " ".join(str(error).split())
        if "trust_remote_code" in told:
            told = "it has code of its own, which is not run here"
        elif "weights_only" in told:
            told = "its .bin file holds more than weights, or none; what it would run is not run here"
        raise UserError(
            f"{name}: transformers cannot load this model ({type(error).__name__}: {told[:200]}). Save or download it "
            f"again, or choose another one."
        ) from error


def damaged(name: str, folder: Path) -> str | None:
    """The first file of a model's folder that cannot be whole, in a sentence; reads no weights.

    Args:
        name: what the user set, for the message.
    """
    for file in sorted(folder.iterdir()):
        problem = None
        try:
            if file.name in DESCRIBING or file.name.endswith(".index.json"):
                json.loads(file.read_text("utf-8"))
            elif file.suffix == ".safetensors":
                problem = _cut(file)
        except (ValueError, RecursionError) as error:
            problem = str(error)
        except OSError as error:
            problem = error.strerror
        if problem:
            return f"{name}: {file.name} is damaged ({problem}). Save or download the model again."
    return None


def _cut(file: Path) -> str | None:
    """What is wrong with the length of a file of weights, which begins with a list of what follows."""
    size = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(8)
        header = int.from_bytes(start, "little")
        if len(start) < 8 or header > size - 8:
            lfs = (start + content.read(60)).startswith(b"version https://git-lfs")
            return "it is a pointer of git-lfs: run `git lfs pull`" if lfs else "it has no whole header"
        tensors = json.loads(content.read(header))
    ends = [8 + header + one["data_offsets"][1] for key, one in tensors.items() if key != "__metadata__"]
    return f"it has {size} bytes of {max(ends)}" if ends and max(ends) != size else None


@dataclass
class TeacherSource:
    """What a teacher is made from.

    Args:
        path: hub repository, folder, or `package:NAME/FOLDER` for a model that a Python package carries; null with
            `scratch`.
        languages: what it reads; null for "all of them", as a multilingual encoder does.
        sha256: of its `model.safetensors`, checked before it is loaded; null for no check.
        revision: commit of a hub repository.
        prefix: goes in front of every text; some encoders want one (E5: "query: ").
        fine_tune: training of the task on labelled source text; null for a teacher that knows the task already.
        seeds: how often it is fine-tuned, from the run's seed, the next one, and so on; the mean of their probabilities
            is what it answers.
        store: compute its logits once and train from those, instead of asking it again in every epoch; null does so
            unless something needs more of it than its logits, see `resolve_store`.
        store_dtype: float32, or float16 for half the space and about three digits.
        store_top_k: classes kept per position, with what the others weigh together; null keeps all.
        folder: whether `path` is a folder whatever it looks like, and never a hub repository.
        precision: what it computes in: 32, bf16, 16 (GPU) or int8 (CPU, linear layers only).
        scratch: a kind of `Student`, for a teacher that starts from random weights and learns the task here.
        labels: the model's own class name -> the corpus' name of it, for one that knows the task and spells otherwise.
    """

    path: str | None
    languages: list[str] | None = None
    sha256: str | None = None
    revision: str | None = None
    prefix: str = ""
    fine_tune: Mapping[str, Any] | None = None
    seeds: int = 1
    store: bool | None = None
    store_dtype: str = "float32"
    store_top_k: int | None = None
    precision: str = "32"
    folder: bool = False
    scratch: Any = None
    labels: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.languages is not None:
            self.languages = [language_code(lang) for lang in self.languages]

    @property
    def members(self) -> dict[str, TeacherSource]:
        """Itself: one teacher is an ensemble of one."""
        return {"teacher": self}

    @property
    def panel(self) -> list[tuple[list[str] | None, bool]]:
        """See `Ensemble.panel`; nothing to tell apart here."""
        return []

    def resolve_store(self, live: bool) -> None:
        """Decides `store` where the user has not.

        Args:
            live: whether a term compares its layers, or something changes what it has to read.
        """
        if self.store is None:
            self.store = not live

    @property
    def location(self) -> str:
        """`path` with a package replaced by its folder. Imports nothing of that package."""
        assert self.path is not None
        return location(self.path, "teacher.path")

    def origin(self) -> Any:
        """What its first weights come from, for cache addresses."""
        return folder_fingerprint(self.local) if self.local else [self.location, self.revision]

    @property
    def local(self) -> Path | None:
        """Its folder; None when it lives on the hub, or nowhere yet."""
        if self.path is None:
            return None
        folder = Path(self.location).expanduser()
        looks_local = self.folder or self.path.startswith(("package:", "/", "./", "../", "~")) or folder.is_dir()
        return folder if looks_local else None

    @property
    def backbones(self) -> Sequence[str]:
        """What it can be, as far as is known before weights load; see `Task.backbone`."""
        if self.scratch is not None:
            kinds: Sequence[str] = self.scratch.backbones
            return kinds
        writes = self.local is None or self.config.get("is_encoder_decoder", False)
        return ["encoder", "speech encoder", *(["encoder-decoder"] if writes else [])]

    def check(self, max_length: int | None = None, role: str = "teacher") -> None:
        """Loads nothing.

        Args:
            max_length: of the task, in pieces; None where it is not known.
            role: what the user calls it, for messages.

        Raises:
            UserError: an unknown option, random weights of no use, a folder without weights, a wrong checksum.
        """
        keep = self.store_top_k
        refuse(
            one_of(f"{role}.precision", str(self.precision), PRECISIONS),
            one_of(f"{role}.store_dtype", self.store_dtype, ("float32", "float16")),
            text(f"{role}.prefix", self.prefix),
            whole(f"{role}.seeds", self.seeds, 1),
            f"{role}.seeds={self.seeds}: what knows the task already is not fine-tuned. Set {role}.seeds=1."
            if self.seeds != 1 and self.fine_tune is None
            else None,
            *(lengths(f"{role}.fine_tune", self.fine_tune) if self.fine_tune is not None else ()),
            f"{role}.store_top_k={keep}: keep at least 1 class, or null for all."
            if keep is not None and (type(keep) is not int or keep < 1)
            else None,
            f"{role}: give either {role}.path (a model) or {role}.scratch (one to be trained here)."
            if (self.path is None) == (self.scratch is None)
            else None,
            f"{role}.scratch: random weights know nothing. Set teacher/fine_tune=default."
            if self.scratch is not None and self.fine_tune is None
            else None,
        )
        if self.scratch is not None:
            self.scratch.check(max_length, f"{role}.scratch")
        folder = self.local
        if folder is None:
            return
        if not folder.is_dir():
            raise UserError(f"{role}.path={self.path}: no such folder. Give a folder with a transformers model.")
        if not any((folder / name).is_file() for name in WEIGHTS):
            raise UserError(
                f"{role}.path={self.path}: the folder has no weights ({' or '.join(WEIGHTS)}). "
                f"Save the model there with `model.save_pretrained(...)`."
            )
        if not (folder / "config.json").is_file():
            raise UserError(f"{role}.path={self.path}: the folder has no config.json, so its shape is unknown.")
        if "embedding_rank" in self.config:
            raise UserError(
                f"{role}.path={self.path}: its embedding is factorised, which transformers would replace by a random "
                f"one. Multiply it back first: distilingua.models.factorise.unfactorise."
            )
        refuse(damaged(f"{role}.path={self.path}", folder))
        self._check_classes(role)
        with readable(f"{role}.path={self.path}", folder):
            config = self.config
            reserved = config.get("pad_token_id", 1) + 1 if config.get("model_type") in FROM_PADDING else 0
            check_positions(max_length, config.get("max_position_embeddings"), reserved, role)
        if self.sha256:
            found = file_sha256(folder / "model.safetensors")
            if found != self.sha256:
                raise UserError(
                    f"{role}.path={self.path}: model.safetensors hashes to {found}, expected {self.sha256}. The file "
                    f"is damaged or another version: install it again, or set {role}.sha256 if you mean this one."
                )

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json.

        Raises:
            UserError: a file that is not JSON.
        """
        assert self.local is not None
        try:
            found: dict[str, Any] = json.loads((self.local / "config.json").read_text("utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it is no object")
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"teacher.path={self.path}: config.json is damaged ({error}). Save the model there again."
            ) from None
        return found

    def label_order(self, spelt: bool = True) -> list[str] | None:
        """Names of the classes in the order of its logits; None where it does not say.

        Args:
            spelt: as the corpus does, by `labels`; else as the model itself.
        """
        if self.local is not None:
            names = self.config.get("id2label") or {}
        else:
            from transformers import AutoConfig

            with readable(f"teacher.path={self.path}", None):
                found = AutoConfig.from_pretrained(self.location, revision=self.revision, trust_remote_code=False)
            names = found.id2label or {}
        try:
            own = [str(names[key]) for key in sorted(names, key=int)]
        except (ValueError, TypeError):
            told = ", ".join(map(str, names)) if isinstance(names, dict | list) else names
            raise UserError(
                f"teacher.path={self.path}: id2label of its config.json numbers classes {told}; expected 0, 1, …"
            ) from None
        return [str((self.labels or {}).get(name, name) if spelt else name) for name in own] or None

    def _check_classes(self, role: str) -> None:
        if self.labels is None:
            return
        own = self.label_order(spelt=False) or []
        unknown = [str(name) for name in self.labels if str(name) not in own]
        twice = [str(name) for name, n in Counter(self.labels.values()).items() if n > 1]
        refuse(
            f"{role}.labels names {', '.join(unknown)}; the model's own classes are {', '.join(own)}."
            if unknown
            else None,
            f"{role}.labels gives several classes the name {', '.join(twice)}. Name each once." if twice else None,
        )

    @property
    def pooling(self) -> str:
        """How it makes a sentence's vector of its last layer: mean or cls, else another mode of sentence-transformers,
        or the name of a module that comes after. A folder that does not say is averaged."""
        modules = self.local / "modules.json" if self.local else None
        if modules is None or not modules.is_file():
            return "mean"
        with readable(f"teacher.path={self.path}", self.local):
            return _pooling(modules)


def _pooling(modules: Path) -> str:
    found = "mean"
    for module in json.loads(modules.read_text("utf-8")):
        kind, folder = module["type"].rpartition(".")[2], modules.parent / module["path"]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            return str(kind)
        if kind == "Pooling":
            settings = json.loads((folder / "config.json").read_text("utf-8"))
            modes = [name for name, on in settings.items() if name.startswith("pooling_mode") and on]
            named = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
            found = named.get(modes[0], modes[0]) if len(modes) == 1 else " and ".join(modes)
            # newer files name the mode itself
            found = settings["pooling_mode"] if isinstance(settings.get("pooling_mode"), str) else found
            if found not in ("mean", "cls"):
                return found
    return found


def read_tokenizer(
    name: str, location: str | Path, folder: Path | None, revision: str | None = None, hears: bool = False
) -> Any:
    """A model's own tokenizer, with a padding piece; of one that hears, its `Listener`.

    Args:
        name, folder: see `readable`.
        location: of the model, a folder or a name of the hub.

    Raises:
        UserError: files that cannot be read, or a folder that has none: transformers then makes up a tokenizer to which
            every word is unknown.
    """
    with readable(name, folder):
        if hears:
            from distilingua.models.speech import Listener

            return Listener.load(location, revision)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(
            f"{name}: there is no tokenizer beside the model. Save the model's own there: "
            f"AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER)."
        )
    if tokenizer.pad_token is None:  # decoders are trained without one
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_pieces(model: Any, tokenizer: Any, name: str) -> None:
    """Raises UserError for a tokenizer that has more pieces than its model: it belongs to another one."""
    known, spelt = model.get_input_embeddings().weight.shape[0], len(tokenizer)
    if spelt > known:
        raise UserError(
            f"{name}: its tokenizer has {spelt} pieces and the model knows {known}, so they do not belong together. "
            f"Save the model's own tokenizer in that folder."
        )


def check_positions(max_length: int | None, positions: int | None, reserved: int, role: str) -> None:
    """Raises UserError for texts beyond a model's positions, of which some are reserved; None is not known."""
    if positions and max_length is not None and max_length > positions - reserved:
        raise UserError(
            f"task.max_length={max_length} is more than the {role}'s {positions - reserved} positions. "
            f"Set task.max_length={positions - reserved}, or choose another {role}.path."
        )


@dataclass
class Ensemble:
    """Several teachers at once: the weighted mean of their probabilities, over those that answer for a row.

    Each answers from a store of its own; a store is shared with runs that use its teacher alone.

    Args:
        teachers: name -> teacher.
        weights: name -> weight, above 0; null weighs them alike.
        experts: a teacher answers for its own languages only, and never through an aligned source sentence.
    """

    teachers: Mapping[str, TeacherSource]
    weights: Mapping[str, float] | None = None
    experts: bool = False
    store: ClassVar[bool] = True

    @property
    def members(self) -> dict[str, TeacherSource]:
        return dict(self.teachers)

    @property
    def panel(self) -> list[tuple[list[str] | None, bool]]:
        """Per teacher: what it reads (None for all languages), and whether it answers for others through alignment."""
        return [(teacher.languages, not self.experts) for teacher in self.teachers.values()]

    @property
    def languages(self) -> list[str] | None:
        """What at least one of them reads; None for all languages."""
        found = [teacher.languages for teacher in self.teachers.values()]
        return None if None in found else sorted({lang for langs in found for lang in langs or ()})

    def resolve_store(self, live: bool) -> None:
        """Several teachers answer from stores."""

    def check(self, max_length: int | None = None, role: str = "teacher") -> None:
        if len(self.teachers) < 2:
            raise UserError("teacher.teachers names fewer than two. Add one, or choose a single teacher.")
        if self.weights is not None and (
            set(self.weights) != set(self.teachers) or min(self.weights.values(), default=0) <= 0
        ):
            example = ",".join(f"{name}:1" for name in self.teachers)
            raise UserError(
                f"teacher.weights={dict(self.weights)}: every teacher needs a weight above 0. "
                f"Try teacher.weights={{{example}}}."
            )
        for name, teacher in self.teachers.items():
            if teacher.store is False:
                raise UserError(f"teacher.teachers.{name}.store=false: several teachers answer from stores. Set true.")
            teacher.check(max_length, f"{role}.teachers.{name}")
