"""What fields mean: the docstrings below them.

They are read from the source when somebody asks for help. pydantic can keep them with the fields
(`use_attribute_docstrings`), but it then reads the source of every class at every start, which takes longer than all
else that a class needs.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise


@cache
def meanings(kind: type) -> Mapping[str, str]:
    """The docstring of each field of a class and of its base classes, by the field's name. Classes whose source is not
    there have none."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if one.__module__.partition(".")[0] not in ("builtins", "pydantic"):
            found.update(_below_fields(one))
    return found


def _below_fields(kind: type) -> dict[str, str]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # typed into an interpreter
        return {}
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in pairwise(tree.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = inspect.cleandoc(text)
    return found
