"""A catalog is trusted while its source is what it was made from: changes are noticed, and copies are not."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from image_sources import SOURCES, TEMPLATE, add, encoded, folder, items, parquet
from pins import CONFIG, features

from alray import RunConfig, replace, run
from alray.cli import main
from alray.config import DataConfig
from alray.data.catalog import Catalog, CatalogError, index, index_arrays
from alray.data.origin import ensure_catalog, look, looked_at_once
from alray.data.repack import repack
from alray.rundir import RunError
from alray.store import Store


def files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def touch(place: Path) -> None:
    for path in files(place):
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def made(name: str, place: Path, **options: object) -> Catalog:
    write, key = SOURCES[name]
    return index(write(items(), place / "source"), str(place / "out"), key=key, **options)


# ---- what is no change


@pytest.mark.parametrize("name", SOURCES)
def test_what_was_only_copied_is_the_same(name: str, tmp_path: Path) -> None:
    catalog = made(name, tmp_path)
    assert look(catalog) == []
    (tmp_path / "source").rename(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "source", copy_function=shutil.copy)
    touch(tmp_path / "source")
    before = catalog.files()
    assert look(catalog) == []
    after = catalog.files()
    assert after["uri"].equals(before["uri"])
    assert not pc.any(pc.equal(after["time"], before["time"])).as_py()  # noted: the next look reads no image


def test_a_look_reads_nothing_while_the_times_are_the_same(tmp_path: Path) -> None:
    catalog = made("folder", tmp_path)
    for path in files(tmp_path / "source"):
        times = path.stat()
        path.write_bytes(b"x" * times.st_size)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert look(catalog) == []


def test_many_checks_of_a_sweep_are_one_look(tmp_path: Path) -> None:
    """And a run in the same process afterwards looks again."""
    catalog = made("folder", tmp_path)
    with looked_at_once():
        assert look(catalog) == []
        (tmp_path / "source/train/cat/c.0.png").unlink()
        assert look(catalog) == []
    with pytest.raises(CatalogError, match="1 image is gone"):
        look(catalog)


def test_files_that_are_not_read_do_not_count(tmp_path: Path) -> None:
    catalog = made("folder", tmp_path)
    (tmp_path / "source" / "train" / "notes.md").write_text("new")
    (tmp_path / "source" / "train" / "cat" / "alray-classes.txt").write_text("not at the top")
    (tmp_path / "source" / "README.txt").unlink()
    assert look(catalog) == []


def test_a_list_that_gained_a_column_is_the_same(tmp_path: Path) -> None:
    catalog = made("csv", tmp_path)
    path = tmp_path / "source" / "list.csv"
    path.write_text("\n".join(f"{line},{'x' if n else 'note'}" for n, line in enumerate(path.read_text().split("\n"))))
    assert look(catalog) == []


def test_an_image_that_was_left_out_stays_out_until_it_is_repaired(tmp_path: Path) -> None:
    folder(items(), tmp_path / "source")
    bad = tmp_path / "source/train/cat/half.jpg"
    whole = encoded(np.zeros((64, 64, 3), np.uint8), "JPEG")
    bad.write_bytes(whole[:300])
    catalog = index(str(tmp_path / "source"), str(tmp_path / "out"), on_problem="exclude")
    touch(tmp_path / "source")
    assert look(catalog) == []
    bad.write_bytes(whole)
    with pytest.raises(CatalogError, match=r"1 image is new \(train/cat/half.jpg\)"):
        look(catalog)


# ---- what is a change


def same_size(path: Path, old: bytes) -> None:
    """Change the last byte of a member or a cell."""
    data = path.read_bytes()
    at = data.index(old) + len(old) - 1
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("name", SOURCES)
def test_other_bytes_of_the_same_size(name: str, tmp_path: Path) -> None:
    """Also the fingerprint is another one: features of the old image must not be found again."""
    catalog = made(name, tmp_path, check="decode")
    item = items()[0]
    key = next(key for key in catalog.keys().to_pylist() if key.endswith(item.key))
    (holder,) = (path for path in files(tmp_path / "source") if item.data in path.read_bytes())
    same_size(holder, item.data)
    with pytest.raises(CatalogError, match=rf"source.* has changed since(.|\n)*1 image has other bytes \({key}\)"):
        look(catalog)
    again = index(catalog.config().root, str(tmp_path / "again"), key=SOURCES[name][1])
    assert again.labels().tolist() == catalog.labels().tolist()
    assert again.fingerprint != catalog.fingerprint


def commanded(catalog: Catalog) -> str:
    """The command that the error message gives."""
    with pytest.raises(CatalogError) as error:
        look(catalog)
    return next(line for line in str(error.value).splitlines() if line.startswith("  alray index ")).strip()


def test_without_hashes_the_bytes_cannot_be_compared_and_that_is_said(tmp_path: Path) -> None:
    catalog = made("folder", tmp_path, check="none")
    touch(tmp_path / "source")
    (said,) = look(catalog)
    assert said.startswith("The files of 24 images were written again") and "check none" in said
    assert look(catalog) == []


def moved_label(place: Path) -> None:
    (place / "train/cat/c.0.png").rename(place / "train/bird/c.0.png")


def label_in_csv(place: Path) -> None:
    text = (place / "list.csv").read_text()
    (place / "list.csv").write_text(text.replace("train/cat/c.0.png,cat", "train/cat/c.0.png,bird"))


def label_in_jsonl(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "list.jsonl").read_text().splitlines()]
    for line in lines:
        if line["uri"].endswith("train/cat/c.0.png"):
            line["label"] = 0
    (place / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))


def label_in_a_tar(place: Path) -> None:
    """In place, where the class of an image is the text 1."""
    path = place / "shard-0.tar"
    with tarfile.open(path) as tar:
        at = next(one for one in tar if one.name.startswith("train/cat/") and one.name.endswith(".cls")).offset_data
    data = bytearray(path.read_bytes())
    assert data[at : at + 1] == b"1"
    data[at : at + 1] = b"0"
    path.write_bytes(data)


def label_in_parquet(place: Path) -> None:
    path = place / "images_train_00-of-01.parquet"
    rows = pq.read_table(path)
    mine = pc.equal(rows["filename"], "c.0.png")
    labels = pc.if_else(mine, pa.scalar(0, pa.int8()), rows["label"])
    pq.write_table(rows.set_column(0, rows.schema.field("label"), labels), path, row_group_size=5)


@pytest.mark.parametrize(
    ("name", "correct", "said"),
    [
        ("folder", moved_label, r"1 image is new \(train/bird/c.0.png\)\n.*1 image is gone .*\(train/cat/c.0.png\)"),
        ("csv", label_in_csv, r"1 image has another label \(train/cat/c.0.png: cat, now bird\)"),
        ("jsonl", label_in_jsonl, r"1 image is new \(train/bird/c.0.png\)\n.*gone .*\(train/cat/c.0.png\)"),
        ("tars by sidecar", label_in_a_tar, r"1 image has another label \(train/cat/c.*: cat, now bird\)"),
        ("parquet", label_in_parquet, r"1 image is new \(train/bird/c.0.png\)\n.*gone .*\(train/cat/c.0.png\)"),
    ],
)
def test_a_corrected_label(name: str, correct: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    """Where the key holds the class, the key changes with it."""
    catalog = made(name, tmp_path)
    correct(tmp_path / "source")
    with pytest.raises(CatalogError, match=said):
        look(catalog)


def test_corrected_labels_of_embeddings(tmp_path: Path) -> None:
    """The same size to the byte, as numpy.savez writes it."""
    x, label = np.random.default_rng(0).normal(size=(9, 3)), np.arange(9) % 3
    np.savez(tmp_path / "f.npz", features=x, label=label)
    catalog = index(str(tmp_path / "f.npz"), str(tmp_path / "out"))
    size = (tmp_path / "f.npz").stat().st_size
    np.savez(tmp_path / "f.npz", features=x, label=np.roll(label, 1))
    assert (tmp_path / "f.npz").stat().st_size == size
    with pytest.raises(CatalogError, match=r"9 images have another label \(000000000: 0, now 2; 000000001: 1, now 0; "):
        look(catalog)
    np.savez(tmp_path / "f.npz", features=-x, label=label)
    with pytest.raises(CatalogError, match="the embeddings or the pretext losses are others"):
        look(catalog)
    np.savez(tmp_path / "f.npz", features=x, label=label, names=np.arange(9))
    assert look(catalog) == []


@pytest.mark.parametrize("name", ["tars by sidecar", "jsonl"])
def test_another_order_of_classes(name: str, tmp_path: Path) -> None:
    """Names stay with their images where labels are names, and move where they are numbers."""
    catalog = made(name, tmp_path)
    (tmp_path / "source" / "alray-classes.txt").write_text("cat\nbird\ndög\n")
    with pytest.raises(CatalogError, match="the classes were bird, cat, dög and are cat, bird, dög"):
        look(catalog)


def test_a_list_of_classes_that_is_new(tmp_path: Path) -> None:
    catalog = made("folder", tmp_path)
    (tmp_path / "source" / "alray-classes.txt").write_text("dög\nbird\ncat\n")
    with pytest.raises(CatalogError, match="the classes were bird, cat, dög and are dög, bird, cat"):
        look(catalog)


def test_images_that_are_new_gone_empty_or_in_the_other_split(tmp_path: Path) -> None:
    catalog = made("folder", tmp_path)
    place, data = tmp_path / "source", items()[0].data
    for number in range(7):
        (place / f"train/dög/new{number}.png").write_bytes(data)
    (place / "train/cat/c.0.png").unlink()
    (place / "train/cat/c.2.png").write_bytes(b"")
    with pytest.raises(CatalogError) as error:
        look(catalog)
    said = str(error.value)
    assert "7 images are new (train/dög/new0.png; train/dög/new1.png;" in said and said.count("new5.png") == 0
    assert "2 images are gone or cannot be used any more (train/cat/c.0.png; train/cat/c.2.png: broken image:" in said


def test_a_split_that_changed(tmp_path: Path) -> None:
    catalog = made("csv", tmp_path)
    text = (tmp_path / "source/list.csv").read_text()
    (tmp_path / "source/list.csv").write_text(text.replace("train/cat/c.0.png,cat,train", "train/cat/c.0.png,cat,test"))
    with pytest.raises(CatalogError, match=r"1 image is in the other split \(train/cat/c.0.png\)"):
        look(catalog)


def test_tars_that_were_packed_anew(tmp_path: Path) -> None:
    """The same images under the same keys at other offsets: the catalog would read other bytes."""
    catalog = made("tars by directory", tmp_path)
    for path in (tmp_path / "source").glob("*.tar"):
        with tarfile.open(path) as tar:
            members = [(one.name, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as tar:
            for name, data in members[::-1]:
                add(tar, name, data)
    with pytest.raises(CatalogError, match="images are in another place of the source"):
        look(catalog)


def test_a_test_set_of_its_own_is_looked_at_too(tmp_path: Path) -> None:
    for part in ("one", "two"):
        folder([item for item in items() if item.split == "train"], tmp_path / part)
    sources = [str(tmp_path / part / "train") for part in ("one", "two")]
    catalog = index(sources[0], str(tmp_path / "out"), test_root=sources[1])
    assert look(catalog) == []
    (tmp_path / "two/train/cat/c.0.png").unlink()
    with pytest.raises(CatalogError, match=r"one/train or .*two/train has changed(.|\n)*\(test/cat/c.0.png\)"):
        look(catalog)


def test_a_source_that_cannot_be_indexed_any_more(tmp_path: Path) -> None:
    catalog = made("csv", tmp_path)
    (tmp_path / "source/list.csv").write_text("name,label\n1,2\n")
    with pytest.raises(CatalogError, match=r"1 file has another size \(.*list.csv\)\n.*expected a column of paths"):
        look(catalog)


# ---- places


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_source_that_is_away_is_said_and_not_refused(left: str, tmp_path: Path) -> None:
    """As a disk that is not mounted: embeddings that were made before still serve."""
    catalog = made("folder", tmp_path)
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    if left != "nothing":
        (tmp_path / "source").mkdir()
    (said,) = look(catalog)
    assert said.startswith(f"{tmp_path}/source was not looked at (") and f"{tmp_path}/out is used as it is" in said


def test_a_catalog_that_moved_still_knows_its_source(tmp_path: Path) -> None:
    made("parquet", tmp_path)
    (tmp_path / "out").rename(tmp_path / "moved")
    catalog, said = ensure_catalog(DataConfig(catalog=str(tmp_path / "moved")), "elsewhere")
    assert said == []
    label_in_parquet(tmp_path / "source")
    with pytest.raises(CatalogError, match=rf"--out {tmp_path}/moved --key '\{{split\}}/"):
        ensure_catalog(DataConfig(catalog=str(tmp_path / "moved")), "elsewhere")
    assert catalog.fingerprint


def test_a_source_that_moved_is_another_place_with_the_same_content(tmp_path: Path) -> None:
    catalog = made("folder", tmp_path)
    (tmp_path / "source").rename(tmp_path / "moved")
    with pytest.raises(CatalogError, match=r"data\.root: expected .*source, from which .* got .*moved"):
        ensure_catalog(DataConfig(root=str(tmp_path / "moved"), catalog=str(tmp_path / "out")), "elsewhere")
    again, _ = ensure_catalog(DataConfig(root=str(tmp_path / "moved")), str(tmp_path / "default"))
    assert again.fingerprint == catalog.fingerprint


def test_ensure_catalog_indexes_once(tmp_path: Path) -> None:
    config = DataConfig(root=parquet(items(), tmp_path / "source"), key=TEMPLATE)
    default = str(tmp_path / "default")
    made, _ = ensure_catalog(config, default)
    assert ensure_catalog(config, default) == (made, [])
    assert ensure_catalog(DataConfig(catalog=default), "elsewhere") == (made, [])
    (tmp_path / "source" / "images_train_00-of-01.parquet").unlink()
    with pytest.raises(CatalogError, match="12 images are gone"):
        ensure_catalog(config, default)
    with pytest.raises(
        CatalogError, match=r"data\.root: expected .*source, from which the catalog at .*default was made, got"
    ):
        ensure_catalog(DataConfig(root=str(tmp_path / "other"), catalog=default), "elsewhere")
    with pytest.raises(CatalogError, match=r"data\.root: expected the source of the images, got none"):
        ensure_catalog(DataConfig(), str(tmp_path / "nothing"))
    with pytest.raises(CatalogError, match=r"data\.catalog: expected a catalog at .*nothing, got none; `alray index"):
        ensure_catalog(DataConfig(catalog=str(tmp_path / "nothing")), "elsewhere")


def test_a_store_without_times_compares_sizes(tmp_path: Path) -> None:
    """fsspec's memory has none. Rows are compared as soon as one size is another."""
    import fsspec

    memory = fsspec.filesystem("memory")
    folder(items(), tmp_path / "source")
    memory.put(str(tmp_path / "source"), "/stale/source", recursive=True)
    catalog = index("memory://stale/source", str(tmp_path / "out"))
    assert look(catalog) == []
    memory.pipe_file("/stale/source/train/cat/new.png", items()[0].data)
    with pytest.raises(CatalogError, match=r"memory://stale/source has changed(.|\n)*1 image is new \(train/cat/new"):
        look(catalog)
    memory.rm("/stale", recursive=True)
    assert "was not looked at" in look(catalog)[0]


# ---- what uses a catalog


def test_arrays_that_were_written_anew(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 4, 4), np.uint8)
    old = index_arrays(pixels, [0, 1] * 3, str(tmp_path / "out"))
    assert look(old) == []
    new = index_arrays(pixels[::-1], [0, 1] * 3, str(tmp_path / "out"))
    assert look(new) == []
    assert new.fingerprint != old.fingerprint


def test_nothing_is_repacked_from_a_source_that_changed(tmp_path: Path) -> None:
    catalog = made("csv", tmp_path)
    label_in_csv(tmp_path / "source")
    with pytest.raises(CatalogError, match="1 image has another label"):
        repack(catalog, str(tmp_path / "packed"))
    assert not (tmp_path / "packed").exists() or not list((tmp_path / "packed").iterdir())


def started(place: Path, **changes: object) -> RunConfig:
    features(place / "features.npz")
    return replace(CONFIG, {"root": str(place / "runs"), "data.root": str(place / "features.npz"), **changes})


def correct(place: Path) -> None:
    arrays = dict(np.load(place / "features.npz"))
    arrays["label"] = np.where(np.arange(240) < 20, (arrays["label"] + 1) % 4, arrays["label"])
    np.savez(place / "features.npz", **arrays)


class StopError(RuntimeError):
    pass


def stopped(config: RunConfig) -> None:
    """A run that ends after its first round."""

    def stop(metrics: object) -> None:
        raise StopError

    with pytest.raises(StopError):
        run(config, quiet=True, on_round=stop)


@pytest.mark.parametrize("changes", [{}, {"seed": 1}], ids=["the same run", "another run"])
def test_a_run_does_not_mix_old_and_new_labels(
    changes: dict[str, object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Corrected in the middle of a run: refused, by the same run and by others. Indexed anew, it begins anew, and says
    so."""
    config = started(tmp_path)
    stopped(config)
    (old,) = (path.parent for path in tmp_path.glob("runs/*/run.json"))
    before = {path: path.read_bytes() for path in files(old)}
    correct(tmp_path)
    with pytest.raises(CatalogError, match="20 images have another label") as error:
        run(replace(config, changes), quiet=True)
    line = next(line for line in str(error.value).splitlines() if line.startswith("  alray index"))
    main(shlex.split(line)[1:])
    capfd.readouterr()
    done = run(replace(config, changes))
    said = capfd.readouterr().out
    assert Path(done.dir) != old and {path: path.read_bytes() for path in files(old)} == before
    expected = f"{old} is a run of the same configuration (1 of 3 rounds), but the data (images or labels) had another"
    assert (expected in said) == (not changes)
    fresh = run(replace(config, {**changes, "root": str(tmp_path / "fresh")}), quiet=True)
    assert [one["test"] for one in done.rounds] == [one["test"] for one in fresh.rounds]
    run(replace(config, changes))
    assert "is a run of the same configuration" not in capfd.readouterr().out


def test_a_run_directory_of_ones_own_is_refused_for_other_data(tmp_path: Path) -> None:
    config = started(tmp_path, run_dir=str(tmp_path / "mine"))
    stopped(config)
    correct(tmp_path)
    shutil.rmtree(tmp_path / "runs" / "catalogs")
    with pytest.raises(RunError, match="data_fingerprint: '.*' there, '.*' here"):
        run(config, quiet=True)


def test_a_catalog_alone_is_looked_at_too(tmp_path: Path) -> None:
    config = started(tmp_path)
    index(config.data.root, str(tmp_path / "catalog"))
    given = replace(config, {"data.root": "", "data.catalog": str(tmp_path / "catalog")})
    stopped(given)
    correct(tmp_path)
    with pytest.raises(CatalogError, match=r"--out .*/catalog\n"):
        run(given, quiet=True)


def test_the_command_repeats_every_option(tmp_path: Path) -> None:
    """Indexed by it, the source is as a run would index it."""
    place, buffer = tmp_path / "a folder", io.BytesIO()
    place.mkdir()
    table = pa.table({"image": [items()[0].data] * 3, "y": [0, 1, 2], "id": ["a", "b", "c"]})
    pq.write_table(table, buffer)
    (place / "x.parquet").write_bytes(buffer.getvalue())
    options = {"key": "{split}/{id}.png", "label_column": "y", "classes": ("one class", "b", "c"), "check": "none",
               "pixel_range": (0, 4095), "links": "all"}  # fmt: skip
    catalog = index(str(place), str(tmp_path / "out"), **options)  # type: ignore[arg-type]
    made_so = catalog.config()
    pq.write_table(table.slice(0, 2), place / "x.parquet")
    words = shlex.split(commanded(catalog))
    assert words[:5] == ["alray", "index", str(place), "--out", str(tmp_path / "out")]
    main(words[1:])
    again = Catalog.open(str(tmp_path / "out"))
    # Only a command asks whether a source without test images is meant.
    assert again.config() == made_so.model_copy(update={"yes": True})
    assert again.keys().to_pylist() == ["train/a.png", "train/b.png"]
    assert look(again) == []


def test_a_catalog_of_another_source_is_replaced_only_if_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", features=np.eye(4), label=np.arange(4) % 2)
    command = ["index", str(tmp_path / "a.npz"), "--out", str(tmp_path / "out"), "--yes", "True"]
    main(command)
    main(command)  # the same source
    command[1] = str(tmp_path / "b.npz")
    with pytest.raises(SystemExit):
        main(command)
    assert f"whose catalog was made from {tmp_path}/a.npz" in capsys.readouterr().err
    assert Catalog.open(str(tmp_path / "out")).config().root == str(tmp_path / "a.npz")
    main([*command, "--overwrite", "True"])
    assert Catalog.open(str(tmp_path / "out")).config().root == str(tmp_path / "b.npz")


def test_a_catalog_of_another_version_is_refused_with_a_remedy(tmp_path: Path) -> None:
    made("folder", tmp_path)
    store = Store(str(tmp_path / "out"))
    store.write_json("meta.json", {**store.read_json("meta.json"), "version": 1})
    with pytest.raises(CatalogError, match="expected catalog version 2, got 1"):
        look(Catalog.open(str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("field", "value"), [("key", "filename"), ("label_column", "y"), ("image_column", "i"), ("classes", ("x", "y"))]
)
def test_an_option_that_a_catalog_would_ignore_is_refused(field: str, value: object, tmp_path: Path) -> None:
    """It was indexed in another way. What it was made with may be said again, and segmentation has other classes."""
    catalog = made("parquet", tmp_path)
    given = DataConfig(catalog=catalog.uri, key=TEMPLATE, classes=catalog.classes)
    assert ensure_catalog(given, "elsewhere")[0] == catalog
    with pytest.raises(CatalogError, match=rf"data\.{field}: expected that of the catalog at .*, got "):
        ensure_catalog(DataConfig(catalog=catalog.uri, **{field: value}), "elsewhere")  # type: ignore[arg-type]
    masks = DataConfig(catalog=catalog.uri, label_column="", classes=("background", "lesion"))
    assert ensure_catalog(masks, "elsewhere")[0] == catalog


def test_a_refusal_of_classes_names_those_that_a_catalog_took_from_its_source(tmp_path: Path) -> None:
    catalog = made("parquet", tmp_path)
    config = DataConfig(catalog=catalog.uri, classes=tuple(f"class {number}" for number in range(1000)))
    with pytest.raises(CatalogError) as refused:
        ensure_catalog(config, "elsewhere")
    here = ", ".join(catalog.classes)
    assert f"that of the catalog at {catalog.uri}, {here}, got class 0, class 1" in str(refused.value)
    assert "class 4 and 995 more" in str(refused.value)


def test_another_list_of_the_pool_is_another_content(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not of the catalog: the run that begins anew says what was another."""
    config = started(tmp_path, **{"data.train_list": str(tmp_path / "list.txt")})
    keys = [f"{row:09d}" for row in range(240) if row % 4]
    (tmp_path / "list.txt").write_text("\n".join(keys))
    stopped(config)
    (tmp_path / "list.txt").write_text("\n".join(keys[:-1]))
    run(config)
    assert "(1 of 3 rounds), but data.train_list had another content then." in capfd.readouterr().out
