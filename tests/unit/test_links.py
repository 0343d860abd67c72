"""Links: every folder is listed once, none leads out of the root, and what is left out is counted."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from image_sources import encoded, items, parquet
from trees import described, indexed, tar, tree

from alray.data.catalog import CatalogError, index
from alray.data.fetch import fetch
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


# ---- links in tars


def made_by_tar(place: Path) -> Path:
    """A tar as the command writes it, of a folder in which files are linked to each other."""
    source = Path(tree(place / "s", "cat/{0..2}.png", "dog/{0..2}.png", "all/{8..9}.png"))
    for name, text in {"cat/0": "cat", "dog/0": "dog", "all/8": "cow"}.items():
        (source / f"{name}.cls").write_text(text)
    for number, name in enumerate(("cat/0", "dog/0", "all/8")):
        (source / f"{name}.png").write_bytes(encoded(np.full((4, 4, 3), 50 * number, np.uint8)))
    for linked, first in (("cat/1", "cat/0"), ("dog/1", "dog/0"), ("dog/2", "cat/0")):
        for end in ("png", "cls"):
            (source / f"{linked}.{end}").unlink(missing_ok=True)
            os.link(source / f"{first}.{end}", source / f"{linked}.{end}")
    for end in ("png", "cls"):
        (source / f"cat/2.{end}").unlink(missing_ok=True)
        (source / f"cat/2.{end}").symlink_to(f"../cat/3.{end}")
        (source / f"cat/3.{end}").symlink_to(f"../all/8.{end}")
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if not path.is_dir())
    path = place / "tars" / "a.tar"
    path.parent.mkdir()
    subprocess.run(["tar", "cf", str(path), "-C", str(source), *(f"./{name}" for name in names)], check=True)
    return path


def test_links_to_members_of_a_tar_are_followed(tmp_path: Path) -> None:
    """As `tarfile` does: each member has the bytes and the class of the one where it leads."""
    path = made_by_tar(tmp_path)
    catalog = index(str(path), str(tmp_path / "o"), yes=True)
    keys = catalog.keys().to_pylist()
    references = catalog.references(np.arange(len(catalog)))
    with tarfile.open(path) as file:
        kinds = {member.name.removeprefix("./"): member for member in file}
        assert {kinds[key].type for key in keys} == {tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE}
        expected = [file.extractfile(kinds[key]).read() for key in keys]  # type: ignore[union-attr]
    assert fetch(references, catalog.source, catalog.image_column) == expected
    assert keys == sorted(key for key in kinds if key.endswith(".png"))
    classes = {key: text.removeprefix("train ") for key, text in described(catalog).items()}
    assert classes == {
        "all/8.png": "cow", "all/9.png": "all", "cat/0.png": "cat", "cat/1.png": "cat", "cat/2.png": "cow",
        "cat/3.png": "cow", "dog/0.png": "dog", "dog/1.png": "dog", "dog/2.png": "cat",
    }  # fmt: skip


def test_links_out_of_a_tar_and_members_that_are_no_files_are_told_as_what_they_are(tmp_path: Path) -> None:
    members = {
        "out.png": (tarfile.SYMTYPE, "../elsewhere/1.png"), "hard.png": (tarfile.LNKTYPE, "gone.png"),
        "self.png": (tarfile.SYMTYPE, "self.png"), "text.png": (tarfile.SYMTYPE, "1.cls"),
        "out.cls": (tarfile.SYMTYPE, "/2.cls"), "pipe.png": (tarfile.FIFOTYPE, ""),
        "hole.png": (tarfile.GNUTYPE_SPARSE, ""), "readme": (tarfile.SYMTYPE, "nowhere"),
    }  # fmt: skip
    (tmp_path / "s").mkdir()
    tar(tmp_path / "s" / "a.tar", {"1.png": "", "1.cls": "cat"})
    with tarfile.open(tmp_path / "s" / "a.tar", "a") as file:
        for name, (kind, target) in members.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            file.addfile(member)
    catalog = index(str(tmp_path / "s"), str(tmp_path / "o"), yes=True, on_problem="exclude")
    assert catalog.keys().to_pylist() == ["1.png"]
    assert {line["key"]: line["reason"] for line in catalog.problems().to_pylist()} == {
        "out.png": "broken link: it leads to ../elsewhere/1.png, which is no image of the tar",
        "hard.png": "broken link: it leads to gone.png, which is no image of the tar",
        "self.png": "broken link: it leads to self.png, which is no image of the tar",
        "text.png": "broken link: it leads to 1.cls, which is no image of the tar",
        "out.cls": "broken link: it leads to /2.cls, which names no class in the tar",
        "pipe.png": "broken member: expected one range of bytes, got a device or a pipe",
        "hole.png": "broken member: expected one range of bytes, got a sparse file",
    }
