"""What alray itself wrote below a source is no part of the source, and is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import image_sources
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alray.data.catalog import Catalog, index
from alray.data.origin import look
from alray.data.sources.kinds import kind_of
from alray.data.sources.listing import listing

FINISHED = Path(__file__).parent.parent / "fixtures" / "finished"
KINDS: dict[str, Callable[[list[image_sources.Item], Path], str]] = {
    "folder": image_sources.folder,
    "parquet": image_sources.parquet,
    "webdataset": image_sources.tars_by_directory,
}


def keys(catalog: Catalog) -> list[str]:
    return catalog.keys().to_pylist()  # type: ignore[no-any-return]


def own_files(folder: Path) -> int:
    """How many files alray wrote directly in a folder, whatever else is there."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    return len(names & {"meta.json", "catalog.parquet", "problems.parquet", "files.parquet", "alray-checksums.json"})


@pytest.mark.parametrize("place", [".", "train", "train/a", "a", "images/a", "z/deep/er"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_catalog_inside_its_source_is_not_read_as_images(kind: str, place: str, tmp_path: Path) -> None:
    """And the images beside it are not left out with it."""
    source = tmp_path / "source"
    KINDS[kind](image_sources.items(), source)
    first = index(str(source), str(source / place), check="none", yes=True)
    assert not any("what alray wrote" in note for note in first.notes())
    again = index(str(source), str(tmp_path / "again"), check="none", yes=True)
    assert (again.format, again.fingerprint, keys(again)) == (kind, first.fingerprint, keys(first))
    files, where = own_files(source / place), "the folder itself" if place == "." else place
    assert f"left out: {files} files in what alray wrote (catalogs, features, runs): {where}" in again.notes()
    assert look(first) == []
    over = index(str(source), str(source / place), check="none", yes=True)
    assert (over.fingerprint, keys(over)) == (first.fingerprint, keys(first))


def test_runs_and_features_below_a_source_are_left_out(tmp_path: Path) -> None:
    """A run's folder may hold masks and pictures."""
    source = tmp_path / "source"
    image_sources.folder(image_sources.items(), source)
    expected = listing(str(source)).files
    shutil.copytree(FINISHED, source / "runs")
    run = next(path for path in (source / "runs").iterdir() if (path / "run.json").exists())
    shutil.copy(next(source.rglob("*.png")), run / "round_00" / "mask.png")
    found = listing(str(source))
    assert found.files.equals(expected)
    (note,) = found.notes
    files = sum(path.is_file() for path in (source / "runs").rglob("*"))
    assert note.startswith(f"left out: {files} files in what alray wrote (catalogs, features, runs): runs/catalogs/")
    assert kind_of(str(source)).name == "folder"


@pytest.mark.parametrize("meta", ['{"version": 1, "fingerprint": "a"}', "[1]", "no JSON", None])
def test_files_of_the_same_names_that_alray_did_not_write_are_read(meta: str | None, tmp_path: Path) -> None:
    place = tmp_path / "source" / "part"
    place.mkdir(parents=True)
    image = image_sources.encoded(np.zeros((8, 8, 3), np.uint8))
    pq.write_table(pa.table({"image": [image] * 3, "label": [0, 1, 1]}), place / "catalog.parquet")
    if meta is not None:
        (place / "meta.json").write_text(meta)
    catalog = index(str(tmp_path / "source"), str(tmp_path / "catalog"), yes=True)
    assert (catalog.format, len(catalog)) == ("parquet", 3)
