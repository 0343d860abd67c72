"""Formats that are known and not read: each by its ending, with what to do instead."""

from __future__ import annotations

from collections.abc import Sequence

_REPACK = "write its images to a folder, to tars (WebDataset) or to Parquet"
_UNPACK = "unpack it, and index the folder"

# By the ending of a file, in lower case: what it is, and what to do. The first that fits counts.
_KNOWN: dict[tuple[str, ...], tuple[str, str]] = {
    (".tfrecord", ".tfrecords", ".tfrec"): ("TFRecord", _REPACK),
    ("data.mdb", ".lmdb"): ("LMDB", _REPACK),
    (".h5", ".hdf5"): ("HDF5", f"{_REPACK}, or pass arrays to alray.data.catalog.index_arrays"),
    (".rec",): ("MXNet RecordIO", _REPACK),
    (".beton",): ("FFCV", _REPACK),
    (".mds",): ("MosaicML Streaming", _REPACK),
    (".lance",): ("Lance", _REPACK),
    (".npy", ".pkl", ".pickle", ".pt", ".pth", ".mat"): (
        "an array or pickle",
        "pass images to alray.data.catalog.index_arrays, or save embeddings as .npz",
    ),
    (".zip", ".7z", ".rar"): ("an archive", _UNPACK),
    (".gz", ".bz2", ".xz", ".zst"): ("a compressed file", _UNPACK),
    (".mp4", ".avi", ".mov", ".mkv", ".webm"): ("a video", "write its frames as images"),
    (".dcm",): ("DICOM", "convert its slices to PNG with 16 bits, and pass --pixel-range"),
    (".nii",): ("NIfTI", "convert its slices to PNG with 16 bits, and pass --pixel-range"),
    (".html", ".htm"): ("a web page", "download the images that it shows"),
    (".svs", ".ndpi"): ("a slide", "cut it into tiles"),
    (".heic", ".heif", ".avif"): ("HEIF or AVIF", "convert the images to JPEG or PNG"),
}

_TEXT = (
    "a plain text",
    "if it lists paths or URIs of images, write 'path' as its first line and give it the ending .csv; URLs of the web "
    "must be downloaded first",
)
_LIST = ".txt"

WHAT: dict[str, str] = {f"{what} ({', '.join(endings)})": todo for endings, (what, todo) in _KNOWN.items()} | {
    f"a list without a header ({_LIST})": _TEXT[1]
}


def why(name: str) -> str:
    """What the file of this name is, and what to do with it; an empty text if its ending is not known here."""
    found = next((known for endings, known in _KNOWN.items() if name.lower().endswith(endings)), None)
    return f"{found[0]}, which is not read here: {found[1]}" if found else ""


def first_reason(names: Sequence[str]) -> str:
    """`why` of the first of these files whose ending is known; an empty text if there is none."""
    if len(names) == 1 and names[0].lower().endswith(_LIST):
        return f"{names[0]} is {_TEXT[0]}, which is not read here: {_TEXT[1]}"
    return next((f"{name} is {reason}" for name in names if (reason := why(name))), "")
