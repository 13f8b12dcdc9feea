"""Tiles on disk: what is written is read, by us and by others, and says what it is."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from data_prep.cog import read_cog, write_cog
from ecomap.errors import DataError

CRS = "EPSG:32601"
TRANSFORM = (10.0, 0.0, 600_020.0, 0.0, -10.0, 5_000_040.0)
TAGS = {"items": "a b", "attribution": "Contains modified Copernicus Sentinel data 2023"}


def tile(size_px: int = 300) -> np.ndarray:
    y, x = np.mgrid[:size_px, :size_px]
    return np.stack([1 + 3 * x + 7 * y, 9000 - 11 * x - 2 * y]).astype(np.uint16)


def write(path: Path, values: np.ndarray, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "bands": ("B04", "B08"),
        "crs": CRS,
        "transform": TRANSFORM,
        "acquired": "2023-08-15T09:57:57Z",
        "tags": TAGS,
    }
    return write_cog(path, values, **{**arguments, **changes})


def test_what_is_written_is_read(tmp_path: Path):
    values = tile()
    values[:, 3, 5] = 0
    write(tmp_path / "deep" / "a.tif", values)
    found = read_cog(tmp_path / "deep" / "a.tif")
    np.testing.assert_array_equal(found.values, values)
    assert found.bands == ("B04", "B08")
    assert (found.crs, found.transform) == (CRS, TRANSFORM)
    assert found.tags == TAGS


def test_the_file_is_a_cog_with_its_meaning(tmp_path: Path):
    write(tmp_path / "a.tif", tile())
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
        assert (file.dtypes[0], file.nodata, file.compression.value) == ("uint16", 0, "DEFLATE")
        assert file.descriptions == ("B04", "B08")
        assert file.scales == (1e-4, 1e-4)
        assert file.block_shapes[0] == (256, 256)
        assert file.overviews(1) == [2]
        assert file.tags()["TIFFTAG_DATETIME"] == "2023:08:15 09:57:57"
        assert file.tags()["TIFFTAG_COPYRIGHT"] == TAGS["attribution"]
        assert file.tags()["ECOMAP_ITEMS"] == "a b"


def test_overviews_are_averages_of_valid_pixels(tmp_path: Path):
    values = tile(512)
    values[:, 0, 0] = 0
    write(tmp_path / "a.tif", values)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
        small = file.read()
    assert small.shape == (2, 256, 256)
    assert small[0, 0, 0] == round((4 + 8 + 11) / 3)
    assert small[0, 3, 7] == np.floor(values[0, 6:8, 14:16].mean() + 0.5)


def test_large_tiles_have_large_blocks(tmp_path: Path):
    write(tmp_path / "a.tif", np.ones((2, 1040, 1040), np.uint16))
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.block_shapes[0] == (512, 512)


def test_the_same_tile_gives_the_same_bytes_and_their_digest(tmp_path: Path):
    first = write(tmp_path / "a.tif", tile())
    second = write(tmp_path / "b.tif", tile(), tags=dict(reversed(TAGS.items())))
    content = (tmp_path / "a.tif").read_bytes()
    assert first == second == hashlib.sha256(content).hexdigest()
    assert content == (tmp_path / "b.tif").read_bytes()
    other = tile()
    other[0, 0, 0] += 1
    assert write(tmp_path / "a.tif", other) != first
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.tif", "b.tif"]


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path, monkeypatch):
    write(tmp_path / "a.tif", tile())
    before = (tmp_path / "a.tif").read_bytes()

    def no_space(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(OSError, match="No space") as raised:
        write(tmp_path / "a.tif", tile() + 1)
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == before


@pytest.mark.parametrize("values", [tile().astype(np.float32), tile()[0], tile()[:1]])
def test_values_that_are_no_tile_are_refused(tmp_path: Path, values: np.ndarray):
    with pytest.raises(ValueError, match=r"expected uint16 \(2, H, W\)"):
        write(tmp_path / "a.tif", values)


def test_files_that_are_no_tiles_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        read_cog(tmp_path / "a.tif")
    write(tmp_path / "a.tif", tile())
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tif").write_text("<html>")
    for name in ("cut.tif", "text.tif"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            read_cog(tmp_path / name)
    with rasterio.open(tmp_path / "a.tif") as file:
        profile = {**file.profile, "driver": "GTiff", "count": 1}
    with rasterio.open(tmp_path / "nameless.tif", "w", **profile) as file:
        file.write(tile()[:1])
    with pytest.raises(DataError, match="expected uint16, named"):
        read_cog(tmp_path / "nameless.tif")


def test_viewers_show_red_green_and_blue_wherever_they_stand(tmp_path: Path):
    values = np.stack([tile()[0]] * 4)
    for bands in (("B04", "B03", "B02", "B08"), ("B08", "B02", "B03", "B04")):
        write(tmp_path / "a.tif", values, bands=bands)
        with rasterio.open(tmp_path / "a.tif") as dataset:
            shown = dict(zip(bands, (c.name for c in dataset.colorinterp), strict=True))
        assert shown == {"B04": "red", "B03": "green", "B02": "blue", "B08": "undefined"}
