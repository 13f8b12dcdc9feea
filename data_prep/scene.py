"""A scene: one Sentinel-2 item of a catalogue, reduced to what reading it needs."""

from dataclasses import dataclass
from typing import Any

from shapely.geometry.base import BaseGeometry

from data_prep.prep_config import ProviderName


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One granule: one MGRS tile of one pass of the satellite."""

    item_id: str
    provider: ProviderName
    collection: str
    acquired: str
    """Sensing time, ISO 8601 in UTC, to the second: ``2023-08-15T09:58:11Z``."""
    pass_key: str
    """Platform and datatake: scenes with the same key were seen in one pass and are mosaicked."""
    mgrs: str
    """MGRS tile, such as ``33TWL``."""
    baseline: str | None
    """Processing baseline, ``05.09``; None where neither properties nor id tell it."""
    cloud_frac: float | None
    """Cloud over the whole scene, [0, 1]: a prefilter, nothing more."""
    footprint: BaseGeometry
    """Outline in EPSG:4326, valid, split at the antimeridian, from projected metadata if any."""
    crs: str | None
    """CRS of the pixels, where the item says."""
    assets: dict[str, str]
    """Band (``B02`` ... ``B12``, ``SCL``) -> absolute address or path, unsigned."""
    offset_hints: dict[str, Any]
    """What `data_prep.radiometry.resolve_offset` needs of the item: ``baseline``, band ->
    ``raster:bands`` offset, ``earthsearch:boa_offset_applied``, where present."""

    @property
    def month(self) -> str:
        """Calendar month in UTC, ``YYYY-MM``."""
        return self.acquired[:7]
