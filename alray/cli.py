"""The command line: ``alray index | repack | run | select | strategies | sweep | report``, and `job` and `sweep_job`,
which make a job file a program (contract C8).

The options of a command are the fields of its class, under their names; docstrings are the help. An error that alray
raises itself is printed as one message with exit code 2; any other keeps its traceback, because it is a defect.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from pydantic import Field

from alray import __version__, recipes
from alray.config import ConfigError, IndexConfig, Pairs, RunConfig, SweepConfig
from alray.config.command_line import Presets, options, section_options, sweep_options
from alray.config.fields import Frozen
from alray.credentials import redacted

if TYPE_CHECKING:
    from alray.data.oracle import Oracle
    from alray.selection.protocol import Strategy

__all__ = ["guarded", "job", "main", "options", "sweep_job"]

T = TypeVar("T")


class Command(Frozen):
    """A command: its fields are the options, those in `positional` are given as words, and `work` does it."""

    positional: ClassVar[tuple[str, ...]] = ()
    usage: ClassVar[str] = ""

    def work(self) -> None:
        """Do what the command says."""
        raise NotImplementedError

    @classmethod
    def start(cls, argv: Sequence[str]) -> None:
        """Read the options and work."""
        section_options(cls, argv, cls.usage, cls.positional).work()


class Index(IndexConfig, Command):
    """Build a catalog, one row per image, from a folder, tars, Parquet, a manifest or embeddings."""

    positional = ("root",)
    usage = "alray index ROOT --out DIRECTORY [--option value ...]"
    out: str
    """Directory for the catalog."""

    def work(self) -> None:
        """Write the catalog and print what was left out."""
        from alray.data import catalog
        from alray.report.escape import terminal

        built = catalog.build(self, self.out, progress=True)
        problems, tests = built.problems(), int(built.is_test().sum())
        print(f"{len(built):,} images, {len(built.classes):,} classes, {tests:,} of them test: {built.uri}")
        if len(problems):
            print(f"left out: {len(problems):,}, with key and reason in {built.uri}/problems.parquet; the first:")
            for line in problems.slice(0, 5).to_pylist():
                print(terminal(f"  {line['key']}: {line['reason']}"))


class Repack(Command):
    """Write the images of a catalog as WebDataset tars or as an image folder, byte for byte."""

    positional = ("catalog",)
    usage = "alray repack CATALOG --out DIRECTORY [--format webdataset|folder]"
    catalog: str
    """Directory of the catalog."""
    out: str
    """Directory for the tars or the folder."""
    format: Literal["webdataset", "folder"] = "webdataset"
    """What to write."""

    def work(self) -> None:
        """Write the files."""
        from alray.data.catalog import Catalog
        from alray.data.repack import repack

        repack(Catalog.open(self.catalog), self.out, self.format, progress=True)


class Select(Command):
    """Choose rows from embeddings or logits of your own; writes row and score, in order of choice."""

    positional = ("strategy", "budget")
    usage = "alray select STRATEGY BUDGET --out FILE [--option value ...]"
    strategy: str
    """Name of the strategy, one of those that `alray strategies` lists."""
    budget: int
    """How many rows."""
    out: str
    """File to write: .csv or .parquet."""
    strategy_options: Pairs = Field(default_factory=dict)
    """Options of the strategy, names and values: quota fill. `alray strategies` lists them."""
    embedding: str = ""
    """(n, d) array: .npy or Parquet."""
    logits: str = ""
    """(n, c) array: .npy or Parquet."""
    pretext_loss: str = ""
    """(n,) losses of a pretext task, for pt4al: .npy or Parquet."""
    discriminator: str = ""
    """(n,) logits of looking labeled, for vaal: .npy or Parquet."""
    weight: str = ""
    """Head weight (c, d), .npy."""
    bias: str = ""
    """Head bias (c,), .npy."""
    labels: str = ""
    """Label of every row, .npy of integers: only labeled rows' are used, except by strategies that peek."""
    labeled: str = ""
    """Rows that are labeled: .npy of integers, or a text file with one row number a line."""
    exclude: str = ""
    """Rows never to pick, in the same form."""
    round: int = 0
    """Round number; randomness depends on it."""
    seed: int = 0
    """Seed."""
    subset_labeled: int = 0
    """Labeled rows that take part; 0 and 0: all."""
    subset_unlabeled: int = 0
    """Unlabeled rows that take part."""
    num_shards: int = 1
    """Parts to cut the rows into; the picks do not depend on it."""
    workers: Literal["process", "ray"] = "process"
    """Where the shards are worked on."""

    def work(self) -> None:
        """Choose, and write the picks."""
        from alray.selection.files import check_out, read_head, read_rows, write_picks
        from alray.selection.select import select

        check_out(self.out)
        picks = select(
            self.strategy, self.budget, strategy_options=self.strategy_options,
            embedding=self.embedding or None, logits=self.logits or None, head=read_head(self.weight, self.bias),
            labels=self.labels or None, pretext_loss=self.pretext_loss or None,
            discriminator=self.discriminator or None, labeled=read_rows(self.labeled), exclude=read_rows(self.exclude),
            round=self.round, seed=self.seed, num_shards=self.num_shards, workers=self.workers,
            subset_labeled=self.subset_labeled, subset_unlabeled=self.subset_unlabeled,
        )  # fmt: skip
        write_picks(picks, self.out)
        print(f"{len(picks.rows):,} rows: {self.out}")


class Strategies(Command):
    """List the strategies with their options, and what these mean."""

    positional = ("names",)
    usage = "alray strategies [NAME ...]"
    names: tuple[str, ...] = ()
    """Strategies; none: all."""

    def work(self) -> None:
        """Print the list."""
        from alray.selection.registry import described

        print(described(self.names))


class Report(Command):
    """Compare runs: curves, paired differences, areas, wins, label efficiency, balance, coverage, time, pictures.
    Writes report.html (one file, which loads nothing from the network), report.md, report.csv, report.png and
    tables/*.csv."""

    positional = ("runs",)
    usage = "alray report RUN ... [--option value ...]"
    runs: tuple[str, ...]
    """Run directories, folders of them (of a sweep, too), or one CSV of curves with strategy, seed, labels and
    test_top1."""
    out: str = ""
    """Where the files go; empty: into the run directory, or ./report for several runs."""
    test: Literal["t", "wilcoxon"] = "t"
    """Paired t test or Wilcoxon's signed ranks."""
    measure: str = ""
    """What is compared, a column of metrics.csv; empty: test top-1 accuracy."""

    def work(self) -> None:
        """Write the report."""
        from alray.report import report

        print(report(list(self.runs), self.out or None, test=self.test, measure=self.measure))


_RUN = "alray run [RECIPE | CONFIG.json | JOB.py] [--option value ...]"
_SWEEP = "alray sweep RECIPE|CONFIG.json|JOB.py PATH=VALUES ... [--option value ...] [--sweep.option value ...]"


def run(argv: Sequence[str]) -> None:
    """Run active learning: a recipe by its name, a configuration in JSON (every run directory has its config.json) or a
    job file. Lists the recipes without arguments."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {_RUN}\n\nThe options of a recipe: alray run NAME --help. Recipes:\n\n{recipes.described()}")
        return
    target, *rest = argv
    path = recipes.find(target)
    if path.suffix == ".py":
        recipes.start(path, rest)
    else:
        job(recipes.presets(target), rest, _RUN)


def sweep(argv: Sequence[str]) -> None:
    """Run a recipe or configuration over strategies, budgets, seeds or any other fields, and report on it. The same
    command started again continues: finished trials are not run again."""
    if not argv or argv[0].startswith("-"):
        print(f"usage: {_SWEEP}\n\n{_words(sweep)}\n\nAll options: alray sweep RECIPE --help. Recipes:\n")
        print(recipes.described())
        return
    target, *rest = argv
    end = next((at for at, text in enumerate(rest) if text.startswith("-")), len(rest))
    config, varied, about = sweep_options(recipes.presets(target), rest[:end], rest[end:], _SWEEP)
    _sweep(config, varied, about)


def _words(thing: Callable[..., object] | type) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def _sweep(config: RunConfig, varied: Sequence[str], about: SweepConfig) -> None:
    """Run a sweep and its report; leaves with code 1 when trials failed, with 130 after Ctrl-C."""
    from alray.report import report
    from alray.sweep import parse_space
    from alray.sweep import sweep as go

    try:
        result = go(config, parse_space(varied), about)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped: the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    if any(trial["rounds"] for trial in result.trials):
        print(report([result.dir], None))
    print(f"sweep: {result.dir}")
    for trial in result.failed:
        print(f"failed: {trial['run']}: {trial['error']}", file=sys.stderr)
    if result.failed:
        raise SystemExit(1)


def sweep_job(config: Presets, fields: Sequence[str]) -> None:
    """Run a sweep's job file: every field of its configuration is an option, ``--sweep path=values ...`` replaces what
    is varied, and ``--sweep.cpus-per-trial 0.5`` is how the sweep is run."""
    guarded(lambda: _sweep(*sweep_options(config, fields)))


def job(
    config: Presets,
    argv: Sequence[str] | None = None,
    usage: str = "",
    *,
    oracle: Oracle | None = None,
    strategy: Strategy | None = None,
) -> None:
    """Run a job file: every field of its configuration is a command-line option with type, default and help.

    With several named configurations the first is the default and ``--preset NAME`` takes another. oracle: your object
    that gives the labels; it is not part of the configuration, so give each oracle a run of its own name. strategy:
    your object instead of the strategy that the configuration names.
    """

    def work() -> None:
        chosen = options(config, argv, usage)

        from alray.report import report  # after the options: --help answers at once
        from alray.rounds import run as go

        result = go(chosen, oracle=oracle, strategy=strategy)
        print(f"{report([result.dir], None)}\nrun: {result.dir}")

    guarded(work)


def guarded(work: Callable[[], T]) -> T:
    """Do the work. An error of alray's own is printed as one message with exit code 2; Ctrl-C leaves with 130."""
    try:
        done = work()
        sys.stdout.flush()
        return done
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped: the same command continues", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads what is still to be flushed
        raise SystemExit(1) from None
    except Exception as error:
        meant_for_people = type(error).__module__.startswith("alray.")
        if not meant_for_people or os.environ.get("ALRAY_TRACEBACK"):
            raise
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "index": Index.start, "repack": Repack.start, "run": run, "select": Select.start, "strategies": Strategies.start,
    "sweep": sweep, "report": Report.start,
}  # fmt: skip


def _start(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        about = {name: _words(getattr(start, "__self__", start)) for name, start in COMMANDS.items()}
        print("Active learning at ImageNet scale on Ray.\n\nusage: alray COMMAND ...; alray COMMAND --help\n")
        print("\n".join(f"  {name:11} {text.partition('. ')[0]}" for name, text in about.items()))
        return
    if argv[0] == "--version":
        print(f"alray {__version__}")
        return
    if argv[0] not in COMMANDS:
        raise ConfigError(f"{argv[0]}: expected a command, one of {', '.join(COMMANDS)}")
    COMMANDS[argv[0]](argv[1:])


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `alray` command."""
    guarded(lambda: _start(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
