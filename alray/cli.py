"""The command line: `alray COMMAND`, and `job` and `sweep_job`, which make a job file a program (contract C8).

The options of a command are the fields of its class, under their names; docstrings are the help. An error that alray
raises itself is printed as one message; any other keeps its traceback, because it is a defect. Exit codes: 0 done; 1 a
defect, or the cluster or storage failed (the same command goes on); 2 a mistake in what was asked for; 75 people have
to label first; 130 Ctrl-C; 143 SIGTERM. An error with another code than 2 has it as its attribute `exit_code`.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

from alray import __version__, commands, recipes, sigterm
from alray.config import ConfigError, RunConfig, SweepConfig
from alray.config.arguments import as_typed
from alray.config.command_line import Presets, options, sweep_options
from alray.config.fields import leaves
from alray.credentials import redacted
from alray.reasons import ours, terminal

if TYPE_CHECKING:
    from alray.data.oracle import Oracle
    from alray.selection.protocol import Strategy

__all__ = ["guarded", "job", "main", "options", "sweep_job"]

T = TypeVar("T")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see alray.cluster; PyTorch, which reads it, is imported later

_RUN = "alray run [RECIPE | CONFIG.json | JOB.py] [--option value ...]"
_PLAN = "alray plan RECIPE|CONFIG.json|JOB.py [--price NUMBER] [--option value ...]"
_SWEEP = "alray sweep RECIPE|CONFIG.json|JOB.py PATH=VALUES ... [--option value ...] [--sweep.option value ...]"


def run(argv: Sequence[str]) -> None:
    """Run active learning: a recipe by its name, a configuration in JSON (every run directory has its config.json) or a
    job file. Lists the recipes without arguments."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {_RUN}\n\nThe options of a recipe: alray run NAME --help. Recipes:\n\n{recipes.described()}")
        return
    target, *rest = argv
    path = recipes.find(target)
    if path.suffix == ".py":
        recipes.start(path, rest)
    else:
        job(recipes.presets(target), rest, _RUN)


def plan(argv: Sequence[str]) -> None:
    """Say what a run will take, before it starts: images, bytes, memory, and seconds by stage, measured in some seconds
    on some of the real images; with --price, the price of one node for an hour, also the money. Takes the options of
    `alray run`. Leaves with code 2 if the run cannot fit, and says what to change."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {_PLAN}\n\n{_words(plan)}")
        return
    target, *rest = argv
    price = 0.0
    if "--price" in rest:
        at = rest.index("--price")
        price = _price(rest[at + 1 : at + 2])
        del rest[at : at + 2]
        if "--price" in rest:
            raise ConfigError("--price: expected once, got it again")
    config = options(recipes.presets(target), rest, _PLAN)

    from alray.prepare import check

    with as_typed(leaves(RunConfig)):
        checked = check(config)
        print("\n".join([*checked.source, *filter(None, [checked.notes]), ""]), flush=True)
        from alray.planning.plan import plan as made  # imports torch: a wrong path is told before

        found = made(checked)
    print("\n".join(found.lines(price)))
    if found.problems:
        raise ConfigError("the run cannot fit:\n" + "\n".join(found.problems))


def _price(given: Sequence[str]) -> float:
    try:
        price = float(given[0])
    except (IndexError, ValueError):
        price = math.nan
    if not 0 <= price < math.inf:
        raise ConfigError(f"--price: expected a number that is not negative, got {given[0] if given else 'nothing'}")
    return price


def sweep(argv: Sequence[str]) -> None:
    """Run a recipe or configuration over strategies, budgets, seeds or any other fields, and report on it. The same
    command started again continues: finished trials are not run again."""
    if not argv or argv[0].startswith("-"):
        print(f"usage: {_SWEEP}\n\n{_words(sweep)}\n\nAll options: alray sweep RECIPE --help. Recipes:\n")
        print(recipes.described())
        return
    target, *rest = argv
    end = next((at for at, text in enumerate(rest) if text.startswith("-")), len(rest))
    config, varied, about = sweep_options(recipes.presets(target), rest[:end], rest[end:], _SWEEP)
    _sweep(config, varied, about)


def _words(thing: Callable[..., object] | type) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def _sweep(config: RunConfig, varied: Sequence[str], about: SweepConfig) -> None:
    """Run a sweep and its report; leaves with code 1 when trials failed."""
    from alray.sweep.space import check_values, parse_space

    space = parse_space(varied)
    check_values(config, space)  # before the imports below, which take seconds

    from alray.report import report
    from alray.sweep.start import sweep as go

    result = go(config, space, about)
    if any(trial["rounds"] for trial in result.trials):
        print(report([result.dir], None))
    print(f"sweep: {result.dir}")
    for trial in result.failed:
        print(f"failed: {trial['run']}: {trial['error']}", file=sys.stderr)
    if result.failed:
        raise SystemExit(1)


def sweep_job(config: Presets, fields: Sequence[str]) -> None:
    """Run a sweep's job file: every field of its configuration is an option, ``--sweep path=values ...`` replaces what
    is varied, and ``--sweep.cpus-per-trial 0.5`` is how the sweep is run."""
    guarded(lambda: _sweep(*sweep_options(config, fields)))


def job(
    config: Presets,
    argv: Sequence[str] | None = None,
    usage: str = "",
    *,
    oracle: Oracle | None = None,
    strategy: Strategy | None = None,
) -> None:
    """Run a job file: every field of its configuration is a command-line option with type, default and help.

    With several named configurations the first is the default and ``--preset NAME`` takes another. oracle: your object
    that gives the labels; it is not part of the configuration, so give each oracle a run of its own name. strategy:
    your object instead of the strategy that the configuration names.
    """

    def work() -> None:
        chosen = options(config, argv, usage)

        from alray.report import report  # after the options: --help answers at once
        from alray.rounds import run as go
        from alray.store import ReadOnly

        with as_typed(leaves(RunConfig)):
            result = go(chosen, oracle=oracle, strategy=strategy)
        try:
            print(report([result.dir], None))
        except ReadOnly as error:  # the run was finished before
            print(f"no report: {error}; `alray report {result.dir} --out DIRECTORY` writes it elsewhere")
        print(f"run: {result.dir}")

    guarded(work)


def guarded(work: Callable[[], T]) -> T:
    """Do the work. An error of alray's own is printed, and leaves with its exit code; Ctrl-C leaves with 130, and
    SIGTERM, which stops the work in the same way, with 143."""
    with sigterm.as_ctrl_c() as term:
        try:
            done = work()
            sys.stdout.flush()
            return done
        except KeyboardInterrupt as stop:
            line = str(stop) or sigterm.STOPPED
            print(f"SIGTERM came, {line}" if term.came else line, file=sys.stderr)
            raise SystemExit(term.code if term.came else 130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads what is still to be flushed
            raise SystemExit(1) from None
        except Exception as error:
            if not ours(error) or os.environ.get("ALRAY_TRACEBACK"):
                raise
            code = getattr(error, "exit_code", 2)
            prefix = "" if code == os.EX_TEMPFAIL else "error: "  # nothing is wrong where a run waits for people
            lines = map(terminal, redacted(str(error)).split("\n"))  # what it quotes may come from a file
            print("\n".join([f"{prefix}{next(lines)}", *lines]), file=sys.stderr)
            raise SystemExit(code) from None


_HERE: dict[str, Callable[[Sequence[str]], None]] = {"run": run, "plan": plan, "sweep": sweep}


def _start(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        about = {name: _words(what) for name, what in _HERE.items()}
        about |= {name: _words(commands.named(name)) for name in commands.NAMES}
        print("Active learning at ImageNet scale on Ray.\n\nusage: alray COMMAND ...; alray COMMAND --help\n")
        print("\n".join(f"  {name:11} {text.partition('. ')[0]}" for name, text in about.items()))
        return
    if argv[0] == "--version":
        print(f"alray {__version__}")
        return
    name, *rest = argv
    known = (*_HERE, *commands.NAMES)
    if name not in known:
        near = get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        if name in recipes.recipes():
            meant = f"; the recipe of this name is started by `alray run {name}`"
        raise ConfigError(f"{name}: expected a command, one of {', '.join(known)}{meant}")
    (_HERE.get(name) or commands.named(name).start)(rest)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `alray` command."""
    guarded(lambda: _start(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
