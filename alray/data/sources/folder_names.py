"""Which names of folders mean neither a class nor a split: folders of images as such, and of annotations."""

from __future__ import annotations

import re
from collections.abc import Collection

from alray.data.sources.split_names import SPLITS, kind_of_split

# Folders that hold the images of a data set, beside its annotations or inside a split or a class.
_IMAGES = frozenset({
    "images", "image", "imgs", "img", "jpegimages", "pngimages", "leftimg8bit", "701_stillsraw_full", "inputs",
})  # fmt: skip
_WORDS = (
    r"masks?|labels?|labelled|annot|annots|annotations?|gt|ground[ _-]?truth|gtfine|gtcoarse|seg|segmentations?|"
    r"segmentation[ _-]?maps?|segmentation[ _-]?masks?|segmentationclass(?:aug|raw)?|segmentationobject|trimaps?|"
    r"instance[ _-]?masks?|semantic|labelids|labeledapproved_full"
)
_ANNOTATIONS = re.compile(_WORDS)
_OF_SPLIT = re.compile(rf"(?:({'|'.join(sorted(SPLITS, key=len, reverse=True))})[ _.-]?(?:{_WORDS}))")


def holds_images(name: str) -> bool:
    """Whether a folder of this name holds images as such: `images` is no class."""
    return name.casefold() in _IMAGES


def annotates(name: str, beside: Collection[str]) -> bool:
    """Whether a folder of this name holds masks of the images in one of the folders beside it.

    trainannot does so beside train, SegmentationClass beside JPEGImages, ground_truth beside test. The folder mask of
    the classes mask and no_mask does not.
    """
    of_split = _OF_SPLIT.fullmatch(name.casefold())
    if of_split:
        return any(kind_of_split(other) == kind_of_split(of_split[1]) for other in beside)
    if not _ANNOTATIONS.fullmatch(name.casefold()):
        return False
    return any(holds_images(other) or kind_of_split(other) is not None for other in beside)


def is_mask_member(suffix: str) -> bool:
    """Whether the member of a tar with this suffix, such as seg.png, is a mask of the image with the same name."""
    return any(_ANNOTATIONS.fullmatch(word) for word in re.split(r"[^a-z]+", suffix.casefold().rpartition(".")[0]))
