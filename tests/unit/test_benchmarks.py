"""benchmarks/README.md and the files of results say the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import alray

FOLDER = Path(alray.__file__).parents[1] / "benchmarks"
RESULTS = [path for path in sorted((FOLDER / "results").glob("*.json")) if "commit" in json.loads(path.read_text())]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_table_has_the_date_and_the_commit_of_each_result(path: Path) -> None:
    found = json.loads(path.read_text())
    script = found["command"].split()[1].removeprefix("benchmarks/")
    lines = (FOLDER / "README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and f"`{script}`" in line.split(" | ")[0]]
    measured = [row.rstrip("| ").rpartition(" | ")[2] for row in rows]
    assert any(found["date"] in last and found["commit"] in last for last in measured), (script, measured)


def test_every_script_has_a_row_and_every_row_a_script() -> None:
    cells = [line.split(" | ")[0] for line in (FOLDER / "README.md").read_text().splitlines()]
    named = {cell.strip("| ").partition("`")[2].partition("`")[0] for cell in cells if cell.startswith("| `bench_")}
    assert named == {path.name for path in FOLDER.glob("bench_*.py")}


def test_the_commits_of_the_results_are_in_the_history() -> None:
    git = ["git", "-C", str(FOLDER)]
    whole = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
    if whole.stdout.strip() != "false":
        pytest.skip("the history is not here")
    named = {json.loads(path.read_text())["commit"] for path in RESULTS}
    ancestors = subprocess.run([*git, "rev-list", "HEAD"], capture_output=True, text=True, check=True).stdout.split()
    assert not {commit for commit in named if not any(one.startswith(commit) for one in ancestors)}
