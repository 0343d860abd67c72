"""The report in a real browser, without a head: light and dark, wide and narrow; nothing sticks out, nothing is
fetched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alray import RunConfig
from alray.data.catalog import index
from alray.report import report
from alray.rundir import RunDir
from alray.selection.protocol import Picks

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"a browser: none of {', '.join(NAMES)} is installed")
PROBE = """<script>addEventListener('load', () => {
  const charts = [...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect());
  const text = document.querySelector('figure svg text');
  document.title = JSON.stringify({
    dark: matchMedia('(prefers-color-scheme: dark)').matches, width: innerWidth,
    scroll: document.documentElement.scrollWidth, charts: charts.length,
    smallest: Math.min(...charts.map(box => box.width)), right: Math.max(...charts.map(box => box.right)),
    letters: text.getBoundingClientRect().height, fetched: performance.getEntriesByType('resource').length,
    ink: getComputedStyle(text).fill, paper: getComputedStyle(document.body).backgroundColor,
  });
});</script>"""

PICTURES = """<script>addEventListener('load', () => {
  const images = [...document.querySelectorAll('.picture img')], boxes = images.map(one => one.getBoundingClientRect());
  document.title = JSON.stringify({
    width: innerWidth, scroll: document.documentElement.scrollWidth, pictures: images.length,
    broken: images.filter(one => !one.complete || !one.naturalWidth).length,
    smallest: Math.min(...boxes.map(box => box.width)), right: Math.max(...boxes.map(box => box.right)),
  });
});</script>"""

# A browser without a head has no window below 500 pixels.
TELEPHONE = """<!doctype html><iframe id="inside" src="probed.html" style="width:390px;height:800px;border:0"></iframe>
<script>addEventListener('load', () => { document.title = inside.contentDocument.title; });</script>"""


def browse(*arguments: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on made-up curves of seven strategies, seven seeds."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    lines = ["budget,strategy,seed,labels,test_top1"]
    for budget in (100, 200):
        for strategy in ("random", "base", "margin", "k_center", "badge", "entropy", "confidence"):
            for seed in range(7):
                lines += [
                    f"{budget},{strategy},{seed},{100 + budget * r},{0.4 + 0.1 * r + 0.02 * rng.random():.4f}"
                    for r in range(4)
                ]
    (folder / "curves.csv").write_text("\n".join(lines) + "\n")
    report([str(folder / "curves.csv")], str(folder))
    html = (folder / "report.html").read_text()
    (folder / "probed.html").write_text(html.replace("</body>", f"{PROBE}</body>"))
    (folder / "telephone.html").write_text(TELEPHONE)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on one run as it lies on disk: 12 images of two classes, 6 of them bought, no accuracy."""
    folder = tmp_path_factory.mktemp("pictures")
    names = ["a_name_of_a_class_that_is_long_and_has_no_space_at_which_it_could_be_broken", "cat"]
    for number in range(12):
        path = folder / "images" / names[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 200), (20 * number, 90, 0)).save(path)
    catalog = index(str(folder / "images"), str(folder / "catalog"))
    config = RunConfig(name="pictures", strategy="margin")
    same = {**config.model_dump(mode="json"), "data_fingerprint": catalog.fingerprint, "weights_fingerprint": "w"}
    run = RunDir(str(folder / "run"))
    run.write_about({"name": "pictures", "classes": list(catalog.classes), "catalog": catalog.uri, "identity": same})
    out, rows = run.round(0), np.arange(4, 10)
    out.write_picks(Picks(rows, np.linspace(1, 0, 6)).to_table(), {}, None)
    out.write_labels(rows, catalog.labels()[rows], np.array([0, 1, 0, 1, 0, 1]), np.full(6, 0.6))
    counts = {"counts": [2, 2], "normalised_entropy": 1.0, "empty_classes": 0, "kl_to_pool": 0.0, "max_min_ratio": 1.0}
    out.write_metrics({"round": 0, "labels": 4, "labels_bought": 0, "unlabeled": 8, "test": None, "validation": None,
                       "labeled_set": counts, "seconds": {"train": 100.0}})  # fmt: skip
    report([run.uri], str(folder))
    html = (folder / "report.html").read_text()
    (folder / "probed.html").write_text(html.replace("</body>", f"{PICTURES}</body>"))
    (folder / "telephone.html").write_text(TELEPHONE)
    return folder


@pytest.mark.parametrize("width", [1400, 390])
def test_pictures_are_large_and_fit(pictures: Path, width: int) -> None:
    at = "probed.html" if width >= 500 else "telephone.html"
    look = [f"--window-size={width},900", "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom"]
    title = re.search(r"<title>(\{.*?\})</title>", browse(*look, f"file://{pictures / at}"))
    assert title
    seen = json.loads(title[1])
    assert seen["width"] == width and seen["scroll"] <= width
    assert seen["pictures"] == 6 and seen["broken"] == 0
    assert seen["smallest"] >= (130 if width == 1400 else 85)
    assert seen["right"] <= width


def channels(css: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", css)[:3]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 500, 390])
def test_the_page_fits_and_is_readable(page: Path, scheme: str, width: int) -> None:
    look = [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", f"--window-size={width},900"]
    at = "probed.html" if width >= 500 else "telephone.html"
    look.append("--allow-file-access-from-files")
    dom = browse(*look, "--virtual-time-budget=5000", "--dump-dom", f"file://{page / at}")
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title, dom[:500]
    seen = json.loads(title[1])
    assert (seen["dark"], seen["width"]) == (scheme == "dark", width)
    assert seen["fetched"] == 0
    assert seen["charts"] >= 6
    assert seen["scroll"] <= seen["width"]  # tables scroll inside their box, the page does not
    assert seen["right"] <= seen["width"]
    assert seen["smallest"] > min(300, 0.8 * seen["width"])
    assert seen["letters"] >= 9
    ink, paper = channels(seen["ink"]), channels(seen["paper"])
    assert min(abs(a - b) for a, b in zip(ink, paper, strict=True)) > 120


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 500])
def test_something_is_drawn_in_the_colours_of_the_system(page: Path, scheme: str, width: int) -> None:
    look = [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", f"--window-size={width},900"]
    shot = page / f"{scheme}-{width}.png"
    browse(*look, f"--screenshot={shot}", f"file://{page / 'report.html'}")
    pixels = np.asarray(Image.open(shot).convert("L"))
    background = np.bincount(pixels.ravel()).argmax()
    assert (background > 200) == (scheme == "light")
    assert 0.005 < (np.abs(pixels.astype(int) - background) > 90).mean() < 0.5  # something stands on it
