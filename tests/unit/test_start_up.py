"""What a command does not need is not imported: PyTorch, Ray and pandas take seconds and hundreds of megabytes. The
test counts modules, because seconds depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HEAVY = {"PIL", "faiss", "pandas", "ray", "scipy", "sklearn", "timm", "torch", "torchvision"}
SELECT = """
import sys
from alray.cli import main
main(["select", {strategy!r}, "5", "--out", "picks.csv", {given}])
print(*sorted({heavy} & set(sys.modules)))
"""


def heavy_after(program: str, folder: Path) -> set[str]:
    """The heavy packages that a program has imported at its end, from the last line that it prints."""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


def test_reading_a_configuration_imports_no_library_of_arrays(tmp_path: Path) -> None:
    program = "import sys, alray, alray.cli; print(*sorted({} & set(sys.modules)))"
    assert heavy_after(program.format(HEAVY | {"numpy", "pyarrow"}), tmp_path) == set()


@pytest.mark.parametrize("strategy", ["random", "margin", "confidence", "entropy", "mase", "base", "vaal", "pt4al"])
def test_a_selection_by_scores_imports_no_large_library(strategy: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"logits": (40, 4), "weight": (4, 3), "pretext_loss": (40,), "discriminator": (40,)}
    for name, shape in arrays.items():
        np.save(tmp_path / f"{name}.npy", rng.normal(size=shape))
    given = ", ".join(f'"--{name.replace("_", "-")}", "{name}.npy"' for name in arrays)
    assert heavy_after(SELECT.format(strategy=strategy, given=given, heavy=HEAVY), tmp_path) == set()
    assert len((tmp_path / "picks.csv").read_text().split()) == 6
