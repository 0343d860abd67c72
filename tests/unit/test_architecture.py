"""How the package hangs together: what import-linter does not see."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import image_sources
import pytest

import alray
from alray.config import IndexConfig, RunConfig
from alray.data.sources import SOURCES, kind_of
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


def test_every_format_and_every_task_can_be_named_in_a_configuration() -> None:
    assert get_args(IndexConfig.model_fields["format"].annotation) == ("auto", *SOURCES)
    assert get_args(RunConfig.model_fields["task"].annotation) == tuple(TASKS)


def test_every_format_of_images_is_written_in_tests(tmp_path: Path) -> None:
    """`image_sources.SOURCES` is what the tests of catalogs, reading and repacking go through."""
    items = image_sources.items(each=1)
    written = [write(items, tmp_path / name) for name, (write, _) in image_sources.SOURCES.items()]
    assert {kind_of(source).name for source in written} == {name for name, kind in SOURCES.items() if kind.decoded}
