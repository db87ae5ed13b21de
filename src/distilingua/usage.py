"""What the commands say of themselves, and of what was typed that they cannot read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from textwrap import fill
from typing import Any

MANUAL = """\
train [OVERRIDES]: the main job: teach, distil, compare, report; with -m a sweep, of every combination
Fine-tunes the teacher, stores its soft labels, trains the baseline and the student, and judges all three on the test
split. With -m, for every combination of the values that stand with commas.
  distilingua train
  distilingua train pair=en-fr student=nano optimizer.lr=5e-4
  distilingua train debug=tiny                       a minute, to see whether a change works
  distilingua train -m pair=en-de,en-fr seed=1,2
  distilingua train --config-dir conf experiment=mine          with files of your own
Groups and their choices; `--cfg job` prints every key with its value, `--hydra-help` the options of Hydra:

resume [RUN]: go on with an interrupted run or sweep (default: the latest)
A run goes on to the weights it would have had; a sweep does what is missing. Overrides may follow.
  distilingua resume
  distilingua resume outputs/2026-01-31/12-00-00_default
  distilingua resume multirun/2026-01-31/12-00-00

evaluate MODEL [OVERRIDES]: judges a run, an exported folder or a model of the hub, on any corpus
Several models are judged on the same rows. What is not typed is as the first model's run had it.
  distilingua evaluate outputs/2026-01-31/12-00-00_default
  distilingua evaluate RUN RUN/export/onnx_int8
  distilingua evaluate RUN corpus=files corpus.path=data pair.targets=[de,nl]

export RUN [OVERRIDES]: its student for others, each format judged by itself, in RUN/export/
  distilingua export RUN
  distilingua export RUN format=[hub,onnx_int8]
  distilingua export RUN format=[web]            a page that runs it in the browser

predict MODEL [TEXT …]: its answers to texts, to the standard input, or --from FILE --to FILE

compare [FOLDER …]: finished runs side by side, means over seeds (default: multirun)
A table per setting; below, jobs that failed.
  distilingua compare                        all of multirun/
  distilingua compare outputs multirun/2026-01-31
  distilingua compare --latex multirun > table.tex            or --csv, --markdown

report FOLDER: a run or a sweep as a page of HTML, for those who were not there
It needs nothing beside it: scores with intervals, size and speed, curves, confusions, cost, settings, versions.
  distilingua report outputs/2026-01-31/12-00-00_default
  distilingua report multirun/2026-01-31/12-00-00

corpus [OVERRIDES]: what the corpus holds: rows, labels, examples, how ambiguous it is
Also what cleaning dropped. Writes nothing.
  distilingua corpus pair=en-fr
  distilingua corpus corpus=files corpus.path=data pair.targets=[es]

init FOLDER: a project of your own outside of a checkout: files, configuration, a README
  distilingua init mine
  cd mine && distilingua train --config-dir conf experiment=mine

cache [FOLDER]: what runs keep for later ones; --prune DAYS frees what none of DAYS has used
  distilingua cache                          of .cache, where FOLDER is not given
  distilingua cache --prune 30

completion SHELL: what makes bash, zsh or fish complete commands, groups, choices and keys
  eval "$(distilingua completion bash)"      in ~/.bashrc; zsh, in ~/.zshrc
  distilingua completion fish | source       in ~/.config/fish/config.fish
"""
HELP = {section.partition(" ")[0]: f"distilingua {section.strip()}\n" for section in MANUAL.split("\n\n")}
COMMANDS = tuple(HELP)
_HEADINGS = [text.splitlines()[0].partition(": ") for text in HELP.values()]
_LISTED = "\n".join(f"  {typed:<38} {does}" for typed, _, does in _HEADINGS)
USAGE = f"""\
distilingua: distil a teacher that is strong in one language into a small student that serves others.

{_LISTED}

Overrides choose and change settings, from left to right, the last one wins:
  pair=en-de student=tiny device=cpu     one file of conf/pair, conf/student, conf/device
  optimizer.lr=5e-4 pair.protocol=supervised            one value
`distilingua COMMAND --help` has examples; `distilingua train --cfg job` prints the whole configuration.

A command ends with 0 where it did what it was asked to; with 1 where it could not, after a line that says what to
type instead, and where a job of a sweep failed; with 2 where an option is unknown; with 128 and the number of the
signal that ended it (130 for Ctrl-C), after saving what it needs to go on.
"""


def config_of(command: str) -> str:
    """Name of the configuration that a command's overrides change."""
    return "export" if command == "export" else "train"


def help_of(command: str = "") -> str:
    """With what can be chosen for `train`; the whole usage where no command is named."""
    text = HELP.get(command, USAGE)
    if command == "train":
        from distilingua.locations import conf_folder  # not for those who only ask for help

        groups: dict[str, list[str]] = {}
        for path in sorted(conf_folder().glob("*/**/*.yaml")):
            groups.setdefault(path.parent.relative_to(conf_folder()).as_posix(), []).append(path.stem)
        for group, names in groups.items():
            listed = " ".join(name for name in names if name != "base")
            text += fill(listed, 120, initial_indent=f"  {group} = ", subsequent_indent=" " * 6) + "\n"
    return text


def mistyped(error: Exception, config: str) -> str | None:
    """What Hydra cannot read of what was typed, in a line with what to type; None for any other error.

    Args:
        config: name of the configuration that was asked for.
    """
    from hydra.errors import HydraException, OverrideParseException

    said = " ".join(str(error).split())
    if said.startswith("Config group override must be"):  # which one, Hydra does not say
        return (
            "a group is chosen by the name of a file in conf/ or by a list of names, so none of its files is GROUP=[], "
            "such as logger=[], and not GROUP=null."
        )
    if not isinstance(error, HydraException):
        return None
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read as KEY=VALUE ({said.partition(' See https')[0]}). Quote what a shell "
            f"or Hydra takes apart: \"corpus.path='my data (v2)'\"."
        )
    if found := re.match(r"Could not (?:override|delete from config).*?'([\w./@]+)'", said):
        near = get_close_matches(found[1], list(known_keys(config)), 1)
        hint = f"Did you mean {near[0]}?" if near else "`distilingua train --cfg job` prints all of them."
        return f"there is no key {found[1]}. {hint} +{found[1]}=VALUE adds one."
    if found := re.match(r"Could not append to config. An item is already at '([\w./@]+)'", said):
        return f"{found[1]} is there already. Type it without +."
    if found := re.search(
        r"Could not find '(\S+)/([^/\s]*)' Available options in '\S+?': (.+?)(?: Config sea|$)", said
    ):
        listed = [name for name in found[3].split() if name != "base"]
        near = get_close_matches(found[2], listed, 1)
        hint = f"Did you mean {near[0]}? There are" if near else "Choose one of"
        return f"{found[1]}={found[2]}: there is no such file in conf/{found[1]}. {hint} {', '.join(listed)}."
    return said


def known_keys(config: str) -> Iterator[str]:
    """Of a configuration without overrides: groups, sections and values, with dots."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from distilingua.locations import conf_folder

    def inside(values: Any, before: str = "") -> Iterator[str]:
        for key, value in values.items() if isinstance(values, dict) else ():
            yield f"{before}{key}"
            yield from inside(value, f"{before}{key}.")

    GlobalHydra.instance().clear()  # of what failed
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield from inside(OmegaConf.to_container(compose(config), resolve=False))
