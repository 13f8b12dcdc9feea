"""Variants of tiles: the same ground for all months of a place, and every window in its turn."""

from collections import Counter

import numpy as np
import pytest

from ecomap.errors import ConfigError, DataError
from ecomap.frame_variants import Place, Variants, cut, place_of, window_size
from tests.fakes import make_tile


def tile(place: int = 1, month: int = 3, **changes):
    fields = {"location_id": str(place), "month": f"2021-{month:02d}", "width_px": 80}
    return make_tile(**(fields | {"height_px": 64} | changes))


def test_a_tile_without_variants_is_whole_and_unflipped() -> None:
    assert place_of(tile(), 0, Variants()) == Place(0, 0, 0)
    assert window_size(tile(), Variants()) == (64, 80)
    assert place_of(tile(), 0, Variants(count=4, flips=True)) == Place(0, 0, 0)
    assert place_of(tile(), 0, Variants(32, count=4, flips=True)).flip == 0


def test_months_of_a_place_lie_on_each_other_and_places_differ() -> None:
    variants = Variants(32, count=6, flips=True)
    first = [place_of(tile(1, 3), v, variants) for v in range(6)]
    assert first == [place_of(tile(1, 11), v, variants) for v in range(6)]
    assert first != [place_of(tile(2, 3), v, variants) for v in range(6)]


@pytest.mark.parametrize("place", range(5))
def test_windows_stay_inside_on_whole_cells_and_all_come(place: int) -> None:
    variants = Variants(32, count=35)
    places = [place_of(tile(place), v, variants) for v in range(35)]
    # (64 - 32) / 8 + 1 rows of windows and (80 - 32) / 8 + 1 columns.
    assert {(p.row, p.column) for p in places} == {
        (row, column) for row in range(0, 33, 8) for column in range(0, 49, 8)
    }
    assert {p.flip for p in places} == {0}


def test_few_windows_spread_over_the_tile() -> None:
    """Four windows of a quarter each: most of the tile is seen, in the mean over places."""
    variants = Variants(32, count=4)
    shares = []
    for place in range(50):
        seen = np.zeros((64, 64))
        record = tile(place, width_px=64)
        for variant in range(4):
            cut(seen, place_of(record, variant, variants), (32, 32))[...] = 1
        shares.append(seen.mean())
    assert np.mean(shares) > 0.6  # windows drawn independently see 0.57


def test_all_windows_are_drawn_equally_often() -> None:
    variants = Variants(48, count=2)
    for variant in range(2):
        counts = Counter(place_of(tile(i), variant, variants)[:2] for i in range(3000))
        assert len(counts) == 15
        assert max(counts.values()) < 1.3 * 200
        assert min(counts.values()) > 0.7 * 200


def test_flips_of_a_place_differ_and_each_is_drawn_equally_often() -> None:
    variants = Variants(32, count=8, flips=True)
    counts: Counter[int] = Counter()
    for place in range(700):
        flips = [place_of(tile(place), v, variants).flip for v in range(8)]
        assert sorted(flips) == list(range(8))
        counts[flips[1]] += 1
    assert set(counts) == set(range(1, 8))
    assert max(counts.values()) < 140


def test_what_is_no_square_keeps_its_size() -> None:
    variants = Variants(count=4, flips=True)
    image = np.arange(64 * 80).reshape(64, 80)
    shown = [cut(image, place_of(tile(), v, variants), (64, 80)) for v in range(4)]
    assert {s.shape for s in shown} == {(64, 80)}
    assert len({s.tobytes() for s in shown}) == 4


def test_flips_are_the_eight_symmetries() -> None:
    image = np.arange(24).reshape(2, 4, 3)
    square = image[:, 1:3]
    shown = [cut(image, Place(0, 1, flip), (2, 2)) for flip in range(8)]
    np.testing.assert_array_equal(shown[0], square)
    np.testing.assert_array_equal(shown[1], square[:, ::-1])
    np.testing.assert_array_equal(shown[2], square.transpose(1, 0, 2)[::-1])
    np.testing.assert_array_equal(shown[4], square[::-1, ::-1])
    assert len({s.tobytes() for s in shown}) == 8


def test_impossible_variants_are_refused() -> None:
    with pytest.raises(ConfigError, match="variants is 2, but whole tiles have 1 with flips False"):
        Variants(count=2)
    with pytest.raises(ConfigError, match="variants is 9, but whole tiles have 8"):
        Variants(count=9, flips=True)
    with pytest.raises(ConfigError, match="variants is 0"):
        Variants(count=0)
    with pytest.raises(DataError, match="made/a/1/2021-03 has 64 x 80 px, and crop_px is 72"):
        place_of(tile(), 0, Variants(72))
