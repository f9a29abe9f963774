"""The report carries its pictures with it, and they show what they should."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bag_to_policy.pictures import contact_sheet, curves_svg
from bag_to_policy.report import Picture, write_report
from bag_to_policy.summary import Score, Summary
from PIL import Image

from penstock import Batch


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        transition_ids=np.arange(5),
        frames=rng.integers(0, 256, (5, 2, 3, 8, 8, 3), np.uint8),
        joint=np.zeros((5, 16), np.float32),
        next_joint=np.zeros((5, 16), np.float32),
        action=np.zeros((5, 16), np.float32),
        reward=np.zeros(5, np.float32),
        terminal=np.zeros(5, np.bool_),
        cameras=("left", "right", "global"),
    )


def test_contact_sheet_shows_the_true_pixels_of_every_camera(batch: Batch) -> None:
    with Image.open(io.BytesIO(contact_sheet(batch))) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    for transition, moment, camera in np.ndindex(5, 2, 3):
        top, left = 96 * (3 * moment + camera), 96 * transition
        tile = sheet[top : top + 92, left : left + 92]
        frame = batch.frames[transition, moment, camera]
        np.testing.assert_array_equal(tile[0, 0], frame[0, 0])
        np.testing.assert_array_equal(tile[-1, -1], frame[-1, -1])
        assert len(np.unique(tile.reshape(-1, 3), axis=0)) <= 64  # nothing was smoothed


def test_curves_name_their_lines() -> None:
    svg = curves_svg(
        {"LAPO": ([0, 1000], [-19.0, -6.0]), "behaviour cloning": ([0], [-18.0])},
        title="Return of roll-outs",
        y_label="mean return",
        level=("recorded behaviour", -14.1),
    )
    assert svg.startswith("<svg")
    for text in ("LAPO", "behaviour cloning", "recorded behaviour", "optimiser steps"):
        assert text in svg
    assert "http://www.w3.org" in svg


class Sources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_report_needs_nothing_from_elsewhere(tmp_path: Path, batch: Batch) -> None:
    score = Score(-6.0, 8.0, 0.55, 100)
    summary = Summary(
        score, score, score, 1.0, 2.0, {"a <b>": 1.0}, 1.0, 1.0, {"lapo": 25.0}, {"bags": 1.0}
    )
    sheet = contact_sheet(batch)
    curve = curves_svg({"LAPO": ([0, 1], [0.0, 1.0])}, title="t", y_label="y")
    path = tmp_path / "report.html"
    write_report(
        path, summary, curves=[curve], clip=Picture(sheet, "a clip"), sheet=Picture(sheet, "sheet")
    )
    page = path.read_text("utf-8")
    parser = Sources()
    parser.feed(page)
    assert parser.tags.count("img") == 2
    assert parser.tags.count("svg") == 1
    pictures = [source for source in parser.sources if source.startswith("data:image/png;base64,")]
    assert len(pictures) == 2
    assert base64.b64decode(pictures[0].split(",")[1]) == sheet
    assert all(source.startswith(("data:", "#")) for source in parser.sources)
    assert not re.search(r"url\(\s*['\"]?http", page)
    assert "a &lt;b&gt;" in page
