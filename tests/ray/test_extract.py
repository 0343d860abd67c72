from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from alray.config import FeatureConfig, ModelConfig, PretextConfig, TransformConfig
from alray.data.catalog import Catalog, index
from alray.data.fetch import ImageError
from alray.features.arrays import PRETEXT_LOSS
from alray.features.extract import Measurers, extract
from alray.features.measures import Extraction, Features, ModelSource
from alray.features.table import FeatureError, part_name, read_part
from alray.models.backbone import embed_images
from alray.reservation import Share
from alray.store import Store
from alray.train.pretext import PretextLosses, fresh

pytestmark = pytest.mark.usefixtures("ray_session")
MODEL = ModelConfig(backbone="resnet18", options={"channels": [16, 16, 16, 16]}, small_stem=True)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    rng = np.random.default_rng(0)
    for number in range(50):
        path = tmp_path / "images" / f"class{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(path)
    return index(str(tmp_path / "images"), str(tmp_path / "catalog"))


def extraction(catalog: Catalog, rows: np.ndarray) -> Extraction:
    return Extraction(
        catalog,
        rows,
        Features(
            ModelSource(MODEL, 3, seed=1, weights="", weights_id="fresh", image_size=16),
            TransformConfig(size=16, train="crop_pad", resize=0),
            FeatureConfig(dtype="float32", batch_size=8),
            with_logits=True,
        ),
        part_rows=16,
    )


def test_extraction_equals_the_model_and_goes_on_where_it_was_killed(catalog: Catalog, tmp_path: Path) -> None:
    rows = np.arange(1, 50)
    plan = extraction(catalog, rows)
    out = Store(str(tmp_path / "features"))
    seen: list[int] = []
    table = extract(plan, out, measurers=Measurers(2), decode_cpus=1, advance=lambda rows, note: seen.append(rows))
    assert sum(seen) == 49

    transform = plan.measure.transform
    keys = catalog.keys(rows).to_pylist()
    images = [transform(Image.open(tmp_path / "images" / key).convert("RGB"), 0, 0) for key in keys]
    embedding, logits = embed_images(plan.measure.model.load(), np.stack(images), 8, torch.device("cpu"))
    np.testing.assert_allclose(table.read(rows, "embedding"), embedding, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table.read(rows, "logits"), logits, rtol=1e-5, atol=1e-6)
    assert table.rows.tolist() == rows.tolist()

    before = {number: read_part(out, number)[1]["embedding"].copy() for number in range(4)}
    kept = (tmp_path / "features" / part_name(0)).stat().st_mtime_ns
    for name in ("manifest.json", "index.parquet", part_name(1), part_name(3)):
        out.delete(name)
    again = extract(plan, out, measurers=Measurers(1), decode_cpus=1)
    assert (tmp_path / "features" / part_name(0)).stat().st_mtime_ns == kept
    for number in range(4):
        assert np.array_equal(read_part(out, number)[1]["embedding"], before[number])
    assert again.manifest == table.manifest

    with pytest.raises(FeatureError, match="got other features"):
        extract(replace(plan, rows=rows[1:]), out, measurers=Measurers(1), decode_cpus=1)


def numbers(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("part-*"))]


def processes(measurers: Measurers) -> list[int]:
    """Process ids of the actors, two of them."""
    return ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in measurers.actors])


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def until(holds: Callable[[], bool]) -> bool:
    """Whether something becomes true within a minute: Ray ends processes and counts CPUs in the background."""
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


def test_actors_stay_between_extractions_and_a_killed_one_costs_time_only(catalog: Catalog, tmp_path: Path) -> None:
    measurers, rows = Measurers(2), np.arange(50)
    plan = replace(extraction(catalog, rows), part_rows=4)
    said = list[str]()
    share = Share("x", 3, said.append)
    extract(plan, Store(str(tmp_path / "first")), measurers=measurers, decode_cpus=1, share=share)
    assert said == []
    first, second = processes(measurers)

    def kill(rows: int, note: str) -> None:
        if rows and alive(first):
            os.kill(first, signal.SIGKILL)

    extract(plan, Store(str(tmp_path / "second")), measurers=measurers, decode_cpus=1, share=share, advance=kill)
    assert len(said) == 1
    assert re.match(r"extract · lost a process, whose work is repeated: its process died .*SIGKILL", said[0])
    assert numbers(tmp_path / "second") == numbers(tmp_path / "first")
    assert len(numbers(tmp_path / "first")) == 13
    restarted, kept = processes(measurers)
    assert kept == second
    assert restarted != first
    assert until(lambda: ray.available_resources().get("CPU") == 4)  # at rest they hold none: training waits for all
    del measurers
    assert until(lambda: not alive(kept) and not alive(restarted))


@pytest.mark.parametrize("seconds", [6, pytest.param(80, marks=pytest.mark.slow)])
def test_an_actor_that_stands_still_is_waited_for(seconds: float, catalog: Catalog, tmp_path: Path) -> None:
    measurers, plan = Measurers(2), replace(extraction(catalog, np.arange(50)), part_rows=4)
    extract(plan, Store(str(tmp_path / "first")), measurers=measurers, decode_cpus=1)
    before, waiting = processes(measurers), list[threading.Timer]()

    def stop(rows: int, note: str) -> None:
        if not waiting:  # before anything is given to the actors: later the stopped one might have no more to do
            os.kill(before[0], signal.SIGSTOP)
            waiting.append(threading.Timer(seconds, lambda: os.kill(before[0], signal.SIGCONT)))
            waiting[0].start()

    began, said = time.monotonic(), list[str]()
    share = Share("x", 3, said.append)
    extract(plan, Store(str(tmp_path / "second")), measurers=measurers, decode_cpus=1, share=share, advance=stop)
    assert numbers(tmp_path / "second") == numbers(tmp_path / "first")
    assert time.monotonic() - began > seconds
    told = [bool(re.match(r"extract · no part was finished for 6\d s, on [\d.]+", line)) for line in said]
    assert told == [True] * (seconds > 60)
    assert processes(measurers) == before


def test_a_broken_image_is_named(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "images/class1/004.png").write_bytes(b"\x89PNG nothing")
    plan = extraction(catalog, np.arange(50))
    with pytest.raises(ImageError, match=r"class1/004.png"):
        extract(plan, Store(str(tmp_path / "features")), measurers=Measurers(1), decode_cpus=1)
    assert not (tmp_path / "features" / "manifest.json").exists()


def test_the_fingerprint_names_everything_that_changes_a_number(catalog: Catalog) -> None:
    plan = extraction(catalog, np.arange(50))
    measure = plan.measure
    assert isinstance(measure, Features)
    others = [
        replace(plan, rows=np.arange(49)),
        replace(plan, part_rows=8),
        replace(plan, measure=replace(measure, config=TransformConfig(size=24, resize=0))),
        replace(plan, measure=replace(measure, config=TransformConfig(size=16, resize=32))),
        replace(plan, measure=replace(measure, features=FeatureConfig(dtype="float16"))),
        replace(plan, measure=replace(measure, model=replace(measure.model, weights_id="other"))),
        replace(plan, measure=replace(measure, model=replace(measure.model, seed=2))),
        replace(plan, measure=replace(measure, with_logits=False)),
    ]
    marks = [other.fingerprint for other in [plan, *others]]
    assert len(set(marks)) == len(marks)
    assert plan.fingerprint == extraction(catalog, np.arange(50)).fingerprint


def test_a_pretext_loss_is_an_images_own(catalog: Catalog, tmp_path: Path) -> None:
    """However many actors there are and however the images are cut into parts: to the last bit."""
    config, image = PretextConfig(task="rotation"), TransformConfig(size=16, resize=0)
    torch.save(fresh(config, MODEL, image, 3).state_dict(), tmp_path / "weights.pt")
    measure = PretextLosses(config, MODEL, image, 3, str(tmp_path / "weights.pt"), "x")
    found = []
    for actors, part_rows in ((1, 50), (2, 7)):
        plan = Extraction(catalog, np.arange(50), measure, part_rows)
        out = Store(str(tmp_path / f"losses-{actors}"))
        found.append(extract(plan, out, measurers=Measurers(actors), decode_cpus=1).read(np.arange(50), PRETEXT_LOSS))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.ptp(found[0]) > 0
