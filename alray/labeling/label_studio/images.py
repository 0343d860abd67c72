"""Where a browser finds the images of a batch."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from alray.config import LabelConfig
from alray.data.catalog import Catalog
from alray.data.oracle import OracleError, Status
from alray.data.pool import Rows
from alray.labeling.sheet import thumbnails
from alray.reasons import why
from alray.store import is_remote

LOCAL = "/data/local-files/?d="  # Label Studio serves files below its document root there
_SHOWN = ("image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp")  # that every browser shows
_VALID = timedelta(days=7)  # of a presigned URL, the most that S3 allows
_SIDE = {Status.LABEL: 1024, Status.MASK: sys.maxsize}  # most pixels of the longer side of an embedded image


class Images:
    """Gives the images of a catalog addresses. config: `images` says how, `local_root` which files the server sees;
    gives: what people give, because a mask needs all pixels of its image."""

    def __init__(self, config: LabelConfig, catalog: Catalog, gives: Status = Status.LABEL) -> None:
        self.config, self.catalog, self.side = config, catalog, _SIDE[gives]
        self.root = Path(config.local_root) if config.local_root else None

    def addresses(self, rows: Rows) -> list[str]:
        """An address for every row, in their order.

        Under `auto` a file on the web has its own, a file in S3 a presigned one, and a file below `local_root` that of
        Label Studio's local-files serving. Other images, and those that browsers cannot show, are embedded as JPEG.
        Raises OracleError for an image that cannot be read or signed.
        """
        places = self.catalog.references(rows)
        found = {
            row: self._address(uri, offset)
            for row, uri, offset in zip(*(places[name].to_pylist() for name in ("row", "uri", "offset")), strict=True)
        }
        embedded = [row for row, address in found.items() if not address]
        for row, jpeg in zip(embedded, thumbnails(self.catalog, np.array(embedded, np.int64), self.side), strict=True):
            if not jpeg:
                key = self.catalog.keys(np.array([row]))[0].as_py()
                raise OracleError(f"{key}: the image cannot be read, so that nobody can label it")
            found[row] = f"data:image/jpeg;base64,{jpeg}"
        return [found[row] for row in rows.tolist()]

    def folders(self, addresses: Sequence[str]) -> list[str]:
        """The folders of the server that hold the files with these addresses, of those that the server serves."""
        inside = {unquote(one.removeprefix(LOCAL)).partition("/")[0] for one in addresses if one.startswith(LOCAL)}
        return [str(self.root / name) for name in sorted(inside)] if self.root else []

    def _address(self, uri: str, offset: int | None) -> str:
        """The address of an image by its URI; empty if the image has to be embedded."""
        how = self.config.images
        kind = mimetypes.guess_type(urlsplit(uri).path if is_remote(uri) else uri)[0]
        if how == "embed" or offset is not None or (how == "auto" and kind not in _SHOWN):
            return ""
        if how == "uri" or uri.startswith(("http://", "https://")):
            return uri
        if uri.startswith("s3://"):
            return self._signed(uri)
        if self.root is None or is_remote(uri) or not Path(uri).is_relative_to(self.root):
            return ""
        name = Path(uri).relative_to(self.root).as_posix()
        return LOCAL + quote(name) if "/" in name else ""  # Label Studio serves folders in its root, not the root

    def _signed(self, uri: str) -> str:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            return str(self._s3.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=int(_VALID.total_seconds())
            ))  # fmt: skip
        except Exception as error:  # of botocore, which is imported only here
            raise OracleError(
                f"{uri}: no presigned URL can be made ({why(error)}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or labels.images to embed or uri"
            ) from None

    @cached_property
    def _s3(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise OracleError(f"presigned URLs need boto3 ({error}): pip install 'alray[label-studio]'") from None
        return boto3.client("s3", config=Config(signature_version="s3v4"))


def expires_soon(address: str, now: datetime | None = None) -> bool:
    """Whether more than half of the time of a presigned URL is over."""
    query = parse_qs(urlsplit(address).query) if address.startswith("http") else {}
    if "X-Amz-Date" not in query or "X-Amz-Expires" not in query:
        return False
    signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    half = timedelta(seconds=int(query["X-Amz-Expires"][0]) / 2)
    return (now or datetime.now(timezone.utc)) > signed + half
