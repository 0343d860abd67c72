"""What a sweep varies: fields of the configuration by path, each a list of values (a grid) or a domain of Tune's."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from alray.config import ConfigError, RunConfig, fingerprint, replace
from alray.keyed import stream_key

Space = Mapping[str, Any]

_RANGE = re.compile(r"(\d+)\s*\.\.\s*(\d+)")
_CALL = re.compile(r"([a-z]+)\((.*)\)")
_DOMAINS = (
    "uniform", "quniform", "loguniform", "qloguniform", "randint", "qrandint", "lograndint", "qlograndint", "randn",
    "qrandn", "choice",
)  # fmt: skip
_MOST_TRIALS = 100_000
_SHOWN = 5  # values that a message names


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
        if not equals or not path or not values.strip():
            raise SpaceError(f"{text}: expected path=values, as in strategy=random,margin or seed=0..9")
        if path in space:
            raise SpaceError(f"{path}: given twice; write all its values in one list")
        space[path] = _values(path, values.strip())
    return space


def _values(path: str, text: str) -> Any:
    if match := _CALL.fullmatch(text):
        return _domain(path, match[1], match[2])
    parts = _split(text)
    if text.startswith("[") and len(parts) == 1:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise SpaceError(f"{path}: expected a JSON list, got {text} ({error})") from None
    if "" in parts:
        raise SpaceError(f'{path}: a value is missing in {text} (an empty one is written "")')
    return [value for part in parts for value in _part(path, part)]


def _part(path: str, text: str) -> Sequence[Any]:
    match = _RANGE.fullmatch(text)
    if not match:
        return [_scalar(text)]
    low, high = int(match[1]), int(match[2])
    if low > high:
        raise SpaceError(f"{path}: expected a range from low to high, got {text}")
    _check_size(path, high - low + 1)
    return range(low, high + 1)


def _split(text: str) -> list[str]:
    """At the commas that stand in no brackets and no quotes."""
    parts, depth, quoted = [""], 0, False
    for sign in text:
        quoted ^= sign == '"'
        if not quoted:
            depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def _domain(path: str, name: str, arguments: str) -> Any:
    if name not in _DOMAINS:
        raise SpaceError(f"{path}: expected one of Tune's {', '.join(_DOMAINS)}, got {name}")
    from ray import tune

    values = [_scalar(part) for part in _split(arguments)] if arguments.strip() else []
    if name != "choice" and any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise SpaceError(f"{path}: {name}({arguments}): expected numbers")
    try:
        domain = getattr(tune, name)(*([values] if name == "choice" else values))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise SpaceError(f"{path}: {name}({arguments}): {error}") from None
    _check_domain(path, domain)
    return domain


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def flatten(space: Space) -> dict[str, Any]:
    """Fields by path, whether they were given so or as a tree: {"train": {"lr": [0.1, 1]}} varies train.lr.

    Options of a strategy that hold neither lists nor search spaces are one value. Raises SpaceError.
    """
    flat: dict[str, Any] = {}
    for name, values in space.items():
        for path, leaf in _leaves(str(name), values):
            if path in flat:
                raise SpaceError(f"{path}: given twice; write all its values in one list")
            flat[path] = leaf
    if not flat:
        raise SpaceError("nothing to vary: give at least one field, as in strategy=random,margin")
    return flat


def _leaves(path: str, values: Any) -> Iterator[tuple[str, Any]]:
    options = path.rpartition(".")[2].endswith("options")
    if not isinstance(values, Mapping) or _is_grid_search(values) or (options and not _searches(values)):
        yield path, values
        return
    if not values:
        raise SpaceError(f"{path}: expected at least one field, got an empty dictionary")
    for name, inner in values.items():
        yield from _leaves(f"{path}.{name}", inner)


def _searches(values: Mapping[str, Any]) -> bool:
    kinds = list | tuple | range | np.ndarray
    return any(_is_domain(value) or _is_grid_search(value) or isinstance(value, kinds) for value in values.values())


def _is_grid_search(values: Any) -> bool:
    return isinstance(values, Mapping) and set(values) == {"grid_search"}  # what tune.grid_search gives


def _is_domain(values: Any) -> bool:
    return hasattr(values, "sample") and hasattr(values, "get_sampler")


def expand(space: Space, samples: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """All trials as fields by path: every combination of the grids, for each of `samples` draws from the search spaces.

    A draw is kept constant over the whole grid, so that strategies and seeds are compared under the same draws; the
    draws of a field are a function of (field, domain, seed) alone: further fields and further samples change none.
    Lists, tuples, ranges and arrays are grids, Tune's domains are drawn from, anything else is one value. Seeds vary
    slowest: a sweep that is stopped has whole seeds. Raises SpaceError.
    """
    fields = flatten(space)
    domains = {path: values for path, values in fields.items() if _is_domain(values)}
    grids = {path: _grid(path, values) for path, values in fields.items() if path not in domains}
    if samples < 1:
        raise SpaceError(f"samples: expected 1 or more, got {samples}")
    combinations = math.prod(len(values) for values in grids.values())
    _check_size(" x ".join(grids), combinations)
    _check_size(f"{combinations:,} combinations x {samples:,} samples", combinations * samples if domains else 0)
    drawn = {path: _draws(path, domain, samples, seed) for path, domain in domains.items()}
    draws = [{path: drawn[path][i] for path in domains} for i in range(samples if domains else 1)]
    order = sorted(grids, key=lambda path: path != "seed")
    combined = [dict(zip(order, values, strict=True)) for values in product(*(grids[path] for path in order))]
    trials = [{path: {**grid, **draw}[path] for path in fields} for grid in combined for draw in draws]
    return list({fingerprint(trial): trial for trial in trials}.values())


def check_values(config: RunConfig, space: Space) -> None:
    """Check that every field can be varied and takes each of its values, one by one. Raises SpaceError.

    It takes milliseconds. Whether the values of several fields fit together shows when the trials are made.
    """
    for path, values in flatten(space).items():
        check_path(path)
        for value in () if _is_domain(values) else _grid(path, values):
            try:
                replace(config, {path: value})
            except ConfigError as error:
                if str(error).startswith(path):
                    raise SpaceError(str(error)) from None


def check_path(path: str) -> None:
    """Raises SpaceError for a field that no sweep varies."""
    if path in ("name", "root", "run_dir"):
        raise SpaceError(f"{path}: a sweep names the directories of its trials itself; leave it out")


def _check_size(what: str, trials: int) -> None:
    if trials > _MOST_TRIALS:
        raise SpaceError(f"{what}: expected at most {_MOST_TRIALS:,} trials, got {trials:,}")


def _draws(path: str, domain: Any, samples: int, seed: int) -> list[Any]:
    _check_domain(path, domain)
    state = np.random.RandomState(stream_key(seed, f"sweep/{path}") % 2**32)  # what Tune's domains take
    try:
        values = [domain.sample(random_state=state) for _ in range(samples)]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise SpaceError(f"{path}: nothing can be drawn from {domain.domain_str}: {error}") from None
    return [_plain(path, value) for value in values]


def _check_domain(path: str, domain: Any) -> None:
    """Tune itself finds out when it draws, or draws nonsense."""
    if domain.is_function():
        raise SpaceError(f"{path}: expected a domain that draws by a seed, got sample_from (a function's draws differ)")
    lower, upper = getattr(domain, "lower", None), getattr(domain, "upper", None)
    if lower is not None and upper is not None and not lower < upper:
        raise SpaceError(f"{path}: expected a domain from low to high, got {lower} to {upper}")
    if type(domain).__name__ == "Integer" and not all(
        float(bound).is_integer() for bound in (domain.lower, domain.upper)
    ):
        raise SpaceError(f"{path}: expected whole numbers, got {lower} to {upper}")
    step = getattr(domain.get_sampler(), "q", None)
    if step is not None and not step > 0:
        raise SpaceError(f"{path}: expected steps above 0, got {step}")
    if getattr(domain, "categories", True) in ([], ()):
        raise SpaceError(f"{path}: expected at least one value to choose from, got none")


def _grid(path: str, values: Any) -> list[Any]:
    if _is_grid_search(values):
        values = values["grid_search"]
    several = isinstance(values, list | tuple | range) or (isinstance(values, np.ndarray) and values.ndim)
    if several:
        _check_size(path, len(values))
    grid = [_plain(path, value) for value in (values if several else [values])]
    if not grid:
        raise SpaceError(f"{path}: expected at least one value, got an empty list")
    texts = [json.dumps(value) for value in grid]
    if twice := list(dict.fromkeys(text for text in texts if texts.count(text) > 1))[:_SHOWN]:
        raise SpaceError(f"{path}: expected every value once, got {', '.join(twice)} several times")
    return grid


def _plain(path: str, value: Any) -> Any:
    """A value as JSON has it: sweep.json and Tune's files hold it."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(path, inner) for inner in value]
    if isinstance(value, Mapping) and not _is_grid_search(value):
        return {str(name): _plain(path, inner) for name, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise SpaceError(f"{path}: expected finite numbers, got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if _is_domain(value) or isinstance(value, Mapping):
        raise SpaceError(f"{path}: expected a search space or a list of values, got a search space inside of one")
    what = "a function" if callable(value) else f"{type(value).__name__} {value!r}"
    raise SpaceError(f"{path}: expected a list of values or a domain of Tune's, got {what}")
