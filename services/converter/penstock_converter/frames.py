"""The frames of an episode: moments of the main feature for which everything needed is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.align import Track, align
from penstock_converter.mapping import Mapping
from penstock_converter.timeline import Timeline

__all__ = ["IMAGE_KINDS", "Frames", "choose_frames", "is_image"]

log = structlog.get_logger(__name__)

IMAGE_KINDS = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_RATE_MARGIN = 0.1


@dataclass(frozen=True)
class Frames:
    """What an episode is made of.

    Attributes:
        count: Rows of the episode, N.
        times_ns: (N,) or (N + 1,) int64 times of the frames.
        tracks: What each feature takes, (N,) or (N + 1,) long. An (N + 1)-th frame is the
            observation after the last row, for HDF5; features not observed have none there.
        cut_after: (N,) bool, rows after which frames are missing (``rosbag.gap=drop``).
        dropped: Frames left out, by reason.
        warnings: What a person should look at.
    """

    count: int
    times_ns: NDArray[np.int64]
    tracks: MappingOf[str, Track]
    cut_after: NDArray[np.bool_]
    dropped: dict[str, int]
    warnings: tuple[str, ...]

    @property
    def observations(self) -> int:
        """N, or N + 1 with an observation after the last row."""
        return len(self.times_ns)


def is_image(kind: str) -> bool:
    """Whether messages of type ``kind`` are images."""
    return kind in IMAGE_KINDS


def main_feature(mapping: Mapping, timeline: Timeline) -> str:
    """The feature whose messages are the frames."""
    if mapping.rosbag.main is not None:
        return mapping.rosbag.main
    for name, feature in mapping.features.items():
        if is_image(timeline.kinds[feature.topic]):
            return name
    return next(iter(mapping.features))


def choose_frames(timeline: Timeline, mapping: Mapping, bag: str) -> Frames:
    """Choose frames and align every feature to them.

    Args:
        timeline: Times of all messages.
        mapping: Which features there are.
        bag: Name of the recording, for messages.

    Raises:
        DataFault: No frame is complete, or one inside the episode is not and ``rosbag.gap`` is
            ``fail``.
    """
    settings = mapping.rosbag
    main = main_feature(mapping, timeline)
    topic = mapping.features[main].topic
    times = np.sort(timeline.topics[topic].by(mapping.clock(main)))
    kept = times[settings.drop_first : max(len(times) - settings.drop_last, settings.drop_first)]
    moments = kept[:: settings.stride]
    dropped: Counter[str] = Counter()
    for reason, asked in (("drop_first", settings.drop_first), ("drop_last", settings.drop_last)):
        if asked:
            dropped[reason] = min(asked, len(times))
    if not len(moments):
        raise DataFault(
            f"{bag}: topic {topic} has {len(times)} messages, drop_first {settings.drop_first} and "
            f"drop_last {settings.drop_last} leave none",
            reason="NO_FRAMES",
        )
    tracks = {
        name: align(
            moments + round(feature.offset_s * 1e9),
            timeline.topics[feature.topic].by(mapping.clock(name)),
            feature.align,
            mapping.tolerance_s(name),
        )
        for name, feature in mapping.features.items()
    }
    complete = np.logical_and.reduce([track.matched for track in tracks.values()])
    rows = np.flatnonzero(complete)
    if not len(rows):
        raise DataFault(_nothing_fits(bag, mapping, tracks), reason="NO_COMPLETE_FRAME")
    first, last = int(rows[0]), int(rows[-1])
    warnings: list[str] = []
    if settings.gap == "hold":
        for name, track in tracks.items():
            tracks[name], held = _held(track, first, last)
            if held:
                topic = mapping.features[name].topic
                warnings.append(
                    f"{held} frames have {_unmatched(name, mapping)} (topic {topic}) and take that "
                    "of the frame before"
                )
        rows = np.arange(first, last + 1)
        complete = (np.arange(len(moments)) >= first) & (np.arange(len(moments)) <= last)
    for frame in np.flatnonzero(~complete):
        name = next(name for name, track in tracks.items() if not track.matched[frame])
        reason = _unmatched(name, mapping)
        if first < frame < last and settings.gap == "fail":
            raise DataFault(
                f"{bag}: frame {frame} at {moments[frame] * 1e-9:.3f} s has {reason} (topic "
                f"{mapping.features[name].topic}, the nearest usable one is "
                f"{tracks[name].distance_s[frame]:.3f} s away): widen tolerance_s of {name}, or "
                "set rosbag.gap: drop to leave such frames out, or hold to repeat what was before",
                reason="GAP",
                metadata={"feature": name, "frame": str(int(frame))},
            )
        dropped[reason] += 1
    hdf5 = mapping.outputs.hdf5
    observed = {hdf5.joint, *hdf5.images.values()} if hdf5 is not None else set[str]()
    extra = _observation_after(last, observed, tracks, len(moments))
    chosen = np.append(rows, extra) if extra is not None else rows
    # A gap right after the last row is no cut: the extra frame follows it directly.
    cut_after = np.append(np.diff(rows) > 1, False)
    return Frames(
        count=len(rows),
        times_ns=moments[chosen],
        tracks={
            name: track.at(chosen) if name in observed else _without(track.at(chosen), len(rows))
            for name, track in tracks.items()
        },
        cut_after=cut_after,
        dropped=dict(dropped),
        warnings=(*warnings, *_check_rate(moments, mapping, main)),
    )


def _held(track: Track, first: int, last: int) -> tuple[Track, int]:
    """Fill frames inside the episode with what the frame before takes; how many they are."""
    frames = np.arange(len(track.first))
    source = np.maximum.accumulate(np.where(track.matched, frames, -1))
    # The first frame of the episode is complete, so there is one before each.
    inside = (frames > first) & (frames < last)
    source = np.where(inside, source, frames)
    return track.at(source), int(np.count_nonzero(source != frames))


def _observation_after(
    last: int, observed: set[str], tracks: MappingOf[str, Track], frames: int
) -> int | None:
    """The frame after the last row, if all that HDF5 files observe is there."""
    if not observed or last + 1 >= frames:
        return None
    if all(tracks[name].matched[last + 1] for name in observed):
        return last + 1
    return None


def _without(track: Track, count: int) -> Track:
    """Take what is no observation from the frame after the last row."""
    first, second = track.first.copy(), track.second.copy()
    first[count:] = second[count:] = -1
    return Track(first, second, track.weight, track.distance_s)


def _unmatched(name: str, mapping: Mapping) -> str:
    tolerance_s = mapping.tolerance_s(name)
    return f"no {name} within {tolerance_s:g} s" if np.isfinite(tolerance_s) else f"no {name} yet"


def _nothing_fits(bag: str, mapping: Mapping, tracks: MappingOf[str, Track]) -> str:
    found = [
        f"{name} fits {int(track.matched.sum())} (tolerance {mapping.tolerance_s(name):g} s, "
        f"nearest {np.min(track.distance_s):.3f} s)"
        for name, track in tracks.items()
        if not track.matched.all()
    ]
    frames = len(next(iter(tracks.values())).first)
    return f"{bag}: no frame of {frames} has all its messages: {'; '.join(found)}"


def _check_rate(moments_ns: NDArray[np.int64], mapping: Mapping, main: str) -> tuple[str, ...]:
    """Datasets state one rate; a bag whose frames come at another one deserves a word."""
    if len(moments_ns) < 3:  # noqa: PLR2004 - one period says nothing
        return ()
    period_s = float(np.median(np.diff(moments_ns))) * 1e-9
    if period_s <= 0 or abs(period_s * mapping.fps - 1) <= _RATE_MARGIN:
        return ()
    warning = (
        f"frames of {main} come every {period_s:.4f} s ({1 / period_s:.2f} Hz), the dataset says "
        f"{mapping.fps} fps: check fps and rosbag.stride"
    )
    return (warning,)
