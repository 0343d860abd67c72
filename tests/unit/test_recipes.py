"""Recipes are found by name, in a checkout and in an installed package alike."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_config import JOBS

from alray import RunConfig
from alray.cli import main
from alray.config import ConfigError
from alray.recipes import find, presets, recipes

ROOT = JOBS.parent


def program(folder: Path, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `alray ...` prints where alray lies in `path`."""
    return subprocess.run(
        [sys.executable, "-m", "alray.cli", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_job_file_is_a_recipe_and_is_listed_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipes() == {path.stem: path for path in JOBS.glob("*.py")}
    main(["run"])
    said = capsys.readouterr().out
    for name in recipes():
        assert f"\n{name} " in said
    assert "BASE on ImageNet (Emam et al. 2021)" in said


def test_a_recipe_a_json_file_and_a_job_file_give_their_configurations(tmp_path: Path) -> None:
    assert list(presets("imagenet_base")) == ["linear", "finetune"]
    assert presets("imagenet_coreset")["finetune"].strategy == "k_center"
    (tmp_path / "c.json").write_text(RunConfig(seed=7).to_json())
    assert presets(str(tmp_path / "c.json"))["default"].seed == 7
    (tmp_path / "job.py").write_text("from alray import RunConfig\nCONFIG = RunConfig(seed=8)\n")
    assert presets(str(tmp_path / "job.py"))["default"].seed == 8


def test_a_wrong_name_is_refused_with_the_nearest_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"imagenet_bass: .* the nearest recipes are imagenet_base"):
        find("imagenet_bass")
    with pytest.raises(ConfigError, match="no such file"):
        find(str(tmp_path / "nothing.json"))
    (tmp_path / "job.py").write_text("")
    with pytest.raises(ConfigError, match="expected a job file with CONFIG or PRESETS"):
        presets(str(tmp_path / "job.py"))


def test_a_job_file_is_started_as_python_starts_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'beside'\n")
    (tmp_path / "job.py").write_text("import sys, beside\nif __name__ == '__main__': print(beside.WORD, sys.argv)\n")
    done = program(tmp_path, ROOT, "run", "job.py", "--a", "1")
    assert done.stdout == "beside ['job.py', '--a', '1']\n", done.stderr


def test_an_installed_package_brings_the_recipes(tmp_path: Path) -> None:
    """The wheel is built and unpacked, and `alray run` started where there is no checkout."""
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("alray", "jobs", "pyproject.toml", "setup.py", "README.md"):
        os.symlink(ROOT / name, source / name)  # a build writes beside its source
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    wheel = zipfile.ZipFile(next(tmp_path.glob("alray-*.whl")))
    names = set(wheel.namelist())
    assert {f"alray/jobs/{path.name}" for path in JOBS.glob("*.py")} <= names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "alray").rglob("*") if path.is_file()}
    assert {name for name in sources if "__pycache__" not in name} <= names
    wheel.extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    listed = program(tmp_path / "empty", tmp_path / "installed", "run")
    assert "\nimagenet_base " in listed.stdout, listed.stderr
    shown = program(tmp_path / "empty", tmp_path / "installed", "run", "imagenet_coreset", "--help")
    assert "--data.root" in shown.stdout, shown.stderr
    assert "(default: k_center)" in shown.stdout
