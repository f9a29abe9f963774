"""Settings of the sampler: how data is read, and how it is served."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from penstock.config import Settings
from penstock.cores import usable_cores
from penstock.server.settings import ServerSettings
from penstock_sampler.cores import default_io_threads
from penstock_sampler.options import (
    DEFAULT_CAMERAS,
    DataOptions,
    parse_cameras,
    parse_weight_columns,
)

__all__ = ["DEFAULT_PORT", "DataSettings", "SamplerSettings"]

DEFAULT_PORT = 50051

_SPARE_WORKERS = 8
"""Threads that no stream may hold: health, descriptions and status are always answered."""


class DataSettings(Settings):
    """How files are read, embedded or served."""

    cameras: str = Field(
        DEFAULT_CAMERAS,
        description="Cameras in the order of a batch: left, right, global stand for their usual "
        "dataset names, others are written name=dataset1|dataset2; none for no images.",
    )
    image_order: Literal["auto", "hwc", "chw"] = Field(
        "auto", description="Layout of images whose shape fits both HWC and CHW."
    )
    weight_columns: str = Field(
        "",
        description="Datasets with a weight for each row, for weighted plans, with commas "
        "between, for example priority,advantage; every file must have them.",
    )
    max_open_files: int = Field(
        128,
        ge=1,
        description="HDF5 files that are open at a time, one descriptor each, and up to as many of "
        "what is known about them.",
    )
    io_threads: int = Field(
        default_factory=default_io_threads,
        ge=1,
        le=256,
        description="Reads of frames in flight; two for each core, at most 8, if not given.",
    )
    spool_dir: Path | None = Field(
        None,
        description="Folder of an unnamed temporary file with joints, actions and rewards; the "
        "system's temporary folder if not given.",
    )

    codec: Literal["auto", "raw", "lz4", "bitplanes", "bitplanes_lz4"] = Field(
        "auto",
        description="Codec of frames, in the cache and on the wire; auto chooses by probing.",
    )

    cache_dir: str = Field(
        "auto",
        description="Folder of resized and encoded frames and of what is known about each file, "
        "which processes share; auto is penstock/frames in $XDG_CACHE_HOME or ~/.cache; none keeps "
        "nothing: every start reads the data, every batch its frames.",
    )
    cache_bytes: int = Field(
        0,
        ge=0,
        description="What the frame cache may take; 0 is half of what is free at the start.",
    )
    cache_threads: int = Field(
        1,
        ge=0,
        le=64,
        description="Files whose frames are cached at a time, at low priority, after they were "
        "touched; 0 leaves that to penstock sampler warm.",
    )

    @property
    def cache_folder(self) -> Path | None:
        """The folder that ``cache_dir`` stands for, absolute; None for no cache."""
        if self.cache_dir == "none":
            return None
        if self.cache_dir == "auto":
            base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
            return (Path(base) / "penstock" / "frames").expanduser().absolute()
        return Path(self.cache_dir).expanduser().absolute()

    def data_options(self) -> DataOptions:
        """The part that decides what a dataset is."""
        return DataOptions(
            parse_cameras(self.cameras),
            self.image_order,
            parse_weight_columns(self.weight_columns),
        )


class SamplerSettings(DataSettings, ServerSettings):
    """Settings of the sampler as a service."""

    data: str = Field(
        description="Files to serve: a pattern such as '/data/*.hdf5', a folder, or several of "
        "them with commas between."
    )
    wait_for_data: bool = Field(
        default=False,
        description="Come up although there is nothing to serve, and look again at every call.",
    )
    port: int = Field(
        DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    workers: int = Field(
        40,
        ge=_SPARE_WORKERS + 1,
        le=1024,
        description=f"Threads that answer calls; all but {_SPARE_WORKERS} may hold a stream of "
        "transitions, more streams get RESOURCE_EXHAUSTED.",
    )
    group_bytes: int = Field(
        3 << 20,
        ge=1 << 20,
        description="Frames, before encoding, that one stream reads at a time: its memory.",
    )
    stall_s: float = Field(
        120.0,
        ge=0,
        description="Seconds that a stream waits for a client that does not read; 0 for ever.",
    )
    watch_s: float = Field(
        10.0,
        ge=0,
        description="Seconds between two looks for files that are new, gone or changed; 0 never "
        "looks again.",
    )
    processes: str = Field(
        "1",
        pattern=r"^(auto|[1-9][0-9]{0,2})$",
        description="Server processes that share the port, each a replica of its own; auto for "
        "one per core. One that only sends from the cache uses little more than a core: several "
        "pay when many clients ask and cores are idle.",
    )
    direct_port: str = Field(
        "auto",
        pattern=r"^(auto|none|[1-9][0-9]{0,4})$",
        description="Port that answers Fetch straight from the cache; auto for a free one, none "
        "for none. Clients that cannot reach it use the other port.",
    )
    local_socket: str = Field(
        "auto",
        description="Folder, or path ending in .sock, of the unix socket that hands cached frames "
        "to clients of this machine; auto for a private folder, none for no socket.",
    )
    local_any_user: bool = Field(
        default=False,
        description="Hand cached frames to every user of this machine, not only to this one.",
    )

    @property
    def max_streams(self) -> int:
        """Streams of transitions at a time; the other threads stay free for short calls."""
        return self.workers - _SPARE_WORKERS

    @property
    def process_count(self) -> int:
        """Server processes to run."""
        return usable_cores() if self.processes == "auto" else int(self.processes)
