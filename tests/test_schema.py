"""Editors complete and check the YAML files by schemas that are made of these files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

ROOT = Path(__file__).parents[1]
SCHEMAS = {path.name: json.loads(path.read_text("utf-8")) for path in (ROOT / ".vscode/schemas").glob("*.json")}
PLACES = json.loads((ROOT / ".vscode/settings.json").read_text("utf-8"))["yaml.schemas"]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
KNOWN: Any = Registry().with_resources(
    [(name, Resource.from_contents({"$schema": DRAFT, **schema})) for name, schema in SCHEMAS.items()]
)


def problems(name: str, text: str) -> list[str]:
    validator = Draft202012Validator(SCHEMAS[name], registry=KNOWN)
    return [
        f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(yaml.safe_load(text))
    ]


def test_they_are_those_that_make_schema_writes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    subprocess.run([sys.executable, str(ROOT / ".ci/schema.py")], cwd=tmp_path, check=True)
    for name in [*(f".vscode/schemas/{name}" for name in SCHEMAS), ".vscode/settings.json"]:
        assert (tmp_path / name).read_text("utf-8") == (ROOT / name).read_text("utf-8"), f"{name} is old: make schema"
    assert {path.name for path in (tmp_path / ".vscode/schemas").iterdir()} == set(SCHEMAS)


def test_every_file_has_one_and_keeps_to_it() -> None:
    seen = set()
    for schema, files in PLACES.items():
        for path in ROOT.glob(files):
            assert not problems(Path(schema).name, path.read_text("utf-8")), path
            seen.add(path)
    assert seen == set((ROOT / "conf").rglob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("train.json", "training: {batch_size: many}", "training.batch_size"),
        ("train.json", "cleaning: {markup: 3}", "cleaning.markup"),
        ("experiment.json", "pair: {shots: [4]}", "pair.shots"),
        ("student.json", "layers: {a: 1}", "layers"),
        ("pair.json", "parallel: some", "parallel"),
        ("pair.json", "defaults: base", "defaults"),
    ],
)
def test_what_cannot_be_is_marked(name: str, text: str, where: str) -> None:
    assert [problem.partition(":")[0] for problem in problems(name, text)] == [where]


def test_comments_are_what_an_editor_shows_and_choices_what_it_offers() -> None:
    training = SCHEMAS["train.json"]["properties"]["training"]["properties"]
    assert training["batch_size"]["description"] == "rows per step and process"
    offered = SCHEMAS["defaults.json"]["items"]["properties"]["override /student"]["anyOf"][0]["enum"]
    assert {"tiny", "nano", "layers"} <= set(offered)
