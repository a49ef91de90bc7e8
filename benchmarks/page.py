"""A made graph of 20 000 features and 100 000 edges, for the page: as large as the page shows.

`python benchmarks/page.py FILE.html` writes its page; with `--browser` it also opens it in chromium
and takes the time of the first drawing, of 20 moves of the slider and of 20 selections.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.report.page.page import write_page

LAYERS, FEATURES, EDGES, MODULES = 10, 2000, 100_000, 24


def made_graph(seed: int = 0) -> InteractionGraph:
    """Ten node layers of two thousand features, joined by edges mostly inside of modules."""
    generator = np.random.default_rng(seed)
    names = [f"layer {number}" for number in range(LAYERS)]
    membership = {name: generator.integers(0, MODULES, FEATURES) for name in names}
    layers = tuple(
        LayerFeatures(
            name,
            np.sort(generator.lognormal(0, 2, FEATURES))[::-1],
            isolated=0,
            labels=tuple(
                FeatureLabel(f"{share:.0f}% concept {module} | feature {place} of {name}")
                for place, (module, share) in enumerate(
                    zip(membership[name], generator.uniform(5, 99, FEATURES), strict=True)
                )
            ),
        )
        for name in names
    )
    edges, epsilon = {}, {}
    per_pair = EDGES // (LAYERS - 1) + 1
    left = EDGES
    for pair in pairwise(names):
        source, target = membership[pair[0]], membership[pair[1]]
        weight = generator.lognormal(0, 1.5, (FEATURES, FEATURES)).astype(np.float64)
        weight *= np.where(target[:, None] == source[None, :], 20.0, 1.0)
        count = min(per_pair, left)
        left -= count
        epsilon[pair] = float(np.partition(weight, -count, axis=None)[-count])
        edges[pair] = np.where(weight >= epsilon[pair], weight, 0.0)
    partition = Partition(membership, 1.0, 0.5, 0.5, 1.0, 0, 1)
    return InteractionGraph(layers, edges, epsilon, partition)


MEASURE = """
const done = arguments[arguments.length - 1];
(async () => {
  const frame = (act) => requestAnimationFrame(act);
  const drawn = () => new Promise((resolve) => frame(() => frame(resolve)));
  const timed = async (act) => {
    const start = performance.now();
    act();
    await drawn();
    return performance.now() - start;
  };
  const range = document.getElementById("count"), moves = [], clicks = [];
  const slide = (value) => { range.value = value; range.dispatchEvent(new Event("input")); };
  await drawn();
  for (let step = 1; step <= 20; step++) moves.push(await timed(() => slide(50 * step)));
  slide(700);
  await drawn();
  for (let step = 0; step < 20; step++) {
    const name = `layer ${1 + step % 8}/${3 * step}`;
    clicks.push(await timed(() => window.libgraph.select(name)));
  }
  done({ moves, clicks });
})();
"""


def in_browser(path: Path) -> dict[str, object]:
    """Seconds to the first drawing; milliseconds of each slider move and of each selection."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    with tempfile.TemporaryDirectory() as profile:
        for flag in (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--window-size=1440,900",
        ):  # fmt: skip
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        try:
            browser.set_script_timeout(100)
            began = time.monotonic()
            browser.get(f"{path.resolve().as_uri()}")
            ready = "return document.documentElement.dataset.ready === 'true'"
            WebDriverWait(browser, 300, 0.05).until(lambda b: b.execute_script(ready))
            browser.execute_async_script(
                "const frame = requestAnimationFrame; frame(() => frame(arguments[0]))"
            )
            first = time.monotonic() - began
            view = "document.querySelector('#views [value=features]').click()"
            browser.execute_script(view)
            time.sleep(5)
            measured = browser.execute_async_script(MEASURE)
        finally:
            browser.quit()
    return {"first drawing, s": first, **measured}


def main() -> None:
    """Write the page, and measure it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--browser", action="store_true")
    arguments = parser.parse_args()
    began = time.process_time()
    graph = made_graph()
    made = time.process_time()
    write_page(graph, arguments.file, title="A made graph")
    seconds = time.process_time() - made
    figures: dict[str, object] = {
        "making the graph, s": made - began,
        "writing the page, s": seconds,
        "page, MB": arguments.file.stat().st_size / 1e6,
    }
    if arguments.browser:
        figures |= in_browser(arguments.file)
        for name in ("moves", "clicks"):
            values = [float(value) for value in figures[name]]  # type: ignore[attr-defined]
            figures[f"median of {name}, ms"] = statistics.median(values)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
