"""Oracles: requests carry what somebody needs to answer, and answers that are no labels are refused."""

from __future__ import annotations

from dataclasses import replace as replace_in
from pathlib import Path

import numpy as np
import pytest
from pins import CONFIG, features

from alray import ConfigError, replace, run
from alray.data.catalog import Catalog, index_arrays
from alray.data.oracle import Answers, HiddenLabels, OracleError, Requests, Status, ask

MASKS = np.full(2, Status.MASK, np.uint8)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    keys = ["b", "a", "d", "c"]
    return index_arrays(np.zeros((4, 2, 2), np.uint8), ["x", "y", "x", "y"], str(tmp_path / "c"), keys=keys)


def test_a_request_names_the_image_in_the_order_asked(catalog: Catalog) -> None:
    requests = Requests.of(catalog, np.array([3, 0]), 2, score=np.array([0.5, 0.25]))
    assert (requests.rows.tolist(), requests.keys, requests.round) == ([3, 0], ["d", "a"], 2)
    assert all(uri.endswith(".parquet") for uri in requests.uris)
    assert requests.score.tolist() == [0.5, 0.25]
    assert requests.predicted.tolist() == [-1, -1]
    assert np.isnan(requests.probability).all()


def test_hidden_labels_answer_in_the_order_asked_and_refuse_what_the_source_does_not_know(catalog: Catalog) -> None:
    oracle = HiddenLabels(np.array([4, 3, -1, 1], np.int32))
    assert ask(oracle, Requests.of(catalog, np.array([3, 0]))).tolist() == [1, 4]
    with pytest.raises(OracleError, match="first row 2"):
        ask(oracle, Requests.of(catalog, np.array([0, 2])))


def test_a_mask_counts_as_a_label(catalog: Catalog) -> None:
    oracle = HiddenLabels(np.zeros(4, np.int32), Status.MASK)
    assert ask(oracle, Requests.of(catalog, np.array([1, 2]))).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (Answers.of([1, None]), "got 1 not yet; the first is c"),
        (Answers(np.array([Status.SKIP, Status.UNUSABLE], np.uint8), np.zeros(2, np.int32)), "1 skip, 1 unusable"),
        (Answers.of([1]), "expected one answer for each of 2 requests"),
        (replace_in(Answers.of([1, 0]), masks=[None]), "expected one answer for each of 2 requests"),
        (
            replace_in(Answers.of([1, 0]), masks=[None, b"x"]),
            "None for the others, got bytes for the answer LABEL to c",
        ),
        (
            Answers(MASKS, np.zeros(2, np.int32), masks=[b"x", None]),
            "of a PNG .* got NoneType for the answer MASK to c",
        ),
    ],
)
def test_answers_that_are_no_labels_are_refused_and_counted(catalog: Catalog, answers: Answers, message: str) -> None:
    class Says:
        def answer(self, requests: Requests) -> Answers:
            return answers

    with pytest.raises(OracleError, match=message):
        ask(Says(), Requests.of(catalog, np.array([0, 2])))


def test_a_run_asks_with_what_its_model_predicts(tmp_path: Path) -> None:
    """In every query the model's class and its probability come along, and the strategy's score."""
    features(tmp_path / "features.npz")
    label = np.load(tmp_path / "features.npz")["label"]
    asked: list[Requests] = []

    class Noted:
        def answer(self, requests: Requests) -> Answers:
            asked.append(requests)
            return Answers.of(label[requests.rows])

    changes = {"root": str(tmp_path / "runs"), "data.root": str(tmp_path / "features.npz"), "strategy": "confidence"}
    mine = run(replace(CONFIG, changes), oracle=Noted(), quiet=True)
    assert [requests.round for requests in asked] == [None, 0, 1]
    assert [len(requests) for requests in asked] == [25, 12, 12]
    for requests in asked[1:]:
        odds = (1 - requests.probability) / requests.probability  # confidence: the logarithm of these
        np.testing.assert_allclose(np.log(odds), requests.score, rtol=1e-4, atol=1e-6)
        assert set(requests.predicted.tolist()) <= {0, 1, 2, 3}
    other = run(replace(CONFIG, {**changes, "root": str(tmp_path / "others")}), quiet=True)
    assert [one["labeled_set"] for one in mine.rounds] == [one["labeled_set"] for one in other.rounds]


@pytest.mark.parametrize("answer", [[1, 0], None, np.array([1, 0])])
def test_what_is_no_answer_is_refused_by_the_name_of_the_oracle(catalog: Catalog, answer: object) -> None:
    class Mine:
        def answer(self, requests: Requests) -> object:
            return answer

    with pytest.raises(OracleError, match=r"^Mine\.answer: expected Answers, as Answers\.of\(.*got "):
        ask(Mine(), Requests.of(catalog, np.array([0, 2])))  # type: ignore[arg-type]


def test_a_class_name_is_no_label_and_a_class_is_no_oracle(tmp_path: Path) -> None:
    with pytest.raises(OracleError, match="expected class numbers or None, got 'cat'"):
        Answers.of(["cat"])  # type: ignore[list-item]
    features(tmp_path / "features.npz")
    config = replace(CONFIG, {"root": str(tmp_path / "runs"), "data.root": str(tmp_path / "features.npz")})
    with pytest.raises(ConfigError, match=r"oracle: expected an object, got the class HiddenLabels; call it"):
        run(config, oracle=HiddenLabels)  # type: ignore[arg-type]
