"""Prometheus metrics of the sampler service.

Gauges say how several processes of one server add up (``multiprocess_mode``).
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "CACHE_EVICTIONS",
    "CACHE_HITS",
    "CACHE_MISSES",
    "CACHE_REBUILDS",
    "DATASET_CHANGES",
    "DIRECT_ANSWERS",
    "DIRECT_CONNECTIONS",
    "DIRECT_REFUSALS",
    "DROPPED_ROWS",
    "FETCH_SECONDS",
    "FILES",
    "IMAGE_SOURCES",
    "LOCAL_DESCRIPTORS",
    "LOCAL_REFUSALS",
    "RAW_BYTES",
    "READ_FAULTS",
    "READ_SECONDS",
    "REFUSED_CALLS",
    "REFUSED_FILES",
    "SENT_BYTES",
    "SOURCE_MISMATCHES",
    "STALLED_STREAMS",
    "STREAMS",
    "TRANSITIONS",
    "WORKER_RESTARTS",
]

_FETCH_BUCKETS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

TRANSITIONS = Counter("penstock_sampler_transitions_total", "Transitions sent.")
RAW_BYTES = Counter("penstock_sampler_raw_bytes_total", "Bytes of frames before encoding.")
SENT_BYTES = Counter("penstock_sampler_sent_bytes_total", "Bytes of frames as sent.", ["codec"])
READ_SECONDS = Histogram(
    "penstock_sampler_read_seconds", "Getting the encoded observations of a message or a group."
)
FETCH_SECONDS = Histogram(
    "penstock_sampler_fetch_seconds",
    "Fetch calls that were answered whole, their client's reading included.",
    buckets=_FETCH_BUCKETS_S,
)
READ_FAULTS = Counter(
    "penstock_sampler_read_faults_total", "Reads that failed on a file, by reason.", ["reason"]
)
STREAMS = Gauge(
    "penstock_sampler_streams", "Streams of transitions that are open.", multiprocess_mode="livesum"
)
REFUSED_CALLS = Counter(
    "penstock_sampler_refused_calls_total", "Streams refused because too many were open."
)
STALLED_STREAMS = Counter(
    "penstock_sampler_stalled_streams_total", "Streams ended because their client did not read."
)
FILES = Gauge(
    "penstock_sampler_files", "Files that are served.", multiprocess_mode="livemostrecent"
)
REFUSED_FILES = Gauge(
    "penstock_sampler_refused_files",
    "Files that are refused.",
    multiprocess_mode="livemostrecent",
)
DROPPED_ROWS = Gauge(
    "penstock_sampler_dropped_rows",
    "Rows that are neither terminal nor have a next observation.",
    multiprocess_mode="livemostrecent",
)
DATASET_CHANGES = Counter(
    "penstock_sampler_dataset_changes_total",
    "Times that the set of files had changed and was read again.",
)
CACHE_HITS = Counter("penstock_sampler_cache_hits_total", "Observations read from the frame cache.")
CACHE_MISSES = Counter(
    "penstock_sampler_cache_misses_total", "Observations read from their source."
)
CACHE_REBUILDS = Counter(
    "penstock_sampler_cache_rebuilds_total",
    "Cached files made again because they were stale or damaged.",
)
CACHE_EVICTIONS = Counter(
    "penstock_sampler_cache_evictions_total", "Cached files removed to stay under the limit."
)
DIRECT_ANSWERS = Counter(
    "penstock_sampler_direct_answers_total", "Fetch calls answered in full at the direct port."
)
DIRECT_CONNECTIONS = Gauge(
    "penstock_sampler_direct_connections",
    "Connections to the direct port.",
    multiprocess_mode="livesum",
)
DIRECT_REFUSALS = Counter(
    "penstock_sampler_direct_refusals_total",
    "Connections and calls at the direct port that were refused, by reason.",
    ["reason"],
)
LOCAL_DESCRIPTORS = Counter(
    "penstock_sampler_local_descriptors_total",
    "Descriptors of cached frames handed to clients of the same machine.",
)
LOCAL_REFUSALS = Counter(
    "penstock_sampler_local_refusals_total",
    "Requests for a descriptor that got none, by reason.",
    ["reason"],
)
WORKER_RESTARTS = Counter(
    "penstock_sampler_worker_restarts_total", "Server processes that ended and were started again."
)
IMAGE_SOURCES = Counter(
    "penstock_sampler_image_sources_total",
    "Image datasets opened, by what reads them: direct, or hdf5 (the library, one at a time).",
    ["reader"],
)
SOURCE_MISMATCHES = Counter(
    "penstock_sampler_source_mismatches_total",
    "Image datasets whose frames, read directly, were not those that HDF5 reads.",
)
