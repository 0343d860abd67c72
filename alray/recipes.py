"""Recipes: find, list, read and start the job files that come with alray.

They are in jobs/ of the repository, and in alray/jobs/ of an installed package.
"""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from alray.config import ConfigError, RunConfig
from alray.config.fields import nearest


def recipes() -> dict[str, Path]:
    """The job files that come with alray, by name."""
    package = Path(__file__).parent
    folder = next((path for path in (package / "jobs", package.parent / "jobs") if path.is_dir()), package / "jobs")
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def described() -> str:
    """One line per recipe: its name and the first paragraph of its docstring."""
    known = recipes()
    width = max(map(len, known), default=0)
    return "\n".join(f"{name:{width}}  {_summary(path)}" for name, path in known.items())


def _summary(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].replace("\n", " ")


def find(target: str) -> Path:
    """The file of a recipe, given its name or the path of a .json or .py file. Raises ConfigError if there is none."""
    known, path = recipes(), Path(target)
    if target in known:
        return known[target]
    if path.suffix in (".json", ".py"):
        if not path.is_file():
            raise ConfigError(f"{target}: no such file")
        return path
    raise ConfigError(
        f"{target}: expected a recipe's name, a configuration (.json) or a job file (.py); the nearest recipes are "
        f"{', '.join(nearest(target, known))}"
    )


def presets(target: str) -> Mapping[str, RunConfig]:
    """The configurations of a recipe, a job file or a JSON file, by preset. Raises ConfigError if there are none."""
    path = find(target)
    if path.suffix == ".json":
        from alray.store import read_checked  # imports pyarrow

        return {"default": RunConfig.from_json(read_checked(str(path)).decode())}
    found = runpy.run_path(str(path))
    if "PRESETS" not in found and "CONFIG" not in found:
        raise ConfigError(f"{target}: expected a job file with CONFIG or PRESETS, got neither")
    named: Mapping[str, RunConfig] = found["PRESETS"] if "PRESETS" in found else {"default": found["CONFIG"]}
    return named


def start(path: Path, argv: Sequence[str]) -> None:
    """Run a job file in this process as ``python path argv ...`` would."""
    sys.argv = [str(path), *argv]
    sys.path.insert(0, str(path.parent))  # as Python does, so that a job file can import its neighbours
    runpy.run_path(str(path), run_name="__main__")
