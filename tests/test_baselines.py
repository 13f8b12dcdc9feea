"""What can be said of a place and month without a model."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ecomap.baselines import DESCRIPTIONS, make_baselines
from ecomap.schema import LandCover
from tests.made_world import Album, blank, made_up_world, scored

GRASS, FOREST, ICE = LandCover.GRASSLANDS, LandCover.MIXED_FORESTS, LandCover.SNOW_AND_ICE


def level_of(baseline, key):
    """Red of the image for a tile; all frames here have one colour."""
    index = [tile.key for tile in baseline.tiles].index(key)
    return int(baseline.read(index).rgb[2, 5, 0])


def make(targets, history, training, **options):
    made, missing = make_baselines(
        targets, history, training, **({"max_cloud_frac": 0.3} | options)
    )
    return {one.name: one for one in made}, missing


def history_of(*tiles) -> Album:
    """Frames whose red is 10, 20, 30, ..."""
    frames = [blank((10 * index, 60, 60)) for index in range(1, len(tiles) + 1)]
    return Album(tiles=tiles, frames=frames)


@pytest.fixture
def history() -> Album:
    """One place over three years, and four training places."""
    return history_of(
        scored("x", 1, year=2002),  # 10
        scored("x", 1, year=2003),  # 20
        scored("x", 11, year=2003),  # 30
        scored("x", 1, year=2004),  # 40
        scored("x", 2, year=2004),  # 50
        scored("a", 1, land_cover=GRASS, temperature=[5.0] * 12),  # 60
        scored("b", 1, land_cover=GRASS, temperature=[9.0] * 12),  # 70
        scored("c", 1, land_cover=FOREST, temperature=[5.0] * 12),  # 80
        scored("c", 6, land_cover=FOREST),  # 90
    )


TRAINING = [5, 6, 7, 8]
WITHOUT = (
    "no clear training frame of the same calendar month and hemisphere; --training FOLDER names "
    "some"
)


def test_each_baseline_by_hand(history):
    target = history.tiles[3]
    made, missing = make([target], history, TRAINING)
    assert missing == {}
    assert {name: level_of(one, target.key) for name, one in made.items()} == {
        "persistence": 30,
        "previous_year": 20,
        "class_month_mean": 65,
        "place_month_mean": 15,
        "climate_analogue": 60,
        "constant_colour": 75,
    }
    assert list(made) == list(DESCRIPTIONS)
    for name, one in made.items():
        assert (one.kind, one.description) == ("baseline", DESCRIPTIONS[name])
        assert one.unserved == one.fallbacks == {}
        assert one.tiles == [target]


def test_the_past_is_strictly_before_the_month(history):
    made, missing = make(history.tiles[:5], history, [])
    persistence = made["persistence"]
    assert [tile.month for tile in persistence.tiles] == [
        "2003-01",
        "2003-11",
        "2004-01",
        "2004-02",
    ]
    assert [level_of(persistence, tile.key) for tile in persistence.tiles] == [10, 20, 30, 40]
    assert persistence.unserved == {
        "no clear frame of the same place earlier": ["made-up/x/2002-01"]
    }
    assert [tile.month for tile in made["previous_year"].tiles] == ["2003-01", "2004-01"]
    assert len(made["place_month_mean"].unserved) == 1
    assert missing == {
        "class_month_mean": f"{WITHOUT} (5 tiles)",
        "climate_analogue": "no clear training frame of another place has a known climate in its "
        "calendar month, or its own is not known (5 tiles)",
        "constant_colour": "no clear training frame (5 tiles)",
    }


def test_one_year_has_no_previous_one():
    world = made_up_world(num_places=4)
    made, missing = make(world.tiles[12:24], world, range(12))
    assert set(missing) == {"previous_year", "place_month_mean"}
    assert "calendar month in an earlier year (12 tiles)" in missing["previous_year"]
    assert len(made["persistence"].tiles) == 11


def test_a_class_that_training_lacks_gets_the_mean_of_the_month(history):
    targets = [
        scored("t", 1, land_cover=ICE), scored("u", 1, land_cover=None), scored("w", 7),
        scored("v", 6, land_cover=GRASS), scored("s", 1, land_cover=FOREST),
    ]  # fmt: skip
    made, _ = make(targets, history, TRAINING)
    mean = made["class_month_mean"]
    assert {t.place[-1]: level_of(mean, t.key) for t in mean.tiles} == {
        "t": 70, "u": 70, "v": 90, "s": 80,
    }  # fmt: skip
    ((reason, keys),) = mean.fallbacks.items()
    assert "no training frame of its land cover" in reason
    assert [key.split("/")[1] for key in keys] == ["t", "u", "v"]
    assert [key.split("/")[1] for key in mean.unserved[WITHOUT]] == ["w"]


def test_tiles_of_one_month_and_class_stand_together():
    world = made_up_world(num_places=8)
    targets = [tile for tile in world.tiles if tile.split == "test"]
    training = [i for i, tile in enumerate(world.tiles) if tile.split == "train"]
    groups = make(targets, world, training)[0]["class_month_mean"].groups
    assert len(groups) == len(targets)
    assert sum(a != b for a, b in pairwise(groups)) == len(set(groups)) - 1
    assert [group[:2] for group in groups] == sorted(group[:2] for group in groups)


def test_a_frame_never_serves_its_own_tile(history):
    target = history.tiles[5]
    made, _ = make([target], history, TRAINING)
    assert level_of(made["class_month_mean"], target.key) == 70
    assert level_of(made["climate_analogue"], target.key) == 70
    assert level_of(made["constant_colour"], target.key) == 80
    made, missing = make([target], history, [5])
    assert not set(made) & {"class_month_mean", "climate_analogue", "constant_colour"}
    assert {"class_month_mean", "climate_analogue", "constant_colour"} <= set(missing)


def test_the_only_frame_of_a_class_falls_back_to_the_month(history):
    target = history.tiles[7]
    made, _ = make([target], history, TRAINING)
    assert level_of(made["class_month_mean"], target.key) == 65
    assert len(made["class_month_mean"].fallbacks) == 1


def test_cloudy_frames_serve_nobody(history):
    tiles = list(history.tiles)
    for index, cloud in ((2, 0.31), (1, 0.3), (5, 0.9)):
        tiles[index] = replace(tiles[index], cloud_frac=cloud)
    cloudy = replace(history, tiles=tiles)
    made, _ = make([tiles[3]], cloudy, TRAINING)
    found = {name: level_of(one, tiles[3].key) for name, one in made.items()}
    assert found["persistence"] == 20
    assert found["class_month_mean"] == 70
    assert found["climate_analogue"] == 70
    assert found["constant_colour"] == 80
    made, _ = make([tiles[3]], cloudy, TRAINING, max_cloud_frac=1.0)
    assert level_of(made["persistence"], tiles[3].key) == 30


def test_what_is_not_known_of_a_tile_is_the_reason(history):
    bare = replace(scored("x", 1), place=None, month=None, climate={}, history={}, normals={})
    made, missing = make([bare], history, TRAINING)
    assert list(made) == ["constant_colour"]
    assert missing["persistence"] == "place or month not known (1 tiles)"


def test_baselines_of_the_made_up_world_follow_its_law():
    world = made_up_world()
    targets = [tile for tile in world.tiles if tile.split == "test"]
    training = [i for i, tile in enumerate(world.tiles) if tile.split == "train"]
    made, _ = make(targets, world, training)
    real = {tile.key: frame.rgb for tile, frame in zip(world.tiles, world.frames, strict=True)}
    error = {
        name: np.mean([
            np.abs(one.read(i).rgb.astype(float) - real[tile.key]).mean()
            for i, tile in enumerate(one.tiles)
        ])
        for name, one in made.items()
    }  # fmt: skip
    assert error["climate_analogue"] < error["class_month_mean"] < error["constant_colour"]
    analogue = made["climate_analogue"]
    assert {world.tiles[i].split for i in analogue.sources} == {"train"}
    assert len(analogue.tiles) == len(targets)


def test_signatures_are_those_of_the_history(history):
    made, _ = make([history.tiles[3]], history, TRAINING)
    assert all(one.signature(0) is None for one in made.values())


def test_the_mean_colour_is_read_month_by_month():
    world = made_up_world(num_places=4)
    constant = make(world.tiles[:1], world, range(12, 48))[0]["constant_colour"]
    months = [world.tiles[i].month for i in constant.members["all"]]
    assert months == sorted(months)
    assert len(months) == 36


def test_a_month_is_one_of_a_hemisphere(history):
    """July is summer here and winter there: their mean would be no climatology of either."""
    south = [replace(tile, lat=-10.0) for tile in (scored("s", 1, land_cover=FOREST),)]
    made, missing = make(south, history, TRAINING)
    assert "class_month_mean" not in made
    assert WITHOUT in missing["class_month_mean"]
