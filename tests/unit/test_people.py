"""People give the labels: a run waits, takes what is good, goes on, and never asks twice."""

from __future__ import annotations

import csv
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alray.cli import main
from alray.config import (
    DataConfig,
    LabelConfig,
    ModelConfig,
    ResourceConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
    replace,
)
from alray.data.oracle import Answers, OracleError, Requests, Status
from alray.labeling import receive, state
from alray.labeling.deliveries import LabelError
from alray.labeling.desk import Waiting
from alray.labeling.ledger import Ledger
from alray.labeling.standing import lines
from alray.prepare import begin, check
from alray.provenance import find_run
from alray.report import report
from alray.rounds import run
from alray.rundir import RunDir, RunError

NAMES = ["apple", "pear", "plum"]


def truth_of(keys):
    """The class of an image, as people see it: the number of its key modulo three."""
    return {key: NAMES[int(key.rsplit("/", 1)[-1]) % 3] for key in keys}


@pytest.fixture
def config(tmp_path):
    """60 unlabeled rows in three clusters."""
    rng = np.random.default_rng(0)
    centers = 3 * np.eye(3, 8)
    features = (centers[np.arange(60) % 3] + rng.standard_normal((60, 8))).astype(np.float32)
    np.savez(tmp_path / "pool.npz", features=features, label=np.full(60, -1))
    return RunConfig(
        name="people",
        root=str(tmp_path / "runs"),
        rounds=3,
        budget=6,
        strategy="margin",
        top_k=(),
        data=DataConfig(root=str(tmp_path / "pool.npz"), classes=tuple(NAMES)),
        split=SplitConfig(seed_set_size=6),
        labels=LabelConfig(oracle="files", wait="exit"),
        model=ModelConfig(),
        train=TrainConfig(mode="linear", epochs=3, lr=1.0),
        resources=ResourceConfig(select_workers="process"),
    )


def folder_of(config):
    (folder,) = Path(config.root).glob(f"{config.name}-*")
    return RunDir(str(folder))


def wait(config):
    with pytest.raises(Waiting) as stopped:
        run(config, quiet=True)
    return str(stopped.value)


def batch_of(folder):
    batch = state.open_batch(folder)
    assert batch is not None
    return batch, batch.requests["key"].to_pylist()


def give(folder, tmp_path, answers, **options):
    """Deliver answers, (key, label, status) each, as people do: in a CSV."""
    path = tmp_path / f"labels-{len(list(tmp_path.iterdir()))}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("key", "label", "status"), *answers])
    return receive.receive(folder, [str(path)], **options)


def right(keys):
    return [(key, name, "") for key, name in truth_of(keys).items()]


def test_a_run_on_unlabeled_rows_asks_waits_and_goes_on_to_its_end(config, tmp_path):
    asked = []
    for number, size in enumerate((6, 6, 6)):
        said = wait(config)
        assert f"0 of {size} answers are there" in said
        assert "alray label" in said
        folder = folder_of(config)
        batch, keys = batch_of(folder)
        assert len(keys) == size
        assert (Path(folder.batch_files(batch.name).uri) / "batch.csv").exists()
        asked += keys
        give(folder, tmp_path, right(keys[:2]))
        assert "2 of 6 answers are there" in wait(config)
        assert batch_of(folder)[1] == keys, number
        give(folder, tmp_path, right(keys[2:]))
    result = run(config, quiet=True)
    assert len(set(asked)) == len(asked) == 18
    assert [one["labels"] for one in result.rounds] == [6, 12, 18]
    assert [one["labels_bought"] for one in result.rounds] == [0, 6, 12]
    rows, labels = folder.seed()
    bought = [*zip(rows.tolist(), labels.tolist(), strict=True)]
    for step in folder.bought():
        bought += zip(step.rows.tolist(), step.labels.tolist(), strict=True)
    keys = folder.catalog().keys().to_pylist()
    assert all(NAMES[label] == truth_of([keys[row]])[keys[row]] for row, label in bought)
    assert state.open_batch(folder) is None


def test_classes_can_be_named_for_a_catalog_that_was_made_without_any(config, tmp_path):
    """No row of it has a label, so names change no row. They are part of the run: other names are another run."""
    catalog = str(tmp_path / "catalog")
    main(["index", config.data.root, "--out", catalog])
    config = replace(config, {"data.catalog": catalog, "data.classes": (*NAMES, " kiwi"), "rounds": 2})
    wait(config)
    folder = folder_of(config)
    assert state.classes(folder) == list(folder.catalog().classes) == [*NAMES, "kiwi"]
    give(folder, tmp_path, right(batch_of(folder)[1]))
    wait(config)
    assert folder.round(0).metrics()["labeled_set"]["counts"][3] == 0
    give(folder, tmp_path, right(batch_of(folder)[1]))
    assert run(config, quiet=True).rounds[-1]["labels"] == 12
    assert find_run(replace(config, {"data.classes": tuple(NAMES)}), folder.catalog()).uri != folder.uri
    with pytest.raises(ValueError, match="expected different names, got 'plum' more than once"):
        check(replace(config, {"data.classes": (*NAMES, "plum ")}))


def test_people_are_asked_for_no_more_labels_than_a_limit_allows(config, tmp_path):
    config = replace(config, {"stop.labels": 10})
    wait(config)
    folder = folder_of(config)
    give(folder, tmp_path, right(batch_of(folder)[1]))
    wait(config)
    assert len(batch_of(folder)[1]) == 4
    give(folder, tmp_path, right(batch_of(folder)[1]))
    result = run(config, quiet=True)
    assert [one["labels"] for one in result.rounds] == [6, 10]
    assert "the run is finished early: the labeled set has 10 labels" in lines(folder)[-1]


def test_skipped_images_are_not_asked_for_in_the_next_round_and_unusable_ones_never(config, tmp_path):
    wait(config)
    folder = folder_of(config)
    give(folder, tmp_path, right(batch_of(folder)[1]))
    wait(config)
    first = batch_of(folder)[1]
    give(folder, tmp_path, [*right(first[2:]), (first[0], "", "skip"), (first[1], "", "unusable")])
    wait(config)
    said = lines(folder)
    assert f"skipped (a later round may ask for them again): 1 image, {first[0]}" in said
    assert f"unusable (out of the pool): 1 image, {first[1]}" in said
    count = Counter(name for status, name in state.given(folder).values() if status == Status.LABEL)
    assert sum(count.values()) == 10
    (of_class,) = [line for line in said if line.startswith("labels by class: ")]
    assert sorted(of_class.removeprefix("labels by class: ").split(", ")) == [
        f"{name}: {count[name]}" for name in NAMES
    ]
    second = batch_of(folder)[1]
    assert not {first[0], first[1]} & set(second)
    give(folder, tmp_path, right(second))
    result = run(config, quiet=True)
    assert [one["labels"] for one in result.rounds] == [6, 10, 16]
    assert [one["unlabeled"] for one in result.rounds] == [54, 49, 43]


def test_an_answer_of_an_earlier_round_is_known_while_the_run_asks_for_other_images(config, tmp_path):
    """It was asked for, so what is missing is --correct, and the same answer once more is no fault."""
    wait(config)
    folder = folder_of(config)
    first = batch_of(folder)[1]
    give(folder, tmp_path, right(first))
    wait(config)
    old, truth = first[0], truth_of(first)[first[0]]
    other = next(name for name in NAMES if name != truth)
    for extra in (False, True):
        with pytest.raises(LabelError, match=f"{old} was answered with {truth}; --correct replaces an answer"):
            give(folder, tmp_path, [(old, other, "")], extra=extra)
    again = give(folder, tmp_path, right([*first, *batch_of(folder)[1]]))
    assert again.taken == 6
    assert again.notes == [f"6 images have the given answer already: {', '.join(first[:5])} and 1 more"]


def test_a_skipped_image_can_be_asked_for_again_and_then_needs_an_answer(config, tmp_path):
    features = np.random.default_rng(0).standard_normal((18, 8)).astype(np.float32)
    np.savez(tmp_path / "pool.npz", features=features, label=np.full(18, -1))  # every image is asked for in the end
    wait(config)
    folder = folder_of(config)
    first = batch_of(folder)[1]
    give(folder, tmp_path, [*right(first[1:]), (first[0], "", "skip")])
    wait(config)
    second = batch_of(folder)[1]
    assert first[0] not in second
    give(folder, tmp_path, right(second))
    others = sorted(set(folder.catalog().keys().to_pylist()) - {*first, *second})
    give(folder, tmp_path, right(others[:1]), extra=True)  # six images have no label now
    assert "0 of 6 answers are there" in wait(config)
    batch, third = batch_of(folder)
    assert first[0] in third
    assert first[0] in batch.missing(Ledger(folder.deliveries))
    give(folder, tmp_path, right(third))
    result = run(config, quiet=True)
    assert [one["labels"] for one in result.rounds] == [5, 12, 18]


def test_a_batch_can_be_closed_before_every_answer_is_there(config, tmp_path):
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    give(folder, tmp_path, right(keys[:4]))
    assert receive.close(folder).open == {"start": (2, 6)}
    assert state.open_batch(folder) is None
    with pytest.raises(RunError, match="waits for no labels"):
        give(folder, tmp_path, right(keys[4:]))
    wait(config)
    assert folder.seed()[0].size == 4
    assert not set(keys[4:]) & set(batch_of(folder)[1])
    with pytest.raises(RunError, match="waits for no labels"):
        give(RunDir(str(tmp_path / "runs" / "people")), tmp_path, [])


def test_a_corrected_label_counts_from_the_next_round_on_and_the_old_one_stays_on_record(config, tmp_path):
    wait(config)
    folder = folder_of(config)
    seed = batch_of(folder)[1]
    wrong = [(seed[0], NAMES[(NAMES.index(truth_of(seed)[seed[0]]) + 1) % 3], "")]
    give(folder, tmp_path, [*wrong, *right(seed[1:])])
    wait(config)
    with pytest.raises(LabelError, match="was answered with plum; --correct"):
        give(folder, tmp_path, right(seed[:1]))
    with pytest.raises(LabelError, match="has no label to correct"):
        give(folder, tmp_path, right([key for key in folder.catalog().keys().to_pylist() if key not in seed][-1:]),
             correct=True)  # fmt: skip
    give(folder, tmp_path, right(seed[:1]), correct=True)
    give(folder, tmp_path, right(batch_of(folder)[1]))
    wait(config)
    counts = folder.round(1).metrics()["labeled_set"]["counts"]
    truth = [*truth_of(seed).values(), *truth_of(state.given(folder).keys() - set(seed)).values()]
    assert counts == [truth.count(name) for name in NAMES]
    assert state.given(folder)[seed[0]] == (Status.LABEL, truth_of(seed)[seed[0]])


def test_labels_nobody_asked_for_are_taken_with_extra_and_used(config, tmp_path):
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    other = next(key for key in folder.catalog().keys().to_pylist() if key not in keys)
    give(folder, tmp_path, right([other]), extra=True)
    give(folder, tmp_path, right(keys))
    wait(config)
    assert folder.round(0).metrics()["labels"] == 7
    assert other not in batch_of(folder)[1]


def test_one_bad_line_means_that_nothing_is_written_unless_the_good_ones_are_wanted(config, tmp_path):
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    sent = [*right(keys[:3]), (keys[3], "aple", ""), ("nowhere", "pear", "")]
    with pytest.raises(LabelError) as refused:
        give(folder, tmp_path, sent)
    assert "2 lines cannot be used" in str(refused.value)
    assert "did you mean 'apple'?" in str(refused.value)
    assert ":5: 'aple'" in str(refused.value)
    assert len(batch_of(folder)[0].missing(Ledger(folder.deliveries))) == 6
    got = give(folder, tmp_path, sent, take_good=True)
    assert (got.taken, len(got.refused), got.open) == (3, 2, {"start": (3, 6)})


def test_new_classes_come_where_they_are_allowed(config, tmp_path):
    config = replace(config, {"data.classes": (), "labels.new_classes": "allow", "name": "grow"})
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    give(folder, tmp_path, [(key, "apple" if at % 2 else "pear", "") for at, key in enumerate(keys)])
    wait(config)
    assert state.classes(folder) == ["pear", "apple"]
    keys = batch_of(folder)[1]
    give(folder, tmp_path, [(keys[0], "plum", ""), *((key, "apple", "") for key in keys[1:])])
    wait(config)
    counts = [folder.round(number).metrics()["labeled_set"]["counts"] for number in (0, 1)]
    assert [len(one) for one in counts] == [2, 3]
    give(folder, tmp_path, right(batch_of(folder)[1]))
    result = run(config, quiet=True)
    assert result.rounds[-1]["labels"] == 18
    report([result.dir], str(tmp_path / "report"))
    assert "plum" in (tmp_path / "report" / "report.html").read_text()


def test_a_list_of_classes_is_closed_unless_new_ones_may_always_come(config, tmp_path):
    config = replace(config, {"labels.new_classes": "allow", "name": "closed"})
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    before = sorted(folder.names())
    with pytest.raises(LabelError) as refused:
        give(folder, tmp_path, [(keys[0], "aple", "")])
    assert "'aple' is not a class (did you mean 'apple'?); expected one of apple, " in str(refused.value)
    assert "(data.classes lists them all; in another run --labels.new-classes always lets others come)" in str(
        refused.value
    )
    assert sorted(folder.names()) == before
    assert state.classes(folder) == list(NAMES)


def test_a_class_in_the_other_unicode_form_is_shown_so_that_people_see_it(config, tmp_path):
    config = replace(config, {"data.classes": ("\xe4pfel", "pear", "plum"), "name": "forms"})
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    said = "\n".join(give(folder, tmp_path, [(keys[0], "a\u0308pfel", "")]).notes)
    assert r"'a\u0308pfel' was read as the class '\xe4pfel' (1 time)" in said


def test_a_class_that_was_a_slip_leaves_the_list_when_it_is_corrected_before_a_round_learns_it(config, tmp_path):
    config = replace(config, {"labels.new_classes": "always", "name": "slip"})
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    sent = right(keys)
    slip, kiwi = sent[0], (sent[1][0], "kiwi", "")
    give(folder, tmp_path, [(slip[0], "aple", ""), kiwi, *sent[2:]])
    assert state.classes(folder) == [*NAMES, "aple", "kiwi"]
    told = give(folder, tmp_path, [slip], correct=True).notes
    assert told == ["no image has the class aple any more; it leaves the list of classes"]
    assert state.classes(folder) == [*NAMES, "kiwi"]
    wait(config)
    assert len(folder.round(0).metrics()["labeled_set"]["counts"]) == 4
    told = give(folder, tmp_path, [sent[1]], correct=True).notes
    assert state.classes(folder) == [*NAMES, "kiwi"], "a round was trained with it, so that its number stays"
    said = "no image has the class kiwi any more; it keeps its place"
    assert len(told) == 1 and said in told[0]
    assert any(said in line for line in lines(folder))
    assert give(folder, tmp_path, [(keys[2], sent[3][1], "")], correct=True).notes == [], "it was told"
    give(folder, tmp_path, [sent[2]], correct=True)
    last = (batch_of(folder)[1][0], "melon", "")
    give(folder, tmp_path, [last, *right(batch_of(folder)[1][1:])])
    wait(config)
    counts = folder.round(1).metrics()["labeled_set"]["counts"]
    assert len(counts) == 5 and counts[3:] == [0, 1]
    assert state.given(folder)[last[0]] == (Status.LABEL, "melon")
    give(folder, tmp_path, right(batch_of(folder)[1]))
    result = run(config, quiet=True)
    report([result.dir], str(tmp_path / "report"))
    assert said in (tmp_path / "report" / "report.html").read_text()


def test_a_new_class_may_be_a_slip_for_another_new_one_that_more_images_have(config, tmp_path):
    config = replace(config, {"data.classes": (), "labels.new_classes": "allow"})
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    named = [
        (keys[0], "aple", ""),
        *((key, "apple", "") for key in keys[1:4]),
        *((key, "pear", "") for key in keys[4:]),
    ]
    notes = give(folder, tmp_path, named).notes
    asks = [
        "NEW CLASS 'aple', with 1 image (did you mean 'apple'?)",
        "NEW CLASS 'apple', with 3 images.",
        "NEW CLASS 'pear'",
    ]
    assert [note.startswith(ask) for note, ask in zip(notes, asks, strict=True)] == [True] * 3, notes


def test_an_empty_delivery_is_refused_and_status_names_what_is_missing(config, tmp_path):
    wait(config)
    folder = folder_of(config)
    keys = batch_of(folder)[1]
    with pytest.raises(LabelError, match="no line with a label"):
        give(folder, tmp_path, [(key, "", "") for key in keys])
    give(folder, tmp_path, right(keys[:4]))
    assert f"without an answer: {keys[4]}, {keys[5]}" in lines(folder)


def test_labels_that_are_there_are_the_seed_set_and_nobody_is_asked_for_them(config, tmp_path):
    labels = np.where(np.arange(60) < 20, np.arange(60) % 3, -1)
    with np.load(tmp_path / "pool.npz") as arrays:
        np.savez(tmp_path / "some.npz", features=arrays["features"], label=labels)
    config = replace(config, {
        "data.root": str(tmp_path / "some.npz"), "split.seed_set_how": "given", "split.val_size": 6,
        "split.val_how": "labeled", "data.classes": ("0", "1", "2"),
    })  # fmt: skip
    wait(config)
    folder = folder_of(config)
    assert folder.round(0).metrics()["labels"] == 14
    assert folder.round(0).metrics()["validation_labels"] == 6
    assert all(int(key) >= 20 for key in (key.rsplit("/", 1)[-1] for key in batch_of(folder)[1]))


def test_a_validation_set_is_asked_for_first_and_counted_apart(config, tmp_path):
    config = replace(config, {"split.val_size": 5, "split.val_how": "random"})
    wait(config)
    folder = folder_of(config)
    batch, keys = batch_of(folder)
    assert batch.requests["role"].to_pylist() == ["validation"] * 5 + ["seed set"] * 6
    give(folder, tmp_path, right(keys))
    wait(config)
    metrics = folder.round(0).metrics()
    assert (metrics["labels"], metrics["validation_labels"], metrics["labels_bought"]) == (6, 5, 0)


class Halves:
    """Answers half of what it is asked for, and notes every request."""

    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    def answer(self, requests: Requests) -> Answers:
        keys = requests.keys[: max(1, len(requests) // 2)]
        self.asked += keys
        known = [NAMES.index(name) for name in truth_of(keys).values()]
        return Answers.of([*known, *[None] * (len(requests) - len(known))])


def test_a_run_that_polls_says_what_it_waits_for_once_and_then_how_far_it_is(config, tmp_path, monkeypatch):
    config = replace(config, {"labels.wait": "poll", "labels.poll_seconds": 0.5, "rounds": 1})
    said: list[str] = []

    def rest(seconds):
        """People work while the run sleeps."""
        folder = folder_of(config)
        keys = batch_of(folder)[1]
        give(folder, tmp_path, right([key for key in keys if key not in state.given(folder)][:4]))

    monkeypatch.setattr("alray.labeling.desk.time.sleep", rest)
    begin(check(config), None, said.append)
    folder = folder_of(config).uri
    assert said[0].splitlines()[0] == "waiting for labels, start: 0 of 6 answers are there."
    assert f"fill in the labels in batch.csv. Then: alray label {folder} FILE" in said[0], "embeddings have no sheet"
    assert "looks again every 0.5 s and goes on by itself. It can be stopped with Ctrl-C" in said[0]
    assert said[1:] == [
        "waiting for labels, start: 4 of 6 answers are there.", "start: the batch is complete, and the run goes on.",
    ]  # fmt: skip


def test_a_run_that_polls_says_news_of_its_oracle_once(config):
    notes = ["label them", "label them", "label them\nno answer to x: expected y", "the server is away", "label them"]
    config, said = replace(config, {"labels.wait": "poll", "labels.poll_seconds": 0.01, "rounds": 1}), []

    class Talks:
        def answer(self, requests):
            if not notes:
                return Answers.of(np.zeros(len(requests), np.int64))
            nobody = Answers.of([None] * len(requests))
            return Answers(nobody.status, nobody.labels, note=notes.pop(0))

    begin(check(config, None, Talks()), Talks(), said.append)
    line = "waiting for labels, start: 0 of 6 answers are there."
    assert said[0].startswith(f"{line}\nlabel them\nThe run looks again every 0.01 s")
    news = ["no answer to x: expected y", "the server is away", "label them"]
    assert said[1:] == [*(f"{line}\n{one}" for one in news), "start: the batch is complete, and the run goes on."]


def test_an_oracle_that_answers_in_parts_is_never_asked_for_the_same_image_again(config):
    config = replace(config, {"labels.oracle": "hidden", "labels.wait": "poll", "labels.poll_seconds": 0.01})
    oracle = Halves()
    result = run(config, oracle=oracle, quiet=True)
    assert len(oracle.asked) == len(set(oracle.asked)) == 18
    assert result.rounds[-1]["labels"] == 18


class Named:
    """Answers all but the last image by name, and says who answered."""

    def answer(self, requests: Requests) -> Answers:
        names = [*truth_of(requests.keys[:-1]).values(), ""]
        status = [*([Status.LABEL] * (len(names) - 1)), Status.SKIP]
        return Answers(np.array(status, np.uint8), np.zeros(len(names), np.int32), names, ["ann"] * len(names))


def test_answers_by_name_are_on_record_with_who_gave_them_although_all_came_at_once(config):
    result = run(config, oracle=Named(), quiet=True)
    said = [line for delivery in Ledger(RunDir(result.dir).deliveries).read() for line in delivery.answers]
    assert len(said) == 18
    assert {line.annotator for line in said} == {"ann"}
    assert {line.key: line.label for line in said if line.label} == truth_of(line.key for line in said if line.label)
    assert result.rounds[-1]["labels"] == 15


class Absent:
    """Answers nothing, and says why."""

    def answer(self, requests: Requests) -> Answers:
        nothing = np.zeros(len(requests), np.uint8)
        return Answers(nothing, nothing.astype(np.int32), note="Ask Ann: she has the key.")


def test_status_tells_what_the_oracle_says_that_people_have_to_do(config):
    config = replace(config, {"labels.oracle": f"{__name__}:Absent"})
    assert "Ask Ann" in wait(config)
    said = lines(folder_of(config))
    assert "Ask Ann: she has the key." in said
    assert said[-1].startswith("next: alray run")


class Wild:
    """Gives a class that does not exist."""

    def answer(self, requests: Requests) -> Answers:
        return Answers.of([7] * len(requests))


def answer_one(requests: Requests) -> Answers:
    """Is no oracle, but what its method should be."""
    return Answers.of([0] * len(requests))


def given_a_name(make: Callable[[str], Wild]) -> Callable[[], Wild]:
    """A decorator that gives a function its argument."""

    @functools.wraps(make)
    def made() -> Wild:
        return make("a name")

    return made


@given_a_name
def decorated(name: str) -> Wild:
    return Wild()


def nothing() -> None:
    """Makes no oracle."""


def test_an_own_oracle_is_named_by_its_import_path_and_its_answers_are_checked(config):
    for name in ("Wild", "decorated"):
        config = replace(config, {"labels.oracle": f"{__name__}:{name}"})
        with pytest.raises(OracleError, match="expected class numbers from 0 to 2, got 7"):
            run(config, quiet=True)
    with pytest.raises(ValueError, match="cannot be imported"):
        run(replace(config, {"labels.oracle": f"{__name__}:Nobody"}), quiet=True)
    for name, says in (
        ("answer_one", "a function without arguments that returns an oracle.*'requests'"),
        ("nothing", "answer.requests., .*:nothing gave NoneType"),
    ):
        with pytest.raises(ValueError, match=says):
            run(replace(config, {"labels.oracle": f"{__name__}:{name}"}), quiet=True)
    with pytest.raises(ValueError, match="expected hidden, files"):
        run(replace(config, {"labels.oracle": "file"}), quiet=True)


def test_the_commands_label_and_status_say_what_to_do(config, tmp_path, capsys):
    wait(config)
    folder = folder_of(config)
    main(["status", folder.uri])
    said = capsys.readouterr().out
    assert "waiting for labels, start: 0 of 6 images have an answer" in said
    assert f"next: alray label {folder.uri} FILE" in said
    assert said.count("alray label") == said.count(folder.batch_files("start").uri) == 1, "each is said once"
    batch, keys = batch_of(folder)
    filled = Path(folder.batch_files(batch.name).uri) / "batch.csv"
    rows = list(csv.DictReader(filled.open()))
    with filled.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "label": truth_of([row["key"]])[row["key"]].upper()} for row in rows)
    main(["label", folder.uri, str(filled)])
    said = capsys.readouterr().out
    assert "6 answers taken, 0 lines refused" in said
    assert "was read as the class" in said
    assert "the batch is complete" in said
    with pytest.raises(SystemExit) as stopped:
        main(["run", f"{folder.uri}/config.json"])
    assert stopped.value.code == 75
    captured = capsys.readouterr()
    assert "waiting for labels, round 0" in captured.err
    assert "error" not in captured.err
    main(["label", folder.uri, "--close"])
    assert "6 of its 6 images got no answer" in capsys.readouterr().out
    assert keys != batch_of(folder)[1] if state.open_batch(folder) else True
    assert find_run(config, folder.catalog()).uri == folder.uri
