"""The command ``alray label``."""

from __future__ import annotations

from typing import ClassVar

from alray.commands.command import Command
from alray.config import ConfigError


class Label(Command):
    """Give labels to a run that waits for them: CSV, JSON lines, exports of Label Studio, COCO or CVAT, or a folder
    with one directory per class."""

    positional: ClassVar[tuple[str, ...]] = ("run", "files")
    usage: ClassVar[str] = "alray label RUN FILE ... [--take-good] [--correct] [--extra] [--close]"
    run: str
    """Directory of the run."""
    files: tuple[str, ...] = ()
    """Files or folders with answers. A CSV has the columns key and label, and possibly status (label, skip or
    unusable) and annotator."""
    take_good: bool = False
    """Take the good lines although others are refused. Otherwise one bad line means that nothing is written."""
    correct: bool = False
    """Replace labels that were given before. The next round uses the new ones; the old ones stay on record."""
    extra: bool = False
    """Also take labels of images that nobody asked for."""
    close: bool = False
    """Close the batch that is out, the one that the run needs first if there are two: images without an answer go back
    to the pool and are not asked for in the next round."""

    def work(self) -> None:
        """Check the files, write the answers, and say what is missing."""
        from alray.data.sources.scan import amount
        from alray.labeling import receive, state
        from alray.report.escape import terminal

        run = state.existing(self.run)
        if not self.files and not self.close:
            raise ConfigError(f"expected files with labels, or --close, got neither; usage: {self.usage}")
        if self.files:
            got = receive.receive(run, self.files, take_good=self.take_good, correct=self.correct, extra=self.extra)
            print(f"{amount(got.taken, 'answer')} taken, {amount(len(got.refused), 'line')} refused")
            for line in [*got.notes[:20], *(f"refused: {line}" for line in got.refused)]:
                print(terminal(f"  {line}"))
            if len(got.notes) > 20:
                print(f"  ... and {len(got.notes) - 20} more notes")
            for name, (missing, asked) in got.open.items():
                told = f"{missing:,} of {asked:,} images have no answer yet" if missing else "the batch is complete"
                print(f"{name}: {told}")
        if self.close:
            ((name, (missing, asked)),) = receive.close(run).open.items()
            print(f"{name}: the batch is closed; {missing:,} of its {asked:,} images got no answer")
        if self.close or (self.files and got.open and not state.needed(run)):
            print("start the run's command again, or wait for the run that looks by itself")
