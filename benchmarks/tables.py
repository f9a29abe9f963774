"""The tables of ``docs/benchmarks.md``, made from the results that were written last.

Run: ``python benchmarks/tables.py``; the benchmarks run it too. What stands between the markers
``<!-- NAME -->`` and ``<!-- end -->`` is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from report import read_results

__all__ = ["DOCUMENT", "markdown_table", "write_docs"]

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"

_BATCH_ROWS = {
    "baseline": "hand-written buffer: h5py and OpenCV in the training process",
    "drop_in": "`MultimodalReplayBuffer.sample`, embedded",
    "embedded": "embedded, prefetched",
    "grpc": "**over gRPC** on loopback, prefetched",
    "grpc_alone": "over gRPC, one batch at a time",
    "grpcio": "over gRPC by grpcio alone, prefetched",
    "grpcio_alone": "over gRPC by grpcio alone, one batch at a time",
    "same_host": "**same host**, prefetched",
    "one_copy": "floor: one copy of the batch in memory, one thread",
    "one_copy_2_threads": "floor: the same, two threads",
    "socket": "floor: the batch through a TCP socket",
    "socket_encoded": "floor: the encoded batch through a TCP socket",
    "cold": "**cold disk**, over gRPC",
    "cold_grpcio": "cold disk, over gRPC by grpcio alone",
    "cold_same_host": "cold disk, same host",
    "cold_embedded": "cold disk, embedded",
    "cold_disk": "floor: the encoded bytes past the page cache, eight reads in flight",
    "rendered_grpc": "rendered frames, over gRPC",
    "lz4_grpc": "camera frames held to LZ4, over gRPC",
    "on_the_fly_grpc": "no frame cache, over gRPC (grpcio, as nothing is cached)",
}
_CPU_ROWS = {
    "baseline": "hand-written buffer",
    "server": "server, over gRPC",
    "client": "client, over gRPC",
    "grpcio_server": "server, grpcio alone",
    "grpcio_client": "client, grpcio alone",
    "same_host": "client, same host",
    "same_host_server": "server, same host",
}
_OUR_WAYS = {"grpc": "**Penstock**", "grpcio": "Penstock, by grpcio alone"}
_PEERS = {
    "torch_dataloader": "torch DataLoader over h5py",
    "grain": "grain",
    "mosaicml": "MosaicML Streaming",
    "reverb": "Reverb",
    "tfdata_service": "tf.data service",
    "webdataset": "WebDataset",
    "torchrl": "TorchRL",
    "ray": "Ray Data",
    "lerobot": "LeRobot's loader",
}
_MEMORY_ROWS = {
    "serving_1m": "1 M transitions, read from the recordings while their frames are cached",
    "cached_1m": "1 M transitions, frames cached",
    "cached_1m_grpcio": "the same, by grpcio alone",
    "index_100m": "100 M transitions",
}


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of a Markdown document."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(found: dict[str, Any]) -> str:
    at = found["machine"]
    return f"{at['cpu']}, {at['cores']} cores, Python {at['python']}, {at['date']}."


def _sampler(found: dict[str, Any]) -> str:
    baseline = found["baseline_ms"]
    batches = markdown_table(
        ("a batch", "ms", "baseline / this"),
        (
            (text, f"{found[f'{name}_ms']:.1f}", f"{baseline / found[f'{name}_ms']:.2f}")
            for name, text in _BATCH_ROWS.items()
            if f"{name}_ms" in found
        ),
    )
    cpu = markdown_table(
        ("CPU of a batch", "ms"),
        (
            (text, f"{found[f'{name}_cpu_ms']:.1f}")
            for name, text in _CPU_ROWS.items()
            if f"{name}_cpu_ms" in found
        ),
    )
    starts = markdown_table(
        ("start", "s"),
        (
            ("1000 files indexed for the first time", f"{found['index_1000_files_s']:.2f}"),
            ("what an index reads, with h5py alone", f"{found['h5py_1000_files_s']:.2f}"),
            ("the index again", f"{found['index_1000_files_again_s']:.2f}"),
            ("to the first batch, embedded", f"{found['first_batch_embedded_s']:.2f}"),
            ("to the first batch, server", f"{found['first_batch_server_s']:.2f}"),
        ),
    )
    sizes = (
        f"A batch has {found['batch_mb']:.0f} MB, {found['encoded_mb']:.0f} MB encoded "
        f"({found['camera_ratio']:.2f} to 1; rendered frames {found['rendered_ratio']:.1f} to 1, "
        f"camera frames by LZ4 {found['lz4_ratio']:.2f} to 1)."
    )
    return "\n\n".join((batches, cpu, starts, sizes, _machine(found)))


def _peers(found: dict[str, Any]) -> str:
    ways = {text: found[f"{way}_ms"] for way, text in _OUR_WAYS.items() if f"{way}_ms" in found}
    ours = next(iter(ways.values()))
    rows = [(text, f"{wall:.0f}", f"{wall / ours:.2f}", "", "") for text, wall in ways.items()]
    timed = {name: found[name] for name in _PEERS if name in found}
    for name, wall in sorted(timed.items(), key=lambda item: item[1]):
        easier = found["resized_offline_ms"].get(name)
        rows.append(
            (
                _PEERS[name],
                f"{wall:.0f}",
                f"{wall / ours:.2f}",
                f"{found['cpu_ms'][name]:.0f}",
                f"{easier:.0f}" if easier else "",
            )
        )
    table = markdown_table(
        ("loader", "ms a batch", "this / Penstock", "CPU ms", "ms, frames resized offline"), rows
    )
    missing = [f"{_PEERS[name]} did not run: {why}" for name, why in found["not_run"].items()]
    return "\n\n".join((table, *missing, _machine(found)))


def _memory(found: dict[str, Any]) -> str:
    table = markdown_table(
        ("server, batches pulled", "anonymous memory, MB", "just opened, MB"),
        (
            (text, f"{found[name]['peak_mb']:.0f}", f"{found[name]['opened_mb']:.0f}")
            for name, text in _MEMORY_ROWS.items()
            if name in found
        ),
    )
    return "\n\n".join((table, _machine(found)))


_SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "sampler": _sampler,
    "sampler_peers": _peers,
    "sampler_memory": _memory,
}


def write_docs() -> Path:
    """Put the tables of the last results into the document; returns its path.

    Raises:
        ValueError: The document has no place for a table.
    """
    text = DOCUMENT.read_text("utf-8")
    for name, make in _SECTIONS.items():
        found = read_results(name)
        if found is None:
            continue
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"{DOCUMENT} has no place for {name}: add '<!-- {name} -->'")
        table = make(found)
        text = place.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    DOCUMENT.write_text(text, "utf-8")
    return DOCUMENT


if __name__ == "__main__":
    print(f"wrote {write_docs()}")
