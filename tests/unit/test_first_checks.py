"""What is refused before any work: nothing is read, written or imported first, and the message names the option."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alray import RunConfig, ScoreStrategy, replace, run, select
from alray.cli import main
from alray.cluster import driver_takes_no_gpu
from alray.config import ConfigError, DataConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.config.command_line import options
from alray.data.catalog import index
from alray.features.arrays import Block, Shard
from alray.models.device import best_device
from alray.models.no_gpu import for_workers, gpu_allowed, without_gpu
from alray.rounddir import RoundDir
from alray.scalars import lines_written
from alray.selection.kernels.sieve import Sieve
from alray.selection.protocol import SelectionError
from alray.store import Store, StoreError, absolute, folder_of
from alray.sweep import SpaceError, SweepError, check_values, parse_space, plan, sweep


def config_of(folder: Path, **changes: Any) -> RunConfig:
    """A small linear run on embeddings, which starts no Ray."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 120)
    x = (rng.normal(size=(3, 4))[label] + rng.normal(size=(120, 4))).astype(np.float32)
    np.savez(folder / "features.npz", features=x, label=label, is_test=np.arange(120) % 4 == 0)
    config = RunConfig(
        name="first", root=str(folder / "runs"), rounds=3, budget=6, top_k=(2,), strategy="margin",
        data=DataConfig(root=str(folder / "features.npz")),
        split=SplitConfig(val_size=0, seed_set_size=6),
        train=TrainConfig(mode="linear", epochs=3, batch_size=8, lr=1.0),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip
    return replace(config, changes)


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    return capsys.readouterr().err


# alray select --out


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("picks.csv", "--out: expected a new file, but picks.csv exists; --overwrite replaces it"),
        ("picks.txt", "--out: expected a name that ends in .csv or .parquet, got 'picks.txt'"),
        ("folder.csv", "--out: expected a file, got the directory folder.csv"),
        ("picks.csv/more/picks.csv", "cannot write .*picks.csv/more: .*Not a directory"),
    ],
)
def test_the_file_to_write_is_checked_before_arrays_are_read(
    out: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("picks.csv").write_text("mine")
    Path("folder.csv").mkdir()
    said = refused(f"select random 2 --embedding no-such.npy --out {out}", capsys)
    assert re.search(says, said), said
    assert Path("picks.csv").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["folder.csv", "picks.csv"]


def test_overwrite_replaces_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(5))
    main(["select", "random", "2", "--embedding", "x.npy", "--out", "new/picks.csv"])
    main(["select", "random", "3", "--embedding", "x.npy", "--out", "new/picks.csv", "--overwrite"])
    assert len(Path("new/picks.csv").read_text().splitlines()) == 4


# Places


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("s3:/bucket/x", "s3://bucket/x"), ("s3:bucket/x", "s3://bucket/x"), ("s3//bucket/x", "s3://bucket/x"),
        ("gs:/b", "gs://b"), ("file:/a/b", "file:///a/b"), ("myfs:/a", "myfs://a"), ("https:/host/x", "https://host/x"),
    ],
)  # fmt: skip
def test_a_uri_with_a_wrong_number_of_slashes_is_no_local_folder(place: str, meant: str) -> None:
    with pytest.raises(StoreError, match=f"expected {meant} for a URI, or ./{place} for a local path"):
        absolute(place)


@pytest.mark.parametrize("place", ["./s3:/x", "/s3:/x", "a/b:c", "train:val", "s3/x", "c:/x", "files//x"])
def test_other_names_are_local(place: str) -> None:
    assert absolute(place) == str(Path(place).absolute())


def test_the_field_of_a_wrong_uri_is_named_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for field in ("root", "run_dir", "data.root", "data.catalog", "model.checkpoint", "data.train_list"):
        with pytest.raises(ConfigError, match=rf"^{field}: s3:/b/x: expected s3://b/x for a URI"):
            run(replace(RunConfig(), {field: "s3:/b/x"}))
    assert "--root: s3:/b" in refused("run imagenet_base --root s3:/b", capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_leaves_no_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.npz").write_bytes(b"")
    for wrong in ({"data.root": str(tmp_path / "none.npz")}, {"data.root": str(tmp_path / "broken.npz")}):
        with pytest.raises(ValueError, match=r"\.npz"):
            run(config_of(tmp_path, **wrong))
        assert not (tmp_path / "runs").exists()
    refused(f"index {tmp_path / 'none'} --out {tmp_path / 'catalog'}", capsys)
    assert not (tmp_path / "catalog").exists()


def test_a_check_for_writing_leaves_nothing(tmp_path: Path) -> None:
    Store(str(tmp_path / "a" / "b")).check_writable()
    assert list(tmp_path.iterdir()) == []


# Words


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--train.lr -1", "--train.lr: expected a number greater than 0, got -1"),
        ("--budget 2.5", "--budget: expected an integer of at least 1, got 2.5"),
        ("--split.test-share 2", "--split.test-share: expected a number from 0 to below 1, got 2"),
        ("--resources.use-gpu maybe", "--resources.use-gpu: expected one of auto, yes, no, got 'maybe'"),
        ("--model.options 3", "--model.options: expected names and values, got 3"),
        ("--top-k a 3", "--top-k: expected an integer, got 'a'"),
        ("--data.pixel-range 5", "--data.pixel-range: expected 2 numbers or none, got fewer"),
        ("--data.pixel-range 5 1", "--data.pixel-range: expected two numbers of which the second is larger, got "),
        ("--data.split x tests", "--data.split: expected one of train, test, validation, ignore, class, got 'tests'"),
        ("--train.step-size 0 --budget 0", "--train.step-size: expected an integer of at least 1, got 0"),
    ],
)
def test_refusals_are_in_plain_words_and_name_options_as_they_are_typed(arguments: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        options(RunConfig(), arguments.split())
    assert any(line.startswith(says) for line in str(error.value).splitlines()), error.value
    assert "Input should" not in str(error.value)
    assert "Value error" not in str(error.value)


def test_python_names_fields_by_their_paths() -> None:
    with pytest.raises(ConfigError, match=r"^train\.step_size: expected an integer of at least 1, got 0$"):
        replace(RunConfig(), {"train.step_size": 0})


def test_errors_of_later_checks_name_options_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(5))
    assert "error: BUDGET: expected at most 5" in refused("select random 6 --embedding x.npy --out p.csv", capsys)
    assert "error: --seed: expected an" in refused("select random 2 --seed -1 --embedding x.npy --out p.csv", capsys)
    (tmp_path / "config.json").write_text(config_of(tmp_path).to_json())
    assert "error: --budget: the pool has 90 images" in refused("run config.json --budget 1000", capsys)


# Sweeps


def test_a_value_that_is_given_twice_is_refused_by_name() -> None:
    for text, twice in (("strategy=random,margin,random", '"random"'), ("seed=0..3,2..5", "2, 3")):
        with pytest.raises(SpaceError, match=f"^{text.partition('=')[0]}: expected every value once, got {twice} sev"):
            check_values(RunConfig(), parse_space([text]))


def test_fields_of_a_sweep_are_checked_before_torch_and_ray_are_imported() -> None:
    program = (
        "import sys\nfrom alray.cli import main\n"
        "for varied in ('strategy=random,random', 'strategee=base', 'train.lr=1,-1', 'name=a,b'):\n"
        "    try: main(['sweep', 'imagenet_base', varied, '--data.root', 'x'])\n"
        "    except SystemExit as stop: assert stop.code == 2\n"
        "    else: raise AssertionError(varied)\n"
        "assert not {'torch', 'ray'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train.lr: expected a number greater than 0, got -1" in done.stderr


def test_ray_is_not_imported_for_a_sweep_that_a_run_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config_of(tmp_path).to_json())
    program = (
        "import sys\nfrom alray.cli import main\n"
        "try: main(['sweep', 'config.json', 'budget=1000'])\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert 'ray' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the pool has 90 images, but the run needs 2,006" in done.stderr


def test_a_sweep_refuses_trials_of_another_configuration_under_its_name(tmp_path: Path) -> None:
    config = config_of(tmp_path, rounds=1)
    first = plan(config, {"strategy": ["random", "margin"], "seed": [0]})
    for trial in first.trials:
        run(trial.config, quiet=True)
    folder = Store(first.dir)
    entries = [{"fields": dict(trial.fields), "run": trial.run.rpartition("/")[2]} for trial in first.trials]
    folder.write_json("sweep.json", {"trials": [{**entry, "status": "finished", "of": 1} for entry in entries]})

    def start(varied: dict[str, Any], **changes: Any) -> None:
        """Up to the work: the trials that are planned have run."""
        changed = replace(config, changes)
        for trial in plan(changed, varied).trials:
            run(replace(trial.config, {"run_dir": trial.run}), quiet=True)
        sweep(changed, varied, quiet=True)

    with pytest.raises(SweepError, match=r"train\.epochs: 3 there, 4 here\. Give this sweep another --name"):
        sweep(replace(config, {"train.epochs": 4}), {"strategy": ["base"]}, quiet=True)
    np.savez(tmp_path / "other.npz", features=np.eye(90, 4, dtype=np.float32), label=np.arange(90) % 3)
    other = replace(config, {"data.root": str(tmp_path / "other.npz"), "split.test_share": 0.2})
    with pytest.raises(SweepError, match="data_fingerprint: "):
        sweep(other, {"strategy": ["base"]}, quiet=True)
    start({"strategy": ["base"]})  # more trials of the same configuration
    start({"strategy": ["base"], "train.epochs": [4]})  # what differs is varied
    start({"strategy": ["base"]}, seed=3)


# GPUs


def test_without_gpu_no_gpu_is_used_whatever_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with without_gpu(False):
        assert best_device().type == "cuda"
    with without_gpu():
        assert best_device().type == "cpu"
        assert Sieve(Shard([]), Shard([]))._device is None
        with without_gpu():
            pass
        assert best_device().type == "cpu"
    assert best_device().type == "cuda"


@pytest.mark.parametrize(("gpus", "allowed"), [(0.0, False), (0.25, True), (1.0, True)])
def test_a_worker_may_use_a_gpu_where_it_holds_one(gpus: float, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for forbidden in (False, True):  # what the worker has inherited does not count
        with without_gpu(forbidden):
            for name, value in for_workers(gpus).items():
                monkeypatch.setenv(name, value)
            assert gpu_allowed() is allowed
            monkeypatch.undo()


def test_the_driver_of_a_run_that_joins_a_cluster_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has joined. A cluster that it starts is its own."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [driver_takes_no_gpu(ResourceConfig(use_gpu=use)) for use in ("auto", "yes", "no")] == [False, False, True]
    assert not driver_takes_no_gpu(ResourceConfig(address="local"))
    assert driver_takes_no_gpu(ResourceConfig(address="10.0.0.1:6379"))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert driver_takes_no_gpu(ResourceConfig()) and not driver_takes_no_gpu(ResourceConfig(address="local"))


def test_a_run_without_gpu_trains_and_selects_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU seems to be there: the linear head and k-center would fail on it."""
    config = config_of(tmp_path, strategy="k_center", **{"resources.use_gpu": "no", "rounds": 2})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert len(run(config, quiet=True).rounds) == 2
    assert best_device().type == "cuda"


# Tables of a run


@pytest.mark.parametrize("last", [1, 2])
def test_a_start_brings_tables_up_to_date_that_a_kill_left_one_round_behind(
    last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the commit of a round and its tables; of the last round, too, when the run is finished."""
    write = RoundDir.write_metrics

    def killed(self: RoundDir, metrics: dict[str, Any]) -> None:
        write(self, metrics)
        if metrics["round"] == last:
            raise KeyboardInterrupt

    config = config_of(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(RoundDir, "write_metrics", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, quiet=True)
    (folder,) = (tmp_path / "runs").glob("first-*")
    assert lines_written(Store(str(folder))) == last
    run(config, quiet=True)
    assert lines_written(Store(str(folder))) == 3
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(config, quiet=True)  # finished and complete: only read
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/a/b", "/a"),
        ("/a", "/"),
        ("s3://bucket/a/b", "s3://bucket/a"),
        ("s3://bucket/a", "s3://bucket"),
        ("s3://b", ""),
    ],
)
def test_the_folder_of_a_path_or_uri(uri: str, folder: str) -> None:
    assert folder_of(uri) == folder


# Numbers and places that the commands check before they work


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("plan digits --price -3", "--price: expected a number that is not negative, got -3"),
        ("plan digits --price nan", "--price: expected a number that is not negative, got nan"),
        ("plan digits --price", "--price: expected a number that is not negative, got nothing"),
        ("plan digits --price 1 --price 2", "--price: expected once, got it again"),
        ("why nowhere key --round -5", "--round: expected an integer of at least -1, got -5"),
        ("export nowhere --out o --round -2", "--round: expected an integer of at least -1, got -2"),
        ("index images --out c --test-root ./images/", "--test-root: expected test images that are not among those of"),
        (
            "repack images --out o",
            "a directory without meta.json, with a; make one with .* SOURCE --out DIRECTORY`",
        ),
        ("repack file --out o", "file: expected a directory, got a file"),
    ],
)
def test_values_without_a_meaning_are_refused(
    command: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images/a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save("images/a/1.png")
    Path("file").write_text("mine")
    said = refused(command, capsys)
    assert re.search(says, said), said


@pytest.mark.parametrize("command", ["export", "report", "repack"])
def test_a_file_is_no_place_for_the_output(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = run(config_of(tmp_path), quiet=True).dir
    if command == "repack":
        Path("images/a").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save("images/a/1.png")
        given = index("images", "catalog", yes=True).uri
    Path("mine").write_text("mine")
    said = refused(f"{command} {given} --out mine", capsys)
    assert re.search("mine: expected a directory, got a file|cannot write .*mine: .*a file is there", said), said
    assert Path("mine").read_text() == "mine"


def test_a_forecast_of_an_unknown_measure_names_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(config_of(tmp_path), quiet=True).dir
    said = refused(f"forecast {made} --measure accuracy", capsys)
    assert "measure: expected one of test_top1, " in said and said.rstrip().endswith("got accuracy"), said


# Rows and columns that a program gives


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labeled": [True, False] * 10}, r"labeled: .* a mask of shape \(20,\); np.flatnonzero gives its row numbers"),
        ({"exclude": "rows.txt"}, "exclude: expected row numbers .*, got 'rows.txt'; only the command"),
        ({"exclude": Path("rows.txt")}, "exclude: expected .*, got .*Path.'rows.txt'.; only the command"),
    ],
)
def test_what_select_is_given_is_understood_or_refused(changes: dict[str, Any], says: str) -> None:
    given = {"logits": np.random.default_rng(0).normal(size=(20, 3)), **changes}
    with pytest.raises(SelectionError, match=says):
        select("margin", 2, **given)


def test_what_a_strategy_needs_is_a_set() -> None:
    with pytest.raises(SelectionError, match=r"Wrong.needs: expected a set of names, as in frozenset.*logits"):

        class Wrong(ScoreStrategy):
            needs = "logits"


def test_a_column_that_a_strategy_did_not_ask_for_is_named() -> None:
    block = Block(np.arange(2), {"logits": np.zeros((2, 3))})
    with pytest.raises(KeyError, match="embedding: only logits were read; a strategy names in `needs` what it reads"):
        block["embedding"]
