"""Object stores by the scheme of their URIs: who opens them, what must be installed, and how long a first answer may
take."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from alray.reasons import why

T = TypeVar("T")

TIMEOUT = "ALRAY_STORE_TIMEOUT"  # environment variable: seconds for the first answer of a store
_SECONDS = 20.0

# What `alray formats` prints on the stores.
STORES = {
    "s3://": "pyarrow opens it, with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL",
    "gs://": "pyarrow opens it, with the application default credentials of Google Cloud",
    "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net": "pyarrow opens it, with AZURE_STORAGE_ACCOUNT_KEY or a login",
    "az://": "needs adlfs (pip install 'alray[azure]')",
    "hf://": "needs huggingface_hub (pip install 'alray[hf]'): hf://datasets/OWNER/NAME/FOLDER",
    "others": "whatever fsspec opens, with its package",
}
_NEEDED = {"hf": ("huggingface_hub", "hf"), "az": ("adlfs", "azure"), "abfs": ("adlfs", "azure")}
_NEEDED |= {"abfss": ("adlfs", "azure"), "gs": ("gcsfs", ""), "gcs": ("gcsfs", ""), "s3": ("s3fs", "")}
_WEB = ("http", "https", "ftp")
_answered: set[str] = set()  # the stores that answered this process, as scheme://bucket


class NotOpened(Exception):  # noqa: N818  the name says what is wrong
    """No file system for a URI, or no answer from it. The message names the URI and what to do."""


def unread() -> dict[str, str]:
    """What `alray formats` prints on URIs that are not read."""
    return {"URLs (" + ", ".join(f"{scheme}://" for scheme in _WEB) + ")": _WEB_ADVICE}


_WEB_ADVICE = (
    "a web server is not asked for single images in random order, round after round. Download them first (wget -i "
    "URLS.txt -P images, or img2dataset, which writes tars), or copy them to an object store, and index that"
)


def web_address(uri: str) -> str:
    """Why a URL of the web cannot be a source; an empty text for all other paths and URIs."""
    return f"{uri}: {_WEB_ADVICE}" if uri.partition("://")[0].lower() in _WEB and "://" in uri else ""


def opened(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow filesystem of a remote URI, and the path inside it. A store that this process has not asked before
    must give a first answer in time. Raises NotOpened."""
    scheme, _, rest = uri.partition("://")
    store = f"{scheme}://{rest.partition('/')[0]}"
    if store in _answered:
        return _filesystem(uri, scheme, rest)

    def ask() -> tuple[pafs.FileSystem, str]:
        fs, path = _filesystem(uri, scheme, rest)
        try:
            fs.get_file_info(path)
        except OSError:
            pass  # whoever asks next gets the same error, and knows what it means there
        except Exception as error:  # of a client, such as that of hf://
            raise NotOpened(f"{uri}: cannot be reached: {why(error)}") from error
        return fs, path

    found = _in_time(ask, uri)
    _answered.add(store)
    return found


def _filesystem(uri: str, scheme: str, rest: str) -> tuple[pafs.FileSystem, str]:
    try:
        fs, path = pafs.FileSystem.from_uri(f"{scheme}://{quote(rest, safe='/:@')}")  # keys may hold any character
        return fs, path
    except (pa.ArrowInvalid, NotImplementedError, ImportError) as error:
        reason: Exception = error
    except OSError as error:
        raise NotOpened(f"{uri}: cannot be reached: {why(error)}") from error
    try:
        import fsspec

        return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(scheme))), rest
    except (ImportError, ValueError) as error:
        raise NotOpened(f"{uri}: {_what_to_install(scheme, reason, error)}") from error


def _what_to_install(scheme: str, by_pyarrow: Exception, by_fsspec: Exception) -> str:
    if scheme in _NEEDED:
        package, extra = _NEEDED[scheme]
        how = f"pip install {package}" + (f" (or 'alray[{extra}]')" if extra else "")
        pyarrow = f"; pyarrow says: {why(by_pyarrow)}" if scheme in ("abfs", "abfss", "s3", "gs", "gcs") else ""
        return f"{scheme}:// needs the package {package}, which is not installed: {how}{pyarrow}"
    return f"no filesystem for {scheme}:// in pyarrow ({why(by_pyarrow)}) or in fsspec ({why(by_fsspec)})"


def _in_time(ask: Callable[[], T], uri: str) -> T:
    """The result of ask(), which may take as long as a first answer may. The thread of a call without an answer is left
    behind: it cannot be stopped."""
    seconds = float(os.environ.get(TIMEOUT, _SECONDS))
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((True, ask()))
        except Exception as error:
            answers.put((False, error))

    threading.Thread(target=work, name="alray-first-answer", daemon=True).start()
    try:
        fine, found = answers.get(timeout=seconds)
    except queue.Empty:
        raise NotOpened(
            f"{uri}: no answer within {seconds:g} s; check the name, the network and the credentials (the environment "
            f"variable {TIMEOUT} sets the time)"
        ) from None
    if not fine:
        raise found
    result: T = found
    return result
