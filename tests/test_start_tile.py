"""Starts: what is read of a user's file, what is assumed, and what is refused."""

import json

import numpy as np
import pytest
import rasterio
from PIL import Image

from ecomap.card import BundleCard
from ecomap.errors import DataError, RequestError
from ecomap.normals import footprint_of, open_normals
from ecomap.outputs import unplaced
from ecomap.schema import LandCover
from ecomap.start_tile import generated_record, open_start, with_normals
from tests.fakes import made_image, make_tile, write_tiles

CARD = BundleCard(name="made", image_size_px=32, ground_sampling_distance_m=10.0, grid="utm")
ALPS = {"lat": 46.5, "lon": 9.8}


def write_tif(path, *, count=3, dtype="uint8", size=(40, 48), crs="EPSG:32632", **rest):
    """A GeoTIFF whose upper left corner is at 500 km east, 5,150 km north."""
    image = made_image(3, *size)
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_150_000)
    place = {} if crs is None else {"crs": crs, "transform": transform}
    with unplaced(), rasterio.open(
        path, "w", driver="GTiff", count=count, dtype=dtype, height=size[0], width=size[1],
        **(place | rest),
    ) as file:  # fmt: skip
        bands = np.moveaxis(image, -1, 0)
        file.write(np.resize(bands, (count, *size)).astype(dtype))
    return path, image


def open_it(path, **options):
    return open_start(path, card=CARD, **options)


def test_a_geotiff_tells_its_place_and_the_user_its_month(tmp_path):
    path, image = write_tif(tmp_path / "a.tif")
    start, notes = open_it(path, month="2021-07")
    record = start.record
    assert np.array_equal(start.image, image)
    assert record.crs == "EPSG:32632"
    assert record.transform == (10, 0, 500_000, 0, -10, 5_150_000)
    assert (record.width_px, record.height_px) == (48, 40)
    assert record.lon == pytest.approx(9.003, abs=0.001)  # 240 m east of the central meridian
    assert record.lat == pytest.approx(46.504, abs=0.01)
    assert record.ground_sampling_distance_m == 10
    assert record.month == "2021-07"
    assert notes == []


def test_it_stands_under_the_normals_of_its_place(tmp_path):
    path, _ = write_tif(tmp_path / "a.tif")
    record = open_it(path, month="2021-07")[0].record
    where = (record.lat, record.lon, footprint_of(record))
    normals = open_normals().climate(*where)["temperature_c"]
    assert record.temperature_c == pytest.approx(normals[6])
    assert record.temperature_c_history[0] == pytest.approx(normals[6])  # a year before
    assert record.temperature_c_history[-1] == pytest.approx(normals[5])
    assert record.temperature_c_normals == pytest.approx(tuple(normals))
    assert record.climate_kind == "normal"
    assert record.land_cover == open_normals().land_cover(*where)


def test_what_a_record_knows_stays():
    known = make_tile(temperature_c=3.25, climate_kind="observed", climate_source="mine")
    record = with_normals(known)
    assert record.temperature_c == 3.25
    assert record.climate_kind == "observed"
    assert record.climate_source == "mine"
    assert record.temperature_c_normals is not None
    assert record.temperature_c_history is None


def test_missing_pixels_are_counted(tmp_path):
    path, image = write_tif(tmp_path / "a.tif", nodata=0)
    with rasterio.open(path, "r+") as file:
        blank = np.moveaxis(image, -1, 0).copy()
        blank[:, :10] = 0
        file.write(blank)
    start, notes = open_it(path, month="2021-07")
    assert not start.valid[:10].any()
    assert start.valid[10:].all()
    assert notes == ["25% of the start are missing or hidden, and are made up."]


def test_a_mask_hides_pixels(tmp_path):
    path, _ = write_tif(tmp_path / "a.tif")
    mask = np.zeros((40, 48), np.uint8)
    mask[:, :24] = 255
    Image.fromarray(mask).save(tmp_path / "clouds.png")
    start, notes = open_it(path, month="2021-07", hidden=tmp_path / "clouds.png")
    assert start.valid.mean() == 0.5
    assert "50%" in notes[0]
    Image.fromarray(mask[:20]).save(tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small.png is 48 x 20 px and the start 48 x 40"):
        open_it(path, month="2021-07", hidden=tmp_path / "small.png")


def test_a_picture_needs_a_place_and_a_month(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(made_image(1, 32, 32)).save(path)
    with pytest.raises(RequestError, match=r"has no georeferencing.*--lat and --lon"):
        open_it(path, month="2021-07")
    with pytest.raises(RequestError, match=r"does not tell the month.*--start-month"):
        open_it(path, **ALPS)
    record = open_it(path, month="2021-07", land_cover="Grasslands", **ALPS)[0].record
    assert (record.lat, record.lon) == (46.5, 9.8)
    assert record.crs is None
    assert record.land_cover == LandCover.GRASSLANDS


def test_a_geotiff_without_a_place_is_a_picture(tmp_path):
    path, image = write_tif(tmp_path / "a.tif", crs=None)
    start, _ = open_it(path, month="2021-07", **ALPS)
    assert np.array_equal(start.image, image)
    assert start.record.transform is None


@pytest.mark.parametrize(("count", "dtype"), [(1, "uint8"), (4, "uint16"), (12, "uint16")])
def test_other_bands_are_refused(tmp_path, count, dtype):
    path, _ = write_tif(tmp_path / "a.tif", count=count, dtype=dtype)
    with pytest.raises(DataError, match=f"has {count} bands of {dtype}. Expected red, green"):
        open_it(path, month="2021-07")


def test_a_record_brings_its_image(tmp_path):
    Image.fromarray(made_image(2, 32, 32)).save(tmp_path / "a.png")
    record = make_tile(image_path="a.png", width_px=32, height_px=32)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record.model_dump(mode="json")))
    start, _ = open_it(path)
    assert np.array_equal(start.image, made_image(2, 32, 32))
    assert start.record.month == record.month
    path.write_text(json.dumps(record.model_dump(mode="json") | {"image_path": None}))
    with pytest.raises(DataError, match=r"names no image"):
        open_it(path)


def test_a_dataset_brings_its_tiles(tmp_path):
    folder = write_tiles(tmp_path / "tiles", num_places=5, size_px=32)
    with pytest.raises(RequestError, match=r"is a dataset of 15 tiles and has no tile None"):
        open_it(folder)
    with pytest.raises(RequestError, match=r"no tile 'nowhere'.*--tile, such as made/a/0/2004-01"):
        open_it(folder, tile_id="nowhere")
    start, _ = open_it(folder, tile_id="made/a/0/2004-05")
    assert start.record.month == "2004-05"
    assert np.array_equal(start.image, made_image(5, 32, 32))


def test_contradictions_are_refused(tmp_path):
    folder = write_tiles(tmp_path / "tiles", num_places=5, size_px=32)
    with pytest.raises(RequestError, match=r"is of month 2004-05, not 2021-01. Leave out --start"):
        open_it(folder, tile_id="made/a/0/2004-05", month="2021-01")
    path, _ = write_tif(tmp_path / "a.tif")
    with pytest.raises(RequestError, match=r"is of lat 46.5\d+, not 10.0. Leave out --lat"):
        open_it(path, month="2021-07", lat=10.0, lon=9.0)


def test_another_scale_is_said(tmp_path):
    path, _ = write_tif(tmp_path / "a.tif")
    coarse = CARD.model_copy(update={"ground_sampling_distance_m": 7413.0})
    _, notes = open_start(path, card=coarse, month="2021-07")
    assert notes == [
        "The start has pixels of 10 m; made learnt from 7413 m and will treat it as such."
    ]


def test_a_blank_start_is_refused(tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"shows nothing"):
        open_it(tmp_path / "a.png", month="2021-07", **ALPS)


def test_a_generated_start_stands_under_its_normals():
    record = generated_record(46.5, 9.8, "2021-07", CARD)
    assert record.month == "2021-07"
    assert record.crs == "EPSG:32632"
    assert record.temperature_c is not None
