"""Completion in a shell: commands, then Hydra's own groups, choices and keys."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra._internal.utils import create_automatic_config_search_path

import distilingua.overrides  # noqa: F401  # registers what the configurations compute
from distilingua.errors import UserError
from distilingua.locations import conf_folder
from distilingua.usage import COMMANDS, config_of

OVERRIDABLE = ("train", "corpus", "evaluate", "export")  # commands that take Hydra's overrides
BASH = """\
_distilingua() {
  local line="${COMP_LINE:0:$COMP_POINT}" word
  word="${line##* }"
  local IFS=$'\\n'
  COMPREPLY=($(distilingua completion --words "$line" 2>/dev/null))
  local cut="${word%"${word##*[=:]}"}"  # bash takes words apart at = and :, and completes the last part
  COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
complete -o nospace -o default -F _distilingua distilingua
"""
SCRIPTS = {
    "bash": BASH,
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n" + BASH,
    "fish": "complete -c distilingua -f -a '(distilingua completion --words (commandline -cp | string collect))'\n",
}


def completion(arguments: Sequence[str]) -> None:
    """Prints a shell's script; or, for that script, what the last word of a line may become."""
    if len(arguments) == 2 and arguments[0] == "--words":
        print("\n".join(words(arguments[1])))
    elif len(arguments) == 1 and arguments[0] in SCRIPTS:
        print(SCRIPTS[arguments[0]], end="")
    else:
        raise UserError(
            f"{' '.join(arguments) or 'nothing'} is typed, and it takes a shell, one of {', '.join(SCRIPTS)}."
        )


def words(line: str) -> list[str]:
    """What the last word of a line may become.

    Args:
        line: as far as it is typed, the command itself included.
    """
    _, command, *overrides = [*line.split(), *([""] if line.endswith(" ") else [])]
    if not overrides:
        return [name for name in COMMANDS if name.startswith(command)]
    if command not in OVERRIDABLE:
        return []
    loader = ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(conf_folder())))
    known = [word for word in overrides[:-1] if "=" in word]  # not a model, nor -m
    return sorted(BashCompletion(loader)._query(config_of(command), " ".join([*known, overrides[-1]])))
