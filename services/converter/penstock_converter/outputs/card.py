"""The dataset card: ``README.md`` of a LeRobot dataset, as the Hugging Face Hub shows it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from penstock_converter.jobs.outcome import Outcome

__all__ = ["CARD_NAME", "dataset_card", "write_card"]

CARD_NAME = "README.md"
_RECORDINGS_NAMED, _ELEMENTS_NAMED = 200, 32
"""A card is read by people: of more, the card says how many more."""

_LICENCES = "https://huggingface.co/docs/hub/repositories-licenses"
_SPECIAL = str.maketrans({mark: f"\\{mark}" for mark in "\\`*[]<>|"})


def dataset_card(info: dict[str, Any], outcome: Outcome) -> str:
    """The text of the card: the same for the same dataset, whenever and however fast it was made.

    Recordings go by their names alone: where they lay is nobody's business.

    Args:
        info: Content of ``meta/info.json``.
        outcome: What the conversion did.

    Returns:
        Markdown behind a block of YAML, as the Hub reads it. It states no licence: that is for the
        owner of the recordings to choose.
    """
    robot, task = info["robot_type"], _plain(outcome.mapping["task"])
    tags = ["LeRobot", "penstock", *([robot] if robot else [])]
    front = {
        "task_categories": ["robotics"],
        "tags": tags,
        "configs": [{"config_name": "default", "data_files": "data/*/*.parquet"}],
    }
    seconds = info["total_frames"] / info["fps"]
    facts = [
        ("Robot", _plain(robot or "not stated")),
        ("Task", task),
        ("Frames a second", info["fps"]),
        ("Episodes", info["total_episodes"]),
        ("Frames", info["total_frames"]),
        ("Duration", f"{seconds:.1f} s"),
        ("Format", f"LeRobot {info['codebase_version']}"),
    ]
    return f"""\
---
# license: yours to choose, see {_LICENCES}
{_yaml(front)}---

# {task}

{info["total_episodes"]} episodes of {_plain(robot or "a robot")}, converted from recordings \
(rosbags) by Penstock {version("penstock")}.

{_table(("", ""), facts)}
## Features

{_table(("feature", "type", "shape", "elements"), map(_feature, info["features"].items()))}
Time stamps are exactly frame / {info["fps"]} seconds, counted from the start of each episode.

## Use

With [LeRobot](https://github.com/huggingface/lerobot); `root` is a folder that holds a copy, leave
it out to have it downloaded:

```python
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("USER/NAME", root="FOLDER")
print(dataset[0].keys())
```

{_rows_hint(info)}

```python
from datasets import load_dataset

rows = load_dataset("USER/NAME", split="train")  # or: load_dataset("FOLDER", split="train")
```

## How it was made

{_origin(outcome)}
<details>
<summary>The mapping: which topic became which feature</summary>

```yaml
{_yaml(_mapping(outcome.mapping))}```

</details>
"""


def write_card(dataset: Path, outcome: Outcome) -> None:
    """Write ``README.md`` into a LeRobot dataset that is complete otherwise."""
    info = json.loads((dataset / "meta" / "info.json").read_text("utf-8"))
    (dataset / CARD_NAME).write_text(dataset_card(info, outcome), "utf-8")


def _feature(item: tuple[str, dict[str, Any]]) -> tuple[object, ...]:
    name, feature = item
    kind = feature["dtype"]
    codec = feature.get("info", {}).get("video.codec")
    names: list[str] = list(feature["names"] or [])
    more = len(names) - _ELEMENTS_NAMED
    if more > 0:
        names = [*names[:_ELEMENTS_NAMED], f"and {more} more"]
    return (
        _plain(name),
        f"{kind} ({codec})" if codec else kind,
        " x ".join(map(str, feature["shape"])),
        _plain(", ".join(names)),
    )


def _origin(outcome: Outcome) -> str:
    lines: list[str] = []
    dropped: Counter[str] = Counter()
    for bag in outcome.converted:
        dropped.update(bag.dropped)
    lines += [f"- {count} frames left out: {_plain(why)}" for why, count in dropped.items()]
    refused = Counter(bag.reason for bag in outcome.refused)
    lines += [f"- {count} recordings refused: `{reason}`" for reason, count in refused.items()]
    text = (
        "\n".join([*lines, ""]) + "\n" if lines else "No frame of its recordings was left out.\n\n"
    )
    names = [Path(bag.bag).name or bag.bag for bag in outcome.converted]
    listed = [f"- {_plain(name)}" for name in names[:_RECORDINGS_NAMED]]
    if len(names) > len(listed):
        listed.append(f"- and {len(names) - len(listed)} more")
    return (
        f"{text}<details>\n<summary>{len(names)} recordings</summary>\n\n"
        + "\n".join(listed)
        + "\n\n</details>\n"
    )


def _rows_hint(info: dict[str, Any]) -> str:
    videos = any(feature["dtype"] == "video" for feature in info["features"].values())
    held = "numbers; its videos are files of their own, in `videos/`" if videos else "all features"
    return f"The table alone, with the `datasets` library: it holds {held}:"


def _mapping(mapping: dict[str, Any]) -> dict[str, Any]:
    """What decided the content: no setting of speed, no default that says nothing."""
    rosbag = {key: value for key, value in mapping["rosbag"].items() if key != "chunk_size"}
    return _stated({**mapping, "rosbag": rosbag})


def _stated(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: _stated(value) for key, value in node.items() if value is not None and value != {}}


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _plain(text: object) -> str:
    """Text on one line that Markdown takes as it is."""
    return " ".join(str(text).split()).translate(_SPECIAL)
