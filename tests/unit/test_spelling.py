"""Names that are the same text in the other Unicode form (macOS writes the names of files so) name the same image."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from image_sources import encoded
from trees import described, tree

from alray.cli import main
from alray.config import DataConfig
from alray.data.catalog import CatalogError, index
from alray.data.fetch import ImageError
from alray.data.mask_check import with_masks
from alray.data.masks import masks_of
from alray.data.splits import SplitError, from_list
from alray.spelling import by_end, places_of, same_end
from alray.store import Store

FORMS = {form: partial(unicodedata.normalize, form) for form in ("NFC", "NFD")}
WORDS = ["é", "e", "ö/ü", "Å", "한", "fi", "x/é", "ñ/Å/é"]  # 한 has three letters in NFD
Spell = Callable[[str], str]


def names(rng: np.random.Generator, number: int) -> list[str]:
    """Names in which each word has one of the two forms."""
    forms = list(FORMS.values())
    return [
        "/".join(forms[rng.integers(2)](WORDS[word]) for word in rng.integers(len(WORDS), size=2))
        for _ in range(number)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_name_in_the_same_form_goes_first_then_the_only_one_in_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = list(dict.fromkeys(names(rng, 12)))
    wanted = [*names(rng, 40), *keys]

    def place(name: str) -> int | None:
        same = [at for at, key in enumerate(keys) if FORMS["NFC"](key) == FORMS["NFC"](name)]
        return keys.index(name) if name in keys else same[0] if len(same) == 1 else None

    expected = [place(name) for name in wanted]
    assert places_of(pa.array(wanted), pa.array(keys)).to_pylist() == expected
    find = by_end(keys)
    for name in wanted:
        text = FORMS["NFC"](name.rpartition("/")[2])
        assert find(text) == sorted(key for key in keys if same_end(FORMS["NFC"](key), text))


BOTH = pytest.mark.parametrize(
    ("there", "given"), [tuple(FORMS.values()), tuple(FORMS.values())[::-1]], ids=["NFD", "NFC"]
)


@BOTH
def test_lists_of_keys(there: Spell, given: Spell) -> None:
    keys = pa.array([there("Zoë/0 1.png"), "b.png", there("é.png")])
    found = from_list(keys, [given("é.png"), f"{given('Zoë/0 1.png')} cat"], "list")
    assert found.rows.tolist() == [0, 2] and found.classes.to_pylist() == ["cat", None]
    with pytest.raises(SplitError, match="got 1 of 1 others, first 'è.png'"):
        from_list(keys, ["è.png"], "list")


@BOTH
def test_rows_of_a_selection(there: Spell, given: Spell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(4))
    Path("keys.txt").write_text("".join(f"{there(f'é{row}')}\n" for row in range(4)))
    Path("labeled.txt").write_text(given("é2\né0\n"))
    options = ["--embedding", "x.npy", "--keys", "keys.txt", "--labeled", "labeled.txt"]
    main(["select", "k_center", "2", *options, "--out", "picks.csv"])
    assert {line.split(",")[0] for line in Path("picks.csv").read_text().splitlines()[1:]} == {"1", "3"}


@BOTH
def test_classes_of_test_images(there: Spell, given: Spell, tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "train/cat/0.png", "train/dog/0.png", there("val/é.png"), there("val/ö.png"))
    (tmp_path / "list.csv").write_text(given("é.png,dog\nö.png,cat\n"))
    catalog = index(source, str(tmp_path / "o"), test_labels=str(tmp_path / "list.csv"))
    assert described(catalog)[there("val/é.png")] == "test dog"


@BOTH
def test_masks_in_their_folder(there: Spell, given: Spell, tmp_path: Path) -> None:
    for number, name in enumerate(("é", "ö/ü", "plain")):
        for folder, form in (("images", there), ("masks", given)):
            path = tmp_path / folder / form(f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 6), number, np.uint8) if folder == "masks" else np.zeros((4, 6, 3), np.uint8)
            path.write_bytes(encoded(pixels))
    catalog = index(str(tmp_path / "images"), str(tmp_path / "catalog"), label_column="")
    config = DataConfig(mask_root=str(tmp_path / "masks"), classes=("a", "b", "c"))
    with_masks(config, catalog, np.arange(3), np.arange(0), Store(str(tmp_path / "fine")))
    masks = masks_of(config, catalog)
    read = {
        key: masks.decode(data, key)[0, 0]
        for key, data in zip(catalog.keys().to_pylist(), masks.fetch(catalog.references(np.arange(3))), strict=True)
    }
    assert read == {there("é.png"): 0, there("ö/ü.png"): 1, "plain.png": 2}
    (tmp_path / "masks" / given("é.png")).unlink()
    with pytest.raises(ImageError, match="no mask"):
        masks.fetch(catalog.references(np.arange(3)))
    with pytest.raises(CatalogError, match="1 of 3 images have no mask"):
        with_masks(config, catalog, np.arange(3), np.arange(0), Store(str(tmp_path / "fine")))
