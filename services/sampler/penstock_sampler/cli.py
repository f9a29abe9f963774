"""Commands of the sampler: ``penstock serve sampler`` and ``penstock doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from penstock.config import settings_options
from penstock.errors import NotFound
from penstock_sampler.discovery import find_files
from penstock_sampler.doctor import Diagnosis, diagnose
from penstock_sampler.findings import Findings, Level
from penstock_sampler.options import DataOptions
from penstock_sampler.settings import DataSettings, SamplerSettings

__all__ = ["doctor", "serve"]

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@click.command("sampler")
@settings_options(SamplerSettings)
def serve(settings: SamplerSettings) -> None:
    """Serve the transitions of HDF5 files.

    Files that cannot be served are refused one by one, with the reason in the log; see what is
    wrong with one by penstock doctor FILE.

    \b
    Examples:
      penstock serve sampler --data '/data/*.hdf5' --port 50051
      penstock serve sampler --data /data --cameras left,right,wrist=wrist_rgb --host 0.0.0.0
      PENSTOCK_DATA='/data/*.hdf5' penstock serve sampler --metrics-port 9090
    """
    # Loaded here, so that doctor does not wait for gRPC.
    from penstock_sampler.serving import serve_sampler

    serve_sampler(settings)


@click.command("doctor")
@click.argument("files", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Write findings as JSON.")
@settings_options(DataSettings)
def doctor(files: tuple[str, ...], settings: DataSettings, *, as_json: bool) -> None:
    """Say what is in HDF5 FILES, whether they can be served, and what to do if not.

    FILES are paths, folders or patterns. The exit status is 1 when a file would be refused.

    \b
    Examples:
      penstock doctor recording.hdf5
      penstock doctor '/data/*.hdf5' --json
      penstock doctor arm.hdf5 --cameras left,wrist=wrist_rgb
    """
    options = settings.data_options()
    diagnoses = [
        diagnosis
        for name in files
        for diagnosis in _diagnose_all(name, options)
    ]
    if as_json:
        click.echo(json.dumps([_as_json(diagnosis) for diagnosis in diagnoses], indent=2))
    else:
        console = Console()
        for diagnosis in diagnoses:
            _show(console, diagnosis)
    if not all(diagnosis.served for diagnosis in diagnoses):
        raise SystemExit(1)


def _diagnose_all(name: str, options: DataOptions) -> list[Diagnosis]:
    try:
        found = find_files([name])
    except NotFound as error:
        findings = Findings(name)
        findings.fail("readable", error.message, remedy="check the path", reason="MISSING")
        return [Diagnosis(findings)]
    return [diagnose(file.path, options) for file in found]


def _as_json(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "file": str(Path(diagnosis.findings.file)),
        "served": diagnosis.served,
        "findings": [asdict(finding) for finding in diagnosis.findings.entries],
        "tree": [asdict(entry) for entry in diagnosis.tree],
    }


def _show(console: Console, diagnosis: Diagnosis) -> None:
    root = Tree(f"[bold]{escape(diagnosis.findings.file)}[/bold]")
    branches = {"": root}
    for entry in diagnosis.tree:
        parent, _, name = entry.path.rpartition("/")
        holder = branches.get(parent, root)
        branches[entry.path] = holder.add(f"{escape(name)}  [dim]{escape(entry.description)}[/dim]")
    console.print(root)
    for finding in diagnosis.findings.entries:
        line = Text(f"  {finding.level.value:<5}", style=_STYLES[finding.level])
        line.append(f"{finding.check}: {finding.message}", style="default")
        if finding.remedy:
            line.append(f"\n        what to do: {finding.remedy}", style="cyan")
        console.print(line, soft_wrap=True)
    verdict = "would be served" if diagnosis.served else "would be REFUSED"
    warnings = len(diagnosis.findings.warnings)
    console.print(f"  {verdict}" + (f", {warnings} warnings" if warnings else ""), style="bold")
