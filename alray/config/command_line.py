"""A configuration from a command line: every field of a job file's configuration is an option (contract C8)."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tyro

from alray.config.tree import OWNERS, RunConfig, replace, value_at

_PAIRS = re.compile(r"--(strategy[-_]options|split\.seed[-_]set[-_]options)(?:\.(\w+))?(?:=(.*))?")
_SWEEP: tuple[tuple[str, type, str], ...] = (
    ("samples", int, "draws from search spaces; each goes through the whole grid"),
    ("cpus_per_trial", float, "CPUs a trial reserves for itself; fractions are fine"),
    ("gpus_per_trial", float, "GPUs (or a fraction) for a trial's linear head"),
    ("max_concurrent", int, "most trials at a time; 0: as many as there is room for"),
    ("scheduler", str, "none, asha or median: stop bad trials early, by validation accuracy"),
    ("grace_rounds", int, "rounds that no scheduler cuts off"),
    ("retries", int, "how often a trial that failed is started again"),
    ("mlflow", str, "tracking URI of MLflow; needs the extra alray[mlflow]"),
)


def options(config: RunConfig | Mapping[str, RunConfig], argv: Sequence[str] | None = None) -> RunConfig:
    """Parse the command line over a configuration (or over one of several, by --preset)."""
    presets = {"default": config} if isinstance(config, RunConfig) else dict(config)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", choices=list(presets), default=next(iter(presets)))
    known, arguments = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    preset = presets[known.preset]
    about = f"Presets (--preset NAME): {', '.join(presets)}." if len(presets) > 1 else None
    rest, pairs = _pairs(arguments)
    for path, texts in pairs.items():
        rest += [f"--{path}", *texts]
    parsed = tyro.cli(RunConfig, default=preset, args=rest, description=about, config=(tyro.conf.FlagConversionOff,))
    return _merged(preset, parsed, pairs)


def _pairs(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The other arguments, and the options of strategies by the field's path.

    They may be written several times, and by path: ``--strategy-options.batches 5``, as everywhere else.
    """
    rest: list[str] = []
    found: dict[str, list[str]] = {}
    into = rest
    for text in arguments:
        if match := _PAIRS.fullmatch(text):
            into = found.setdefault(match[1].replace("-", "_"), [])
            into += [part for part in match.groups()[1:] if part is not None]
        else:
            into = rest if text.startswith("--") else into
            into.append(text)
    return rest, found


def _merged(preset: RunConfig, parsed: RunConfig, given: Mapping[str, Collection[str]]) -> RunConfig:
    """The parsed configuration with the options of strategies that were given added to the preset's, unless these
    belong to another strategy; an option without any pair takes the preset's away."""
    changes = {}
    for path, owner in OWNERS.items():
        same = value_at(preset, owner) == value_at(parsed, owner)
        kept = value_at(preset, path) if same and given.get(path) != [] else {}
        changes[path] = {**kept, **(value_at(parsed, path) if path in given else {})}
    return replace(parsed, changes)


def sweep_options(
    config: RunConfig | Mapping[str, RunConfig], fields: Sequence[str], argv: Sequence[str] | None = None
) -> tuple[RunConfig, list[str], dict[str, Any]]:
    """Parse the command line of a sweep's job file: the configuration, what is varied, options of the sweep."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    group = parser.add_argument_group("the sweep (every other option is a field of its configuration)")
    varied = f"what is varied, as path=values; default: {' '.join(fields)}"
    group.add_argument("--sweep", nargs="+", default=list(fields), metavar="PATH=VALUES", help=varied)
    for name, kind, about in _SWEEP:
        option = f"--sweep.{name.replace('_', '-')}"
        group.add_argument(option, dest=name, type=kind, default=argparse.SUPPRESS, help=about, metavar=kind.__name__)
    known, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(rest):
        print(parser.format_help())  # above that of the fields
    given = vars(known)
    return options(config, rest), given.pop("sweep"), given
