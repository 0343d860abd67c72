"""The configuration of a run: a frozen, validated tree, the same in Python, on the command line and as JSON.

The job file *is* the config: ``CONFIG = RunConfig(...)``; a variant is ``replace(CONFIG, {"train.lr": 0.3})``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Dtype = Literal["float16", "bfloat16", "float32"]
Scalar = bool | int | float | str


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names each field, what was expected and what was got."""


def _json_object(texts: list[str]) -> dict[str, Any]:
    value = json.loads(texts[0])
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {texts[0]}")
    return value


_JSON = tyro.constructors.PrimitiveConstructorSpec[dict[str, Any]](
    nargs=1,
    metavar="JSON",
    instance_from_str=_json_object,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [json.dumps(value)],
)


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


class ImbalanceConfig(_Frozen):
    """An artificially imbalanced pool (Emam et al. 2021, section 4; Cui et al. 2019)."""

    kind: Literal["none", "exponential", "step"] = "none"
    """exponential: class c keeps n_max * factor^(c/(C-1)); step: the second half of the classes keeps n_max *
    factor."""
    factor: float = Field(0.1, gt=0, le=1)
    """Size of the smallest class over that of the largest."""


class DataConfig(_Frozen):
    """Where the images (or brought-in embeddings) are."""

    root: str = ""
    """Images: a folder, a glob of WebDataset tars or Parquet files, a CSV/JSONL manifest; or one .npz of embeddings.
    Path or URI."""
    test_root: str = ""
    """The test images, where they are not already under train/ and val/ (or test/) of the root."""
    catalog: str = ""
    """Directory of the catalog; built there from the root when absent. Empty: under the runs folder, by the root's
    name."""
    format: Literal["auto", "folder", "webdataset", "parquet", "manifest", "embeddings"] = "auto"
    """Kind of source; auto looks at the file names."""
    key: str = ""
    """Parquet and manifests: column that names an image, or a template such as '{split}/{class}/{filename}'."""
    label_column: str = "label"
    """Parquet and manifests: column with the class (name or number)."""
    image_column: str = "image"
    """Parquet: column with the encoded image bytes. Manifests: column with the image's path or URI is 'uri' or
    'path'."""
    on_problem: Literal["refuse", "exclude"] = "refuse"
    """What to do with duplicate keys, broken images and unknown classes: refuse to index, or leave them out (and
    report them)."""
    check: Literal["decode", "none"] = "decode"
    """decode: open every image once while indexing, so that broken ones are found now; none: trust the source."""
    train_list: str = ""
    """A list file ('key label' a line, as ImageNet-LT ships) that restricts the pool to the images it names."""
    imbalance: ImbalanceConfig = ImbalanceConfig()
    """Make the pool imbalanced."""
    classes: tuple[str, ...] = ()
    """Names of the classes in order of their numbers, where the source does not say them (a flat folder, masks)."""
    mask_root: str = ""
    """Segmentation: folder of PNG masks under the images' names."""
    mask_suffix: str = ".png"
    """Segmentation: what a mask's name ends with, instead of the image's extension."""
    mask_column: str = "mask"
    """Segmentation, Parquet: column with the encoded masks."""
    ignore_label: int = Field(255, ge=0, le=255)
    """Segmentation: number of void pixels, which count nowhere."""


class SplitConfig(_Frozen):
    """The held-out validation set, the seed set, and a test set where the source brings none."""

    val_size: int = Field(0, ge=0)
    """Images held out for validation (early stopping). Their labels are counted separately, never in the budget."""
    val_how: Literal["balanced", "random"] = "balanced"
    """balanced: the same number per class."""
    val_max_class_share: float = Field(0.5, gt=0, le=1)
    """No class gives more than this share of its images to validation, so that rare classes are not swallowed."""
    seed_set_size: int = Field(1000, ge=1)
    """Labels before the first query."""
    seed_set_how: Literal["random", "balanced", "pretext", "k_means"] = "random"
    """balanced looks at hidden labels; pretext: as round 0 of pt4al (the hardest images by pretext loss, with the
    strategy's options); k_means: nearest to the centroids of the starting weights' embeddings."""
    test_share: float = Field(0.0, ge=0, lt=1)
    """Share of all images kept as test set; only for a source that has no test split."""


class TransformConfig(_Frozen):
    """What happens to an image between decoding and the model (normalisation is the model's)."""

    size: int = Field(224, ge=1)
    """Side of the square the model sees, in pixels."""
    train: Literal["random_resized_crop", "crop_pad", "eval"] = "random_resized_crop"
    """random_resized_crop (ImageNet), crop_pad (CIFAR: pad, then a random crop of the same size), eval (no
    augmentation)."""
    flip: bool = True
    """Random horizontal flip in training."""
    pad: int = Field(4, ge=0)
    """Border in pixels for crop_pad."""
    resize: int = Field(256, ge=0)
    """Evaluation: shorter side before the center crop; 0 resizes straight to size x size."""


class ModelConfig(_Frozen):
    """Backbone and head."""

    backbone: str = "resnet50"
    """Any model name of timm."""
    options: Annotated[dict[str, Any], _JSON] = Field(default_factory=dict)
    """Keyword arguments for timm.create_model, on the command line as JSON: '{"drop_path_rate": 0.1}'."""
    checkpoint: str = ""
    """Self-supervised or other weights for the backbone: MoCo, SimCLR, SimSiam, DINO, plain timm or torchvision state
    dicts. Path or URI."""
    pretrained: bool = False
    """Let timm download its weights."""
    small_stem: bool = False
    """3x3 stride-1 first convolution and no max-pool, for images of about 32 pixels (ResNets)."""
    mean: tuple[float, float, float] | None = None
    """Channel means in [0, 1]; None takes the timm model's own."""
    std: tuple[float, float, float] | None = None
    """Channel standard deviations; None takes the timm model's own."""


class OptimisationConfig(_Frozen):
    """Steps of gradient descent."""

    epochs: int = Field(60, ge=1)
    """Most epochs per round."""
    batch_size: int = Field(128, ge=1)
    """Images per step over all workers together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum) or adamw."""
    lr: float = Field(0.1, gt=0)
    """Learning rate at the first epoch."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty (sgd) or decoupled decay (adamw)."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """Per epoch. step: times gamma every step_size epochs; cosine: to 0 at the last epoch."""
    step_size: int = Field(20, ge=1)
    """Epochs between two steps of the step schedule."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of each step of the step schedule."""
    amp: Literal["none", "fp16", "bf16"] = "none"
    """Mixed precision."""
    clip_norm: float = Field(0.0, ge=0)
    """Clip the gradient to this norm; 0 does not."""
    checkpoint_every: int = Field(1, ge=1)
    """Epochs between the checkpoints from which a killed training goes on."""


class TrainConfig(OptimisationConfig):
    """How a round's model is trained."""

    mode: Literal["finetune", "linear"] = "finetune"
    """finetune: all weights, with Ray Train; linear: a head on cached embeddings of the frozen backbone."""
    patience: int = Field(0, ge=0)
    """Stop after this many epochs without a better validation accuracy; 0 trains all epochs."""
    class_weights: bool = False
    """Weight the loss by the inverse class frequency of the labeled set."""
    freeze_bn: bool = False
    """Keep the statistics of BatchNorm layers as the checkpoint has them."""
    sync_bn: bool = False
    """Share BatchNorm statistics between GPU workers."""
    warm_start: bool = False
    """Start from the previous round's weights instead of the checkpoint (or fresh weights)."""


class PretextConfig(OptimisationConfig):
    """A network trained without labels on the whole pool, once, before the first round (Yi et al. 2022)."""

    task: Literal["none", "rotation", "colorization", "simsiam", "simclr"] = "none"
    """What it learns; its loss per image orders the pool for the strategy pt4al and the seed set "pretext"."""
    as_backbone: bool = False
    """Let every round start from its encoder (frozen under linear evaluation), instead of model.checkpoint."""
    epochs: int = Field(15, ge=1)
    """Passes over the pool."""
    batch_size: int = Field(256, ge=2)
    """Images per step over all workers together."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty (sgd) or decoupled decay (adamw)."""
    step_size: int = Field(30, ge=1)
    """Epochs between two steps of the step schedule."""
    temperature: float = Field(0.5, gt=0)
    """simclr: temperature of the NT-Xent loss."""


class VaalConfig(_Frozen):
    """The networks of the strategy vaal (Sinha et al. 2019); the values are those of Emam et al. 2021 for ImageNet (for
    CIFAR-10: image_size 32, latent 32, adversary 1, lr 5e-4, lr_discriminator 5e-4)."""

    image_size: int = Field(64, ge=16, multiple_of=16)
    """Side in pixels that images are resized to."""
    latent: int = Field(64, ge=1)
    """Width of the latent code."""
    width: int = Field(128, ge=1)
    """Channels of the first convolution; each of the next three has twice as many."""
    adversary: float = Field(10.0, ge=0)
    """Weight of looking labeled in the autoencoder's loss."""
    lr: float = Field(5e-5, gt=0)
    """Learning rate of the autoencoder (Adam)."""
    lr_discriminator: float = Field(1e-3, gt=0)
    """Learning rate of the discriminator (Adam)."""
    epochs: int = Field(60, ge=1)
    """Passes over the labeled images, each beside as many unlabeled ones."""
    batch_size: int = Field(128, ge=2)
    """Labeled images per step over all workers together."""
    checkpoint_every: int = Field(1, ge=1)
    """Epochs between the checkpoints from which a killed training goes on."""


class FeatureConfig(_Frozen):
    """Embeddings and logits on disk."""

    dtype: Dtype = "float16"
    """Storage type of embeddings."""
    logits_dtype: Dtype = "float32"
    """Storage type of logits (fine-tuning only: with a frozen backbone logits are recomputed from the head)."""
    batch_size: int = Field(128, ge=1)
    """Images per forward pass."""
    part_rows: int = Field(0, ge=0)
    """Rows per file, the unit of resuming; 0 chooses by image size."""
    keep: Literal["last", "all"] = "last"
    """Which rounds' features stay on disk (fine-tuning writes new ones every round)."""


class ResourceConfig(_Frozen):
    """Who does the work. Nothing here changes which images are picked."""

    address: str = ""
    """Ray cluster to join: host:port, or auto for the one on this machine. Empty joins the one set in the environment
    (as in a submitted job), else starts one here."""
    num_cpus: int = Field(0, ge=0)
    """Logical CPUs of a cluster started here; 0: as many as the machine has, but enough for all workers of the run."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: GPUs where the cluster has some."""
    train_workers: int = Field(1, ge=1)
    """Ray Train workers; the batch is shared between them."""
    cpus_per_train_worker: float = Field(1, gt=0)
    """CPUs each Ray Train worker reserves."""
    decode_cpus: float = Field(1, gt=0)
    """CPUs per decoding task."""
    extract_actors: int = Field(1, ge=1)
    """Model replicas that embed the pool, one GPU each where there are GPUs."""
    select_shards: int = Field(1, ge=1)
    """Parts the pool is cut into for selection."""
    select_workers: Literal["process", "ray"] = "ray"
    """Where selection runs: in this process, or on one actor per shard."""
    cpus_per_shard: float = Field(1, gt=0)
    """CPUs each selection actor reserves."""


class RunConfig(_Frozen):
    """One active-learning run, from the seed set to the last round."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9._-]+$")
    """What you call it; first part of the run directory's name."""
    root: str = "runs"
    """Folder (path or URI) for run directories; each is called <name>-<fingerprint>."""
    run_dir: str = ""
    """A run directory of your own choice, instead of one under the root."""
    seed: int = Field(0, ge=0)
    """Seed of everything random: splits, seed set, initial weights, augmentation, strategies."""
    rounds: int = Field(8, ge=1)
    """Models trained; labels are bought after each but the last."""
    budget: int = Field(10_000, ge=1)
    """Labels bought per round."""
    task: Literal["classification", "segmentation"] = "classification"
    """segmentation: images with masks; accuracies are then of pixels, and mIoU is reported."""
    strategy: str = "base"
    """Query strategy: random, confidence, margin, entropy, mase, base, k_center, robust_k_center, partitioned_k_center,
    badge, partitioned_badge, cluster_margin, vaal, pt4al, k_means, or one of your own; balanced_random and balancing
    peek at labels."""
    strategy_options: dict[str, Scalar] = Field(default_factory=dict)
    """Options of the strategy, e.g. class_order seeded."""
    subset_labeled: int = Field(0, ge=0)
    """Labeled images that take part in a selection, drawn anew each round; 0 with subset_unlabeled 0: all."""
    subset_unlabeled: int = Field(0, ge=0)
    """Unlabeled images that take part in a selection (to reproduce published runs; no strategy here needs it)."""
    top_k: tuple[int, ...] = (5,)
    """Which top-k accuracies to report besides top-1."""
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    transform: TransformConfig = TransformConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    pretext: PretextConfig = PretextConfig()
    vaal: VaalConfig = VaalConfig()
    features: FeatureConfig = FeatureConfig()
    resources: ResourceConfig = ResourceConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.train.patience and self.train.patience < self.train.epochs and self.split.val_size == 0:
            raise ValueError(
                f"train.patience={self.train.patience} stops early on validation accuracy, but split.val_size=0: "
                "give validation images, or train.patience=0"
            )
        subset = self.subset_labeled, self.subset_unlabeled
        if any(subset) and (not self.subset_labeled or self.subset_unlabeled < self.budget):
            raise ValueError(
                f"subset_labeled, subset_unlabeled: expected at least 1 and at least the budget of {self.budget}, or 0 "
                f"and 0, got {subset[0]} and {subset[1]}"
            )
        if self.task == "segmentation":
            _fits_segmentation(self)
        if any(k < 2 for k in self.top_k):
            raise ValueError(f"top_k: expected numbers of 2 and more, got {self.top_k} (top-1 is always reported)")
        return self

    def to_json(self) -> str:
        """The whole tree as JSON text; `from_json` gives it back."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read what `to_json` wrote. Raises ConfigError that names each unknown field and impossible value."""
        try:
            return _validated(json.loads(text))
        except json.JSONDecodeError as error:
            raise ConfigError(f"expected a configuration in JSON, got something else: {error}") from None


def _fits_segmentation(config: RunConfig) -> None:
    for path, got, expected in (
        ("train.mode", config.train.mode, "finetune"),
        ("train.class_weights", config.train.class_weights, False),
        ("transform.resize", config.transform.resize, 0),
        ("split.seed_set_how", "random" if config.split.seed_set_how != "balanced" else "balanced", "random"),
        ("split.val_how", config.split.val_how if config.split.val_size else "random", "random"),
        ("data.imbalance.kind", config.data.imbalance.kind, "none"),
    ):
        if got != expected:
            raise ValueError(f"{path}: expected {expected} in segmentation, got {got}")


# What may change between two starts of one run without changing a single pick: places, names, workers, and how far it
# goes.
_NOT_IN_FINGERPRINT = ("name", "root", "run_dir", "rounds", "resources")
_NOT_IN_FINGERPRINT_OF_DATA = (
    "root",
    "test_root",
    "catalog",
    "format",
    "key",
    "label_column",
    "image_column",
    "check",
    "on_problem",
    "mask_root",
)


def identity(config: RunConfig, data_fingerprint: str, weights_fingerprint: str) -> dict[str, Any]:
    """What makes a run this run: the fields that can change a pick, and the content of the data and of the weights."""
    tree = config.model_dump(mode="json")
    for name in _NOT_IN_FINGERPRINT:
        del tree[name]
    for name in _NOT_IN_FINGERPRINT_OF_DATA:
        del tree["data"][name]
    del tree["features"]["keep"], tree["model"]["checkpoint"]
    for part in ("train", "pretext", "vaal"):
        del tree[part]["checkpoint_every"]
    return {**tree, "data_fingerprint": data_fingerprint, "weights_fingerprint": weights_fingerprint}


def fingerprint(value: Any) -> str:
    """Ten hex digits of any JSON value; equal values give equal fingerprints on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def replace(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """A copy with some fields changed by path: ``replace(CONFIG, {"train.lr": 0.3, "strategy": "margin"})``.

    Raises ConfigError on a path that names no field and on values the field does not take.
    """
    tree = config.model_dump()
    for path, value in overrides.items():
        node: Any = tree
        *parents, leaf = path.split(".")
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or (leaf not in node and "options" not in path):
            raise ConfigError(f"{path}: no such field in RunConfig")
        node[leaf] = value.model_dump() if isinstance(value, BaseModel) else value
    return _validated(tree)


def _validated(tree: Any) -> RunConfig:
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """A pydantic error in one line per field: the path, what was expected, what was got."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{path}: no such field")
        elif item["type"] == "value_error" and not path:
            lines.append(str(item["ctx"]["error"]))
        else:
            lines.append(f"{path}: {item['msg']}, got {item['input']!r}")
    return "\n".join(lines)
