"""The report: counts by hand, what the page says, and datasets that lack things."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep import prep_report
from data_prep.grid import place_at
from data_prep.manifest import SCHEMA
from data_prep.place import write_places
from data_prep.prep_report import PICTURES, write_report
from data_prep.prep_report_counts import Losses, count_records, summarise
from data_prep.prep_report_sections import MAX_ROWS
from data_prep.prep_report_sheet import read_entries
from ecomap.errors import DataError
from ecomap.schema import CLIMATE, LandCover, TileRecord, write_dataset
from tests.made_dataset import ATTRIBUTION, tile, write_made

# odc-geo 0.5 asks shapely for outlines by a function that shapely 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")

CROPS, GRASS = LandCover.CROPLANDS, LandCover.GRASSLANDS


def row(kind: str, task_id: str, state: str, reason: str = "", **result: Any) -> dict[str, Any]:
    place, _, month = task_id.partition("/")
    return {
        "kind": kind, "task_id": task_id, "state": state, "reason": reason,
        "retryable": state == "failed", "detail": f"why {task_id}" if state == "failed" else "",
        "location_id": place, "month": month, "result": json.dumps(result),
    }  # fmt: skip


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "manifest.parquet")


def items() -> list[TileRecord]:
    return [
        tile("a", "2020-01", lat=45.0, lon=11.0, spi=None),
        tile("a", "2021-01", lat=45.0, lon=11.0, temperature_c=2.0, land_cover_frac=0.4,
             flags=("seam",)),
        tile("a", "2020-07", lat=45.0, lon=11.0, temperature_c=25.0, precipitation_mm_day=None),
        tile("b", "2020-07", lat=46.0, lon=11.0, split="test", land_cover=GRASS,
             flags=("offset_suspect",)),
    ]  # fmt: skip


def make_dataset(folder: Path) -> Path:
    """Four tiles of two places; a third place gave none. Crops lost 1 of 4, grass 3 of 4."""
    write_made(folder, items(), license="ODbL <b>", attribution=["NASA POWER", ATTRIBUTION])
    high = {"baseline": "05.09", "offset": -1000, "offset_source": "baseline",
            "offset_confidence": "high"}  # fmt: skip
    low = high | {"offset": 0, "offset_confidence": "low"}
    write_rows(
        folder,
        [
            *(row("imagery", f"a/{month}", "done", **high) for month in ("2020-01", "2020-07")),
            row("imagery", "a/2021-01", "done", **low),
            row("imagery", "a/2021-07", "failed", "unreadable"),
            row("imagery", "b/2020-01", "empty", "cloudy"),
            row("imagery", "b/2020-07", "done", **high),
            row("imagery", "c/2020-01", "empty", "cloudy"),
            row("imagery", "c/2020-07", "empty", "no_scene"),
            row("land_cover", "a", "done"),
            row("climate", "45.0_11.25", "planned"),
        ],
    )
    places = [
        replace(place_at(name, lat, 11.0, size_px=24, resolution_m=10.0), stratum=stratum)
        for name, lat, stratum in (("a", 45.0, CROPS), ("b", 46.0, GRASS), ("c", 47.0, GRASS))
        for stratum in (stratum.label,)
    ]
    write_places(folder / "plan" / "places.parquet", places)
    (folder / "config.yaml").write_text("imagery: {provider: planetary-computer}\n")
    return folder


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset that a test may change; its reports have no pictures, which take seconds."""
    monkeypatch.setattr(prep_report, "draw_pictures", lambda *args, **named: {})
    return make_dataset(tmp_path / "made")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its report, pictures and all; not to be changed."""
    folder = make_dataset(tmp_path_factory.mktemp("whole") / "made")
    with warnings.catch_warnings():
        # odc-geo 0.5 asks shapely for outlines by a function that shapely 2.1 deprecates.
        warnings.filterwarnings("ignore", "The 'shapely.ops.transform", DeprecationWarning)
        write_report(folder)
    return folder


def report_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """Page without its pictures, and the numbers; of ``whole`` as it lies there."""
    page = folder / "report" / "index.html"
    if "whole" not in str(folder):
        assert write_report(folder) == page
    html = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE", page.read_text())
    return html, json.loads((page.parent / "report.json").read_text())


def test_tiles_are_counted_by_class_and_calendar_month(whole: Path):
    _, numbers = report_of(whole)
    assert (numbers["tiles"], numbers["places"]) == (4, 2)
    assert numbers["months"] == ["2020-01", "2020-07", "2021-01"]
    assert numbers["class_months"] == {
        "Grasslands": [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
        "Croplands": [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
    }


def test_losses_are_told_by_class_with_their_reasons(whole: Path):
    html, numbers = report_of(whole)
    strata = numbers["tasks"]["strata"]
    assert list(strata) == ["Grasslands", "Croplands"]  # the one that lost most first
    assert strata["Grasslands"] == {
        "planned": 0, "done": 1, "empty": 3, "failed": 0, "lost_frac": 0.75,
        "reasons": {"cloudy": 2, "no_scene": 1},
    }  # fmt: skip
    assert strata["Croplands"]["lost_frac"] == 0.25
    assert "Of 8 months of places, 4 gave a tile (3 empty, 1 failed)." in html
    assert "Grasslands: 3 of 4 months lost (2 cloudy, 1 no_scene)" in html
    assert "Croplands: 1 of 4 months lost (1 unreadable)" in html
    assert numbers["tasks"]["reasons"]["imagery"] == {
        "empty: cloudy": 2,
        "empty: no_scene": 1,
        "failed: unreadable": 1,
    }
    assert numbers["tasks"]["months"]["2020-01"]["empty"] == 2
    assert numbers["tasks"]["states"]["climate"] == {"planned": 1}
    assert "why a/2021-07" in html
    assert numbers["tasks"]["failures"] == [
        {"kind": "imagery", "task_id": "a/2021-07", "reason": "unreadable", "retryable": True,
         "detail": "why a/2021-07"}
    ]  # fmt: skip
    assert "1 planned place without a tile" in html


def test_provenance_tells_offsets_and_their_confidence(whole: Path):
    html, numbers = report_of(whole)
    base = {"provider": "planetary-computer", "baseline": "05.09", "offset_source": "baseline"}
    assert numbers["provenance"] == [
        base | {"offset": "-1000", "offset_confidence": "high", "tiles": 3},
        base | {"offset": "0", "offset_confidence": "low", "tiles": 1},
    ]
    assert "planetary-computer" in html
    assert numbers["sources"] == {
        "climate: NASA POWER": 4,
        "imagery: sentinel-2": 4,
        "land cover: WorldCover 2021": 4,
    }


def test_without_a_manifest_records_tell_offsets(dataset: Path):
    (dataset / "manifest.parquet").unlink()
    html, numbers = report_of(dataset)
    (one,) = numbers["provenance"]
    assert (one["provider"], one["baseline"], one["offset"], one["tiles"]) == (
        *("sentinel-2", "05.09", "-1000", 4),
    )
    assert "What was lost" not in html


def test_without_a_plan_records_tell_the_class_of_a_place(dataset: Path):
    (dataset / "plan" / "places.parquet").unlink()
    _, numbers = report_of(dataset)
    totals = {name: n["done"] + n["empty"] + n["failed"] for name, n in
              numbers["tasks"]["strata"].items()}  # fmt: skip
    assert totals == {"Croplands": 4, "Grasslands": 2, "unknown": 2}


def test_climate_ranges_are_percentiles_of_known_values(whole: Path):
    html, numbers = report_of(whole)
    crops = numbers["climate"]["temperature_c"]["Croplands"]  # 12.34, 2 and 25
    assert (crops["known"], crops["minimum"], crops["median"], crops["maximum"]) == (
        *(3, 2.0, 12.34, 25.0),
    )
    assert crops["p10"] == pytest.approx(2 + 0.2 * 10.34)
    assert numbers["climate"]["precipitation_mm_day"]["Croplands"]["known"] == 2
    assert numbers["unknown"] == {"precipitation_mm_day": 1, "spi": 1}
    assert "Not known: Precipitation: 1 of 4 tiles." in html
    assert numbers["indices"]["spi"]["known"] == 3
    assert numbers["indices"]["sti"]["known"] == 4


def test_purity_flags_and_fractions_are_counted(whole: Path):
    html, numbers = report_of(whole)
    assert numbers["purity"]["Croplands"]["below_half"] == 1
    assert numbers["purity"]["Grasslands"]["below_half"] == 0
    assert numbers["flags"] == {"offset_suspect": 1, "seam": 1}
    assert "offset suspect" in html
    assert "25 %" in html
    assert numbers["fractions"]["cloud_frac"]["median"] == 0.125
    assert numbers["fractions"]["scene_snow_frac"] == {"known": 0}


def test_the_distance_between_sides_is_told(whole: Path):
    html, numbers = report_of(whole)
    gap = numbers["leakage"]["train_test"]
    assert gap["centre_km"] == pytest.approx(111.2, abs=0.1)  # a degree of latitude
    assert "train to test" in html
    assert f"{gap['centre_km']:.3g}" in html


def test_rights_of_records_and_whole_stand_on_the_page_as_text(whole: Path):
    html, numbers = report_of(whole)
    assert numbers["rights"]["licenses"] == ["Copernicus Sentinel data terms", "ODbL <b>"]
    assert numbers["rights"]["attributions"] == [ATTRIBUTION, "NASA POWER"]
    assert "ODbL &lt;b&gt;" in html
    assert "<b>" not in html


def test_the_page_is_whole_by_itself_and_pictures_lie_beside_it(whole: Path):
    html, _ = report_of(whole)
    report = whole / "report"
    assert {p.name for p in report.iterdir()} == {
        *("index.html", "report.json"),
        *(f"{name}.png" for name in PICTURES),
    }
    assert html.count('src="PICTURE"') == len(PICTURES)
    assert not re.search(r"https?://|src=\"[^P]|href=", html)
    for name in PICTURES:
        with Image.open(report / f"{name}.png") as image:
            assert min(image.size) > 100
            assert np.asarray(image.convert("L")).std() > 5, f"{name} shows nothing"


def test_the_same_dataset_gives_the_same_bytes(whole: Path, tmp_path: Path):
    write_report(whole, tmp_path / "again")
    for path in (whole / "report").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_single_tile_without_climate_makes_a_page(tmp_path: Path):
    unknown = dict.fromkeys([*CLIMATE, "spi", "sti", "land_cover", "land_cover_frac", "country"])
    bare = {"cloud_frac": None, "nodata_frac": None, "snow_frac": None, "crs": None,
            "transform": None, "processing_baseline": None}  # fmt: skip
    folder = write_made(tmp_path / "one", [tile("a", "2020-01")])
    write_dataset(folder, [tile("a", "2020-01", **unknown, **bare)])
    html, numbers = report_of(folder)
    assert numbers["class_months"] == {"unknown": [1] + 11 * [0]}
    assert "1 tile of 1 place, 2020-01." in html
    assert "Nothing is held out" in html
    assert "Temperature: 1 of 1 tiles" in html
    pictures = {p.stem for p in (folder / "report").glob("*.png")}
    assert pictures == {"map", "class_months", "contact_sheet"}


def test_a_variable_that_no_tile_knows_leaves_its_panel_empty(tmp_path: Path):
    folder = write_made(tmp_path / "one", [tile("a", "2020-01", temperature_c=None, sti=None)])
    _, numbers = report_of(folder)
    assert numbers["climate"]["temperature_c"] == {}
    assert (folder / "report" / "climate.png").is_file()


def test_a_dataset_without_tiles_makes_a_page(tmp_path: Path):
    folder = write_made(tmp_path / "none", [])
    write_rows(folder, [row("imagery", "a/2020-01", "empty", "cloudy")])
    html, numbers = report_of(folder)
    assert "The dataset has no tile. Of 1 months of places, 0 gave a tile (1 empty)." in html
    assert numbers["tasks"]["strata"]["unknown"]["empty"] == 1


def test_pictures_that_no_longer_belong_are_removed(dataset: Path):
    (dataset / "report").mkdir()
    (dataset / "report" / "months.png").write_bytes(b"old")
    (dataset / "report" / "mine.png").write_bytes(b"mine")
    write_report(dataset)
    assert [p.name for p in (dataset / "report").glob("*.png")] == ["mine.png"]


def test_frames_that_cannot_be_read_are_named(dataset: Path):
    (dataset / str(items()[1].image_path)).write_bytes(b"II*\0")
    html, numbers = report_of(dataset)
    assert [f["file"] for f in numbers["unreadable"]] == ["sentinel-2/a/2021-01"]
    assert "Unreadable frames" in html


def test_long_lists_are_cut_with_their_length(dataset: Path):
    failed = [row("imagery", f"p{n:03d}/2020-01", "failed", "unreadable") for n in range(250)]
    write_rows(dataset, failed)
    html, numbers = report_of(dataset)
    assert f"Failed tasks: the first {MAX_ROWS} of 250" in html
    assert f"why p{MAX_ROWS - 1:03d}/" in html
    assert f"why p{MAX_ROWS:03d}/" not in html
    assert (numbers["tasks"]["num_failures"], len(numbers["tasks"]["failures"])) == (250, 200)


def test_few_frames_are_read_however_many_there_are(tmp_path: Path):
    many = [
        tile(f"p{n:03d}", "2020-01", land_cover=CROPS if n else GRASS, image_path="images/one.tif")
        for n in range(200)
    ]
    folder = write_made(tmp_path / "many", [many[0]])
    calls: list[tuple[int, int]] = []
    entries, failures = read_entries(folder, many, lambda *args: calls.append(args))
    assert failures == []
    assert entries[0].record.land_cover is GRASS  # a class of one tile is shown
    assert len(entries) == 43  # and seven whole rows of the other
    assert calls[-1] == (43, 43)
    chosen = [int(entry.record.location_id[1:]) for entry in entries[1:]]
    assert chosen[0] < 10
    assert chosen[-1] > 180
    assert chosen == sorted(set(chosen))


def test_the_report_can_lie_elsewhere(dataset: Path, tmp_path: Path):
    assert write_report(dataset, tmp_path / "there") == tmp_path / "there" / "index.html"
    assert not (dataset / "report").exists()


def test_a_damaged_manifest_is_an_error(dataset: Path):
    (dataset / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable manifest"):
        write_report(dataset)


def test_lost_is_what_is_empty_or_failed():
    losses = Losses()
    losses.states.update({"done": 5, "empty": 2, "failed": 1, "planned": 2})
    assert (losses.total, losses.num_lost, losses.lost_frac) == (10, 3, 0.3)
    assert Losses().lost_frac == 0


def test_percentiles_of_nothing_are_left_out():
    assert summarise([]) == {"known": 0}
    assert summarise([1.0, 2.0]) == {
        "known": 2, "minimum": 1.0, "p10": 1.1, "median": 1.5, "p90": 1.9, "maximum": 2.0,
    }  # fmt: skip


def test_classes_stand_in_the_order_of_their_codes():
    found = count_records([tile("a", "2020-01", land_cover=None), *items()])
    assert list(found.class_months) == ["Grasslands", "Croplands", "unknown"]
