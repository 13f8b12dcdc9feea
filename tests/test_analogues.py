"""Who resembles whom in climate."""

import numpy as np
import pytest

from ecomap.analogues import nearest_analogues
from ecomap.schema import LandCover
from tests.made_world import scored

BARE = {
    f"{name}_{suffix}": None
    for name in ("temperature_c", "precipitation_mm_day")
    for suffix in ("history", "normals")
}


def test_the_nearest_analogue_is_of_the_same_land_cover_where_there_is_one():
    forest, grass, ice = LandCover.MIXED_FORESTS, LandCover.GRASSLANDS, LandCover.SNOW_AND_ICE
    training = [
        scored("warm grass", temperature=[20.0] * 12, land_cover=grass),
        scored("cold grass", temperature=[-5.0] * 12, land_cover=grass),
        scored("mild forest", temperature=[9.0] * 12, land_cover=forest),
        scored("mild unknown", temperature=[9.9] * 12, land_cover=None),
    ]
    wanted = [
        scored("x", temperature=[10.0] * 12, land_cover=c) for c in (grass, forest, ice, None)
    ]
    assert nearest_analogues(wanted, training) == [0, 2, 3, 3]


@pytest.mark.parametrize("known", [{}, BARE])
def test_analogues_weigh_temperature_and_precipitation_alike(known):
    # spreads: 5 degrees and 0.5 mm/day. Off by 6 degrees is nearer than off by 4 and 1 mm/day.
    training = [
        scored("far in warmth", temperature=[0.0] * 12, precipitation=[1.0] * 12, **known),
        scored("far in rain", temperature=[10.0] * 12, precipitation=[2.0] * 12, **known),
    ]
    wanted = [
        scored("x", temperature=[6.0] * 12, precipitation=[1.0] * 12, **known),
        scored("y", temperature=[3.0] * 12, precipitation=[1.9] * 12, **known),
    ]
    assert nearest_analogues(wanted, training) == [0, 1]


def test_analogues_are_of_the_same_calendar_month_and_of_another_place():
    training = [scored("a", 2), scored("x", 1, year=2003), scored("b", 1, year=1999)]
    wanted = [scored("x", 1), scored("x", 2), scored("x", 3)]
    assert nearest_analogues(wanted, training) == [2, 0, None]


def test_the_weather_of_the_year_goes_before_normals():
    dry, wet = [0.5] * 12, [4.0] * 12
    normals = {"temperature_c_normals": (5.0,) * 12, "climate_kind": "observed"}
    training = [
        scored("dry year", precipitation=dry, precipitation_mm_day_normals=tuple(wet), **normals),
        scored("wet year", precipitation=wet, precipitation_mm_day_normals=tuple(dry), **normals),
    ]
    wanted = scored("x", precipitation=dry, precipitation_mm_day_normals=tuple(dry), **normals)
    assert nearest_analogues([wanted], training) == [0]
    no_history = {f"{n}_history": None for n in ("temperature_c", "precipitation_mm_day")}
    bare = scored("x", precipitation=dry, precipitation_mm_day_normals=tuple(dry), **normals,
                  **no_history)  # fmt: skip
    assert nearest_analogues([bare], training) == [1]


def test_all_months_of_the_series_count():
    def series(*changes):
        values = np.full(12, 5.0)
        values[list(changes)] = 25.0
        return values.tolist()

    training = [scored("a", temperature=series(3)), scored("b", temperature=series(8))]
    assert nearest_analogues([scored("x", temperature=series(8, 9))], training) == [1]
    assert nearest_analogues([scored("x", temperature=series(3, 4))], training) == [0]


def test_unknown_climates_are_nobodys_analogues():
    unknown = scored("a", temperature_c=None, **BARE)
    partly = scored("b", temperature_c_history=(None,) * 12, temperature_c_normals=None)
    assert nearest_analogues([scored("x")], [unknown]) == [None]
    assert nearest_analogues([unknown], [scored("x")]) == [None]
    assert nearest_analogues([scored("x")], [unknown, partly]) == [1]
    assert nearest_analogues([scored("x")], []) == [None]
    assert nearest_analogues([], [scored("x")]) == []
