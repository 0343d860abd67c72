"""How the package hangs together: what import-linter does not see."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import get_args

import image_sources
import pytest

import alray
from alray.config import IndexConfig, RunConfig
from alray.data.sources.kinds import SOURCES, kind_of
from alray.tasks import TASKS

ROOT = Path(alray.__file__).parent
FILES = {".".join(("alray", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
PACKAGES = {name.removesuffix(".__init__") for name in FILES if name.endswith(".__init__")}
KNOWN = {name.removesuffix(".__init__") for name in FILES}


def imported(path: Path) -> set[str]:
    """The modules of alray that a file imports, inside functions too, but for those that only type checkers read."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in KNOWN else node.module for name in inside)
        waiting += ast.iter_child_nodes(node)
    return found & KNOWN


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle, in order; none where there is no circle."""
    state: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> list[str]:
        state[name] = 1
        path.append(name)
        for other in sorted(graph[name]):
            if state.get(other) == 1:
                return path[path.index(other) :]
            if other not in state and (found := visit(other)):
                return found
        path.pop()
        state[name] = 2
        return []

    for name in sorted(graph):
        if name not in state and (found := visit(name)):
            return found
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count. A package's __init__ only hands names on: it is left out."""
    graph = {name: imported(path) - PACKAGES - {name} for name, path in FILES.items() if name in KNOWN}
    assert circle({name: others & graph.keys() for name, others in graph.items()}) == []


@pytest.mark.parametrize(
    ("graph", "expected"),
    [({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c"]), ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, [])],
)
def test_a_circle_is_found(graph: dict[str, set[str]], expected: list[str]) -> None:
    assert circle(graph) == expected


# A choice: how code asks for it, the files that own it, and how often others may ask all the same.
CHOICES = {
    "task": (
        r"""(?<!annotation\[)["']segmentation["']""",  # annotation["segmentation"] is a field of COCO
        ("config/", "tasks.py", "report/runs.py"),
        0,
    ),
    "kind of source": (r"""["'](embeddings|webdataset|parquet|manifest|folder)["']""", ("config/", "data/sources/"), 1),
    "way to learn": (r"""\btrain\.mode\b|==\s*["'](linear|finetune)["']""", ("config/", "train/learner"), 2),
    "seed set": (r"seed_set_how\s*(==|!=|\bin\b)", ("config/", "cold_start.py"), 1),
    "strategy by its class": (
        r"isinstance\([^)]*\b(Pt4al|KMeans|Base|Margin|KCenter|Vaal|Badge)\b",
        (),
        0,
    ),
    "hook of a strategy by its name": (r"""getattr\([^,]+,\s*["'](needs_in|check\w*|window|peeks?|notes)["']""", (), 0),
    "name of a round's directory": (r"round_\{", ("rundir.py",), 0),
    "file of a run by its name": (
        r"""["'](metrics\.json|picks\.parquet|labels\.parquet|splits\.parquet|selection\.json|run\.json|sweep\.json)["']""",
        ("rundir.py", "rounddir.py", "data/sources/own.py"),
        0,
    ),
}


@pytest.mark.parametrize("choice", list(CHOICES))
def test_a_choice_is_made_by_its_owner(choice: str) -> None:
    """Others ask the object that owns it: a new task, source or strategy must not send anybody through the package."""
    pattern, owners, allowed = CHOICES[choice]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(ROOT.rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(owners or ("\0",))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line.split("#")[0])
    ]
    assert len(found) <= allowed, "\n".join(found)


OWN = {"factors"}  # BADGE's shards ask their strategy for it, and the partitioned form replaces it


@pytest.mark.parametrize("name", list(alray.STRATEGIES))
def test_a_strategy_has_no_hook_that_the_base_class_does_not_declare(name: str) -> None:
    """Whoever drives strategies knows `Strategy` alone: what is not declared there would have to be looked for."""
    kind, known = alray.STRATEGIES[name], {*dir(alray.ScoreStrategy), *dir(alray.Strategy)}
    options = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    public = {attribute for attribute in dir(kind) if not attribute.startswith("_")}
    assert issubclass(kind, alray.Strategy)
    assert public - known - options - OWN == set()


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        if text.count("\n") > 330:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                docstring = ast.get_docstring(node, clean=False) or ""
                size = node.end_lineno - node.lineno - docstring.count("\n")
                if size > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {size} lines")
    assert long == []


def test_every_format_and_every_task_can_be_named_in_a_configuration() -> None:
    assert get_args(IndexConfig.model_fields["format"].annotation) == ("auto", *SOURCES)
    assert get_args(RunConfig.model_fields["task"].annotation) == tuple(TASKS)


def test_every_format_of_images_is_written_in_tests(tmp_path: Path) -> None:
    """`image_sources.SOURCES` is what the tests of catalogs, reading and repacking go through."""
    items = image_sources.items(each=1)
    written = [write(items, tmp_path / name) for name, (write, _) in image_sources.SOURCES.items()]
    assert {kind_of(source).name for source in written} == {name for name, kind in SOURCES.items() if kind.decoded}
