"""Reports on segmentation: mIoU comes first, everything is of pixels, and nothing asks for the class of an image."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from test_report import metrics_of, write_run

from alray.data.catalog import index
from alray.report import ReportError, report
from alray.report.analysis import analyse
from alray.report.classes import classes_section
from alray.report.gallery import gallery
from alray.report.metrics import metric, metrics
from alray.report.panel import Panel, panel
from alray.report.picture import upper_metrics
from alray.report.runs import IMAGES, PIXELS, load, load_all
from alray.selection.protocol import Picks
from alray.store import Store

SEGMENTATION = {"task": "segmentation", "transform.resize": 0}
COUNTS = [900_000, 400_000, 30_000, 900, 0]


def write_segmentation(
    folder: Path, strategy: str, seed: int, gain: float = 0.0, rounds: int = 3, **changes: object
) -> str:
    """Pixel accuracy falls by as much as mIoU gains, so that a comparison by the wrong one is seen."""
    uri = write_run(folder, strategy, seed, 0, **SEGMENTATION, **changes)
    noise = np.random.default_rng([seed, len(strategy)]).normal(0, 0.002, rounds)
    for number in range(rounds):
        metrics = metrics_of(number, "random", seed)
        level = 0.3 + 0.1 * number + float(noise[number]) + 0.01 * seed
        test = {
            "top1": 0.4 + level - gain, "balanced_accuracy": 0.1 + level, "miou": level + gain,
            "per_class_accuracy": [0.5] * 5, "per_class_iou": [0.4] * 5,
            "worst_classes": [{"class": "class3", "accuracy": 0.1}], "best_classes": [], "num_images": 20,
        }  # fmt: skip
        labeled = {"counts": COUNTS, "max_min_ratio": None, "normalised_entropy": 0.6, "kl_to_pool": None,
                   "empty_classes": 1}  # fmt: skip
        out = Store(uri).child(f"round_{number:02d}")
        out.write_json("metrics.json", {**metrics, "strategy": strategy, "test": test, "labeled_set": labeled})
    return uri


def written(folder: Path, seeds: int = 6) -> Panel:
    for seed in range(seeds):
        for strategy, gain in (("entropy", 0.05), ("random", 0.0)):
            write_segmentation(folder, strategy, seed, gain)
    return panel(load_all([str(folder)]))


def scalars(lines: Panel, chosen: str = "") -> list[str]:
    return [one.scalar for one in metrics(lines, chosen)]


def test_miou_is_what_runs_are_compared_by(tmp_path: Path) -> None:
    lines = written(tmp_path)
    assert lines.counted is PIXELS
    assert scalars(lines) == ["test_miou", "test_top1"]
    assert scalars(lines, "test_balanced_accuracy") == ["test_balanced_accuracy", "test_miou", "test_top1"]
    assert re.match(r"entropy: better than random; \+(4\.9|5\.0)", analyse(lines, metrics(lines)[0].scalar).verdicts[0])
    assert re.search(r"entropy +6 +-(4\.9|5\.0).* worse ", report([str(tmp_path)], measure="test_top1"))
    assert re.search(r"entropy +6 +\+(4\.9|5\.0).* better ", report([str(tmp_path)]))


def test_every_text_says_what_the_numbers_are_of(tmp_path: Path) -> None:
    written(tmp_path)
    text = report([str(tmp_path)])
    html, markdown = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    for words in (
        "<dt>Measure</dt><dd>test mIoU</dd>", "mIoU (%)", "pixel accuracy (%)", "points of mIoU over random",
        "last mIoU %", "labels random needs for the same mIoU", "mIoU against worker time",
        "Area under the budget curve, test pix",
        "labeled pixels per class after the last round, sorted", "class, most pixels first",
        "classes without a labeled pixel",
    ):  # fmt: skip
        assert words in html, words
    for words in ("mIoU %", "pixel %", "class %", "mean intersection over union"):
        assert words in text and words in markdown, words
    assert "worst classes of the last round by accuracy of their pixels: class3" in markdown
    for wrong in ("top-1", "balanced accuracy", "KL", "classes without a labeled image"):
        assert not [name for name, said in (("page", html), ("terminal", text), ("md", markdown)) if wrong in said], (
            wrong
        )


def test_the_csv_has_miou(tmp_path: Path) -> None:
    lines = written(tmp_path, seeds=2)
    report([str(tmp_path)])
    records = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    values = [line.scalars["test_miou"][2] for line in lines.lines if line.strategy == "entropy"]
    (last,) = [record for record in records if (record["strategy"], record["round"]) == ("entropy", "2")]
    assert float(last["test_miou"]) == pytest.approx(np.mean([value for value in values if value]))
    assert float(last["test_miou_std"]) > 0
    assert "labeled_kl_to_pool" not in last


@pytest.mark.parametrize(
    ("scalar", "name", "axis"),
    [
        ("test_miou", "test mIoU", "mIoU (%)"),
        ("test_top1", "test pixel accuracy", "pixel accuracy (%)"),
        ("test_balanced_accuracy", "test class accuracy", "class accuracy (%)"),
        ("validation_top1", "validation pixel accuracy", "pixel accuracy (%)"),
    ],
)
def test_names_in_segmentation(scalar: str, name: str, axis: str) -> None:
    assert (metric(scalar, PIXELS).name, metric(scalar, PIXELS).axis) == (name, axis)


def test_names_in_classification() -> None:
    names = ("test_top1", "test_top5", "test_balanced_accuracy", "validation_top1", "labeled_normalised_entropy")
    assert [metric(name, IMAGES).name for name in names] == [
        "test top-1 accuracy", "test top-5 accuracy", "test balanced accuracy", "validation top-1 accuracy",
        "class entropy of the labeled set",
    ]  # fmt: skip


def test_the_picture_shows_miou_and_pixel_accuracy(tmp_path: Path) -> None:
    written(tmp_path / "pixels", seeds=1)
    write_run(tmp_path / "images", "base", 0)
    shown = {name: upper_metrics(panel(load_all([str(tmp_path / name)]))) for name in ("pixels", "images")}
    assert [one.scalar for one in shown["pixels"]] == ["test_miou", "test_top1"]
    assert [one.axis for one in shown["images"]] == ["top-1 accuracy (%)", "balanced accuracy (%)"]


def test_without_test_images_pixels_of_the_validation_set_count(tmp_path: Path) -> None:
    uri = write_segmentation(tmp_path, "random", 0)
    for number in range(3):
        out = Store(uri).child(f"round_{number:02d}")
        out.write_json("metrics.json", {**out.read_json("metrics.json"), "test": None})
    lines = panel([load(uri)])
    assert lines.counted is PIXELS and scalars(lines) == ["validation_top1"]
    report([uri])
    assert "validation pixel accuracy" in Path(uri, "report.html").read_text()
    assert upper_metrics(lines)[0].name == "validation pixel accuracy"


def test_both_tasks_in_one_report_are_refused(tmp_path: Path) -> None:
    one, other = write_segmentation(tmp_path, "random", 0), write_run(tmp_path, "base", 0)
    with pytest.raises(ReportError, match=rf"one task.*got classification \({other}\) and segmentation \({one}\)"):
        report([str(tmp_path)])
    assert not (tmp_path / "report.png").exists()


def test_curves_of_somebody_else_with_miou(tmp_path: Path) -> None:
    lines = ["strategy,seed,labels,test_miou,test_top1"]
    lines += [f"{name},{seed},{n},0.{3 + seed}{n},0.8" for name in ("random", "x") for seed in (0, 1) for n in (10, 20)]
    (tmp_path / "curves.csv").write_text("\n".join(lines))
    text = report([str(tmp_path / "curves.csv")], str(tmp_path / "out"))
    assert "Area under the budget curve, test pixel accuracy" in text
    assert "points of mIoU over random" in (tmp_path / "out" / "report.html").read_text()


NAMES = ["sky", "road", "car", "tree", "void"]


def write_scenes(folder: Path) -> str:
    """A run of segmentation on 8 images of 400 x 200: 2 labeled by a cold start, 4 bought; labels mean nothing. The
    left half of every mask is road, the right half counts for nothing."""
    mask = np.full((200, 400), 255, np.uint8)
    mask[:, :200] = 1
    for number in range(8):
        for kind, pixels in (("images", np.full((200, 400, 3), (30 * number, 90, 0), np.uint8)), ("masks", mask)):
            path = folder / kind / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    catalog = index(str(folder / "images"), str(folder / "catalog"), classes=NAMES)
    data = {"data.root": str(folder / "images"), "data.mask_root": str(folder / "masks"), "data.classes": NAMES}
    uri = write_segmentation(folder / "runs", "entropy", 0, rounds=2, **data)
    store, labels = Store(uri), pa.array([0, 1, 0, 1], pa.int32())
    about = store.read_json("run.json")
    about["identity"]["data_fingerprint"] = catalog.fingerprint
    store.write_json("run.json", {**about, "classes": list(catalog.classes), "catalog": catalog.uri})
    store.write_table("splits.parquet", pa.table({"row": pa.array([], pa.int64()), "role": pa.array([], pa.string())}))
    start = Picks(np.array([7, 1]), np.array([0.9, 0.2])).to_table()
    store.write_table("seed_set.parquet", start.append_column("label", labels[:2]))
    rows = np.array([4, 0, 3, 6])
    out = store.child("round_00")
    out.write_table("picks.parquet", Picks(rows, np.array([0.8, 0.7, 0.6, 0.5])).to_table())
    out.write_table("labels.parquet", pa.table({"row": rows, "label": labels}))
    return uri


def pixels_of(uri: str) -> np.ndarray:
    found = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(found.convert("RGB"), int)


def test_the_gallery_shows_images_in_the_order_of_choice_with_their_masks(tmp_path: Path) -> None:
    uri = write_scenes(tmp_path)
    found = gallery(panel([load(uri)]))
    assert (found.notes, found.predicted) == ((), False)
    assert [(wall.round, wall.of, wall.wrong) for wall in found.walls] == [(None, 2, None), (0, 4, None)]
    pictures = found.walls[1].pictures
    assert [(picture.key, picture.score, picture.given) for picture in pictures] == [
        ("04.png", 0.8, ""), ("00.png", 0.7, ""), ("03.png", 0.6, ""), ("06.png", 0.5, ""),
    ]  # fmt: skip
    assert [name for name, _ in found.legend] == NAMES and len({color for _, color in found.legend}) == 5
    road = np.array([int(dict(found.legend)["road"][at : at + 2], 16) for at in (1, 3, 5)])
    plain, over = pixels_of(pictures[0].image.uri), pixels_of(pictures[0].image.overlay)
    assert plain.shape == over.shape == (80, 160, 3)
    left, right = (over[10:70, part].mean(axis=(0, 1)) for part in (slice(5, 75), slice(85, 155)))
    assert np.abs(left - (0.4 * np.array([120, 90, 0]) + 0.6 * road)).max() < 8
    assert np.abs(right - [120, 90, 0]).max() < 8
    report([uri])
    html = Path(uri, "report.html").read_text()
    assert "The images whose masks were bought, each with the mask that was given" in html
    assert "Seed set that it chose before any training: 2 pictures, in the order of choice" in html
    assert html.count("data:image/webp") == 2 * 6
    assert "the model was fine-tuned" in html  # why there is no coverage


@pytest.mark.parametrize(("gone", "why"), [("masks", "cannot be read any more"), ("config.json", "cannot be found")])
def test_without_masks_there_are_still_pictures(gone: str, why: str, tmp_path: Path) -> None:
    uri = write_scenes(tmp_path)
    Store(uri if gone.endswith("json") else str(tmp_path)).delete(gone)
    found = gallery(panel([load(uri)]))
    assert len(found.notes) == 1 and found.notes[0].startswith("Masks are not drawn") and why in found.notes[0]
    assert [len(wall.pictures) for wall in found.walls] == [2, 4]
    assert not any(picture.image.overlay for wall in found.walls for picture in wall.pictures)


def test_classes_are_compared_by_their_union(tmp_path: Path) -> None:
    uri = write_segmentation(tmp_path, "entropy", 0)
    out = Store(uri).child("round_02")
    metrics = out.read_json("metrics.json")
    test = {**metrics["test"], "per_class_iou": [0.5, None, 0.25, 0.9, 0.1], "per_class_count": [3e6, 0, 40, 5, 7]}
    out.write_json("metrics.json", {**metrics, "test": test})
    part = classes_section(panel([load(uri)]))
    assert part.title == "IoU per class" and "1 of 5 classes have no test pixel" in part.notes[1]
    (table,) = part.tables
    assert table.head == ("setting", "class", "test pixels", "entropy %", "entropy labels")
    assert [row[1:] for row in table.rows] == [
        ("class4", "7", "10.0", "0"), ("class2", "40", "25.0", "30,000"), ("class0", "3.0 M", "50.0", "900,000"),
        ("class3", "5", "90.0", "900"),
    ]  # fmt: skip
