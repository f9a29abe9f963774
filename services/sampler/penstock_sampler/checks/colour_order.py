"""Whether images are RGB, or BGR as OpenCV hands them out, told from their pixels.

Three kinds of evidence, the strongest first:

- **Decoder.** Colours of a decoded JPEG or camera frame are values that its decoder can give, in
  the right order of channels only (see :mod:`penstock_sampler.checks.decoders`). This needs frames
  that kept their pixels since: it says nothing about resized frames or decoded video.
- **Comparison.** The histogram of one camera's colours is that of another camera of the file, or of
  the same camera in another file, but with red and blue swapped: one of the two is BGR.
- **Scene.** Wood, skin, cardboard and brass are orange in all shades, and azure when red and blue
  are swapped. Much azure and no orange at all is BGR, or a blue scene: no more than a hint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock_sampler.checks.decoders import decoded_share
from penstock_sampler.checks.findings import Findings

__all__ = ["REMEDY", "ColourProfile", "check_colours", "relate_colours", "sample_pixels"]

REMEDY = (
    "look at the frames (penstock doctor FILES --contact-sheet sheet.png): if skin and wood are "
    "blue there, convert in the recorder: cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)"
)

_SAMPLED_PIXELS = 8192
"""Of each frame, at least, where it has as many."""

_EXPLAINED, _UNEXPLAINED = 0.95, 0.6
"""Share of colours that a decoder can give: at least in the right order, at most in the wrong."""

_BINS = 32
_LEAST_DIFFERENCE = 16
"""Between red and blue; a pixel with less is grey."""
_LEAST_COLOURED = 0.05
"""Share of pixels that must have a colour for a histogram to count."""
_LEAST_OVERLAP, _TIMES_MORE = 0.5, 2.5
"""Histograms agree by this much when one is swapped, and so many times less as they are. Of 5050
pairs of photographs and frames of robots, all RGB, none that differed so agreed by more than 0.43
when swapped."""

_WARM, _COOL = (10, 50), (190, 230)
"""Hues in degrees: wood and skin, and what becomes of them when red and blue are swapped."""
_LEAST_COOL, _MOST_WARM = 0.4, 0.01


@dataclass(frozen=True)
class ColourProfile:
    """Colours of one camera in one file.

    Attributes:
        camera: Name of the camera.
        dataset: Path in the file.
        order: What the decoder's values say; empty when they say nothing.
        explained: Share of colours that a decoder can give, as stored and with red and blue
            swapped; zeros when there are too few colours.
        coloured: Share of pixels that are not grey.
        histogram: ``(32, 32) float32`` over red minus green and blue minus green of those pixels;
            its sum is 1. Swapping red and blue transposes it.
        warm: Share of pixels with the hue of wood and skin.
        cool: Share of pixels with the hue these take on when red and blue are swapped.
    """

    camera: str
    dataset: str
    order: Literal["rgb", "bgr", ""]
    explained: tuple[float, float]
    coloured: float
    histogram: NDArray[np.float32]
    warm: float
    cool: float

    @classmethod
    def of(cls, camera: str, dataset: str, pixels: NDArray[np.uint8]) -> ColourProfile:
        """Profile of ``(n, 3)`` pixels, n at least 1."""
        explained = decoded_share(pixels)
        coloured, histogram = _histogram(pixels)
        warm, cool = _hues(pixels)
        order: Literal["rgb", "bgr", ""] = ""
        if max(explained) >= _EXPLAINED and min(explained) <= _UNEXPLAINED:
            order = "rgb" if explained[0] > explained[1] else "bgr"
        return cls(camera, dataset, order, explained, coloured, histogram, warm, cool)


def sample_pixels(frame: NDArray[np.uint8], order: Literal["hwc", "chw"]) -> NDArray[np.uint8]:
    """Pixels of a frame on a coarse grid, as they are stored: ``(n, 3) uint8``."""
    image = np.moveaxis(frame, 0, 2) if order == "chw" else frame
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _SAMPLED_PIXELS))
    return image[::step, ::step].reshape(-1, 3)


def _overlaps(one: ColourProfile, other: ColourProfile) -> tuple[float, float]:
    """Overlap of two histograms, 0 to 1: as they are, and with one of them swapped."""
    if min(one.coloured, other.coloured) < _LEAST_COLOURED:
        return 0.0, 0.0
    plain = np.minimum(one.histogram, other.histogram).sum()
    swapped = np.minimum(one.histogram, other.histogram.T).sum()
    return float(plain), float(swapped)


def relate_colours(one: ColourProfile, other: ColourProfile) -> Literal["same", "swapped", ""]:
    """What two histograms have to do with each other; empty when nothing is sure."""
    plain, swapped = _overlaps(one, other)
    if swapped >= _LEAST_OVERLAP and swapped >= _TIMES_MORE * plain:
        return "swapped"
    if plain >= _LEAST_OVERLAP and plain >= _TIMES_MORE * swapped:
        return "same"
    return ""


def check_colours(profiles: Sequence[ColourProfile], findings: Findings) -> None:
    """Warn about cameras of one file that are BGR, or may be."""
    suspected = {profile.dataset for profile in profiles if profile.order == "bgr"}
    for profile in profiles:
        if profile.order == "bgr":
            findings.warn(
                _check(profile),
                f"{profile.dataset} looks like BGR: {profile.explained[1]:.0%} of its colours are "
                f"values that JPEG or YUV decodes to when red and blue are swapped, "
                f"{profile.explained[0]:.0%} as stored",
                remedy=REMEDY,
                reason="BGR_IMAGES",
                dataset=profile.dataset,
            )
    suspected |= _check_pairs(profiles, findings)
    suspected |= _check_scene(profiles, findings)
    for profile in profiles:
        if profile.dataset not in suspected:
            findings.ok(
                _check(profile),
                f"RGB: {profile.explained[0]:.0%} of its colours are values that JPEG or YUV "
                "decodes to"
                if profile.order
                else "no sign that red and blue are swapped",
                dataset=profile.dataset,
            )


def _check(profile: ColourProfile) -> str:
    return f"{profile.camera} colours"


def _check_pairs(profiles: Sequence[ColourProfile], findings: Findings) -> set[str]:
    """Cameras whose colours are those of another camera when swapped."""
    suspected: set[str] = set()
    for pair in combinations(profiles, 2):
        if all(profile.order for profile in pair) or relate_colours(*pair) != "swapped":
            continue
        warm, cool = sorted(pair, key=_coolness)
        if cool.order == "rgb" or warm.order == "bgr":
            warm, cool = cool, warm
        if cool.order == "bgr" or cool.dataset in suspected:
            continue
        plain, swapped = _overlaps(warm, cool)
        findings.warn(
            _check(cool),
            f"{cool.dataset} may be BGR: its colours are those of {warm.dataset} with red and blue "
            f"swapped (they agree by {swapped:.0%}, as stored by {plain:.0%})",
            remedy=REMEDY,
            reason="COLOURS_SWAPPED",
            dataset=cool.dataset,
        )
        suspected.add(cool.dataset)
    return suspected


def _coolness(profile: ColourProfile) -> float:
    return profile.cool - profile.warm


def _check_scene(profiles: Sequence[ColourProfile], findings: Findings) -> set[str]:
    """Cameras that show much azure where no camera shows wood or skin."""
    if any(profile.order == "rgb" for profile in profiles):
        return set()
    unsure = [profile for profile in profiles if not profile.order]
    if not unsure or max(profile.warm for profile in unsure) > _MOST_WARM:
        return set()
    if sum(profile.cool for profile in unsure) < _LEAST_COOL * len(unsure):
        return set()
    suspected: set[str] = set()
    for profile in unsure:
        if profile.cool >= _LEAST_COOL:
            findings.warn(
                _check(profile),
                f"{profile.dataset} may be BGR, unless the scene is blue: {profile.cool:.0%} of "
                "its pixels have the hue of wood and skin with red and blue swapped, "
                f"{profile.warm:.0%} have it as it should be",
                remedy=REMEDY,
                reason="MAYBE_BGR",
                dataset=profile.dataset,
            )
            suspected.add(profile.dataset)
    return suspected


def _histogram(pixels: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
    """Share of coloured pixels, and their histogram."""
    red, green, blue = pixels.astype(np.int64).T
    kept = np.abs(red - blue) >= _LEAST_DIFFERENCE
    width = 256 // _BINS
    rows, columns = (
        (np.clip(channel[kept] - green[kept], -128, 127) + 128) // width for channel in (red, blue)
    )
    counts = np.bincount(rows * _BINS + columns, minlength=_BINS * _BINS)
    histogram = counts.reshape(_BINS, _BINS) / max(1, int(kept.sum()))
    return float(kept.mean()), histogram.astype(np.float32)


def _hues(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Shares of pixels with a warm and with a cool hue; dark and greyish ones have neither."""
    values = pixels.astype(np.float64)
    brightest = values.max(axis=1)
    chroma = brightest - values.min(axis=1)
    counted = (chroma > 0.15 * brightest) & (brightest > 40)  # noqa: PLR2004 - of 255
    red, green, blue = values[counted].T
    chroma, brightest = chroma[counted], brightest[counted]
    # In degrees from red over yellow; only the two sectors that are asked for are worked out.
    from_red = np.where(brightest == red, 60 * (green - blue) / chroma, np.nan)
    from_blue = np.where(brightest == blue, 60 * (red - green) / chroma + 240, np.nan)
    warm = (from_red >= _WARM[0]) & (from_red <= _WARM[1])
    cool = (from_blue >= _COOL[0]) & (from_blue <= _COOL[1])
    return float(warm.sum() / len(pixels)), float(cool.sum() / len(pixels))
