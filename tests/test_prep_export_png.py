"""8-bit pictures: their pixels, what is written inside, and where GDAL finds them."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from data_prep.export import export_dataset
from data_prep.export_png import aux_xml, png_path, world_file
from ecomap.errors import DataError
from ecomap.imagery import FrameReader
from ecomap.schema import make_record, read_dataset, read_summary
from tests.made_dataset import ATTRIBUTION, RANGE, digital_numbers, tile, write_made


def test_pixels_are_stretched_along_the_recorded_line(tmp_path: Path):
    folder = write_made(tmp_path / "d", [tile("a", "2020-01")])
    export_dataset(folder, tmp_path / "out", kind="png")
    pixels = np.asarray(Image.open(tmp_path / "out" / "images/a/a_2020-01.png"))
    assert pixels.shape == (20, 24, 3)
    assert pixels[0, 0].tolist() == [0, 0, 0]  # no data
    # Red is 1000 + 100 x, green 500 + 50 y; 0 to 4000 is shown as 0 to 255.
    assert pixels[2, 23, 0] == round(3300 / 4000 * 255)
    assert pixels[19, 1, 1] == round(1450 / 4000 * 255)
    assert pixels[2, 3, 2] == round(digital_numbers(tile("a", "2020-01"))[2, 2, 3] / 4000 * 255)


def test_a_picture_says_what_it_shows_and_of_whom_it_is(tmp_path: Path):
    item = tile("a", "2020-01")
    folder = write_made(tmp_path / "d", [item])
    export_dataset(folder, tmp_path / "out", kind="png")
    with Image.open(tmp_path / "out" / "images/a/a_2020-01.png") as image:
        text = image.text
    assert text["Description"].startswith("a satellite image of Croplands in Veneto, Italy on Jan")
    assert text["Copyright"] == f"Copernicus Sentinel data terms. {ATTRIBUTION}"
    record = make_record(json.loads(text["ecomap_record"]), where="png")
    assert record.reflectance_range == RANGE
    assert (record.bands, record.image_path) == ((), "images/a/a_2020-01.png")
    assert record.scene_ids == item.scene_ids


def test_gdal_finds_a_picture_on_the_ground(tmp_path: Path):
    folder = write_made(tmp_path / "d", [tile("a", "2020-01")])
    export_dataset(folder, tmp_path / "out", kind="png")
    path = tmp_path / "out" / "images/a/a_2020-01.png"
    with rasterio.open(path) as image:
        assert image.crs.to_epsg() == 32632
        assert image.transform == Affine(10.0, 0.0, 650_000.0, 0.0, -10.0, 5_000_000.0)
    path.with_suffix(".png.aux.xml").unlink()
    with rasterio.open(path) as image:  # the world file alone
        assert image.transform == Affine(10.0, 0.0, 650_000.0, 0.0, -10.0, 5_000_000.0)


def test_geographic_pictures_have_longitude_along_x(tmp_path: Path):
    grid = (0.5, 0.0, -20.0, 0.0, -0.25, 60.0)
    item = tile("a", "2020-01", crs="EPSG:4326", transform=grid)
    folder = write_made(tmp_path / "d", [item])
    export_dataset(folder, tmp_path / "out", kind="png")
    with rasterio.open(tmp_path / "out" / "images/a/a_2020-01.png") as image:
        assert image.bounds == (-20.0, 55.0, -8.0, 60.0)  # 24 px of 0.5 and 20 of 0.25 degrees
        assert image.crs.to_epsg() == 4326


def test_a_sheared_grid_keeps_all_six_numbers():
    lines = world_file((2.0, 1.0, 100.0, 0.5, -4.0, 200.0)).split()
    # x = 2 col + 1 row + 100, y = 0.5 col - 4 row + 200, at the centre (0.5, 0.5)
    assert [float(line) for line in lines] == [2.0, 0.5, 1.0, -4.0, 101.5, 198.25]


def test_frames_of_unknown_position_have_no_sidecars(tmp_path: Path):
    folder = write_made(tmp_path / "d", [tile("a", "2020-01")])
    item = tile("a", "2020-01", crs=None, transform=None)
    from ecomap.schema import write_dataset

    write_dataset(folder, [item])
    summary = export_dataset(folder, tmp_path / "out", kind="png")
    assert summary.files == {".json": 1, ".parquet": 1, ".png": 1}


def test_the_export_is_a_dataset_of_its_own(tmp_path: Path):
    items = [tile("a", "2020-01"), tile("b", "2020-01", split="buffer"), tile("c", "2020-02")]
    folder = write_made(tmp_path / "d", items)
    export_dataset(folder, tmp_path / "out", kind="png")
    records = read_dataset(tmp_path / "out")
    assert [record.tile_id for record in records] == [items[0].tile_id, items[2].tile_id]
    for record, item in zip(records, (items[0], items[2]), strict=True):
        mine = FrameReader(tmp_path / "out").read(record)
        assert np.array_equal(mine, FrameReader(folder).read(item))
    assert read_summary(tmp_path / "out")["attributions"] == [ATTRIBUTION]


def test_batches_have_folders_of_their_own():
    assert png_path(tile("7", "2020-01", batch="b1/x")) == (
        "images/sentinel-2/b1-x/7/7_2020-01.png"
    )
    assert png_path(tile("7.5", "2020-01")) == "images/7-5/7-5_2020-01.png"


def test_gdals_file_gives_the_numbers_in_gdals_order():
    text = aux_xml("EPSG:32632", (2.0, 1.0, 100.0, 0.5, -4.0, 200.0)).decode()
    assert "<GeoTransform>100.0, 2.0, 1.0, 200.0, 0.5, -4.0</GeoTransform>" in text


def test_an_unknown_crs_is_an_error_that_names_it():
    with pytest.raises(DataError, match="'EPSG:1' is no coordinate reference system"):
        aux_xml("EPSG:1", (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
