"""Statistics against numpy over all values at once."""

import numpy as np
import pytest
from penstock_converter.outputs.statistics import QUANTILES, Histogram, of_columns

RNG = np.random.default_rng(1)


def test_statistics_of_images_are_exact_and_add_up_over_episodes():
    images = RNG.integers(0, 200, (5, 8, 12, 3), np.uint8)
    images[..., 2] = 7
    parts = [Histogram(np.zeros((3, 256), np.int64)), Histogram(np.zeros((3, 256), np.int64))]
    for number, image in enumerate(images):
        parts[number % 2].add(image)
    parts[0].merge(parts[1])
    found = parts[0].statistics()
    scaled = images.astype(np.float64).reshape(-1, 3) / 255
    assert found["count"].tolist() == [5]
    for name, expected in {
        "min": scaled.min(axis=0),
        "max": scaled.max(axis=0),
        "mean": scaled.mean(axis=0),
        "std": scaled.std(axis=0),
    }.items():
        assert found[name].shape == (3, 1, 1)
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-12)
    for name, share in QUANTILES.items():
        expected = np.quantile(scaled, share, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-12)


def test_statistics_of_numbers_are_those_of_numpy():
    values = RNG.normal(size=(101, 3)).astype(np.float32)
    found = of_columns(values)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(found["mean"], exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], exact.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["q10"], np.quantile(exact, 0.1, axis=0), rtol=1e-12)
    assert found["min"].tolist() == exact.min(axis=0).tolist()
    assert found["max"].tolist() == exact.max(axis=0).tolist()
    assert found["count"].tolist() == [101]


def test_flags_are_counted_as_zero_and_one():
    assert of_columns(np.array([[True], [False], [True], [True]]))["mean"] == pytest.approx(0.75)
