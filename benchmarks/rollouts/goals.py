"""What is wanted of the figures; whether they reach it is printed and recorded, never a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goal import Goal

__all__ = ["DEFAULT", "GOALS", "KEYS", "compare"]

DEFAULT = "penstock_lz4_next"
"""The encoding that nobody has chosen."""
_RAW, _PICKLE, _ADVISED = "penstock_raw", "pickle_lz4", "penstock_advised"

GOALS = (
    Goal("LZ4, observations", "ratio_lz4", 3.5),
    Goal("  MB/s in, one core", "lz4_in_mb_s", 1000),
    Goal("  MB/s out", "lz4_out_mb_s", 1000),
    Goal("zstd, observations", "ratio_zstd", 4.5),
    Goal("default (LZ4, next rebuilt), all", "ratio_next", 7.0),
    Goal(
        "read for 8 of 1024 environments",
        "pull_8_of_1024_share",
        0.02,
        "%",
        at_most=True,
    ),
    Goal("sent for them", "pull_8_of_1024_wire_share", 0.02, "%", at_most=True),
    Goal("1 Gb/s: raw / default", "speedup_1gbit_over_raw", 2.5),
    Goal("1 Gb/s: pickle and LZ4 level 9 / default", "speedup_1gbit_over_pickle_lz4", 3.0),
    Goal("10 Gb/s: advised / raw", "advised_10gbit_over_raw", 1.05, at_most=True),
    Goal("no limit: advised / raw", "advised_unshaped_over_raw", 1.05, at_most=True),
)

_CODEC_FIGURES = {
    "example_ratio_lz4": ("penstock_lz4", "ratio"),
    "example_ratio_zstd": ("penstock_zstd", "ratio"),
    "example_ratio_next": (DEFAULT, "ratio"),
    "example_ratio_zstd_next": ("penstock_zstd_next", "ratio"),
}
_CALIBRATED_FIGURES = {
    "ratio_natural_lz4": ("natural_lz4", "ratio"),
    "ratio_lz4": ("lz4", "ratio"),
    "lz4_in_mb_s": ("lz4", "in_mb_s"),
    "lz4_out_mb_s": ("lz4", "out_mb_s"),
    "ratio_zstd": ("zstd", "ratio"),
    "zstd_in_mb_s": ("zstd", "in_mb_s"),
    "zstd_out_mb_s": ("zstd", "out_mb_s"),
    "ratio_next": ("next", "ratio"),
    "next_in_mb_s": ("next", "in_mb_s"),
    "next_out_mb_s": ("next", "out_mb_s"),
    "ratio_zstd_next": ("zstd_next", "ratio"),
}
_PULL_FIGURES = {
    "pull_8_of_1024_share": ("neighbours", "read_share"),
    "pull_8_of_1024_wire_share": ("neighbours", "wire_share"),
    "pull_8_of_1024_scattered_share": ("scattered", "read_share"),
}
_RATIOS = {
    "speedup_1gbit_over_raw": ("1", _RAW, DEFAULT),
    "speedup_1gbit_over_pickle_lz4": ("1", _PICKLE, DEFAULT),
    "speedup_1gbit_over_socket": ("1", "socket", DEFAULT),
    "speedup_1gbit_lz4_over_raw": ("1", _RAW, "penstock_lz4"),
    "advised_10gbit_over_raw": ("10", _ADVISED, _RAW),
    "advised_unshaped_over_raw": ("unshaped", _ADVISED, _RAW),
}

KEYS = (*_CODEC_FIGURES, *_CALIBRATED_FIGURES, *_PULL_FIGURES, *_RATIOS)
"""Figures that results have by themselves, for others to read; a run without one is not written."""


def compare(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures by themselves, of the tables that are there.

    Args:
        found: ``codecs`` and ``calibrated``: ratio, in_mb_s and out_mb_s by way; ``pulls``:
            read_share and wire_share by choice of environments; ``transfers``: by rate and way,
            with ``ms``.
    """
    figures: dict[str, float] = {}
    tables = {
        "codecs": _CODEC_FIGURES,
        "calibrated": _CALIBRATED_FIGURES,
        "pulls": _PULL_FIGURES,
    }
    for table, wanted in tables.items():
        for name, (row, column) in wanted.items():
            value = found.get(table, {}).get(row, {}).get(column)
            if value is not None:
                figures[name] = value
    for name, (rate, over, under) in _RATIOS.items():
        ways = found.get("transfers", {}).get(rate, {})
        if over in ways and under in ways:
            figures[name] = ways[over]["ms"] / ways[under]["ms"]
    return figures
