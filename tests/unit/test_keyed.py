from __future__ import annotations

import numpy as np
import pytest

from alray import keyed


def test_priorities_are_a_function_of_seed_stream_and_row() -> None:
    rows = np.array([0, 5, 2**40, 7])
    alone = np.concatenate([keyed.priorities(3, "random/1", rows[i : i + 1]) for i in range(4)])
    assert np.array_equal(keyed.priorities(3, "random/1", rows), alone)
    for seed, stream in [(4, "random/1"), (3, "random/2")]:
        assert not np.array_equal(keyed.priorities(seed, stream, rows), alone)


@pytest.mark.parametrize("bit", [0, 1, 31, 63])
def test_every_bit_is_a_fair_coin(bit: int) -> None:
    bits = (keyed.priorities(0, "coin", np.arange(40_000)) >> np.uint64(bit)) & np.uint64(1)
    assert abs(bits.mean() - 0.5) < 0.0125  # five standard deviations
    assert abs(np.corrcoef(bits[:-1], bits[1:])[0, 1]) < 0.025


def test_streams_are_independent() -> None:
    rows = np.arange(20_000)
    a, b = (keyed.priorities(seed, "x", rows) / 2**64 for seed in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.035


def test_order_is_a_permutation_and_generators_are_their_own() -> None:
    assert sorted(keyed.order(0, "o", np.arange(100))) == list(range(100))
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    assert keyed.generator(0, "a").random() == keyed.generator(0, "a").random()
    assert keyed.generator(0, "a").random() != keyed.generator(0, "b").random()
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[arg-type]


def test_published_value_stays() -> None:
    """Picks of old runs must be reproducible: the hash is a contract."""
    assert keyed.priorities(0, "random/0", np.array([0, 1, 10**12])).tolist() == [
        1517314164034216845,
        17356826429581718549,
        6556232640168798621,
    ]
