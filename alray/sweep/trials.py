"""The trials of a sweep, all of them checked before the first one runs.

State lives in the run directories: a trial is finished when its last round is committed. Run directories lie in the
sweep's folder, <root>/<name>-sweep. Catalogs, features and pretext tasks lie under the root, where single runs find
them, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alray.cold_start import strategy_of
from alray.config import RunConfig, fingerprint, refuse_credentials, replace
from alray.data.catalog import Catalog
from alray.data.origin import looked_at_once
from alray.data.pool import Rows
from alray.labeling.registry import replays
from alray.prepare import Checked, check, with_absolute_paths
from alray.provenance import identity_of
from alray.rundir import RunDir
from alray.stop import Stop
from alray.store import join
from alray.sweep.space import Space, check_path, expand, flatten


class SweepError(ValueError):
    """A sweep that cannot start; the message names the field or the trials."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: the values of the varied fields, its configuration, run directory and number of setting."""

    fields: Mapping[str, Any]
    config: RunConfig
    run: str
    setting: int

    @property
    def finished(self) -> bool:
        """Whether the round with which the run ends is committed."""
        return Stop(self.config).end(RunDir(self.run)) is not None

    @property
    def title(self) -> str:
        """E.g. 'seed 0, strategy margin, budget 50'."""
        return ", ".join(f"{path} {value}" for path, value in self.fields.items())


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that can start: its folder, its trials, and one checked run per setting (seeds share it)."""

    dir: str
    trials: tuple[Trial, ...]
    settings: tuple[Checked, ...]
    notes: tuple[str, ...]


def plan(config: RunConfig, space: Space, samples: int = 1) -> SweepPlan:
    """Make all trials, and check one of every setting as a single run would be checked. Of the trials and the sweep's
    folder nothing is written yet.

    Raises SpaceError, SweepError and whatever a run refuses (ConfigError, CatalogError, SelectionError ...), with the
    trial's fields in front.
    """
    for path in flatten(space):
        check_path(path)
    base = with_absolute_paths(replace(config, {"run_dir": ""}))
    folder = join(base.root, f"{config.name}-sweep")
    if base.strategy_options:
        strategy_of(base)  # trials of another strategy leave its options out: wrong ones would be dropped unseen
    settings = _Settings()
    with looked_at_once():
        trials = [_trial(base, fields, settings, folder) for fields in expand(space, samples, config.seed)]
    kept, notes = _without_prefixes(trials)
    notes += dict.fromkeys(line for found in settings.checked for line in found.notes.splitlines())
    if config.run_dir:
        notes.append(f"run_dir {config.run_dir}: not used, the trials lie in {folder}")
    return SweepPlan(folder, tuple(kept), tuple(settings.checked), tuple(notes))


class _Settings:
    """Checked runs by their configuration without the seed, in order of appearance; equal pools are kept once."""

    def __init__(self) -> None:
        self.checked: list[Checked] = []
        self._numbers: dict[str, int] = {}
        self._rows: dict[bytes, Rows] = {}

    def number(self, config: RunConfig) -> int:
        """The setting of a configuration, checked when it is the first of it."""
        # The seed draws an imbalanced pool, and a pretext task is trained on the pool: then every seed is a setting.
        own = config.data.imbalance.kind != "none" and config.pretext.task != "none"
        # A key in memory, which is stored nowhere: it may hold the whole configuration.
        setting = fingerprint(config.model_dump(mode="json", exclude=None if own else {"seed"}))
        if setting not in self._numbers:
            if not replays(config):
                raise SweepError(
                    f"labels.oracle: a sweep replays the labels of the source (hidden), because nobody labels the same "
                    f"images for every trial; got {config.labels.oracle}"
                )
            found = check(config)
            found.draw()
            pool, test = self._once(found.pool_rows), self._once(found.test_rows)
            self.checked.append(dataclasses.replace(found, pool_rows=pool, test_rows=test))
            self._numbers[setting] = len(self.checked) - 1
        return self._numbers[setting]

    def _once(self, rows: Rows) -> Rows:
        return self._rows.setdefault(hashlib.blake2b(rows.tobytes(), digest_size=16).digest(), rows)


def _trial(base: RunConfig, fields: dict[str, Any], settings: _Settings, folder: str) -> Trial:
    refuse_credentials({path: value for path, value in fields.items() if isinstance(value, str)})
    try:
        config = with_absolute_paths(replace(base, fields))
        setting = settings.number(config)
    except ValueError as error:
        raise SweepError(f"trial {', '.join(f'{path}={value}' for path, value in fields.items())}: {error}") from error
    run = join(folder, _run_name(config, settings.checked[setting].catalog))
    return Trial(fields, config.model_copy(update={"run_dir": run}), run, setting)


def _run_name(config: RunConfig, catalog: Catalog) -> str:
    mine = identity_of(config, catalog)
    return f"{config.name}-{fingerprint(mine)}"


def _without_prefixes(trials: Sequence[Trial]) -> tuple[list[Trial], list[str]]:
    """The longest of trials that differ only in their number of rounds: the shorter ones are its first rounds."""
    longest: dict[str, Trial] = {}
    notes = []
    for trial in trials:
        other = longest.get(trial.run)
        if other and other.config.rounds == trial.config.rounds:
            raise SweepError(
                f"{other.title} and {trial.title} are the same run: they differ in nothing that changes a pick"
            )
        if other:
            notes.append(f"{trial.title}: the first rounds of {other.title}; only the longer one is run")
        if not other or other.config.rounds < trial.config.rounds:
            longest[trial.run] = trial
    return list(longest.values()), notes


def committed(run: str) -> int:
    """How many rounds are committed, from the first on."""
    number, folder = 0, RunDir(run)
    while folder.round(number).committed:
        number += 1
    return number


def metrics_of(run: str, number: int) -> dict[str, Any]:
    """The metrics of a committed round."""
    return RunDir(run).round(number).metrics()
