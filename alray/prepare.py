"""Check a configuration and prepare its run, so that errors are found before anything expensive starts.

A `Prepared` run has an open catalog, a strategy, checked sizes, a model that was built once, a run directory that
belongs to this configuration, and splits that are drawn and written to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from alray.cold_start import SeedSet, notes, strategy_of
from alray.config import (
    LISTS,
    ConfigError,
    IndexConfig,
    RunConfig,
    changed,
    fingerprint,
    places,
    refuse_credentials,
    replace,
    value_at,
)
from alray.data.catalog import Catalog
from alray.data.examples import test_notes
from alray.data.oracle import Oracle
from alray.data.origin import ensure_catalog
from alray.data.pool import Labels, Pool, Rows
from alray.features.arrays import PRETEXT_LOSS
from alray.labeling.desk import Desk, waits_here
from alray.labeling.registry import Setting, oracle_of, replays
from alray.labeling.registry import check as check_oracle
from alray.labeling.replay import at_start
from alray.labeling.start import label_start
from alray.models.weight_files import look
from alray.other_networks import check_networks
from alray.pool_rows import check_labels, held_out, imbalanced, labeled_in, parts_of
from alray.provenance import find_run, open_run
from alray.reasons import terminal
from alray.rundir import RunDir, RunError, Shared
from alray.selection.protocol import Strategy
from alray.selection.registry import named
from alray.stop import Stop
from alray.store import Store, StoreError, absolute, is_file
from alray.submitted import check_places
from alray.tasks import Task, task_of
from alray.tracking import check_mlflow
from alray.train.columns import MEASURED
from alray.train.learner import Learner


@dataclass(frozen=True)
class Checked:
    """A validated configuration and the objects that it names. Its run directory need not exist yet."""

    config: RunConfig
    catalog: Catalog
    strategy: Strategy
    seed_set: SeedSet
    task: Task
    learner: type[Learner]
    pool_rows: Rows  # (n,) int64 ascending, with the rows of the validation set
    test_rows: Rows
    given: Rows  # of a validation set that is not drawn
    asked_test: Rows  # test images without a label, for which people are asked
    notes: str  # for the user to read before the run: which weights were loaded, and settings that may be mistakes

    def draw(self) -> tuple[Rows, Rows]:
        """Draw the validation set and the seed set, which is empty if a strategy chooses it. Raises SplitError."""
        held = self.given if len(self.given) else held_out(self.config, self.catalog, self.pool_rows)
        rest = np.setdiff1d(self.pool_rows, held, assume_unique=True)
        labels, classes = self.task.source_labels(self.config, self.catalog)[rest], len(self.catalog.classes)
        return held, self.seed_set.draw(rest, labels, self.config.seed, classes)

    @property
    def val_size(self) -> int:
        """The number of images of the validation set, given or drawn."""
        return len(self.given) or self.config.split.val_size

    @property
    def needs_pretext(self) -> bool:
        """Whether pretext losses are needed, by the strategy or for the seed set."""
        return PRETEXT_LOSS in self.strategy.needs | self.seed_set.needs

    @property
    def facts(self) -> dict[str, Any]:
        """What a report needs to know about the strategy and the learner."""
        return {
            "peeks": self.strategy.peeks(),
            "frozen": self.learner.frozen,
            "model": self.learner.described(self.config),
        }

    @property
    def source(self) -> list[str]:
        """For the user to read before the run: what indexing understood of the source and what it left out."""
        lines = [f"{self.catalog.config().root}, indexed in {self.catalog.uri}:"]
        return [terminal(line) for line in [*lines, *(f"  {line}" for line in self.catalog.told())]]

    @property
    def measured(self) -> frozenset[str]:
        """The needed columns that networks besides the main one must measure, because the source does not have them."""
        return ((self.strategy.needs | self.seed_set.needs) & MEASURED) - self.catalog.provided_columns

    @property
    def trains_pretext(self) -> bool:
        """Whether the run uses a pretext task, which is trained unless an earlier run trained it."""
        return PRETEXT_LOSS in self.measured or self.config.pretext.as_backbone


@dataclass(frozen=True)
class Prepared(Checked):
    """A run that can start."""

    oracle: Oracle
    desk: Desk  # gets labels from the oracle, and waits for people
    run: RunDir
    pool: Pool  # without the validation set; the seed set is labeled unless a strategy has yet to choose it
    pool_counts: list[int] | None  # images per class of the whole pool, if the source knows them
    test_labels: Labels


def prepare(config: RunConfig, oracle: Oracle | None = None, strategy: Strategy | None = None) -> Prepared:
    """Check and open everything. Raises ConfigError, CatalogError, SplitError, RunError, SelectionError, StoreError.

    It writes to the run directory without a lease: `alray.rounds.run` calls `check` and, under the lease, `begin`.
    """
    return begin(check(config, strategy, oracle), oracle)


def begin(found: Checked, oracle: Oracle | None = None, say: Callable[[str], None] = lambda line: None) -> Prepared:
    """Open the run directory of a checked configuration, and draw, label and write its splits unless it has them.

    The caller holds the lease of the run directory. say: prints a line for the user while the run waits for people.
    Raises SplitError, RunError, OracleError, StoreError, and Waiting if people have not given all labels.
    """
    catalog, task = found.catalog, found.task
    config, classes = found.config, task.classes(found.config.data, catalog)
    drawn = None if find_run(config, catalog).split else found.draw()  # before the directory is made
    run = open_run(config, catalog, classes, found.facts)
    oracle = oracle or oracle_of(Setting(config, catalog, task, run))
    desk = Desk(run, oracle, config.labels, classes, waits_here(config.labels.wait), say)
    pool = _split(found, desk, run, drawn)
    counts = task.pool_counts(catalog, found.pool_rows) if replays(config) else None
    asked, answers = run.asked_test()
    rows, labels = np.append(found.test_rows, asked), np.append(catalog.labels()[found.test_rows], answers)
    order = np.argsort(rows)
    tests = {"test_rows": rows[order], "test_labels": labels[order]}
    return Prepared(**{**vars(found), **tests}, oracle=oracle, desk=desk, run=run, pool=pool, pool_counts=counts)


def check(config: RunConfig, strategy: Strategy | None = None, oracle: Oracle | None = None) -> Checked:
    """Check everything that can be checked without a run directory. Makes the catalog if there is none.

    oracle: the user's own; None if the source gives the labels.
    The configuration in the result has absolute paths only, and names the strategy object if one was given.
    """
    if isinstance(oracle, type):
        raise ConfigError(
            f"oracle: expected an object, got the class {oracle.__name__}; call it, as in {oracle.__name__}()"
        )
    given, config = config, with_absolute_paths(config)
    check_places(given)
    if config.mlflow:
        refuse_credentials({"mlflow": config.mlflow})
        check_mlflow(config.mlflow)
    _check_files(config)
    task = task_of(config)
    check_oracle(config)
    if strategy is None:
        strategy = strategy_of(config)
    else:
        name, options = named(strategy)
        config = replace(config, {"strategy": name, "strategy_options": options})
    seed_set = SeedSet.of(config, strategy)
    if not _may_be_finished(config):  # a finished run is only read
        Store(config.run_dir or config.root).check_writable()
    catalog, told = _open_catalog(config, task)
    catalog, parts, unused = parts_of(config, catalog, task)
    seed_set = SeedSet.of(config, strategy, labeled_in(config, task.source_labels(config, catalog), parts.pool))
    needs_pretext = check_networks(config, catalog, strategy, seed_set)
    learner = task.learner(config, catalog)
    learner.refuse(config)
    simulated = oracle is None and replays(config)
    check_labels(config, catalog, parts, task.hidden_labels(catalog) if simulated else oracle, seed_set.reads_labels)
    candidates = np.union1d(imbalanced(config, catalog, parts.pool), parts.validation)
    test_rows = task.testable(catalog, parts.test) if replays(config) else task.labeled(config, catalog, parts.test)
    asked_test = np.setdiff1d(parts.listed, test_rows)
    told += [*unused, *test_notes(len(parts.test), len(test_rows) + len(asked_test))]
    if not _classes_may_come(config, task):
        told += task.check_classes(catalog, candidates, test_rows, simulated=simulated)
    validation = len(parts.validation) or config.split.val_size
    unknown = _unknown(config, task.source_labels(config, catalog), parts.validation, len(asked_test))
    Stop(config).check(len(candidates), validation, seed_set.size, unknown + (0 if seed_set.given else seed_set.size))
    free = len(candidates) - validation
    strategy.check_pool(free)
    seed_set.check_pool(free)
    if config.rounds > 1:
        strategy.check(config.budget, free - seed_set.size)
        strategy.check_round(seed_set.round_of(config.rounds - 2))
    loaded = _built(config, catalog, task, learner, needs_pretext)
    catalog, seen = task.annotated(config, catalog, candidates, test_rows, simulated=replays(config))
    told = [loaded, _fresh_hub_model(config), *told, *notes(config, strategy, seed_set, free), *seen]
    said = "\n".join(filter(None, told))
    return Checked(
        config, catalog, strategy, seed_set, task, learner, candidates, test_rows, parts.validation, asked_test, said
    )


def _built(config: RunConfig, catalog: Catalog, task: Task, learner: type[Learner], needs_pretext: bool) -> str:
    """Build the networks once, so that one that cannot be built is found before any worker starts. Returns which
    weights were loaded, in words. It imports PyTorch, which takes seconds: what needs no network is checked before."""
    if needs_pretext:
        from alray.pretext import check as check_pretext

        check_pretext(config.pretext, config.model, config.transform.size)
    classes = max(len(task.classes(config.data, catalog)), 1)  # classes that people name may still come
    return learner.check(config, catalog, lambda: task.build(config, classes))


def _may_be_finished(config: RunConfig) -> bool:
    """Whether there is a finished run that can be that of the configuration. Its fingerprint is not known yet."""
    stop = Stop(config)
    if config.run_dir:
        return stop.end(RunDir(config.run_dir)) is not None
    runs = Store(config.root)
    try:
        names = runs.names()
    except OSError:  # not a directory: the check that files can be written there says so
        return False
    named = [runs.at(name) for name in names if re.fullmatch(rf"{re.escape(config.name)}-[0-9a-f]+", name)]
    return any(stop.end(RunDir(uri)) is not None for uri in named)


def _check_files(config: RunConfig) -> None:
    """Look for the files that are named beside the source, before images are indexed. Raises ConfigError, or
    CheckpointError for a file or folder that cannot be weights."""
    checkpoint = config.model.checkpoint
    if checkpoint and (is_file(checkpoint) or Store(checkpoint).names()):
        look(checkpoint)
    for path in ("model.checkpoint", *LISTS):
        if (place := value_at(config, path)) and not is_file(place):
            raise ConfigError(f"{path}: expected a file, got none at {place}")
    if config.model.checkpoint_part and not config.model.checkpoint:
        raise ConfigError(
            f"model.checkpoint_part: expected a model.checkpoint of which it is a part, got "
            f"{config.model.checkpoint_part!r} alone"
        )


def _fresh_hub_model(config: RunConfig) -> str:
    model = config.model
    if not model.on_hub or model.pretrained or model.checkpoint or config.pretext.as_backbone:
        return ""
    return f"model.backbone {model.backbone}: its weights are not loaded, because model.pretrained is off"


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths. Workers need them, because they run in other directories than the
    driver. Raises ConfigError for URIs with credentials, which would be written to the run directory, and for those
    with a wrong number of slashes."""
    refuse_credentials(places(config))
    return replace(config, {path: _absolute(path, place) for path, place in places(config).items()})


def _absolute(path: str, place: str) -> str:
    try:
        return absolute(place)
    except StoreError as error:
        raise ConfigError(f"{path}: {error}") from None


def _open_catalog(config: RunConfig, task: Task) -> tuple[Catalog, list[str]]:
    """The catalog, and sentences on whether its source is still the same. Raises CatalogError if it is not."""
    data = task.index_config(config.data)
    what = changed(data, only=IndexConfig.model_fields.keys() - {"check", "yes"})
    catalog, told = ensure_catalog(data, Shared(config.root).catalog(f"{config.name}-{fingerprint(what)}"))
    if not task.classes(config.data, catalog) and not _classes_may_come(config, task):
        raise RunError(f"{catalog.uri}: expected a catalog with classes, got none; name them in data.classes")
    return catalog, told


def _classes_may_come(config: RunConfig, task: Task) -> bool:
    return task.classes_can_come and config.labels.lets_come(config.data.classes)


def _unknown(config: RunConfig, labels: Labels, validation: Rows, asked_test: int) -> int:
    """How many labels of the validation set and of the test set are asked for. labels (n,): of the source."""
    drawn = 0 if config.split.val_how == "labeled" else config.split.val_size
    return asked_test + (int((labels[validation] < 0).sum()) if len(validation) else drawn)


def _split(checked: Checked, desk: Desk, run: RunDir, drawn: tuple[Rows, Rows] | None) -> Pool:
    """The pool with its validation set and seed set. They are read from the run directory; those that were just drawn
    are labeled and written there."""
    catalog = checked.catalog
    if drawn is not None:
        held_out, seed_set = drawn
        in_pool = np.zeros(len(catalog), bool)
        in_pool[checked.pool_rows] = True
        labels = checked.task.source_labels(checked.config, catalog)
        how = checked.config.split.val_how
        known = np.concatenate([
            labels[held_out] >= 0 if len(checked.given) else np.full(len(held_out), how == "labeled"),
            np.full(len(seed_set), checked.seed_set.given), np.zeros(len(checked.asked_test), bool),
        ])  # fmt: skip
        start = label_start(desk, catalog, labels, held_out, seed_set, checked.asked_test, known)
        in_pool[start.unusable] = False
        run.write_split(in_pool, start.held_out, start.seed, start.test, start.labels)
    return at_start(run, catalog, checked.task, len(desk.classes()))
