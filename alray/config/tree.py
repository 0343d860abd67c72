"""The whole configuration of a run, and how one is changed by path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from alray.config.fields import COMMON, OUTSIDE, PLACE, ConfigError, Frozen, leaves, marked, nearest, validated
from alray.config.pairs import Pairs
from alray.config.sections import (
    DataConfig,
    FeatureConfig,
    LabelConfig,
    ModelConfig,
    ResourceConfig,
    SplitConfig,
    StopConfig,
    TransformConfig,
)
from alray.config.train_sections import PretextConfig, TrainConfig, VaalConfig


class RunConfig(Frozen):
    """One active-learning run, from the seed set to the last round."""

    name: Annotated[str, COMMON, OUTSIDE] = Field("run", pattern=r"^[A-Za-z0-9._-]+$")
    """What you call it; first part of the run directory's name."""
    root: Annotated[str, COMMON, OUTSIDE, PLACE] = "runs"
    """Folder (path or URI) for run directories; each is called <name>-<fingerprint>."""
    run_dir: Annotated[str, OUTSIDE, PLACE] = ""
    """A run directory of your own choice, instead of one under the root."""
    seed: Annotated[int, COMMON] = Field(0, ge=0)
    """Seed of everything random: splits, seed set, initial weights, augmentation, strategies."""
    rounds: Annotated[int, COMMON, OUTSIDE] = Field(8, ge=1)
    """Models trained; labels are bought after each but the last."""
    budget: Annotated[int, COMMON] = Field(10_000, ge=1)
    """Labels bought per round."""
    task: Literal["classification", "segmentation"] = "classification"
    """segmentation: images with masks; accuracies are then of pixels, and mIoU is reported."""
    strategy: Annotated[str, COMMON] = "base"
    """Query strategy: random, confidence, margin, entropy, mase, base, k_center, robust_k_center, partitioned_k_center,
    badge, partitioned_badge, cluster_margin, vaal, pt4al, k_means, or one of your own; balanced_random and balancing
    peek at labels."""
    strategy_options: Annotated[Pairs, COMMON] = Field(default_factory=dict)
    """Options of the strategy, as names and values: class_order seeded. `alray strategies` lists them. They are added
    to the options in the job file. The job file's options are dropped if you choose another strategy.
    --strategy-options without a pair drops them, too."""
    mlflow: Annotated[str, OUTSIDE] = ""
    """Tracking URI of MLflow, a server or a folder, where the run and its rounds are logged; needs the extra
    alray[mlflow]. Credentials belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. A sweep has
    sweep.mlflow instead."""
    subset_labeled: int = Field(0, ge=0)
    """Labeled images that take part in a selection, drawn anew each round; 0 with subset_unlabeled 0: all."""
    subset_unlabeled: int = Field(0, ge=0)
    """Unlabeled images that take part in a selection (to reproduce published runs; no strategy here needs it)."""
    top_k: tuple[int, ...] = (5,)
    """Which top-k accuracies to report besides top-1."""
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    labels: LabelConfig = LabelConfig()
    stop: Annotated[StopConfig, OUTSIDE] = StopConfig()
    transform: TransformConfig = TransformConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    pretext: PretextConfig = PretextConfig()
    vaal: VaalConfig = VaalConfig()
    features: FeatureConfig = FeatureConfig()
    resources: Annotated[ResourceConfig, OUTSIDE] = ResourceConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        split = self.split
        if not (self.data.catalog or split.val_size or split.val_list or "validation" in self.data.split.values()):
            self.refuse_patience()
        subset = self.subset_labeled, self.subset_unlabeled
        if any(subset) and (not self.subset_labeled or self.subset_unlabeled < self.budget):
            raise ValueError(
                f"subset_labeled, subset_unlabeled: expected at least 1 and at least the budget of {self.budget}, or 0 "
                f"and 0, got {subset[0]} and {subset[1]}"
            )
        if self.task == "segmentation":
            _fits_segmentation(self)
        _can_stop(self)
        if 0 < self.transform.resize < self.transform.size:
            raise ValueError(
                f"transform.resize: expected 0 or at least transform.size={self.transform.size}, got "
                f"{self.transform.resize}: the crop would be larger than the image"
            )
        if any(k < 2 for k in self.top_k):
            raise ValueError(f"top_k: expected numbers of 2 and more, got {self.top_k} (top-1 is always reported)")
        return self

    def refuse_patience(self) -> None:
        """Raise ConfigError if training waits for validation images, of which there are none."""
        if self.train.patience and self.train.patience < self.train.epochs:
            raise ConfigError(
                f"train.patience={self.train.patience} stops early on validation accuracy, but split.val_size=0: "
                "give validation images, or train.patience=0"
            )

    def to_json(self) -> str:
        """The whole tree as JSON text; `from_json` gives it back."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read what `to_json` wrote. Raises ConfigError that names each unknown field and impossible value."""
        try:
            return validated(cls, json.loads(text))
        except json.JSONDecodeError as error:
            raise ConfigError(f"expected a configuration in JSON, got something else: {error}") from None


_CROPS = "random_resized_crop or eval"


def _fits_segmentation(config: RunConfig) -> None:
    for path, got, expected in (
        ("train.mode", config.train.mode, "finetune"),
        ("train.class_weights", config.train.class_weights, False),
        ("transform.resize", config.transform.resize, 0),
        ("transform.train", _CROPS if config.transform.train != "crop_pad" else "crop_pad", _CROPS),
        ("transform.pad", config.transform.pad, TransformConfig().pad),
        ("split.seed_set_how", "random" if config.split.seed_set_how != "balanced" else "balanced", "random"),
        ("split.val_how", config.split.val_how if config.split.val_size else "random", "random"),
        ("data.imbalance.kind", config.data.imbalance.kind, "none"),
    ):
        if got != expected:
            raise ValueError(f"{path}: expected {expected} in segmentation, got {got}")


def _can_stop(config: RunConfig) -> None:
    stop = config.stop
    for path, value in (("stop.target", stop.target), ("stop.flat_rounds", stop.flat_rounds)):
        if value and not config.split.val_size:
            raise ValueError(
                f"{path}={value:g} looks at the validation accuracy, but split.val_size=0: give validation images, or "
                f"{path}=0"
            )
    early = [path for path in ("labels", "money", "target", "flat_rounds") if getattr(stop, path)]
    if config.labels.overlap and early:
        raise ValueError(
            f"stop.{early[0]}: expected labels.overlap=0 in a run that may end early, got {config.labels.overlap}: a "
            "batch that is handed out while another one is labeled cannot be taken back"
        )
    if stop.money and not config.labels.cost:
        raise ValueError(f"stop.money={stop.money:g} needs the price of a label: expected labels.cost above 0, got 0")
    if stop.flat_gain and not stop.flat_rounds:
        raise ValueError(f"stop.flat_gain={stop.flat_gain:g} needs stop.flat_rounds, got 0")


# The fields that name lists of images, and what the identity of a run calls the content of these files.
LISTS = {f"{section}.{name}": f"{name}_fingerprint" for section, name in (
    ("data", "train_list"), ("split", "val_list"), ("split", "test_list"),
)}  # fmt: skip

# Changing the owning field resets its options.
OWNERS = {"strategy_options": "strategy", "split.seed_set_options": "split.seed_set_how"}


def replace(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """A copy with some fields changed by path: ``replace(CONFIG, {"train.lr": 0.3, "strategy": "margin"})``.

    Another strategy starts without the options of the former one, unless the same call gives them: so do seed sets.
    Raises ConfigError on a path that names no field and on values the field does not take.
    """
    tree = config.model_dump()
    left: dict[str, Any] = {
        path: {} for path, owner in OWNERS.items() if owner in overrides and overrides[owner] != value_at(config, owner)
    }
    for path, value in {**left, **overrides}.items():
        node: Any = tree
        *parents, leaf = path.split(".")
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or (leaf not in node and "options" not in path):
            meant = ", ".join(nearest(path, leaves(RunConfig)))
            raise ConfigError(f"{path}: no such field in RunConfig; the nearest are {meant}")
        node[leaf] = value.model_dump() if isinstance(value, BaseModel) else value
    return validated(type(config), tree)


def places(config: RunConfig) -> dict[str, str]:
    """The paths and URIs of a configuration, by the paths of their fields; those that are empty are left out."""
    found = {path: value_at(config, path) for path, field in leaves(RunConfig).items() if marked(field, PLACE)}
    return {path: place for path, place in found.items() if place}


def value_at(config: RunConfig, path: str) -> Any:
    """The value of a field by its path."""
    return reduce(getattr, path.split("."), config)
