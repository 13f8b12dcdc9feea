"""What a record says, from each of the sources that it is joined from."""

from typing import Any

from data_prep import drought
from data_prep.climate_series import ClimateSeries
from data_prep.land_cover import LandCoverResult
from data_prep.manifest import Row
from data_prep.place import Place
from data_prep.prep_config import PrepConfig
from data_prep.providers import PROVIDERS
from ecomap.schema import CLIMATE, LandCover


def frame_fields(row: Row, place: Place, config: PrepConfig) -> dict[str, Any]:
    """What a record says of its frame."""
    provider = PROVIDERS[config.imagery.provider]
    result = row.result
    return {
        "source": config.name,
        "location_id": place.location_id,
        "month": row.month,
        "lat": place.lat,
        "lon": place.lon,
        "ground_sampling_distance_m": place.resolution_m,
        "width_px": place.size_px,
        "height_px": place.size_px,
        "crs": place.crs,
        "transform": place.transform,
        "split": place.split,
        "image_path": result["path"],
        "acquired": result["acquired"],
        "scene_ids": tuple(result["items"]),
        "processing_baseline": result["baseline"],
        "digital_number_offset": result["offset"],
        "digital_number_offset_confidence": result["offset_confidence"],
        "bands": tuple(result["bands"]),
        "reflectance_range": (config.display.black, config.display.white),
        "cloud_frac": result["cloud_frac"],
        "nodata_frac": result["nodata_frac"],
        "scene_snow_frac": result["snow_frac"],
        "license": provider.license,
        "attribution": provider.attribution.format(years=row.month[:4]),
    }


def cover_fields(cover: LandCoverResult | None) -> dict[str, Any]:
    """What a record says of land cover."""
    if cover is None or cover.land_cover is None:
        return {}
    parts = (cover.source, cover.version, cover.year)
    return {
        "land_cover": cover.land_cover,
        "land_cover_frac": cover.land_cover_frac,
        "land_cover_fracs": tuple(cover.fracs.get(code, 0.0) for code in LandCover),
        "land_cover_source": " ".join(str(part) for part in parts if part),
        "land_frac": cover.land_frac,
    }


class CellClimate:
    """Series of one cell with what is computed once for all its months."""

    def __init__(self, series: ClimateSeries, config: PrepConfig) -> None:
        settings = config.climate
        years = (settings.normals_first_year, settings.normals_last_year)
        self.series = series
        self.normals = {name: series.normals(name, *years) for name in CLIMATE}
        options = {
            "window": settings.spi_months, "first_year": years[0], "last_year": years[1]
        }  # fmt: skip
        self.spi = drought.spi_series(series, **options)
        self.sti = drought.sti_series(series, **options)

    def fields(self, month: str) -> dict[str, Any]:
        """What a record says of the climate of a month."""
        result: dict[str, Any] = {
            "climate_source": self.series.source,
            "spi": _rounded(self.spi.get(month)),
            "sti": _rounded(self.sti.get(month)),
        }
        for name in CLIMATE:
            history, normals = self.series.history(name, month), self.normals[name]
            result[name] = self.series.value(name, month)
            result[f"{name}_history"] = history if any(v is not None for v in history) else None
            result[f"{name}_normals"] = normals if any(v is not None for v in normals) else None
        return result


def _rounded(value: float | None) -> float | None:
    """An index to three decimals: more is noise of the fit."""
    return None if value is None else round(value, 3)
