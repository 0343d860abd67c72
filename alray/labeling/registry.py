"""The oracles by name. This is the only module that knows the names of `labels.oracle`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from alray.config import ConfigError, RunConfig
from alray.data.catalog import Catalog
from alray.data.oracle import Oracle
from alray.rundir import RunDir
from alray.tasks import Task, task_of


@dataclass(frozen=True)
class Setting:
    """What an oracle may need to know about its run."""

    config: RunConfig
    catalog: Catalog
    task: Task
    run: RunDir


def _hidden(setting: Setting) -> Oracle:
    return setting.task.hidden_labels(setting.catalog)


def _files(setting: Setting) -> Oracle:
    from alray.labeling.label_files import LabelFiles

    return LabelFiles(setting.run, setting.catalog, setting.task.answers)


def _studio(setting: Setting) -> Oracle:
    from alray.labeling.label_studio.oracle import LabelStudio

    return LabelStudio(setting.run, setting.catalog, setting.config.labels, setting.task.answers)


HIDDEN, _STUDIO = "hidden", "label_studio"
_ORACLES: dict[str, Callable[[Setting], Oracle]] = {HIDDEN: _hidden, "files": _files, _STUDIO: _studio}


def oracle_of(setting: Setting) -> Oracle:
    """Build the oracle that the configuration names. Raises ConfigError."""
    name = setting.config.labels.oracle
    return _ORACLES[name](setting) if name in _ORACLES else _made(name)


def check(config: RunConfig) -> None:
    """Raise ConfigError if there is no oracle of the configured name."""
    name = config.labels.oracle
    if name not in _ORACLES:
        _own(name)
    if name == _STUDIO:
        from alray.labeling.label_studio.oracle import check_settings

        check_settings(config.labels, task_of(config).answers)


def replays(config: RunConfig) -> bool:
    """Whether the labels come from the source, as in research, so that nobody has to be waited for."""
    return config.labels.oracle == HIDDEN


def _made(name: str) -> Oracle:
    """An oracle of the user's. Raises ConfigError if it cannot be made."""
    oracle = _own(name)()
    if not hasattr(oracle, "answer"):
        raise ConfigError(
            f"labels.oracle: expected an object with the method answer(requests), {name} gave {type(oracle).__name__}"
        )
    return oracle


def _own(name: str) -> Callable[[], Oracle]:
    """A class or function that a user names by its import path, "package.module:Class"."""
    module, mark, attribute = name.partition(":")
    if not mark:
        raise ConfigError(
            f"labels.oracle: expected {', '.join(_ORACLES)}, or the import path of a class of your own as in "
            f"package.module:Class, got {name!r}"
        )
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"labels.oracle: {name!r} cannot be imported: {error}") from error
    if not callable(made) or (isinstance(made, type) and not hasattr(made, "answer")):
        raise ConfigError(f"labels.oracle: expected a class with the method answer(requests), got {name!r}")
    try:
        inspect.signature(made, follow_wrapped=False).bind()  # a decorator may give what the function takes
    except TypeError as error:
        raise ConfigError(
            "labels.oracle: expected a class that is made without arguments, or a function without arguments that "
            f"returns an oracle, got {name!r}: {error}"
        ) from None
    except ValueError:  # a class written in C has no signature
        pass
    return made  # type: ignore[no-any-return]
