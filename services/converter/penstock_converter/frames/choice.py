"""The frames of an episode: moments of the main feature for which everything needed is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, replace

import numpy as np
import structlog
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.frames.align import Track, align
from penstock_converter.frames.clocks import check_clocks, clocks_apart
from penstock_converter.frames.timeline import Timeline
from penstock_converter.mapping.model import Mapping

__all__ = ["IMAGE_KINDS", "Choice", "Frames", "choose_frames", "is_image"]

log = structlog.get_logger(__name__)

IMAGE_KINDS = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_RATE_MARGIN = 0.1
_PAUSE_FRAMES, _PAUSE_S = 5, 0.5
"""A pause of the main feature by default: so many frames, and so many seconds at least."""

_REPEATED_MOST = 100_000
"""Frames that ``rosbag.gap: hold`` puts into pauses: nearly an hour at 30 Hz."""

_END_S = 1.0
"""How much earlier than other topics the main feature may end unmentioned."""


@dataclass(frozen=True)
class Frames:
    """What an episode is made of.

    Attributes:
        count: Rows of the episode, N.
        times_ns: (N,) or (N + 1,) int64 times of the frames.
        tracks: What each source takes, (N,) or (N + 1,) long. An (N + 1)-th frame is the
            observation after the last row, for HDF5; sources not observed have none there.
        cut_after: (N,) bool, rows after which frames are missing (``rosbag.gap=drop``).
    """

    count: int
    times_ns: NDArray[np.int64]
    tracks: MappingOf[str, Track]
    cut_after: NDArray[np.bool_]

    @property
    def observations(self) -> int:
        """N, or N + 1 with an observation after the last row."""
        return len(self.times_ns)


@dataclass(frozen=True)
class Choice:
    """What a recording becomes.

    Attributes:
        episodes: In order; one, unless the mapping splits.
        dropped: Frames left out, by reason.
        warnings: What a person should look at.
    """

    episodes: tuple[Frames, ...]
    dropped: dict[str, int]
    warnings: tuple[str, ...]

    def with_warnings(self, warnings: Iterable[str]) -> Choice:
        """The same with more warnings."""
        return replace(self, warnings=(*self.warnings, *warnings))

    @property
    def frames(self) -> int:
        """Rows of all episodes."""
        return sum(episode.count for episode in self.episodes)


def is_image(kind: str) -> bool:
    """Whether messages of type ``kind`` are images."""
    return kind in IMAGE_KINDS


def main_source(mapping: Mapping, timeline: Timeline) -> str:
    """The source whose messages are the frames."""
    if mapping.rosbag.main is not None:
        return mapping.keys(mapping.rosbag.main)[0]
    for source, part in mapping.sources.items():
        if is_image(timeline.kinds[part.topic]):
            return source
    return next(iter(mapping.sources))


def choose_frames(timeline: Timeline, mapping: Mapping, bag: str) -> Choice:
    """Choose frames and align every source to them.

    Args:
        timeline: Times of all messages.
        mapping: Which features there are.
        bag: Name of the recording, for messages.

    Raises:
        DataFault: A clock jumps, no frame is complete, or one inside the episode is not and
            ``rosbag.gap`` is ``fail``.
    """
    settings = mapping.rosbag
    dropped: Counter[str] = Counter()
    main = main_source(mapping, timeline)
    clocks = check_clocks(timeline, mapping, bag)
    apart = clocks_apart(timeline, mapping, main)
    moments = _moments(timeline, mapping, main, bag, dropped)
    pauses = _pauses(moments, mapping)
    if len(pauses) and settings.gap == "fail":
        raise DataFault(_pause_told(bag, mapping, main, moments, pauses), reason="GAP")
    warnings = [
        *clocks,
        *apart,
        *_check_rate(moments, mapping, main),
        *_check_end(timeline, mapping, main),
    ]
    if len(pauses):
        warnings.append(_pause_told("", mapping, main, moments, pauses))
        if settings.gap == "hold":
            moments = _filled(moments, pauses, bag)
            pauses = pauses[:0]
    tracks = {
        source: align(
            moments + round(part.offset_s * 1e9),
            timeline.topics[part.topic].by(mapping.clock(source)),
            part.align,
            mapping.tolerance_s(source),
        )
        for source, part in mapping.sources.items()
    }
    complete = np.logical_and.reduce([track.matched for track in tracks.values()])
    rows = np.flatnonzero(complete)
    if not len(rows):
        told = "; ".join((_nothing_fits(bag, mapping, tracks), *apart))
        raise DataFault(told, reason="NO_COMPLETE_FRAME")
    first, last = int(rows[0]), int(rows[-1])
    if settings.gap == "hold":
        for source, track in tracks.items():
            tracks[source], held = _held(track, first, last)
            if held:
                topic = mapping.sources[source].topic
                warnings.append(
                    f"{held} frames have {_unmatched(source, mapping)} (topic {topic}) and take "
                    "that of the frame before"
                )
        rows = np.arange(first, last + 1)
        complete = (np.arange(len(moments)) >= first) & (np.arange(len(moments)) <= last)
    for frame in np.flatnonzero(~complete):
        source = next(source for source, track in tracks.items() if not track.matched[frame])
        reason = _unmatched(source, mapping)
        if first < frame < last and settings.gap == "fail":
            raise DataFault(
                f"{bag}: frame {frame} at {moments[frame] * 1e-9:.3f} s has {reason} (topic "
                f"{mapping.sources[source].topic}, the nearest usable one is "
                f"{tracks[source].distance_s[frame]:.3f} s away): widen tolerance_s of {source}, "
                "or set rosbag.gap: drop to leave such frames out, split to end the episode "
                "there, or hold to repeat what was before",
                reason="GAP",
                metadata={"feature": source, "frame": str(int(frame))},
            )
        dropped[reason] += 1
    episodes = [
        _episode(part, pauses, tracks, moments, mapping)
        for part in _split(rows, pauses, settings.gap, settings.split_episodes)
    ]
    return Choice(tuple(episodes), dict(dropped), tuple(warnings))


def _moments(
    timeline: Timeline, mapping: Mapping, main: str, bag: str, dropped: Counter[str]
) -> NDArray[np.int64]:
    """Times of the messages that are frames, (F,) int64, sorted."""
    settings = mapping.rosbag
    topic = mapping.sources[main].topic
    recorded = timeline.topics[topic].by(mapping.clock(main))
    times = np.unique(recorded)
    if len(times) < len(recorded):
        # There is one state of the world at a time, and nearest takes the message that came last.
        dropped["same time as another message of the main feature"] = len(recorded) - len(times)
    kept = times[settings.drop_first : max(len(times) - settings.drop_last, settings.drop_first)]
    for reason, asked in (("drop_first", settings.drop_first), ("drop_last", settings.drop_last)):
        if asked:
            dropped[reason] = min(asked, len(times))
    if not len(kept):
        raise DataFault(
            f"{bag}: topic {topic} has {len(times)} messages, drop_first {settings.drop_first} and "
            f"drop_last {settings.drop_last} leave none",
            reason="NO_FRAMES",
        )
    return kept[:: settings.stride]


def _pauses(moments_ns: NDArray[np.int64], mapping: Mapping) -> NDArray[np.intp]:
    """Frames after which the main feature is silent for too long."""
    longest_s = mapping.rosbag.pause_s
    if longest_s is None:
        longest_s = max(_PAUSE_FRAMES / mapping.fps, _PAUSE_S)
    return np.flatnonzero(np.diff(moments_ns) > round(longest_s * 1e9))


def _filled(moments_ns: NDArray[np.int64], pauses: NDArray[np.intp], bag: str) -> NDArray[np.int64]:
    """Moments with the usual period inside pauses too.

    Raises:
        DataFault: That would be more frames than anybody repeats: a clock was set.
    """
    period_ns = max(int(np.median(np.diff(moments_ns))), 1)
    paused_ns = int(np.diff(moments_ns)[pauses].sum())
    if paused_ns // period_ns > _REPEATED_MOST:
        raise DataFault(
            f"{bag}: the main feature pauses for {paused_ns * 1e-9:.0f} s, which is "
            f"{paused_ns // period_ns} frames, and at most {_REPEATED_MOST} are repeated: if a "
            "clock jumped, set rosbag.gap: split",
            reason="GAP",
        )
    added = [
        np.arange(int(begin) + period_ns, int(end) - period_ns // 2, period_ns)
        for begin, end in zip(moments_ns[pauses], moments_ns[pauses + 1], strict=True)
    ]
    return np.sort(np.concatenate([moments_ns, *added]))


def _split(
    rows: NDArray[np.intp], pauses: NDArray[np.intp], gap: str, longest: int | None
) -> list[NDArray[np.intp]]:
    """Rows of each episode."""
    parts = [rows]
    if gap == "split":
        cut = (np.diff(rows) > 1) | np.isin(rows[:-1], pauses)
        parts = np.split(rows, np.flatnonzero(cut) + 1)
    if longest is None:
        return parts
    return [part[at : at + longest] for part in parts for at in range(0, len(part), longest)]


def _episode(
    rows: NDArray[np.intp],
    pauses: NDArray[np.intp],
    tracks: MappingOf[str, Track],
    moments_ns: NDArray[np.int64],
    mapping: Mapping,
) -> Frames:
    hdf5 = mapping.outputs.hdf5
    observed: set[str] = set()
    if hdf5 is not None:
        names = (hdf5.joint, *hdf5.images.values())
        observed = {key for name in names for key in mapping.keys(name)}
    last = int(rows[-1])
    extra = None
    if last not in pauses:
        extra = _observation_after(last, observed, tracks, len(moments_ns))
    chosen = np.append(rows, extra) if extra is not None else rows
    first, stop = int(chosen[0]), int(chosen[-1]) + 1
    # Frames that follow each other are not copied.
    taken = slice(first, stop) if stop - first == len(chosen) else chosen
    # A gap right after the last row is no cut: the extra frame follows it directly.
    cut_after = np.append((np.diff(rows) > 1) | np.isin(rows[:-1], pauses), False)
    return Frames(
        count=len(rows),
        times_ns=moments_ns[taken],
        tracks={
            source: track.at(taken) if source in observed else _without(track.at(taken), len(rows))
            for source, track in tracks.items()
        },
        cut_after=cut_after,
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
    if len(track.first) == count:
        return track
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


def _check_end(timeline: Timeline, mapping: Mapping, main: str) -> tuple[str, ...]:
    """An episode ends with its main feature, so a camera that stops early costs what follows."""
    ends = {topic: int(timeline.topics[topic].receive_ns.max()) * 1e-9 for topic in mapping.topics}
    topic = mapping.sources[main].topic
    early_s = max(ends.values()) - ends[topic]
    if early_s <= _END_S:
        return ()
    warning = f"{main} (topic {topic}) stops {early_s:.2f} s before the recording ends"
    return (warning,)


def _pause_told(
    bag: str,
    mapping: Mapping,
    main: str,
    moments_ns: NDArray[np.int64],
    pauses: NDArray[np.intp],
) -> str:
    at = int(pauses[0])
    pause_s = (moments_ns[at + 1] - moments_ns[at]) * 1e-9
    more = f" and {len(pauses) - 1} times more" if len(pauses) > 1 else ""
    told = (
        f"{main} (topic {mapping.sources[main].topic}) pauses for {pause_s:.3f} s after frame "
        f"{at}{more}"
    )
    if not bag:
        return told
    return (
        f"{bag}: {told}, and frames are to follow each other at {mapping.fps} Hz: a camera that "
        "lost frames, or a clock that jumped; set rosbag.gap: split to begin another episode, "
        "hold to repeat the frame before, drop to mark the place, or widen rosbag.pause_s"
    )
