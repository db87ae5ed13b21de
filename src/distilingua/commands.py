"""What the sub-commands do. What is slow to import is imported when a run is known to be possible."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from distilingua.artifacts import fingerprint
from distilingua.errors import UserError, as_user_error
from distilingua.locations import conf_folder


def file_name(text: str, most: int = 150) -> str:
    """A name for a folder; what is longer than any file system takes ends in a hash in place of the rest."""
    name = text.replace("/", "_") or "default"
    if len(name.encode()) <= most:
        return name
    return f"{name.encode()[:most].decode(errors='ignore')}-{fingerprint(name)}"


OmegaConf.register_new_resolver("one_minus", lambda share: 1 - share, replace=True)
OmegaConf.register_new_resolver("file_name", file_name, replace=True)


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def train(cfg: DictConfig) -> float:
    """One run; returns what a sweeper may maximise: a dev score that no target label goes into, see conf/train.yaml."""
    with readable_errors(unused=Path(HydraConfig.get().runtime.output_dir)):
        from distilingua.checks import check

        check(cfg)
        if cfg.get("multitask"):
            from distilingua.training.multitask import train_multitask

            return min((found["dev"]["score"] for found in train_multitask(cfg).values()), default=0.0)
        from distilingua.training.train import train as train_job

        dev = train_job(cfg).get("dev", {"score": 0.0, "agreement": {}})
        agreement = dev["agreement"].values()
        return min(agreement) if cfg.training.select == "agreement" and agreement else dev["score"]


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def corpus(cfg: DictConfig) -> None:
    """Describes the corpus of a configuration; writes nothing."""
    with readable_errors():
        from distilingua.checks import check

        check(cfg)
        from distilingua.describe import describe

        describe(cfg)


@contextmanager
def readable_errors(unused: Path | None = None) -> Iterator[None]:
    """A UserError ends the command with its message alone, and so does Ctrl-C.

    Args:
        unused: folder of a run, removed where the run never began.
    """
    try:
        yield
    except KeyboardInterrupt:  # outside of training, which saves and says how to go on
        sys.exit("\nInterrupted. What was finished is kept: distilingua resume goes on from there.")
    except Exception as raised:
        error = as_user_error(raised)
        if error is None:
            raise
        if unused and all(entry.name == ".hydra" or entry.suffix == ".log" for entry in unused.iterdir()):
            shutil.rmtree(unused)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise error from None  # the launcher reports it beside the other jobs
        sys.exit("\n".join(f"distilingua: {problem}" for problem in str(error).splitlines()))


def resume(arguments: list[str]) -> list[str]:
    """The overrides of a run, in its own folder, where its checkpoints are."""
    if arguments:
        folder = Path(arguments[0])
    else:
        runs = sorted(Path("outputs").glob("*/*/.hydra/overrides.yaml"))
        if not runs:
            sys.exit("distilingua resume: no run under outputs/. Name its folder: distilingua resume RUN.")
        folder = runs[-1].parents[1]
    # the copy beside the checkpoints is that of the run itself; Hydra's own is that of the last try in this folder
    kept = folder / "checkpoints" / "overrides.yaml"
    overrides = kept if kept.is_file() else folder / ".hydra" / "overrides.yaml"
    if not overrides.is_file():
        sys.exit(f"distilingua resume: {folder} is not the folder of a run (no .hydra/overrides.yaml in it).")
    # quoted: folders are named after overrides, with the signs of overrides in them
    return [*OmegaConf.load(overrides), f"hydra.run.dir='{folder}'", *arguments[1:]]


def compare(arguments: list[str]) -> None:
    """Prints finished runs side by side."""
    from distilingua.console import console
    from distilingua.monitoring.compare import compare as compare_runs

    try:
        console.print(compare_runs([Path(folder) for folder in arguments or ["multirun"]]))
    except UserError as error:
        sys.exit(f"distilingua compare: {error}")
