"""What the `sweep.json` beside run directories says of them: which trials a scheduler ended before their last round."""

from __future__ import annotations

from collections.abc import Sequence

from alray.report.runs import RunHistory
from alray.rundir import SWEEP
from alray.store import Store


def stopped_by(runs: Sequence[RunHistory]) -> dict[str, str]:
    """Run directory -> the scheduler that stopped the run, which has not been brought to its end since."""
    rounds = {run.dir: len(run.rounds) for run in runs}
    found = {}
    for folder in dict.fromkeys(run.dir.rsplit("/", 1)[0] for run in runs):
        store = Store(folder)
        sweep = store.read_json(SWEEP) if store.has(SWEEP) else {"trials": []}
        name = sweep.get("scheduler", "none")
        for trial in sweep["trials"]:
            run = f"{folder}/{trial['run']}"
            if trial["status"] == "stopped" and rounds.get(run, trial["of"]) < trial["of"]:
                found[run] = "a scheduler" if name == "none" else str(name)  # none: started again without one
    return found
