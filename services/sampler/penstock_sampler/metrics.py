"""Prometheus metrics of the sampler service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "DROPPED_ROWS",
    "FILES",
    "RAW_BYTES",
    "READ_FAULTS",
    "READ_SECONDS",
    "REFUSED_FILES",
    "SENT_BYTES",
    "TRANSITIONS",
]

TRANSITIONS = Counter("penstock_sampler_transitions_total", "Transitions sent.")
RAW_BYTES = Counter("penstock_sampler_raw_bytes_total", "Bytes of frames before encoding.")
SENT_BYTES = Counter("penstock_sampler_sent_bytes_total", "Bytes of frames as sent.", ["codec"])
READ_SECONDS = Histogram(
    "penstock_sampler_read_seconds", "Reading and resizing one group of transitions."
)
READ_FAULTS = Counter(
    "penstock_sampler_read_faults_total", "Reads that failed on a file, by reason.", ["reason"]
)
FILES = Gauge("penstock_sampler_files", "Files that are served.")
REFUSED_FILES = Gauge("penstock_sampler_refused_files", "Files that are refused.")
DROPPED_ROWS = Gauge(
    "penstock_sampler_dropped_rows", "Rows that are neither terminal nor have a next observation."
)
