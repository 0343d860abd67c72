"""Find secrets in URIs, such as ``s3://KEY:SECRET@bucket`` or ``https://host/file?token=...``.

A run writes its paths and URIs to its configuration, a catalog to its rows, and both appear in messages. Therefore
places with secrets are refused, and messages show them without the secret.
"""

from __future__ import annotations

import re

WHERE_THEY_BELONG = (
    "credentials belong in the environment (for s3:// in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), not in a path "
    "or URI, which is written to files and shown in messages"
)
HIDDEN = "***"

_URI = re.compile(r"(?<![\w+.:-])[A-Za-z][\w+.:-]*://[^\s'\"]+")
_USER_IS_SECRET = ("http", "https", "s3", "s3a", "s3n", "gs", "gcs")  # abfs:// and sftp:// have harmless names there
_SECRET_PARAMETER = re.compile(
    r"[?&;#][^=&;]*?(token|secret|passw|signature|credential|authorization|api[-_]?key|access[-_]?key|account[-_]?key)[^=&;]*="
    r"|[?&;#](sig|key|auth|pwd)=",
    re.IGNORECASE,
)


def has_credentials(uri: str) -> bool:
    """Whether a URI holds a password, an access key, or a token among its query parameters. Local paths never do."""
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme == "file":
        return False
    return _in_authority(scheme.rpartition("::")[2], rest) or bool(_SECRET_PARAMETER.search(rest))


def _in_authority(scheme: str, rest: str) -> bool:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, mark, host = authority.rpartition("@")
    if mark:
        return ":" in user or scheme.lower() in _USER_IS_SECRET
    # A secret may contain a slash, which ends the authority before the "@": what follows the colon is then no port.
    _, colon, port = re.sub(r"^\[[^\]]*\]", "", host).partition(":")
    return bool(colon) and not re.fullmatch(r"\d*", port)


def redacted(text: str) -> str:
    """The text with *** in place of the secrets of all URIs in it."""
    return _URI.sub(lambda found: _redacted(found[0]) if has_credentials(found[0]) else found[0], text)


def _redacted(uri: str) -> str:
    scheme, mark, rest = uri.partition("://")
    if _SECRET_PARAMETER.search(rest):
        rest = re.split(r"[?#;]", rest, maxsplit=1)[0] + "?" + HIDDEN
    if _in_authority(scheme.rpartition("::")[2], rest):
        _, at, place = rest.rpartition("@")
        rest = f"{HIDDEN}@{place}" if at else HIDDEN
    return scheme + mark + rest
