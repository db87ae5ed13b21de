"""The page that runs the student: what it answers is what `distilingua predict` answers, and nothing leaves it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from transformers import BertForSequenceClassification

from distilingua.corpora.schema import dataset_from_rows
from distilingua.data.encoder import Encoder
from distilingua.delivery.formats import Student
from distilingua.delivery.web import BINARY, RUNTIME, SCRIPTS, Web, from_npm
from distilingua.locations import conf_folder
from distilingua.models.folder import OWN
from distilingua.models.vocabulary import train_tokenizer
from distilingua.tasks.multi_label import MultiLabel
from distilingua.tasks.text_classification import TextClassification
from tests.browser.conftest import Browser
from tests.conftest import tiny_bert
from tests.delivery.students import bag
from tests.processes import succeed

pytest.importorskip("onnxruntime")
CHOSEN = yaml.safe_load((conf_folder() / "format/web.yaml").read_text("utf-8"))["web"]
GERMAN = "bitte prüfe Licht im Stock 4"
TEXTS = (
    *(GERMAN, "jetzt Musik Nummer 99", "the rain in room 7"),
    "  <b>bitte</b> prüfe&nbsp;“Lied” ＩＭ　Stock\u0007 ‘12’ www.example.org/licht  ",
    " ".join(["Wetter in Zimmer 3"] * 60),  # beyond the length that the model reads
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(finished_run: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the libraries of npm, and the teacher."""
    folder = tmp_path_factory.mktemp("page")
    options = ["format=[web]", "format.web.teacher=true", "sentences=2"]
    places = [f"hydra.run.dir={folder / 'out'}", f"paths.cache={kept / 'cache'}"]
    corpus = f"corpus.path='{kept}/data/{{lang}}/{{split}}.jsonl'"
    printed = succeed("export", str(finished_run), corpus, *options, *places, folder=folder)
    assert "Training the teacher" not in printed, "another one than that of the run"
    return folder / "out/web"


class ForAll(Quiet):
    """As jsDelivr answers, pages of other servers too."""

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()


@contextmanager
def served(folder: Path, handler: type[Quiet] = Quiet) -> Iterator[str]:
    """As `python -m http.server` does it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as address:
        yield address


def ask(browser: Browser, text: str, *models: str) -> dict[str, dict[str, float]]:
    """The shares of the classes that each model shows, best first."""
    models = models or ("student", "teacher")
    browser.told("#state", "Type something")
    browser.find_element(By.ID, "text").send_keys(text)
    browser.told("#state", f"{models[-1]}: ")
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    for name, shares in found.items():
        for line in browser.find_elements(By.CSS_SELECTOR, f"#{name} li"):
            share = line.find_element(By.TAG_NAME, "data").get_attribute("value")
            shares[line.find_element(By.TAG_NAME, "bdi").text] = float(share or "nan")
    return found


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_it_answers_as_predict_does(text: str, browser: Browser, address: str, site: Path, tmp_path: Path) -> None:
    browser.show(address)
    found = ask(browser, text)
    for name, shares in found.items():
        expected = json.loads(succeed("predict", str(site / name), text, "--all", folder=tmp_path))
        assert browser.told(f"#{name} .answer") == expected["answer"]
        assert next(iter(shares)) == expected["answer"]
        unsure = browser.find_elements(By.CSS_SELECTOR, f"#{name} .answer.unsure")
        assert bool(unsure) == (shares[expected["answer"]] < 0.5)
        assert shares == pytest.approx(expected["probabilities"], abs=0.02)  # rounding to 8 bits differs by processor
        assert float(browser.find_element(By.CSS_SELECTOR, f"#{name} .ms").text) > 0


def by_hand(kind: str, kept: Path, folder: Path, assets: str = "npm") -> Path:
    """The page of a model with random weights: that chooses several classes, reads two texts, or is none that
    transformers.js has heard of."""
    pairs = kind == "pairs"
    task = MultiLabel() if kind == "labels" else TextClassification()
    if kind == "static":
        model, encoder, rows = bag(kept)
        task = encoder.task
    else:
        torch.manual_seed(0)
        tokenizer, task = train_tokenizer(TEXTS, 100), task.fit_labels(["a", "b", "c"])
        model = BertForSequenceClassification(tiny_bert(len(tokenizer), **task.model_options)).eval()
        torch.nn.init.normal_(model.classifier.weight, std=3)  # so that it is sure of something
        encoder = Encoder(task, tokenizer)
        texts = [{"id": t, "lang": "de", "text": t, "text_pair": TEXTS[0] if pairs else ""} for t in TEXTS]
        rows = dataset_from_rows(texts)
    model.config.problem_type = "multi_label_classification" if kind == "labels" else None
    own = {"_target_": f"{type(task).__module__}.{type(task).__name__}", "max_length": task.max_length}
    setattr(model.config, OWN, {"task": own, "cleaning": {}, "parameters": 1})
    model.config.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    student = Student(lambda: model, encoder, rows, 1)
    form: Web = instantiate(CHOSEN, assets=assets)
    return form.write(student, folder).parents[2]


@pytest.mark.parametrize("kind", ["labels", "pairs", "static"])
def test_models_of_every_kind_answer_so(kind: str, browser: Browser, kept: Path, tmp_path: Path) -> None:
    folder = by_hand(kind, kept, tmp_path / "page")
    with served(folder) as address:
        browser.show(address)
        if kind == "pairs":
            browser.told("#state", "Type something")
            browser.find_element(By.ID, "pair").send_keys(TEXTS[1])
        found = ask(browser, GERMAN, "student")["student"]
        typed = f"{GERMAN}\t{TEXTS[1]}" if kind == "pairs" else GERMAN
        expected = json.loads(succeed("predict", str(folder / "student"), typed, "--all", folder=tmp_path))
        assert found == pytest.approx(expected["probabilities"], abs=0.02)
        answer = browser.told("#student .answer")
        names = json.loads(expected["answer"]) if kind == "labels" else [expected["answer"]]
        assert sorted(answer.split(", ")) == sorted(names or ["none of them"])


def test_from_elsewhere_it_asks_for_files_that_are_there(
    browser: Browser, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """jsDelivr serves packages of npm file by file, at npm/PACKAGE@VERSION/FILE; here another port stands for it."""
    for package, (script, *_) in SCRIPTS.items():
        version = CHOSEN["versions"][package]
        files = [script, BINARY] if package == RUNTIME else [script]
        from_npm(package, version, files, tmp_path / f"cdn/npm/{package}@{version}" / Path(script).parent)
    with served(tmp_path / "cdn", ForAll) as elsewhere:
        monkeypatch.setattr("distilingua.delivery.web.CDN", elsewhere.rstrip("/"))
        folder = by_hand("one class", kept, tmp_path / "page", assets="cdn")
        assert not (folder / "assets").exists()
        with served(folder) as address:
            browser.show(address)
            assert set(ask(browser, GERMAN, "student")["student"]) == {"a", "b", "c"}
            asked = [one for one in browser.requested() if not one.startswith((address, "data:"))]
            there = [path.relative_to(tmp_path / "cdn").as_posix() for path in (tmp_path / "cdn").rglob("dist/*")]
            assert {one.removeprefix(elsewhere) for one in asked} == set(there)
            with served(tmp_path) as third:
                refused = f"return fetch('{third}').then(() => 'sent', error => error.name)"
                assert browser.execute_script(refused) == "TypeError"


def test_nothing_leaves_the_browser(browser: Browser, address: str) -> None:
    browser.show(address)
    ask(browser, GERMAN)
    before = browser.requested()
    assert any("model_quantized.onnx" in one for one in before)
    assert not [one for one in before if not one.startswith((address, "data:"))]
    browser.find_element(By.ID, "text").send_keys(Keys.CONTROL, "a")
    browser.find_element(By.ID, "text").send_keys("Regen jetzt")
    browser.told("#state", "teacher: ")
    assert browser.requested() == [], "typing asks for something"
    refused = "return fetch('https://example.org').then(() => 'sent', error => error.name)"
    assert browser.execute_script(refused) == "TypeError"


@pytest.mark.parametrize("width", [1280, 360])
def test_everybody_can_use_it(width: int, browser: Browser, address: str) -> None:
    browser.show(address, width)
    browser.told("#state", "Type something")
    assert browser.violations() == []
    ask(browser, "הדלק את האור " + "x" * 80)
    assert browser.violations() == []
    assert browser.sticks_out() == []
    student, teacher = (browser.find_element(By.ID, name).rect for name in ("student", "teacher"))
    assert (student["y"] == teacher["y"]) == (width > 600), "beside each other where there is room"
    assert browser.find_element(By.ID, "text").get_attribute("dir") == "auto"


def test_opened_as_a_file_it_says_how_to_serve_it(browser: Browser, site: Path) -> None:
    browser.show(site / "index.html")
    assert "python -m http.server" in browser.told("#state", "folder")
