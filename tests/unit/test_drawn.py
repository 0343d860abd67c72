"""Images are drawn for a test of a run's model: labels come as for other batches, and the estimate is unbiased."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from reference import lure_mean

from alray import replace
from alray.cli import main
from alray.config import DataConfig, LabelConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig
from alray.draws import DrawError, draw_test, picks_estimate
from alray.explain.why import why
from alray.export.labels import labeled
from alray.export.write import export
from alray.labeling import drawn, receive, state
from alray.labeling.desk import Waiting
from alray.labeling.standing import lines
from alray.lease import lease
from alray.models.head import Head
from alray.report import report
from alray.report.escape import markdown
from alray.rounddir import DrawDir
from alray.rounds import run
from alray.rundir import RunDir, RunError
from alray.stop import Standing

NAMES = ("apple", "pear", "plum")
SIZE = 300
TRUTH = np.arange(SIZE) % 3


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """300 rows in three clusters that overlap; the source knows their labels."""
    rng = np.random.default_rng(0)
    features = (1.3 * np.eye(3, 8)[TRUTH] + rng.standard_normal((SIZE, 8))).astype(np.float32)
    np.savez(tmp_path / "pool.npz", features=features, label=TRUTH)
    np.savez(tmp_path / "unlabeled.npz", features=features, label=np.full(SIZE, -1))
    return RunConfig(
        name="drawn", root=str(tmp_path / "runs"), rounds=3, budget=20, strategy="margin", top_k=(),
        data=DataConfig(root=str(tmp_path / "pool.npz")), split=SplitConfig(seed_set_size=20),
        train=TrainConfig(mode="linear", epochs=3, lr=1.0), resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip


def people(config: RunConfig, tmp_path: Path) -> RunConfig:
    return replace(config, {
        "data.root": str(tmp_path / "unlabeled.npz"), "data.classes": NAMES, "name": "people",
        "labels": LabelConfig(oracle="files", wait="exit"),
    })  # fmt: skip


def folder_of(config: RunConfig) -> RunDir:
    (folder,) = Path(config.root).glob(f"{config.name}-*")
    return RunDir(str(folder))


def wait(config: RunConfig) -> RunDir:
    with pytest.raises(Waiting):
        run(config, quiet=True)
    return folder_of(config)


def give(folder: RunDir, tmp_path: Path, answers, **options):
    path = tmp_path / f"labels-{len(list(tmp_path.iterdir()))}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("key", "label", "status"), *answers])
    return receive.receive(folder, [str(path)], **options)


def right(keys):
    return [(key, NAMES[TRUTH[int(key)]], "") for key in keys]


def predictions(folder: RunDir, number: int, config: RunConfig):
    head = Head.load(folder.round(number).checkpoint)
    with np.load(config.data.root) as arrays:
        return (arrays["features"] @ head.weight.T + head.bias).argmax(axis=1)


def with_a_model(config, tmp_path):
    """A run that waits for its first round's batch: people have labeled the start."""
    config = people(config, tmp_path)
    folder = wait(config)
    give(folder, tmp_path, right(state.open_batch(folder).requests["key"].to_pylist()))
    wait(config)
    return config, folder


@pytest.mark.parametrize("how", ["random", "active"])
def test_a_finished_run_is_tested_and_the_drawn_images_leave_the_pool(config, how, tmp_path):
    result = run(config, quiet=True)
    folder = RunDir(result.dir)
    (said,) = draw_test(folder, 60, how)
    (place,) = folder.tests()
    draws, about = place.draws().to_pydict(), place.about()
    labeled_rows = np.concatenate([folder.seed()[0], *(step.rows for step in folder.bought())])
    assert not set(draws["row"]) & set(labeled_rows.tolist())
    assert (about["population"], about["round"], about["first_round"]) == (SIZE - 60, 2, 2)
    wrong = predictions(folder, 2, config)[draws["row"]] != TRUTH[draws["row"]]
    (test,) = drawn.tests(folder)
    assert test.result.accuracy == pytest.approx(1 - lure_mean(draws["q"], SIZE - 60, wrong.tolist()))
    assert test.result.unweighted == pytest.approx(1 - wrong.mean())
    assert test.result.low < test.result.accuracy < test.result.high
    assert said == test.sentence == place.estimate()["words"]
    assert said in lines(folder)
    report([result.dir])
    assert f"{test.result.accuracy:.4f} (95 % interval" in Path(result.dir, "report.html").read_text()

    more = run(replace(config, {"rounds": 5}), quiet=True)
    bought = {row for step in folder.bought() for row in step.rows.tolist()}
    assert not bought & set(draws["row"])
    assert [one["labels"] for one in more.rounds] == [20, 40, 60, 80, 100]
    assert [one["unlabeled"] for one in more.rounds] == [280, 260, 180, 160, 140]
    assert Standing.of(folder, 1).paid == 40
    assert Standing.of(folder, 4).paid == 160
    key = draws["key"][0]
    assert any("was drawn for a test before round 2" in line for line in why(folder, key))
    assert drawn.tests(folder)[0].sentence == said
    origins = {one.key: one.origin for one in labeled(folder, folder.catalog())}
    assert len(origins) == 160
    assert origins[key] == "test 0"


def test_what_active_draws_prefer_is_what_the_model_doubts(config):
    folder = RunDir(run(config, quiet=True).dir)
    draw_test(folder, 40, "random")
    draw_test(folder, 40, "active")
    even, active = (test.draws() for test in folder.tests())
    assert not set(even["row"].to_pylist()) & set(active["row"].to_pylist())
    assert folder.tests()[1].about()["population"] == SIZE - 100
    np.testing.assert_allclose(even["q"].to_numpy(), 1 / (240 - np.arange(40)))
    assert np.mean(active["probability"].to_numpy()) < np.mean(even["probability"].to_numpy())
    assert active["q"].to_numpy().min() >= 0.5 / 200  # nothing is drawn with almost no probability


def test_people_answer_a_test_beside_a_round_and_the_run_learns_nothing_from_it(config, tmp_path):
    config = people(config, tmp_path)
    folder = wait(config)
    with pytest.raises(DrawError, match="no round is finished"):
        draw_test(folder, 10, "random")
    give(folder, tmp_path, right(state.open_batch(folder).requests["key"].to_pylist()))
    wait(config)
    told = draw_test(folder, 30, "active")
    assert "0 of 30 answers are there" in told[0]
    assert draw_test(folder, 30, "active") == told
    with pytest.raises(DrawError, match="test 0 is open, with 30 active draws"):
        draw_test(folder, 30, "random")
    waited, test = state.open_batches(folder)
    assert (waited.name, test.name) == ("round 0", "test 0")
    assert not set(waited.requests["row"].to_pylist()) & set(test.requests["row"].to_pylist())
    assert folder.tests()[0].about()["population"] == SIZE - 40
    with (Path(folder.batch_files("test 0").uri) / "batch.csv").open() as file:
        sheet = list(csv.DictReader(file))
    assert [row["key"] for row in sheet] == test.requests["key"].to_pylist()
    assert not any(row["predicted"] or row["probability"] for row in sheet)  # it could sway people
    keys = test.requests["key"].to_pylist()
    give(folder, tmp_path, right([*keys[:20], *waited.requests["key"].to_pylist()]))
    assert "test 0: 20 of 30 drawn images have an answer" in "\n".join(lines(folder))
    assert "labels by class (those of drawn tests, too): " in "\n".join(lines(folder))
    assert drawn.record(folder) == []
    wait(config)
    assert folder.round(1).metrics()["labels"] == 40
    assert folder.round(1).metrics()["unlabeled"] == SIZE - 40 - 30
    assert not set(keys) & set(state.open_batch(folder).requests["key"].to_pylist())
    give(folder, tmp_path, right(keys[20:]))
    (said,) = drawn.record(folder)
    assert said.startswith("test 0: the accuracy of round 0's model is")
    assert drawn.record(folder) == []
    give(folder, tmp_path, right(state.open_batch(folder).requests["key"].to_pylist()))
    assert run(config, quiet=True).rounds[-1]["labels"] == 60
    assert len(labeled(folder, folder.catalog())) == 90


def test_skipped_images_are_told_and_a_corrected_label_changes_the_estimate(config, tmp_path):
    config, folder = with_a_model(config, tmp_path)
    draw_test(folder, 20, "random")
    keys = folder.tests()[0].draws()["key"].to_pylist()
    predicted = folder.tests()[0].draws()["predicted"].to_pylist()
    give(folder, tmp_path, [*right(keys[:16]), (keys[16], "", "skip"), (keys[17], "", "unusable")])
    with pytest.raises(RunError, match="one of round 0, test 0; got test 7"):
        receive.close(folder, "test 7")
    assert receive.close(folder, "test 0").open == {"test 0": (2, 20)}
    assert [batch.name for batch in state.open_batches(folder)] == ["round 0"]
    (said,) = drawn.record(folder)
    assert "Only 16 draws have a label" in said
    good = np.mean([name == NAMES[TRUTH[int(key)]] for key, name in zip(keys[:16], predicted, strict=False)])
    assert folder.tests()[0].estimate()["accuracy"] == pytest.approx(good)
    other = next(name for name in NAMES if name not in (predicted[0], NAMES[TRUTH[int(keys[0])]]))
    give(folder, tmp_path, [(keys[0], other, "")], correct=True)
    was = predicted[0] == NAMES[TRUTH[int(keys[0])]]
    assert len(drawn.record(folder)) == (1 if was else 0)
    assert folder.tests()[0].estimate()["accuracy"] == pytest.approx(good - was / 16)


def test_only_batches_that_wait_for_answers_are_called_out_beside_a_test(config, tmp_path):
    config, folder = with_a_model(config, tmp_path)
    draw_test(folder, 6, "random")
    give(folder, tmp_path, right(folder.tests()[0].draws()["key"].to_pylist()))
    assert len(drawn.record(folder)) == 1
    (said, *_) = draw_test(folder, 5, "active")
    assert said == "waiting for labels, test 1: 0 of 5 answers are there. round 0 is out, too."
    assert "5 of 5" not in "\n".join(lines(folder))
    with pytest.raises(Waiting) as waits:
        run(config, quiet=True)
    said = str(waits.value).splitlines()[0]
    assert said == "waiting for labels, round 0: 0 of 20 answers are there. test 1 is out, too."


def test_a_draw_that_was_killed_draws_the_same_images_again(config, tmp_path):
    config, folder = with_a_model(config, tmp_path)
    draw_test(folder, 25, "active")
    before = folder.tests()[0].draws()
    files = ("requests.parquet", "draws.parquet", "draw.json")
    for gone in (files[:1], files[:2], files):  # as after a kill before each of these writes, the last one first
        for name in gone:
            folder.test(0).delete(name)
        shutil.rmtree(folder.batch_files("test 0").uri)
        draw_test(folder, 25, "active")
        assert folder.tests()[0].draws().equals(before)
        assert len(state.open_batches(folder)[1].requests) == 25


def test_a_run_in_the_middle_of_a_round_or_at_work_is_not_drawn_from(config):
    folder = RunDir(run(config, quiet=True).dir)
    with pytest.raises(DrawError, match="expected from 2 to 240 images"):
        draw_test(folder, 241, "random")
    with lease(folder), pytest.raises(RunError, match="a start of this run is at work"):
        draw_test(folder, 20, "random")
    (Path(folder.uri) / "round_03").mkdir()
    with pytest.raises(DrawError, match="round 3 is not finished"):
        draw_test(folder, 20, "random")
    assert folder.tests() == []


@pytest.mark.parametrize("strategy", ["margin", "base", "k_center", "balanced_random"])
def test_picks_that_were_not_drawn_give_no_estimate_and_the_strategy_is_named(config, strategy, capsys):
    folder = RunDir(run(replace(config, {"strategy": strategy, "rounds": 2}), quiet=True).dir)
    with pytest.raises(SystemExit):
        main(["estimate", folder.uri, "--picks"])
    assert f"strategy {strategy}: its picks are not drawn with known probabilities" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["estimate", folder.uri])
    assert "expected a test with labels, got none" in capsys.readouterr().err


def test_random_picks_give_the_accuracy_of_the_model_that_chose_them(config):
    folder = RunDir(run(replace(config, {"strategy": "random"}), quiet=True).dir)
    rows = folder.round(1).picks()["row"].to_numpy()
    accuracy = (predictions(folder, 1, config)[rows] == TRUTH[rows]).mean()
    said = picks_estimate(folder)
    assert said.startswith(f"picks of round 1: the accuracy of its model is {accuracy:.4f}")
    assert "on the 260 images" in said
    assert picks_estimate(folder, 0).startswith("picks of round 0")
    with pytest.raises(DrawError, match="got round 2"):
        picks_estimate(folder, 2)


def test_the_commands_draw_answer_and_estimate(config, tmp_path, capsys):
    folder = RunDir(run(replace(config, {"labels.cost": 0.05, "rounds": 5, "stop.money": 7}), quiet=True).dir)
    main(["label", folder.uri, "--test", "30", "--how", "active"])
    said = capsys.readouterr().out.strip()
    assert "from 30 active draws" in said
    said = said.splitlines()[-1]
    main(["estimate", folder.uri])
    assert capsys.readouterr().out.strip() == said
    main(["forecast", folder.uri, "--measure", "labeled_normalised_entropy", "--target", "0.999"])
    told = capsys.readouterr().out
    assert "at 0.05 per label" in told or "probably never reached" in told
    assert said in told
    assert json.loads((Path(folder.uri) / "tests" / "test_00" / "estimate.json").read_text())["population"] == 200
    with pytest.raises(SystemExit):
        main(["label", folder.uri, "--test", "30", "--close"])
    assert "or --test alone" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["label", folder.uri, "--close", "--how", "active"])
    assert "--how with --test" in capsys.readouterr().err


def test_the_estimate_is_in_the_report_the_model_card_and_the_status_of_a_run_without_test_images(
    config, tmp_path, capsys, monkeypatch
):
    folder = RunDir(run(config, quiet=True).dir)
    export(folder, str(tmp_path / "bare"), "none", "csv")
    assert "There was no test set." in (tmp_path / "bare" / "README.md").read_text()
    assert "labels by class: " in "\n".join(lines(folder))
    draw_test(folder, 30, "active")
    said = drawn.tests(folder)[0].sentence
    assert "from 30 active draws, each weighted by how likely it was to be drawn (LURE, " in said
    assert "labels by class (those of drawn tests, too): " in "\n".join(lines(folder))
    reads, read = list[str](), DrawDir.draws
    with monkeypatch.context() as counted:
        counted.setattr(DrawDir, "draws", lambda place: reads.append(place.uri) or read(place))
        printed = report([folder.uri])
    assert len(reads) == 1, "the report read the draws again"
    assert said in printed
    assert "No accuracy was measured after each round, because" in printed
    assert markdown(said) in (Path(folder.uri) / "report.md").read_text()
    export(folder, str(tmp_path / "out"), "none", "csv")
    card = (tmp_path / "out" / "README.md").read_text()
    assert markdown(said) in card
    assert "The accuracy was estimated from labels of drawn images, because there was no test set." in card
    assert "Accuracy by round" not in card
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["forecast", folder.uri])
    told = capsys.readouterr()
    assert said in told.out
    assert "expected finished rounds with test_top1 or validation_top1, got 3 without" in told.err
    for todo in ("data.test_root", "split.test_share", "split.val_size", "label RUN --test N", "estimate RUN"):
        assert todo.replace("RUN", folder.uri) in told.err


def test_random_draws_need_no_weights_and_the_sentence_has_none(config):
    folder = RunDir(run(replace(config, {"rounds": 2}), quiet=True).dir)
    (said,) = draw_test(folder, 30, "random")
    assert said.endswith("Estimated from 30 random draws.")


def test_every_strategy_says_whether_its_picks_are_drawn():
    from alray import STRATEGIES

    says = {name: kind.probabilities for name, kind in STRATEGIES.items()}
    assert [name for name, says_so in says.items() if says_so.__qualname__ != "Strategy.probabilities"] == ["random"]
