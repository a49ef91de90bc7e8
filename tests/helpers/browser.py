"""A real browser for tests: Debian's chromium without a window, and what it says and asks for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

INSTALL = "apt-get install -y --no-install-recommends chromium chromium-driver"

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Page:
    """A page in the browser."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, path: Path, place: str = "") -> None:
        """Open a file, and wait until it is drawn."""
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(path.as_uri() + place)
        ready = "return document.documentElement.dataset.ready === 'true'"
        WebDriverWait(self.driver, 60, 0.05).until(lambda driver: driver.execute_script(ready))

    def __call__(self, script: str, *arguments: object):
        """What a function body in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50)));"
        )

    def text(self, selector: str) -> str:
        """All text of an element; as JSON, because it may hold halves of characters."""
        script = "return JSON.stringify(document.querySelector(arguments[0]).textContent)"
        return json.loads(self(script, selector))

    def click(self, selector: str) -> None:
        """Click on an element."""
        from selenium.webdriver.common.by import By

        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        self.settle()

    def click_at(self, x: float, y: float) -> None:
        """Click on a point of the window."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        actions = ActionBuilder(self.driver)
        actions.pointer_action.move_to_location(round(x), round(y))
        actions.pointer_action.click()
        actions.perform()
        self.settle()

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()
        self.settle()

    def complaints(self) -> list[str]:
        """Errors in the console since the page was opened."""
        log = self.driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """What was asked for since the page was opened, but for the page and what is in it."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        inside = ("data:", "blob:", "about:", "chrome")
        return [url for url in asked if not url.startswith(inside)][1:]


@contextmanager
def browser(width: int = 1440, height: int = 900) -> Iterator[Page]:
    """A browser with an empty profile; tests skip where there is none."""
    pytest.importorskip("selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip(f"there is no chromium to open pages in: {INSTALL}")
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        try:
            chrome = webdriver.Chrome(options=options, service=Service(driver))
        except WebDriverException as error:
            pytest.skip(f"chromium does not start here: {error.msg}")
        chrome.set_script_timeout(60)
        try:
            yield Page(chrome)
        finally:
            chrome.quit()
