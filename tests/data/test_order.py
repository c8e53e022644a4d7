"""The order of an epoch is a permutation that depends on seed and epoch alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epochal.data.order import Batches, block_order, epoch_order

SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 10_000)


@given(st.integers(1, 3000), SEEDS, EPOCHS)
def test_every_example_comes_exactly_once(n: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(epoch_order(n, seed, epoch)), np.arange(n))


@given(st.integers(1, 500), st.integers(1, 60), SEEDS, EPOCHS)
def test_block_order_moves_whole_batches_and_shuffles_inside_them(n: int, m: int, seed: int, epoch: int) -> None:
    order = block_order(n, m, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(n))
    for start in range(0, n, m):
        rows = np.sort(order[start : start + m])
        assert np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))


@given(
    st.integers(1, 40),
    st.integers(1, 15),
    st.sampled_from([True, False, "batch"]),
    st.one_of(st.none(), st.integers(1, 7)),
)
def test_a_run_goes_on_with_the_batches_it_had_before(n: int, m: int, shuffle: bool | str, steps: int | None) -> None:
    def taken(batches: Batches, epoch: int) -> list[list[int]]:
        (table,) = batches.tables(epoch)
        return [table.rows[i, : table.sizes[i]].tolist() for i in range(table.first, len(table.rows))]

    whole = Batches(n, m, shuffle, 3, steps)
    length = whole.length(0)
    assert length is not None
    for batch in {0, 1, length // 2, length - 1, length}:  # the last one is behind the epoch, its validation before it
        again = whole.at(whole.place(2, batch))
        assert again.length(2) == length
        assert taken(again, 2) == taken(whole, 2)[batch:]
        assert [taken(again, epoch) for epoch in (3, 4)] == [taken(whole, epoch) for epoch in (3, 4)]


def test_sizes_where_another_library_repeats_examples() -> None:
    """Grain's index shuffle is not a permutation at these sizes."""
    for n in (65_537, 262_145, 1_048_577):
        assert len(np.unique(epoch_order(n, 0, 0))) == n


def test_seed_and_epoch_are_not_added_up() -> None:
    assert not np.array_equal(epoch_order(1000, 0, 1), epoch_order(1000, 1, 0))
    assert not np.array_equal(epoch_order(1000, 0, 0), epoch_order(1000, 0, 1))
    assert np.array_equal(epoch_order(1000, 5, 7), epoch_order(1000, 5, 7))


def test_all_orders_of_few_examples_are_about_equally_likely() -> None:
    counts = np.zeros((3, 3))
    for epoch in range(6000):
        counts[np.arange(3), epoch_order(3, 1, epoch)] += 1
    # Each cell is binomial(6000, 1/3): five standard deviations.
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(6000 * 2 / 9)


@given(st.data(), st.integers(1, 60), st.integers(1, 20), st.sampled_from([True, False, "batch"]))
def test_a_batch_is_found_again_by_its_number(data: st.DataObject, n: int, m: int, shuffle: bool | str) -> None:
    steps = data.draw(st.one_of(st.none(), st.integers(1, 12)))
    batches = Batches(n, m, shuffle, 7, steps)

    def taken(epoch: int, batch: int) -> np.ndarray:
        (table,) = batches.tables(epoch)
        return table.rows[batch, : table.sizes[batch]]

    assert batches.length(0) is not None
    for epoch in range(3):
        for batch in range(batches.length(0)):
            assert np.array_equal(batches.rows(epoch, batch), taken(epoch, batch))
    # A run that goes on knows the batches of its pass that came before, or says that it does not.
    at = data.draw(st.integers(0, batches.length(0) - 1))
    again = batches.at(batches.place(1, at))
    for batch in range(batches.length(0)):
        found = again.rows(1, batch)
        assert found is None or np.array_equal(found, taken(1, batch))
        assert found is not None or (batch < at and steps is not None)
