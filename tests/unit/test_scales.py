"""Embeddings and logits that are stored as int8 or uint8 with a scale: they give the picks of the float32 numbers that
they stand for, and stay as they are stored."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import alray
from alray.cli import main
from alray.features.arrays import Scaled, floating, gathered, joined
from alray.selection.inputs import gather
from alray.selection.protocol import SelectionError
from alray.selection.registry import STRATEGIES
from alray.selection.scales import read_scales
from alray.selection.select import select

N, D, C, BUDGET = 400, 9, 5, 40
RNG = np.random.default_rng(0)
LABELED = np.arange(0, N, 11)
HEAD = (RNG.normal(size=(C, D)), RNG.normal(size=C))
LABELS = RNG.integers(0, C, N)
BESIDE = {name: RNG.normal(size=N).astype(np.float32) for name in ("discriminator", "pretext_loss")}
COLUMNS = {"embedding": D, "logits": C}


def stored(kind: str, dtype: Any) -> dict[str, np.ndarray]:
    """An embedding and logits of whole numbers; tied: of few numbers, with copies of rows."""
    low, high = (0, 3) if kind == "tied" else (np.iinfo(dtype).min, np.iinfo(dtype).max + 1)
    rows = RNG.integers(0, N // 6, N) if kind == "tied" else np.arange(N)
    return {name: RNG.integers(low, high, (N, width))[rows].astype(dtype) for name, width in COLUMNS.items()}


def scales(kind: str) -> dict[str, Any]:
    if kind == "one":
        return {"embedding": 0.0173, "logits": 0.061}
    return {name: RNG.random(width) / 50 + 1e-3 for name, width in COLUMNS.items()}


def values(columns: dict[str, np.ndarray], scale: dict[str, Any]) -> dict[str, np.ndarray]:
    """The numbers that are meant, as the help defines them."""
    return {name: np.asarray(scale[name]).astype(np.float32) * x.astype(np.float32) for name, x in columns.items()}


def saved(columns: dict[str, np.ndarray], folder: Path) -> dict[str, str]:
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    return {name: str(folder / f"{name}.npy") for name in columns}


def given(name: str, columns: dict[str, Any], scale: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a strategy reads: the embedding or the logits, or both."""
    needs = STRATEGIES[name].needs
    found = {one: columns[one] for one in COLUMNS if one in needs} or {"embedding": columns["embedding"]}
    found |= {f"{one}_scale": scale[one] for one in found} if scale else {}
    found |= {one: column for one, column in BESIDE.items() if one in needs}
    if "labels" in needs:
        found["labels"] = LABELS
    return found | {"head": HEAD, "labeled": LABELED, "exclude": [1, 2, 399], "seed": 3, "round": 2}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("scale", ["one", "for each column"])
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("name", ["k_center", "margin", "entropy", "badge", "base"])
def test_picks_are_those_of_the_float32_numbers(name: str, kind: str, scale: str, dtype: Any, tmp_path: Path) -> None:
    columns, scaling = stored(kind, dtype), scales(scale)
    expected = select(name, BUDGET, **given(name, values(columns, scaling)), num_shards=1)
    for number, shards in enumerate((1, 2, 7, 30)):
        source = saved(columns, tmp_path) if number % 2 else columns
        assert select(name, BUDGET, **given(name, source, scaling), num_shards=shards) == expected


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_reads_them(name: str, tmp_path: Path) -> None:
    columns, scaling = stored("random", np.int8), scales("for each column")
    expected = select(name, BUDGET, **given(name, values(columns, scaling)), num_shards=2)
    assert select(name, BUDGET, **given(name, saved(columns, tmp_path), scaling), num_shards=2) == expected


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("name", ["k_center", "margin", "badge", "base"])
def test_without_a_scale_the_stored_numbers_are_the_values(name: str, dtype: Any) -> None:
    columns = stored("random", dtype)
    wide = {one: column.astype(np.float64) for one, column in columns.items()}
    assert select(name, BUDGET, **given(name, columns), num_shards=3) == select(name, BUDGET, **given(name, wide))


def test_logits_are_made_from_a_scaled_embedding_and_the_head(tmp_path: Path) -> None:
    columns, scaling = stored("random", np.int8), scales("for each column")
    more: dict[str, Any] = {"head": HEAD, "labeled": LABELED, "num_shards": 2}
    path = saved(columns, tmp_path)["embedding"]
    got = select("margin", BUDGET, embedding=path, embedding_scale=scaling["embedding"], **more)
    assert got == select("margin", BUDGET, embedding=values(columns, scaling)["embedding"], **more)


def parquet(x: np.ndarray, folder: Path, rows: np.ndarray | None = None) -> str:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    pq.write_table(pa.table({**({} if rows is None else {"row": rows}), "embedding": lists}), folder / "x.parquet")
    return str(folder / "x.parquet")


@pytest.mark.parametrize("form", ["npz", "parquet", "parquet with rows", "table", "lists"])
def test_any_form_of_stored_numbers_takes_a_scale(form: str, tmp_path: Path) -> None:
    x, scale = stored("random", np.int8)["embedding"], scales("for each column")["embedding"]
    source: Any = x
    if form == "npz":
        np.savez(tmp_path / "x.npz", embedding=x, scale=scale)
        source = tmp_path / "x.npz"
    elif form == "parquet with rows":
        order = RNG.permutation(N)
        source = parquet(x[order], tmp_path, order)
    elif form != "lists":
        source = parquet(x, tmp_path)
        source = pq.read_table(source) if form == "table" else source
    more: dict[str, Any] = {"labeled": LABELED, "num_shards": 3}
    expected = select("k_center", BUDGET, embedding=scale.astype(np.float32) * x.astype(np.float32), **more)
    if form == "lists":
        scale = scale.tolist()
    assert select("k_center", BUDGET, embedding=source, embedding_scale=scale, **more) == expected


@pytest.mark.parametrize("scale", ["one", "for each column"])
def test_a_shard_of_a_file_is_a_small_message_with_the_scale(scale: str, tmp_path: Path) -> None:
    x = RNG.integers(-128, 128, (20_000, D)).astype(np.int8)
    scaling = scales(scale)["embedding"]
    path = saved({"embedding": x}, tmp_path)["embedding"]
    pool = gather({"embedding": path}, read_scales({"embedding": scaling}, ["embedding"]))
    keep = np.delete(np.arange(len(x)), [3, 4, 1000])
    messages = [pickle.dumps(source) for source in pool.shards(keep, 3)]
    assert sum(map(len, messages)) < 5000
    shards = [pickle.loads(message).open() for message in messages]
    blocks = [block["embedding"] for shard in shards for block in shard.blocks(999)]
    assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
    assert np.array_equal(np.concatenate(blocks), np.asarray(scaling, np.float32) * x[keep].astype(np.float32))
    assert sum(segment.reads.bytes for shard in shards for segment in shard.segments) == len(keep) * D, "one byte each"


def test_labeled_rows_are_gathered_as_they_are_stored() -> None:
    x = stored("random", np.uint8)["embedding"]
    sources = gather({"embedding": x}, {"embedding": np.float32(0.5)}).shards(np.arange(N), 2)
    parts = [gathered(source.open()).columns["embedding"] for source in sources]
    whole = joined(parts)
    assert isinstance(whole, Scaled)
    assert whole.nbytes == x.nbytes
    assert np.array_equal(floating(whole), x.astype(np.float32) / 2)


def test_stored_numbers_are_not_taken_for_an_array_without_their_scale() -> None:
    with pytest.raises(TypeError, match="use `floating`"):
        np.asarray(Scaled(np.ones((3, 2), np.int8), np.float32(2)))  # type: ignore[call-overload]


@pytest.mark.parametrize("scale", [None, 0.02])
@pytest.mark.parametrize("name", ["margin", "k_center"])
def test_a_selection_copies_no_pool(name: str, scale: float | None, tmp_path: Path) -> None:
    n, column = 600_000, "logits" if name == "margin" else "embedding"
    np.save(tmp_path / "x.npy", RNG.integers(-128, 128, (n, 128), np.int8))  # 77 MB; blocks take 51
    more: dict[str, Any] = {column: tmp_path / "x.npy", f"{column}_scale": scale, "labeled": np.arange(100)}
    select(name, 10, **more)  # imports
    tracemalloc.start()
    try:
        select(name, 10, **more, num_shards=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    limit = {"margin": 0.8, "k_center": 2}[name]  # bytes for each number; what k-center works on is 1.1, in any type
    assert peak < n * 128 * limit


X8 = stored("random", np.int8)["embedding"]


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0, "above zero, from 1.2e-38 to 1.3e[+]36, got 0$"),
        (-0.5, "finite numbers above zero, .*, got -0.5$"),
        (np.nan, "finite numbers above zero, .*, got nan$"),
        ("inf", "finite numbers above zero, .*, got inf$"),
        (1e-60, "from 1.2e-38 to 1.3e[+]36, got 1e-60$"),
        (np.float16(0), "finite numbers above zero, .*, got 0$"),
        (np.array([1] * 8 + [np.inf], np.float16), "finite numbers above zero, .*, got inf for column 8$"),
        ("zip.npy", "zip.npy: expected a number, or .npy with one for each column, got something else"),
        ("several.npz", "several.npz: expected a number, or .npy with one for each column, got something else"),
        (2e36, "from 1.2e-38 to 1.3e[+]36, got 2e[+]36$"),
        ([1.0] * 4 + [0.0] * 5, "finite numbers above zero, .*, got 0 for column 4$"),
        (np.ones(D + 1), "expected one number, or one for each of the 9 columns of embedding, got 10$"),
        ([], "expected one number, or one for each of the 9 columns of embedding, got 0$"),
        (np.ones(1), "expected one number, or one for each of the 9 columns of embedding, got 1$"),
        (np.ones((1, D)), r"expected a number, or one for each column, got an array of shape \(1, 9\)$"),
        (np.ma.masked_array(np.ones(D), np.arange(D) == 2), "expected numbers everywhere, got 1 masked ones"),
        (True, "expected a number, or one for each column, got an array of bool$"),
        ({"a": 1}, "expected a number, or one for each column, got dict$"),
        ("small", "expected a number or the path of .npy, got small, which is neither a number nor a file$"),
        ("bad.npy", "bad.npy: expected a number, or .npy with one for each column, got something else .it begins with"),
    ],
)
def test_bad_scales_are_refused(scale: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.npy").write_bytes(b"no array")
    Path("zip.npy").write_bytes(b"PK\x03\x04 and no more")
    np.savez("several.npz", a=np.ones(D), b=np.ones(D))
    with pytest.raises(SelectionError, match=f"^embedding_scale: .*{message}"):
        select("k_center", 5, embedding=X8, embedding_scale=scale)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int16, np.int64])
def test_only_int8_and_uint8_take_a_scale(kind: Any) -> None:
    expected = f"^embedding_scale: expected none, or embedding of int8 or uint8, .* got {np.dtype(kind)} in embedding$"
    with pytest.raises(SelectionError, match=expected):
        select("k_center", 5, embedding=X8.astype(kind), embedding_scale=0.1)


def test_a_scale_without_its_array_is_refused() -> None:
    with pytest.raises(SelectionError, match="^logits_scale: expected logits beside it, got none"):
        select("k_center", 5, embedding=X8, logits_scale=0.1)


def test_a_bad_scale_is_refused_before_anything_is_read() -> None:
    with pytest.raises(SelectionError, match="^embedding_scale: "):
        select("k_center", 5, embedding="nowhere.npy", embedding_scale=-1)


@pytest.mark.parametrize("form", ["number", "file"])
def test_the_command_takes_scales(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns, scaling = stored("random", np.int8), scales("one" if form == "number" else "for each column")
    saved(columns, tmp_path)
    texts = {name: str(one) for name, one in scaling.items()}
    if form == "file":
        for name, one in scaling.items():
            np.save(f"{name}_scale.npy", one)
            texts[name] = f"{name}_scale.npy"
    np.save("w.npy", HEAD[0])
    line = "select base 20 --embedding embedding.npy --logits logits.npy --weight w.npy --out p.csv"
    main([*line.split(), "--embedding-scale", texts["embedding"], "--logits-scale", texts["logits"]])
    expected = alray.select("base", 20, **values(columns, scaling), head=(HEAD[0], np.zeros(C)))
    rows = [int(text.split(",")[0]) for text in Path("p.csv").read_text().splitlines()[1:]]
    assert rows == expected.rows.tolist()


def test_the_command_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved({"embedding": X8}, tmp_path)
    with pytest.raises(SystemExit):
        main(["select", "k_center", "5", "--embedding", "embedding.npy", "--embedding-scale", "0", "--out", "p.csv"])
    assert "error: --embedding-scale: expected finite numbers above zero" in capsys.readouterr().err
    assert not Path("p.csv").exists()
