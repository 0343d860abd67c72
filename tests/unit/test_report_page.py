"""The report as one HTML file: what is in it, that nothing is fetched, coverage against a slow twin, the gallery."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from test_report import rewrite, write_run

from alray import RunConfig, replace
from alray.config import DataConfig, Dtype, ResourceConfig, SplitConfig, TrainConfig
from alray.data.catalog import index
from alray.features.table import write_arrays
from alray.models.head import Head
from alray.report import report
from alray.report.charts import stages_chart
from alray.report.coverage import cover
from alray.report.gallery import gallery
from alray.report.panel import panel
from alray.report.records import picks_hash
from alray.report.runs import RunHistory, load, load_all
from alray.report.thumbnails import encoded
from alray.report.timing import timing_section_parts
from alray.rounds import run
from alray.rundir import Missing
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
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value:
                self.references.append(value)
            if name == "id" and value:
                self.ids.append(value)
        self.tags.add(tag)
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
        "Learning curves", "Accuracy per class", "Area under the budget curve", "Difference to random",
        "Label efficiency", "Class balance", "Coverage", "Time", "Runs and configuration",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in html, title
    for text in ("accuracy (%)", "labels, seed set included", "radius (distance)"):
        assert text in html, text
    # Runs of less than a second are one sentence; on a busy machine they may take longer.
    assert re.search(r"A run took [^<]* of wall time\.|Wall time of each stage, summed over the rounds", html)
    assert "Too few seeds for a claim" in html
    assert "There are no pictures of the picks: the data are embeddings without images." in html
    assert "<h2>Pictures" not in html and "<h2>Win matrix" not in html
    tables = {path.name for path in (folder / "runs" / "tables").iterdir()}
    assert {"areas.csv", "differences.csv", "classes.csv", "efficiency.csv", "coverage.csv", "records.csv"} <= tables


def test_a_strategy_has_one_colour_and_it_is_a_variable(folder: Path) -> None:
    html = (folder / "runs" / "report.html").read_text()
    drawn = set(re.findall(r"(?:stroke|fill): (#[0-9a-f]{6})", html))
    assert drawn == set()  # every ink in a chart follows the theme
    used = set(re.findall(r"var\((--c-[0-9a-f]{6})", html))
    css = html[: html.index("</style>")]
    assert used == {"--c-1d1f21", "--c-b8509b"}  # random, k_center
    assert all(css.count(f"{name}:") == 2 for name in used)  # light and dark


def slow_coverage(x: np.ndarray, history: RunHistory, pool: np.ndarray) -> tuple[list[float], list[float]]:
    store = Store(history.dir)
    splits = store.read_table("splits.parquet").to_pylist()
    labeled = [item["row"] for item in splits if item["role"] == "seed"]
    if store.has("seed_set.parquet"):
        labeled += store.read_table("seed_set.parquet")["row"].to_pylist()
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
        radius, mean = slow_coverage(x, history, pool_of(history))
        assert found[history.dir].radius == pytest.approx(radius, rel=1e-6)
        assert found[history.dir].mean == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(("offset", "spread", "dtype"), [(300.0, 1.0, "float32"), (4096.0, 2.0**-4, "float16")])
def test_coverage_far_from_zero_is_what_a_double_loop_finds(
    tmp_path: Path, offset: float, spread: float, dtype: Dtype
) -> None:
    """4096 against 4096.25: in float32 without centring, the squares of such numbers leave nothing of the distance."""
    config = config_of(tmp_path)
    arrays = dict(np.load(tmp_path / "e.npz"))
    arrays["features"] = (np.round(arrays["features"] * 64) / 64 * spread + offset).astype(np.float32)
    np.savez(tmp_path / "e.npz", **arrays)
    run(replace(config, {"features.dtype": dtype}), quiet=True)
    (history,) = load_all([str(tmp_path / "runs")])
    table = history.files.round(0).selected_by()
    stored = table.embedding(table.rows).astype(np.float64)
    assert np.ptp(stored) > 0
    found = cover([history])[0][history.dir]
    radius, mean = slow_coverage(stored, history, pool_of(history))
    assert min(radius) > 0
    assert found.radius == pytest.approx(radius, rel=1e-6)
    assert found.mean == pytest.approx(mean, rel=1e-6)


def pool_of(history: RunHistory) -> np.ndarray:
    splits = Store(history.dir).read_table("splits.parquet").to_pylist()
    held_out = {item["row"] for item in splits if item["role"] == "held_out"}
    return np.array([row for row in range(240) if row % 4 and row not in held_out])


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random sampling from a drawn seed set, and k-center from one that k-means chose; two seeds each."""
    path = tmp_path_factory.mktemp("cold")
    for seed in (0, 1):
        run(replace(config_of(path), {"strategy": "random", "seed": seed}), quiet=True)
        changed = {"strategy": "k_center", "seed": seed, "split.seed_set_how": "k_means"}
        run(replace(config_of(path), changed), quiet=True)
    report([str(path / "runs")])
    return path


def test_coverage_counts_a_seed_set_that_was_chosen(cold: Path) -> None:
    runs = load_all([str(cold / "runs")])
    found, left_out = cover(runs)
    assert (len(found), left_out) == (4, "")
    x = np.load(cold / "e.npz")["features"].astype(np.float64)
    for history in runs:
        radius, mean = slow_coverage(x, history, pool_of(history))
        assert found[history.dir].radius == pytest.approx(radius, rel=1e-6)
        assert found[history.dir].mean == pytest.approx(mean, rel=1e-6)


def test_a_cold_start_belongs_to_the_strategy(cold: Path) -> None:
    lines = panel(load_all([str(cold / "runs")]))
    assert (lines.settings, lines.methods) == (("",), ("random", "k_center, seed_set k_means"))
    assert lines.paired("", "k_center, seed_set k_means", "random", "test_top1") is not None
    html = (cold / "runs" / "report.html").read_text()
    assert "k_center, seed_set k_means: no difference to random shown" in html
    assert "seed_set: how a strategy chose its seed set itself" in html


def test_a_column_of_settings_is_shown_where_there_are_several(folder: Path, cold: Path) -> None:
    shown = [">setting</th>" in (path / "runs" / "report.html").read_text() for path in (folder, cold)]
    assert shown == [True, False]


def test_seed_set_and_hash_of_the_picks_know_the_cold_start(cold: Path, tmp_path: Path) -> None:
    chosen = next(one for one in load_all([str(cold / "runs")]) if one.strategy == "k_center")
    table = Store(chosen.dir).read_table("seed_set.parquet")
    assert chosen.files.seed_set().tolist() == sorted(table["row"].to_pylist())
    copied = load(shutil.copytree(chosen.dir, tmp_path / "copy").as_posix())
    assert picks_hash(copied) == picks_hash(chosen)
    Store(copied.dir).write_table("seed_set.parquet", table.take(list(range(len(table)))[::-1]))
    assert picks_hash(copied) != picks_hash(chosen)
    Store(copied.dir).delete("seed_set.parquet")
    with pytest.raises(Missing, match="has no record of its seed set"):
        copied.files.seed_set()
    Store(copied.dir).delete("splits.parquet")
    with pytest.raises(Missing, match="has no record of its seed set and validation set"):
        copied.files.seed_set()


def test_without_a_seed_set_coverage_is_left_out(cold: Path, tmp_path: Path) -> None:
    for name in ("features", "catalogs"):
        shutil.copytree(cold / "runs" / name, tmp_path / name)
    chosen = next(one for one in load_all([str(cold / "runs")]) if one.strategy == "k_center")
    copied = load(shutil.copytree(chosen.dir, tmp_path / "copy").as_posix())
    Store(copied.dir).delete("seed_set.parquet")
    assert cover([copied]) == ({}, "1 of 1 runs left out: the run has no record of its seed set")


def test_coverage_that_is_too_much_or_gone_is_left_out_and_said_so(folder: Path) -> None:
    runs = load_all([str(folder / "runs")])
    few, said = cover(runs, most_products=168 * 30 * 4 * 3)
    assert 0 < len(few) < 8
    assert "runs left out: there are too many distances" in said
    assert {load(path).seed for path in few} == {0}
    gone = [RunHistory(**{**vars(runs[0]), "dir": str(folder / "nowhere")})]
    assert "1 of 1 runs left out: the run has no record of where its embeddings are" in cover(gone)[1]


def write_image_run(folder: Path, classes: tuple[str, str] = ("dog", "cat")) -> str:
    """A run as it lies on disk, on 12 real images of 2 classes: 4 labeled at first, 6 bought."""
    for number in range(12):
        path = folder / "images" / "train" / classes[number % 2] / f"{number:02d}.png"
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


def test_a_run_stores_what_its_model_predicted_before_the_labels(folder: Path) -> None:
    history = next(one for one in load_all([str(folder / "runs")]) if one.strategy == "k_center")
    x = np.load(folder / "e.npz")["features"].astype(np.float64)
    steps = list(history.files.bought())
    assert len(steps) == 2
    for step in steps:
        assert step.round is not None and step.predicted is not None and step.probability is not None
        head = history.files.round(step.round).head()
        logits = x[step.rows] @ head.weight.T.astype(np.float64) + head.bias
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert step.predicted.tolist() == p.argmax(axis=1).tolist()
        np.testing.assert_allclose(step.probability, p.max(axis=1), rtol=1e-4)


PREDICTED, PROBABILITY = [1, 1, 1, 0, 0, 1], [0.6, 0.9, 0.7, 0.55, 0.95, 0.8]


def predict(uri: str) -> None:
    """Add what the model had predicted for the six picks, in their order of choice; their labels are 0, 1, 0, 1, 0, 1
    or the other way round."""
    out = Store(uri).child("round_00")
    table = out.read_table("labels.parquet")
    table = table.append_column("predicted", pa.array(PREDICTED, pa.int32()))
    out.write_table("labels.parquet", table.append_column("probability", pa.array(PROBABILITY)))


def test_the_gallery_shows_the_models_mistakes_first(tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    predict(uri)
    found = gallery(panel([load(uri)]))
    assert (found.notes, found.predicted) == ((), True)
    (wall,) = found.walls
    labels = Store(uri).child("round_00").read_table("labels.parquet")["label"].to_pylist()
    wrong = [label != guess for label, guess in zip(labels, PREDICTED, strict=True)]
    assert (wall.round, wall.labels, wall.of, wall.wrong) == (0, 4, 6, sum(wrong))
    assert 0 < sum(wrong) < 6
    shown = [(picture.wrong, picture.probability) for picture in wall.pictures]
    mistakes = sorted((p for p, miss in zip(PROBABILITY, wrong, strict=True) if miss), reverse=True)
    right = sorted(p for p, miss in zip(PROBABILITY, wrong, strict=True) if not miss)
    assert shown == [*((True, p) for p in mistakes), *((False, p) for p in right)]
    names = load(uri).classes
    by_score = {round(5 * picture.score): picture for picture in wall.pictures}
    for at in range(6):
        picture = by_score[5 - at]
        assert (picture.given, picture.predicted) == (names[labels[at]], names[PREDICTED[at]])
        assert f"/{names[labels[at]]}/" in picture.key
        assert picture.why == f"pick {at + 1} of 6"
    report([uri])
    html = Path(uri, "report.html").read_text()
    assert f"Picked with 4 labels, round 0: 6 pictures; the model was wrong on {sum(wrong)} of 6" in html
    assert html.count('class="picture wrong"') == sum(wrong) and html.count("✗ ") == sum(wrong) + 1  # and its meaning


def test_runs_that_stored_no_predictions_show_the_given_label(tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    found = gallery(panel([load(uri)]))
    assert not found.predicted and found.walls[0].wrong is None
    scores = [picture.score for picture in found.walls[0].pictures]
    assert scores == sorted(scores, reverse=True)  # the order of choice
    report([uri])
    html = Path(uri, "report.html").read_text()
    assert "6 pictures, in the order of choice (no predictions of the model are known)" in html and "✗" not in html
    assert "with the label that was given" in html


def test_the_gallery_comes_after_the_curves_and_before_everything_else(tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    report([uri])
    assert re.findall("<h2>(.*?)</h2>", Path(uri, "report.html").read_text())[:3] == [
        "Learning curves", "Pictures of the picks", "Labels per class",
    ]  # fmt: skip


def test_without_any_accuracy_there_are_pictures_first(tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    predict(uri)
    rewrite(uri, 0, test=None)
    report([uri])
    html = Path(uri, "report.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", html)[0] == "Pictures of the picks"
    assert html.count("data:image/webp") == 6


def test_thumbnails_are_in_the_page_and_small(tmp_path: Path) -> None:
    import base64
    import io

    uri = write_image_run(tmp_path)
    report([uri])
    html = Path(uri, "report.html").read_text()
    found = [base64.b64decode(text) for text in re.findall(r'src="data:image/webp;base64,([^"]+)"', html)]
    assert len(found) == 6
    assert {Image.open(io.BytesIO(data)).size for data in found} == {(100, 50)}
    noise = np.random.default_rng(0).integers(0, 255, (600, 900, 3), np.uint8)
    large = base64.b64decode(encoded(Image.fromarray(noise)).partition(",")[2])
    assert Image.open(io.BytesIO(large)).size == (160, 107)
    assert len(large) < 14_000  # noise is the worst case; photographs take a third
    tiny = Image.fromarray(noise[:8, :8])
    stored = Image.open(io.BytesIO(base64.b64decode(encoded(tiny).partition(",")[2])))
    assert (np.asarray(stored.convert("RGB")) == noise[:8, :8]).all()


def test_a_page_has_a_bounded_number_of_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    out = Store(uri).child("round_00")
    for number in (1, 2, 3):
        folder = Store(uri).child(f"round_{number:02d}")
        for name in ("picks.parquet", "labels.parquet"):
            folder.write_table(name, out.read_table(name))
        folder.write_json("metrics.json", {**out.read_json("metrics.json"), "round": number, "labels": 4 + number})
    monkeypatch.setattr("alray.report.gallery.MOST", 10)
    monkeypatch.setattr("alray.report.gallery.LEAST", 5)
    found = gallery(panel([load(uri)]))
    assert [(wall.round, len(wall.pictures)) for wall in found.walls] == [(0, 5), (3, 5)]
    assert found.notes == ("margin: pictures of 2 of 4 rounds are shown.",)


def test_names_that_users_chose_are_shown_as_text(tmp_path: Path) -> None:
    """Classes, image keys, run names, options and errors: none of them is markup, mathematics or a script."""
    uri = write_image_run(tmp_path, ('<b title="x">dog', "<script>cat<"))
    store = Store(uri)
    store.write_json("run.json", {**store.read_json("run.json"), "name": "<i>'run'&"})
    trial = {"run": "<u>x", "status": "failed", "rounds": 0, "of": 1, "fields": {"lr": "<u>1"}, "error": "<u>no disk"}
    Store(str(tmp_path / "runs")).write_json("sweep.json", {"scheduler": "none", "trials": [trial]})
    report([str(tmp_path / "runs")])
    html = (tmp_path / "runs" / "report.html").read_text()
    page = Page(html)
    assert page.open == []
    assert not {"b", "script", "u"} & page.tags
    for shown in (
        "&lt;b title=&#34;x&#34;&gt;dog",
        "&lt;i&gt;&#39;run&#39;&amp;: labels chosen by",
        "&lt;u&gt;no disk",
    ):
        assert shown in html, shown


def test_a_strategy_may_be_called_anything(tmp_path: Path) -> None:
    lines = [f'"<b>$\\frac$ & {name}",{seed},{n},0.{3 + seed}{n}' for name in "xy" for seed in (0, 1) for n in (10, 20)]
    (tmp_path / "curves.csv").write_text("\n".join(["strategy,seed,labels,test_top1", *lines]))
    report([str(tmp_path / "curves.csv")], str(tmp_path))
    page = Page((tmp_path / "report.html").read_text())
    assert page.open == [] and "b" not in page.tags
    drawn = stages_chart({"<b>$\\frac$ & x": {"train": 1.0}})
    assert "&lt;b&gt;$\\frac$ &amp; x" in drawn


def test_images_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    Store(str(tmp_path)).delete("images")
    found = gallery(panel([load(uri)]))
    assert not found.walls and "the images do not exist any more" in found.notes[0]


def test_a_cold_start_opens_the_gallery(tmp_path: Path) -> None:
    uri = write_image_run(tmp_path)
    start = Picks(np.array([2, 0, 3, 1]), np.array([0.9, 0.8, 0.7, 0.6])).to_table()
    Store(uri).write_table("seed_set.parquet", start.append_column("label", pa.array([1, 1, 0, 0], pa.int32())))
    walls = gallery(panel([load(uri)])).walls
    assert [(wall.round, wall.of) for wall in walls] == [(None, 4), (0, 6)]
    assert [(picture.given, picture.score) for picture in walls[0].pictures] == [
        ("dog", 0.9), ("dog", 0.8), ("cat", 0.7), ("cat", 0.6),
    ]  # fmt: skip
    report([uri])
    said = "Seed set that it chose before any training: 4 pictures, in the order of choice"
    assert said in Path(uri, "report.html").read_text()


def timed(folder: Path, strategy: str, seed: int, first: dict[str, float], **changes: object) -> None:
    """Two rounds; the second takes 2 seconds of training and nothing else."""
    uri = write_run(folder, strategy, seed, 2, **changes)
    for number, seconds in enumerate((first, {"train": 2.0})):
        rewrite(uri, number, seconds=seconds)


def test_time_has_every_stage_and_what_is_shared_in_full(tmp_path: Path) -> None:
    setting = {"train.mode": "linear", "resources.extract_actors": 3, "resources.train_workers": 4}
    timed(tmp_path, "random", 0, {"extract": 10.0, "train": 1.0}, **setting)  # the first run extracts for all
    timed(tmp_path, "random", 1, {"extract": 0.0, "train": 1.0}, **setting)
    timed(tmp_path, "base", 0, {"train": 1.0, "pretext": 5.0, "vaal": 0.5, "audit": 7.0}, **setting)
    parts = timing_section_parts(panel(load_all([str(tmp_path)])), "test_top1")
    assert parts.table.head[2:-2] == ("pretext (s)", "extract (s)", "train (s)", "vaal (s)", "audit (s)")
    assert dict(parts.stages["random"]) == {"pretext": 0, "extract": 10, "train": 3, "vaal": 0, "audit": 0}
    assert dict(parts.stages["base"]) == {"pretext": 5, "extract": 10, "train": 3, "vaal": 0.5, "audit": 7}
    busy = {method: seconds.tolist() for method, (seconds, _) in parts.costs[""].items()}
    assert busy == {"random": [31, 33], "base": [31 + 4 * 5.5, 33 + 4 * 5.5]}


def test_time_of_fine_tuning_is_each_runs_own(tmp_path: Path) -> None:
    timed(tmp_path, "random", 0, {"extract": 10.0, "train": 1.0}, **{"resources.train_workers": 2})
    timed(tmp_path, "base", 0, {"extract": 4.0, "train": 1.0}, **{"resources.train_workers": 2})
    parts = timing_section_parts(panel(load_all([str(tmp_path)])), "test_top1")
    assert {method: seconds["extract"] for method, seconds in parts.stages.items()} == {"random": 10, "base": 4}
    assert {m: s.tolist() for m, (s, _) in parts.costs[""].items()} == {"random": [12, 16], "base": [6, 10]}


def test_a_legend_counts_the_seeds_of_a_setting(tmp_path: Path) -> None:
    """Four different seeds, but no setting has more than two."""
    runs = [write_run(tmp_path, "random", seed, budget=50) for seed in (0, 1)]
    runs += [write_run(tmp_path, "base", seed, budget=50) for seed in (0, 1)]
    runs += [write_run(tmp_path, "random", seed, budget=60, name="u") for seed in (2, 3)]
    runs += [write_run(tmp_path, "base", 2, budget=60, name="u")]
    report(runs, str(tmp_path / "out"))
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<span>random <small>2 seeds</small></span>" in html
    assert "<span>base <small>1 to 2 seeds</small></span>" in html
    assert "<dt>Seeds</dt><dd>1 to 2 per strategy: 0 to 3</dd>" in html
    assert "<dt>Settings</dt><dd>2: budget 50; budget 60</dd>" in html
