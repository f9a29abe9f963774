"""The checks that follow every conversion."""

from __future__ import annotations

from penstock.allocator import give_back_memory
from penstock.library_pages import let_go_of_libraries
from penstock_converter.checks.findings import VALIDATION_NAME, Validation
from penstock_converter.checks.validation import validate_dataset
from penstock_converter.jobs.outcome import Outcome
from penstock_converter.jobs.request import Job

__all__ = ["PICTURES", "check_made"]

PICTURES = "validation"


def check_made(job: Job, outcome: Outcome) -> Validation | None:
    """Check a dataset that was just made, and put report and pictures into it.

    Returns:
        What was found; None if there is nothing to check, or it was checked before.
    """
    if not outcome.converted or (outcome.reused and (job.out / VALIDATION_NAME).exists()):
        return None
    # What the conversion needed is not needed any more, and the checks bring needs of their own.
    give_back_memory()
    let_go_of_libraries()
    found = validate_dataset(job.out, bags=job.bags, hdf5=job.hdf5, pictures=job.out / PICTURES)
    found.write(job.out)
    return found
