"""A contact sheet in a real browser: images are labeled by keyboard, and `alray label` reads the saved CSV."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_report_browser import BROWSER, browse

from alray.data.catalog import index
from alray.data.oracle import Requests, Status
from alray.labeling import sheet
from alray.labeling.deliveries import read
from alray.labeling.ledger import requests_table
from alray.store import Store

pytestmark = pytest.mark.skipif(BROWSER is None, reason="a browser: none is installed")
CLASSES = ["cat", 'd,o"g', "</script><b>owl"]
TYPED = ["1", "2", "3", "s", "u", "1", "Delete", "2", "ArrowLeft", "3", "ArrowRight", "1", "1", "2"]
PROBE = """<script>addEventListener('load', async () => {
  const press = (key) => document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  TYPED.forEach(press);
  const any = document.getElementById('any');
  press('Enter');
  any.value = 'cat';
  any.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
  let saved;
  HTMLAnchorElement.prototype.click = function () { saved = this; };
  document.getElementById('save').click = null;
  save();
  const text = await (await fetch(saved.href)).text();
  const images = [...document.querySelectorAll('figure img')];
  document.title = JSON.stringify({
    text, name: saved.download, count: document.getElementById('count').textContent,
    broken: images.filter((one) => !one.complete || !one.naturalWidth).length,
    scroll: document.documentElement.scrollWidth, width: innerWidth,
    bold: document.querySelectorAll('header b, figure b b').length,
  });
});</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a batch of twelve images, with names that a page or a CSV could trip over."""
    root = tmp_path_factory.mktemp("sheet")
    for number in range(12):
        path = root / "images" / f"{number:02d}, <i>é.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (300, 200), (20 * number, 90, 0)).save(path)
    catalog = index(str(root / "images"), str(root / "catalog"), yes=True)
    rows = np.arange(12)
    asked = Requests.of(catalog, rows, 0, (rows % 3).astype(np.int32), np.full(12, 0.5), rows / 12.0)
    batch = requests_table(asked, CLASSES, ["round 0"] * 12)
    names = sheet.write(Store(str(root / "batch"), ""), batch, catalog, CLASSES, "run, round 0")
    assert names == ["batch.csv", "batch.jsonl", "sheet-001.html"]
    page = (root / "batch" / "sheet-001.html").read_text()
    probe = PROBE.replace("TYPED", json.dumps(TYPED))
    (root / "batch" / "probed.html").write_text(page.replace("</html>", f"{probe}</html>"))
    return root / "batch"


@pytest.mark.parametrize("width", [1400, 600])
def test_ten_images_are_labeled_by_keyboard_and_the_saved_csv_is_read(folder: Path, tmp_path: Path, width: int) -> None:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    dom = browse("--dump-dom", "--virtual-time-budget=4000", f"--window-size={width},900", profile,
                 (folder / "probed.html").as_uri())  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    found = json.loads(html.unescape(title[1]))
    assert (found["name"], found["broken"], found["bold"]) == ("labels.csv", 0, 0)
    assert found["scroll"] <= found["width"]
    (tmp_path / "labels.csv").write_text(found["text"])
    answers = read(str(tmp_path / "labels.csv"))
    keys = [f"{number:02d}, <i>é.png" for number in range(12)]
    said = [(answer.key, answer.label if answer.status == Status.LABEL else answer.status.name) for answer in answers]
    expected = ["cat", CLASSES[1], CLASSES[2], "SKIP", "UNUSABLE", "cat", CLASSES[2]]
    assert said[:6] == list(zip(keys[:6], expected[:6], strict=True))
    assert found["count"] == f"{len(said)} of 12 answered"
    assert len(said) >= 10
    assert all(key in keys for key, _ in said)


def test_the_csv_of_a_batch_has_every_key_byte_for_byte_and_no_answer_yet(folder: Path) -> None:
    assert read(str(folder / "batch.csv")) == []
    assert read(str(folder / "batch.jsonl")) == []
    lines = [json.loads(line) for line in (folder / "batch.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [f"{number:02d}, <i>é.png" for number in range(12)]
    assert lines[1]["predicted"] == CLASSES[1]
