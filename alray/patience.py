"""Wait while storage is away: the same call is made again until it is answered, or until patience ends.

A network, an object store or a shared disk may be away for some seconds. That is no reason to lose hours of work. What
will not change by waiting (no such file, no permission, a full disk) is raised at once.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from alray.reasons import why

T = TypeVar("T")

PATIENCE = "ALRAY_STORE_PATIENCE"  # environment variable: seconds to wait for a store that is away
_SECONDS = 60.0
_FIRST, _LONGEST = 0.1, 4.0  # pauses in seconds; each is twice the one before
_TELL_EVERY = 10.0

_PASSING = frozenset({
    errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
    errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.EAGAIN,
})  # fmt: skip
# How the clients of object stores word what may pass; pyarrow's says "AWS Error NETWORK_CONNECTION during ...".
_PASSING_WORDS = re.compile(
    r"NETWORK_CONNECTION|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING|INTERNAL_FAILURE|REQUEST_TIME|curlCode|"
    r"HTTP (status|response code) (408|429|5\d\d)|"
    r"(?i:timed? ?out|connection (refused|reset|aborted|closed)|could ?n[o']t connect|temporar(y|ily)|try again)"
)
_log = logging.getLogger(__name__)
_thread = threading.local()
_told = [-_TELL_EVERY]  # when the last line was written, by the monotonic clock


class StoreError(OSError):
    """A path or URI cannot be read or written. The message names it."""


class Away(StoreError):  # noqa: N818  the name says what is wrong
    """A store did not come back in time. The message names what was wanted, the last error, and what to do."""

    exit_code = 1


_LASTING = (Away, FileNotFoundError, FileExistsError, PermissionError)


def may_pass(error: BaseException) -> bool:
    """Whether an error may be gone a little later: the store is away, and not the file, the right or the room."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if not isinstance(error, OSError) or isinstance(error, _LASTING):
        return False
    return error.errno in _PASSING or _PASSING_WORDS.search(str(error)) is not None


@contextmanager
def impatient() -> Iterator[None]:
    """Context manager: this thread does not wait for storage."""
    before = getattr(_thread, "impatient", False)
    _thread.impatient = True
    try:
        yield
    finally:
        _thread.impatient = before


def persistent(what: str, work: Callable[[], T], again: Callable[[T], BaseException | None] = lambda _: None) -> T:
    """The result of work(), which is called again with growing pauses while the store is away.

    what: the path or URI, for messages; again: the error in a result that tells of errors instead of raising them. Any
    other error is raised as it is. Raises Away after ALRAY_STORE_PATIENCE seconds (60); in an `impatient` thread the
    error itself, at once.
    """
    begun, pause = time.monotonic(), _FIRST
    while True:
        failed: BaseException
        try:
            result = work()
            found = again(result)
            if found is None or not may_pass(found):
                return result
            failed = found
        except OSError as error:
            if not may_pass(error):
                raise
            failed = error
        if getattr(_thread, "impatient", False):
            raise failed
        seconds = float(os.environ.get(PATIENCE, _SECONDS))
        if time.monotonic() - begun + pause > seconds:
            raise Away(
                f"{what}: storage was away for {seconds:g} s ({why(failed)}). Nothing that was written is lost: "
                "start the same command again when storage is back. The environment variable "
                f"{PATIENCE} sets how long to wait"
            ) from failed
        _tell(what, failed, seconds)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, _LONGEST)


def _tell(what: str, error: BaseException, seconds: float) -> None:
    """One line for all threads of a process in some seconds."""
    now = time.monotonic()
    if now - _told[0] >= _TELL_EVERY:
        _told[0] = now
        _log.warning("%s: storage is away, trying again for up to %g s: %s", what, seconds, why(error))
