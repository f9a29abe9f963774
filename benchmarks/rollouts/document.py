"""The section of ``docs/benchmarks.md`` about rollouts, made from the results written last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from goals import GOALS
from peers import codec_ways, transfer_ways
from report import read_results
from tables import DOCUMENT, markdown_table

__all__ = ["tables_of", "write_docs"]

_VIEWS_MB_S = 30_000
"""Nothing that touches every byte is as fast on one core: these are views."""
_SAME = 1.05
_RATES = {"0.1": "0.1 Gb/s", "1": "1 Gb/s", "10": "10 Gb/s", "unshaped": "no limit"}
_CHOICES = {
    "neighbours": "8 neighbours of 1024, a block of the file",
    "scattered": "8 of 1024, far from each other",
}


def write_docs() -> Any:
    """Put the tables of the last results into the document; returns its path.

    Raises:
        ValueError: The document has no place for them, or there are no results.
    """
    found = read_results("rollouts")
    text = DOCUMENT.read_text("utf-8")
    place = re.compile(r"(<!-- rollouts -->\n).*?(<!-- end -->)", re.DOTALL)
    if found is None or not place.search(text):
        raise ValueError(f"{DOCUMENT} needs '<!-- rollouts -->', and results to put there")
    tables = tables_of(found)
    DOCUMENT.write_text(place.sub(lambda match: f"{match[1]}{tables}\n{match[2]}", text), "utf-8")
    return DOCUMENT


def tables_of(found: Mapping[str, Any]) -> str:
    """All tables of a run, as Markdown."""
    parts = (_goals, _calibrated, _codecs, _transfers, _stages, _advice, _pulls, _not_run, _machine)
    return "\n\n".join(text for text in (part(found) for part in parts) if text)


def _goals(found: Mapping[str, Any]) -> str:
    return markdown_table(
        ("figure", "measured", "wanted", ""),
        (
            (
                goal.text,
                goal.show(found[goal.name]) if goal.name in found else "not run",
                goal.show_bound(),
                "" if goal.is_met(found) else "missed",
            )
            for goal in GOALS
        ),
    )


def _calibrated(found: Mapping[str, Any]) -> str:
    def row(way: str, text: str) -> tuple[str, ...]:
        figures = found["calibrated"][way]
        speeds = (f"{figures[name]:.0f}" for name in ("in_mb_s", "out_mb_s") if name in figures)
        return (text, f"{figures['ratio']:.2f}", *speeds)

    natural = row("natural_lz4", "LZ4 in the natural layout, observations")
    return markdown_table(
        ("lidar with a reach of 3.1 m", "ratio", "MB/s in, one core", "MB/s out"),
        (
            (*natural, "", ""),
            row("lz4", "LZ4, observations"),
            row("zstd", "zstd, observations"),
            row("next", "LZ4, `next` rebuilt, all fields"),
            row("zstd_next", "zstd, `next` rebuilt, all fields"),
        ),
    )


def _codecs(found: Mapping[str, Any]) -> str:
    def row(way: str, text: str) -> tuple[str, ...]:
        figures = found["codecs"][way]
        out = figures["out_mb_s"]
        return (
            text,
            f"{figures['ratio']:.2f}",
            f"{figures['in_mb_s']:.0f}",
            f"{out:.0f}" if out < _VIEWS_MB_S else "views",
        )

    ways = codec_ways().items()
    return markdown_table(
        ("codec", "ratio", "MB/s in, one core", "MB/s out"),
        (row(way, text) for way, text in ways if way in found["codecs"]),
    )


def _transfers(found: Mapping[str, Any]) -> str:
    rates = [rate for rate in _RATES if rate in found["transfers"]]

    def row(way: str, text: str) -> tuple[str, ...]:
        timed = [found["transfers"][rate].get(way) for rate in rates]
        sent = sorted(each["wire_mb"] for each in timed if each)
        # What is advised differs by rate; what else differs is repeated packets.
        same = sent[-1] < _SAME * sent[0]
        sent_mb = f"{sent[0]:.1f}" if same else f"{sent[0]:.1f} to {sent[-1]:.1f}"
        return (text, *(f"{each['ms']:.0f}" if each else "" for each in timed), sent_mb)

    ways = transfer_ways().items()
    table = markdown_table(
        ("from arrays to arrays, ms", *(_RATES[rate] for rate in rates), "MB sent"),
        (
            row(way, text)
            for way, text in ways
            if any(way in found["transfers"][rate] for rate in rates)
        ),
    )
    return f"{table}\n\n{_link(found, rates)}"


def _stages(found: Mapping[str, Any]) -> str:
    """Where the time goes at 1 Gb/s."""
    columns = ("sent_ms", "collector_cpu_ms", "server_cpu_ms", "trainer_cpu_ms")

    def row(text: str, each: Mapping[str, Any]) -> tuple[str, ...]:
        return (
            text,
            *(f"{value:.0f}" for value in (each["ms"], *(each[name] for name in columns))),
        )

    ways = found["transfers"].get("1", {})
    return markdown_table(
        ("at 1 Gb/s, ms", "in all", "until sent (stored)", "CPU: collector", "server", "trainer"),
        (row(text, ways[way]) for way, text in transfer_ways().items() if way in ways),
    )


def _link(found: Mapping[str, Any], rates: list[str]) -> str:
    measured = (
        f"{_RATES[rate]}: {found['raw_mb'] * 8 / each['ms']:.2f} Gb/s"
        for rate in rates
        if (each := found["transfers"][rate].get("socket"))
    )
    return f"The arrays through a plain socket: {', '.join(measured)}."


def _advice(found: Mapping[str, Any]) -> str:
    return markdown_table(
        ("link", "what `advise` says of it"),
        ((_RATES[rate], advice["reason"]) for rate, advice in found["advice"].items()),
    )


def _pulls(found: Mapping[str, Any]) -> str:
    return markdown_table(
        ("part", "read of the file", "sent, all headers counted"),
        (
            (
                _CHOICES[choice],
                f"{100 * each['read_share']:.2f} %",
                f"{100 * each['wire_share']:.2f} %",
            )
            for choice, each in found["pulls"].items()
        ),
    )


def _not_run(found: Mapping[str, Any]) -> str:
    return "\n\n".join(f"{name} did not run: {why}" for name, why in found["not_run"].items())


def _machine(found: Mapping[str, Any]) -> str:
    at = found["machine"]
    names = ("torch", "tensordict", "pyarrow", "dm-reverb", "blosc2", "grpcio")
    versions = ", ".join(f"{name} {at[name]}" for name in names)
    return (
        f"A rollout has {found['raw_mb']:.1f} MB in {found['fields']} fields. {at['cpu']}, "
        f"{at['cores']} cores, Python {at['python']}, load {at['load_average']:.1f} at the start, "
        f"{at['date']}; {versions}."
    )
