"""Starts: what is read of a user's file, what is assumed, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from ecomap.card import BundleCard
from ecomap.climate import climate_features
from ecomap.errors import DataError, RequestError
from ecomap.normals import SOURCE, footprint_of, open_normals
from ecomap.outputs import unplaced
from ecomap.schema import LandCover
from ecomap.start_tile import NO_MASK, open_starts, with_normals
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


def open_it(*paths, month=None, tile_id=None, hidden=None, **options):
    words = {"months": month, "tiles": tile_id, "hidden": hidden}
    lists = {n: [w] if isinstance(w, (str, Path)) else list(w or ()) for n, w in words.items()}
    return open_starts(paths, **({"card": CARD} | lists | options))


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
    assert record.climate_source == SOURCE
    assert record.land_cover == open_normals().land_cover(*where)


def test_what_a_record_knows_stays():
    known = make_tile(temperature_c=3.25, climate_kind="observed", climate_source="mine")
    record = with_normals(known)
    assert record.temperature_c == 3.25
    assert record.climate_kind == "observed"
    assert record.climate_source == "mine"
    assert record.temperature_c_normals is None
    assert record.temperature_c_history is None


def test_what_is_filled_beside_observed_climate_is_no_month_without_an_anomaly():
    known = make_tile(precipitation_mm_day=None, climate_kind="observed")
    record = with_normals(with_normals(known))
    assert record.precipitation_mm_day is not None
    assert not climate_features(record).known[..., 1:].any()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("mine", f"mine; from {SOURCE}: precipitation"),
        (None, f"not stated; from {SOURCE}: precipitation"),
    ],
)
def test_a_record_that_knows_a_variable_keeps_its_kind_and_says_what_is_filled(source, told):
    known = make_tile(
        temperature_c=3.25, precipitation_mm_day=None, climate_kind="observed",
        climate_source=source,
    )  # fmt: skip
    record = with_normals(known)
    normals = open_normals().climate(record.lat, record.lon, footprint_of(record))
    assert record.temperature_c == 3.25
    assert record.precipitation_mm_day == normals["precipitation_mm_day"][2]
    assert record.precipitation_mm_day_history[-1] == normals["precipitation_mm_day"][1]
    assert record.climate_kind == "observed"
    assert record.climate_source == told
    assert with_normals(record) == record


def test_radiation_alone_keeps_its_kind_too():
    known = make_tile(
        temperature_c=None, precipitation_mm_day=None, solar_radiation_mj_m2_day=18.0,
        climate_source="mine",
    )  # fmt: skip
    record = with_normals(known)
    assert record.solar_radiation_mj_m2_day == 18.0
    assert record.climate_kind == "observed"
    assert record.climate_source == f"mine; from {SOURCE}: temperature, precipitation"


def test_a_record_without_climate_stands_under_the_normals_alone():
    known = make_tile(temperature_c=None, precipitation_mm_day=None, climate_source="mine")
    record = with_normals(known)
    assert record.climate_kind == "normal"
    assert record.climate_source == SOURCE


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


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:3857", (10, 0, 1e6, 0, -10, 8_399_738), 5.0),  # 60 N, where it is twice too large
        ("EPSG:2225", (30, 0, 6e6, 0, -30, 2e6), 9.144),  # California in US feet
        ("EPSG:2225+5703", (30, 0, 6e6, 0, -30, 2e6), 9.144),
        ("EPSG:3857", (10, 0, 1e6, 0, -10, 0), 10),
        ("EPSG:32632", (10, 0, 780_000, 0, -10, 5_150_000), 10),  # at the edge of its zone
        ("EPSG:4326", (0.001, 0, 9, 0, -0.001, 46), 111.195),
        ("EPSG:3031", (100, 0, 0, 0, -100, 2400), 102.8),  # at the pole; true to scale at 71 S
    ],
)
def test_pixels_are_as_large_as_on_the_ground(tmp_path, crs, transform, metres):
    path, _ = write_tif(tmp_path / "a.tif", crs=crs, transform=rasterio.Affine(*transform))
    record = open_it(path, month="2021-07")[0].record
    assert record.ground_sampling_distance_m == pytest.approx(metres, rel=1e-3)


@pytest.mark.parametrize(
    "transform",
    [(9, 4, 0, 4, -9, 0), (10, 1, 0, 0, -10, 0), (10, 0, 0, 0, 10, 0), (-10, 0, 0, 0, -10, 0)],
    ids=["rotated", "sheared", "south up", "mirrored"],
)
def test_a_grid_that_is_not_north_up_is_refused(tmp_path, transform):
    a, b, _, d, e, _ = transform
    moved = rasterio.Affine(a, b, 500_000, d, e, 5_150_000)
    path, _ = write_tif(tmp_path / "a.tif", transform=moved)
    with pytest.raises(DataError, match=r"rotated, sheared or mirrored.*north up \(gdalwarp\)"):
        open_it(path, month="2021-07")


@pytest.mark.parametrize(
    ("crs", "left"), [("EPSG:32632", 1e12), ('LOCAL_CS["mine",UNIT["metre",1]]', 0.0)]
)
def test_a_place_that_is_nowhere_on_earth_is_refused(tmp_path, crs, left):
    moved = rasterio.Affine(10, 0, left, 0, -10, 0)
    path, _ = write_tif(tmp_path / "a.tif", crs=crs, transform=moved)
    with pytest.raises(DataError, match=r"does not place on Earth. Give it the CRS"):
        open_it(path, month="2021-07")


def write_bands(path, *names, **rest):
    """A GeoTIFF of bands that are told by their colours; its values in red, green, blue order."""
    path, image = write_tif(path, count=len(names), **rest)
    with unplaced(), rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp[name] for name in names]
        for number, name in enumerate(names, 1):
            if name in ("red", "green", "blue"):
                file.write(image[..., ["red", "green", "blue"].index(name)], number)
    return path, image


@pytest.mark.parametrize("names", ["blue green red", "green alpha red blue", "red green blue"])
def test_colours_are_read_by_their_names(tmp_path, names):
    path, image = write_bands(tmp_path / "a.tif", *names.split())
    first = 0
    if "alpha" in names:
        first, seen = 10, np.full((40, 48), 255, np.uint8)
        seen[:first] = 0
        with rasterio.open(path, "r+") as file:
            file.write(seen, names.split().index("alpha") + 1)
    start, _ = open_it(path, month="2021-07")
    assert np.array_equal(start.image[first:], image[first:])
    assert not start.image[:first].any()


@pytest.mark.parametrize("place", [{}, {"crs": None}], ids=["placed", "without a place"])
@pytest.mark.parametrize("names", ["blue green red nir", "red green blue undefined",
                                   "nir red green"])  # fmt: skip
def test_bands_that_are_no_colours_are_refused_by_their_names(tmp_path, names, place):
    path, _ = write_bands(tmp_path / "a.tif", *names.split(), **place)
    with pytest.raises(DataError, match=f"has bands {names.replace(' ', ', ')}. Expected red"):
        open_it(path, month="2021-07", **(ALPS if place else {}))


def test_three_bands_without_names_are_red_green_and_blue(tmp_path):
    path, image = write_tif(tmp_path / "a.tif", photometric="minisblack")
    with rasterio.open(path) as file:
        assert file.colorinterp[0] == ColorInterp.gray
    assert np.array_equal(open_it(path, month="2021-07")[0].image, image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_of_a_picture_are_missing(tmp_path, mode):
    image = Image.fromarray(made_image(1, 32, 32)).convert(mode.removesuffix("A"))
    if mode == "P":
        pixels = np.minimum(np.asarray(image), 254)
        pixels[:8] = 255
        image.putdata(pixels.ravel().tolist())
        image.save(tmp_path / "a.png", transparency=255)
    else:
        seen = np.full((32, 32), 255, np.uint8)
        seen[:8] = 0
        image.putalpha(Image.fromarray(seen))
        image.save(tmp_path / "a.png")
    start, notes = open_it(tmp_path / "a.png", month="2021-07", **ALPS)
    assert not start.image[:8].any()
    assert start.valid[8:].all()
    assert np.array_equal(start.image[8:], np.asarray(image.convert("RGB"))[8:])
    assert notes[-1] == "25% of the start are missing or hidden, and are made up."


def test_a_grey_picture_is_said_to_be_grey(tmp_path):
    image = Image.fromarray(made_image(1, 32, 32)).convert("L")
    image.save(tmp_path / "a.png")
    start, notes = open_it(tmp_path / "a.png", month="2021-07", **ALPS)
    assert np.array_equal(start.image[..., 0], np.asarray(image))
    assert notes == ["a.png is grey; its three bands are equal."]


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
    _, notes = open_it(path, card=coarse, month="2021-07")
    assert notes == [
        "The start has pixels of 10 m; made learnt from 7413 m and will treat it as such. Use a "
        "model or an adapter (--adapter) of that scale; frames mean little otherwise."
    ]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.json"])
def test_a_file_that_is_not_there_is_not_said_to_be_of_a_dataset(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name} does not exist\. Check the path\.$"):
        open_it(tmp_path / name, month="2021-07", **ALPS)


def test_a_mask_or_a_folder_that_is_not_there_is_said(tmp_path):
    path, _ = write_tif(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"b\.png does not exist\. Check the path\.$"):
        open_it(path, month="2021-07", hidden=tmp_path / "b.png")
    with pytest.raises(DataError, match=r"bm does not exist\. .* 'ecomap data import bluemarble'"):
        open_it(tmp_path / "bm", tile_id="a")


def test_a_blank_start_is_refused(tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: nothing is shown; all pixels are black or hidden"):
        open_it(tmp_path / "a.png", month="2021-07", **ALPS)


def cloudy(path, hidden_columns):
    """A mask of the first columns of what `write_tif` writes."""
    mask = np.zeros((40, 48), np.uint8)
    mask[:, :hidden_columns] = 255
    Image.fromarray(mask).save(path)
    return path


def test_several_months_fill_what_those_before_them_hide(tmp_path):
    july, image = write_tif(tmp_path / "july.tif")
    june, _ = write_tif(tmp_path / "june.tif")
    with rasterio.open(june, "r+") as file:
        file.write(np.full((3, 40, 48), 90, np.uint8))
    masks = [cloudy(tmp_path / "a.png", 24), cloudy(tmp_path / "b.png", 12)]
    start, notes = open_it(july, june, month=["2021-07", "2021-06"], hidden=masks)
    assert [record.month for record in start.records] == ["2021-07", "2021-06"]
    assert np.array_equal(start.image[:, 24:], image[:, 24:])
    assert (start.image[:, 12:24] == 90).all()
    assert not start.valid[:, :12].any()
    assert start.shows(0)[:, 24:].all()
    assert start.shows(1)[:, 12:24].all()
    assert start.shows(0).sum() + start.shows(1).sum() == start.valid.sum()
    made_up = "25% of the start are missing or hidden, and are made up."
    assert notes == ["25% of the start are of 2021-06.", made_up]
    clear, notes = open_it(june, july, month=["2021-06", "2021-07"], hidden=[NO_MASK, masks[0]])
    assert (clear.image == 90).all()
    assert notes == ["0% of the start are of 2021-07."]


def test_months_on_other_grids_are_refused(tmp_path):
    one, _ = write_tif(tmp_path / "a.tif")
    moved = rasterio.Affine(10, 0, 500_020, 0, -10, 5_150_000)
    two, _ = write_tif(tmp_path / "b.tif", transform=moved)
    months = ["2021-07", "2021-06"]
    with pytest.raises(RequestError, match=r"2021-07 and 2021-06 lie on different ground"):
        open_it(one, two, month=months)
    small, _ = write_tif(tmp_path / "c.tif", size=(40, 40))
    with pytest.raises(RequestError, match=r"are of 48 x 40 px and 40 x 40 px. Expected one grid"):
        open_it(one, small, month=months)
    with pytest.raises(RequestError, match=r"--start-month is given 2 times and there are 1 start"):
        open_it(one, month=months)
    with pytest.raises(RequestError, match=r"25 starts are given; one can be made of 24 months"):
        open_it(*[one] * 25, month=["2021-07"] * 25)


def test_a_dataset_brings_several_months_of_a_place(tmp_path):
    folder = write_tiles(tmp_path / "tiles", num_places=5, size_px=32)
    start, _ = open_it(folder, tile_id=["made/a/0/2004-05", "made/a/0/2004-01"])
    assert [record.month for record in start.records] == ["2004-05", "2004-01"]
    assert np.array_equal(start.image, made_image(5, 32, 32))
