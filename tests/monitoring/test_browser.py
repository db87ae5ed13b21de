"""TensorBoard as one sees it: in headless Chromium. `make test-browser` runs it, `make test` does not."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

pytestmark = pytest.mark.browser
HANGS = 300  # seconds; a page that never shows what it should is given up
WORDS = """
function words(node) {
  if (node.nodeType === 3) return node.textContent + ' '
  if (['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.nodeName)) return ''
  return [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes].map(words).join('')
}
return words(document.body)
"""
PICTURES = """
function pictures(node) {
  const below = [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes].flatMap(pictures)
  return node.nodeName === 'IMG' && node.naturalWidth > 100 ? [node.naturalWidth, ...below] : below
}
return pictures(document.body)
"""


@pytest.fixture(scope="module")
def address(swept: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(swept), "--port", str(port), "--bind_all"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + HANGS
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    found = [next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, ("chromedriver",))]
    assert all(found), "no Chromium here: apt-get install chromium chromium-driver"
    options = Options()
    options.binary_location = str(found[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1400"):
        options.add_argument(argument)
    with Chrome(options=options, service=Service(found[1])) as chrome:
        yield chrome


RUNS = [f"temperature-{temperature}/tensorboard/student" for temperature in (1, 2)]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def shown(browser: Chrome, address: str, until: Callable[[str], object], script: str = WORDS) -> str:
    """What a page says, once it says all that a test looks for: TensorBoard draws one thing after the other."""
    browser.get("about:blank")
    browser.get(address)
    deadline, told = time.monotonic() + HANGS, ""
    while time.monotonic() < deadline:
        told = " ".join(str(browser.execute_script(script)).split())
        if until(told):
            return told
        time.sleep(0.5)
    raise AssertionError(told)


def test_hparams_open_on_what_varies_and_on_the_target(browser: Chrome, address: str) -> None:
    def columns(words: str) -> list[str]:
        return words.partition("Trial ID Show Metrics ")[2].partition(" temperature-1")[0].split()

    wanted = {"test/de/accuracy", "retention/mean", "retention/worst"}
    told = shown(
        browser, f"{address}/#hparams", lambda words: wanted <= {*columns(words)} and {*RUNS} <= {*words.split()}
    )
    assert columns(told)[0] == "temperature"
    assert "test/de/accuracy retention/mean retention/worst" in " ".join(columns(told))
    assert not any("test/en" in column for column in columns(told))


def test_dev_curves_of_all_languages_share_a_chart(browser: Chrome, address: str) -> None:
    wanted = [f"dev/{lang}/accuracy ({run})" for lang in ("en", "de") for run in RUNS]

    def chart(words: str) -> str:
        return words.partition(" accuracy ")[2].partition("Matches")[2].partition("Matches")[0]

    shown(browser, f"{address}/#custom_scalars", lambda words: all(curve in chart(words) for curve in wanted))


def test_confusion_and_front_are_drawn(browser: Chrome, address: str) -> None:
    tags = [f"tag: {tag}" for tag in ("confusion/de", "confusion/en", "sweep/pareto")]
    shown(browser, f"{address}/#images", lambda words: all(tag in words for tag in tags))
    # five pictures: two languages of two runs, and the front
    shown(browser, f"{address}/#images", lambda widths: widths.count(",") >= 4, PICTURES)


def test_jobs_and_disagreements_can_be_read(browser: Chrome, address: str) -> None:
    wanted = ("sweep/jobs", "finished", "distilingua train")
    shown(browser, f"{address}/#text", lambda words: all(word in words for word in wanted))


@pytest.mark.parametrize("name", ["share_waiting", "memory_gb", "sentences_per_second"])
def test_speed_and_memory_have_curves(browser: Chrome, address: str, name: str) -> None:
    shown(browser, f"{address}/?tagFilter={name}#timeseries", lambda words: re.search(rf"train ?/{name}", words))


def test_the_projector_shows_vectors_of_teacher_and_student(browser: Chrome, address: str) -> None:
    def inside(words: str) -> bool:
        if browser.find_elements(By.TAG_NAME, "iframe"):
            browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
        both = {"teacher:00000", "student:00000"} <= {*words.split()}
        return both and bool(re.search(r"Points: \d+ .*Dimension: 32", words))

    shown(browser, f"{address}/#projector", inside)
    browser.switch_to.default_content()
