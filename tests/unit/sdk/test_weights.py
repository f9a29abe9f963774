import numpy as np
import pytest

from penstock.dataset import DataFile
from penstock.errors import InvalidInput, Unavailable
from penstock.weights import merge_weights

A = DataFile("a.hdf5", 1, 1, digest=b"a", transitions=2)
B = DataFile("b.hdf5", 1, 1, digest=b"b", transitions=3)
C = DataFile("c.hdf5", 1, 1, digest=b"c", transitions=1)


def weights(*values):
    return np.array(values, np.float32)


def test_shards_and_copies_merge_in_the_order_of_the_files():
    merged = merge_weights(
        [A, B, C], [((B, C), weights(3, 4, 5, 6)), ((A, B), weights(1, 2, 3, 4, 5))]
    )
    assert merged.tolist() == [1, 2, 3, 4, 5, 6]
    assert merged.dtype == np.float32
    assert not merged.flags.writeable


def test_a_copy_with_other_content_does_not_count():
    other = DataFile("b.hdf5", 1, 1, digest=b"x", transitions=2)
    merged = merge_weights([A, B], [((A, other), weights(1, 2, 9, 9)), ((B,), weights(3, 4, 5))])
    assert merged.tolist() == [1, 2, 3, 4, 5]


def test_a_file_that_nobody_holds_is_named():
    with pytest.raises(Unavailable, match=r"weights of 2 of 3 files, the first is b\.hdf5"):
        merge_weights([A, B, C], [((A,), weights(1, 2))])


def test_a_replica_that_sends_too_few_is_refused():
    with pytest.raises(InvalidInput, match="4 weights arrive for 5 transitions"):
        merge_weights([A, B], [((A, B), weights(1, 2, 3, 4))])
