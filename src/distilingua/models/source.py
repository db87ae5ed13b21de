"""Where a teacher comes from. Imports nothing heavy, so that it can be checked before anything loads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from distilingua.artifacts import file_sha256, folder_fingerprint
from distilingua.corpora.schema import language_code
from distilingua.errors import UserError, learning, one_of, positive, rate, refuse, share, text, whole
from distilingua.locations import location
from distilingua.models.folder import (
    WEIGHTS,
    check_positions,
    damaged,
    pooling,
    read_json,
    readable,
    reserved_positions,
)
from distilingua.models.student import Student
from distilingua.tasks.task import Task

PRECISIONS = ("32", "bf16", "16", "int8")


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
        role: what the user calls it, for messages; `check` may say otherwise.
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
    scratch: Student | None = None
    labels: Mapping[str, str] | None = None
    role: str = "teacher"

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
        return location(self.path, f"{self.role}.path")

    @property
    def given(self) -> str:
        """What the user has typed, for messages."""
        return f"{self.role}.path={self.path}"

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
        """What a model of `path` can be, as far as is known before weights load; see `Task.backbone`."""
        writes = self.local is None or self.config.get("is_encoder_decoder", False)
        return ["encoder", "speech encoder", *(["encoder-decoder"] if writes else [])]

    def can_serve(self, task: type[Task]) -> bool:
        """See `Student.can_serve`."""
        return self.scratch.can_serve(task) if self.scratch is not None else task.backbone in self.backbones

    def check(self, max_length: int | None = None, role: str | None = None) -> None:
        """Loads nothing.

        Args:
            max_length: of the task, in pieces; None where it is not known.
            role: what the user calls it, if not by its own `role`.

        Raises:
            UserError: an unknown option, random weights of no use, a folder without weights, a wrong checksum.
        """
        self.role = role or self.role
        self._check_options()
        if self.scratch is not None:
            self.scratch.check(max_length, f"{self.role}.scratch")
        if self.local is not None:
            self._check_folder(self.local, max_length)

    def _check_options(self) -> None:
        role, keep = self.role, self.store_top_k
        refuse(
            one_of(f"{role}.precision", str(self.precision), PRECISIONS),
            one_of(f"{role}.store_dtype", self.store_dtype, ("float32", "float16")),
            text(f"{role}.prefix", self.prefix),
            whole(f"{role}.seeds", self.seeds, 1),
            f"{role}.seeds={self.seeds}: what knows the task already is not fine-tuned. Set {role}.seeds=1."
            if self.seeds != 1 and self.fine_tune is None
            else None,
            *(self._learning(f"{role}.fine_tune", self.fine_tune) if self.fine_tune is not None else ()),
            f"{role}.store_top_k={keep}: keep at least 1 class, or null for all."
            if keep is not None and whole("", keep, 1)
            else None,
            f"{role}: give either {role}.path (a model) or {role}.scratch (one to be trained here)."
            if (self.path is None) == (self.scratch is None)
            else None,
            f"{role}.scratch: random weights know nothing. Set teacher/fine_tune=full."
            if self.scratch is not None and self.fine_tune is None
            else None,
        )

    @staticmethod
    def _learning(key: str, settings: Mapping[str, Any]) -> list[str | None]:
        rates = rate(key, settings.get("lr"), f"{key}.lr_schedule", settings.get("lr_schedule"))
        first = settings.get("probe") or {}
        shares = [share(f"{key}.probe.{name}", first[name]) for name in ("freeze", "passes") if name in first]
        wrong = positive(f"{key}.probe.lr", first["lr"], "0.25") if "lr" in first else None
        return [*learning(key, settings), *rates, *shares, wrong]

    def _check_folder(self, folder: Path, max_length: int | None) -> None:
        name = self.given
        if not folder.is_dir():
            raise UserError(f"{name}: no such folder. Give a folder with a transformers model.")
        if not any((folder / file).is_file() for file in WEIGHTS):
            raise UserError(
                f"{name}: the folder has no weights ({' or '.join(WEIGHTS)}). "
                f"Save the model there with `model.save_pretrained(...)`."
            )
        if not (folder / "config.json").is_file():
            raise UserError(f"{name}: the folder has no config.json, so its shape is unknown.")
        config = self.config
        if "embedding_rank" in config:
            raise UserError(
                f"{name}: its embedding is factorised, which transformers would replace by a random one. Multiply it "
                f"back first: distilingua.models.factorise.unfactorise."
            )
        refuse(damaged(name, folder))
        self._check_classes()
        with readable(name, folder):
            check_positions(max_length, config.get("max_position_embeddings"), reserved_positions(config), self.role)
        if self.sha256 and (actual := file_sha256(folder / "model.safetensors")) != self.sha256:
            raise UserError(
                f"{name}: model.safetensors hashes to {actual}, expected {self.sha256}. The file is damaged or another "
                f"version: install it again, or set {self.role}.sha256 if you mean this one."
            )

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json.

        Raises:
            UserError: a file that is not JSON.
        """
        assert self.local is not None
        return read_json(self.given, self.local / "config.json")

    def label_order(self, spelt: bool = True) -> list[str] | None:
        """Names of the classes in the order of its logits; None where it does not say.

        Args:
            spelt: as the corpus does, by `labels`; else as the model itself.
        """
        if self.local is not None:
            names = self.config.get("id2label") or {}
        else:
            from transformers import AutoConfig

            with readable(self.given, None):
                config = AutoConfig.from_pretrained(self.location, revision=self.revision, trust_remote_code=False)
            names = config.id2label or {}
        try:
            own = [str(names[key]) for key in sorted(names, key=int)]
        except (ValueError, TypeError):
            keys = ", ".join(map(str, names)) if isinstance(names, dict | list) else names
            raise UserError(
                f"{self.given}: id2label of its config.json numbers classes {keys}; expected 0, 1, …"
            ) from None
        return [str((self.labels or {}).get(name, name) if spelt else name) for name in own] or None

    def _check_classes(self) -> None:
        if self.labels is None:
            return
        own = self.label_order(spelt=False) or []
        unknown = [str(name) for name in self.labels if str(name) not in own]
        twice = [str(name) for name, n in Counter(self.labels.values()).items() if n > 1]
        refuse(
            f"{self.role}.labels names {', '.join(unknown)}; the model's own classes are {', '.join(own)}."
            if unknown
            else None,
            f"{self.role}.labels gives several classes the name {', '.join(twice)}. Name each once." if twice else None,
        )

    @property
    def pooling(self) -> str:
        """See `folder.pooling`; a model of the hub is averaged."""
        return pooling(self.given, self.local) if self.local else "mean"


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
        each = [teacher.languages for teacher in self.teachers.values()]
        return None if None in each else sorted({lang for languages in each for lang in languages or ()})

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
