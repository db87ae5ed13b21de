"""Where a teacher comes from. Imports nothing heavy, so that it can be checked before anything loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from distilingua.artifacts import file_sha256, folder_fingerprint
from distilingua.errors import UserError, one_of, refuse, text
from distilingua.locations import location

PRECISIONS = ("32", "bf16", "16", "int8")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


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
        store: compute its logits once and train from those, instead of asking it again in every epoch; null does so
            unless something needs more of it than its logits, see `resolve_store`.
        store_dtype: float32, or float16 for half the space and about three digits.
        store_top_k: classes kept per position, with what the others weigh together; null keeps all.
        folder: whether `path` is a folder whatever it looks like, and never a hub repository.
        precision: what it computes in: 32, bf16, 16 (GPU) or int8 (CPU, linear layers only).
        scratch: a kind of `Student`, for a teacher that starts from random weights and learns the task here.
    """

    path: str | None
    languages: list[str] | None = None
    sha256: str | None = None
    revision: str | None = None
    prefix: str = ""
    fine_tune: Mapping[str, Any] | None = None
    store: bool | None = None
    store_dtype: str = "float32"
    store_top_k: int | None = None
    precision: str = "32"
    folder: bool = False
    scratch: Any = None

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
            live: whether a term compares its layers, or an augmentation changes what it has to read.
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
        config = self.local / "config.json" if self.local else None
        writes = config is None or json.loads(config.read_text("utf-8")).get("is_encoder_decoder", False)
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
        if "embedding_rank" in json.loads((folder / "config.json").read_text("utf-8")):
            raise UserError(
                f"{role}.path={self.path}: its embedding is factorised, which transformers would replace by a random "
                f"one. Multiply it back first: distilingua.models.factorise.unfactorise."
            )
        if self.sha256:
            found = file_sha256(folder / "model.safetensors")
            if found != self.sha256:
                raise UserError(
                    f"{role}.path={self.path}: model.safetensors hashes to {found}, expected {self.sha256}. The file "
                    f"is damaged or another version: install it again, or set {role}.sha256 if you mean this one."
                )

    def label_order(self) -> list[str] | None:
        """Class names in the order of its logits, from its configuration; None when it lives on the hub."""
        if self.local is None:
            return None
        names = json.loads((self.local / "config.json").read_text("utf-8")).get("id2label") or {}
        return [names[key] for key in sorted(names, key=int)]


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
