"""The page that runs the student: what it answers is what `distilingua predict` answers, and nothing leaves it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Browser
from tests.processes import run

pytest.importorskip("onnxruntime")
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
    """With the libraries of npm, the teacher, and a temperature."""
    folder = tmp_path_factory.mktemp("page")
    options = ["format=[web]", "format.web.teacher=true", "temperature=true", "sentences=2"]
    places = [f"hydra.run.dir={folder / 'out'}", f"paths.cache={kept / 'cache'}"]
    corpus = f"corpus.path='{kept}/data/{{lang}}/{{split}}.jsonl'"
    answer = run("export", str(finished_run), corpus, *options, *places, folder=folder)
    assert answer.returncode == 0, answer.stderr
    assert "Training the teacher" not in answer.stdout, "another one than that of the run"
    return folder / "out/web"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def ask(browser: Browser, text: str) -> dict[str, dict[str, float]]:
    """The shares of the classes that each model shows, best first."""
    browser.told("#state", "Type something")
    browser.find_element(By.ID, "text").send_keys(text)
    browser.told("#state", "teacher: ")
    found: dict[str, dict[str, float]] = {"student": {}, "teacher": {}}
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
        told = run("predict", str(site / name), text, "--all", folder=tmp_path)
        assert told.returncode == 0, told.stderr
        expected = json.loads(told.stdout)
        assert browser.told(f"#{name} .answer") == expected["answer"]
        assert next(iter(shares)) == expected["answer"]
        assert shares == pytest.approx(expected["probabilities"], abs=0.02)  # rounding to 8 bits differs by processor
        assert float(browser.find_element(By.CSS_SELECTOR, f"#{name} .ms").text) > 0


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
    assert browser.find_element(By.ID, "text").get_attribute("dir") == "auto"


def test_opened_as_a_file_it_says_how_to_serve_it(browser: Browser, site: Path) -> None:
    browser.show(site / "index.html")
    assert "python -m http.server" in browser.told("#state", "folder")
