"""Symbolic links: every folder is listed once, none leads out of the root, and what is left out is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from image_sources import items, parquet
from trees import indexed, tar, tree

from alray.data.catalog import CatalogError, index
from alray.data.sources.kinds import kind_of
from alray.data.sources.listing import listing


def pets(place: Path) -> Path:
    tree(place, "cat/{0..1}.png", "dog/{0..1}.png")
    return place


@pytest.mark.parametrize("links", ["inside", "all", "none"])
@pytest.mark.parametrize("target", [".", "..", "../cat", "../.."])
def test_a_link_to_a_folder_above_or_beside_does_not_loop(links: str, target: str, tmp_path: Path) -> None:
    """Case 10."""
    source = pets(tmp_path / "s")
    (source / "dog" / "latest").symlink_to(target if target != "../.." else tmp_path)
    names = listing(str(source), links).files["name"].to_pylist()
    assert len(names) == len(set(names))
    own = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert [name for name in names if "latest" not in name] == own
    assert len([name for name in names if "latest" in name]) <= (4 if links == "all" else 0)
    assert kind_of(str(source)).name == "folder"


def test_a_loop_is_told(tmp_path: Path) -> None:
    source = pets(tmp_path / "s")
    (source / "cat" / "latest").symlink_to("..")
    catalog = index(str(source), str(tmp_path / "o"))
    assert len(catalog) == 4
    assert (
        "1 link, cat/latest, leads to a folder whose files are listed under its own name, and was not followed"
        in catalog.notes()
    )


def test_two_folders_that_link_to_each_other(tmp_path: Path) -> None:
    source = pets(tmp_path / "s")
    (source / "cat" / "other").symlink_to("../dog")
    (source / "dog" / "other").symlink_to("../cat")
    for links, count in (("inside", 4), ("all", 8), ("none", 4)):
        assert len(listing(str(source), links).files) == count


def test_links_out_of_the_root_are_left_out_and_counted(tmp_path: Path) -> None:
    """As people do with class folders of ImageNet; also a link to a single file."""
    source, elsewhere = pets(tmp_path / "s"), pets(tmp_path / "elsewhere")
    (source / "cow").symlink_to(elsewhere / "cat")
    (source / "cat" / "9.png").symlink_to(elsewhere / "dog" / "0.png")
    catalog = index(str(source), str(tmp_path / "o"))
    assert catalog.classes == ("cat", "dog") and len(catalog) == 4
    (note,) = [note for note in catalog.notes() if "link" in note]
    assert note.startswith("2 links, the first cat/9.png, lead out of ") and "--links all follows" in note
    found = indexed(str(source), tmp_path / "p", links="all")
    assert found["cow/0.png"] == "train cow" and found["cat/9.png"] == "train cat" and len(found) == 7


def test_a_root_of_links_alone_says_which_setting_helps(tmp_path: Path) -> None:
    elsewhere = pets(tmp_path / "elsewhere")
    (tmp_path / "s").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "s" / name).symlink_to(elsewhere / name)
    with pytest.raises(CatalogError, match="expected images, got none: it has no file; 2 links, .*--links all"):
        index(str(tmp_path / "s"), str(tmp_path / "o"))
    assert len(indexed(str(tmp_path / "s"), tmp_path / "o", links="all")) == 4


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    source = pets(tmp_path / "s")
    (source / "cat" / "2.png").symlink_to("0.png")
    (tmp_path / "link").symlink_to(source)
    found = indexed(str(tmp_path / "link"), tmp_path / "o")
    assert len(found) == 5  # a link to a file inside is an image under its own name
    assert found == indexed(str(source), tmp_path / "p")
    assert len(indexed(str(source), tmp_path / "q", links="none")) == 4


def test_a_root_whose_name_begins_like_another_folder(tmp_path: Path) -> None:
    source, other = pets(tmp_path / "s"), pets(tmp_path / "s-old")
    (source / "cow").symlink_to(other / "cat")
    catalog = index(str(source), str(tmp_path / "o"))
    assert len(catalog) == 4 and any("leads out of" in note for note in catalog.notes())


def test_a_broken_link_is_a_missing_image(tmp_path: Path) -> None:
    source = pets(tmp_path / "s")
    (source / "cat" / "9.png").symlink_to(tmp_path / "nowhere.png")
    (source / "cat" / "self.png").symlink_to("self.png")
    with pytest.raises(CatalogError, match="missing image: 2"):
        index(str(source), str(tmp_path / "o"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    source = pets(tmp_path / "s")
    (source / "cat").chmod(0)
    try:
        with pytest.raises(CatalogError, match="cannot be read.*cat"):
            index(str(source), str(tmp_path / "o"))
    finally:
        (source / "cat").chmod(0o755)


def test_links_to_shards(tmp_path: Path) -> None:
    """Tars and Parquet files go through the same listing."""
    tar(tmp_path / "elsewhere" / "test-1.tar", ["a/{0..1}.png", "b/{0..1}.png"])
    tar(tmp_path / "s" / "train-0.tar", ["a/{2..3}.png", "b/{2..3}.png"])
    (tmp_path / "s" / "test-1.tar").symlink_to(tmp_path / "elsewhere" / "test-1.tar")
    catalog = index(str(tmp_path / "s"), str(tmp_path / "o"))
    assert len(catalog) == 4 and any("--links all" in note for note in catalog.notes())
    assert len(indexed(str(tmp_path / "s"), tmp_path / "p", links="all")) == 8
    parquet(items(), tmp_path / "t")
    (tmp_path / "t" / "images_test_00-of-01.parquet").rename(tmp_path / "elsewhere" / "t.parquet")
    (tmp_path / "t" / "images_test_00-of-01.parquet").symlink_to(tmp_path / "elsewhere" / "t.parquet")
    assert any("--links all" in note for note in index(str(tmp_path / "t"), str(tmp_path / "q")).notes())
