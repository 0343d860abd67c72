"""The file of a lease, on local disk or on an object store: create it exclusively, beat, replace a dead holder's.

`alray.lease` says what is guaranteed.
"""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from alray.process import running
from alray.store import Store, StoreError, content_hash, create, is_remote, read_bytes, write_unguarded

_SETTLE = 0.5  # seconds after a write to an object store; another process may overwrite the lease in that time
_LEFT = 60.0  # seconds after which the second file of a takeover counts as left by a process that died
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Seen:
    """A lease at one moment. It differs from the lease a moment before if the holder beat in between."""

    content: bytes
    beat: int = 0

    @property
    def holder(self) -> dict[str, Any]:
        """The description of the holder; empty if the file does not have one."""
        try:
            found = json.loads(self.content)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def token(self) -> str:
        """What tells this lease from every other one."""
        return str(self.holder.get("token", content_hash(self.content)))


class Claim(Protocol):
    """The lease of one directory, seen from one process that wants it or holds it."""

    def look(self) -> Seen | None:
        """The lease as it is now; None if nobody has it."""
        ...

    def take(self, content: str, dead: Seen | None) -> bool:
        """Create the lease if nobody has it, or replace that of a dead holder. Returns whether this process has it."""
        ...

    def held(self) -> bool:
        """Whether the lease is still that of this process."""
        ...

    def beat(self) -> bool:
        """Show that the holder works. Returns whether the lease is still that of this process."""
        ...

    def release(self) -> None:
        """Remove the lease if it is still that of this process."""
        ...


def claim_on(store: Store, name: str) -> Claim:
    """The lease of a directory."""
    return (
        _Object(Store(store.uri, sums=""), name)
        if is_remote(store.uri)
        else _File(store.at(name).removeprefix("file://"))
    )


class _File:
    """A lease on local disk.

    The holder keeps its file open. A beat sets the time of the open file, so it never changes a file that another
    holder has put in its place.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def look(self) -> Seen | None:
        return self._read(self._path)

    def take(self, content: str, dead: Seen | None) -> bool:
        whole = f"{self._path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._fd = os.open(whole, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror or error}") from error
        taken = False
        try:
            os.write(self._fd, content.encode())
            taken = _create(whole, self._path) if dead is None else self._replace(whole, dead)
            return taken
        finally:
            with suppress(FileNotFoundError):
                os.unlink(whole)
            if not taken:
                self._close()

    def _replace(self, whole: str, dead: Seen) -> bool:
        """Replace the lease of a dead holder: only the process that creates the second file may do it."""
        second = f"{self._path}.{content_hash(dead.token.encode())}.next"
        if not _create(whole, second):
            self._remove_left(second)
            return False
        now = self.look()
        with suppress(FileNotFoundError):  # another process took the second file for one that was left
            if now != dead:  # it was replaced, released, or its holder woke up
                os.unlink(second)
            else:
                os.replace(second, self._path)
        return self.held()

    def _remove_left(self, second: str) -> None:
        """Remove the second file if the process that created it died before it could use it."""
        found = self._read(second)
        if found is None:
            return
        alive = running(found.holder)
        age = (os.fstat(self._fd).st_mtime_ns - found.beat) / 1e9  # both times are from the clock of the disk
        if alive is False or (alive is None and age > _LEFT):
            with suppress(FileNotFoundError):
                os.unlink(second)

    def _read(self, path: str) -> Seen | None:
        try:
            with open(path, "rb") as file:
                return Seen(file.read(), os.fstat(file.fileno()).st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}") from error

    def held(self) -> bool:
        if self._fd < 0:
            return False
        try:
            with open(self._path, "rb") as file:  # to open a file refreshes what an NFS client knows of it
                return os.path.sameopenfile(file.fileno(), self._fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise

    def beat(self) -> bool:
        os.utime(self._fd)
        return self.held()

    def release(self) -> None:
        if self.held():
            os.unlink(self._path)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _create(whole: str, path: str) -> bool:
    """Give a complete file a second name that nobody has taken. Returns whether that worked."""
    try:
        os.link(whole, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:  # a file system without hard links: the file is empty for a moment
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        os.replace(whole, path)
    return True


class _Object:
    """A lease on an object store.

    The beats are in an object of their own, which is named after the lease. So a beat never overwrites the lease of
    another holder.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._token, self._beats = "", 0

    def look(self) -> Seen | None:
        found = self._lease()
        if found is None:
            return None
        try:
            return Seen(found.content, int(read_bytes(self._store.at(self._beat_of(found.token)))))
        except FileNotFoundError:  # it has not beaten yet
            return found

    def take(self, content: str, dead: Seen | None) -> bool:
        uri, self._token = self._store.at(self._name), json.loads(content)["token"]
        made = create(uri, content.encode()) if dead is None else None
        if made is False or (made is None and self.look() != dead):
            return False
        if made is None:
            write_unguarded(uri, content.encode())
        time.sleep(_SETTLE)  # of several processes that wrote, the last one has the lease
        if not self.held():
            return False
        if dead is not None:
            self._store.delete(self._beat_of(dead.token))
        return True

    def held(self) -> bool:
        found = self._lease()
        return found is not None and found.token == self._token

    def beat(self) -> bool:
        self._beats += 1
        write_unguarded(self._store.at(self._beat_of(self._token)), str(self._beats).encode())
        return self.held()

    def release(self) -> None:
        self._store.delete(self._beat_of(self._token))
        if self.held():
            self._store.delete(self._name)

    def _lease(self) -> Seen | None:
        try:
            return Seen(read_bytes(self._store.at(self._name)))
        except FileNotFoundError:
            return None

    def _beat_of(self, token: str) -> str:
        return f"{self._name}.{content_hash(token.encode())}.beat"
