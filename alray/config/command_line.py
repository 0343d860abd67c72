"""Configurations from a command line: every field of a section is an option (contract C8)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from alray.config.arguments import Fields, as_typed, option, split, takes_several, value
from alray.config.fields import COMMON, ConfigError, Frozen, Section, leaves, refuse_credentials, validated
from alray.config.help import Shown, help_text
from alray.config.sweeping import SweepConfig
from alray.config.tree import OWNERS, RunConfig, replace, value_at
from alray.credentials import has_credentials

Presets = RunConfig | Mapping[str, RunConfig]

_HELP = ("-h", "--help", "--help-all")
# The option on the left replaces the job file's values of the fields on the right, unless they are given, too. Only a
# command line can tell a job file's value from one that a person gave: `replace` changes the named fields and no other.
_INSTEAD_OF = {"data.catalog": ("data.root", "data.test_root")}


class JobOptions(Frozen):
    """The job file"""

    preset: Annotated[str, COMMON] = ""
    """Which of the job file's configurations to start from."""


class SweepJobOptions(JobOptions):
    """The job file"""

    sweep: Annotated[tuple[str, ...], COMMON] = ()
    """What is varied, as path=values: strategy=random,margin seed=0..9 "train.lr=loguniform(0.01, 1)"."""


def options(config: Presets, argv: Sequence[str] | None = None, usage: str = "") -> RunConfig:
    """The configuration (or one of several, by --preset) with the changes of a command line; --help leaves.

    Raises ConfigError that names each option that is unknown or has a wrong value.
    """
    line = _Line(config, argv, leaves(JobOptions))
    line.help(usage, [("", JobOptions(preset=line.preset))])
    with as_typed(line.fields):
        return line.config()


def sweep_options(
    config: Presets, varied: Sequence[str] = (), argv: Sequence[str] | None = None, usage: str = ""
) -> tuple[RunConfig, list[str], SweepConfig]:
    """As `options`, for a sweep: the configuration, what is varied (as path=values), and how the sweep is run
    (--sweep.samples 3). varied: what is varied without the option --sweep."""
    about = leaves(SweepConfig, "sweep.")
    line = _Line(config, argv, {**leaves(SweepJobOptions), **about})
    choice = SweepJobOptions(preset=line.preset, sweep=tuple(varied))
    line.help(usage, [("", choice), ("sweep.", SweepConfig)])
    fields = line.given.get("sweep", list(varied))
    changes = {path: value(path, about[path], texts) for path, texts in line.given.items() if path in about}
    with as_typed(line.fields):
        sweep = validated(
            SweepConfig, {path.removeprefix("sweep."): changed for path, changed in changes.items()}, "sweep."
        )
        return line.config(also=[text.partition("=")[0] for text in fields]), fields, sweep


def section_options(model: type[Section], argv: Sequence[str], usage: str, positional: Sequence[str] = ()) -> Section:
    """A section from a command line of its own; --help leaves.

    positional: fields that are given as words, in this order; one that takes several values comes last. Raises
    ConfigError.
    """
    fields = leaves(model)
    if set(argv) & set(_HELP):
        print(help_text(usage, "", [("", model)], every=True))
        raise SystemExit(0)
    words, given = split(argv, fields, once=True)
    for path in positional:
        many = takes_several(fields[path])
        here, words = (words, []) if many else (words[:1], words[1:])
        if here and path in given:
            raise ConfigError(f"{path.upper()}: expected once, got {here[0]} and {option(path)}")
        if here:
            given[path] = here
        elif path not in given and not many:
            raise ConfigError(f"{path.upper()}: expected a value, got none; usage: {usage}")
    _refuse_credentials({**given, "arguments": words})
    if words:
        raise ConfigError(f"{words[0]}: expected an option; usage: {usage}")
    with as_typed(fields, positional):
        return validated(model, {path: value(path, fields[path], texts) for path, texts in given.items()})


def _refuse_credentials(given: Mapping[str, Sequence[str]]) -> None:
    """Refuse secrets in the texts of options, before a message about one of them shows it. Raises ConfigError."""
    refuse_credentials({path: text for path, texts in given.items() for text in texts if has_credentials(text)})


class _Line:
    """What a job's command line says: the preset it starts from and the texts of the options that were given.

    own: the options besides the fields of the configuration.
    """

    def __init__(self, config: Presets, argv: Sequence[str] | None, own: Fields) -> None:
        self.presets = {"default": config} if isinstance(config, RunConfig) else dict(config)
        self.fields = {**own, **leaves(RunConfig)}
        arguments = list(sys.argv[1:] if argv is None else argv)
        self.asked = [text for text in arguments if text in _HELP]
        words, self.given = split([text for text in arguments if text not in _HELP], self.fields)
        _refuse_credentials({"arguments": words, **self.given, "sweep.mlflow": []})  # MLflow's URI is not stored
        if words:
            raise ConfigError(f"{words[0]}: expected an option, as in --train.lr 0.3")
        chosen = self.given.pop("preset", [next(iter(self.presets))])
        self.preset = " ".join(chosen)
        if self.preset not in self.presets:
            raise ConfigError(f"--preset: expected one of {', '.join(self.presets)}, got {self.preset or 'none'}")
        self.base = self.presets[self.preset]

    def help(self, usage: str, own: Sequence[Shown]) -> None:
        """Print the help and leave, where it was asked for."""
        if not self.asked:
            return
        presets = f"Presets (--preset NAME): {', '.join(self.presets)}." if len(self.presets) > 1 else ""
        usage = usage or f"{Path(sys.argv[0]).name} [--preset NAME] [--option value ...]"
        print(help_text(usage, presets, [*own, ("", self.base)], every="--help-all" in self.asked))
        raise SystemExit(0)

    def config(self, also: Collection[str] = ()) -> RunConfig:
        """The preset with the options that were given. also: paths that get their values elsewhere."""
        given = {path: texts for path, texts in self.given.items() if path in leaves(RunConfig)}
        changes: dict[str, Any] = {path: value(path, self.fields[path], texts) for path, texts in given.items()}
        meant = {*changes, *also}
        for path, others in _INSTEAD_OF.items():
            if path in meant and not meant.intersection(others):
                changes |= dict.fromkeys(others, "")
        for path, owner in OWNERS.items():
            # Options are added to the preset's, unless these belong to another owner; without any pair they are reset.
            if changes.get(path) and changes.get(owner, value_at(self.base, owner)) == value_at(self.base, owner):
                changes[path] = {**value_at(self.base, path), **changes[path]}
        return replace(self.base, changes)
