"""The command line: ``alray index | repack | run | select | strategies | sweep | report``, and `job` and `sweep_job`,
which make a job file a program (contract C8).

Errors of alray's own are printed as one short message and exit code 2; anything else is a defect and keeps its
traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from alray.config import ConfigError, Pairs, RunConfig
from alray.config.command_line import options, sweep_options

__all__ = ["app", "guarded", "job", "main", "options", "sweep_job"]

T = TypeVar("T")

app = tyro.extras.SubcommandApp()


@app.command
def index(
    source: tyro.conf.Positional[str],
    /,
    out: str,
    *,
    test_source: str = "",
    format: Literal["auto", "folder", "webdataset", "parquet", "manifest", "embeddings"] = "auto",
    key: str = "",
    label_column: str = "label",
    image_column: str = "image",
    on_problem: Literal["refuse", "exclude"] = "refuse",
    check: Literal["decode", "none"] = "decode",
    classes: tuple[str, ...] = (),
) -> None:
    """Build a catalog, one row per image, from a folder, tars, Parquet, a manifest or embeddings.

    Args:
        source: Folder, file or glob; local path or URI.
        out: Directory for the catalog.
        test_source: Where the test images are, if not under the source.
        format: Kind of source; auto looks at the file names.
        key: Parquet and manifests: column that names an image, or a template such as '{split}/{class}/{filename}'.
        label_column: Parquet and manifests: column with the class.
        image_column: Parquet: column with the encoded image bytes.
        on_problem: Duplicate keys, broken images, unknown classes: refuse to index, or leave them out and report them.
        check: decode opens every image once; none trusts the source.
        classes: Names of the classes in order of their numbers; empty: as the source says, else sorted.
    """
    from alray.data import catalog

    built = catalog.index(
        source, out, test_source=test_source, format=format, key=key, label_column=label_column,
        image_column=image_column, on_problem=on_problem, check=check, classes=classes or None, progress=True,
    )  # fmt: skip
    problems = built.problems()
    print(
        f"{len(built):,} images, {len(built.classes):,} classes, {int(built.is_test().sum()):,} of them test: "
        f"{built.uri}"
    )
    if len(problems):
        print(f"left out: {len(problems):,}, with key and reason in {built.uri}/problems.parquet; the first:")
        for line in problems.slice(0, 5).to_pylist():
            print(f"  {line['key']}: {line['reason']}")


@app.command
def repack(
    catalog: tyro.conf.Positional[str], /, out: str, *, format: Literal["webdataset", "folder"] = "webdataset"
) -> None:
    """Write the images of a catalog as WebDataset tars or as an image folder, byte for byte.

    Args:
        catalog: Directory of the catalog.
        out: Directory for the tars or the folder.
        format: What to write.
    """
    from alray.data.catalog import Catalog
    from alray.data.repack import repack as write

    write(Catalog.open(catalog), out, format)


@app.command
def run(config: tyro.conf.Positional[Path], overrides: tyro.conf.Positional[tuple[str, ...]] = (), /) -> None:
    """Run active learning from a configuration in JSON (as every run directory has in config.json).

    Args:
        config: The configuration file.
        overrides: Fields to change, as path=value: train.lr=0.3 strategy=margin strategy_options.batches=5
    """
    arguments = [part for override in overrides for part in _option(override)]
    if not config.is_file():
        raise ConfigError(f"{config}: no such file")
    job(RunConfig.from_json(config.read_text()), argv=arguments)


def _option(override: str) -> tuple[str, str]:
    path, equals, value = override.partition("=")
    if not equals:
        raise SystemExit(f"error: {override}: expected path=value, as in train.lr=0.3")
    return f"--{path}", value


@app.command
def select(
    strategy: tyro.conf.Positional[str],
    budget: tyro.conf.Positional[int],
    /,
    out: str,
    *,
    strategy_options: Pairs = {},  # noqa: B006  tyro reads the default, nobody changes it
    embedding: str = "",
    logits: str = "",
    pretext_loss: str = "",
    discriminator: str = "",
    weight: str = "",
    bias: str = "",
    labels: str = "",
    labeled: str = "",
    exclude: str = "",
    round: int = 0,
    seed: int = 0,
    subset_labeled: int = 0,
    subset_unlabeled: int = 0,
    num_shards: int = 1,
    workers: Literal["process", "ray"] = "process",
) -> None:
    """Choose rows from embeddings or logits of your own; writes row and score, in order of choice.

    Args:
        strategy: Name of the strategy, one of those that `alray strategies` lists.
        budget: How many rows.
        out: File to write: .csv or .parquet.
        strategy_options: Options of the strategy, names and values: quota fill. `alray strategies` lists them.
        embedding: (n, d) array: .npy or Parquet.
        logits: (n, c) array: .npy or Parquet.
        pretext_loss: (n,) losses of a pretext task, for pt4al: .npy or Parquet.
        discriminator: (n,) logits of looking labeled, for vaal: .npy or Parquet.
        weight: Head weight (c, d), .npy.
        bias: Head bias (c,), .npy.
        labels: Label of every row, .npy of integers: only labeled rows' are used, but by strategies that peek.
        labeled: Rows that are labeled: .npy of integers, or a text file with one row number a line.
        exclude: Rows never to pick, in the same form.
        round: Round number; randomness depends on it.
        seed: Seed.
        subset_labeled: Labeled rows that take part; 0 and 0: all.
        subset_unlabeled: Unlabeled rows that take part.
        num_shards: Parts to cut the rows into; the picks do not depend on it.
        workers: Where the shards are worked on.
    """
    from alray.selection.files import check_out, read_head, read_rows, write_picks
    from alray.selection.select import select as choose

    check_out(out)
    picks = choose(
        strategy, budget, strategy_options=strategy_options,
        embedding=embedding or None, logits=logits or None, head=read_head(weight, bias), labels=labels or None,
        pretext_loss=pretext_loss or None, discriminator=discriminator or None,
        labeled=read_rows(labeled), exclude=read_rows(exclude), round=round, seed=seed, num_shards=num_shards,
        workers=workers, subset_labeled=subset_labeled, subset_unlabeled=subset_unlabeled,
    )  # fmt: skip
    write_picks(picks, out)
    print(f"{len(picks.rows):,} rows: {out}")


@app.command
def strategies(names: tyro.conf.Positional[tuple[str, ...]] = (), /) -> None:
    """List the strategies with their options, and what these mean.

    Args:
        names: Strategies; none: all.
    """
    from alray.selection.registry import described

    print(described(names))


@app.command
def sweep(
    config: tyro.conf.Positional[Path],
    fields: tyro.conf.Positional[tuple[str, ...]],
    /,
    *,
    set: tuple[str, ...] = (),
    samples: int = 1,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float = 0.0,
    max_concurrent: int = 0,
    scheduler: Literal["none", "asha", "median"] = "none",
    grace_rounds: int = 2,
    retries: int = 0,
    mlflow: str = "",
) -> None:
    """Run a configuration over strategies, budgets, seeds or any other fields, and report on it.

    Started again it goes on: trials that are finished are not run again.

    Args:
        config: The configuration file (JSON).
        fields: What to vary, as path=values: strategy=random,margin seed=0..9 "train.lr=loguniform(0.01, 1)"
        set: Fields to change in all trials, as path=value: --set root=/data/runs name=small top_k=3
        samples: Draws from search spaces; each draw goes through the whole grid.
        cpus_per_trial: CPUs a trial reserves for itself; fractions are fine.
        gpus_per_trial: GPUs (or a fraction) for a trial's linear head.
        max_concurrent: Most trials at a time; 0: as many as the cluster has room for.
        scheduler: Stop bad trials early, by validation accuracy.
        grace_rounds: Rounds that no scheduler cuts off.
        retries: How often a trial that failed is started again.
        mlflow: Tracking URI of MLflow; needs the extra alray[mlflow].
    """
    if not config.is_file():
        raise ConfigError(f"{config}: no such file")
    chosen = RunConfig.from_json(config.read_text())
    if set:
        chosen = options(chosen, [part for text in set for part in _option(text)])
    _sweep(
        chosen, fields, samples=samples, cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial, max_concurrent=max_concurrent, scheduler=scheduler, grace_rounds=grace_rounds,
        retries=retries, mlflow=mlflow,
    )  # fmt: skip


def _sweep(config: RunConfig, fields: Sequence[str], **options: Any) -> None:
    """Run a sweep and its report; leaves with code 1 when trials failed, with 130 after Ctrl-C."""
    from alray.report import report as draw
    from alray.sweep import Options, parse_space
    from alray.sweep import sweep as go

    try:
        result = go(config, parse_space(fields), Options(**options))
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped: the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    if any(trial["rounds"] for trial in result.trials):
        print(draw([result.dir], None))
    print(f"sweep: {result.dir}")
    for trial in result.failed:
        print(f"failed: {trial['run']}: {trial['error']}", file=sys.stderr)
    if result.failed:
        raise SystemExit(1)


def sweep_job(config: RunConfig | Mapping[str, RunConfig], fields: Sequence[str]) -> None:
    """Run a sweep's job file: every field of its configuration is an option, ``--sweep path=values ...`` replaces what
    is varied, and the options of ``alray sweep`` are there with a prefix: ``--sweep.cpus-per-trial 0.5``."""
    chosen, varied, about = sweep_options(config, fields)
    guarded(lambda: _sweep(chosen, varied, **about))


@app.command
def report(
    runs: tyro.conf.Positional[tuple[str, ...]],
    /,
    *,
    out: str = "",
    test: Literal["t", "wilcoxon"] = "t",
    measure: str = "",
) -> None:
    """Compare runs: curves, paired differences, areas, wins, label efficiency, balance, coverage, time, pictures.

    Writes report.html (one file, nothing is fetched), report.md, report.csv, report.png and tables/*.csv.

    Args:
        runs: Run directories, folders of them (of a sweep, too), or one CSV of curves with strategy, seed, labels and
            test_top1.
        out: Where the files go; empty: into the run directory, or ./report for several runs.
        test: Paired t test or Wilcoxon's signed ranks.
        measure: What is compared, a column of metrics.csv; empty: test top-1 accuracy.
    """
    from alray.report import report as draw

    print(draw(list(runs), out or None, test=test, measure=measure))


def job(config: RunConfig | Mapping[str, RunConfig], argv: Sequence[str] | None = None) -> RunConfig:
    """Run a job file: every field of its configuration is a command-line option with type, default and help.

    With several named configurations the first is the default and ``--preset NAME`` takes another. Returns the
    configuration that was run.
    """
    chosen = options(config, argv)

    def work() -> None:
        from alray.report import report as draw
        from alray.rounds import run as go

        result = go(chosen)
        print(draw([result.dir], None))
        print(f"run: {result.dir}")

    guarded(work)
    return chosen


def guarded(work: Callable[[], T]) -> T:
    """Do the work; print an error of alray's own as one message and leave with code 2."""
    try:
        return work()
    except Exception as error:
        meant_for_people = type(error).__module__.startswith("alray.")
        if not meant_for_people or os.environ.get("ALRAY_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def main() -> None:
    """Entry point of the `alray` command."""
    guarded(lambda: app.cli(prog="alray", description="Active learning at ImageNet scale on Ray."))


if __name__ == "__main__":
    main()
