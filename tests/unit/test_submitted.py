"""A submitted job runs in Ray's temporary copy of the working directory: places in it are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import _get_excludes

from alray import RunConfig, replace
from alray.config import ConfigError, places
from alray.prepare import check
from alray.submitted import check_places

REPOSITORY = Path(__file__).parents[2]
ELSEWHERE = {
    "root": "/shared/runs", "run_dir": "s3://bucket/mine", "data.root": "gs://bucket/a", "data.test_root": "~/test",
    "data.catalog": "/catalogs/a", "data.mask_root": "s3://bucket/masks", "data.train_list": "/lists/train.txt",
    "model.checkpoint": "file:///weights.pth",
}  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a copy, as the current directory."""
    folder = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("field", list(ELSEWHERE))
def test_a_relative_place_is_refused_and_what_to_give_is_named(field: str, copy: Path) -> None:
    config = replace(RunConfig(), {**ELSEWHERE, field: "there/x"})
    with pytest.raises(ConfigError, match=rf'^in a submitted job .*\n{field}: .* --{field} "\$PWD/there/x"') as error:
        check(config)
    assert str(error.value).count("\n") == 1
    with pytest.raises(ConfigError, match=r"\$PWD/there/x"):
        check_places(replace(config, {field: str(copy / "there/x")}))  # made absolute before, as in a sweep


def test_absolute_paths_and_uris_are_used(copy: Path) -> None:
    check_places(replace(RunConfig(), ELSEWHERE))


def test_every_place_of_the_configuration_is_tried_here() -> None:
    assert places(replace(RunConfig(), ELSEWHERE)).keys() == ELSEWHERE.keys()


def test_relative_places_are_used_outside_of_submitted_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_places(replace(RunConfig(), dict.fromkeys(ELSEWHERE, "there/x")))


def test_the_whole_package_is_sent_along_and_what_runs_leave_is_not() -> None:
    excludes = yaml.safe_load((REPOSITORY / "cluster/runtime_env.yaml").read_text())["excludes"]
    left_out = _get_excludes(REPOSITORY, excludes)
    sent = [path for part in ("alray", "jobs") for path in (REPOSITORY / part).rglob("*.*") if "cache" not in str(path)]
    assert REPOSITORY / "alray/data/catalog.py" in sent
    assert not [path for path in sent if left_out(path)]
    assert all(exclude.startswith("/") for exclude in excludes)
    for name in ("data/x.jpg", "runs/a/run.json", ".venv/bin/python", ".venv311/bin/python", ".git/HEAD", "build/a.py"):
        assert left_out(REPOSITORY / name), name
