from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from penstock_sampler.serving.parts import cut

from penstock.observations import Observations


def observations(sizes: list[list[int]], shown: list[tuple[int, int]]) -> Observations:
    """Observation i's images are bytes of value i."""
    data = b"".join(bytes([i]) * sum(row) for i, row in enumerate(sizes))
    pairs = np.array(shown, np.int64).reshape(-1, 2)
    return Observations(
        "raw", 2, 2, np.array(sizes, np.uint32).reshape(len(sizes), -1), data, *pairs.T
    )


@given(st.data())
def test_each_part_holds_just_what_its_rows_show(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    cameras = data.draw(st.integers(1, 3))
    size = st.lists(st.integers(0, 9), min_size=cameras, max_size=cameras)
    sizes = data.draw(st.lists(size, min_size=count, max_size=count))
    index = st.integers(0, count - 1)
    shown = data.draw(st.lists(st.tuples(index, index), max_size=15))
    limit, row_bytes = data.draw(st.integers(1, 60)), data.draw(st.integers(0, 20))
    next_row = 0
    read = observations(sizes, shown)
    for part in cut(read, limit, row_bytes):
        assert part.start == next_row < part.stop
        next_row = part.stop
        together = b"".join(read.read()[begin:end] for begin, end in part.ranges)
        assert len(together) == part.size_bytes == part.image_bytes.sum()
        rows = part.stop - part.start
        assert part.size_bytes + rows * row_bytes <= limit or rows == 1
        ends = np.cumsum(part.image_bytes.sum(axis=1))
        seen: list[int] = []
        for row in range(part.start, part.stop):
            for which, places in enumerate((part.current, part.following)):
                place = int(places[row - part.start])
                number = shown[row][which]
                seen.append(place)
                assert part.image_bytes[place].tolist() == sizes[number]
                begin = int(ends[place]) - sum(sizes[number])
                assert together[begin : int(ends[place])] == bytes([number]) * sum(sizes[number])
        assert set(seen) == set(range(len(part.image_bytes)))
    assert next_row == len(shown)


def test_neighbours_leave_as_one_piece() -> None:
    read = observations([[4], [4], [4], [4], [4]], [(3, 4), (0, 1), (1, 1)])
    (part,) = cut(read, 100, 0)
    assert part.ranges == [(0, 8), (12, 20)]
