"""What a command does not need is not imported: PyTorch, Ray and pandas take seconds and hundreds of megabytes. The
test counts modules, because seconds depend on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alray import STRATEGIES, commands

HEAVY = {"PIL", "faiss", "pandas", "ray", "scipy", "sklearn", "timm", "torch", "torchvision", "yaml"}
# What each strategy imports of them; all others import none.
IMPORTED = {"robust_k_center": {"scipy"}, "cluster_margin": {"scipy"}, "k_means": {"faiss"}}
MEMORY = 200 * 2**20  # bytes that a selection without FAISS may take
SELECT = """
import sys
from alray.cli import main
main(["select", {strategy!r}, "5", "--out", "picks.csv", {given}])
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")] if {linux} else ["0"]
print(*peak)
print(*sorted({heavy} & set(sys.modules)))
"""


def heavy_after(program: str, folder: Path) -> tuple[set[str], list[str]]:
    """The heavy packages that a program has imported at its end, from the last line that it prints, and the lines
    before."""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *before, last, _ = done.stdout.split("\n")
    return set(last.split()), before


@pytest.mark.parametrize(
    ("imports", "libraries"),
    [("alray", {"numpy", "pyarrow", "pydantic"}), ("alray.config, alray.cli", {"numpy", "pyarrow"})],
)
def test_reading_a_configuration_imports_no_library_of_arrays(
    imports: str, libraries: set[str], tmp_path: Path
) -> None:
    program = f"import sys, {imports}; print(*sorted({HEAVY | libraries} & set(sys.modules)))"
    assert heavy_after(program, tmp_path)[0] == set()


@pytest.mark.parametrize(("given", "expected"), [("", "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_a_command_sleep_while_they_wait(given: str, expected: str, tmp_path: Path) -> None:
    """`alray.cli` sets it and imports no PyTorch, which reads it once; what a person has set is kept."""
    program = "import os, alray.cli; policy = os.environ['OMP_WAIT_POLICY']; print(policy)"
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    around = others | ({"OMP_WAIT_POLICY": given} if given else {})
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=around
    )
    assert done.stdout == f"{expected}\n", done.stderr


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_selection_imports_no_library_that_it_does_not_use(strategy: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"embedding": (60, 3), "logits": (60, 4), "weight": (4, 3), "pretext_loss": (60,), "discriminator": (60,)}
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    arrays |= {"labels": rng.integers(0, 4, 60), "labeled": np.arange(8)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    given = ", ".join(f'"--{name.replace("_", "-")}", "{name}.npy"' for name in arrays)
    program = SELECT.format(strategy=strategy, given=given, heavy=HEAVY, linux=sys.platform == "linux")
    heavy, before = heavy_after(program, tmp_path)
    assert heavy == IMPORTED.get(strategy, set())
    assert "faiss" in heavy or int(before[-1]) * 1024 < MEMORY
    assert len((tmp_path / "picks.csv").read_text().split()) == 6


def test_the_help_of_all_commands_imports_no_large_library(tmp_path: Path) -> None:
    program = f"import sys; from alray.cli import main; main(['--help']); print(*sorted({HEAVY} & set(sys.modules)))"
    heavy, before = heavy_after(program, tmp_path)
    assert heavy == set()
    assert {line.split()[0] for line in before if line.startswith("  ")} == {"run", "plan", "sweep", *commands.NAMES}


def test_the_table_of_weights_imports_no_large_library(tmp_path: Path) -> None:
    program = f"import sys; from alray.cli import main; main(['weights']); print(*sorted({HEAVY} & set(sys.modules)))"
    heavy, before = heavy_after(program, tmp_path)
    assert heavy == set()
    assert any("MoCo v3" in line for line in before)


def test_a_command_imports_the_other_commands_not(tmp_path: Path) -> None:
    there = "print(*sorted(name for name in sys.modules if name.startswith('alray.commands.')))"
    program = f"import sys; from alray.cli import main; main(['strategies', 'margin']); {there}"
    assert heavy_after(program, tmp_path)[0] == {"alray.commands.command", "alray.commands.strategies"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("weights nowhere.pth", "no such checkpoint file"),
        ("weights page.pth", "a web page"),
        ("weights --backbone resnet18", "--backbone: expected a file to load into resnet18, got none"),
        ("weights page.pth --small-stem", "--small-stem: expected a backbone that it is for"),
        ("export nowhere --out out", "expected the directory of a run"),
        ("forecast nowhere", "expected the directory of a run"),
        ("status nowhere", "expected the directory of a run"),
        ("label nowhere labels.csv", "expected the directory of a run"),
        ("why nowhere image", "expected the directory of a run"),
        ("estimate nowhere", "expected the directory of a run"),
        ("index nowhere --out out", "no such file or directory"),
        ("repack nowhere --out out", "expected a catalog"),
        ("verify nowhere", "expected a directory with files that alray wrote"),
        ("run people --data.root nowhere --root out", "no such file or directory"),
        ("plan people --data.root nowhere --root out", "no such file or directory"),
    ],
)
def test_a_place_that_is_not_there_is_told_before_large_libraries_are_imported(
    words: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "page.pth").write_text("<html></html>")
    said, imported = refused(words, tmp_path)
    assert says in said
    assert imported <= {"PIL", "yaml"}


def refused(words: str, folder: Path) -> tuple[str, set[str]]:
    """What a command says that leaves with code 2, and which heavy packages it has imported by then."""
    program = f"""
import sys
from alray.cli import main
try:
    main({words.split()!r})
except SystemExit as stop:
    assert stop.code == 2, stop.code
print(*sorted({HEAVY} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr, set(done.stdout.splitlines()[-1].split())


def test_the_demo_writes_no_image_for_a_strategy_that_there_is_not(tmp_path: Path) -> None:
    said, imported = refused("run digits --strategy margim", tmp_path)
    assert "got 'margim'; the nearest is margin" in said
    assert imported <= {"PIL", "yaml"}
    assert list(tmp_path.iterdir()) == []


ARRAYS = "run imagenet_base --data.root arrays.npz --split.val-size 4 --split.seed-set-size 8 --budget 5 --rounds 2"
PHOTOS = "run people --data.root photos --model.checkpoint weights.pth --data.yes"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (f"{ARRAYS} --budget 500", "--budget: the pool has 40 images, but the run needs 512"),
        (f"{ARRAYS} --train.mode finetune", "--train.mode: expected linear, because embeddings have no images"),
        (f"{ARRAYS} --model.pretrained True", "model: expected no weights, because the data are embeddings"),
        (f"{ARRAYS} --strategy vaal", "is measured on images, but the source has only embeddings"),
        (f"{ARRAYS} --strategy margim", "got 'margim'; the nearest is margin"),
        (f"{ARRAYS} --split.val-list nowhere.txt", "--split.val-list: expected a file, got none at"),
        (f"{ARRAYS} --pretext.task rotation", "a task needs images"),
        (f"{PHOTOS} --split.seed-set-size 400", "the pool has 6 images"),
        (f"{PHOTOS} --strategy pt4al", "--pretext.task: strategy pt4al"),
        (
            f"{PHOTOS} --strategy pt4al --pretext.task rotation --pretext.batch-size 3 --resources.train-workers 2",
            "--pretext.batch-size: expected at least 2 images for each of 2 training workers, got 3",
        ),
        ("run people --data.root photos --data.yes", "linear evaluation needs a pretrained backbone"),
        ("run camvid_pt4al --data.root photos --data.mask-root masks", "the pool has 6 images, but the run needs"),
        (f"plan {ARRAYS.removeprefix('run ')} --budget 500", "--budget: the pool has 40 images"),
        (f"sweep {ARRAYS.replace('run imagenet_base', 'imagenet_base budget=500,600')}", "the pool has 40 images"),
        ("report nowhere", "no run there"),
    ],
)
def test_a_run_that_is_refused_imports_no_library_that_its_refusal_does_not_need(
    words: str, says: str, tmp_path: Path
) -> None:
    """PyArrow imports pandas, where it is installed, when it reads the catalog."""
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.savez(tmp_path / "arrays.npz", features=x, label=np.arange(50) % 2, is_test=np.arange(50) % 5 == 0)
    np.savez(tmp_path / "weights.npz", x=x)
    (tmp_path / "weights.npz").rename(tmp_path / "weights.pth")
    for number in range(6):
        for folder in (f"photos/{'cat' if number % 2 else 'dog'}", f"masks/{'cat' if number % 2 else 'dog'}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), number).save(tmp_path / folder / f"{number}.png")
    said, imported = refused(words, tmp_path)
    assert says in said
    assert imported <= {"PIL", "pandas", "yaml"}
