"""Every command and every Python block of README.md and cluster/README.md is run as it is written.

bash runs them in a folder that holds what the text takes for granted: generated images, random weights under the names
that MoCo publishes, embeddings. Options are only appended, and only where the command would train for hours. /data/ and
s3://bucket/ are folders. `make` targets are only looked up. Commands of `ray` are parsed by Ray's own command line and
start no cluster here (tests/e2e/test_submit.py does); the program that a job submits is run. Of commands that need
Kubernetes, Slurm, SkyPilot or Docker only the files are looked up. A command or block that nobody has declared below
makes a test fail.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from test_jobs import embeddings, images, photos, png, scenes, write

import alray
from alray.config import DataConfig, LabelConfig, ResourceConfig, SplitConfig, TrainConfig
from alray.labeling import receive, state
from alray.labeling.desk import Waiting
from alray.rundir import RunDir

ROOT = Path(alray.__file__).parents[1]
README, CLUSTER = "README.md", "cluster/README.md"
PAGES = [README, CLUSTER, "CONTRIBUTING.md", "benchmarks/README.md"]

FEW = "--budget 6 --split.seed-set-size 6 --split.val-size 0 --train.patience 0 --train.epochs 1"
PLAIN = f"--rounds 2 {FEW} --resources.select-workers process"
SHORT = "--strategy random --rounds 2 --budget 10 --train.epochs 1 --train.checkpoint-every 1"
PIXELS = "--transform.size 32 --transform.resize 32"
PRETEXT = "--pretext.epochs 1 --pretext.batch-size 32 --train.batch-size 16"
ONE = "--resources.train-workers 1 --resources.extract-actors 1"


# Programs that need a cluster, a cloud or a server, or change the user's home. Their files are checked in
# tests/unit/test_cluster_recipes.py, that of prometheus in tests/e2e/test_dashboard.py.
ELSEWHERE = r"chmod|kubectl|sbatch|docker|(?:RAY_AUTH_TOKEN=\"\$\(.*?\)\" )?sky|tail|prometheus"


@dataclass(frozen=True)
class Run:
    """How the test gives a command: what it appends, and whether it takes minutes, because it starts Ray."""

    append: str = ""
    slow: bool = False
    code: int = 0  # the exit code


# By how the commands begin; the longest beginning counts.
PROGRAMS = {
    "alray index /data/imagenet": Run(),
    "python jobs/imagenet_base.py --data.catalog": Run(f"{PLAIN} {PIXELS}", slow=True),
    "python jobs/imagenet_base.py --resources.use-gpu yes": Run(
        f"{PLAIN} {PIXELS} {ONE} --resources.use-gpu no", slow=True
    ),
    "python jobs/imagenet_base.py --data.root s3:": Run(f"{PLAIN} {PIXELS} {ONE}", slow=True),
    "python jobs/cifar10_pt4al.py": Run(f"--rounds 1 {FEW} {PRETEXT}", slow=True),
    "python jobs/camvid_pt4al.py": Run(f"--rounds 1 {FEW} {PRETEXT} --transform.size 32", slow=True),
    "python jobs/digits.py": Run(SHORT, slow=True),
    "python jobs/sweep.py --preset imagenet": Run(f"{PLAIN} {PIXELS} --sweep strategy=random,base seed=0", slow=True),
    "python jobs/people.py": Run(f"--rounds 1 {FEW} {PIXELS} --resources.select-workers process", slow=True, code=75),
    "alray label": Run(),
    "alray status": Run(),
    "alray forecast": Run(),
    "alray export": Run(),
    "alray run imagenet_base --data.root features.npz": Run(PLAIN),
    "alray sweep imagenet_base": Run(f"{PLAIN} --sweep strategy=random,base seed=0,1", slow=True),
    "alray report": Run(),
    "alray strategies": Run(),
    "alray select": Run(),
}
# By the name that a block defines: the options it is run with, and what has to hold afterwards.
BLOCKS = {
    "picks": ("", "assert len(picks.rows) == 1000 and (np.diff(picks.scores) <= 0).all()"),
    "Gini": (
        f"--strategy gini --data.root features.npz --train.mode linear {PLAIN}",
        "from alray.cli import job\n"
        "p = np.exp(np.load('logits.npy').astype(float))\n"
        "expected = 1 - ((p / p.sum(1, keepdims=True))**2).sum(1)\n"
        "picks = alray.select('gini', 5, logits='logits.npy')\n"
        "assert np.allclose(picks.scores, np.sort(expected)[::-1][:5])\n"
        "job(alray.RunConfig())",
    ),
    "LabelFile": (f"--data.root features.npz --train.mode linear {PLAIN}", ""),
}


def fenced(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for kind, text in blocks if kind == language]


def commands(page: str) -> list[str]:
    """The commands of the bash blocks, without comments, each in one line."""
    lines = "\n".join(fenced(page, "bash")).replace("\\\n", " ").splitlines()
    found = [" ".join(re.sub(r"(^|\s+)#.*", "", line).split()) for line in lines]
    return [line for line in found if line]


def program(command: str) -> str | None:
    """What bash has to run here; of a submitted job its program, and None for other commands of Ray's and make's."""
    if re.match(r"(\w+=\S+ )*ray job submit ", command):
        return command.partition(" -- ")[2]
    return None if re.match(rf"((\w+=\S+ )*ray|make|export|{ELSEWHERE}) ", command) else command


def declared(command: str) -> Run | None:
    found = [start for start in PROGRAMS if command.startswith(start)]
    return PROGRAMS[max(found, key=len)] if found else None


def moco(path: Path) -> None:
    """A checkpoint as MoCo v2 publishes it, with random weights."""
    weights = timm.create_model("resnet50", num_classes=0).state_dict()
    state = {f"module.encoder_q.{name}": tensor for name, tensor in weights.items()}
    state["module.encoder_q.fc.0.weight"] = torch.ones(3, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state}, path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder in which the commands are given, with everything they read; also its programs `python` and `alray`."""
    for name in ("jobs", "cluster"):
        (tmp_path / name).symlink_to(ROOT / name)
    # Not in data/, where job files look by themselves: options that a command leaves out must not be filled by luck.
    for name in ("disk/data/imagenet", "disk/data/cifar10", "bucket/imagenet"):
        images(tmp_path / name)
    photos(tmp_path / "photos")
    scenes(tmp_path)
    for number in range(40, 140):  # pt4al needs as many images as it has batches, and a seed set
        write(tmp_path / f"camvid/images/train/town/{number}.png", png(np.zeros((8, 8, 3))))
    embeddings(tmp_path / "features.npz")
    moco(tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    (tmp_path / "bucket/moco.pth.tar").symlink_to(tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    np.save(tmp_path / "logits.npy", np.random.default_rng(0).normal(size=(2000, 5)).astype(np.float32))
    np.save(tmp_path / "labeled.npy", np.arange(500))
    keys = "".join(f'"{row:09d}": {row % 3}, ' for row in range(900))
    (tmp_path / "labels.json").write_text("{" + keys.removesuffix(", ") + "}")
    for name, module in (("python", ""), ("alray", "-m alray.cli ")):
        script = tmp_path / "bin" / name
        write(script, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module}"$@"\n'.encode())
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def waiting_for_people(place: Path) -> None:
    """A run that README names: five rounds are finished, and it waits for labels, some of which are in labels.csv."""
    config = alray.RunConfig(
        run_dir=str(place / "runs/people-0746cd3cf7"), rounds=6, budget=20, strategy="margin", top_k=(),
        data=DataConfig(root=str(place / "features.npz")), split=SplitConfig(seed_set_size=20),
        labels=LabelConfig(oracle="files", wait="exit"), train=TrainConfig(mode="linear", epochs=5, lr=1.0),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip
    answers = place / "labels.csv"
    for _ in range(6):
        with pytest.raises(Waiting):
            alray.run(config, quiet=True)
        batch = state.open_batch(RunDir(config.run_dir))
        assert batch is not None
        lines = [f"{key},{int(key) % 3}\n" for key in batch.requests["key"].to_pylist()]
        answers.write_text("key,label\n" + "".join(lines))
        if batch.name != "round 4":
            receive.receive(RunDir(config.run_dir), [str(answers)])


def give(place: Path, command: str, code: int = 0) -> str:
    """Have bash run the command in the folder; returns what it prints. Fails unless its exit code is the given one."""
    here = re.sub(r"(?<=[ =])/data/", f"{place}/disk/data/", command).replace("s3://bucket", f"{place}/bucket")
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", here],
        cwd=place, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{here}\n{done.stdout[-5000:]}"
    return done.stdout


def programs(page: str, slow: bool) -> list[tuple[str, Run]]:
    """The programs that a page runs, in its order, with how they are run. slow: with those that are slow."""
    found = [(line, declared(line)) for command in commands(page) if (line := program(command))]
    return [(line, run) for line, run in found if run and (slow or not run.slow)]


@pytest.mark.parametrize("page", [README, CLUSTER])
def test_every_command_is_declared(page: str) -> None:
    unknown = [line for command in commands(page) if (line := program(command)) and not declared(line)]
    assert unknown == [], "say in PROGRAMS how these are run"
    assert commands(page)


def test_no_declaration_is_left_over() -> None:
    lines = [line for page in (README, CLUSTER) for command in commands(page) if (line := program(command))]
    assert [start for start in PROGRAMS if not any(line.startswith(start) for line in lines)] == []


@pytest.mark.parametrize("page", [README, CLUSTER])
def test_the_commands_that_need_no_ray_run_as_written(page: str, place: Path) -> None:
    waiting_for_people(place)
    for line, run in programs(page, slow=False):
        give(place, f"{line} {run.append}", run.code)
    if page == README:
        assert len((place / "picks.csv").read_text().splitlines()) == 1001
        assert len(list(place.rglob("report.html"))) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", [README, CLUSTER])
def test_all_commands_run_as_written_one_after_the_other(page: str, place: Path) -> None:
    waiting_for_people(place)
    for line, run in programs(page, slow=True):
        give(place, f"{line} {run.append}", run.code)


@pytest.mark.filterwarnings("ignore")  # of Ray Serve's modules, which Ray's command line imports
@pytest.mark.parametrize("page", [README, CLUSTER])
def test_ray_knows_the_options_of_its_commands(page: str) -> None:
    click = pytest.importorskip("click")
    from ray.scripts.scripts import cli

    for command in commands(page):
        words = re.sub(r"^(\w+=\S+ )*", "", command).split()
        if words[0] != "ray" or "..." in words:
            continue
        known, words = cli, words[1:]
        while isinstance(known, click.Group):
            known, words = known.commands[words[0]], words[1:]
        context = known.make_context(known.name, words)
        if known.name == "submit":
            assert (ROOT / context.params["runtime_env"]).is_file()


def test_files_of_the_cluster_that_commands_name_are_there() -> None:
    named = re.findall(r"cluster/[\w./]+", "\n".join(commands(CLUSTER)))
    assert named and [name for name in named if not (ROOT / name).is_file()] == []


def test_make_has_the_targets_that_are_named() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / page).read_text(), flags=re.MULTILINE):
            assert f"\n{target}: " in makefile, f"{page}: make {target}"
    assert "VENV := .venv\n" in makefile  # README activates it


@pytest.mark.parametrize("block", fenced(README, "python"), ids=lambda block: block.split("\n")[0])
def test_python_blocks_run_as_written(block: str, place: Path) -> None:
    names = [name for name in BLOCKS if re.search(rf"^(class )?{name}\b", block, flags=re.MULTILINE)]
    assert len(names) == 1, f"say in BLOCKS how this is run:\n{block}"
    options, after = BLOCKS[names[0]]
    (place / "mine.py").write_text(f"{block}\n{after}\n")
    give(place, f"python mine.py {options}")


def test_the_blocks_have_as_many_lines_as_their_headings_promise() -> None:
    found = re.findall(
        r"^## Your own \w+ in (\d+) lines\n+```python\n(.*?)^```", (ROOT / README).read_text(), re.M | re.S
    )
    assert len(found) == 2
    for promised, block in found:
        assert len([line for line in block.splitlines() if line]) == int(promised)


def test_the_readme_is_short_and_starts_with_a_command() -> None:
    lines = (ROOT / README).read_text().splitlines()
    assert len(lines) < 150
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("make ")) <= 20


def test_the_tree_names_what_is_there() -> None:
    (tree,) = [block for block in fenced(README, "") if block.startswith("alray/\n")]
    package, _, rest = tree.partition("\njobs/")
    named = re.findall(r"(?<![\w./*])([\w/]+(?:\.py|/))(?![\w*])", package.replace("alray/\n", ""))
    missing = [name for name in named if not list((ROOT / "alray").rglob(name.rstrip("/")))]
    assert named and missing == []
    packages = {path.parent.name for path in (ROOT / "alray").glob("*/__init__.py")}
    assert packages <= {name.rstrip("/") for name in named}
    top = re.findall(r"(?:^|\s)([a-z]+)/(?=\s\s)", "jobs/  " + rest)
    assert top and all((ROOT / name).is_dir() for name in top)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_layout_names_every_module_and_folder_at_the_top_of_the_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    layout = text.partition("## Layout")[2].partition("Dependencies point one way")[0]
    there = [path for path in (ROOT / "alray").iterdir() if not path.name.startswith("_")]
    names = [path.name if path.suffix == ".py" else f"{path.name}/" for path in there if path.suffix in ("", ".py")]
    assert [name for name in names if not re.search(rf"(^|\s){re.escape(name)}", layout)] == []
