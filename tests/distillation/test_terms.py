"""Every term has its configuration, and every configuration makes its term."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from distilingua.distillation import losses
from distilingua.distillation.losses.term import Term
from distilingua.locations import conf_folder

FILES = sorted((conf_folder() / "objective" / "terms").glob("*.yaml"))
NAMES = [file.stem for file in FILES]


def classes() -> set[type[Term]]:
    modules = [importlib.import_module(f"{losses.__name__}.{m.name}") for m in pkgutil.iter_modules(losses.__path__)]
    found = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    return {value for value in found if issubclass(value, Term) and not inspect.isabstract(value)}


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_file_makes_the_term_of_its_name_with_every_option(file) -> None:  # type: ignore[no-untyped-def]
    cfg = OmegaConf.load(file)
    assert list(cfg) == [file.stem]
    options = dict(cfg[file.stem])
    assert options.pop("_target_").startswith(f"{losses.__name__}.{file.stem}.")
    term = instantiate(cfg[file.stem])
    assert isinstance(term, Term)
    assert term.weight == options.pop("weight") > 0
    defaults = {p.name: p.default for p in inspect.signature(type(term)).parameters.values() if p.name != "weight"}
    assert options == defaults  # the same term from Python and from a configuration
    comment, _, _, *lines = file.read_text("utf-8").splitlines()
    assert comment.startswith("# ")
    assert all(" # " in line for line in lines)


def test_every_term_has_a_file() -> None:
    made = [type(instantiate(OmegaConf.load(file)[file.stem])) for file in FILES]
    assert len(made) == len(set(made))
    assert set(made) == classes()


def test_all_of_them_together_and_options_from_the_command_line(compose_run) -> None:  # type: ignore[no-untyped-def]
    cfg = compose_run(
        "objective=custom",
        f"objective/terms=[{','.join(NAMES)}]",
        "objective.terms.dist.weight=0.25",
        "objective.terms.hidden.layers={0:0,-1:-2}",
        "objective.terms.attention.layers=even",
    )
    terms = instantiate(cfg.objective, schedules=instantiate(cfg.schedule)).terms
    assert set(terms) == set(NAMES)
    assert terms["dist"].weight == 0.25
    assert terms["hidden"].layers == {0: 0, -1: -2}
    assert terms["attention"].layers == "even"
