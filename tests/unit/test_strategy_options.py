"""Options of strategies: what is accepted and what is refused, in Python, in sweeps and on the command line."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import Field
from pydantic.fields import FieldInfo
from test_pt4al import brought

import alray
from alray import STRATEGIES, replace
from alray.cli import main
from alray.config.wording import expected
from alray.features.arrays import Block
from alray.prepare import check
from alray.selection.options import options_of
from alray.selection.protocol import SelectionError
from alray.selection.registry import build, described
from alray.selection.strategies.k_means import KMeans
from alray.selection.strategies.pt4al import Pt4al
from alray.selection.strategies.robust_k_center import RobustKCenter
from alray.store import Store
from alray.sweep import SweepError, plan


def test_trials_of_another_strategy_leave_the_options_of_the_bases(tmp_path: Path) -> None:
    trials = plan(brought(tmp_path), {"strategy": ["pt4al", "random"], "seed": [0]}).trials
    assert [trial.config.strategy_options for trial in trials] == [{"batches": 5}, {}]


@pytest.mark.parametrize(
    ("changes", "space", "error", "message"),
    [
        ({}, {"strategy": ["pt4al", "random"], "strategy_options.rest": ["drop", "carry"]}, SweepError,
         r"trial strategy=random, strategy_options.rest=drop: strategy random: unknown option 'rest'; it has none"),
        ({"strategy": "base", "strategy_options": {"batches": 5}}, {"strategy": ["pt4al", "random"]}, SelectionError,
         "strategy base: unknown option 'batches'"),
        ({}, {"split.seed_set_how": ["pretext", "k_means"], "split.seed_set_options.batches": [5]}, SweepError,
         "trial split.seed_set_how=k_means, .*strategy k_means: unknown option 'batches'"),
    ],
)  # fmt: skip
def test_options_that_are_given_must_fit(
    changes: dict[str, Any], space: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        plan(replace(brought(tmp_path), changes), space)


def test_a_run_by_its_json_takes_options_by_path(tmp_path: Path) -> None:
    config = replace(brought(tmp_path), {"rounds": 1, "run_dir": str(tmp_path / "mine")})
    (tmp_path / "config.json").write_text(config.to_json())
    changes = [
        "--strategy-options.rest=carry",
        "--strategy-options.batches",
        "3",
        "--split.seed-set-options.cold_start",
        "middle",
    ]
    main(["run", str(tmp_path / "config.json"), *changes])
    done = Store(str(tmp_path / "mine")).read_json("config.json")
    assert done["strategy_options"] == {"batches": 3, "rest": "carry"}
    assert done["split"]["seed_set_options"] == {"cold_start": "middle"}


def test_select_takes_options_in_pairs(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).random(60)
    np.save(tmp_path / "loss.npy", losses)
    arguments = [
        "select",
        "pt4al",
        "4",
        "--out",
        str(tmp_path / "out.csv"),
        "--pretext-loss",
        str(tmp_path / "loss.npy"),
    ]
    main([*arguments, "--strategy-options", "batches", "3", "cold_start", "middle"])
    rows = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)[:, 0]
    options = {"batches": 3, "cold_start": "middle"}
    assert rows.tolist() == alray.select("pt4al", 4, strategy_options=options, pretext_loss=losses).rows.tolist()


def test_the_strategies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["strategies", "pt4al", "random"])
    text = capsys.readouterr().out
    assert text.startswith("pt4al [batches 10] [uncertainty confidence]")
    assert "\n    batches: an integer of at least 1; default 10\n        I, the number of batches," in text
    assert "\n    class_balanced: true or false; default false\n" in text
    assert "\n\nrandom\n    Uniform without replacement" in text


DECLARED = [(name, option) for name, kind in STRATEGIES.items() for option in options_of(kind)]


@pytest.mark.parametrize(("name", "option"), DECLARED, ids=lambda part: getattr(part, "name", part))
def test_every_option_is_declared_in_full_and_refuses_other_values_in_one_line(name: str, option: Any) -> None:
    assert option.expected and option.meaning and option.default
    for wrong in (None, [1], "nonsense"):
        with pytest.raises(SelectionError) as caught:
            build(name, {option.name: wrong})
        assert str(caught.value) == f"{name}: {option.name}: expected {option.expected}, got {wrong!r}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pt4al(batches=True), "pt4al: batches: expected an integer of at least 1, got True"),
        (lambda: Pt4al(batches=3.0), "pt4al: batches: expected an integer of at least 1, got 3.0"),  # type: ignore[arg-type]
        (lambda: Pt4al(batches="3"), "pt4al: batches: expected an integer of at least 1, got '3'"),  # type: ignore[arg-type]
        (lambda: Pt4al(class_balanced=0), "pt4al: class_balanced: expected true or false, got 0"),  # type: ignore[arg-type]
        (
            lambda: RobustKCenter(outliers=False),
            "robust_k_center: outliers: expected a number from 0 to below 1, got F",
        ),
        (lambda: KMeans(metrik="l2"), "k_means: unknown option 'metrik'; expected one of metric, iterations$"),  # type: ignore[call-arg]
        (lambda: KMeans("l2", 20, 7), "k_means: expected at most 2 options, got more$"),  # type: ignore[call-arg]
        (
            lambda: build("k_means", {"metrik": "l2"}),
            "strategy k_means: unknown option 'metrik'; expected one of metric, ",
        ),
    ],
)
def test_wrong_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        make()


def test_numbers_of_numpy_and_whole_numbers_are_accepted() -> None:
    made = RobustKCenter(outliers=np.float64(0.5), time_limit=3, points=np.int64(7))  # type: ignore[arg-type]
    assert made == RobustKCenter(0.5, 3.0, 7)
    assert Pt4al(class_balanced="FALSE", normalise_logits=np.bool_(True)) == Pt4al(normalise_logits=True)  # type: ignore[arg-type]


def test_a_strategy_of_the_readme_works(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Gini(alray.ScoreStrategy):
        needs = frozenset({"logits"})

        def score(self, block: Block) -> np.ndarray:
            p = np.exp(block["logits"] - block["logits"].max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            return np.asarray(1 - (p**2).sum(axis=1))

    monkeypatch.setitem(STRATEGIES, "gini", Gini)
    z = np.random.default_rng(0).normal(size=(50, 4))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert alray.select("gini", 5, logits=z, num_shards=3).rows.tolist() == np.argsort((p**2).sum(1))[:5].tolist()
    assert described(["gini"]).startswith("gini\n")
    with pytest.raises(SelectionError, match="strategy gini: unknown option 'x'; it has none"):
        build("gini", {"x": 1})


def test_an_own_strategy_may_have_an_option_without_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    class Column(alray.ScoreStrategy):
        """Sorts by one class."""

        needs = frozenset({"logits"})

        def __init__(self, at: int) -> None:
            self.at = at

        def score(self, block: Block) -> np.ndarray:
            return block["logits"][:, self.at]

    monkeypatch.setitem(STRATEGIES, "column", Column)
    assert alray.select("column", 2, strategy_options={"at": 1}, logits=np.eye(3)).rows.tolist() == [1, 0]
    about = "Sorts by one class.\n    Reads: logits (or embedding and head)."
    assert described(["column"]) == f"column [at ...]\n    {about}\n\n    at: an integer; default ..."
    with pytest.raises(SelectionError, match="strategy column: expected the options at, too"):
        build("column")


def test_an_object_that_is_no_strategy_is_refused() -> None:
    class Duck:
        needs = frozenset({"logits"})

        def open(self, shard: object, context: object) -> None: ...

        def select(self, shards: object, budget: int, context: object) -> None: ...

    with pytest.raises(SelectionError, match="expected a name or a configured object of a subclass of alray.Strategy"):
        alray.select(Duck(), 1, logits=np.eye(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="abstract"):
        alray.Strategy()  # type: ignore[abstract]


def test_all_public_names_are_found() -> None:
    assert set(alray.__all__) <= set(dir(alray))
    assert inspect.isabstract(alray.Strategy)


@pytest.mark.parametrize(
    "program",
    [
        "import alray.selection.registry as r; [r.build(name) for name in r.STRATEGIES]; r.described()",
        "import numpy as np, alray; alray.select('random', 2, embedding=np.eye(4))",
        "import numpy as np; np.save('x.npy', np.eye(4)); from alray.cli import main; "
        "main('select random 2 --embedding x.npy --out x.csv'.split())",
    ],
)
def test_torch_and_ray_are_imported_only_by_what_uses_them(program: str, tmp_path: Path) -> None:
    """They take seconds."""
    check = "\nimport sys; assert not {'torch', 'ray', 'faiss'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program + check], check=True, cwd=tmp_path, timeout=120)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"ge": 0, "lt": 1}, "a number from 0 to below 1"),
        ({"gt": 0}, "a number greater than 0"),
        ({"ge": 2}, "a number of at least 2"),
        ({"gt": 0, "le": 5}, "a number greater than 0 and of at most 5"),
        ({}, "a number"),
    ],
)
def test_every_limit_of_an_option_is_put_into_words(limits: dict[str, Any], words: str) -> None:
    assert expected(FieldInfo.from_annotation(Annotated[float, Field(**limits)])) == words  # type: ignore[arg-type]


def test_a_strategy_object_is_written_down_by_its_name_and_options(tmp_path: Path) -> None:
    """A run by an object is the run that its name and options give: no other run's directory is continued."""
    found = check(brought(tmp_path), Pt4al(batches=4, rest="carry"))
    assert (found.config.strategy, found.config.strategy_options) == ("pt4al", {"batches": 4, "rest": "carry"})
    assert check(found.config).strategy == found.strategy
    assert check(brought(tmp_path), build("margin")).config.strategy == "margin"
