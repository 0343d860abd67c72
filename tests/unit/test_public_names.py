"""The names and the version of the package, and a job file that hands over an oracle or a strategy of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pins import CONFIG, features

import alray
from alray.cli import main

ROOT = Path(alray.__file__).parents[1]
HEAVY = "import sys; print(sorted({'torch', 'ray', 'scipy'} & sys.modules.keys()))"
JOB = """
import numpy as np
import alray
from alray.cli import job
from pins import CONFIG

label = np.load("features.npz")["label"]


class File:
    def answer(self, requests: alray.Requests) -> alray.Answers:
        with open("asked.txt", "a") as file:
            file.write(f"{requests.round} {len(requests)}\\n")
        return alray.Answers.of(label[requests.rows])


if __name__ == "__main__":
    job(CONFIG, oracle=File(), strategy=alray.STRATEGIES["k_center"]())
"""


def python(folder: Path, *arguments: str) -> str:
    """What a Python program prints that imports this alray. Fails where the program does."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_listed_and_there() -> None:
    assert set(alray._LAZY) | {"__version__"} <= set(alray.__all__) <= set(dir(alray))
    for name in alray.__all__:
        assert getattr(alray, name) is not None
    with pytest.raises(AttributeError, match="module 'alray' has no attribute 'nothing'"):
        alray.nothing  # noqa: B018


def test_the_version_is_printed_without_torch_or_ray(tmp_path: Path) -> None:
    program = f"from alray.cli import main; main(['--version']); {HEAVY}"
    assert python(tmp_path, "-c", program) == f"alray {alray.__version__}\n[]\n"


def test_names_that_a_strategy_or_an_oracle_needs_are_there_without_torch_or_ray(tmp_path: Path) -> None:
    program = f"from alray import Answers, Oracle, Requests, RunConfig, ScoreStrategy, with_options; {HEAVY}"
    assert python(tmp_path, "-c", program) in ("[]\n", "['scipy']\n")


def test_the_changelog_and_the_citation_name_the_version() -> None:
    assert f"\n## {alray.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {alray.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_a_job_file_hands_over_an_oracle_and_a_strategy(tmp_path: Path) -> None:
    """The oracle is asked for the seed set and in every query; the strategy object chooses instead of the named one."""
    features(tmp_path / "features.npz")
    (tmp_path / "mine.py").write_text(JOB)
    said = python(tmp_path, "mine.py", "--rounds", "3", "--budget", "7")
    assert (tmp_path / "asked.txt").read_text() == "None 25\n0 7\n1 7\n"
    run = Path(said.rpartition("run: ")[2].strip())
    assert (tmp_path / "runs").resolve() == run.parent.resolve()
    assert CONFIG.strategy != "k_center"
    assert "radius" in pq.read_schema(run / "round_00" / "picks.parquet").names  # k_center's alone


def test_a_reader_that_closes_the_output_early_sees_no_traceback() -> None:
    command = f"{sys.executable} -m alray.cli run imagenet_base --help-all | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "usage" in done.stdout
    assert done.stderr == ""


def test_a_weights_file_that_is_not_there_is_refused_before_images_are_indexed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alray.cli", "run", "imagenet_base", "--data.root", str(tmp_path)]
    command += ["--root", str(tmp_path / "runs"), "--model.checkpoint", str(tmp_path / "none.pth")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: --model.checkpoint: expected a file, got none at {tmp_path}/none.pth\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("indx", "did you mean index?"),
        ("qqq", "verify\n"),
        ("digits", "the recipe of this name is started by `alray run digits`"),
    ],
)
def test_an_unknown_command_is_refused_with_what_was_meant(
    given: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([given])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_ctrl_c_leaves_with_130_and_says_that_the_command_continues() -> None:
    program = "from alray.cli import guarded\ndef stop(): raise KeyboardInterrupt\nguarded(stop)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "stopped: the same command continues\n")
