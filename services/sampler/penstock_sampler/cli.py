"""Commands of the sampler: ``penstock serve sampler`` and ``penstock doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.config import settings_options
from penstock.errors import NotFound
from penstock_sampler.checks.comparison import Comparison
from penstock_sampler.checks.diagnosis import Diagnosis, diagnose
from penstock_sampler.checks.diagnosis_view import JsonView, TextView, follow
from penstock_sampler.checks.findings import Findings
from penstock_sampler.index.discovery import find_files
from penstock_sampler.options import DataOptions
from penstock_sampler.settings import DataSettings, SamplerSettings

if TYPE_CHECKING:
    from penstock_sampler.checks.contact_sheet import ContactSheet, SheetReport

__all__ = ["doctor", "serve"]


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
    from penstock_sampler.serving.process import serve_sampler

    serve_sampler(settings)


@click.command("doctor")
@click.argument("files", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Write findings as JSON.")
@click.option(
    "--contact-sheet",
    type=click.Path(path_type=Path),
    metavar="PICTURE",
    help="Also draw frames of every camera into this .png or .jpg, of at most 24 files; warnings "
    "about images stand on them.",
)
@settings_options(DataSettings)
def doctor(
    files: tuple[str, ...], settings: DataSettings, *, as_json: bool, contact_sheet: Path | None
) -> None:
    """Say what is in HDF5 FILES, whether they can be served, and what to do if not.

    FILES are paths, folders or patterns; they are checked one by one, then compared as the files of
    one dataset. The exit status is 1 when a file would be refused.

    \b
    Examples:
      penstock doctor recording.hdf5
      penstock doctor '/data/*.hdf5' --contact-sheet sheet.png
      penstock doctor '/data/*.hdf5' --json > findings.json
      penstock doctor arm.hdf5 --cameras left,wrist=wrist_rgb
    """
    options = settings.data_options()
    found = [file for name in files for file in _find(name)]
    sheet = _open_sheet(contact_sheet, options, len(found)) if contact_sheet else None
    view = JsonView() if as_json else TextView()
    comparison = Comparison()
    served = True
    for file in follow(view, found):
        diagnosis = file if isinstance(file, Diagnosis) else diagnose(file, options)
        view.show(diagnosis)
        comparison.add(diagnosis)
        served = served and diagnosis.served
        if sheet:
            sheet.offer(diagnosis)
    view.close(comparison.conclude(), comparison.misfits)
    if sheet:
        click.echo(_about(sheet.write(comparison.suspects)), err=True)
    if not served or comparison.misfits:
        raise SystemExit(1)


def _find(name: str) -> list[Path | Diagnosis]:
    try:
        return [file.path for file in find_files([name])]
    except NotFound as error:
        findings = Findings(name)
        findings.fail("readable", error.message, remedy="check the path", reason="MISSING")
        return [Diagnosis(findings)]


def _open_sheet(path: Path, options: DataOptions, files: int) -> ContactSheet:
    # Loaded here, so that doctor without a sheet does not wait for OpenCV.
    from penstock_sampler.checks.contact_sheet import ContactSheet

    return ContactSheet(path, options, files)


def _about(report: SheetReport) -> str:
    if not report.shown:
        return f"no contact sheet {report.path}: no file with images is fit to be served"
    more = f", {report.left_out} more are left out" if report.left_out else ""
    files = "1 file" if report.shown == 1 else f"{report.shown} files"
    return f"contact sheet {report.path}: {files}{more}"
