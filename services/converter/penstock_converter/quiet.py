"""Logging of the command line, where a table says what a log would."""

from __future__ import annotations

import logging

import structlog

__all__ = ["hush_logs"]


def hush_logs() -> None:
    """Write faults only, with plain tracebacks."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )
