"""A draw for a test that is killed at every one of its writes draws the same images, and asks for each of them once."""

from __future__ import annotations

import csv
import shutil
import signal
from pathlib import Path

import program
import pytest
from test_kill_people import NAMES, config_of

from alray.labeling import drawn, receive, state
from alray.labeling.desk import Waiting
from alray.rounds import run
from alray.rundir import RunDir


def give(folder: RunDir, batch: state.OpenBatch, place: Path) -> None:
    keys = batch.requests["key"].to_pylist()
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([("key", "label"), *((key, NAMES[int(key) % 3]) for key in keys)])
    receive.receive(folder, [str(place)])


def test_a_killed_draw_is_the_same_draw_and_no_image_is_drawn_and_picked(tmp_path: Path) -> None:
    config = config_of(tmp_path, 0)
    for _ in range(2):
        with pytest.raises(Waiting):
            run(config, quiet=True)
        (place,) = tmp_path.glob("kill-*")
        folder = RunDir(str(place))
        if not folder.committed():
            give(folder, state.open_batches(folder)[0], tmp_path / "labels.csv")
    shutil.copytree(place, tmp_path / "undisturbed")
    assert program.draw(str(tmp_path / "undisturbed"), 30, "active") == 0
    for name in ("draw.json", "draws.parquet", "requests.parquet"):
        for when in ("before", "during", "after"):
            assert program.draw(folder.uri, 30, "active", f"test_00/{name}", when) == -signal.SIGKILL
            if (name, when) == ("requests.parquet", "before"):
                assert [batch.name for batch in state.open_batches(folder)] == ["round 0"]
            if name != "requests.parquet" and when == "after":
                break
    assert program.draw(folder.uri, 30, "active") == 0
    (mine,), (theirs,) = folder.tests(), RunDir(str(tmp_path / "undisturbed")).tests()
    assert mine.draws().equals(theirs.draws())
    assert mine.about() == theirs.about()
    waited, test = state.open_batches(folder)
    assert test.requests["row"].to_pylist() == mine.rows().tolist()
    assert not set(test.requests["row"].to_pylist()) & set(waited.requests["row"].to_pylist())
    give(folder, test, tmp_path / "labels.csv")
    assert len(drawn.record(folder)) == 1
    seen = set(mine.rows().tolist())
    while (batch := state.open_batch(folder)) is not None:
        assert not seen & set(batch.requests["row"].to_pylist())
        seen |= set(batch.requests["row"].to_pylist())
        give(folder, batch, tmp_path / "labels.csv")
        try:
            rounds = run(config, quiet=True).rounds
        except Waiting:
            continue
    assert [one["labels"] for one in rounds] == [12, 24, 36, 48]
