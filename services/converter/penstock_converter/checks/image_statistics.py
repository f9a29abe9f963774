"""Checks of images: they decode, have the stated size, and the stated statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_converter.checks.comparison import DEFAULT_CRF
from penstock_converter.checks.dataset import Dataset
from penstock_converter.checks.findings import Check, Ledger
from penstock_converter.checks.images import open_camera, sampled
from penstock_converter.checks.number_statistics import stated_array
from penstock_converter.outputs.statistics import QUANTILES, Histogram

__all__ = ["check_images"]

_SUMS = 1e-6
"""Statistics of a dataset against those of its episodes: sums of float64, relative."""

_FILES, _VIDEOS, _ROUGH = 2 / 255, 5 / 255, 0.1
"""Of the range: decoders differ by a level or two, codecs lose some, samples miss some."""

_PER_CRF = 0.005
"""Of the range, by which a codec takes more for each step of crf beyond its default."""

_RANK = 0.02
"""Share of the pixels by which a quantile may be off in a video; at most ``_ROUGH`` of them."""


def check_images(dataset: Dataset, ledger: Ledger, *, full: bool) -> None:
    """Decode images of every episode, one at a time; all with ``full``, or a sample."""
    if not dataset.cameras:
        return
    which = "all frames" if full else "first, middle, last and two more frames of each episode"
    decoded = ledger.open("images", which)
    bound = (
        f"images in tables within {_FILES:.3f} of the range; videos within "
        f"{_codec_slack(dataset):.3g}, beyond {_VIDEOS:.3f} a warning; from a part of the frames "
        f"roughly, {_ROUGH} (a warning); dataset from episodes within {_SUMS:g}"
    )
    statistics = ledger.open("statistics of images", bound)
    if dataset.episodes is None or not dataset.fps:
        decoded.skipped = statistics.skipped = "the rate or the table of episodes is not known"
        return
    for name in dataset.cameras:
        with statistics.guard(feature=name):
            _Camera(dataset, name, decoded, statistics, full=full).check()


def _codec_slack(dataset: Dataset) -> float:
    """Of the range, what a codec may change at most, by its settings."""
    output = dataset.mapping.outputs.lerobot if dataset.mapping is not None else None
    if output is None or output.codec == "copy":
        return _ROUGH
    return _ROUGH + _PER_CRF * max(0, output.crf - DEFAULT_CRF)


class _Camera:
    def __init__(
        self, dataset: Dataset, name: str, decoded: Check, statistics: Check, *, full: bool
    ) -> None:
        self._dataset, self._name, self._full = dataset, name, full
        self._decoded, self._statistics = decoded, statistics
        self._images = open_camera(dataset, name)
        self._depth = dataset.shape(name)[-1] == 1
        self._scale = 65_535.0 if self._depth else 1.0
        self._sums = _Sums()

    def check(self) -> None:
        dataset, name, check = self._dataset, self._name, self._statistics
        assert dataset.episodes is not None  # noqa: S101 - the caller knows
        lengths = dataset.episodes.length.tolist()
        rows = dataset.episode_statistics(name)
        try:
            for episode, length in enumerate(lengths):
                file, stated = next(rows, ("", {}))
                histogram = self._decode(episode, sampled(length, full=self._full))
                missing = [
                    key for key in ("mean", "std", "min", "max", "count") if key not in stated
                ]
                if missing:
                    check.fail(
                        f"has no {', '.join(missing)}", file=file, episode=episode, feature=name
                    )
                    continue
                self._compare(stated, histogram, length, file, episode)
                self._sums.add(stated)
        finally:
            rows.close()
            self._images.close()
        self._check_whole()

    def _decode(self, episode: int, frames: list[int]) -> Histogram | None:
        file = self._dataset.relative(self._images.file(episode))
        shape = self._dataset.shape(self._name)
        wanted = shape[:2] if self._depth else shape
        histogram: Histogram | None = None
        for picture in self._images.of(episode, frames):
            self._decoded.count("images")
            problem, pixels = picture.problem, picture.pixels
            if pixels is not None and pixels.shape != wanted:
                problem = f"is {pixels.shape}, the shape in info.json is {wanted}"
            if pixels is None or problem:
                self._decoded.fail(
                    problem, file=file, episode=episode, frame=picture.frame, feature=self._name
                )
                continue
            if histogram is None:
                histogram = Histogram.like(pixels)
            histogram.add(pixels)
        return histogram

    def _compare(
        self,
        stated: Mapping[str, Any],
        histogram: Histogram | None,
        length: int,
        file: str,
        episode: int,
    ) -> None:
        problem = _impossible(stated, self._scale)
        values = {key: stated_array(stated.get(key)) for key in stated}
        count = values["count"]
        if not problem and (count is None or not 1 <= count[0] <= length):
            problem = f"count is {stated['count']}, there are {length} images"
        if problem:
            self._note(problem, file, episode, certain=True)
            return
        if histogram is None or count is None:
            return
        self._statistics.count("episodes")
        whole = histogram.images == length and int(count[0]) == length
        lossy = self._dataset.is_video(self._name)
        most = _codec_slack(self._dataset)
        slacks = [_ROUGH] if not whole else [most, _VIDEOS] if lossy else [_FILES]
        kind = "all images" if whole else "some images"
        # lerobot scales images down before it takes statistics.
        sure = whole and self._dataset.outcome is not None
        for slack in slacks:
            problem = self._differing(values, histogram, slack, length, kind)
            if whole and not problem:
                rank = (_RANK if slack == _VIDEOS else _ROUGH) if lossy else 0.0
                problem = _wrong_quantile(values, histogram, slack, rank, self._scale)
            if problem:
                self._note(problem, file, episode, certain=sure and slack == slacks[0])
                return

    def _differing(
        self,
        values: Mapping[str, NDArray[np.float64] | None],
        histogram: Histogram,
        slack: float,
        length: int,
        kind: str,
    ) -> str:
        """What mean or deviation is off by more than ``slack``; empty if none is."""
        found = histogram.statistics()
        for key in ("mean", "std"):
            expected = found[key].reshape(-1)
            value = values[key]
            if value is None or value.size != expected.size:
                return f"{key} has another shape: expected {expected.size} numbers"
            off = np.abs(value - expected) / self._scale
            self._statistics.most(f"largest difference of {key}, {kind}", float(off.max()))
            if not (off <= slack).all():
                at = int(off.argmax())
                return (
                    f"{key} of channel {at} is {value[at]:.4f}, {histogram.images} decoded images "
                    f"of {length} give {expected[at]:.4f}"
                )
        return ""

    def _check_whole(self) -> None:
        """Statistics of the dataset are those of its episodes, put together."""
        name, file = self._name, "meta/stats.json"
        stated = self._dataset.statistics.get(name)
        if not isinstance(stated, Mapping):
            self._statistics.fail("has no statistics", file=file, feature=name)
            return
        self._statistics.count("features")
        problem = _impossible(stated, self._scale) or self._sums.differing(stated)
        if problem:
            self._note(problem, file, None, certain=True)

    def _note(self, problem: str, file: str, episode: int | None, *, certain: bool) -> None:
        note = self._statistics.fail if certain else self._statistics.warn
        note(problem, file=file, episode=episode, feature=self._name)


class _Sums:
    """Statistics of episodes, put together as those of all their images."""

    def __init__(self) -> None:
        self._images = 0.0
        self._mean: NDArray[np.float64] | float = 0.0
        self._squares: NDArray[np.float64] | float = 0.0
        self._least: NDArray[np.float64] | float = np.inf
        self._most: NDArray[np.float64] | float = -np.inf

    def add(self, stated: Mapping[str, Any]) -> None:
        """Add an episode."""
        values = {key: stated_array(stated[key]) for key in ("mean", "std", "min", "max", "count")}
        mean, std, least, most, count = values.values()
        if mean is None or std is None or least is None or most is None or count is None:
            return
        self._images += count[0]
        self._mean = self._mean + count[0] * mean
        self._squares = self._squares + count[0] * (std**2 + mean**2)
        self._least, self._most = np.minimum(self._least, least), np.maximum(self._most, most)

    def differing(self, stated: Mapping[str, Any]) -> str:
        """What differs first; empty if nothing does."""
        if not self._images:
            return ""
        mean = np.asarray(self._mean / self._images)
        variance = np.maximum(np.asarray(self._squares / self._images) - mean**2, 0)
        found = {
            "count": np.array([self._images]),
            "min": np.asarray(self._least),
            "max": np.asarray(self._most),
            "mean": mean,
            "std": np.sqrt(variance),
        }
        scale = max(float(np.max(self._most)), 1.0)
        for key, expected in found.items():
            value = stated_array(stated.get(key))
            if value is None or value.shape != expected.shape:
                return f"{key} is {stated.get(key)}: expected {expected.size} numbers"
            # The root of a difference of squares is known to half of its digits.
            slack = scale * (np.sqrt(_SUMS) if key == "std" else _SUMS)
            off = np.abs(value - expected)
            if not (off <= slack).all():
                at = int(np.nanargmax(off)) if np.isfinite(off).any() else 0
                return f"{key} of channel {at} is {value[at]:.9g}, episodes give {expected[at]:.9g}"
        return ""


def _impossible(stated: Mapping[str, Any], scale: float) -> str:
    """What no image can have; empty if there is nothing like it."""
    order = ("min", *QUANTILES, "max")
    known = [(key, value) for key in order if (value := stated_array(stated.get(key))) is not None]
    previous: tuple[str, NDArray[np.float64]] = ("0", np.zeros(1))
    for key, value in (*known, (f"{scale:g}", np.full(1, scale))):
        if value.size not in (1, previous[1].size) and previous[1].size != 1:
            return f"{key} has {value.size} numbers, {previous[0]} has {previous[1].size}"
        if not (previous[1] <= value + 1e-6 * scale).all():
            return f"{key} is {value.tolist()}, less than {previous[0]} ({previous[1].tolist()})"
        previous = key, value
    return ""


def _wrong_quantile(
    values: Mapping[str, NDArray[np.float64] | None],
    histogram: Histogram,
    slack: float,
    share_astray: float,
    scale: float,
) -> str:
    """A quantile is where it splits the pixels, give or take some levels and some pixels."""
    levels = histogram.counts.shape[1] - 1
    for key, share in {"min": 0.0, **QUANTILES, "max": 1.0}.items():
        value = values.get(key)
        # Codecs overshoot at edges, so that ends say nothing.
        if value is None or (share_astray and key in ("min", "max")):
            continue
        for channel, counts in enumerate(histogram.counts):
            below = np.concatenate([[0], counts.cumsum()])
            pixels = int(below[-1])
            rank = max(1, int(np.ceil(share * pixels)))
            astray = int(share_astray * pixels)
            at = value[channel] / scale * levels
            low = int(np.clip(np.floor(at - slack * levels), 0, levels))
            high = int(np.clip(np.ceil(at + slack * levels), 0, levels))
            if below[low] >= rank + astray or below[high + 1] < rank - astray:
                return (
                    f"{key} of channel {channel} is {value[channel]:.4f}: of {pixels} decoded "
                    f"pixels {below[low]} are less by more than {slack:.3f}, and "
                    f"{pixels - below[high + 1]} are larger by more than that"
                )
    return ""
