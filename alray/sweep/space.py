"""What a sweep varies: fields of the configuration by path, each a list of values (a grid) or a domain of Tune's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from alray.config import fingerprint

Space = Mapping[str, Any]

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_CALL = re.compile(r"([a-z]+)\((.*)\)")
_DOMAINS = (
    "uniform", "quniform", "loguniform", "qloguniform", "randint", "qrandint", "lograndint", "qlograndint", "randn",
    "qrandn", "choice",
)  # fmt: skip
_MOST_TRIALS = 100_000


class SpaceError(ValueError):
    """A sweep's fields that cannot be read or make no trial; the message names the field."""


def parse_space(texts: Sequence[str]) -> dict[str, Any]:
    """Fields from the command line, one text each.

    ``strategy=random,margin,base`` values · ``seed=0..9`` whole numbers, both ends included ·
    ``train.lr=loguniform(1e-3, 1)`` a search space of Tune's · ``top_k=[[3], [3, 5]]`` a JSON list of values.
    Raises SpaceError.
    """
    space: dict[str, Any] = {}
    for text in texts:
        path, equals, values = text.partition("=")
        if not equals or not path or not values:
            raise SpaceError(f"{text}: expected path=values, as in strategy=random,margin or seed=0..9")
        if path in space:
            raise SpaceError(f"{path}: given twice; write all its values in one list")
        space[path] = _values(path, values.strip())
    return space


def _values(path: str, text: str) -> Any:
    if match := _RANGE.fullmatch(text):
        low, high = int(match[1]), int(match[2])
        if low > high:
            raise SpaceError(f"{path}: expected a range from low to high, got {text}")
        return list(range(low, high + 1))
    if match := _CALL.fullmatch(text):
        return _domain(path, match[1], match[2])
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise SpaceError(f"{path}: expected a JSON list, got {text} ({error})") from None
    return [_scalar(part.strip()) for part in text.split(",")]


def _domain(path: str, name: str, arguments: str) -> Any:
    if name not in _DOMAINS:
        raise SpaceError(f"{path}: expected one of Tune's {', '.join(_DOMAINS)}, got {name}")
    from ray import tune

    values = [_scalar(part.strip()) for part in arguments.split(",")]
    try:
        return getattr(tune, name)(*([values] if name == "choice" else values))
    except (TypeError, ValueError) as error:
        raise SpaceError(f"{path}: {name}({arguments}): {error}") from None


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def expand(space: Space, samples: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """All trials as fields by path: every combination of the grids, for each of `samples` draws from the search spaces.

    A draw is kept constant over the whole grid, so that strategies and seeds are compared under the same draws; draws
    are a function of (space, seed) alone. Lists and tuples are grids, Tune's domains are drawn from, anything else is
    one value. Seeds vary slowest: a sweep that is stopped has whole seeds. Raises SpaceError.
    """
    if not space:
        raise SpaceError("nothing to vary: give at least one field, as in strategy=random,margin")
    grids = {path: _grid(path, values) for path, values in space.items() if not _is_domain(values)}
    domains = {path: values for path, values in space.items() if _is_domain(values)}
    total = int(np.prod([len(values) for values in grids.values()])) * (samples if domains else 1)
    if samples < 1 or total > _MOST_TRIALS:
        raise SpaceError(
            f"samples: expected 1 or more and at most {_MOST_TRIALS:,} trials, got {samples} and {total:,}"
        )
    state = np.random.RandomState(seed)  # what Tune's domains take
    draws = [
        {path: _plain(domain.sample(random_state=state)) for path, domain in domains.items()}
        for _ in range(samples if domains else 1)
    ]
    order = sorted(grids, key=lambda path: path != "seed")
    combinations = [dict(zip(order, values, strict=True)) for values in product(*(grids[path] for path in order))]
    trials = [{path: {**grid, **draw}[path] for path in space} for grid in combinations for draw in draws]
    return list({fingerprint(trial): trial for trial in trials}.values())


def _is_domain(values: Any) -> bool:
    return hasattr(values, "sample") and hasattr(values, "get_sampler")


def _grid(path: str, values: Any) -> list[Any]:
    if isinstance(values, dict) and set(values) == {"grid_search"}:  # what tune.grid_search gives
        values = values["grid_search"]
    if callable(values):
        raise SpaceError(f"{path}: expected a list of values or a domain of Tune's, got a function")
    grid = list(values) if isinstance(values, list | tuple | range) else [values]
    if not grid:
        raise SpaceError(f"{path}: expected at least one value, got an empty list")
    return grid


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
