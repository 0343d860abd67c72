"""The command ``alray verify``."""

from __future__ import annotations

from alray.commands.command import Command


class Verify(Command):
    """Check all files of runs for damage: each is read once and compared with its checksum. Leaves with code 2 if a
    file is damaged, missing, or not one that alray wrote."""

    positional = ("places",)
    usage = "alray verify DIRECTORY ... [--record True]"
    places: tuple[str, ...]
    """Run directories, with their catalogs and features; or any directory with catalogs, features and runs."""
    record: bool = False
    """Write the checksums of the files as they are now: for runs of alray 0.1, and after files were changed on
    purpose."""

    def work(self) -> None:
        """Check or record, and print what was found."""
        from alray.checksums import REMEDY, Damaged
        from alray.verify import record, verify

        problems, files = [], 0
        for place in self.places:
            if self.record:
                print(f"{place}: the checksums of {record(place):,} files were written")
                continue
            found = verify(place)
            problems += found.problems
            files += found.files
            state = _problems(len(found.problems)) if found.problems else "all as alray wrote them"
            print(f"{place}: {found.files:,} files with {found.size:,} bytes: {state}")
            for others, what in (
                (found.exempt, "files of unfinished work or of Ray have no checksum"),
                (found.foreign, "images that alray did not write were not looked at"),
            ):
                if others:
                    print(f"  {len(others):,} {what}: {', '.join(others[:3])}{' ...' if others[3:] else ''}")
            for note in found.notes:
                print(f"  {note}")
        if problems:
            lines = "".join(f"\n  {line}" for line in problems)
            raise Damaged(f"{_problems(len(problems))} in {files:,} files:{lines}\n{REMEDY}.")


def _problems(number: int) -> str:
    return f"{number:,} problem{'' if number == 1 else 's'}"
