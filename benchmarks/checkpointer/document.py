"""The section of ``docs/benchmarks.md`` about checkpoints, made from the results written last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from goals import GOALS
from report import read_results
from tables import DOCUMENT, markdown_table

__all__ = ["write_docs"]

_WAYS = {
    "ours": "**`AsyncCheckpointSaver`**",
    "dcp_async": "`dcp.async_save`, stager kept, staging beside training, process",
    "dcp_kept": "`dcp.async_save`, stager kept, process",
    "dcp_thread": "`dcp.async_save`, thread (its default)",
    "dcp_process": "`dcp.async_save`, process",
    "deepcopy": "`copy.deepcopy`, then `torch.save` in a thread",
    "torch_save": "`torch.save` and fsync",
}
_PROFILES = {
    "small": "`small`",
    "fast": "`fast`",
    "delta10": "`delta`, 10 steps after its base",
    "frozen": "`delta`, encoder frozen",
    "policy_bf16": "`policy-bf16`, the policy alone (lossy)",
}
_SECTIONS = ("model", "ema", "optimizer.exp_avg", "optimizer.exp_avg_sq")


def write_docs() -> Path:
    """Put the tables of the last results into the document; returns its path.

    Raises:
        ValueError: The document has no place for them, or there are no results.
    """
    found = read_results("checkpointer")
    text = DOCUMENT.read_text("utf-8")
    place = re.compile(r"(<!-- checkpointer -->\n).*?(<!-- end -->)", re.DOTALL)
    if found is None or not place.search(text):
        raise ValueError(f"{DOCUMENT} needs '<!-- checkpointer -->', and results to put there")
    tables = "\n\n".join(
        (
            _goals(found),
            _ways(found),
            _training(found),
            _profiles(found),
            _sections(found),
            _machine(found),
        )
    )
    DOCUMENT.write_text(place.sub(lambda match: f"{match[1]}{tables}\n{match[2]}", text), "utf-8")
    return DOCUMENT


def _goals(found: dict[str, Any]) -> str:
    return markdown_table(
        ("figure", "measured", "wanted", ""),
        (
            (
                goal.text,
                goal.show(found[goal.name]),
                goal.show_bound(),
                "" if goal.is_met(found) else "missed",
            )
            for goal in GOALS
        ),
    )


def _ways(found: dict[str, Any]) -> str:
    rows = [
        (
            text,
            f"{way['call_ms_p50']:.2f}",
            f"{way['stall_ms_p50']:.2f}",
            f"{way['first_call_ms']:.1f}",
            f"{way['durable_s']:.2f}" if "durable_s" in way else "",
            str(way["calls"]),
        )
        for name, text in _WAYS.items()
        for way in (found["ways"][name],)
    ]
    floors = {"memcpy_ms": "in one piece", "memcpy_tensors_ms": "tensor by tensor"}
    rows += [
        (f"floor: one copy of the bytes, {text}, one thread", f"{found[name]:.2f}", *[""] * 4)
        for name, text in floors.items()
    ]
    return markdown_table(
        ("a save", "call, ms", "stall, ms", "first call, ms", "durable after, s", "calls"), rows
    )


def _training(found: dict[str, Any]) -> str:
    rows = (
        ("throughput with saves / without, one thread", f"{found['throughput_ratio']:.3f}"),
        ("the same, two threads", f"{found['throughput_ratio_two_threads']:.3f}"),
        ("a step without saves, one thread, ms", f"{found['step_ms']:.0f}"),
        ("forward and backward of it, ms", f"{found['forward_backward_ms']:.0f}"),
        ("call, p99, ms", f"{found['call_ms_p99']:.2f}"),
        ("stall, p99, ms", f"{found['stall_ms_p99']:.2f}"),
        ("copy in the background, ms", f"{found['copy_ms']:.0f}"),
        ("CPU of the uploading process for a save, s", f"{found['uploader_cpu_s']:.2f}"),
        ("making the state dicts (in no call), ms", f"{found['state_dict_ms']:.2f}"),
        ("memory of the training process, no saver, MB", f"{found['training_mb']:.0f}"),
        (
            f"the same, saving every 20 steps, {found['buffers_every_20_steps']} snapshots, MB",
            f"{found['training_saving_mb']:.0f}",
        ),
        (
            f"memory of {found['buffers']} snapshots (queue full), shared by both processes, MB",
            f"{found['buffers_mb']:.0f}",
        ),
        (
            "memory of the uploading process beside them, MB",
            f"{found['uploader_anonymous_mb']:.0f}",
        ),
    )
    return markdown_table(("training and saving", ""), rows)


def _profiles(found: dict[str, Any]) -> str:
    rows = [
        (
            text,
            f"{100 * found[f'saved_{name}']:.1f}",
            f"{found[f'{name}_mb_s']:.0f}",
        )
        for name, text in _PROFILES.items()
    ]
    rows.append(("LZ4 alone", f"{100 * found['lz4_alone_saved']:.1f}", ""))
    return markdown_table(("profile", "saved, %", "MB/s in, one thread"), rows)


def _sections(found: dict[str, Any]) -> str:
    names = ("small", "fast", "delta10")
    return markdown_table(
        ("saved of a section, %", "MB", *(_PROFILES[name] for name in names)),
        (
            (
                f"`{section}`",
                f"{found['sections']['small'][section]['raw_mb']:.0f}",
                *(f"{100 * found['sections'][name][section]['saved']:.1f}" for name in names),
            )
            for section in _SECTIONS
        ),
    )


def _machine(found: dict[str, Any]) -> str:
    at = found["machine"]
    return (
        f"{found['tensors']} tensors, {found['state_mb']:.0f} MB. {at['cpu']}, {at['cores']} "
        f"cores, Python {at['python']}, torch {at['torch']}, {at['date']}."
    )
