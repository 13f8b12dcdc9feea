"""The page of an evaluation: claims first, every number with what it is compared with."""

import numpy as np
import pytest

from ecomap import evaluation_page
from ecomap.claims import claims
from ecomap.errors import ImageError
from ecomap.evaluation_page import PAGE_FILE, SHEET_FILE, write_page_of
from ecomap.evaluation_report import System
from ecomap.page import PNG_SIGNATURE
from ecomap.scores import OBSERVED
from tests.made_report import CONFIG, make_report, make_tables
from tests.test_page import Parsed

TABLES = make_tables()
REPORT = make_report(TABLES)


def picture(system, key):
    return np.full((16, 16, 3), 200 if system == OBSERVED else 100, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    write_page_of(path, REPORT, TABLES, picture)
    return path


@pytest.fixture(scope="module")
def page(folder):
    return Parsed((folder / PAGE_FILE).read_text(encoding="utf-8"))


def test_sections_come_in_the_order_in_which_they_are_asked_for(page):
    assert page.text("h2") == [
        *("The numbers support", "The numbers do not support", "The numbers do not decide"),
        *("How to read this", "Realism", "Against the real image of the same place and month"),
        *("Vegetation and climate", "Response when only the climate changes"),
        *("Forecast of monthly greenness", "By land cover", "Index against climate, generated"),
        *("Image by image, generated", "Where it is too green and too brown, generated"),
        *("Best and worst in greenness, generated", "Scores by land cover"),
        *("What was read, and what was left out", "Published elsewhere", "Metrics"),
    ]
    assert page.text("h1") == ["Evaluation: generated"]


def test_each_claim_stands_with_its_numbers_and_its_criterion(page):
    text = " ".join(page.text("p"))
    cells = page.text("td")
    for claim in REPORT.claims:
        assert f"▪ {claim.sentence} {'; '.join(claim.evidence)}." in text
        assert claim.criterion in cells
    assert "One year only." in text
    assert "Brackets hold intervals of 95 %." in text


def test_the_page_needs_no_network_and_shows_every_plot(page):
    assert not page.all("script")
    pictures = page.all("img")
    assert all(image["src"].startswith("data:image/png;base64,") for image in pictures)
    assert [image["alt"] for image in pictures] == [
        "Fréchet distance ↓, eo by land cover",
        "Fréchet distance ↓, colour_texture by land cover",
        "RMSE ↓, gcc by land cover",
        "Greenness G/(R+G+B) against climate and over the year",
        "Snow fraction of land against climate and over the year",
        "Scatter of Greenness G/(R+G+B), real and generated",
        "Scatter of Snow fraction of land, real and generated",
        "Map of places by their mean error of greenness",
        "Real images beside generated ones",
    ]


def test_what_was_left_out_and_what_could_not_be_made_is_told(page):
    cells = page.text("td")
    assert "3 mostly masked; 1 unreadable; 2 images have alpha" in cells
    assert "2 blank" in cells
    assert "not made: the reference has one year" in cells
    assert "our network" in cells
    assert "about persistence" in cells


def test_metrics_come_with_formula_and_source_and_unused_ones_do_not(page):
    cells = page.text("td")
    assert "|m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½)" in cells
    assert "Heusel et al. (2017), https://arxiv.org/abs/1706.08500" in cells
    assert "Unused" not in cells


def test_the_footer_tells_how_to_get_the_numbers_again(page):
    text = page.text("p")
    assert REPORT.command in text
    assert "python 3.11, ecomap_code abc; 15 s; seed 0" in text


def test_published_scores_stand_on_the_page_with_the_reasons_against_them(page):
    assert any(caption.startswith("Table 8 of Goktepe") for caption in page.text("caption"))
    assert "above 1, which no cosine can be" in page.text("td")


def small(num=20):
    """Few images, and a report without scores: pages of it are quick to draw."""
    tables = {name: TABLES[name].iloc[:num] for name in (OBSERVED, "generated")}
    return make_report({}, [], published=[]), tables


def heads(folder):
    return Parsed((folder / PAGE_FILE).read_text(encoding="utf-8")).text("h2")


def test_best_and_worst_are_those_of_greenness(tmp_path):
    asked = []

    def remember(system, key):
        asked.append((system, key))
        return picture(system, key)

    report, tables = small()
    write_page_of(tmp_path, report, tables, remember)
    error = (tables["generated"]["gcc"] - tables[OBSERVED]["gcc"]).abs().sort_values()
    expected = [*error.index[:4], *error.index[::-1][:4]]
    assert [key for system, key in asked if system == "generated"] == expected
    assert [key for system, key in asked if system == OBSERVED] == expected


def test_few_images_are_shown_once_each(tmp_path):
    asked = []
    write_page_of(tmp_path, *small(5), lambda *who: asked.append(who) or picture(*who))
    assert len(set(asked)) == len(asked) == 8  # two best and two worst, real and generated


def test_the_sheet_says_which_images_are_real(folder, monkeypatch, tmp_path):
    assert (folder / SHEET_FILE).read_bytes().startswith(PNG_SIGNATURE)
    seen = {}
    report, tables = small()

    def keep(path, images, captions, columns, title, *, is_real):
        seen.update(images=images, captions=captions, is_real=is_real)
        path.write_bytes((folder / SHEET_FILE).read_bytes())

    monkeypatch.setattr(evaluation_page, "contact_sheet", keep)
    write_page_of(tmp_path, report, tables, picture)
    assert [image[0, 0, 0] == 200 for image in seen["images"]] == seen["is_real"]
    assert seen["is_real"] == [True, False] * 8
    key = (tables["generated"]["gcc"] - tables[OBSERVED]["gcc"]).abs().idxmax()
    row = tables[OBSERVED].loc[key]
    assert seen["captions"][8] == (
        f"{row['month']}, {row['land_cover']}, {row['temperature_c']:.3g} °C, "
        f"{row['precipitation_mm_day']:.3g} mm/day"
    )
    error = TABLES["generated"].loc[key, "gcc"] - row["gcc"]
    assert seen["captions"][9] == f"worst: error {error:+.2g}"


def test_images_that_cannot_be_read_are_left_out_and_counted(tmp_path):
    report, tables = small()
    worst = (tables["generated"]["gcc"] - tables[OBSERVED]["gcc"]).abs().idxmax()

    def lose_one(system, key):
        if (system, key) == ("generated", worst):
            raise ImageError("unreadable", "gone")
        return picture(system, key)

    write_page_of(tmp_path / "one", report, tables, lose_one)
    assert "1 pairs could not be read." in (tmp_path / "one" / PAGE_FILE).read_text("utf-8")

    def lose_all(system, key):
        raise ImageError("unreadable", "gone")

    write_page_of(tmp_path / "none", report, tables, lose_all)
    assert not (tmp_path / "none" / SHEET_FILE).exists()
    assert "8 pairs could not be read." in (tmp_path / "none" / PAGE_FILE).read_text("utf-8")


def test_a_system_without_pairs_still_gets_its_page(tmp_path):
    report, tables = small()
    tables["generated"] = tables["generated"].rename("x{}".format)
    write_page_of(tmp_path, report, tables, picture)
    assert heads(tmp_path) == ["The numbers do not decide", "How to read this",
                               "What was read, and what was left out", "Metrics"]  # fmt: skip


def test_an_index_without_a_common_image_is_not_drawn(tmp_path):
    report, tables = small(4)
    tables[OBSERVED] = tables[OBSERVED].assign(snow_frac=[0.5, 0.5, np.nan, np.nan])
    tables["generated"] = tables["generated"].assign(snow_frac=[np.nan, np.nan, 0.5, 0.5])
    write_page_of(tmp_path, report, tables, picture)
    page = Parsed((tmp_path / PAGE_FILE).read_text(encoding="utf-8"))
    assert not any("Snow" in image["alt"] for image in page.all("img"))


def test_only_images_of_both_sides_are_drawn_against_climate(tmp_path, monkeypatch):
    report, tables = small()
    tables["generated"] = tables["generated"].iloc[5:]
    seen = []
    draw = evaluation_page.climate_panels
    monkeypatch.setattr(
        evaluation_page,
        "climate_panels",
        lambda shown, *rest: seen.append(shown) or draw(shown, *rest),
    )
    write_page_of(tmp_path, report, tables, picture)
    assert {name: len(table) for name, table in seen[0].items()} == {OBSERVED: 15, "generated": 15}


def test_places_without_position_have_no_map(tmp_path):
    report, tables = small()
    bare = {name: table.assign(lat=np.nan, lon=np.nan) for name, table in tables.items()}
    write_page_of(tmp_path, report, bare, picture)
    assert "Best and worst in greenness, generated" in heads(tmp_path)
    assert not any(head.startswith("Where it is") for head in heads(tmp_path))


def test_several_judged_systems_are_told_apart(tmp_path):
    report, tables = small()
    systems = [*report.systems, System(name="mine", kind="generated", description="x", n=144)]
    own = claims([], {}, CONFIG, system="mine")
    report = make_report({}, [], published=[], systems=systems, claims=[*report.claims, *own])
    write_page_of(tmp_path, report, tables | {"mine": tables["generated"]}, picture)
    page = Parsed((tmp_path / PAGE_FILE).read_text(encoding="utf-8"))
    assert page.text("h1") == ["Evaluation: generated, mine"]
    assert "Image by image, mine" in page.text("h2")
    assert (tmp_path / f"mine_{SHEET_FILE}").is_file()
    paragraphs = " ".join(page.text("p"))
    assert "▪ mine: Greenness" in paragraphs
    assert "▪ generated: Greenness" in paragraphs


def test_a_report_of_nothing_is_a_page(tmp_path):
    bare = make_report({}, [], systems=[], published=[], claims=[], inputs=[], spaces={}, notes=[])
    write_page_of(tmp_path, bare, {}, picture)
    page = Parsed((tmp_path / PAGE_FILE).read_text(encoding="utf-8"))
    assert page.text("h1") == ["Evaluation: No system"]
