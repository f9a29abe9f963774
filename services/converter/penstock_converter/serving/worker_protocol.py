"""The line by which the service tells a worker what to do."""

from __future__ import annotations

import json
from pathlib import Path

from penstock_converter.jobs.request import Job
from penstock_converter.mapping.model import Mapping

__all__ = ["job_from_line", "request_line"]


def request_line(job: Job) -> str:
    """A job as the line that a worker reads."""
    return json.dumps(
        {
            "bags": [str(bag) for bag in job.bags],
            "names": list(job.names),
            "mapping": job.mapping.model_dump(mode="json"),
            "out": str(job.out),
            "overwrite": job.overwrite,
            "append": job.append,
            "workers": job.workers,
        }
    )


def job_from_line(line: str) -> Job:
    """The job of such a line."""
    request = json.loads(line)
    return Job(
        bags=tuple(Path(bag) for bag in request["bags"]),
        mapping=Mapping.model_validate(request["mapping"]),
        out=Path(request["out"]),
        overwrite=request["overwrite"],
        append=request["append"],
        workers=request["workers"],
        names=tuple(request["names"]),
    )
