"""Selection on Ray actors from files: what goes through Ray's object store, and which files an actor opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alray.features.table import write_arrays
from alray.selection.inputs import gather
from alray.selection.protocol import Context, SelectionError
from alray.selection.registry import build
from alray.selection.select import select, select_from
from alray.selection.shards import RayActors
from alray.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")
CPUS, SHARDS = 0.1, 2
N, D = 50_000, 64
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)  # 12.8 MB
HEAD = (np.random.default_rng(1).normal(size=(5, D)), np.zeros(5))


def stored_bytes(actors: RayActors) -> list[int]:
    """The sizes in the object store of what the shards are opened from."""
    from ray.experimental import get_object_locations

    found = get_object_locations(actors._sources)
    return [found[source]["object_size"] for source in actors._sources]


@pytest.mark.parametrize("kind", ["file", "mapped", "memory"])
def test_a_file_is_named_in_the_object_store_and_an_array_is_stored_once(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "x.npy")
    np.save(path, X)
    embedding = {"file": path, "mapped": np.load(path, mmap_mode="r"), "memory": X}[kind]
    keep = np.delete(np.arange(N), np.arange(0, N, 1000))
    sources = gather({"embedding": embedding}).shards(keep, SHARDS)
    context = Context(num_classes=5, head=HEAD)
    with RayActors(sources, build("margin"), context, CPUS) as actors:
        sizes = stored_bytes(actors)
        assert build("margin").select(actors, 20, context) == select(
            "margin", 20, embedding=X, head=HEAD, exclude=np.arange(0, N, 1000)
        )
    if kind == "memory":
        assert X.nbytes * 0.99 < sum(sizes) < X.nbytes * 1.01, "each number once, and no row numbers beside it"
    else:
        assert sum(sizes) < 10_000


def test_a_whole_selection_from_a_file_on_actors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    given: dict[str, Any] = {"labeled": np.arange(0, N, 500), "head": HEAD, "seed": 3}
    for name in ("k_center", "badge"):
        got = select(name, 30, embedding=str(tmp_path / "x.npy"), num_shards=SHARDS, workers="ray", **given)
        assert got == select(name, 30, embedding=X, **given)


@pytest.mark.parametrize("scale", [0.02, np.random.default_rng(2).random(D) / 50 + 1e-3], ids=["one", "each column"])
def test_actors_know_the_scale_of_stored_numbers(scale: Any, tmp_path: Path) -> None:
    """The shards' rows are in a file, of which an actor gets the path, and the labeled rows are sent as stored."""
    stored = np.random.default_rng(3).integers(-128, 128, (N, D)).astype(np.int8)
    np.save(tmp_path / "x.npy", stored)
    values = np.asarray(scale, np.float32) * stored.astype(np.float32)
    given: dict[str, Any] = {"labeled": np.arange(0, N, 500), "head": HEAD, "seed": 3}
    for name in ("k_center", "margin"):
        expected = select(name, 30, embedding=values, **given)
        for source in (str(tmp_path / "x.npy"), stored):
            more = {"embedding_scale": scale, "num_shards": SHARDS, "workers": "ray"}
            assert select(name, 30, embedding=source, **given, **more) == expected


def test_an_actor_that_does_not_reach_the_file_names_it(tmp_path: Path) -> None:
    """The file is gone when the actors open it, as on a node that does not share the folder."""
    np.save(tmp_path / "x.npy", X)
    sources = gather({"embedding": str(tmp_path / "x.npy")}).shards(np.arange(N), SHARDS)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(SelectionError, match=r"x\.npy, on the node .*: cannot be opened .*No such file"):
        select_from(sources, build("margin"), 5, Context(num_classes=5, head=HEAD), workers="ray", num_cpus=CPUS)


@pytest.mark.parametrize("name", ["k_center", "badge", "partitioned_k_center"])
def test_an_actor_opens_only_the_files_of_its_own_rows(name: str, tmp_path: Path) -> None:
    """Labeled rows are in all files, and each is read by the actor that opens its file anyway."""
    table = write_arrays(Store(str(tmp_path / "table")), np.arange(N), X, "float16", "mark", part_rows=5000)
    labeled = np.arange(0, N, 250)
    context = Context(num_classes=5, head=HEAD, labeled=table.source(labeled))
    sources = table.shards(np.setdiff1d(np.arange(N), labeled), SHARDS)
    expected = select_from(sources, build(name), 30, context)
    with RayActors(sources, build(name), context, CPUS) as actors:
        got = build(name).select(actors, 30, actors.context)
        assert got.rows.tolist() == expected.rows.tolist()
        mapped = [files(pid) for pid in actors.pids()]
    names = [f"part-{number:05d}.arrow" for number in range(10)]
    assert mapped == [set(names[:5]), set(names[5:])]


def files(pid: int) -> set[str]:
    """The feature files that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split("/")[-1] for line in lines if line.endswith(".arrow")}
