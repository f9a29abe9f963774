import io

import numpy as np
import pytest
from unit.rollout_file.made import encoded

from penstock.errors import InvalidInput
from penstock.rollout_file import Encoding, read


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_half_rounds_to_float16_and_comes_back_in_its_dtype(dtype):
    values = np.random.default_rng(0).normal(0, 100, (9, 40, 5)).astype(dtype)
    values[0, 0] = [np.inf, -np.inf, np.nan, -0.0, 65504]
    leaves = {"x": values, "y": values}
    data, encoder = encoded(leaves, Encoding(half=("x",)))
    assert [(f.dtype, f.stored) for f in encoder.index.fields] == [
        (values.dtype.name, "float16"),
        (values.dtype.name, values.dtype.name),
    ]
    found = read(io.BytesIO(data))
    assert found["x"].dtype == dtype
    assert np.array_equal(found["x"], values.astype(np.float16).astype(dtype), equal_nan=True)
    assert np.signbit(found["x"][0, 0, 3])
    assert found["y"].tobytes() == values.tobytes()


def test_half_of_a_folder_takes_its_floats():
    leaves = {"o/x": np.ones((4, 4), np.float32), "o/n": np.ones((4, 4), np.int32)}
    _, encoder = encoded(leaves, Encoding(half=("o",)))
    assert [field.stored for field in encoder.index.fields] == ["float16", "int32"]


def test_a_value_beyond_float16_is_refused_with_its_field():
    leaves = {"o/x": np.full((4, 4), 70_000, np.float32)}
    with pytest.raises(InvalidInput, match=r"o/x holds 70000.0, beyond float16") as caught:
        encoded(leaves, Encoding(half=("o/x",)))
    assert caught.value.field == "o/x"


def test_half_of_what_is_no_float_or_is_not_there_is_refused():
    leaves = {"n": np.ones((4, 4), np.int32)}
    with pytest.raises(InvalidInput, match="half names n, which is int32"):
        encoded(leaves, Encoding(half=("n",)))
    with pytest.raises(InvalidInput, match="no field 'x'"):
        encoded(leaves, Encoding(half=("x",)))
