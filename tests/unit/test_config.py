from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from alray.cli import job, options
from alray.config import ConfigError, RunConfig, TrainConfig, fingerprint, identity, replace
from alray.config.command_line import sweep_options
from alray.config.meanings import meanings
from alray.config.pairs import scalar
from alray.selection.protocol import SelectionError
from alray.selection.registry import STRATEGIES, described

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def fields(model: type[BaseModel], path: str = "") -> list[tuple[str, str | None]]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += fields(kind, f"{path}{name}.")
        else:
            found.append((f"{path}{name}", meanings(model).get(name)))
    return found


def test_every_field_is_an_option_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(RunConfig(), ["--help-all"])
    text = capsys.readouterr().out
    for path, description in fields(RunConfig):
        assert f"--{path.replace('_', '-')} " in text, path
        assert description, f"{path} has no help"
        words = re.sub(r"\W+", "", description)[:20]
        assert words in re.sub(r"\W+", "", text), path


def test_json_both_ways() -> None:
    config = replace(RunConfig(), {"train.lr": 0.3, "model.options": {"a": [1, 2]}, "strategy_options": {"b": True}})
    assert RunConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["train"]["lr"] == 0.3


def test_command_line_over_a_job_file() -> None:
    config = options(
        RunConfig(seed=4),
        ["--train.lr", "0.3", "--strategy", "margin", "--model.options", '{"channels": [1, 2]}', "--transform.flip",
        "False",
         "--strategy_options", "class_order", "seeded", "--model.mean", "0.5", "0.4", "0.3"],
    )  # fmt: skip
    assert (config.seed, config.train.lr, config.strategy) == (4, 0.3, "margin")
    assert config.model.options == {"channels": [1, 2]}
    assert config.model.mean == (0.5, 0.4, 0.3)
    assert not config.transform.flip
    assert config.strategy_options == {"class_order": "seeded"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.lrr": 1}, "train.lrr: no such field"),
        ({"nonsense.lr": 1}, "nonsense.lr: no such field"),
        ({"train.lr": -1.0}, "train.lr: .* greater than 0, got -1.0"),
        ({"budget": 0}, "budget: expected an integer of at least 1, got 0"),
        ({"budget": -5}, "budget: .* got -5"),
        ({"budget": 10.5}, "budget: .* integer.* got 10.5"),
        ({"train.mode": "both"}, "train.mode: expected one of finetune, linear, got 'both'"),
        ({"name": "a/b"}, "name: "),
        ({"top_k": (1, 5)}, "top_k: expected numbers of 2 and more"),
        ({"train.patience": 3}, "train.patience=3 .* split.val_size=0"),
        ({"train.lr": float("nan")}, "train.lr: "),
        ({"transform.size": 300}, "transform.resize: expected 0 or at least transform.size=300, got 256"),
        ({"transform.resize": 223}, "transform.resize: expected 0 or at least transform.size=224, got 223"),
    ],
)
def test_impossible_values_are_refused_by_name(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(RunConfig(), overrides)


def test_unknown_fields_in_json_are_refused() -> None:
    tree = json.loads(RunConfig().to_json())
    tree["train"]["learning_rate"] = 0.1
    with pytest.raises(ConfigError, match=r"train.learning_rate: no such field"):
        RunConfig.from_json(json.dumps(tree))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.lrr", "1"], "--train.lrr: no such option; the nearest are --train.lr, "),
        (["--lr", "1"], "--lr: no such option; the nearest are --train.lr, --pretext.lr, --vaal.lr"),
        (["--val-size=1"], "--val-size: no such option; the nearest are --split.val-size"),
        (["--train.lr", "fast"], "--train.lr: expected a number greater than 0, got 'fast'"),
        (["--budget", "0"], "--budget: expected an integer of at least 1, got 0"),
        (["--budget"], r"--budget: expected a value \(INT\), got none"),
        (["--budget", "1", "2"], "2: expected an option, as in --train.lr 0.3"),
        (["train.lr=1"], "train.lr=1: expected an option, as in --train.lr 0.3"),
        (["--model.options", "{a"], "--model.options: expected a JSON object, got {a"),
        (["--strategy-options", "rest"], "--strategy-options: expected names and values in pairs"),
        (["--preset", "x"], "--preset: expected one of default, got x"),
    ],
)
def test_bad_options_are_refused_in_one_line_with_the_nearest_real_ones(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as stop:
        options(RunConfig(), arguments)
    assert "\n" not in str(stop.value)


def test_the_program_prints_the_line_and_leaves_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        job(RunConfig(), ["--train.lrr", "1"])
    assert stop.value.code == 2
    assert re.fullmatch(r"error: --train.lrr: no such option; .*\n", capsys.readouterr().err)


def test_help_shows_the_options_that_most_people_set_without_importing_torch_or_ray() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['imagenet_base.py', '--help']\n"
        f"try: runpy.run_path({str(JOBS / 'imagenet_base.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'ray', 'numpy', 'pyarrow'} & set(sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 20 <= len(re.findall(r"^  --", shown, flags=re.MULTILINE)) <= 30
    for name in ("preset", "strategy-options", "data.catalog", "split.seed-set-how", "train.lr", "resources.use-gpu"):
        assert f"  --{name} " in shown, name
    assert "--vaal.latent" not in shown
    assert "--help-all" in shown


@pytest.mark.parametrize(
    ("arguments", "root", "test_root"),
    [
        ([], "mine", "test"),
        (["--data.catalog", "c"], "", ""),
        (["--data.catalog", "c", "--data.root", "other"], "other", "test"),
        (["--data.catalog", "c", "--data.test-root", "other"], "mine", "other"),
    ],
)
def test_a_catalog_alone_replaces_the_root_of_the_job_file(arguments: list[str], root: str, test_root: str) -> None:
    config = replace(RunConfig(), {"data.root": "mine", "data.test_root": "test"})
    data = options(config, arguments).data
    assert (data.root, data.test_root) == (root, test_root)
    data = sweep_options(config, ["data.catalog=a,b", "seed=1"], arguments)[0].data
    assert (data.root, data.test_root) == (("", "") if len(arguments) < 4 else (root, test_root))


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().train.lr = 3  # type: ignore[misc]


def test_identity_holds_what_can_change_a_pick_and_nothing_else() -> None:
    def mark(overrides: dict[str, Any], data: str = "d", weights: str = "w") -> str:
        return fingerprint(identity(replace(RunConfig(), overrides), data, weights))

    same = mark({})
    moved = {
        "root": "s3://b/r",
        "data.root": "/elsewhere",
        "model.checkpoint": "/w",
        "resources.select_shards": 30,
        "rounds": 9,
    }
    assert mark(moved) == same
    for path, value in [("seed", 1), ("budget", 7), ("strategy", "margin"), ("train.lr", 0.2), ("transform.size", 32)]:
        assert mark({path: value}) != same, path
    assert mark({}, data="other") != same
    assert mark({}, weights="other") != same
    assert mark({"split.seed_set_how": "pretext", "split.seed_set_options": {"batches": 5}}) != mark(
        {"split.seed_set_how": "pretext"}
    )


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.py")), ids=lambda path: path.name)
def test_jobs_are_programs_that_explain_themselves(path: Path) -> None:
    assert path.stat().st_mode & 0o111, "not executable"
    assert path.read_text().startswith("#!/usr/bin/env python\n")
    shown = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=True).stdout
    assert "--train.lr" in shown


def load_job(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, JOBS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_papers_hyper_parameters() -> None:
    linear = load_job("imagenet_base").LINEAR
    assert linear.split.seed_set_size + (linear.rounds - 1) * linear.budget == 100_000
    expected = TrainConfig(
        mode="linear", epochs=60, patience=30, batch_size=128, lr=15, weight_decay=1e-4, step_size=20
    )
    assert linear.train == expected
    finetune = load_job("imagenet_base").FINETUNE
    assert (finetune.train.lr, finetune.train.weight_decay, finetune.train.step_size) == (1e-3, 0.0, 10)
    cifar = load_job("cifar10_base").CONFIG
    assert cifar.split.seed_set_size + (cifar.rounds - 1) * cifar.budget == 30_000
    assert (cifar.train.epochs, cifar.train.patience, cifar.train.schedule) == (200, 50, "cosine")


PT4AL = RunConfig(strategy="pt4al", strategy_options={"batches": 5})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"batches": 5}),
        (["--strategy-options", "cold_start", "middle"], {"batches": 5, "cold_start": "middle"}),
        (["--strategy_options", "batches", "7", "rest", "carry"], {"batches": 7, "rest": "carry"}),
        (["--strategy-options", "rest", "carry", "--seed", "3", "--strategy-options.batches=7"],
         {"batches": 7, "rest": "carry"}),
        (["--strategy-options.class_balanced", "true"], {"batches": 5, "class_balanced": True}),
        (["--strategy-options"], {}),
        (["--strategy", "pt4al"], {"batches": 5}),
        (["--strategy", "random"], {}),
        (["--strategy", "base", "--strategy-options", "quota", "fill"], {"quota": "fill"}),
        (["--strategy", "mine", "--strategy-options", "batches", "5", "x", "-1e-3"], {"batches": 5, "x": -0.001}),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_a_strategy_are_added_to_the_job_files_unless_it_is_another(
    arguments: list[str], expected: dict[str, Any]
) -> None:
    got = options(PT4AL, arguments).strategy_options
    assert got == expected
    assert {name: type(value) for name, value in got.items()} == {k: type(v) for k, v in expected.items()}


def test_options_of_a_seed_set_belong_to_how_it_is_chosen() -> None:
    config = replace(
        PT4AL, {"split.seed_set_how": "pretext", "split.seed_set_options": {"batches": 3}, "split.seed_set_size": 7}
    )
    assert options(config, ["--split.seed-set-options", "rest", "carry"]).split.seed_set_options == {
        "batches": 3, "rest": "carry",
    }  # fmt: skip
    assert options(config, ["--strategy", "random"]).split.seed_set_options == {"batches": 3}
    other = options(config, ["--split.seed-set-how", "k_means", "--split.seed_set_options.metric", "cosine"])
    assert other.split.seed_set_options == {"metric": "cosine"}
    assert other.split.seed_set_size == 7


def test_another_strategy_leaves_the_options_of_the_former_one() -> None:
    assert replace(PT4AL, {"strategy": "random"}).strategy_options == {}
    assert replace(PT4AL, {"strategy": "pt4al"}).strategy_options == {"batches": 5}
    assert replace(PT4AL, {"strategy_options.rest": "carry"}).strategy_options == {"batches": 5, "rest": "carry"}
    given = {"strategy_options.quota": "fill", "strategy": "base"}  # in whatever order
    assert replace(PT4AL, given).strategy_options == {"quota": "fill"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("-1e-3", -0.001), ("True", True), ("false", False), ("nan", "nan"), ("1e999", "1e999"), ("x", "x")],
)
def test_values_of_pairs_are_what_they_say(text: str, value: Any) -> None:
    assert scalar(text) == value and type(scalar(text)) is type(value)


def test_every_strategy_says_its_options() -> None:
    text = described()
    for name, kind in STRATEGIES.items():
        assert re.search(rf"^{name}( |$)", text, flags=re.MULTILINE)
        for option in inspect.signature(kind).parameters:
            assert f"[{option} " in described([name])
    with pytest.raises(SelectionError, match="expected one of random"):
        described(["bass"])


def test_presets_are_chosen_by_name() -> None:
    presets = {"a": RunConfig(seed=1), "b": RunConfig(seed=2)}
    assert options(presets, []).seed == 1
    assert options(presets, ["--budget", "3", "--preset", "b"]).seed == 2
    with pytest.raises(ConfigError, match="--preset: expected one of a, b, got c"):
        options(presets, ["--preset", "c"])
