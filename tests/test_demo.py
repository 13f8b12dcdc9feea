"""The demonstration: what is asked of the generator, what is read off its images, what is said."""

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ecomap import demo, open_normals
from ecomap.card import BundleCard
from ecomap.demo import PLACES, SEASONS, SWEEPS, plan_shots
from ecomap.errors import BundleError
from ecomap.indices import greenness, snow_fraction
from ecomap.normals import footprint_of
from ecomap.outputs import SYNTHETIC_STATEMENT, read_provenance
from ecomap.page import UNKNOWN
from ecomap.schema import TileRecord

CREDIT = "NASA Earth Observatory (Reto Stöckli)"
CARD = BundleCard(
    name="toy",
    version="7",
    image_size_px=128,
    ground_sampling_distance_m=7421,
    grid="geographic",
    trained_variables=("temperature_c", "precipitation_mm_day"),
    imagery="NASA Blue Marble (7.4 km). Not Sentinel-2.",
    limits="A tile has one climate.",
    attribution=(CREDIT,),
)
FREEZING = np.array([200, 200, 200])


@dataclass
class ToyBundle:
    card: BundleCard = CARD
    device = torch.device("cpu")

    @property
    def identity(self):
        return {"name": self.card.name, "version": self.card.version, "sha256": "0"}


def paint(record: TileRecord) -> np.ndarray:
    """Snow in the columns left of the middle when it freezes, else the greener the wetter."""
    green = 50 + min(round(10 * record.precipitation_mm_day), 100)
    image = np.full((record.height_px, record.width_px, 3), [50, green, 50], np.uint8)
    if record.temperature_c < 0:
        image[:, : record.width_px // 2] = FREEZING
    return image


@dataclass
class ToyGenerator:
    """Paints by rule and remembers what it was asked."""

    black: bool = False
    asked: dict[str, object] = field(default_factory=dict)

    def __call__(self, bundle, records, *, seeds, steps, guidance, progress):
        self.asked = {
            "bundle": bundle,
            "records": list(records),
            "seeds": list(seeds),
            "steps": steps,
            "guidance": guidance,
        }
        if progress:
            progress(len(records), len(records))
        images = np.stack([paint(record) for record in records])
        return images * 0 if self.black else images


@dataclass(frozen=True)
class Shown:
    """One finished demonstration."""

    folder: Path
    asked: dict[str, object]
    numbers: dict[str, object]
    page: str
    result: object
    progress: list[tuple[int, int]]

    @property
    def images(self) -> list[dict[str, object]]:
        groups = [*self.numbers["places"], *self.numbers["changes"]]
        return [image for group in groups for image in group["images"]]


def run(folder: Path, *, card: BundleCard = CARD, black: bool = False, seed: int = 40) -> Shown:
    generator, progress = ToyGenerator(black=black), []
    result = demo(
        folder,
        seed=seed,
        bundle=ToyBundle(card),
        steps=9,
        guidance=1.5,
        progress=lambda done, total: progress.append((done, total)),
        make_images=generator,
    )
    numbers = json.loads((folder / "demo.json").read_text())
    page = html.unescape((folder / "index.html").read_text())
    return Shown(folder, generator.asked, numbers, page, result, progress)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return run(tmp_path_factory.mktemp("demo"))


def words(page: str) -> str:
    """Text of a page with single spaces and without data."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S).split())


def test_six_places_have_four_seasons_and_two_have_three_climates(shown):
    assert [len(place["images"]) for place in shown.numbers["places"]] == [4] * 6
    assert [[i["month"] for i in place["images"]] for place in shown.numbers["places"]] == [
        [1, 4, 7, 10]
    ] * 6
    assert [
        [image["change"] for image in group["images"]] for group in shown.numbers["changes"]
    ] == [
        ["precipitation x0.5", "precipitation x1", "precipitation x1.5"],
        ["temperature -4", "temperature +0", "temperature +4"],
    ]
    assert shown.result.num_images == len(shown.images) == len(shown.asked["records"]) == 30


def test_the_generator_gets_what_the_user_chose(shown):
    assert shown.asked["steps"] == 9
    assert shown.asked["guidance"] == 1.5
    assert shown.asked["bundle"] == ToyBundle()
    assert shown.progress == [(30, 30)]


def test_all_images_of_a_place_share_one_noise(shown):
    by_place: dict[float, set[int]] = {}
    for record, seed in zip(shown.asked["records"], shown.asked["seeds"], strict=True):
        by_place.setdefault(record.lat, set()).add(seed)
    assert [by_place[place.lat] for place in PLACES] == [{40}, {41}, {42}, {43}, {44}, {45}]


def test_changes_reach_all_months_of_the_records():
    shots = plan_shots(CARD, 0)
    seasons = {(shot.place, shot.record.month_index + 1): shot.record for shot in shots[:24]}
    dry, normal, wet = (shot.record for shot in shots[24:27])
    assert normal == seasons[SWEEPS[0].place, SWEEPS[0].month]
    for record, factor in ((dry, 0.5), (wet, 1.5)):
        assert record.temperature_c_normals == normal.temperature_c_normals
        for name in ("normals", "history"):
            today = getattr(normal, f"precipitation_mm_day_{name}")
            changed = getattr(record, f"precipitation_mm_day_{name}")
            assert changed == pytest.approx([factor * value for value in today])
    cold, normal, warm = (shot.record for shot in shots[27:])
    assert normal == seasons[SWEEPS[1].place, SWEEPS[1].month]
    assert cold.temperature_c == pytest.approx(normal.temperature_c - 4)
    assert warm.temperature_c == pytest.approx(normal.temperature_c + 4)


def test_every_file_holds_its_pixels_and_how_they_were_made(shown):
    files = [shown.folder / image["file"] for image in shown.images]
    assert len(set(files)) == 30
    assert set(files) == set((shown.folder / "images").iterdir())
    for path, record, image in zip(files, shown.asked["records"], shown.images, strict=True):
        assert "_synth" in path.name
        np.testing.assert_array_equal(np.asarray(Image.open(path)), paint(record))
        made = read_provenance(path)
        assert TileRecord(**made["record"]) == record
        assert {key: made[key] for key in ("bundle", "steps", "guidance", "seed", "change")} == {
            "bundle": {"name": "toy", "version": "7", "sha256": "0"},
            "steps": 9,
            "guidance": 1.5,
            "seed": image["seed"],
            "change": image["change"],
        }


def test_the_numbers_are_those_of_the_pictures_and_of_the_climate(shown):
    for image, record in zip(shown.images, shown.asked["records"], strict=True):
        assert image["greenness"] == pytest.approx(greenness(paint(record)))
        assert image["snow_frac"] == snow_fraction(paint(record))
        assert image["temperature_c"] == record.temperature_c
        assert image["precipitation_mm_day"] == record.precipitation_mm_day
        assert image["solar_radiation_mj_m2_day"] is None
    siberia = shown.numbers["places"][5]["images"]
    assert [image["snow_frac"] for image in siberia] == [0.5, 0.5, 0.0, 0.5]
    wet = [image["greenness"] for image in shown.numbers["changes"][0]["images"]]
    assert wet == sorted(wet)
    assert wet[0] < wet[2]


def test_places_come_with_their_observed_normals(shown):
    for place, record in zip(shown.numbers["places"], shown.asked["records"][:24:4], strict=True):
        observed = open_normals().climate(place["lat"], place["lon"], footprint_of(record))
        for name, values in observed.items():
            assert place["normals"][name] == pytest.approx(values.tolist())


def test_the_page_shows_every_picture_and_a_plot_for_each_place(shown):
    sources = re.findall(r'<img src="([^"]+)" alt="([^"]+)"', shown.page)
    assert len(sources) == 30 + 6 + 1
    assert all(source.startswith("data:image/png;base64,") for source, _ in sources)
    assert sum(alt.startswith("Synthetic image of") for _, alt in sources) == 30
    for place in PLACES:
        assert f"<h2>{place.name}: {place.climate}</h2>" in shown.page


def test_the_page_says_what_everything_is(shown):
    text = words(shown.page)
    for sentence in (
        SYNTHETIC_STATEMENT,
        "Training images: NASA Blue Marble (7.4 km). Not Sentinel-2.",
        "A tile has one climate.",
        "950 km from north to south",
        "ERA5 monthly normals 2000-2025",
        "Contains modified Copernicus Climate Change Service information",
        CREDIT,
        "G/(R+G+B)",
        "is not NDVI",
        "not its map",
        "do not read it as a projection",
        "bundle toy, version 7, from seed 40",
    ):
        assert sentence in text
    assert shown.numbers["statement"] == SYNTHETIC_STATEMENT
    assert shown.numbers["seed"] == 40
    assert shown.numbers["credits"] == [CREDIT, open_normals().attribution]
    assert shown.numbers["imagery"] == "Training images: NASA Blue Marble (7.4 km). Not Sentinel-2."


def test_captions_give_month_climate_and_readings(shown):
    record = shown.asked["records"][20]
    assert (record.lat, record.month[5:]) == (PLACES[5].lat, "01")
    caption = (
        f"January, synthetic\n{record.temperature_c:.1f} °C, "
        f"{record.precipitation_mm_day:.1f} mm/day\n"
        f"greenness\u00a0{greenness(paint(record)):.3f}, snow\u00a050%"
    )
    assert f"<figcaption>{caption}</figcaption>" in shown.page
    spoken = caption.removeprefix("January, synthetic\n").replace("\n", ", ")
    assert f'alt="Synthetic image of Central Siberia in January: {spoken}"' in shown.page


def test_contact_sheets_hold_seasons_and_changes(shown):
    with Image.open(shown.folder / "seasons_synth.png") as seasons:
        assert seasons.width == 4 * 256 + 5 * 16
        assert seasons.info["Synthetic"] == "true"
        first = np.asarray(seasons)[50:306, 16:272]  # under one line of title
    large = paint(shown.asked["records"][0]).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(first, large)
    with Image.open(shown.folder / "changes_synth.png") as changes:
        assert changes.width == 3 * 256 + 4 * 16


def test_the_same_arguments_give_the_same_files(shown, tmp_path):
    again = run(tmp_path)
    names = {str(path.relative_to(shown.folder)) for path in shown.folder.rglob("*.*")}
    assert names == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    for name in names:
        assert (tmp_path / name).read_bytes() == (shown.folder / name).read_bytes()
    assert again.result.to_dict()["page"] == str(tmp_path / "index.html")


def test_a_black_image_has_no_greenness_and_a_bare_card_says_so(tmp_path):
    card = CARD.model_copy(update={"imagery": "", "limits": "", "attribution": ()})
    shown = run(tmp_path, card=card, black=True)
    assert {image["greenness"] for image in shown.images} == {None}
    assert f"greenness\u00a0{UNKNOWN}" in shown.page
    assert "Training images: the bundle does not say which" in shown.page


def test_the_result_says_where_to_look(shown):
    content = shown.result.to_dict()
    assert content["output"] == str(shown.folder)
    assert content["page"] == str(shown.folder / "index.html")
    assert content["num_images"] == 30
    assert content["elapsed_s"] > 0
    assert shown.result.render().endswith(f"Look at {shown.folder / 'index.html'}")


def test_an_unknown_bundle_is_named(tmp_path):
    with pytest.raises(BundleError, match="no-such-bundle"):
        demo(tmp_path / "new", bundle="no-such-bundle")
    assert not (tmp_path / "new").exists()


def test_the_places_are_mostly_land_and_far_apart_in_climate():
    records = [shot.record for shot in plan_shots(CARD, 0)[:24]]
    assert min(record.land_frac for record in records) > 0.7
    assert len(SEASONS) == 4
    year = {
        place.key: (
            float(np.mean(record.temperature_c_normals)),
            float(np.mean(record.precipitation_mm_day_normals)) * 365.25,
        )
        for place, record in zip(PLACES, records[::4], strict=True)
    }
    assert year["amazon"][1] > 2000 > 1300 > year["ohio"][1] > 700 > year["iberia"][1] > 300
    assert 1000 > year["sahel"][1] > 300 > 50 > year["tenere"][1]
    assert year["siberia"][0] < -3 < 5 < year["ohio"][0] < year["iberia"][0] < 20 < year["sahel"][0]


def test_changed_climates_exist_somewhere_in_the_same_month():
    normals = open_normals()
    for shot in plan_shots(CARD, 0)[24:]:
        month = shot.record.month_index
        warmth = normals.monthly["temperature_c"][month] - shot.record.temperature_c
        rain = normals.monthly["precipitation_mm_day"][month] / shot.record.precipitation_mm_day
        near = (normals.land > 0.9) & (abs(warmth) < 1) & (abs(rain - 1) < 0.1)
        assert near.sum() >= 10, shot.name


def test_the_table_has_a_row_for_each_image(shown):
    rows = re.findall(r"<tr>(<td.*?)</tr>", shown.page)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    record = shown.asked["records"][26]
    assert len(cells) == 30
    assert cells[26] == [
        "Burkina Faso",
        "July",
        "precipitation x1.5",
        f"{record.temperature_c:.3g}",
        f"{record.precipitation_mm_day:.3g}",
        f"{greenness(paint(record)):.3g}",
        "0",
    ]
