"""Commands that show what a store holds: ``penstock checkpoints list|show``."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import click
from rich.filesize import decimal

from penstock.checkpoints import CheckpointInfo
from penstock.client.checkpoint_cli import arguments
from penstock.client.checkpoint_cli.sections import Section, sections_of
from penstock.client.checkpoint_cli.tables import info_document, print_table, saved_percent, time_of
from penstock.container import Reader
from penstock.container.index import Index

__all__ = ["list_", "show"]


@click.command("list")
@arguments.target
@click.argument("run", required=False)
@arguments.as_json
def list_(target: str, run: str | None, *, as_json: bool) -> None:
    """List the runs at TARGET, or the checkpoints of one RUN.

    \b
    Examples:
      penstock checkpoints list grpc://localhost:50053
      penstock checkpoints list file:///checkpoints my-run
      penstock checkpoints list file:///checkpoints my-run --json
    """
    with arguments.open_store(target) as client:
        if run is None:
            runs = client.runs()
            if as_json:
                click.echo(json.dumps([asdict(found) for found in runs], indent=2))
                return
            print_table(
                ("run", "checkpoints", "latest step", "size"),
                [
                    (
                        found.name,
                        str(found.checkpoints),
                        str(found.latest_step),
                        decimal(found.stored_bytes),
                    )
                    for found in runs
                ],
            )
            return
        infos = client.list(run)
    if as_json:
        documents = [info_document(info) for info in infos]
        click.echo(json.dumps(documents, indent=2, allow_nan=False))
        return
    columns = ("step", "tags", "size", "saved", "metrics", "base", "pinned", "damaged")
    print_table(columns, [_row(info) for info in infos])


@click.command()
@arguments.target
@arguments.run
@arguments.step
@arguments.as_json
def show(target: str, run: str, step: str, *, as_json: bool) -> None:
    """Show one checkpoint: what its sections take, how they are encoded, and its tensors.

    \b
    Examples:
      penstock checkpoints show grpc://localhost:50053 my-run --step best
      penstock checkpoints show file:///checkpoints my-run --json
    """
    with arguments.open_store(target) as client:
        info = client.get(run, arguments.which_of(step))
        with client.open(run, info.step) as file, Reader(file) as reader:
            index, sections = reader.index, sections_of(reader, file)
    if as_json:
        document = _document(info, index, sections)
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        _print(info, index, sections)


def _row(info: CheckpointInfo) -> tuple[str, ...]:
    return (
        str(info.step),
        ", ".join(info.tags),
        decimal(info.size_bytes),
        time_of(info.created_unix_ms),
        ", ".join(f"{key} {value:g}" for key, value in info.metrics.items()),
        "" if info.base_step is None else str(info.base_step),
        "pinned" if info.pinned else "",
        "DAMAGED" if info.damaged else "",
    )


def _document(
    info: CheckpointInfo, index: Index, sections: dict[str, Section]
) -> dict[str, object]:
    return {
        **info_document(info),
        "meta": dict(index.meta),
        "chunk_count": index.chunk_count,
        "sections": [
            {
                "name": name,
                "raw_bytes": section.raw_bytes,
                "stored_bytes": section.stored_bytes,
                "encodings": dict(section.encodings),
                "saved_percent": saved_percent(section.raw_bytes, section.stored_bytes),
            }
            for name, section in sections.items()
        ],
        "tensors": [
            {"path": path, "kind": entry.kind, "dtype": entry.dtype, "shape": list(entry.shape)}
            for path, entry in index.named_entries()
        ],
    }


def _print(info: CheckpointInfo, index: Index, sections: dict[str, Section]) -> None:
    tags = ", ".join(info.tags) or "none"
    click.echo(f"{info.run}/{info.step}  tags: {tags}  {time_of(info.created_unix_ms)}")
    click.echo(f"{info.digest}, {info.raw_size_bytes} bytes of tensors, {index.chunk_count} chunks")
    base = "none, it is whole in itself" if info.base_step is None else str(info.base_step)
    checked = time_of(info.verified_unix_ms) if info.verified_unix_ms else "never"
    click.echo(f"base: {base}  verified: {checked}{'  pinned' if info.pinned else ''}")
    for key, value in {**index.meta, **info.metrics}.items():
        click.echo(f"{key}: {value}")
    print_table(
        ("section", "raw bytes", "stored bytes", "saved", "encoding"),
        [_section_row(name, section) for name, section in [*sections.items(), _total(sections)]],
    )
    print_table(
        ("tensor", "dtype", "shape"),
        [(path, entry.dtype, str(entry.shape)) for path, entry in index.named_entries()],
    )


def _section_row(name: str, section: Section) -> tuple[str, ...]:
    saved = saved_percent(section.raw_bytes, section.stored_bytes)
    shares = (
        f"{encoding} {100 * raw_bytes / section.raw_bytes:.0f} %"
        if len(section.encodings) > 1
        else encoding
        for encoding, raw_bytes in section.encodings.most_common()
    )
    return (
        name or "(the state itself)",
        str(section.raw_bytes),
        str(section.stored_bytes),
        "" if saved is None else f"{saved:.1f} %",
        "; ".join(shares),
    )


def _total(sections: dict[str, Section]) -> tuple[str, Section]:
    raw_bytes = sum(section.raw_bytes for section in sections.values())
    stored_bytes = sum(section.stored_bytes for section in sections.values())
    return "all", Section(raw_bytes, stored_bytes, Counter())
