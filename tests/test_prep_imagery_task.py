"""Tiles from made-up scenes over HTTP, then from real ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio

from data_prep import imagery_task, remote, second_look
from data_prep.catalogue import search
from data_prep.cog import read_cog
from data_prep.imagery_task import TileResult, fetch_tile
from data_prep.place import Place
from data_prep.prep_config import ImageryConfig
from data_prep.remote import ReadError
from data_prep.scene import Scene
from data_prep.scenes import scene_of
from ecomap.errors import RequestError
from tests.fake_scenes import ramp, write_scene
from tests.stac_server import StacServer

# odc-geo still calls the older function when a place's outline is made
pytestmark = pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")

LEFT, TOP = 600_000.0, 5_000_040.0
SIZE_PX = 256
GREEN = {"B04": 400, "B03": 600, "B02": 300, "B08": 3500}
"""Meadow, digital numbers after the offset."""
MONTH = "2023-08"


class World:
    """A folder of made-up scenes behind a server, and the settings to read them."""

    def __init__(self, server: StacServer) -> None:
        self.server = server
        self.folder = server.folder
        self.config = ImageryConfig(
            provider="earth-search", url=server.url, timeout_s=2, num_retries=2
        )

    def scene(self, item_id: str, **changes: Any) -> Scene:
        """Write a scene and read its item as a catalogue would give it."""
        arguments: dict[str, Any] = {
            "left": LEFT,
            "top": TOP,
            "bands": GREEN,
        }
        if "provider_style" not in changes:
            arguments |= {"boa_offset_applied": True, "raster_offset": -0.1}
        write_scene(self.folder, item_id=item_id, **{**arguments, **changes})
        self.server.reload()
        item = next(item for item in self.server.items if item["id"] == item_id)
        return scene_of(item, changes.get("provider_style", "earth-search"))

    def fetch(
        self, scenes: list[Scene], *, at: Place | None = None, month: str = MONTH, **changes: Any
    ) -> TileResult:
        config = self.config.model_copy(update=changes)
        self.server.requests.clear()
        return fetch_tile(at or place(), month, scenes, path=self.path, config=config)

    @property
    def path(self) -> Path:
        return self.folder / "out" / "tile.tif"

    @property
    def values(self) -> np.ndarray:
        return read_cog(self.path).values


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(remote, "REQUEST_RETRY_DELAY_S", 0.01)
    with StacServer(tmp_path) as server:
        yield World(server)


def place(
    column: int = 20,
    row: int = 40,
    *,
    size_px: int = 64,
    resolution_m: float = 10,
    crs: str = "EPSG:32633",
) -> Place:
    return Place(
        location_id="p1",
        lat=45,
        lon=16,
        crs=crs,
        left=LEFT + 10 * column,
        top=TOP - 10 * row,
        size_px=size_px,
        resolution_m=resolution_m,
    )


def another_pass(day: int) -> dict[str, Any]:
    """Arguments of a scene of another day."""
    start = f"202308{day:02d}T095031"
    return {
        "acquired": f"2023-08-{day:02d}T09:57:57Z",
        "datatake": f"{start}_0425{day:02d}",
        "datastrip": f"202308{day:02d}T095630",
    }


def cover(code: int, frac: float, rest: int = 4) -> np.ndarray:
    """Classes of a scene of 128 x 128 pixels; the left part has a code."""
    scl = np.full((128, 128), rest, np.uint8)
    # the tile begins at column 10 of the coarse pixels and is 32 of them wide
    scl[:, : 10 + round(32 * frac)] = code
    return scl


def test_a_clear_scene_is_read_as_it_is(world: World):
    scene = world.scene("S2A_33TWL_20230815_0_L2A", bands=None)
    result = world.fetch([scene])
    expected = [ramp(256, 256, base=base)[40:104, 20:84] for base in (2000, 2500, 3000, 3500)]
    np.testing.assert_array_equal(world.values, expected)
    assert result.state == "done"
    assert result.items == ("S2A_33TWL_20230815_0_L2A",)
    assert result.acquired == "2023-08-15T09:57:57Z"
    assert (result.baseline, result.offset, result.offset_confidence) == ("05.09", 0, "medium")
    fractions = (result.cloud_frac, result.snow_frac, result.nodata_frac, result.saturated_frac)
    assert fractions == (0, 0, 0, 0)
    assert (result.num_candidates, result.problems) == (1, ())


def test_the_file_says_what_it_is(world: World):
    result = world.fetch([world.scene("S2A_33TWL_20230815_0_L2A")])
    with rasterio.open(world.path) as file:
        assert file.crs == "EPSG:32633"
        assert tuple(file.transform)[:6] == place().transform
        assert file.descriptions == ("B04", "B03", "B02", "B08")
        assert file.tags()["TIFFTAG_DATETIME"] == "2023:08:15 09:57:57"
    tags = read_cog(world.path).tags
    assert tags["items"] == "S2A_33TWL_20230815_0_L2A"
    assert (tags["offset"], tags["offset_source"]) == ("0", "earthsearch:boa_offset_applied")
    assert (tags["location_id"], tags["month"]) == ("p1", MONTH)
    assert tags["source"] == "earth-search/sentinel-2-l2a"
    assert tags["attribution"].endswith("modified Copernicus Sentinel data 2023")
    assert len(result.sha256 or "") == 64


def test_the_same_scenes_give_the_same_file(world: World):
    scenes = [world.scene("S2A_33TWL_20230815_0_L2A"), world.scene("S2B", **another_pass(3))]
    first = world.fetch(scenes)
    assert world.fetch(scenes[::-1]) == first
    assert first.sha256 is not None


def test_a_result_survives_json(world: World):
    result = world.fetch([world.scene("S2A_33TWL_20230815_0_L2A")])
    assert TileResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize(
    ("baseline", "offset", "expected"), [("04.00", -1000, 400), ("03.01", 0, 1400)]
)
def test_the_offset_goes_by_the_baseline(world: World, baseline: str, offset: int, expected: int):
    bands = {band: np.full((SIZE_PX, SIZE_PX), 1000 + value) for band, value in GREEN.items()}
    bands["B04"][50, 30] = 700  # below the offset: dark, not missing and not 65236
    scene = world.scene("S2A", bands=bands, baseline=baseline, provider_style="planetary-computer")
    result = world.fetch([scene], provider="planetary-computer")
    assert (result.offset, result.offset_confidence) == (offset, "high")
    assert world.values[0, 0, 0] == expected
    assert world.values[0, 10, 10] == max(700 + offset, 1)
    assert world.values.max() < 5000


@pytest.mark.parametrize(("shift", "flag"), [(0, "offset_confirmed"), (1000, "offset_suspect")])
def test_a_doubtful_offset_is_flagged_by_its_pixels(world: World, shift: int, flag: str):
    bands = {band: value + shift for band, value in GREEN.items()}
    scene = world.scene("S2A", bands=bands, boa_offset_applied=False)
    result = world.fetch([scene])
    assert (result.offset, result.offset_confidence) == (0, "low")
    assert result.flags == (flag,)
    assert read_cog(world.path).tags["flags"] == flag
    assert world.values[0, 0, 0] == 400 + shift  # told, not changed


def test_two_datastrips_are_corrected_each_by_its_own_offset(world: World):
    north = np.full((SIZE_PX, SIZE_PX), 1400, np.uint16)
    south = np.full((SIZE_PX, SIZE_PX), 410, np.uint16)
    north[70:], south[:60] = 0, 0  # they overlap by ten rows: 60 ... 69
    scl_north, scl_south = np.full((128, 128), 4), np.full((128, 128), 4)
    scl_north[35:], scl_south[:30] = 0, 0
    style: dict[str, Any] = {"provider_style": "planetary-computer"}
    scenes = [
        world.scene(
            "S2A_first", bands=dict.fromkeys(GREEN, north), scl=scl_north, baseline="05.00", **style
        ),
        world.scene(
            "S2A_second",
            bands=dict.fromkeys(GREEN, south),
            scl=scl_south,
            baseline="03.01",
            datastrip="20230815T095900",
            **style,
        ),
    ]
    assert scenes[0].pass_key == scenes[1].pass_key
    result = world.fetch(scenes, provider="planetary-computer")
    values = world.values[0]
    assert (values[: 70 - 40] == 400).all()
    assert (values[70 - 40 :] == 410).all()
    assert result.items == ("S2A_first", "S2A_second")
    assert result.num_candidates == 1
    assert result.nodata_frac == 0
    assert "mixed_offsets" in result.flags


def test_a_neighbouring_square_is_read_only_where_it_is_needed(world: World):
    inner = world.scene("S2A_33TWL", mgrs="33TWL")
    outer = world.scene("S2A_33TXL", mgrs="33TXL", left=LEFT + 2400)
    assert world.fetch([outer, inner]).items == ("S2A_33TWL",)
    assert world.server.count("data", pattern="33TXL") == 0
    result = world.fetch([outer, inner], at=place(200, 10))
    assert set(result.items) == {"S2A_33TWL", "S2A_33TXL"}
    assert (world.values > 0).all()


def test_the_other_side_of_the_antimeridian_belongs_to_the_tile(world: World):
    from pyproj import Transformer

    x, y = Transformer.from_crs(4326, 32601, always_xy=True).transform(-179.99, 45.0)
    scene = world.scene(
        "S2A_01TBK", crs="EPSG:32601", left=round(x, -2) - 1000, top=round(y, -2) + 1000,
        mgrs="01TBK",
    )  # fmt: skip
    x, y = Transformer.from_crs(4326, 32660, always_xy=True).transform(-179.99, 45.0)
    tile = Place(
        location_id="p1", lat=45, lon=179.99, crs="EPSG:32660", left=round(x, -1) - 320,
        top=round(y, -1) + 320, size_px=64, resolution_m=10,
    )  # fmt: skip
    result = world.fetch([scene], at=tile)
    assert result.state == "done"
    assert result.nodata_frac == 0
    assert (world.values == np.array([400, 600, 300, 3500])[:, None, None]).all()
    assert read_cog(world.path).crs == "EPSG:32660"


def test_the_share_without_data_is_told_and_limited(world: World):
    scl, bands = cover(0, 0.25), {}
    for band, value in GREEN.items():
        bands[band] = np.full((SIZE_PX, SIZE_PX), value)
        bands[band][:, : 20 + 16] = 0
    scene = world.scene("S2A", scl=scl, bands=bands)
    result = world.fetch([scene])
    assert (result.state, result.reason, result.nodata_frac) == ("empty", "nodata", 0.25)
    assert not world.path.exists()
    result = world.fetch([scene], max_nodata_frac=0.25)
    assert (result.state, result.nodata_frac) == ("done", 0.25)
    assert not world.values[:, :, :16].any()
    assert (world.values[:, :, 16:] > 0).all()


def test_bands_may_lack_more_than_the_classes_say(world: World):
    style: dict[str, Any] = {"provider_style": "planetary-computer", "baseline": "03.01"}
    bands = {band: np.full((SIZE_PX, SIZE_PX), value) for band, value in GREEN.items()}
    bands["B08"] = np.zeros((SIZE_PX, SIZE_PX))
    bands["B04"][:, :60] = bands["B03"][:, :60] = bands["B02"][:, :60] = 0
    torn = world.scene("S2A", bands=bands, **style)
    result = world.fetch([torn], provider="planetary-computer")
    assert (result.state, result.reason, result.nodata_frac) == ("empty", "nodata", 1.0)
    whole = world.scene("S2B", cloud_cover=50, **style, **another_pass(20))
    result = world.fetch([torn, whole], provider="planetary-computer")
    assert result.items == ("S2B",)


@pytest.mark.parametrize("applied", [True, False])
def test_a_lake_that_the_provider_clipped_to_zero_stays(world: World, applied: bool):
    bands = {band: np.full((SIZE_PX, SIZE_PX), value) for band, value in GREEN.items()}
    bands["B08"][50:90, 30:70] = 0
    for values in bands.values():
        values[60, 40] = 0  # dark in all bands
    result = world.fetch([world.scene("S2A", bands=bands, boa_offset_applied=applied)])
    assert (result.state, result.nodata_frac) == ("done", 0)
    assert (world.values[3, 10:50, 10:50] == 1).all()
    assert world.values[:, 20, 20].tolist() == [1, 1, 1, 1]
    assert world.values[:, 20, 21].tolist() == [400, 600, 300, 1]


@pytest.mark.parametrize(("baseline", "value"), [("05.09", 400), ("03.01", 1400)])
def test_zeros_of_untouched_products_are_missing(world: World, baseline: str, value: int):
    bands = {band: np.full((SIZE_PX, SIZE_PX), 1400) for band in GREEN}
    bands["B08"][60, 40] = 0
    style: dict[str, Any] = {"provider_style": "planetary-computer", "baseline": baseline}
    result = world.fetch([world.scene("S2A", bands=bands, **style)], provider="planetary-computer")
    assert result.nodata_frac == round(1 / 64**2, 4)
    assert world.values[:, 20, 20].tolist() == [0, 0, 0, 0]
    assert world.values[:, 20, 21].tolist() == [value] * 4


@pytest.mark.parametrize("kind", ["average", "cubic", "nearest"])
def test_a_coarse_tile_is_counted_on_all_classes_and_made_of_all_pixels(world: World, kind: str):
    rng = np.random.default_rng(0)
    bands = {band: rng.integers(1, 4000, (1024, 1024)) for band in GREEN}
    scl = rng.choice([4, 8, 11], (512, 512), p=[0.7, 0.2, 0.1])
    scl[:, :10] = 6  # beside the tile
    scene = world.scene("S2A", bands=bands, scl=scl, size_px=1024)
    for path in sorted((world.folder / "S2A").glob("*.tif")):
        with rasterio.open(path) as file:
            values, profile = file.read(), file.profile
        options = {"driver": "COG", "overview_resampling": kind, "blocksize": 128}
        for name in ("tiled", "blockxsize", "blockysize", "interleave"):
            del profile[name]
        with rasterio.open(path, "w", **profile | options) as file:
            file.write(values)
    tile = place(20, 40, size_px=32, resolution_m=60)
    result = world.fetch([scene], at=tile)
    under = scl[20 : 20 + 96, 10 : 10 + 96]
    assert result.cloud_frac == round(float((under == 8).mean()), 4)
    assert result.snow_frac == round(float((under == 11).mean()), 4)
    assert (result.state, result.nodata_frac) == ("done", 0)
    for number, band in enumerate(("B04", "B03", "B02", "B08")):
        blocks = bands[band][40 : 40 + 192, 20 : 20 + 192].reshape(32, 6, 32, 6)
        exact = blocks.mean(axis=(1, 3))
        assert np.abs(world.values[number] - exact).max() <= 0.5 + 1e-3


def test_a_coarse_tile_checks_its_offset_where_classes_agree(world: World):
    bands = {band: value + 1000 for band, value in GREEN.items()}
    scene = world.scene("S2A", bands=bands, boa_offset_applied=False, size_px=1024)
    result = world.fetch([scene], at=place(size_px=32, resolution_m=60))
    assert (result.offset, result.flags) == (0, ("offset_suspect",))


def test_a_result_names_its_bands_and_its_pixels(world: World):
    first = world.fetch([world.scene("S2A")])
    assert first.bands == ("B04", "B03", "B02", "B08")
    other = world.fetch([world.scene("S2B", **another_pass(20))], at=place(30, 50))
    assert other.pixels_sha256 == first.pixels_sha256
    assert other.sha256 != first.sha256
    assert len(first.pixels_sha256 or "") == 64
    scene = world.scene("S2C", bands={**GREEN, "B04": 401}, **another_pass(21))
    assert world.fetch([scene]).pixels_sha256 != first.pixels_sha256
    fewer = world.fetch([scene], bands=("B03", "B02", "B04"))
    assert fewer.bands == ("B03", "B02", "B04")
    assert world.fetch([]).bands == ()
    assert world.fetch([]).pixels_sha256 is None


def test_pixels_of_another_shape_are_other_pixels():
    values = np.arange(24, dtype=np.uint16)
    hashes = {imagery_task._hash_of(values.reshape(s)) for s in ((2, 3, 4), (2, 4, 3), (6, 2, 2))}
    assert len(hashes) == 3


def test_all_squares_of_a_pass_are_used_if_one_is_clear_enough(world: World):
    clear = world.scene("S2A_33TWL", mgrs="33TWL", cloud_cover=20)
    cloudy = world.scene("S2A_33TXL", mgrs="33TXL", cloud_cover=95, left=LEFT + 2560)
    seam = place(220, 10)
    config = world.config.model_copy(update={"max_scene_cloud_frac": 0.9})
    found = search([seam], [MONTH], config)
    scenes = [scene_of(item, "earth-search") for item in found]
    assert {scene.item_id for scene in scenes} == {clear.item_id, cloudy.item_id}
    result = world.fetch(scenes, at=seam)
    assert (result.state, result.nodata_frac) == ("done", 0)
    assert set(result.items) == {"S2A_33TWL", "S2A_33TXL"}


def test_cloud_is_judged_inside_the_tile(world: World):
    hidden = world.scene("S2A", cloud_cover=5, scl=9)
    open_sky = world.scene("S2B", cloud_cover=60, scl=cover(9, 0.125), **another_pass(20))
    result = world.fetch([hidden, open_sky])
    assert result.items == ("S2B",)
    assert result.cloud_frac == 0.125
    assert result.num_candidates == 2
    assert world.server.count("data", pattern="S2A/B") == 0


def test_a_cloudy_month_is_empty_and_reads_no_bands(world: World):
    scenes = [
        world.scene("S2A", scl=cover(3, 0.5), cloud_cover=40),
        world.scene("S2B", scl=cover(10, 0.375), cloud_cover=50, **another_pass(20)),
    ]
    result = world.fetch(scenes)
    assert (result.state, result.reason, result.cloud_frac) == ("empty", "cloudy", 0.375)
    assert (result.items, result.sha256) == ((), None)
    assert world.server.count("data", pattern="/B") == 0
    assert world.fetch(scenes, max_cloud_frac=0.375).items == ("S2B",)


def test_of_passes_that_keep_the_limits_the_clearest_wins(world: World):
    # The clearest of all lacks too much; it must not hide the one that keeps the limits.
    clear_part = world.scene("S2A", scl=cover(0, 0.5), cloud_cover=1)
    hazy = world.scene("S2B", scl=cover(8, 0.25), cloud_cover=30, **another_pass(20))
    assert world.fetch([clear_part, hazy]).items == ("S2B",)
    both = world.fetch([clear_part, hazy], max_cloud_frac=0.1)
    assert (both.reason, both.cloud_frac) == ("cloudy", 0.25)


def test_snow_is_not_cloud(world: World):
    white = dict.fromkeys(GREEN, 9000)
    result = world.fetch([world.scene("S2A", scl=11, bands=white)])
    assert (result.state, result.snow_frac, result.cloud_frac) == ("done", 1, 0)


def test_saturated_pixels_are_counted(world: World):
    result = world.fetch([world.scene("S2A", scl=cover(1, 0.25))])
    assert (result.saturated_frac, result.cloud_frac) == (0.25, 0)


def test_no_scene_is_a_result(world: World):
    result = world.fetch([])
    assert (result.state, result.reason, result.num_candidates) == ("empty", "no_scene", 0)
    overcast = world.scene("S2A", cloud_cover=95)
    assert world.fetch([overcast]).reason == "no_scene"
    assert world.server.requests == []
    unknown = world.scene("S2B", cloud_cover=None, **another_pass(20))
    assert world.fetch([unknown]).state == "done"


def test_scenes_of_another_month_are_refused(world: World):
    with pytest.raises(ValueError, match="S2A is not of 2023-09"):
        world.fetch([world.scene("S2A")], month="2023-09")


def test_reading_stops_at_the_first_perfect_tile(world: World):
    scenes = [
        world.scene(f"S2A_{day}", cloud_cover=day, **another_pass(day)) for day in (20, 10, 15)
    ]
    assert world.fetch(scenes).items == ("S2A_10",)
    assert world.server.count("data", pattern="SCL", method="HEAD") == 1
    # size, header with all there is of so small a file; the rest of the four bands likewise
    assert len(world.server.requests) <= 5 * 3


def test_only_so_many_passes_are_looked_at(world: World):
    scenes = [
        world.scene(f"S2A_{day}", cloud_cover=day, scl=9, **another_pass(day)) for day in (1, 2, 3)
    ]
    result = world.fetch(scenes, max_candidates=2)
    assert result.num_candidates == 3
    assert world.server.count("data", pattern="S2A_3") == 0
    assert world.server.count("data", pattern="SCL", method="HEAD") == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_waited_for(world: World, status: int):
    scene = world.scene("S2A")
    world.server.add_fault(r"S2A/", status, hits=(1, 3, 4, 5, 9), methods=("HEAD", "GET"))
    assert world.fetch([scene]).state == "done"
    assert (world.values[0] == 400).all()


@pytest.mark.parametrize("kind", ["truncated", "stall"])
def test_cut_and_stalled_answers_are_asked_for_again(world: World, kind: Any):
    scene = world.scene("S2A", bands=None)
    world.server.add_fault("S2A/B03", kind, hits=(1,), methods=("GET",))
    world.server.add_fault("S2A/SCL", kind, hits=(1,), methods=("GET",))
    assert world.fetch([scene]).state == "done"
    np.testing.assert_array_equal(world.values[1], ramp(256, 256, base=2500)[40:104, 20:84])


def test_what_may_pass_is_raised_and_changes_no_choice(world: World):
    scenes = [
        world.scene("S2A", cloud_cover=1),
        world.scene("S2B", cloud_cover=2, **another_pass(20)),
    ]
    world.server.add_fault("S2A/SCL", 503, hits=None, methods=("HEAD", "GET"))
    with pytest.raises(ReadError, match=r"S2A/SCL\.tif: the server answers 503") as raised:
        world.fetch(scenes)
    assert raised.value.retryable
    assert not world.path.exists()


def test_expired_tokens_are_replaced(world: World):
    style: dict[str, Any] = {"provider_style": "planetary-computer", "baseline": "03.00"}
    scene = world.scene("S2A_signed", **style)
    world.server.add_fault("/data/", "expired-token", hits=None, methods=("HEAD", "GET"))
    assert world.fetch([scene], provider="planetary-computer").state == "done"
    num_before = world.server.num_tokens
    world.server.expire_tokens()
    other = world.scene("S2A_later", **style)
    assert world.fetch([other], provider="planetary-computer").state == "done"
    assert world.server.num_tokens == num_before + 1
    assert all("sig" in r.query for r in world.server.requests if r.kind == "data")


@pytest.mark.parametrize("name", ["SCL", "B04"])
@pytest.mark.parametrize("damage", ["gone", "corrupt", "text"])
def test_a_damaged_scene_is_passed_over_and_named(world: World, name: str, damage: str):
    scenes = [
        world.scene("S2A", cloud_cover=1),
        world.scene("S2B", cloud_cover=2, **another_pass(20)),
    ]
    spoil(world.folder / "S2A" / f"{name}.tif", damage)
    corner = place(180, 190)  # under the last block of each file
    result = world.fetch(scenes, at=corner)
    assert result.items == ("S2B",)
    assert result.flags == ("scene_unreadable",)
    (problem,) = result.problems
    assert problem.startswith(f"S2A: {world.server.url}/data/S2A/{name}.tif")
    with pytest.raises(ReadError, match=rf"S2A/{name}\.tif") as raised:
        world.fetch(scenes[:1], at=corner)
    assert not raised.value.retryable


def spoil(path: Path, damage: str) -> None:
    if damage == "gone":
        path.unlink()
    elif damage == "text":
        path.write_text("<html>not here</html>")
    else:
        content = path.read_bytes()
        num_whole = len(content) * 9 // 10  # the last block is of the image itself
        path.write_bytes(content[:num_whole] + b"\xaa" * (len(content) - num_whole))


def test_scenes_without_a_needed_band_are_left_out_and_named(world: World):
    scene = world.scene("S2A", drop=("nir",))
    result = world.fetch([scene])
    assert (result.state, result.reason) == ("empty", "no_scene")
    assert result.problems == ("S2A has no asset B08.",)
    assert world.fetch([scene], bands=("B04", "B03", "B02")).state == "done"


def test_bands_of_20_m_and_another_order(world: World):
    bands = {**GREEN, "B11": ramp(128, 128, base=2000)}
    scene = world.scene("S2A", bands=bands)
    world.fetch([scene], bands=("B11", "B02", "B03", "B04"))
    tile = read_cog(world.path)
    assert tile.bands == ("B11", "B02", "B03", "B04")
    assert (tile.values[1] == 300).all()
    exact = 2000 + 3 * (10 + 3.5 / 2 - 0.5) + 7 * (20 + 5.5 / 2 - 0.5)
    assert abs(tile.values[0, 5, 3] - exact) <= 1


def with_second_look(monkeypatch: pytest.MonkeyPatch, predict: Any) -> None:
    package = SimpleNamespace(predict_from_array=predict)
    monkeypatch.setattr(second_look.importlib, "import_module", lambda name: package)


def test_a_second_look_refuses_what_the_classes_let_pass(world: World, monkeypatch):
    seen: list[np.ndarray] = []

    def predict(picture: np.ndarray) -> np.ndarray:
        seen.append(picture)
        return (picture[:1] > 800).astype(np.uint8) * 2

    with_second_look(monkeypatch, predict)
    hazy = world.scene("S2A", cloud_cover=1, bands={**GREEN, "B04": 900})
    clear = world.scene("S2B", cloud_cover=2, **another_pass(20))
    options: dict[str, Any] = {
        "cloud_mask": "omnicloudmask",
        "bands": ("B02", "B03", "B04"),
        "at": place(size_px=96),
    }
    result = world.fetch([hazy, clear], **options)
    assert (result.items, result.cloud_frac) == (("S2B",), 0)
    assert [picture[:, 0, 0].tolist() for picture in seen] == [[900, 600, 3500], [400, 600, 3500]]
    assert read_cog(world.path).bands == ("B02", "B03", "B04")
    assert world.fetch([hazy], **options).reason == "cloudy"


def test_a_second_look_needs_its_package_and_room(world: World, monkeypatch):
    scene = world.scene("S2A")
    with pytest.raises(RequestError, match="too small"):
        world.fetch([scene], cloud_mask="omnicloudmask")

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(second_look.importlib, "import_module", absent)
    with pytest.raises(RequestError, match="pip install omnicloudmask"):
        world.fetch([scene], cloud_mask="omnicloudmask", at=place(size_px=96))


def test_a_full_disk_is_not_taken_for_a_failed_read(world: World, monkeypatch):
    import errno

    scene = world.scene("S2A")

    def no_space(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(OSError, match="No space left") as raised:
        world.fetch([scene])
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.shared
def test_the_clear_pass_of_a_real_month_is_found(shared_data: Path, tmp_path: Path):
    folder = shared_data / "stac_s2_mini"
    search = json.loads((folder / "search_response.json").read_text(encoding="utf-8"))
    with StacServer(folder) as server:
        scenes = [scene_of(item, "earth-search") for item in server.items]
        assert len(scenes) == len(search["features"]) == 10
        config = ImageryConfig(provider="earth-search", url=server.url)
        for column, row in ((60, 80), (200, 150), (20, 250)):
            # Within 33TWL alone: 64 pixels of 120 m
            tile = Place(
                location_id="p", lat=45.5, lon=15.7, crs="EPSG:32633", size_px=64,
                resolution_m=120, left=535_980.0 + 120 * column, top=5_064_000.0 - 120 * row,
            )  # fmt: skip
            path = tmp_path / f"{column}.tif"
            result = fetch_tile(tile, MONTH, scenes, path=path, config=config)
            assert result.acquired[:10] == "2023-08-15"
            assert result.items == ("S2A_33TWL_20230815_0_L2A",)
            assert (result.offset, result.flags) == (0, ())
            assert result.cloud_frac < 0.01
            with rasterio.open(folder / result.items[0] / "B04.tif") as file:
                window = rasterio.windows.Window(column, row, 64, 64)
                expected = file.read(1, window=window)
            np.testing.assert_array_equal(read_cog(path).values[0], expected)
