"""Settings of the sampler: how data is read, and how it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from penstock.config import Settings
from penstock.server.settings import ServerSettings
from penstock_sampler.options import DEFAULT_CAMERAS, DataOptions, parse_cameras

__all__ = ["DEFAULT_PORT", "DataSettings", "SamplerSettings"]

DEFAULT_PORT = 50051


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
    max_open_files: int = Field(
        128, ge=1, description="HDF5 files that are open at a time, one descriptor each."
    )
    spool_dir: Path | None = Field(
        None,
        description="Folder of an unnamed temporary file with joints, actions and rewards; the "
        "system's temporary folder if not given.",
    )

    def data_options(self) -> DataOptions:
        """The part that decides what a dataset is."""
        return DataOptions(parse_cameras(self.cameras), self.image_order)


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
    group_bytes: int = Field(
        16 << 20, ge=1 << 20, description="Frames that one stream reads ahead of sending them."
    )
