"""Batches: every example once per pass, in whatever way the passes are cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data.examples import as_examples
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.block import take

SIZES = {"n": st.integers(1, 60), "m": st.integers(1, 25)}


def batches(feed: ArrayFeed, epoch: int) -> list[list[int]]:
    """The examples' numbers, batch by batch, padding left out."""
    found = []
    for block, first, sizes in feed.epoch(epoch):
        for step in range(first, len(sizes)):
            batch = take(block, step, feed.padded)
            rows = np.asarray(batch.x)[:, 0]
            size = int(batch.size)
            assert size == sizes[step]
            if batch.rows is not None:
                assert np.asarray(batch.rows).tolist() == [1] * size + [0] * (len(rows) - size)
            found.append(rows[:size].astype(int).tolist())
    return found


@settings(max_examples=30, deadline=None)
@given(
    **SIZES,
    shuffle=st.sampled_from([True, False, "batch"]),
    exact=st.booleans(),
    shared=st.booleans(),
    epoch=st.integers(0, 5),
)
def test_F2_an_epoch_is_every_example_once(
    n: int, m: int, shuffle: bool | str, exact: bool, shared: bool, epoch: int
) -> None:
    feed = ArrayFeed(as_examples(np.arange(n)[:, None]), m, shuffle, 3, exact, shared=shared)
    found = batches(feed, epoch)
    assert len(found) == feed.steps == -(-n // min(m, n))
    assert sorted(row for batch in found for row in batch) == list(range(n))
    assert all(len(batch) == min(m, n) for batch in found[:-1])


class Chunks(ArrayFeed):
    """Any data is too large for the device."""

    CHUNK_BYTES = 12

    def _fits(self) -> bool:
        return False


@settings(max_examples=30, deadline=None)
@given(
    **SIZES,
    shuffle=st.sampled_from([True, False, "batch"]),
    exact=st.booleans(),
    steps=st.one_of(st.none(), st.integers(1, 9)),
    place=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    width=st.one_of(st.none(), st.integers(1, 6)),
)
def test_batches_and_places_are_the_same_in_chunks_also_of_a_run_that_goes_on_with_batches_of_another_size(
    n: int, m: int, shuffle: bool | str, exact: bool, steps: int | None, place: tuple[int, int], width: int | None
) -> None:
    data = as_examples(np.arange(n)[:, None], np.arange(n))
    runs = []
    for kind in (ArrayFeed, Chunks):
        feed = kind(data, m, shuffle, 3, exact, steps)
        assert feed.chunked == (kind is Chunks)
        if width is not None:
            feed.share(width)
        at = place[0], min(place[1], (feed.steps or 1) - 1)
        found: list[object] = [told(feed, 0), feed.place(*at)]
        feed.seek(feed.place(*at))
        found.append(told(feed, at[0]))
        feed.resize(at[0] + 1, m + 2)
        found += [told(feed, at[0] + 1), feed.place(at[0] + 1, 1), np.asarray(feed.pivot).tolist()]
        runs.append(found)
    assert runs[0] == runs[1]


def told(feed: ArrayFeed, epoch: int) -> list[tuple[list[int], list[int]]]:
    """Examples and ids of every batch, read from the blocks as steps do."""
    found = []
    for block, first, sizes in feed.epoch(epoch):
        x, y, order, passes = (np.asarray(a) for a in (*block.data[:2], block.order, block.passes))
        for step in range(first, len(sizes)):
            start = step * order.shape[1] if block.starts is None else int(block.starts[step])
            rows = order.reshape(-1)[start : start + sizes[step]]
            assert (x[rows, 0] == y[rows]).all()
            assert sizes[step] == block.sizes[step]
            ids = (rows if block.ids is None else np.asarray(block.ids)[rows]) + passes[step]
            found.append((y[rows].tolist(), ids.astype(np.uint32).tolist()))
    return found


@settings(max_examples=20, deadline=None)
@given(**SIZES, steps=st.integers(1, 7), exact=st.booleans())
def test_F3_epochs_of_some_steps_cut_the_same_stream_of_passes(n: int, m: int, steps: int, exact: bool) -> None:
    data = as_examples(np.arange(n)[:, None])
    whole = ArrayFeed(data, m, True, 1, exact)
    stream = [batch for number in range(8) for batch in batches(whole, number)]
    some = ArrayFeed(data, m, True, 1, exact, steps)
    for epoch in range(8 * (whole.steps or 1) // steps):
        assert batches(some, epoch) == stream[epoch * steps : (epoch + 1) * steps]


@settings(max_examples=20, deadline=None)
@given(**SIZES)
def test_validation_data_of_a_run_that_goes_on_has_room_for_the_same_padding(n: int, m: int) -> None:
    feed = ArrayFeed(as_examples(np.arange(n)[:, None]), m, False, 0, False, shared=True)
    before = batches(feed, 0)
    feed.seek(feed.place(0, 0))
    assert batches(feed, 0) == before


def test_ids_are_new_in_every_pass_and_the_same_however_batches_are_cut() -> None:
    data = as_examples(np.arange(10)[:, None])

    def ids(m: int, steps: int | None, epoch: int) -> dict[tuple[int, int], int]:
        found = {}
        for block, first, sizes in ArrayFeed(data, m, False, 0, True, steps).epoch(epoch):
            for step in range(first, len(sizes)):
                batch = take(block, step, False)
                for row, number in zip(np.asarray(batch.x)[:, 0], np.asarray(batch.ids), strict=True):
                    found[int(block.passes[step]), int(row)] = int(number)
        return found

    assert ids(3, None, 1) == ids(10, None, 1) == ids(7, None, 1)
    both = ids(5, 4, 0)
    assert len(set(both.values())) == 20
