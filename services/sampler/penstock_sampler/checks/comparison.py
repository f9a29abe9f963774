"""What only shows when files are compared: widths, sizes, rewards and colours that differ.

Files pass by one at a time; what is kept of them is counts, a few names, and a few histograms of
colours for each camera.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from penstock_sampler.checks.colour_order import REMEDY, ColourProfile, relate_colours
from penstock_sampler.checks.diagnosis import Diagnosis
from penstock_sampler.checks.findings import Findings
from penstock_sampler.index.scan import FileScan

__all__ = ["Comparison"]

_LISTED = 8
_MOST_SCENES = 16
"""Of one camera; files with other colours than these are not compared any further."""

Key = TypeVar("Key", bound=Hashable)


@dataclass
class _Files:
    """Some files: how many, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list[str])

    def add(self, file: str) -> None:
        self.count += 1
        if len(self.first) < _LISTED:
            self.first.append(file)

    def __str__(self) -> str:
        more = f" and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return ", ".join(self.first) + more


class _Tally(Generic[Key]):
    """Files by something that all of them should have in common."""

    def __init__(self) -> None:
        self._files: defaultdict[Key, _Files] = defaultdict(_Files)

    def add(self, key: Key, file: str) -> None:
        self._files[key].add(file)

    def usual(self) -> tuple[Key, list[tuple[Key, _Files]]]:
        """What most files have, the first of them deciding a tie, and the others."""
        usual = max(self._files, key=lambda key: self._files[key].count)
        return usual, [(key, files) for key, files in self._files.items() if key != usual]


@dataclass
class _Side:
    """Files whose colours are alike, and how many of them are BGR rather than RGB by a decoder."""

    files: _Files = field(default_factory=_Files)
    bgr: int = 0

    def add(self, profile: ColourProfile, file: str) -> None:
        self.files.add(file)
        self.bgr += (profile.order == "bgr") - (profile.order == "rgb")


@dataclass
class _Scene:
    """Files whose colours at one camera are alike but for the order of channels."""

    example: ColourProfile
    alike: _Side = field(default_factory=_Side)
    swapped: _Side = field(default_factory=_Side)


class Comparison:
    """Compares files that would be served as one dataset.

    Attributes:
        misfits: Files that the sampler would refuse beside the others.
        suspects: Files and cameras whose images may be BGR, as far as findings name them.
    """

    def __init__(self) -> None:
        self.misfits = 0
        self.suspects: set[tuple[str, str]] = set()
        self._folder = ""
        self._served = 0
        self._unrewarded = 0
        self._widths: _Tally[tuple[int, int]] = _Tally()
        self._sizes: defaultdict[str, _Tally[tuple[int, int]]] = defaultdict(_Tally)
        self._scenes: defaultdict[str, list[_Scene]] = defaultdict(list)

    def add(self, diagnosis: Diagnosis) -> None:
        """Take in one file; a refused one has nothing to compare."""
        scan = diagnosis.scan
        if scan is None or not diagnosis.served:
            return
        file = diagnosis.findings.file
        folder = str(Path(file).parent)
        self._folder = os.path.commonpath([self._folder, folder]) if self._served else folder
        self._served += 1
        self._widths.add((scan.layout.joint_dim, scan.layout.action_dim), file)
        for image in scan.layout.images:
            self._sizes[image.camera].add((image.height, image.width), file)
        self._unrewarded += _is_unrewarded(scan)
        for profile in diagnosis.colours:
            self._add_colours(profile, file)

    def conclude(self) -> Diagnosis | None:
        """What was found, as a diagnosis of the folder that all files share; None if nothing."""
        if self._served <= 1:
            return None
        findings = Findings(self._folder)
        self._conclude_widths(findings)
        self._conclude_sizes(findings)
        if self._unrewarded == self._served:
            findings.warn(
                "reward values",
                f"every reward of {self._served} files is 0",
                remedy="check that the recorder writes rewards: without any, only imitation is "
                "left",
                reason="NO_REWARD",
            )
        for camera, scenes in self._scenes.items():
            for scene in scenes:
                self._conclude_colours(camera, scene, findings)
        return Diagnosis(findings) if findings.entries else None

    def _add_colours(self, profile: ColourProfile, file: str) -> None:
        if relate_colours(profile, profile) != "same":
            return  # grey, or so colourful that swapping hardly changes it
        scenes = self._scenes[profile.camera]
        for scene in scenes:
            relation = relate_colours(scene.example, profile)
            if relation:
                (scene.swapped if relation == "swapped" else scene.alike).add(profile, file)
                return
        if len(scenes) < _MOST_SCENES:
            scenes.append(_Scene(profile))
            scenes[-1].alike.add(profile, file)

    def _conclude_widths(self, findings: Findings) -> None:
        (joint, action), others = self._widths.usual()
        for (odd_joint, odd_action), files in others:
            self.misfits += files.count
            findings.fail(
                "vector widths",
                f"{files.count} of {self._served} files have joint and actions of widths "
                f"{odd_joint} and {odd_action}, most have {joint} and {action}: {files}",
                remedy="serve them as a dataset of their own",
                reason="WIDTH_MISMATCH",
            )

    def _conclude_sizes(self, findings: Findings) -> None:
        for camera, sizes in self._sizes.items():
            (height, width), others = sizes.usual()
            for (odd_height, odd_width), files in others:
                findings.warn(
                    f"{camera} camera",
                    f"{files.count} of {self._served} files store {odd_height}x{odd_width}, most "
                    f"store {height}x{width}: {files}",
                    remedy="check that they are meant to be one dataset; they are resized",
                    reason="IMAGE_SIZE_DIFFERS",
                )

    def _conclude_colours(self, camera: str, scene: _Scene, findings: Findings) -> None:
        sides = (scene.swapped, scene.alike)
        odd, other = sorted(sides, key=lambda side: (-side.bgr, side.files.count))
        if not (odd.files.count and other.files.count):
            return
        if odd.bgr > other.bgr:
            which = "these are BGR"
        elif odd.files.count < other.files.count:
            which = "one side is BGR, most likely these few"
        else:
            which = "one side is BGR"
        self.suspects.update((file, camera) for file in odd.files.first)
        findings.warn(
            f"{camera} colours",
            f"in {odd.files.count} of {odd.files.count + other.files.count} files with the same "
            f"colours red and blue are swapped, {which}: {odd.files}",
            remedy=REMEDY,
            reason="COLOURS_SWAPPED",
            dataset=scene.example.dataset,
        )


def _is_unrewarded(scan: FileScan) -> bool:
    reward = scan.moments["reward"]
    return reward.count > 0 and not (reward.min.any() or reward.max.any())
