"""Whose files are these? A run or a model may come from somebody else, so what stands in it is data: it names no code,
reads no environment, and points to nothing outside of its folder but rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hydra.utils import get_class

from distilingua.errors import UserError
from distilingua.locations import SEARCHPATH, conf_folder

OF_A_SWEEP = re.compile(r"hydra[./](launcher|sweeper|sweep|run|verbose)\b")
# classes that everybody's runs may name: they compute, and do nothing else
HARMLESS_TARGET = re.compile(r"torch\.optim(\.lr_scheduler)?\.[A-Z]\w+|lightning\.pytorch\.callbacks\.[A-Z]\w+")
PARTS = ("distilingua.", "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torch.optim", "torch.nn.modules")
# what an exported folder may set: values of these groups
HARMLESS = re.compile(r"(task|corpus|pair|experiment|cleaning|debug)(\.(?!_)\w+)*=[^{}/\\$]*")


@cache
def targets_in(folder: Path) -> frozenset[str]:
    """Every `_target_` of the YAML files of a folder: the closed list of what its configurations may make."""
    files = [file.read_text("utf-8") for file in sorted(folder.rglob("*.yaml"))]
    return frozenset(name for text in files for name in re.findall(r"""_target_["']?\s*:\s*["']?([\w.]+)""", text))


def check_data(value: Any, known: Iterable[str] = (), resolvers: bool = False) -> None:
    """Raises UserError for values, nested ones too, that would run code other than `known`, or read the environment.

    Args:
        resolvers: whether values may be computed, such as `${oc.env:HOME}`.
    """
    if isinstance(value, str):
        if not resolvers and "${" in value and ":" in value.partition("${")[2]:
            raise UserError(f"{value} reads the environment, or worse, and is not resolved")
    elif isinstance(value, Mapping):
        for key, one in value.items():
            check_key(str(key), one, known)
            check_data(one, known, resolvers)
    elif isinstance(value, Iterable):
        for one in value:
            check_data(one, known, resolvers)
    elif hasattr(value, "__dict__"):  # of Hydra's own, such as a list of choices
        check_data(vars(value), known, resolvers)


def check_key(key: str, value: Any, known: Iterable[str]) -> None:
    """Raises UserError for a key that says what is made, and a class that is not known."""
    last = key.rpartition(".")[2]
    if last == "_target_" and (str(value) in known or HARMLESS_TARGET.fullmatch(str(value))):
        return
    if last == "_target_":
        raise UserError(f"it names {value}, which no configuration of yours does, and is not run")
    if last.startswith("_") and last.endswith("_") and last not in ("_partial_", "_convert_"):
        raise UserError(f"it sets {key}, which says how something is made, and is not taken")


def taken(
    command: str, given: str, overrides: Sequence[str], run: Path, typed: Sequence[str], resumed: bool = False
) -> list[str]:
    """What was typed for a run as it may be typed again, by whoever stands in a folder of their own.

    Args:
        overrides: of the run, searchpath included.
        run: its folder.
        typed: by the user now, all of which is theirs: it replaces what stands in the run, and is not looked at.
        resumed: the run itself goes on, so that values may read the environment, as they did when it began.

    Raises:
        UserError: an override that names code, with what to type for one's own.
    """
    own = {_key(word) for word in typed}
    folders, kept = [conf_folder()], []
    for word in typed:
        folders += _folders(word) if word.startswith(SEARCHPATH) else []
    for item in overrides:
        if _key(item) in own:
            continue
        for folder in _folders(item) if item.startswith(SEARCHPATH) else ():
            if not _is_own(folder, run):
                raise UserError(
                    f"{given}: it was made with configurations of {folder}, which is not of the folder that you stand "
                    f"in. If they are yours: distilingua {command} {given} --config-dir {folder}"
                )
            folders.append(folder)
        kept.append(item)
    known = frozenset().union(*map(targets_in, folders))
    if resumed:  # whoever typed a class of their own for a run need not type it again
        known |= {
            name for item in kept for name in re.findall(r"_target_['\"]?[=:]\s*([\w.]+)", item) if _is_part(name)
        }
    for item in kept:
        if not item.startswith(SEARCHPATH):
            _check_override(command, given, item, known, resumed)
    return kept


def _is_part(name: str) -> bool:
    """Whether a name is that of a class which a run can be made of, such as a callback or a corpus."""
    try:
        return any(base.__module__.startswith(PARTS) for base in get_class(name).__mro__)
    except Exception:  # of Hydra, or of whatever the module does when it is imported
        return False


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _folders(searchpath: str) -> list[Path]:
    """The folders that an override of Hydra's search path names."""
    places = re.findall(r"[^\[\],'\"]+", searchpath.removeprefix(SEARCHPATH))
    return [Path(unquote(urlparse(one).path) if one.startswith("file:") else one).resolve() for one in places]


def _is_own(folder: Path, run: Path) -> bool:
    """Whether configurations that a run names belong to the folder that the user stands in, and did not come together
    with the run."""
    here, run = Path.cwd().resolve(), run.resolve()
    if not folder.is_relative_to(here):
        return False
    return not run.is_relative_to(here) or run.relative_to(here).parts[:1] != folder.relative_to(here).parts[:1]


def _check_override(command: str, given: str, item: str, known: frozenset[str], resumed: bool) -> None:
    try:
        (parsed,) = OverridesParser.create().parse_overrides([item])
        key, value = parsed.key_or_group, None if parsed.is_delete() else parsed.value()
        if f"{key} {parsed.package}".count("hydra") and not (resumed and OF_A_SWEEP.match(key)):
            raise UserError("it sets Hydra itself")
        if "." not in key and re.search(r"(^|[\W_])\.\.(/|$)|^/", str(value)):
            raise UserError("it chooses a file outside of conf/")
        check_key(key, value, known)
        check_data(value, known, resolvers=resumed)
    except (OverrideParseException, UserError) as error:
        why = "it is no override" if isinstance(error, OverrideParseException) else error
        raise UserError(
            f"{given}: what was typed for this run is not taken from there: {item!r}: {why}. If it is yours, type it "
            f"again: distilingua {command} {given} {item.partition('=')[0]}=…"
        ) from None
