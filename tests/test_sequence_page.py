"""The page of a sequence: whole in one file, marked, readable without script, sight or network."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ecomap import sequence_page_film
from ecomap.errors import DataError
from ecomap.outputs import SYNTHETIC_STATEMENT, XMP
from ecomap.page import TEMPLATE_FOLDER, Section
from ecomap.sequence import SequenceFolder
from ecomap.sequence_measures import measure_sequence
from ecomap.sequence_page import (
    PAGE_BYTES,
    PAGE_FILE,
    TEXT_BYTES,
    render_page,
    room_for_film,
    write_sequence_page,
)
from ecomap.sequence_page_film import (
    FILM_BYTES,
    encode_jpeg,
    film_of,
    film_words,
    pair_position,
    read_words,
)
from ecomap.sequence_page_tables import (
    MEANING_OF_OUTSIDE,
    facts_of,
    provenance_table,
    scenario_table,
    summary_table,
    support_warnings,
    value_table,
)
from tests.made_sequence import make_start, write_sequence

VOID = {"meta", "img", "input", "br", "link", "line", "polyline"}


class Parsed(HTMLParser):
    """Elements with their attributes and texts; open elements must close in their order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    return write_sequence(tmp_path_factory.mktemp("sequence"), members=3, months=5)


@pytest.fixture(scope="module")
def written(sequence):
    return write_sequence_page(sequence)


@pytest.fixture(scope="module")
def html(written):
    return written[-1].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Parsed(html)


def film_data(html: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="film-data">(.*?)</script>', html)
    return json.loads(text)


def rendered(sequence, sections=()) -> str:
    """The page without plots, which take most of its time."""
    return render_page(sequence, measure_sequence(sequence), film_of(sequence), list(sections))


def changed(sequence, folder, **changes) -> SequenceFolder:
    """The same frames under a changed plan."""
    folder.mkdir(exist_ok=True)
    for name in ("images", "start.tif"):
        (folder / name).symlink_to(sequence.path / name)
    return SequenceFolder(folder, sequence.plan.model_copy(update=changes))


def test_all_files_are_there_and_said(sequence, written):
    names = [path.relative_to(sequence.path).as_posix() for path in written]
    assert names[:2] == ["metrics.csv", "ensemble.csv"]
    assert names[-1] == PAGE_FILE
    assert {"plots/curves.png", "plots/contact_sheet_synth.png"} <= set(names)
    assert "plots/greenness_difference_synth.png" in names
    assert all(path.is_file() for path in written)
    assert not list(sequence.path.rglob("*.tmp"))


def test_the_page_is_one_file_that_needs_no_network(page, html):
    assert page.open == []
    assert not page.all("link")
    assert "@import" not in html
    assert "url(" not in html
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")


def test_the_policy_allows_its_own_script_and_no_other(page, html):
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    script = (TEMPLATE_FOLDER / "sequence.js").read_text(encoding="utf-8")
    assert f"<script>{script}</script>" in html
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]


def test_the_script_finds_every_element_that_it_asks_for(page):
    script = (TEMPLATE_FOLDER / "sequence.js").read_text(encoding="utf-8")
    asked = set(re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', script))
    sides = re.findall(r"byId\(`pair-\$\{side\}([\w-]*)`\)", script)
    asked |= {f"pair-{side}{rest}" for side in ("left", "right") for rest in sides}
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert asked <= set(ids)
    assert len(asked) > 15


def test_every_frame_is_in_the_film_and_says_that_it_is_synthetic(sequence, html):
    film = film_data(html)
    assert [one["title"] for one in film["scenarios"]] == ["Climate as it was", "2 °C warmer"]
    for one, timeline in zip(film["scenarios"], sequence.plan.timelines, strict=True):
        assert one["months"] == list(timeline.months)
        assert [len(frames) for frames in one["frames"]] == [5, 5, 5]
    content = base64.b64decode(film["scenarios"][1]["frames"][2][3])
    with Image.open(io.BytesIO(content)) as image:
        assert image.info["xmp"].decode() == XMP
        frame = sequence.read("plus_2c", 2, "2030-10").astype(float)
        assert np.abs(np.asarray(image) - frame).mean() < 4


def test_a_frame_is_told_with_its_climate_measures_and_support(sequence, html):
    one = film_data(html)["scenarios"][0]
    assert one["climate"][0] == "−3.0 °C · 1.00 mm/day"
    assert one["read"][0][0] == "greenness 0.333 · snow 50 %"
    outside = [result["is_outside"] for result in sequence.plan.support["normal"]]
    assert [one["level"] == "outside" for one in one["support"]] == outside
    assert any(outside)
    assert one["support"][outside.index(True)]["words"] == "⚠ climate outside the training"


def test_what_is_synthetic_is_marked_beside_it_and_above_all(page, sequence):
    assert SYNTHETIC_STATEMENT in page.text("strong")
    badges = [text for tag, text in page.texts if text in ("synthetic", "start, as given")]
    assert badges == ["start, as given", "synthetic", "synthetic"]
    start = next(image for image in page.all("img") if image.get("id") == "start-image")
    content = base64.b64decode(start["src"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert "xmp" not in image.info


def test_a_generated_start_is_marked_too(sequence, tmp_path):
    text = rendered(changed(sequence, tmp_path / "made", start_source="generated"))
    assert "start, as given" not in text
    assert "synthetic start" in text
    assert "The start tile is synthetic too" in text


def test_people_who_cannot_see_or_point_can_use_it(page):
    assert ("html", {"lang": "en"}) in page.elements
    assert all("alt" in image for image in page.all("img"))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {a["aria-labelledby"] for a in page.all("section") if "aria-labelledby" in a} <= ids
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    divider = next(i for i in page.all("input") if i["id"] == "pair-divider")
    assert divider["type"] == "range"
    assert divider["aria-label"]
    assert all(button["type"] == "button" for button in page.all("button"))


def test_without_scripts_first_frames_and_the_sheet_stay(page, html):
    hidden = [a["class"] for _, a in page.elements if "hidden" in a]
    assert len(hidden) == 3
    assert all("needs-script" in name for name in hidden)
    assert page.text("noscript") or "Playing needs scripts" in html
    shown = [i["src"] for i in page.all("img") if (i["alt"] or "").startswith("Synthetic image")]
    first = [one["frames"][0][0] for one in film_data(html)["scenarios"]]
    assert shown == [f"data:image/jpeg;base64,{jpeg}" for jpeg in first]


def test_dark_mode_phones_and_printers_are_thought_of(html):
    for words in ("prefers-color-scheme: dark", "max-width: 40rem", "@media print", "viewport"):
        assert words in html


def test_markup_in_any_text_is_shown_not_obeyed(sequence, tmp_path):
    evil = "</script><b onclick='x'>&\"</b>"
    timelines = tuple(
        timeline.model_copy(update={"title": evil, "notes": (evil,), "facts": {evil: evil}})
        for timeline in sequence.plan.timelines
    )
    plan = {"name": evil, "start_source": evil, "notes": (evil,), "timelines": timelines}
    made = changed(sequence, tmp_path / "evil", **plan)
    section = Section(evil, evil, [scenario_table(made.plan), provenance_table(made.plan)])
    found = Parsed(rendered(made, [section]))
    assert found.open == []
    assert not [name for _, a in found.elements for name in a if name.startswith("on")]
    assert len(found.all("script")) == 2
    assert found.text("title") == [f"Landscape under climate: {evil}"]


def test_the_summary_has_differences_with_units_and_ranges(sequence):
    table = summary_table(sequence.plan, measure_sequence(sequence))
    assert table.columns[2:4] == ["Temperature, °C", "Precipitation, mm/day"]
    first, second = table.rows
    assert first[2] == "8.5"  # calendar months count alike, though January came twice
    assert second[2] == "10.5 (+2.0)"
    assert re.fullmatch(r"0\.\d{3} \(\+0\.\d{3}( to \+0\.\d{3})?\)", second[4])
    assert second[5].startswith("0.05 (−0.08")
    assert "lowest to highest of 3 members" in table.caption


def test_outside_of_the_training_is_said_in_words(sequence):
    (warning,) = support_warnings(sequence.plan)
    outside = sum(result["is_outside"] for result in sequence.plan.support["normal"])
    assert warning["is_alarm"]
    assert warning["lines"][0].startswith(f"Climate as it was: {outside} of 5 months lie outside")
    assert "temperature is" in warning["lines"][0]
    assert warning["lines"][-1] == MEANING_OF_OUTSIDE
    assert "99 % of the months of real places, each compared with places" in MEANING_OF_OUTSIDE


def test_what_was_not_compared_is_not_said_to_be_inside(sequence):
    plan = sequence.plan.model_copy(update={"support": {}})
    (warning,) = support_warnings(plan)
    assert not warning["is_alarm"]
    assert warning["heading"].endswith("not known everywhere.")


def test_no_alarm_where_nothing_is_outside(sequence):
    inside = {
        name: [result | {"is_outside": False} for result in results]
        for name, results in sequence.plan.support.items()
    }
    (warning,) = support_warnings(sequence.plan.model_copy(update={"support": inside}))
    assert not warning["is_alarm"]
    assert warning["heading"] == "All months lie within the climates of the training."
    partly = {
        name: [result | {"missing": ["temperature_c"]} for result in results]
        for name, results in inside.items()
    }
    (warning,) = support_warnings(sequence.plan.model_copy(update={"support": partly}))
    assert warning["heading"].endswith("training, as far as they are known.")


def test_provenance_names_seed_settings_model_and_start(sequence):
    rows = dict(provenance_table(sequence.plan).rows)
    assert rows["seed of member 0"] == "7"
    assert rows["settings, steps"] == "4"
    assert rows["model, bundle, license"] == "Apache-2.0"
    assert rows["start, sha256"] == sequence.plan.start_sha256


def test_what_is_not_known_is_left_out_and_a_pair_of_years_is_a_period(sequence):
    facts = {"normals_years": [2000, 2025], "change_months": None, "changes": {}, "none": []}
    first = sequence.plan.timelines[0].model_copy(update={"facts": facts | {"zero": 0}})
    settings = {"doors": None, "chained": False, "height": {"sha256": None}}
    start = sequence.plan.start.model_copy(update={"attribution": ""})
    plan = {"timelines": (first,), "settings": settings, "start": start}
    made = sequence.plan.model_copy(update=plan)
    assert scenario_table(made).rows[0][3] == "normals years: 2000-2025; zero: 0"
    keys = [key for key, _ in provenance_table(made).rows]
    assert [key for key in keys if key.startswith("settings")] == ["settings, chained"]
    assert "start, attribution" not in keys


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, "0.32 x 0.32 km"),
        ({"crs": None, "transform": None}, "0.32 x 0.32 km"),
        (
            {"crs": None, "transform": None, "source": "user"},
            "about 0.32 x 0.32 km, if its pixels are of the model's size",
        ),
        (
            {"crs": "EPSG:4326", "lat": 46.5, "transform": (0.2667, 0, 5, 0, -0.2667, 51)},
            "653 x 949 km",
        ),
        (
            {"crs": "EPSG:4326", "lat": 0.0, "transform": (0.4166, 0, 5, 0, -0.3333, 6)},
            "1482 x 1186 km",
        ),
    ],
)
def test_the_size_is_that_on_the_ground(sequence, changes, size):
    start = sequence.plan.start.model_copy(update=changes)
    plan = sequence.plan.model_copy(update={"start": start})
    facts = dict(facts_of(plan, measure_sequence(sequence)))
    assert facts["Tile"] == f"32 x 32 px, {size}"


def test_values_are_a_table_unless_it_would_be_too_long(sequence, monkeypatch):
    table = value_table(measure_sequence(sequence))
    assert len(table.rows) == 10
    assert table.rows[5][:2] == ["plus_2c 2030-01", "−1.0"]
    monkeypatch.setattr("ecomap.sequence_page_tables.MAX_TABLE_ROWS", 9)
    assert value_table(measure_sequence(sequence)) is None


def test_a_film_that_is_too_large_shows_fewer_members_then_smaller_then_fewer_years(
    tmp_path, monkeypatch
):
    sequence = write_sequence(tmp_path, scenarios=1, members=2, months=13)
    frame = sequence.read("normal", 0, "2030-01")
    monkeypatch.setattr(sequence_page_film, "SIDES_PX", (32, 16))
    large, small = (13 * len(encode_jpeg(frame, side)) for side in (32, 16))
    assert film_of(sequence, most_bytes=3 * large).members == 2
    film = film_of(sequence, most_bytes=int(1.3 * large))
    assert (film.members, film.side_px, len(film.positions)) == (1, 32, 13)
    film = film_of(sequence, most_bytes=int(0.97 * large))
    assert (film.members, film.side_px, len(film.positions)) == (1, 16, 13)
    film = film_of(sequence, most_bytes=int(0.6 * small))
    months = [sequence.plan.timelines[0].months[position] for position in film.positions]
    assert sorted({month[:4] for month in months}) == ["2030", "2032", "2033"]
    assert len(months) == 9
    assert "9 of 13 months (whole years" in film_words(sequence.plan, film)


def test_scenarios_of_different_length_stand_side_by_side(sequence, tmp_path):
    first, second = sequence.plan.timelines
    second = second.model_copy(update={"records": second.records[:2]})
    shorter = changed(sequence, tmp_path / "shorter", timelines=(first, second))
    found = film_data(rendered(shorter))["scenarios"]
    assert [len(one["frames"][0]) for one in found] == [5, 2]
    assert [len(one["months"]) for one in found] == [5, 2]


def test_one_month_one_scenario_one_member_without_georeference_give_the_same_bytes_again(tmp_path):
    sequence = write_sequence(tmp_path, georeferenced=False, scenarios=1, members=1, months=1)
    paths = write_sequence_page(sequence)
    text = paths[-1].read_text(encoding="utf-8")
    assert "none: the start had no coordinate system" in text
    assert "Spread over members" not in text
    assert "Differences between scenarios" not in text
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_sequence_page(sequence)] == before


def test_the_film_takes_what_plots_leave_of_a_page(written, tmp_path):
    assert written[-1].stat().st_size < PAGE_BYTES
    assert room_for_film(written) == FILM_BYTES
    plot = tmp_path / "plot.png"
    plot.write_bytes(bytes(6_000_000))
    assert (room_for_film([plot]) + 6_000_000) * 4 / 3 + TEXT_BYTES == pytest.approx(PAGE_BYTES)


def test_an_unfinished_sequence_has_no_page(tmp_path):
    sequence = write_sequence(tmp_path, with_frames=False)
    with pytest.raises(DataError, match="lacks 12 of 12 frames"):
        write_sequence_page(sequence)
    assert not (tmp_path / PAGE_FILE).exists()


def test_the_divider_begins_at_the_last_month_of_the_start_s_season():
    start = make_start()  # July
    months = ["2030-01", "2030-04", "2030-07", "2031-01", "2031-06", "2031-10"]
    assert pair_position(start, months) == 2
    assert pair_position(start, ["2030-04", "2030-10", "2031-08"]) == 2
    assert pair_position(start, ["2030-01"]) == 0


def test_what_cannot_be_read_is_not_a_number():
    assert read_words(float("nan"), float("nan")) == "greenness n/a · snow n/a"
