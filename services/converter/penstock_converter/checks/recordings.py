"""Checks of a dataset against its recordings: which frames, which numbers, which images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock.memory import memory_limit_bytes
from penstock_converter.checks.comparison import bound_told, psnr_bound_db
from penstock_converter.checks.dataset import Dataset
from penstock_converter.checks.findings import Check, Ledger
from penstock_converter.checks.images import sampled
from penstock_converter.checks.targets import Hdf5Target, LeRobotTarget, Target
from penstock_converter.frames.choice import Frames, choose_frames, is_image
from penstock_converter.frames.stream import FrameMessages, stream_frames
from penstock_converter.frames.timeline import Timeline, read_timeline
from penstock_converter.jobs.camera import BROKEN
from penstock_converter.jobs.outcome import BagOutcome
from penstock_converter.mapping.model import Mapping
from penstock_converter.messages.numbers import NumberDecoder
from penstock_converter.recordings.bag import Bag, open_bag

__all__ = ["check_recordings"]

_NAMES = ("recording: frames", "recording: numbers", "recording: images")


def check_recordings(
    dataset: Dataset,
    hdf5: Path | None,
    bags: Sequence[Path] | None,
    ledger: Ledger,
    *,
    full: bool,
) -> None:
    """Make frames of the recordings again and compare; all with ``full``, or a sample.

    Args:
        dataset: What was made of them.
        hdf5: Folder of the HDF5 files, if there are any.
        bags: The recordings; None: those that ``conversion.json`` names, where they still are.
        ledger: Takes the checks.
        full: Whether all frames are compared.
    """
    outcome, mapping = dataset.outcome, dataset.mapping
    if outcome is None or mapping is None:
        for name in _NAMES:
            ledger.skip(name, "conversion.json with the mapping is missing")
        return
    found = _find(outcome.converted, bags)
    if not any(found) and bags is None:
        for name in _NAMES:
            ledger.skip(name, "the recordings are not where they were: name them with --bags")
        return
    bound_db = psnr_bound_db(mapping.outputs.lerobot)
    which = "all frames" if full else "first, middle, last and two more frames of each episode"
    frames = ledger.open(_NAMES[0], "as many episodes and rows as the dataset has")
    numbers = ledger.open(_NAMES[1], f"{which}, within one step of the type")
    images = ledger.open(
        _NAMES[2],
        f"{which}; tables and HDF5 exact, {bound_told(bound_db)}",
    )
    targets: list[Target] = []
    with ExitStack() as stack:
        if dataset.episodes is not None and dataset.fps:
            targets.append(LeRobotTarget(dataset, numbers, images, bound_db))
        if hdf5 is not None and mapping.outputs.hdf5 is not None:
            targets.append(Hdf5Target(dataset, hdf5, mapping.outputs.hdf5, numbers, images))
        for target in targets:
            stack.callback(target.close)
        for bag, path in zip(outcome.converted, found, strict=True):
            if path is None:
                frames.warn(f"{bag.bag} is not there: its episodes are not compared")
                continue
            with frames.guard(file=str(path)):
                _Recording(dataset, mapping, bag, path, targets, frames, images, full=full).check()


def _find(converted: Sequence[BagOutcome], bags: Sequence[Path] | None) -> list[Path | None]:
    """The recording of each outcome: by the end of its path, or in order where no name fits."""
    if bags is None:
        return [Path(bag.bag) if Path(bag.bag).exists() else None for bag in converted]
    left = list(bags)
    found: list[Path | None] = []
    for outcome in converted:
        wanted = Path(outcome.bag).absolute()
        best = max(left, key=lambda bag: _alike(bag.absolute(), wanted), default=None)
        if best is not None and _alike(best.absolute(), wanted):
            left.remove(best)
            found.append(best)
        else:
            found.append(None)
    if not any(found) and len(bags) == len(converted):
        return list(bags)
    return found


def _alike(path: Path, other: Path) -> int:
    """How many parts two paths have in common at their ends."""
    pairs = zip(reversed(path.parts), reversed(other.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@dataclass
class _Recording:
    dataset: Dataset
    mapping: Mapping
    outcome: BagOutcome
    path: Path
    targets: Sequence[Target]
    frames: Check
    images: Check
    full: bool

    def check(self) -> None:
        settings = self.mapping.rosbag
        file = str(self.path)
        with open_bag(self.path, salvage=settings.salvage, definitions=settings.definitions) as bag:
            timeline = read_timeline(bag, self.mapping)
            choice = choose_frames(timeline, self.mapping, file)
            self.frames.count("recordings")
            if len(choice.episodes) != self.outcome.episodes:
                self.frames.fail(
                    f"becomes {len(choice.episodes)} episodes, the dataset has "
                    f"{self.outcome.episodes} of it",
                    file=file,
                    episode=self.outcome.episode,
                )
            for number, found in enumerate(choice.episodes[: self.outcome.episodes]):
                episode = self.outcome.episode + number
                with self.frames.guard(file=file, episode=episode):
                    self._check_episode(bag, timeline, found, episode)

    def _check_episode(self, bag: Bag, timeline: Timeline, found: Frames, episode: int) -> None:
        rows = self._rows(episode)
        self.frames.count("rows", found.count)
        if rows is not None and rows != found.count:
            self.frames.fail(
                f"becomes {found.count} rows, the dataset has {rows}",
                file=str(self.path),
                episode=episode,
            )
        count = min(found.count, rows if rows is not None else found.count)
        chosen = sampled(count, full=self.full)
        if found.observations > found.count == count:
            chosen.append(found.count)
        some = _some(found, chosen)
        mapping = self.mapping
        decoders = {
            source: NumberDecoder(source, part, timeline.kinds[part.topic])
            for source, part in mapping.sources.items()
            if not is_image(timeline.kinds[part.topic])
        }
        stream = stream_frames(bag, timeline, some, mapping, memory_limit_bytes())
        for messages in stream:
            frame = chosen[messages.frame]
            for name in mapping.features:
                keys = mapping.keys(name)
                if not all(messages.messages[key] for key in keys):
                    continue
                if keys[0] in decoders:
                    vector = _vector(bag, mapping, name, decoders, messages, some)
                    for target in self.targets:
                        target.check_numbers(name, episode, frame, vector)
                    continue
                _, data = messages.messages[keys[0]][0]
                with self.images.guard(file=str(self.path), episode=episode, feature=name):
                    message = bag.decode(mapping.sources[keys[0]].topic, data)
                    self._check_image(name, episode, frame, message)

    def _check_image(self, name: str, episode: int, frame: int, message: Any) -> None:
        try:
            for target in self.targets:
                depth = self.mapping.features[name].dtype == "depth"
                target.check_image(name, episode, frame, message, depth=depth)
        except DataFault as error:
            if self.mapping.rosbag.broken != "hold" or error.reason not in BROKEN:
                raise
            # The frame has the image before, as the mapping asks.
            self.images.count("images held")

    def _rows(self, episode: int) -> int | None:
        if self.dataset.episodes is None:
            return None
        lengths = self.dataset.episodes.length
        return int(lengths[episode]) if episode < len(lengths) else 0


def _some(frames: Frames, chosen: list[int]) -> Frames:
    """A few of the frames as an episode of their own."""
    at = np.array(chosen, np.int64)
    return Frames(
        count=len(at),
        times_ns=frames.times_ns[at],
        tracks={source: track.at(at) for source, track in frames.tracks.items()},
        cut_after=np.zeros(len(at), np.bool_),
    )


def _vector(
    bag: Bag,
    mapping: Mapping,
    name: str,
    decoders: dict[str, NumberDecoder],
    messages: FrameMessages,
    frames: Frames,
) -> NDArray[np.float64]:
    parts: list[NDArray[np.float64]] = []
    for key in mapping.keys(name):
        topic: Any = mapping.sources[key].topic
        found = [decoders[key](bag.decode(topic, data)) for _, data in messages.messages[key]]
        weight = float(frames.tracks[key].weight[messages.frame])
        blended = found[0] if len(found) == 1 else (1 - weight) * found[0] + weight * found[1]
        parts.append(blended)
    return np.concatenate(parts)
