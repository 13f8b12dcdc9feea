"""Every service that data preparation asks, on this machine: catalogue, climate, land cover.

In a test ``with LocalWorld(folder_of_items, scratch) as world: ...``; as a process of its own,
``python -m tests.local_world FOLDER`` prints the settings that make ``ecomap prep`` use it, and
serves until it is interrupted.
"""

import argparse
import shlex
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import rasterio
from rasterio.transform import Affine

from tests.power_server import PowerServer
from tests.stac_server import StacServer

CODES = np.array([10, 40, 30, 10, 40, 10, 80, 50], np.uint8)
"""WorldCover: tree cover, cropland and grassland, some water and towns; slanting stripes."""


class LocalWorld:
    """Servers over a folder of STAC items, with a made-up climate and land cover."""

    def __init__(self, items: Path, scratch: Path, *, latency_s: float = 0.0) -> None:
        """Remember what to serve; nothing runs before the block is entered."""
        self.catalogue = StacServer(items, latency_s=latency_s)
        self.power = PowerServer(today=date(2024, 6, 15))
        self.land_cover = scratch / "worldcover"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start."""
        write_worldcover(self.land_cover / "ESA_WorldCover_10m_2021_v200_N45E015_Map.tif")
        self._stack.enter_context(self.catalogue)
        self._stack.enter_context(self.power)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._stack.close()

    @property
    def overrides(self) -> list[str]:
        """Settings of `data_prep.prep_config.PrepConfig` that lead here."""
        return [
            "imagery.provider=earth-search",
            f"imagery.url={self.catalogue.url}",
            "imagery.timeout_s=10",
            f"climate.url={self.power.url}",
            "climate.timeout_s=10",
            f"land_cover.url={self.land_cover}",
        ]


def write_worldcover(
    path: Path, *, west: float = 15, north: float = 48, size_px: int = 3600
) -> None:
    """Write a square of three degrees in stripes of classes, coarser than the real one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row, column = np.mgrid[:size_px, :size_px]
    stripe = (row // 5 + column // 7) % 40
    classes = CODES[np.where(stripe < 36, (row // 140 + column // 110) % 6, 6 + stripe % 2)]
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "width": size_px,
        "height": size_px,
        "crs": "EPSG:4326",
        "transform": Affine(3 / size_px, 0, west, 0, -3 / size_px, north),
        "nodata": 0,
        "tiled": True,
        "compress": "deflate",
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(classes, 1)


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of STAC items and their files")
    parser.add_argument("--latency-s", type=float, default=0.0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalWorld(options.folder, Path(scratch), latency_s=options.latency_s) as world,
    ):
        print("Climate and land cover are made up; Ctrl-C ends.", file=sys.stderr)
        print(shlex.join(world.overrides), flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
