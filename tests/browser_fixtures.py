"""Fixtures for test_browser_*.py: one browser and one set of pages for the whole session.

The test files name this module in `pytest_plugins`: imported fixtures would be built once for each file.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from nanogpt.cli.visualize import visualize_main
from tests.browser import CHROMIUM, DRIVER, PAGES, prefer, resize

FLAGS = """
    --headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --window-size=1280,900
"""


# True once the model in a page, if there is one, has read the text: until then it may replace what is shown.
IS_READ = """
    const live = document.querySelector("#live");
    const text = (selector) => document.querySelector(selector).textContent;
    if (!live || live.hidden || document.querySelector("#write").disabled) return true;
    return text("#chances-label") && (text("#told") || document.querySelectorAll("#text > span").length < 2);
"""


class Browser(Chrome):
    def get(self, url: str) -> None:
        """Open a page, and wait until it is read."""
        super().get(url)
        WebDriverWait(self, 60, poll_frequency=0.02).until(lambda _: self.execute_script(IS_READ))


@pytest.fixture(scope="session")
def pages(strange_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the pages, by name."""
    folder = tmp_path_factory.mktemp("pages")
    for name, flags in PAGES.items():
        command = [f"--out_dir={strange_run}", "--backend=torch", *flags, f"--html={folder / name}.html"]
        assert visualize_main(command) == 0
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """The running browser."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}", "about:blank"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Browser(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(started: Chrome) -> Iterator[Chrome]:
    """The browser, reset between tests. At the end of a test, its log must be empty."""
    resize(started, 1280)
    prefer(started, "light")
    started.get("about:blank")
    for log in ("browser", "performance"):
        started.get_log(log)
    yield started
    assert started.get_log("browser") == []
