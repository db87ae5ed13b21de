"""Writes JSON schemas of the YAML files under conf/, so that editors complete and check them: `make schema`.

What a key means is its comment; what it may be is what the files of its group have there, null, or an interpolation.
Other keys may be added, as a class of a fork takes others.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

CONF, OUT, EDITOR = Path("conf"), Path(".vscode/schemas"), Path(".vscode/settings.json")
TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "seq": "array", "map": "object"}
OPEN = r"\$\{|^\?\?\?$"  # an interpolation, or to be set by somebody
OVER_ALL = "# @package _global_"
Found = list[tuple[yaml.Node, list[str]]]
"""What several files have in one place, each with the lines of its file."""


def schema_of(found: Found) -> dict[str, Any]:
    types = {TYPES[kind] for node, _ in found if (kind := node.tag.rpartition(":")[2]) in TYPES}
    if not types:
        return {}  # null alone does not say what else it may be
    schema: dict[str, Any] = {"type": sorted({*types, "null", "string"})}
    if "string" not in types:
        schema["pattern"] = OPEN
    keys: dict[str, list[tuple[yaml.Node, yaml.Node, list[str]]]] = defaultdict(list)
    for node, lines in found:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            keys[key.value].append((key, value, lines))
    for name, each in keys.items():
        known = schema.setdefault("properties", {})[name] = schema_of([(value, lines) for _, value, lines in each])
        comments = [lines[key.start_mark.line].partition("  # ")[2].strip() for key, _, lines in each]
        if comment := next(filter(None, comments), ""):
            known["description"] = comment
    return schema


def defaults(groups: list[str]) -> dict[str, Any]:
    """The list of choices, with those that there are."""
    known: dict[str, Any] = {}
    for group in groups:
        names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        choice = {"anyOf": [{"enum": names}, {"type": ["array", "null", "string"]}]}
        known |= {group: choice, f"override /{group}": choice}
    return {"type": "array", "items": {"type": ["object", "string"], "properties": known}}


def main() -> None:
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(CONF.rglob("*.yaml")):
        files[path.parent.relative_to(CONF).as_posix()].append(path.read_text("utf-8"))
    groups = [group for group in files if group != "."]
    over_all = [group for group in groups if any(OVER_ALL in text for text in files[group])]
    schemas: dict[str, dict[str, Any]] = {"defaults": defaults(groups)}
    everything = {name: {"$ref": f"{name}.json"} for name in groups if "/" not in name and name not in over_all}
    for group in (".", *groups):
        texts = files[group] + [text for name in over_all for text in files[name] if group == "."]
        nodes = [(node, text.splitlines()) for text in texts if (node := yaml.compose(text)) is not None]
        known = {**schema_of(nodes).get("properties", {}), "defaults": {"$ref": "defaults.json"}}
        if group == ".":
            everything = known = {**known, **everything}
        elif group in over_all:
            known = everything
        schemas["train" if group == "." else group.replace("/", ".")] = {"type": "object", "properties": known}
    OUT.mkdir(parents=True, exist_ok=True)
    for path in OUT.glob("*.json"):
        path.unlink()
    for name, schema in schemas.items():
        (OUT / f"{name}.json").write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", "utf-8")
    places = {f"{OUT}/{group.replace('/', '.')}.json": f"conf/{group}/*.yaml" for group in groups}
    EDITOR.parent.mkdir(exist_ok=True)
    settings = {"yaml.schemas": {f"{OUT}/train.json": "conf/*.yaml", **places}}
    EDITOR.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
