"""Pages as one sees them: in headless Chromium. `make test-browser` runs what is in here, `make test` does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.delivery.conftest import finished_run  # noqa: F401  # a fixture

HANGS = 300  # seconds; a page that never shows what it should is given up
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
AXE = "4.14.1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of every module in this folder, so that none is forgotten."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


class Browser(Chrome):
    """What tests of pages do again and again; everything else is Selenium's.

    Args:
        axe: the file of axe-core.
    """

    width = 0

    def __init__(self, axe: Path, **options: Any) -> None:
        super().__init__(**options)
        self.axe = axe

    def show(self, address: str | Path, width: int = 1280) -> None:
        """A page, or a file, in a window so many pixels wide; what others asked for before is forgotten."""
        self.get("about:blank")
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        self.width = width
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.get_log("performance")
        self.get(address.resolve().as_uri() if isinstance(address, Path) else address)

    def told(self, selector: str, words: str = "") -> str:
        """The text of an element, once it has these words."""
        WebDriverWait(self, HANGS).until(lambda _: words in self.find_element(By.CSS_SELECTOR, selector).text)
        return self.find_element(By.CSS_SELECTOR, selector).text

    def requested(self) -> list[str]:
        """Addresses that the page shown has asked for, itself included."""
        events = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        return [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]

    def violations(self) -> list[str]:
        """What axe-core finds wrong with the page as it is: rule and element."""
        self.execute_script(self.axe.read_text("utf-8"))
        found = self.execute_async_script("axe.run().then(arguments[0])")
        assert found["passes"], "axe has looked at nothing"
        return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]

    def sticks_out(self) -> list[str]:
        """Elements for which the page would have to be scrolled sideways, or shrunk; those that scroll inside a box of
        their own are none."""
        return self.execute_script("""
            const wide = arguments[0]
            const boxed = e => e && (getComputedStyle(e).overflowX !== 'visible' || boxed(e.parentElement))
            const out = [...document.body.querySelectorAll('*')]
                .filter(e => e.getBoundingClientRect().right > wide + 1 && !boxed(e.parentElement))
                .map(e => e.outerHTML)
            return document.documentElement.scrollWidth > wide ? [...out, 'the page'] : out
        """, self.width)  # fmt: skip


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from distilingua.delivery.web import from_npm

    found = [next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, ("chromedriver",))]
    assert all(found), "no Chromium here: apt-get install chromium chromium-driver"
    folder = tmp_path_factory.mktemp("axe")
    from_npm("axe-core", AXE, ["axe.min.js"], folder)
    options = Options()
    options.binary_location = str(found[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with Browser(folder / "axe.min.js", options=options, service=Service(found[1])) as chrome:
        chrome.set_script_timeout(HANGS)
        yield chrome
