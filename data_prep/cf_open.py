"""Open a NetCDF file or a Zarr store without reading values or decoding times."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ecomap.errors import DataError

_ENGINES = {
    b"\x89HDF": "h5netcdf",
    b"CDF\x01": "scipy",
    b"CDF\x02": "scipy",
    b"CDF\x05": "netcdf4",
}
"""Reader by the first bytes of a file: NetCDF-4, NetCDF-3 (classic, 64-bit offset, 64-bit data)."""

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


@dataclass
class MissingChunks:
    """Chunks that a Zarr store was asked for and does not have.

    A store may leave out chunks that are all fill value; it may also have lost them. Both look the
    same. Where the fill value stands for "not known", nothing wrong can follow; where it is a
    number, such as 0, it would become a drought.
    """

    keys: set[str] = field(default_factory=set)
    """Chunks that the store did not have since the last read began."""
    lock: Lock = field(default_factory=Lock)
    """One read at a time: of two, it could not be told whose chunks are missing."""

    def read(self, array: Any, index: Mapping[str, int], *, where: str) -> tuple[Any, int]:
        """Read a variable at positions of its dimensions.

        Returns:
            Values; number of chunks of them that are missing.

        Raises:
            DataError: If the fill value of a missing chunk is a number that would be taken for
                data.
        """
        with self.lock:
            self.keys.clear()
            values = array.isel(index).values
            return values, self._check(array, where=where)

    def _check(self, array: Any, *, where: str) -> int:
        missing = {key for key in self.keys if key.startswith(f"{array.name}/")}
        fill = array.encoding.get("fill_value", np.nan)
        masked = array.encoding.get("_FillValue", np.nan)
        if missing and not np.isnan(fill) and fill != masked:
            raise DataError(
                f"{where} lacks {len(missing)} chunks, such as {min(missing)}, which would be read "
                f"as {fill:g}. Complete the store, or set its fill value to NaN."
            )
        return len(missing)


def open_file(path: str) -> tuple[Any, MissingChunks]:
    """Open a file or store.

    Args:
        path: NetCDF file, Zarr folder, or address of a Zarr store (``s3://``, ``https://``).

    Returns:
        xarray dataset whose times are numbers still; chunks that reads miss.

    Raises:
        DataError: If it is missing or of another format.
    """
    import xarray as xr

    missing = MissingChunks()
    source: Any = path
    if "://" in path or Path(path).is_dir():
        engine, source = "zarr", _watched_store(path, missing)
    else:
        engine = _engine_of(path)
    try:
        with warnings.catch_warnings():
            # Stores without consolidated metadata are as good; two fill values are both masked.
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated")
            warnings.filterwarnings("ignore", ".*multiple fill values", xr.SerializationWarning)
            dataset = xr.open_dataset(source, engine=engine, decode_times=False, cache=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be opened as {engine}: {error}.") from None
    dataset.encoding["source"] = path
    return _with_coordinates(dataset), missing


def _engine_of(path: str) -> str:
    """Reader of a file, by its first bytes."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path} does not exist. Expected a NetCDF file or a Zarr store.")
    with file.open("rb") as stream:
        start = stream.read(4)
    if start == b"GRIB":
        raise DataError(
            f"{path} is a GRIB file. Convert it to NetCDF, for instance with 'cdo -f nc4 copy' or "
            "'grib_to_netcdf', or request NetCDF from the Climate Data Store."
        )
    if start not in _ENGINES:
        raise DataError(
            f"{path} starts with {start!r}, which is neither NetCDF nor Zarr. Unpack archives "
            "first; an HTML page in its place is a download that failed."
        )
    return _ENGINES[start]


def _watched_store(path: str, missing: MissingChunks) -> Any:
    """A Zarr store that notes which chunks it was asked for and does not have.

    Errors of the network are raised by the store itself; only a plain "not found" means a missing
    chunk.
    """
    from zarr.storage import FsspecStore, LocalStore, WrapperStore

    if "://" not in path and not any((Path(path) / name).is_file() for name in _METADATA):
        raise DataError(
            f"{path} is a folder, and not a Zarr store. Give its files as 'folder/*.nc'."
        )

    class WatchedStore(WrapperStore[Any]):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            value = await super().get(key, prototype, byte_range)
            if value is None and key.rsplit("/", 1)[-1] not in _METADATA:
                missing.keys.add(key)
            return value

    if "://" not in path:
        return WatchedStore(LocalStore(path, read_only=True))
    try:
        return WatchedStore(FsspecStore.from_url(path, read_only=True))
    except (ImportError, ValueError) as error:
        raise DataError(f"{path} cannot be reached: {error}.") from None


def _with_coordinates(dataset: Any) -> Any:
    """Make coordinates of latitudes and longitudes that no attribute of the file mentions."""
    keys = ("latitude", "longitude", "lat", "lon")
    plain = [
        name
        for name, variable in dataset.data_vars.items()
        if name in keys or variable.attrs.get("standard_name") in keys[:2]
    ]
    changed = dataset.set_coords(plain)
    changed.set_close(dataset.close)  # the copy would leave the file open
    return changed
