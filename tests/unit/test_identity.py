"""The identity of a run: what it holds, and what may be added to the configuration without changing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from alray import RunConfig, provenance, replace
from alray.config import (
    FeatureConfig,
    ModelConfig,
    PretextConfig,
    TrainConfig,
    TransformConfig,
    VaalConfig,
    changed,
    fingerprint,
    full_identity,
    identity,
)
from alray.config.fields import OUTSIDE
from alray.config.identity import VERSION, defaults
from alray.data.catalog import index, index_arrays
from alray.features import measures
from alray.features.measures import Extraction, Features
from alray.provenance import identity_of
from alray.store import Store
from alray.train import pretext
from alray.train.measure import model_source
from alray.train.pretext import PretextRecipe

OTHER = replace(RunConfig(), {"train.lr": 0.3, "split.seed_set_how": "pretext", "strategy_options": {"quota": "fill"}})


def test_the_defaults_are_those_of_their_version() -> None:
    """A default was changed: raise VERSION in alray/config/identity.py; then, and for a new field, run
    `python tests/defaults.py`."""
    assert RunConfig().model_dump(mode="json") == defaults(VERSION)


def test_an_identity_holds_what_differs_from_the_defaults() -> None:
    assert identity(RunConfig(), "d", "w") == {"version": 1, "data_fingerprint": "d", "weights_fingerprint": "w"}
    assert identity(OTHER, "d+m", "w") == {
        "version": 1, "strategy_options": {"quota": "fill"}, "split": {"seed_set_how": "pretext"}, "train": {"lr": 0.3},
        "data_fingerprint": "d", "masks_fingerprint": "m", "weights_fingerprint": "w",
    }  # fmt: skip


class LongerTraining(TrainConfig):
    added: int = 3
    place: Annotated[str, OUTSIDE] = ""


class LongerRun(RunConfig):
    train: LongerTraining = LongerTraining()
    also: tuple[str, ...] = ("a",)


@pytest.mark.parametrize("config", [RunConfig(), OTHER], ids=["default", "other"])
def test_a_new_field_with_a_default_changes_no_fingerprint(config: RunConfig) -> None:
    def mark(one: RunConfig) -> str:
        return fingerprint(identity(one, "d", "w"))

    longer = LongerRun.model_validate(config.model_dump())
    assert mark(longer) == mark(config)
    assert mark(replace(longer, {"train.place": "elsewhere"})) == mark(config)
    assert len({mark(config), mark(replace(longer, {"train.added": 4})), mark(replace(longer, {"also": ()}))}) == 3


def test_a_new_field_changes_no_fingerprint_of_features_either() -> None:
    assert changed(LongerTraining()) == changed(TrainConfig()) == {"version": VERSION}


@pytest.mark.parametrize(
    ("path", "value"), [("train.lr", 0.2), ("strategy", "margin"), ("top_k", [2]), ("model.mean", [0.5, 0.5, 0.5])]
)
def test_a_full_identity_has_every_field_that_counts(path: str, value: Any) -> None:
    config = replace(RunConfig(), {path: value, "resources.select_shards": 9, "name": "n"})
    expected = json.loads(config.to_json())
    for name in ("name", "root", "run_dir", "rounds", "mlflow", "stop", "resources"):
        del expected[name]
    full = full_identity(identity(config, "d", "w"))
    assert set(full) == {*expected, "data_fingerprint", "weights_fingerprint"}
    assert full["train"].items() <= expected["train"].items() and "checkpoint_every" not in full["train"]
    assert full["model"].items() <= expected["model"].items() and "checkpoint" not in full["model"]
    assert full["split"].items() <= expected["split"].items() and "val_list" not in full["split"]
    assert full["data"]["imbalance"] == {"kind": "none", "factor": 0.1}
    assert full_identity(full) == full


def test_sections_name_features_by_their_differences() -> None:
    assert changed(ModelConfig(checkpoint="/w", small_stem=True)) == {"version": 1, "small_stem": True}
    assert changed(VaalConfig(checkpoint_every=9, latent=32)) == {"version": 1, "latent": 32}
    assert changed(PretextConfig(task="rotation", as_backbone=True), without={"as_backbone"}) == {
        "version": 1, "task": "rotation",
    }  # fmt: skip
    assert changed(TransformConfig(size=32, resize=0), only={"size"}) == {"version": 1, "size": 32}


def test_another_list_of_training_images_is_another_run(tmp_path: Path) -> None:
    """Its content counts, and not its name: a list that was changed in place is noticed."""
    catalog = index_arrays(np.zeros((2, 2, 2), np.uint8), [0, 1], str(tmp_path / "catalog"))
    marks = []
    for name, text in (("a", "x 0\n"), ("b", "x 0\n"), ("a", "y 0\n")):
        (tmp_path / name).write_text(text)
        config = replace(RunConfig(), {"data.train_list": str(tmp_path / name)})
        marks.append(fingerprint(identity_of(config, catalog)))
    assert marks[0] == marks[1] != marks[2]


def test_images_that_were_decoded_in_another_way_are_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, features and pretext tasks of images; runs on embeddings decode nothing."""
    catalog = index_arrays(np.zeros((2, 2, 2), np.uint8), [0, 1], str(tmp_path / "catalog"))
    np.savez(tmp_path / "f.npz", features=np.eye(3, dtype=np.float32), label=np.arange(3))
    embeddings = index(str(tmp_path / "f.npz"), str(tmp_path / "embeddings"))

    def marks() -> list[str]:
        config, rows = replace(RunConfig(), {"pretext.task": "rotation"}), np.arange(2)
        features = Features(model_source(config, catalog, None), config.transform, FeatureConfig(), False)
        recipe = PretextRecipe(config.pretext, config.model, config.transform, 0, rows, Store(str(tmp_path)))
        return [
            fingerprint(identity_of(config, embeddings)), fingerprint(identity_of(config, catalog)),
            Extraction(catalog, rows, features).fingerprint, pretext.name(recipe, catalog.fingerprint),
        ]  # fmt: skip

    before = marks()
    for module in (provenance, measures, pretext):
        monkeypatch.setattr(module, "DECODING", 99)
    assert [one == other for one, other in zip(before, marks(), strict=True)] == [True, False, False, False]
