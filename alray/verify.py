"""Compare all files in a directory with their checksums, each read once, whether anything else reads them or not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import pyarrow.fs as pafs

from alray.atomic import StoreError, absolute, filesystem, join, read_bytes, write_bytes
from alray.checksums import ABSENT, LIST, Damaged, difference, is_list, list_bytes, load, sum_at
from alray.data.sources.own import EVERYTHING, Own, own_in
from alray.data.sources.scan import is_image_name
from alray.lease import LEASE, lease
from alray.rundir import BATCHES, PROGRESS, RAY, RUN, Missing, RunDir
from alray.scalars import lines_written

# Files and directories without checksums: leases, halves of writes, and what Ray and failed trials of a sweep leave.
_EXEMPT = re.compile(
    rf"{re.escape(LEASE)}.*|.*\.[0-9a-f]{{8}}\.tmp|\.alray-write-check-.*|{PROGRESS}|{RAY}|{BATCHES}|tune|errors"
)


@dataclass
class Verified:
    """What was found. problems: a line for each file that is damaged, missing or not listed."""

    files: int = 0
    size: int = 0
    problems: list[str] = field(default_factory=list)
    exempt: list[str] = field(default_factory=list)
    """Files without a checksum: of work that is not finished, and of Ray's."""
    foreign: list[str] = field(default_factory=list)
    """Images that alray did not write, as those beside a catalog. They are not looked at."""
    notes: list[str] = field(default_factory=list)


def verify(place: str) -> Verified:
    """Check every file in a directory and those below it; of a run also its catalog and the features that it read,
    wherever they are. Raises StoreError if there is nothing that alray wrote."""
    found, uri = Verified(), absolute(place)
    _verify_tree(uri, found)
    run = RunDir(uri)
    if not found.problems and run.exists:
        for folder in _outside(run, found):
            _verify_tree(folder, found)
    return found


def _gone(run: RunDir) -> list[str]:
    """A line for each round of which metrics.csv, or a later round, speaks, and whose directory is gone."""
    there = run.rounds()
    known = range(max(lines_written(run), *(number + 1 for number in there), 0))
    return [f"{run.round(number).uri}: missing: the run has made this round" for number in known if number not in there]


def _outside(run: RunDir, found: Verified) -> list[str]:
    """The directories outside of a run that it needs. Those that do not exist any more are noted."""
    folders: dict[str, None] = {}
    try:
        folders[run.catalog().uri] = None
    except Missing as error:
        found.notes.append(f"the catalog was not checked: {error}")
    for number in run.committed():
        if run.round(number).chosen:
            try:
                folders[run.round(number).selected_by().uri] = None
            except Missing as error:
                found.notes.append(f"the features of round {number} were not checked: {error}")
    return [folder for folder in folders if not folder.startswith(f"{run.uri}/")]


def _verify_tree(uri: str, found: Verified) -> None:
    folders = _tree(uri, found.exempt)
    if not folders:
        raise StoreError(f"{uri}: expected a directory with files that alray wrote, got none")
    if not any(is_list(file) for files in folders.values() for file in files):
        raise StoreError(
            f"{uri}: expected a directory with files that alray wrote, got one without any list of checksums ({LIST}); "
            "a run of alray 0.1 gets its lists with --record True"
        )
    claims = _claims(folders)
    for folder, files in folders.items():
        _verify_folder(folder, files, claims.get(folder), found)
    if not found.problems:  # a damaged table may name any number of rounds
        found.problems += [line for folder in folders if RUN in folders[folder] for line in _gone(RunDir(folder))]


def _tree(uri: str, exempt: list[str]) -> dict[str, dict[str, int]]:
    """Directory -> name and size in bytes of each file in it."""
    fs, path = filesystem(uri)
    if fs.get_file_info(path).type == pafs.FileType.File:
        raise StoreError(f"{uri}: expected a directory, got a file")
    infos = fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    start = len(path.strip("/")) + 1
    folders: dict[str, dict[str, int]] = {}
    for name, size in sorted((i.path.strip("/")[start:], i.size) for i in infos if i.type == pafs.FileType.File):
        if any(map(_EXEMPT.fullmatch, name.split("/"))):
            exempt.append(join(uri, name))
            continue
        inside, _, file = name.rpartition("/")
        folders.setdefault(join(uri, inside) if inside else uri, {})[file] = size
    return folders


def _claims(folders: Mapping[str, Collection[str]]) -> dict[str, Own]:
    """The folders that are surely alray's, by what it wrote there: all where it keeps a list of checksums, and all of a
    run; of a catalog and of features their own files, because people put a catalog among their images."""
    claims: dict[str, Own] = {}
    for folder in sorted(folders):
        above = folder
        while "/" in above and (above := above.rpartition("/")[0]) not in claims:
            pass
        own = own_in(folders[folder], lambda name, folder=folder: read_bytes(join(folder, name)))  # type: ignore[misc]
        if above in claims and claims[above].whole:
            claims[folder] = EVERYTHING
        elif own is not None:
            claims[folder] = own
        elif any(map(is_list, folders[folder])):
            claims[folder] = EVERYTHING
    return claims


def _is_foreign(name: str, own: Own | None) -> bool:
    """Whether a file is an image that alray did not write. own: what it wrote in the folder."""
    return is_image_name(name) and not (own is not None and own.has(name))


def _verify_folder(folder: str, files: dict[str, int], own: Own | None, found: Verified) -> None:
    sums: dict[str, list[str]] = {}
    broken = False
    for name in filter(is_list, files):
        try:
            for file, accepted in (load(folder, name) or {}).items():
                sums.setdefault(file, []).extend(accepted)  # `record` may have listed a file of a report, too
        except Damaged:
            broken = True
            found.problems.append(f"{join(folder, name)}: damaged: the list of checksums differs from its own checksum")
    for file in [*files, *(file for file in sums if file not in files)]:
        if file not in sums and _is_foreign(file, own):
            found.foreign.append(join(folder, file))
            continue
        there = ABSENT if file not in files else "" if is_list(file) else sum_at(join(folder, file))
        found.files += file in files
        found.size += files.get(file, 0)
        accepted = sums.get(file, [])
        if not is_list(file) and there not in accepted and not (broken and not accepted):
            found.problems.append(f"{join(folder, file)}: {difference(file, accepted, there)}")


def record(place: str) -> int:
    """Write the checksums of all files in a directory and those below it, as they are now; returns how many.

    Raises StoreError, also if a run is at work there.
    """
    uri = absolute(place)

    def refuse(run: str, holder: str) -> None:
        raise StoreError(f"{run}: expected a run that nobody works on, got one of {holder}; wait for its end")

    folders = _tree(uri, [])
    claims = _claims(folders)
    if not claims:
        raise StoreError(
            f"{uri}: expected a directory with runs, catalogs or features of alray, got one without any; nothing was "
            "written"
        )
    with ExitStack() as leases:
        for folder in filter(lambda folder: RUN in folders[folder], claims):
            leases.enter_context(lease(RunDir(folder), busy=partial(refuse, folder)))
        found = _tree(uri, [])
        mine = {folder: [f for f in found[folder] if not _is_foreign(f, claims.get(folder))] for folder in found}
        return sum(_record_folder(folder, files) for folder, files in mine.items() if files)


def _record_folder(folder: str, files: Iterable[str]) -> int:
    """Each file stays in the list that has it. The others get into the usual one."""
    lists = {name: _known(folder, name) for name in filter(is_list, files)}
    kept = {file: name for name, known in lists.items() for file in known}
    sums: dict[str, dict[str, list[str]]] = {LIST: {}, **{name: {} for name in lists}}
    mine = [file for file in files if not is_list(file)]
    for file in mine:
        sums[kept.get(file, LIST)][file] = [sum_at(join(folder, file))]
    for name, entries in sums.items():
        if entries or name in lists:
            write_bytes(join(folder, name), list_bytes(entries))
    return len(mine)


def _known(folder: str, name: str) -> list[str]:
    try:
        return list(load(folder, name) or {})
    except Damaged:
        return []
