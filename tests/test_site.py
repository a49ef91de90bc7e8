"""The site of the documentation as it is read from a disk: complete, and asking nobody."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.browser import browser

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder],
        cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    return folder


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"?([^\" >]+)", text)
        assert not [address for address in loaded if address.startswith(("http", "//"))], page


def test_commands_and_public_names_have_their_pages(site):
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name in ("analyze", "backends check", "doctor", "view"):
        assert f'id="libgraph-{name.replace(" ", "-")}"' in commands
    plugins = (site / "reference" / "plugins.html").read_text(encoding="utf-8")
    assert 'id="libgraph.bases.method.BasisMethod"' in plugins
    names = (site / "reference" / "libgraph.html").read_text(encoding="utf-8")
    assert 'id="libgraph.analysis.analysis.analyze"' in names
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 20e6


def test_search_works_from_the_disk(site):
    from selenium.webdriver.support.ui import WebDriverWait

    with browser() as page:
        driver = page.driver
        driver.get((site / "index.html").as_uri())
        driver.execute_script("document.querySelector('[data-md-toggle=search]').click()")
        box = driver.find_element("css selector", "input.md-search__input")
        WebDriverWait(driver, 20).until(lambda _: box.is_displayed())
        box.send_keys("participation ratio")
        links = "return [...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"
        found = WebDriverWait(driver, 30).until(lambda _: driver.execute_script(links))
    assert any("reading.html" in address for address in found)
