"""Refuse paths of a submitted job that are in Ray's temporary copy of its working directory.

`ray job submit --working-dir .` copies the directory to a temporary one and starts the job there. A relative path
therefore names a place in that copy. Data that were not sent are missing there, other machines cannot see files that
are written there, and the copy is deleted when the cluster ends.
"""

from __future__ import annotations

from pathlib import PurePath

from alray.config import ConfigError, RunConfig, places
from alray.store import absolute, is_remote

_COPIES = ("runtime_resources", "working_dir_files")  # Ray: <session>/runtime_resources/working_dir_files/<package>/


def check_places(config: RunConfig) -> None:
    """Raise ConfigError, naming every field whose place lies in Ray's copy of a working directory."""
    given = places(config)
    copied = {field: _inside_copy(place) for field, place in given.items()}
    wrong = [
        f"{field}: expected an absolute path that every node of the cluster reaches, or a URI, as in --{field} "
        f'"$PWD/{inside}" or --{field} s3://bucket/{inside}; got {given[field]}'
        for field, inside in copied.items()
        if inside
    ]
    if wrong:
        raise ConfigError(
            "in a submitted job a relative path lies in Ray's temporary copy of the working directory, which other "
            "machines do not see and which is deleted with the cluster\n" + "\n".join(wrong)
        )


def _inside_copy(place: str) -> str:
    """The path relative to Ray's copy, if the place is in such a copy; else an empty string."""
    if is_remote(place):
        return ""
    parts = PurePath(absolute(place)).parts
    for start in range(len(parts) - 2):
        if parts[start : start + 2] == _COPIES:
            return "/".join(parts[start + 3 :]) or "."
    return ""
