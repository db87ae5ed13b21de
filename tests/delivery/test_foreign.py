"""What stands in somebody else's run or model is data: tried with what would run code, and a canary that would tell."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import distilingua
from distilingua.errors import UserError
from distilingua.foreign import check_data, taken
from distilingua.locations import read_yaml
from distilingua.models.folder import OWN, damaged
from tests.delivery.conftest import read_json
from tests.processes import run, succeed

ROOT = Path(distilingua.__file__).parent
EVIL = "{_target_:torch.hub.load,repo_or_dir:evil,model:go,source:local}"
HOSTILE = {
    f"+cleaning={EVIL}": "it names torch.hub.load",
    f"+cleaning={{a:[{EVIL}]}}": "it names torch.hub.load",
    f"task.order=[{EVIL}]": "it names torch.hub.load",
    "++task._target_=distilingua.tasks.task.torch.hub.load": "it names distilingua.tasks.task.torch.hub.load",
    "task._target_=distilingua.cache.prune": "it names distilingua.cache.prune",
    "+task={_recursive_:false}": "it sets _recursive_",
    "task._target_=${x}": "it names ${x}",
    f"seed=1,{EVIL}": "it names torch.hub.load",
    "license=${oc.env:HF_TOKEN}": "reads the environment",
    "+task.order=[a,'${oc.${x}:HOME}']": "reads the environment",
    "++hydra.job_logging.handlers.x={a:b}": "it sets Hydra itself",
    "+hydra.searchpath=[file:///tmp]": "it sets Hydra itself",
    "hydra/launcher=submitit_slurm": "it sets Hydra itself",
    "experiment@hydra.launcher=x": "it sets Hydra itself",
    "cleaning=../../home/evil": "it chooses a file outside of conf/",
    "+debug=/home/evil": "it chooses a file outside of conf/",
    "a b": "it is no override",
}


@pytest.mark.parametrize("item", HOSTILE)
def test_what_names_code_or_the_environment_is_not_taken(item: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        taken("evaluate", "RUN", ["pair=en-fr", item], tmp_path / "run", [])
    assert HOSTILE[item] in str(refused.value)
    assert "type it again: distilingua evaluate RUN" in str(refused.value)


def test_values_are_and_what_is_typed_again_replaces_what_stands_there(tmp_path: Path) -> None:
    own = [
        "pair=en-fr",
        "~cleaning",
        "task.max_length=${x}",
        "corpus.path=../data",
        "optimizer._target_=torch.optim.SGD",
    ]
    own += ["+callbacks.x={_target_:lightning.pytorch.callbacks.Timer}", "task.order=[a,'b, c']", "experiment=many"]
    own += ["+pair={_target_:distilingua.data.protocol.Pair,source:en}"]
    assert taken("evaluate", "RUN", own, tmp_path, []) == own
    assert taken("evaluate", "RUN", ["+license=${oc.env:X}", "seed=3"], tmp_path, ["license=mit"]) == ["seed=3"]
    assert taken("resume", "RUN", ["paths.cache=${oc.env:X}"], tmp_path, [], resumed=True) == [
        "paths.cache=${oc.env:X}"
    ]
    sweep = ["hydra/launcher=joblib", "hydra.sweeper.n_trials=3", "seed=1,2", "optimizer.lr=choice(1,2)"]
    assert taken("resume", "RUN", sweep, tmp_path, [], resumed=True) == sweep
    own_class = ["+callbacks.x._target_=tests.saboteur.Saboteur"]
    assert taken("resume", "RUN", own_class, tmp_path, [], resumed=True) == own_class
    for other in ("subprocess.Popen", "os.system", "no.such.Class"):
        with pytest.raises(UserError, match=f"names {other}"):
            taken("resume", "RUN", [f"+callbacks.x._target_={other}"], tmp_path, [], resumed=True)
    with pytest.raises(UserError, match=r"names torch\.hub\.load"):
        taken("resume", "RUN", [f"hydra.launcher={EVIL}"], tmp_path, [], resumed=True)


def test_configurations_are_ones_own_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("conf/corpus", "theirs/conf", "outputs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "conf/corpus/cafe.yaml").write_text("_target_: cafe.Cafe\n")
    place = f"hydra.searchpath=['file://{tmp_path}/conf']"
    theirs = f"hydra.searchpath=['file://{tmp_path}/theirs/conf']"
    monkeypatch.chdir(tmp_path)
    named = "+corpus={_target_:cafe.Cafe}"
    assert taken("evaluate", "RUN", [place, named], tmp_path / "outputs/x", []) == [place, named]
    with pytest.raises(UserError, match=r"theirs/conf, which is not of the folder .* --config-dir .*theirs/conf"):
        taken("evaluate", "RUN", [theirs], tmp_path / "theirs/run", [])
    monkeypatch.chdir(tmp_path / "outputs")
    with pytest.raises(UserError, match="If they are yours: distilingua export RUN --config-dir"):
        taken("export", "RUN", [place], tmp_path / "outputs/x", [])
    assert taken("export", "RUN", [place, named], tmp_path / "outputs/x", [place]) == [named]


def test_settings_are_read_without_aliases_and_of_no_depth(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("a: &a [x]\nb: [*a, *a]\n")
    with pytest.raises(yaml.YAMLError, match="alias"):
        read_yaml(file)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_yaml(file)
    file.write_text(f"a: {'x' * 3_000_000}")
    with pytest.raises(ValueError, match="3000003 characters"):
        read_yaml(file)


def test_weights_are_read_from_nowhere_else(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for name in ("../x.safetensors", "/x.safetensors", "gone.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        assert f"it names {name}, which does not lie beside it" in (damaged("x", tmp_path) or "")
    index.write_text('{"weight_map": [3]}')
    assert "model.safetensors.index.json is damaged" in (damaged("x", tmp_path) or "")


def calls(name: str) -> dict[str, list[ast.Call]]:
    """Of every file of the package, the calls of what ends in this name."""
    found: dict[str, list[ast.Call]] = {}
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name:
                found.setdefault(file.relative_to(ROOT).as_posix(), []).append(node)
    return found


def test_every_place_that_makes_something_of_a_name_is_known() -> None:
    """A configuration comes through `foreign.taken` before Hydra composes it; these make parts of it, and of nothing
    else. A model's own settings come through `foreign.check_data`, in delivery/model.py alone."""
    assert set(calls("instantiate")) == {
        *("parts.py", "data/augmentation.py", "monitoring/loggers.py", "delivery/evaluate.py", "delivery/export.py"),
        *("training/fitting.py", "training/student.py"),
    }
    assert set(calls("get_class")) == {
        *("parts.py", "checks.py", "monitoring/plugins.py", "tasks/delivery.py", "delivery/model.py", "foreign.py"),
    }
    assert set(calls("taken")) == {"overrides.py", "delivery/model.py"}
    assert not calls("exec")


def test_no_code_of_a_model_is_run_or_offered() -> None:
    autos = [one for many in calls("from_pretrained").values() for one in many]
    asked = [one for one in autos if "Auto" in ast.unparse(one.func) or "model_class" in ast.unparse(one.func)]
    assert len(asked) > 5
    for one in asked:
        assert {word.arg: ast.unparse(word.value) for word in one.keywords}.get("trust_remote_code") == "False"


def test_a_strangers_run_and_model_run_nothing(finished_run: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "hubconf.py").write_text('def go(*a, **k): open("CANARY", "w")\n')
    theirs = tmp_path / "theirs"
    shutil.copytree(finished_run, theirs)
    items = read_yaml(theirs / "checkpoints/overrides.yaml")
    (theirs / "checkpoints/overrides.yaml").write_text(yaml.safe_dump([*items, "~cleaning", f"+cleaning={EVIL}"]))
    for command in ("evaluate", "export", "why", "resume"):
        told = run(command, str(theirs), folder=tmp_path).stderr
        assert "it names torch.hub.load, which no configuration of yours does, and is not run" in told
    config = read_json(theirs / "student/config.json")
    nested = {"_target_": "torch.hub.load", "repo_or_dir": "evil", "model": "go", "source": "local"}
    (theirs / "student/files.json").unlink()
    for name, task in {"in a list": {**config[OWN]["task"], "order": [nested]}, "itself": nested}.items():
        (theirs / "student/config.json").write_text(json.dumps({**config, OWN: {**config[OWN], "task": task}}))
        for given in ("theirs", "theirs/student"):
            told = run("predict", given, "a text", folder=tmp_path).stderr
            assert "is not run" in told, name
            assert "Traceback" not in told
    assert not (tmp_path / "CANARY").exists()


def test_a_student_is_whole_and_what_changed_in_it_is_told(finished_run: Path, tmp_path: Path) -> None:
    before = succeed("predict", str(finished_run), "--all", "turn on the light", folder=tmp_path)
    shutil.copytree(finished_run / "student", tmp_path / "alone")
    assert json.loads(succeed("predict", "alone", "--all", "turn on the light", folder=tmp_path)) == json.loads(before)
    told = read_json(tmp_path / "alone/config.json")
    assert told["problem_type"] == "single_label_classification"
    assert told[OWN]["cleaning"]["url"] == "<link>"
    assert read_json(tmp_path / "alone/tokenizer_config.json")["model_max_length"] == told[OWN]["task"]["max_length"]
    weights = tmp_path / "alone/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4001] ^= 64
    weights.write_bytes(content)
    refused = run("predict", "alone", "turn on the light", folder=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "model.safetensors is damaged: it has another content than was written" in refused.stderr


@pytest.mark.parametrize("front", ["module.", "_orig_mod.", "model."])
def test_weights_that_a_wrapper_has_named_are_refused(front: str, finished_run: Path, tmp_path: Path) -> None:
    from distilingua.models.loading import load_with_head
    from distilingua.models.processors import read_tokenizer
    from distilingua.tasks.text_classification import TextClassification

    shutil.copytree(finished_run / "student", tmp_path / "x", ignore=shutil.ignore_patterns("files.json"))
    task = TextClassification("x", max_length=16)
    task.fit_labels(["light", "music", "weather"], [])
    tokenizer = read_tokenizer("x", tmp_path / "x", tmp_path / "x")
    assert load_with_head("teacher", tmp_path / "x", task, tokenizer, tokenizer)[1] == []
    weights = tmp_path / "x/model.safetensors"
    tensors = {front + name: value for name, value in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"x: its file lacks .*, which would be random, and has .* instead"):
        load_with_head("teacher", tmp_path / "x", task, tokenizer, tokenizer)


def test_nested_values_are_looked_at() -> None:
    check_data({"a": [1, {"b": "x"}], "c": None, "d": ("e", 2.0)})
    with pytest.raises(UserError, match=r"names os\.system"):
        check_data({"a": [1, {"b": ({"_target_": "os.system"},)}]})
