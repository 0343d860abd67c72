"""The parts of a configuration: what is read, split, transformed, modelled, trained, stored, and by whom."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from alray.config.fields import COMMON, OUTSIDE, PAIRS, PLACE, Frozen
from alray.config.pairs import Pairs

Dtype = Literal["float16", "bfloat16", "float32"]
Number = Annotated[int, Field(ge=1)] | Literal["auto"]


class ImbalanceConfig(Frozen):
    """An artificially imbalanced pool (Emam et al. 2021, section 4; Cui et al. 2019)."""

    kind: Literal["none", "exponential", "step"] = "none"
    """exponential: class c keeps n_max * factor^(c/(C-1)); step: the second half of the classes keeps n_max *
    factor."""
    factor: float = Field(0.1, gt=0, le=1)
    """Size of the smallest class over that of the largest."""


class IndexConfig(Frozen):
    """What is indexed, and how: everything that a catalog is made of."""

    root: Annotated[str, COMMON, OUTSIDE, PLACE] = ""
    """Images: a folder, a glob of WebDataset tars or Parquet files, a CSV/JSONL manifest; or one .npz of embeddings.
    Path or URI."""
    test_root: Annotated[str, OUTSIDE, PLACE] = ""
    """The test images, where they are not already under train/ and val/ (or test/) of the root."""
    test_labels: Annotated[str, OUTSIDE, PLACE] = ""
    """A list of the classes of test images that have none of their own, such as ImageNet's flat validation folder:
    lines 'file class' (space, comma or tab), LOC_val_solution.csv, one class a line in the order of the files' names,
    or the official ILSVRC2012_validation_ground_truth.txt with meta.mat beside it."""
    test_label_numbers: Annotated[Literal["refuse", "sorted"], OUTSIDE] = "refuse"
    """What numbers in test_labels are. sorted: positions, from 0, in the sorted class names, as torchvision and timm
    count; refuse: an error, because other lists count otherwise."""
    format: Annotated[
        Literal["auto", "folder", "webdataset", "parquet", "arrow", "manifest", "embeddings"], COMMON, OUTSIDE
    ] = "auto"
    """Kind of source; auto looks at the file names."""
    key: Annotated[str, OUTSIDE] = ""
    """Parquet and manifests: column that names an image, or a template such as '{split}/{class}/{filename}'. Tars: a
    template of name (the member's), file (the tar's), row, split and class."""
    label_column: Annotated[str, OUTSIDE] = "label"
    """Parquet, manifests, .npz and .json members of tars: column or array with the class (name or number). Where there
    is no `label`, the one with a usual name is taken, and told. Empty: the images have no labels; folders are then no
    classes, either (as always in segmentation)."""
    image_column: Annotated[str, OUTSIDE] = "image"
    """Parquet: column with the encoded image bytes. Tars: suffix of the members that are images, where a sample has
    several. Manifests: column with the path or URI, by default 'uri' or 'path'. Embeddings: their array. Where none of
    these names is there, the only one that fits is taken, and told."""
    split: Annotated[dict[str, Literal["train", "test", "validation", "ignore", "class"]], PAIRS, OUTSIDE] = Field(
        default_factory=dict
    )
    """What names of folders, shards and splits mean, as in: --split extra train old ignore. validation: they are the
    validation set. class: it is a class and no split. Other names mean what is usual, in any case: train, training;
    val, valid, validation, dev, eval (test images here); test, testing."""
    class_depth: Annotated[int, OUTSIDE] = Field(0, ge=0)
    """Folders: how many of the folders between the split and the file name the class; 0: all, and as many for every
    image."""
    links: Annotated[Literal["inside", "all", "none"], OUTSIDE] = "inside"
    """Which symbolic links are followed: inside: those to files in the root (a folder in it is listed under its own
    name anyway); all: those that lead elsewhere, too; none. Links that are left out are counted. In a tar, links to its
    own members are always followed, also hard ones."""
    yes: Annotated[bool, OUTSIDE] = False
    """Make the catalog although what was understood of the source looks wrong."""
    on_problem: Annotated[Literal["refuse", "exclude"], OUTSIDE] = "refuse"
    """What to do with duplicate keys, broken images and unknown classes: refuse to index, or leave them out and report
    them."""
    check: Annotated[Literal["decode", "none"], OUTSIDE] = "decode"
    """decode: open every image once while indexing, so that broken ones are found now, and in segmentation every mask
    before the first run; none: trust the source."""
    pixel_range: Annotated[tuple[float, float] | None, OUTSIDE] = None
    """The values that become black and white where images have more than 8 bits per channel, e.g. 0 4095; values
    outside are clipped. None: 0 to 65535 in 16 bits, 0 to 1 in floats; integers of 32 bits must be declared."""
    classes: tuple[str, ...] = ()
    """Names of the classes in order of their numbers, where the source does not give them (a flat folder, masks)."""

    @field_validator("pixel_range")
    @classmethod
    def _ascending(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError("expected two numbers of which the second is larger")
        return value


class DataConfig(IndexConfig):
    """The source of the images, or of your own embeddings."""

    catalog: Annotated[str, COMMON, OUTSIDE, PLACE] = ""
    """Directory of the catalog; built there from the root when absent. Empty: under the runs folder, by the root's
    name. On a command line, a catalog without a root replaces the root of the job file."""
    train_list: Annotated[str, OUTSIDE, PLACE] = ""
    """A list file ('key label' a line, as ImageNet-LT ships) that restricts the pool to the images it names."""
    unlabeled: Literal["refuse", "exclude"] = "refuse"
    """Images of the pool that have no label in the source, in a run that buys its labels from the source: refuse to
    start, or leave them out of the pool (exclude; also of the pool of an oracle of your own)."""
    imbalance: ImbalanceConfig = ImbalanceConfig()
    """Make the pool imbalanced."""
    mask_root: Annotated[str, OUTSIDE, PLACE] = ""
    """Segmentation: folder of PNG masks under the images' names."""
    mask_suffix: str = ".png"
    """Segmentation: what a mask's name ends with, instead of the image's extension (or data.image_suffix)."""
    image_suffix: Annotated[str, OUTSIDE] = ""
    """Segmentation: the end of an image's name that is cut off to name its mask, e.g. _leftImg8bit.png. Empty: the
    extension."""
    mask_column: str = "mask"
    """Segmentation, Parquet: column with the encoded masks."""
    ignore_label: int = Field(255, ge=0, le=255)
    """Segmentation: number of void pixels, which count nowhere. One of the classes may have it; the network then has no
    channel for that class."""


class SplitConfig(Frozen):
    """The validation set, the seed set, and a test set if the source has none."""

    val_size: Annotated[int, COMMON] = Field(0, ge=0)
    """Images held out for validation (early stopping). Their labels are counted separately, never in the budget."""
    val_how: Literal["balanced", "random", "labeled"] = "balanced"
    """balanced: the same number per class, which looks at hidden labels. random: any images of the pool, whose labels
    are asked for first and counted apart. labeled: of the images that have a label already, the same number per
    class."""
    val_max_class_share: float = Field(0.5, gt=0, le=1)
    """No class gives more than this share of its images to validation, so that rare classes are not swallowed."""
    seed_set_size: Annotated[int, COMMON] = Field(1000, ge=1)
    """Labels before the first query."""
    seed_set_how: Annotated[Literal["random", "balanced", "pretext", "k_means", "given"], COMMON] = "random"
    """How the first images are chosen. random: any images of the pool. balanced: the same number of images per class;
    it looks at hidden labels. given: all images that have a label in the source. If there are none, split.cold_start
    decides. k_means: the images nearest to k-means centroids, on embeddings of the starting weights. pretext: hard
    images by pretext loss, which is round 0 of pt4al. A run with pt4al then goes on with its round 1. After any other
    seed set, its first query is round 0."""
    cold_start: Literal["random", "pretext", "k_means"] = "random"
    """How the seed set is chosen under seed_set_how given if the source has no labels."""
    seed_set_options: Pairs = Field(default_factory=dict)
    """Options of pt4al (pretext) or k_means, for the seed set alone: cold_start middle, or metric cosine. If the run's
    strategy is the same one, they are added to its options. Otherwise the defaults of pt4al or k_means apply."""
    test_share: float = Field(0.0, ge=0, lt=1)
    """Share of all images kept as test set; only for a source with labels that has no test split."""
    val_list: Annotated[str, OUTSIDE, PLACE] = ""
    """A list file of your own validation set, instead of one that is drawn: a key on each line, or 'key class'. Images
    without a label are labeled first. split.val_size stays 0."""
    test_list: Annotated[str, OUTSIDE, PLACE] = ""
    """A list file of the test set, as split.val_list. Other test images of the source are then not used."""


class TransformConfig(Frozen):
    """What happens to an image between decoding and the model (normalisation is the model's)."""

    size: Annotated[int, COMMON] = Field(224, ge=1)
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


class LabelConfig(Frozen):
    """Who gives the labels, and how the run waits for them."""

    oracle: Annotated[str, COMMON] = "hidden"
    """hidden replays the labels of the source, as research does; files writes each batch for people, who answer with
    `alray label`; label_studio asks people in Label Studio; package.module:Class is an oracle of your own."""
    new_classes: Literal["refuse", "allow", "always"] = "refuse"
    """allow: a label that names no class so far adds a class, from the next round on, unless data.classes lists the
    classes: a list is closed. always: with a list, too."""
    overlap: Literal[0, 1] = 0
    """Batches that are chosen ahead. 1: while one batch is out, the next one is chosen with the model that there is,
    and given out as well, so that people always have a batch while the next model is trained. Every batch after the
    first is then chosen by a model that knows one batch less. Labels of the source (oracle hidden) come one round late,
    to study what that costs."""
    wait: Annotated[Literal["auto", "exit", "poll"], OUTSIDE] = "auto"
    """What to do while people label. exit: stop with exit code 75; the same command goes on. poll: look again every
    labels.poll_seconds. auto: exit at a terminal, poll in a job that was submitted to a cluster."""
    poll_seconds: Annotated[float, OUTSIDE] = Field(30.0, gt=0)
    """Seconds between two looks."""
    url: Annotated[str, OUTSIDE] = "http://localhost:8080"
    """Label Studio: its address. The token of a user is in the environment variable LABEL_STUDIO_API_KEY."""
    project: Annotated[str, OUTSIDE] = ""
    """Label Studio: the number or the title of a project, which is made if there is none; empty: the run's name."""
    images: Annotated[Literal["auto", "embed", "uri"], OUTSIDE] = "auto"
    """Label Studio: where browsers find images. auto: presigned URLs for s3://, files below labels.local_root by
    local-files serving; other images are in the tasks, as JPEG. embed: all are. uri: URIs as they are in the catalog,
    for a project with a cloud storage of its own."""
    local_root: Annotated[str, OUTSIDE, PLACE] = ""
    """Label Studio: the server's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, if the images of this machine are below it."""
    annotations: Annotated[int, OUTSIDE] = Field(1, ge=1)
    """Label Studio: how many people look at an image before its answer counts."""
    agreement: Annotated[Literal["majority", "dawid_skene"], OUTSIDE] = "majority"
    """Label Studio: how different answers become one. majority: the most frequent one; a tie waits for one more person.
    dawid_skene: the most probable one, by how often each person confuses which classes. Of masks, majority decides each
    pixel, which is void after a tie."""
    cost: Annotated[float, OUTSIDE] = Field(0.0, ge=0)
    """Price of one label, in any currency; 0: money is counted nowhere."""

    def lets_come(self, listed: Collection[str]) -> bool:
        """Whether labels may add classes. listed: data.classes."""
        return self.new_classes == "always" or (self.new_classes == "allow" and not listed)

    def remedy(self, listed: Collection[str]) -> str:
        """What would let labels add classes, in words. listed: data.classes."""
        if not listed:
            return "in another run --labels.new-classes allow lets others come"
        return "data.classes lists them all; in another run --labels.new-classes always lets others come"


class StopConfig(Frozen):
    """When a run ends before its last round; 0 switches a rule off. `rounds` stays the upper limit. A run that stopped
    goes on when it is started again with a higher limit."""

    labels: int = Field(0, ge=0)
    """Stop when the labeled set has so many labels. The seed set counts; validation and test labels do not."""
    money: float = Field(0.0, ge=0)
    """Stop when this sum does not pay for one more label at labels.cost. Every label that was asked for counts: of the
    seed set, the validation set, the rounds, and the draws of `alray label --test`; labels that the source gave do
    not."""
    target: Annotated[float, COMMON] = Field(0.0, ge=0, le=1)
    """Stop when the accuracy on the validation set is at least this fraction."""
    flat_rounds: int = Field(0, ge=0)
    """Stop when the best validation accuracy of the last so many rounds is not more than stop.flat_gain above the best
    one before."""
    flat_gain: float = Field(0.0, ge=0, lt=1)
    """The gain, a fraction, that stop.flat_rounds asks for."""


class ModelConfig(Frozen):
    """Backbone and head."""

    backbone: Annotated[str, COMMON] = "resnet50"
    """Any model name of timm, or hf-hub:OWNER/NAME for a model of the Hugging Face Hub, which timm then downloads."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for timm.create_model, on the command line as JSON: '{"drop_path_rate": 0.1}'."""
    checkpoint: Annotated[str, COMMON, OUTSIDE, PLACE] = ""
    """Self-supervised or other weights for the backbone, of any family that `alray weights` lists. Path or URI."""
    checkpoint_part: str = ""
    """Which copy of the backbone to take from a checkpoint that has several, by its name in the file: state_dict,
    student, encoder_k. Empty: EMA before plain weights, a teacher before its student, an encoder before its momentum
    copy."""
    pretrained: Annotated[bool, COMMON] = False
    """Let timm download its weights."""
    small_stem: bool = False
    """3x3 stride-1 first convolution and no max-pool, for images of about 32 pixels (ResNets)."""
    mean: tuple[float, float, float] | None = None
    """Channel means in [0, 1]; None takes the timm model's own."""
    std: tuple[float, float, float] | None = None
    """Channel standard deviations; None takes the timm model's own."""

    @property
    def on_hub(self) -> bool:
        """Whether the backbone is a model of the Hugging Face Hub, which timm downloads."""
        return self.backbone.startswith(("hf-hub:", "hf_hub:"))

    def without_weights(self) -> ModelConfig:
        """The same model with fresh weights."""
        return self.model_copy(update={"checkpoint": "", "checkpoint_part": "", "pretrained": False})


class FeatureConfig(Frozen):
    """Embeddings and logits on disk."""

    dtype: Dtype = "float16"
    """Storage type of embeddings."""
    logits_dtype: Dtype = "float32"
    """Storage type of logits (fine-tuning only: with a frozen backbone logits are recomputed from the head)."""
    batch_size: int = Field(128, ge=1)
    """Images per forward pass."""
    part_rows: int = Field(0, ge=0)
    """Rows per file, the unit of resuming; 0 chooses by image size."""
    keep: Annotated[Literal["last", "all"], OUTSIDE] = "last"
    """Which rounds' features stay on disk (fine-tuning writes new ones every round)."""


class ResourceConfig(Frozen):
    """Who does the work. From the same features every strategy picks the same images under any of these settings. The
    weights of a trained network depend slightly on train_workers: by rounding, and because each worker's BatchNorm sees
    its own part of a batch (except with train.freeze_bn, or sync_bn on GPUs)."""

    address: Annotated[str, COMMON] = ""
    """Ray cluster to join: host:port, or auto for the one on this machine. Empty joins the one set in the environment
    (as in a submitted job), else starts one here."""
    num_cpus: int = Field(0, ge=0)
    """Logical CPUs of a cluster started here; 0: as many as the machine has, but enough for all workers of the run."""
    use_gpu: Annotated[Literal["auto", "yes", "no"], COMMON] = "auto"
    """auto: GPUs where the cluster has some. no: no GPU for anything, not for selection and linear heads either. The
    driver of a run that joins a cluster uses none in any case."""
    train_workers: Annotated[Number, COMMON] = "auto"
    """Ray Train workers; the batch is shared between them. auto: as many as the cluster has GPUs (or nodes, if no GPU
    is used), but at least 32 images of a batch for each. A run keeps what was chosen for it, on another cluster,
    too."""
    train_placement: Literal["pack", "spread"] = "pack"
    """pack: training workers and their decoders on as few nodes as possible, where workers exchange gradients fastest.
    spread: over as many nodes as possible, where nodes have too few CPUs to decode for all. In a trial of a sweep they
    are where the trial is."""
    cpus_per_train_worker: float = Field(1, gt=0)
    """CPUs each Ray Train worker reserves."""
    decode_cpus: float = Field(1, gt=0)
    """CPUs per decoding task."""
    kept_mib: int = Field(256, ge=0)
    """The most MiB of decoded images that a training worker keeps between epochs, in Ray's object store. A set of
    images that takes no more is decoded once, and not in every epoch; the weights are the same. 0: none is kept."""
    extract_actors: Annotated[Number, COMMON] = "auto"
    """Model replicas that embed the pool, one GPU each where there are GPUs. auto: as many as GPUs (or nodes)."""
    select_shards: Annotated[Number, COMMON] = "auto"
    """Parts the pool is cut into for selection. auto: as many as GPUs (or nodes)."""
    select_workers: Literal["process", "ray"] = "ray"
    """Where selection runs: in this process, or on one actor per shard, with a part of a GPU for each actor if the run
    and the strategy use GPUs and there is room."""
    cpus_per_shard: float = Field(1, gt=0)
    """CPUs each selection actor reserves."""
    train_retries: int = Field(3, ge=0)
    """How often a training goes on from its last checkpoint after a worker was killed or a node was lost. Errors in the
    images or in the training itself are not tried again."""
    train_min_workers: int = Field(0, ge=0)
    """With fewer training workers than train_workers, but at least so many, a training begins or goes on where the
    cluster has no room for all of them, as after the loss of a node. The batch and the learning rate stay the same; the
    weights then depend slightly on what was lost. 0: never with fewer."""
    wait_minutes: float = Field(24 * 60, gt=0)
    """How long a stage waits for CPUs and GPUs that others hold, before the run ends with an error. The same command
    goes on."""
