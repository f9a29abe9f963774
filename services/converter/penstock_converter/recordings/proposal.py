"""A mapping to begin with, by what a recording holds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from penstock_converter.mapping.parsing import fitting_presets
from penstock_converter.messages.joint_state import JOINT_STATE
from penstock_converter.recordings.inspection import Inspection, NumberField, Topic

__all__ = ["propose_mapping"]

_COMMANDS = re.compile(r"(?:^|[/_])(?:actions?|cmds?|commands?|goals?|targets?)(?:[/_]|$)")
_TOO_COMMON = frozenset(
    {"image", "image_raw", "compressed", "color", "rgb", "raw", "camera_info", "depth", "sensors"}
)
_DEFAULT_FPS = 10
_MAX_FPS = 1000
_MAX_WIDTH = 256
"""Wider numbers are scans or maps rather than joints."""


def propose_mapping(inspection: Inspection) -> str:
    """YAML that ``penstock convert`` takes, with what was left out as comments.

    Cameras become ``observation.images.*``, colours first; the first topic of joints becomes
    ``observation.state``, that of commands ``action``. It is a guess: names, units and order are
    for people to check.
    """
    usable = [topic for topic in inspection.topics if not topic.problem]
    cameras = [topic for topic in usable if topic.image]
    cameras.sort(key=lambda topic: topic.depth)
    numeric = [topic for topic in usable if _field(topic) is not None and not topic.image]
    commands = [topic for topic in numeric if _COMMANDS.search(topic.name)]
    states = [topic for topic in numeric if topic not in commands]
    states.sort(key=lambda topic: topic.kind != JOINT_STATE)
    features: list[str] = []
    for name, topic in zip(_names(cameras), cameras, strict=True):
        dtype = ", dtype: depth" if topic.depth else ""
        features.append(
            f"  observation.images.{name}: {{topic: {topic.name}{dtype}}}  # {topic.image}"
        )
    others: list[Topic] = []
    for role, topics, extra in (
        ("observation.state", states, ""),
        # A command holds until the next one.
        ("action", commands, ", align: hold"),
    ):
        if topics:
            features.append(_feature(role, topics[0], extra))
            others += topics[1:]
    main = (cameras or states or commands or [None])[0]
    lines = [
        f"# A proposal from {inspection.bag}: check names, units and which topic is which.",
        *(
            f"# It fits preset {name}: --mapping {name}"
            for name in fitting_presets(inspection.usable_topics)
        ),
        "task: Say what the robot does.",
        f"fps: {_fps(main)}",
        *([] if features else ["# Nothing in it is an image or numbers."]),
        "features:",
        *features,
        *(
            f"  # {_feature('observation.' + name, topic, '').strip()}"
            for name, topic in zip(_names(others), others, strict=True)
        ),
        *(
            f"  # left out: {topic.name} ({topic.problem or topic.kind})"
            for topic in inspection.topics
            if topic not in (*cameras, *numeric)
        ),
        "outputs:",
        "  lerobot: {}",
    ]
    return "\n".join(lines) + "\n"


def _feature(role: str, topic: Topic, extra: str) -> str:
    field = _field(topic)
    assert field is not None  # noqa: S101 - only numeric topics come here
    more = [each.path for each in topic.numbers if each.path != field.path][:6]
    also = f"; also {', '.join(more)}" if more else ""
    return (
        f"  {role}: {{topic: {topic.name}, field: '{field.path}'{extra}}}"
        f"  # {field.width} numbers{also}"
    )


def _field(topic: Topic) -> NumberField | None:
    """The part of a message that says most: positions, else the widest that is not too wide."""
    fitting = [field for field in topic.numbers if field.width <= _MAX_WIDTH]
    if not fitting:
        return None
    for wanted in ("position", "data"):
        for field in fitting:
            if field.path.split(".")[-1] == wanted:
                return field
    return max(fitting, key=lambda field: field.width)


def _fps(topic: Topic | None) -> int:
    if topic is None or not topic.rate_hz:
        return _DEFAULT_FPS
    return min(max(round(topic.rate_hz), 1), _MAX_FPS)


def _names(topics: Sequence[Topic]) -> list[str]:
    """A name for each: the first part of its topic that tells it from the others."""
    names: list[str] = []
    for topic in topics:
        parts = [part for part in topic.name.split("/") if part]
        telling = [part for part in parts if part not in _TOO_COMMON] or parts
        others = [
            other.name.split("/")
            for other in topics
            if other is not topic and other.depth == topic.depth
        ]
        own = [part for part in telling if not any(part in other for other in others)] or telling
        name = re.sub(r"\W", "_", own[0]) + ("_depth" if topic.depth else "")
        while name in names:
            name += "_"
        names.append(name)
    return names
