"""What a scheduler demands of the trials, and that earlier trials in the folder are of the same configuration: both are
checked before any trial starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from alray.config import LISTS, DataConfig, RunConfig, SweepConfig, full_identity
from alray.config.tree import OWNERS, value_at
from alray.provenance import differences, identity_of
from alray.rundir import SWEEP, RunDir
from alray.store import Store
from alray.sweep.trials import SweepError, SweepPlan

# Fields that change the accuracy at a round whatever a trial does: under one scheduler all trials must share them.
_ALIKE = (
    "task", "budget", "split.seed_set_size", "split.val_size", "split.val_how", "split.test_share",
    "split.val_list", "split.test_list",
    *(f"data.{field}" for field in DataConfig.model_fields),
)  # fmt: skip


# What an identity knows of the content of files -> the fields that name the files.
_CONTENT = {
    "data_fingerprint": "data.", "decoding": "data.", "weights_fingerprint": "model.checkpoint",
    **{name: path for path, name in LISTS.items()},
}  # fmt: skip
_SHOWN = 3  # differences that a message names


def check_scheduler(options: SweepConfig, planned: SweepPlan) -> None:
    """Check that all trials have validation images, and the same data and numbers of labels. Raises SweepError."""
    if options.scheduler == "none":
        return
    configs = [trial.config for trial in planned.trials]
    for trial in planned.trials:
        if trial.config.split.val_size == 0 and not len(planned.settings[trial.setting].given):
            raise SweepError(
                f"scheduler: {options.scheduler} stops trials by validation accuracy, but split.val_size=0 ("
                f"{trial.title}): give validation images (the test set chooses nothing)"
            )
    for path in _ALIKE:
        if len(values := _values(configs, path)) > 1:
            raise SweepError(
                f"scheduler: {options.scheduler} compares trials of the same round, expected one {path} in all of "
                f"them, got {', '.join(values[:5])}; make a sweep of each, or take scheduler none"
            )


def check_other_trials(planned: SweepPlan) -> None:
    """Check that the trials of earlier sweeps in the folder differ from these only in fields that a sweep varied. A
    report on the folder would otherwise compare other things than it names. Raises SweepError.

    Fields that change no pick (the number of rounds, resources) may differ, and so may seeds.
    """
    folder, first = Store(planned.dir), planned.trials[0]
    if not folder.has(SWEEP):
        return
    mine, varied = {trial.run for trial in planned.trials}, {*first.fields, "seed"}
    ours = full_identity(identity_of(first.config, planned.settings[first.setting].catalog))
    for entry in folder.read_json(SWEEP)["trials"]:
        run = RunDir(folder.at(entry["run"]))
        if run.uri in mine or not run.exists:
            continue
        theirs = full_identity(run.about()["identity"])
        both = varied | set(entry["fields"])
        lines = [line.strip() for line in differences(theirs, ours)]
        if differ := [line for line in lines if not _may_differ(line.partition(":")[0], both)]:
            raise SweepError(
                f"{planned.dir}: an earlier sweep of this name has trials of another configuration, and a report would "
                f"mix them with these: {'; '.join(differ[:_SHOWN])}. Give this sweep another --name, or vary the field "
                "in both"
            )


def _may_differ(path: str, varied: Collection[str]) -> bool:
    """Whether a field of an identity was varied, belongs to a varied one, or names the content of a varied file."""
    owner, file = OWNERS.get(path), _CONTENT.get(path, " ")
    return owner in varied or any(f"{path}.".startswith(f"{other}.") or other.startswith(file) for other in varied)


def _values(configs: Sequence[RunConfig], path: str) -> list[str]:
    return list(dict.fromkeys(str(value_at(config, path)) for config in configs))
