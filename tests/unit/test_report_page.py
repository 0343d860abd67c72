"""The report as one HTML file: what is in it, that nothing is fetched, coverage against a slow twin, the gallery."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from alray import RunConfig, replace
from alray.config import DataConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.data.catalog import index
from alray.features.table import write_arrays
from alray.models.head import Head
from alray.report import report
from alray.report.coverage import cover
from alray.report.gallery import gallery
from alray.report.panel import panel
from alray.report.runs import RunHistory, load, load_all
from alray.rounds import run
from alray.selection.protocol import Picks
from alray.store import Store


def config_of(folder: Path) -> RunConfig:
    rng = np.random.default_rng(0)
    label = np.arange(240) % 3
    features = (rng.normal(size=(240, 4)) + 2 * rng.normal(size=(3, 4))[label]).astype(np.float32)
    np.savez(folder / "e.npz", features=features, label=label, is_test=np.arange(240) % 4 == 0)
    return RunConfig(
        name="p",
        root=str(folder / "runs"),
        rounds=3,
        budget=6,
        top_k=(2,),
        data=DataConfig(root=str(folder / "e.npz")),
        split=SplitConfig(val_size=12, seed_set_size=6),
        train=TrainConfig(mode="linear", epochs=3, lr=1.0),
        resources=ResourceConfig(select_workers="process"),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies x two budgets x two seeds."""
    path = tmp_path_factory.mktemp("page")
    for strategy in ("random", "k_center"):
        for budget in (6, 12):
            for seed in (0, 1):
                changed = {"strategy": strategy, "budget": budget, "seed": seed}
                run(replace(config_of(path), changed), quiet=True)
    report([str(path / "runs")])
    return path


class Page(HTMLParser):
    """What a page refers to, its identifiers, and whether its elements nest."""

    void = ("meta", "img", "br", "path", "use", "rect", "circle", "line", "stop")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value:
                self.references.append(value)
            if name == "id" and value:
                self.ids.append(value)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(folder: Path) -> None:
    html = (folder / "runs" / "report.html").read_text()
    page = Page(html)
    assert page.open == []
    assert [at for at in page.references if not at.startswith(("#", "data:"))] == []
    assert "<script" not in html
    assert not re.findall(r"@import|url\((?!#)", html)
    for name in (link[1:] for link in page.references if link.startswith("#") and not link.startswith("#m")):
        assert name in page.ids, name


def test_every_section_is_there_with_units_and_warnings(folder: Path) -> None:
    html = (folder / "runs" / "report.html").read_text()
    for title in (
        "Learning curves", "Area under the budget curve", "Difference to random", "Win matrix", "Label efficiency",
        "Class balance", "Coverage", "Time", "Runs and configuration", "Gallery",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in html, title
    for text in ("accuracy (%)", "labels bought, seed set included", "seconds per run", "radius (distance)"):
        assert text in html, text
    assert "Too few seeds for a claim" in html
    assert "without images" in html
    tables = {path.name for path in (folder / "runs" / "tables").iterdir()}
    assert {"areas.csv", "differences.csv", "wins.csv", "efficiency.csv", "coverage.csv", "records.csv"} <= tables


def test_a_strategy_has_one_colour_and_it_is_a_variable(folder: Path) -> None:
    html = (folder / "runs" / "report.html").read_text()
    drawn = set(re.findall(r"(?:stroke|fill): (#[0-9a-f]{6})", html))
    assert drawn == set()  # every ink in a chart follows the theme
    used = set(re.findall(r"var\((--c-[0-9a-f]{6})", html))
    css = html[: html.index("</style>")]
    assert used == {"--c-010101", "--c-cc79a7"}  # random, k_center
    assert all(css.count(f"{name}:") == 2 for name in used)  # light and dark


def slow_coverage(x: np.ndarray, history: RunHistory, pool: np.ndarray) -> tuple[list[float], list[float]]:
    store = Store(history.dir)
    splits = store.read_table("splits.parquet").to_pylist()
    labeled = [item["row"] for item in splits if item["role"] == "seed"]
    radius, mean = [], []
    for number in range(len(history.rounds)):
        nearest = [min(float(np.linalg.norm(x[row] - x[other])) for other in labeled) for row in pool]
        radius.append(max(nearest))
        mean.append(float(np.mean(nearest)))
        folder = store.child(f"round_{number:02d}")
        labeled += folder.read_table("labels.parquet")["row"].to_pylist() if folder.has("labels.parquet") else []
    return radius, mean


def test_coverage_is_what_a_double_loop_finds(folder: Path) -> None:
    runs = load_all([str(folder / "runs")])
    found, left_out = cover(runs)
    assert (len(found), left_out) == (8, "")
    x = np.load(folder / "e.npz")["features"].astype(np.float64)
    for history in runs[:3]:
        splits = Store(history.dir).read_table("splits.parquet").to_pylist()
        held_out = {item["row"] for item in splits if item["role"] == "held_out"}
        pool = np.array([row for row in range(240) if row % 4 and row not in held_out])
        radius, mean = slow_coverage(x, history, pool)
        assert found[history.dir].radius == pytest.approx(radius, rel=1e-3, abs=1e-3)
        assert found[history.dir].mean == pytest.approx(mean, rel=1e-3, abs=1e-3)


def test_coverage_that_is_too_much_or_gone_is_left_out_and_said_so(folder: Path) -> None:
    runs = load_all([str(folder / "runs")])
    few, said = cover(runs, most_products=168 * 30 * 4 * 3)
    assert 0 < len(few) < 8
    assert "runs left out: there are too many distances" in said
    assert {load(path).seed for path in few} == {0}
    gone = [RunHistory(**{**vars(runs[0]), "dir": str(folder / "nowhere")})]
    assert "1 of 1 runs left out: the run does not say where its embeddings are" in cover(gone)[1]


def write_image_run(folder: Path) -> str:
    """A run as it lies on disk, on 12 real images of 2 classes: 4 labeled at first, 6 bought."""
    for number in range(12):
        path = folder / "images" / "train" / ("cat" if number % 2 else "dog") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 50), (20 * number, 255 if number % 2 else 0, 0)).save(path)
    catalog = index(str(folder / "images"), str(folder / "catalog"))
    rows = np.arange(12)
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    write_arrays(Store(str(folder / "runs" / "features" / "f")), rows, x, "float32", "f")
    store = Store(str(folder / "runs" / "g-1"))
    config = RunConfig(name="g", strategy="margin", train=TrainConfig(mode="linear"))
    same = {**config.model_dump(mode="json"), "data_fingerprint": catalog.fingerprint, "weights_fingerprint": "w"}
    store.write_json(
        "run.json", {"name": "g", "classes": list(catalog.classes), "catalog": catalog.uri, "identity": same}
    )
    store.write_table("splits.parquet", pa.table({"row": rows[:4], "role": ["seed"] * 4, "label": [0] * 4}))
    out = store.child("round_00")
    out.write_table("picks.parquet", Picks(rows[4:10][::-1].copy(), np.linspace(1, 0, 6)).to_table())
    labels = catalog.labels()[rows[4:10][::-1]]
    out.write_table("labels.parquet", pa.table({"row": rows[4:10][::-1], "label": labels}))
    out.write_json("selection.json", {"features": "features/f"})
    Head(np.eye(2, 3, dtype=np.float32), np.zeros(2, np.float32)).save(out.child("checkpoint"))
    counts = {"counts": [2, 2], "normalised_entropy": 1.0, "empty_classes": 0, "kl_to_pool": 0.0, "max_min_ratio": 1.0}
    test = {"top1": 0.5, "balanced_accuracy": 0.5, "worst_classes": []}
    metrics = {"round": 0, "labels": 4, "labels_bought": 0, "unlabeled": 8, "test": test, "validation": None,
               "labeled_set": counts, "seconds": {"train": 1.0}}  # fmt: skip
    out.write_json("metrics.json", metrics)
    return store.uri


def test_the_gallery_shows_the_most_surprising_picks_first(tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    (wall,), note = gallery(panel([load(uri)]))
    assert note == ""
    assert (wall.round, wall.of, wall.by_surprise) == (0, 6, True)
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    p = np.exp(x[:, :2]) / np.exp(x[:, :2]).sum(axis=1, keepdims=True)
    pictures = {picture.key: picture for _, group in wall.classes for picture in group}
    assert len(pictures) == 6
    for name, group in wall.classes:
        surprises = [picture.surprise for picture in group]
        assert surprises == sorted(surprises, reverse=True)  # type: ignore[type-var]
        for picture in group:
            assert picture.label == name
            row = sorted(path.relative_to(tmp_path / "images").as_posix() for path in
                         (tmp_path / "images").rglob("*.png")).index(picture.key)  # fmt: skip
            assert picture.surprise == pytest.approx(1 - p[row, ["cat", "dog"].index(name)], abs=1e-6)
            assert picture.score == pytest.approx((row - 4) / 5)
    first = max(pictures.values(), key=lambda picture: picture.surprise or 0)
    assert wall.classes[0][1][0] == first


def test_thumbnails_are_in_the_page_and_small(tmp_path: Path) -> None:
    import base64
    import io

    uri = write_image_run(tmp_path)
    report([uri])
    html = Path(uri, "report.html").read_text()
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(found) == 6
    assert {Image.open(io.BytesIO(base64.b64decode(text))).size for text in found} == {(72, 36)}


def test_without_embeddings_the_scores_order_the_gallery(tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    Store(str(tmp_path / "runs" / "features")).delete("f")
    (wall,), _ = gallery(panel([load(uri)]))
    assert not wall.by_surprise
    scores = [[picture.score for picture in group] for _, group in wall.classes]
    assert scores == [sorted(group, reverse=True) for group in scores]
    Store(str(tmp_path)).delete("images")
    assert "the images are not there any more" in gallery(panel([load(uri)]))[1]
