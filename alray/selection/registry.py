"""The strategies by name. A strategy of your own is entered in the same dictionary, `STRATEGIES`."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from alray.features.arrays import LOGITS
from alray.selection.options import Option, as_text, checked_values, options_of
from alray.selection.own import check_strategy
from alray.selection.protocol import HEAD, HIDDEN_LABELS, LABELED, SelectionError, Strategy
from alray.selection.strategies.badge import Badge
from alray.selection.strategies.balanced_random import BalancedRandom
from alray.selection.strategies.balancing import Balancing
from alray.selection.strategies.base import Base
from alray.selection.strategies.cluster_margin import ClusterMargin
from alray.selection.strategies.confidence import Confidence
from alray.selection.strategies.entropy import Entropy
from alray.selection.strategies.k_center import KCenter
from alray.selection.strategies.k_means import KMeans
from alray.selection.strategies.margin import Margin
from alray.selection.strategies.mase import Mase
from alray.selection.strategies.partitioned import PartitionedBadge, PartitionedKCenter
from alray.selection.strategies.pixels import PixelConfidence, PixelEntropy, PixelMargin, PixelPt4al
from alray.selection.strategies.pt4al import Pt4al
from alray.selection.strategies.random_sampling import RandomSampling
from alray.selection.strategies.robust_k_center import RobustKCenter
from alray.selection.strategies.vaal import Vaal

STRATEGIES: dict[str, type[Strategy]] = {
    "random": RandomSampling,
    "balanced_random": BalancedRandom,  # peeks at labels
    "confidence": Confidence,
    "margin": Margin,
    "entropy": Entropy,
    "mase": Mase,
    "base": Base,
    "balancing": Balancing,  # peeks at labels
    "k_center": KCenter,
    "robust_k_center": RobustKCenter,
    "partitioned_k_center": PartitionedKCenter,
    "badge": Badge,
    "partitioned_badge": PartitionedBadge,
    "cluster_margin": ClusterMargin,
    "vaal": Vaal,
    "pt4al": Pt4al,
    "k_means": KMeans,
}

# What a strategy reads, in words.
_READ = {
    HEAD: "head (weight and bias)",
    HIDDEN_LABELS: "labels of all rows",
    LABELED: "the labeled rows",
    LOGITS: "logits (or embedding and head)",
}
# Strategies that have another form for images with masks.
OF_PIXELS: dict[str, type[Strategy]] = {
    "confidence": PixelConfidence,
    "margin": PixelMargin,
    "entropy": PixelEntropy,
    "pt4al": PixelPt4al,
}
_WHOLE_IMAGES = frozenset({"logits", "head", "labels", "known"})  # an image of many classes has none of these


def name_of(strategy: Strategy) -> str:
    """The name under which a strategy's class is entered, else the name of the class."""
    kind = type(strategy)
    return next((name for name, there in STRATEGIES.items() if there is kind), kind.__name__)


def build(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of that name with these options.

    Raises SelectionError for a name that is not in STRATEGIES, an option the strategy does not have, or a value it does
    not take. The message lists the names, options or values that there are.
    """
    kind = _kind(name)
    options = options or {}
    known = options_of(kind)
    _check_known(name, known, options)
    missing = [option.name for option in known if option.default is None and option.name not in options]
    if missing:
        raise SelectionError(f"strategy {name}: expected the options {', '.join(missing)}, too")
    return check_strategy(kind(**checked_values(name, kind, options)))


def named(strategy: Strategy) -> tuple[str, dict[str, Any]]:
    """The name and the options with which a configuration writes down a strategy object: options that have their
    defaults are left out. Raises SelectionError for what is no strategy."""
    strategy, found = check_strategy(strategy), {}
    for option in options_of(type(strategy)):
        value = getattr(strategy, option.name)
        if option.default is None or as_text(value) != option.default:
            found[option.name] = value if isinstance(value, bool | int | float | str) else as_text(value)
    return name_of(strategy), found


def changed(strategy: Strategy, options: Mapping[str, Any]) -> Strategy:
    """The strategy with some options replaced. Raises SelectionError as `build` does."""
    name, kind = name_of(strategy), type(strategy)
    _check_known(name, options_of(kind), options)
    replaced: Strategy = dataclasses.replace(strategy, **checked_values(name, kind, options))  # type: ignore[type-var]
    return replaced


def build_for_segmentation(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of that name for images with masks. Raises SelectionError, also for one that needs a class."""
    strategy = build(name, options)
    if name in OF_PIXELS:
        return OF_PIXELS[name](**(options or {}))
    if strategy.needs & _WHOLE_IMAGES:
        there = [other for other, kind in STRATEGIES.items() if other in OF_PIXELS or not kind.needs & _WHOLE_IMAGES]
        raise SelectionError(
            f"strategy: {name} needs {', '.join(sorted(strategy.needs & _WHOLE_IMAGES))} of whole images, and in "
            f"segmentation there are none; expected one of {', '.join(there)}"
        )
    return strategy


def described(names: Sequence[str] = ()) -> str:
    """Text for people: these strategies (or all), each with its options: values, default and meaning."""
    return "\n\n".join(_described(name, _kind(name)) for name in names or STRATEGIES)


def _described(name: str, kind: type[Strategy]) -> str:
    known = options_of(kind)
    title = " ".join([name, *(f"[{option.name} {_default(option)}]" for option in known)])
    about = textwrap.indent(inspect.getdoc(kind) or "", "    ")
    reads = ", ".join(_READ.get(need, need) for need in sorted(kind.needs)) or "no features"
    return "\n".join([title, about, f"    Reads: {reads}.", *(f"\n{_option(option)}" for option in known)])


def _option(option: Option) -> str:
    """An option's name, values and default on a line, and below it what it means."""
    title = f"    {option.name}: {option.expected or 'any value'}; default {_default(option)}"
    meaning = textwrap.fill(option.meaning, 108, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return f"{title}\n{meaning}" if meaning else title


def _default(option: Option) -> str:
    return "..." if option.default is None else option.default


def _check_known(name: str, known: Sequence[Option], options: Mapping[str, Any]) -> None:
    names = [option.name for option in known]
    for option in options:
        if option not in names:
            there = f"expected one of {', '.join(names)}" if names else "it has none"
            raise SelectionError(f"strategy {name}: unknown option {option!r}; {there}")


def _kind(name: str) -> type[Strategy]:
    if name not in STRATEGIES:
        near = get_close_matches(str(name), STRATEGIES, 1)
        meant = f"; the nearest is {near[0]}" if near else ""
        raise SelectionError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}{meant}")
    kind = STRATEGIES[name]
    if not (isinstance(kind, type) and issubclass(kind, Strategy)):
        got = f"the class {kind.__name__}" if isinstance(kind, type) else f"an object of {type(kind).__name__}"
        raise SelectionError(f"STRATEGIES[{name!r}]: expected a subclass of alray.Strategy, got {got}")
    if missing := sorted(kind.__abstractmethods__):
        raise SelectionError(f"STRATEGIES[{name!r}]: {kind.__name__} lacks the methods {', '.join(missing)}")
    return kind
