"""The command ``alray label``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from alray.commands.command import Command
from alray.config import ConfigError

if TYPE_CHECKING:
    from alray.rundir import RunDir


class Label(Command):
    """Give labels to a run that waits for them: CSV, JSON lines, exports of Label Studio, COCO or CVAT, or a folder
    with one directory per class."""

    positional: ClassVar[tuple[str, ...]] = ("run", "files")
    usage: ClassVar[str] = (
        "alray label RUN FILE ... [--take-good] [--correct] [--extra] [--close [--batch NAME]]; "
        "alray label RUN --test N [--how active]"
    )
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
    """Close the batch that is out, the one that the run needs first if there are two (where a test is out, too, --batch
    names it): images without an answer go back to the pool and are not asked for in the next round."""
    batch: str = ""
    """Which batch to close, where several are open: "round 3", "test 0"."""
    test: int = Field(0, ge=0)
    """Draw so many images of the pool and ask for their labels, to estimate the accuracy of the last round's model.
    They leave the pool and are never trained on."""
    how: Literal["random", "active"] = "random"
    """How --test draws: random, or active (Kossen et al. 2021), which prefers images that the model may have wrong."""

    def work(self) -> None:
        """Check the files, write the answers, and say what is missing; or draw a test."""
        from alray.labeling import state
        from alray.reasons import terminal

        run = state.existing(self.run)
        if bool(self.test) == bool(self.files or self.close):
            raise ConfigError(f"expected files with labels, --close, or --test alone; usage: {self.usage}")
        if (self.batch and not self.close) or (self.how != "random" and not self.test):
            raise ConfigError(f"--batch goes with --close, and --how with --test; usage: {self.usage}")
        if self.test:
            from alray.draws import draw_test

            print("\n".join(map(terminal, draw_test(run, self.test, self.how))))
        else:
            self._take(run)

    def _take(self, run: RunDir) -> None:
        from alray.data.sources.scan import amount
        from alray.labeling import receive, state
        from alray.labeling.drawn import record
        from alray.reasons import terminal

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
        waited = state.open_batch(run)
        if self.close:
            ((name, (missing, asked)),) = receive.close(run, self.batch).open.items()
            print(f"{name}: the batch is closed; {missing:,} of its {asked:,} images got no answer")
        for sentence in record(run):
            print(terminal(sentence))
        if waited and not state.needed(run):
            print("start the run's command again, or wait for the run that looks by itself")
