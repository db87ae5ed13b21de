"""Which code made a thing: the definitions that a function or a class reaches, without comments and docstrings.

A fork that adds a file, or writes a comment, keeps its teachers; one that changes a line through which a teacher's
training runs trains it anew.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "tokenizers", "lightning")
SHAPES_NOTHING = (  # and why: these are reached from everywhere, and whatever they do, the same weights come out
    "artifacts",  # says where things are kept
    "console",  # prints
    "errors",  # refuses
    "extras",  # finds packages
    "locations",  # finds folders; what is in them has a hash
    "used_code",  # this
    "monitoring.loggers",  # writes down
    "statistics.bootstrap",  # says how sure scores are
    "corpora.schema",  # reads rows, and what is read has a hash
    "training.processes",  # is for models that several processes train
)
Symbol = tuple[str, str]
"""A module of this package, or of a user, and a name at its top level."""
MAKERS: tuple[Symbol, ...] = (  # of teachers, baselines and soft labels
    (f"{__package__}.training.teacher", "fine_tuned"),
    (f"{__package__}.training.student", "train_direct"),
    (f"{__package__}.training.soft_labels", "store_soft_labels"),
)


def code_fingerprint(*users: object) -> str:
    """The code that shapes an artifact, and the libraries under it: a teacher trained by other code is another one.

    Args:
        users: functions and classes that make it, and objects whose classes a configuration may name from anywhere;
            none for all that is kept between runs.
    """
    kinds = {user if inspect.isclass(user) or inspect.isfunction(user) else type(user) for user in users}
    ahead: list[Symbol] = sorted((kind.__module__, kind.__qualname__.partition(".")[0]) for kind in kinds) or [*MAKERS]
    reached: dict[Symbol, str] = {}
    while ahead:
        symbol = ahead.pop()
        if symbol in reached or not _counts(symbol[0]):
            continue
        definition = _definitions(symbol[0]).get(symbol[1])
        reached[symbol] = definition[0] if definition else ""
        if definition is not None:
            ahead += definition[1]
        else:  # a module that is used by its name
            ahead += [(".".join(symbol), name) for name in _definitions(".".join(symbol))]
    parts = [sorted(reached.items()), {name: version(name) for name in LIBRARIES}]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _counts(module: str) -> bool:
    package = __name__.partition(".")[0]
    inside = module.partition(".")
    if inside[0] != package:  # a user's own file counts, an installed library goes by its version
        file = _file(module)
        return file is not None and not {"site-packages", "dist-packages"} & set(file.parts) and bool(_source(file))
    return inside[2] not in SHAPES_NOTHING


def _file(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a cell of a notebook has no file
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _source(file: Path) -> str:
    """Its text; "" for what belongs to Python itself."""
    return "" if file.is_relative_to(Path(inspect.__file__).parent) else file.read_text("utf-8")


def _definitions(module: str) -> dict[str, tuple[str, list[Symbol]]]:
    """Name -> its code, and the names that this code uses, of all that stands at the top level of a module."""
    file = _file(module)
    return _read(module, _source(file)) if file is not None else {}


@cache
def _read(module: str, source: str) -> dict[str, tuple[str, list[Symbol]]]:
    tree = ast.parse(source)
    made: dict[str, list[ast.stmt]] = {}
    for statement in _top_level(tree.body):
        for name in _names(statement):
            made.setdefault(name, []).append(_without_words(statement))
    known = {name: (module, name) for name in made} | dict(_imported(tree))
    found = {}
    for name, statements in made.items():
        inside = known | {k: v for one in statements for k, v in _imported(one)}
        used = {node.id for one in statements for node in ast.walk(one) if isinstance(node, ast.Name)}
        symbols = [inside[one] for one in sorted(used - {name}) if one in inside]
        found[name] = "\n".join(map(ast.unparse, statements)), symbols
    return found


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            yield from _top_level([*statement.body, *statement.orelse])
        else:
            yield statement


def _names(statement: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [
        node.id for target in targets if target is not None for node in ast.walk(target) if isinstance(node, ast.Name)
    ]


def _imported(tree: ast.AST) -> Iterator[tuple[str, Symbol]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)


class _Bare(ast.NodeTransformer):
    """Takes out what is not run: docstrings and annotations."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.returns = None
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node


def _without_words(statement: ast.stmt) -> ast.stmt:
    bare: ast.stmt = _Bare().visit(statement)
    return bare
