"""Means and retrieved frames as sets of images."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from ecomap import baseline_sets
from ecomap.baseline_sets import MeanFrame, RealFrame, is_same_tile, thin
from ecomap.errors import ImageError
from tests.made_world import Album, blank, scored


def mean_of(album, members, *, tile=None, **options) -> MeanFrame:
    return MeanFrame(
        name="mean", description="A mean.", history=album, tiles=[tile or scored("x")],
        groups=["g"], members={"g": members}, **options,
    )  # fmt: skip


def album_of(*frames) -> Album:
    return Album(tiles=[scored(str(index)) for index in range(len(frames))], frames=frames)


def test_a_mean_is_taken_pixel_by_pixel_and_rounded():
    left = blank((10, 20, 30))
    left.rgb[:, :7] = (0, 0, 255)
    frame = mean_of(album_of(left, blank((20, 21, 30)), blank((30, 21, 30))), [0, 1, 2]).read(0)
    assert frame.rgb[0, 0].tolist() == [17, 14, 105]  # 50 / 3, 42 / 3, 315 / 3
    assert frame.rgb[0, 7].tolist() == [20, 21, 30]  # 62 / 3 = 20.67
    assert frame.rgb.dtype == np.uint8
    assert frame.valid.all()


def test_masked_pixels_do_not_count_and_a_pixel_without_any_is_not_valid():
    a, b = blank((100, 0, 0)), blank((200, 0, 0))
    a.valid[:, :3] = False
    b.valid[0, :] = False
    frame = mean_of(album_of(a, b), [0, 1]).read(0)
    assert frame.rgb[1, 0, 0] == 200
    assert frame.rgb[0, 5, 0] == 100
    assert frame.rgb[1, 5, 0] == 150
    assert (~frame.valid).sum() == 3
    assert not frame.valid[0, :3].any()


def test_bands_have_means_too_without_missing_values():
    def with_band(value, column):
        band = np.full((16, 40), value, np.float32)
        band[:, column] = np.nan
        return replace(blank((1, 2, 3)), bands={"B08": band})

    frame = mean_of(album_of(with_band(0.25, 0), with_band(0.5, 1)), [0, 1]).read(0)
    assert frame.bands["B08"][0, :3].tolist() == [0.5, 0.25, 0.375]
    assert frame.bands["B08"].dtype == np.float32
    assert RealFrame(
        name="r", description="", history=album_of(with_band(0.25, 0)), tiles=[scored("x")],
        sources=[0],
    ).read(0).bands  # fmt: skip


def test_one_colour_is_the_mean_of_all_valid_pixels():
    a, b = blank((100, 0, 8)), blank((200, 0, 8))
    b.valid[:8] = False  # half of it
    frame = mean_of(album_of(a, b), [0, 1], is_flat=True).read(0)
    assert frame.rgb.reshape(-1, 3).tolist() == [[133, 0, 8]] * (16 * 40)
    assert frame.valid.all()


def test_a_frame_never_serves_its_own_tile():
    album = album_of(blank((0, 0, 0)), blank((100, 90, 80)), blank((200, 90, 80)))
    sums = mean_of(album, [0, 1, 2])
    tiles = [*album.tiles, replace(album.tiles[0], key="other name")]
    made = replace(sums, tiles=tiles, groups=["g"] * 4)
    shown = [made.read(index).rgb[3, 3, 0] for index in range(4)]
    assert shown == [150, 100, 50, 150]
    alone = replace(made, members={"g": [1]}, tiles=album.tiles[1:2], groups=["g"])
    with pytest.raises(ImageError, match="None of the 1 frames behind mean"):
        alone.read(0)


def test_frames_that_cannot_be_read_are_left_out_and_counted():
    made = mean_of(album_of(None, blank((80, 80, 80)), None), [0, 1, 2])
    assert made.read(0).rgb[0, 0, 0] == 80
    assert made.left_out == {"unreadable": {"made-up/0/2004-01", "made-up/2/2004-01"}}
    with pytest.raises(ImageError, match="see what is wrong") as caught:
        mean_of(album_of(None), [0]).read(0)
    assert caught.value.reason == "no frame for the mean"


def test_one_group_is_added_up_once_and_one_at_a_time_is_held():
    album = album_of(*(blank((index, 0, 0)) for index in range(4)))
    made = MeanFrame(
        name="m", description="", history=album, tiles=[scored(n) for n in "wxyz"],
        groups=["a", "a", "b", "a"], members={"a": [0, 2], "b": [3]},
    )  # fmt: skip
    shown = [made.read(index).rgb[0, 0, 0] for index in range(3)]
    assert shown == [1, 1, 3]
    assert album.num_read == 3
    assert made.read(3).rgb[0, 0, 0] == 1
    assert album.num_read == 5


def test_sets_travel_between_processes_without_their_sums():
    made = mean_of(album_of(blank((9, 9, 9))), [0])
    before = len(pickle.dumps(made))
    made.read(0)
    assert len(pickle.dumps(made)) < before + 100
    copy = pickle.loads(pickle.dumps(made))
    assert (copy.read(0).rgb == 9).all()


class Signed(Album):
    def signature(self, index: int) -> str:
        return f"file {index}"


def test_signatures_follow_the_frames_behind_an_image():
    album = Signed(tiles=[scored(n) for n in "abc"], frames=[blank((1, 1, 1))] * 3)
    tiles = [scored("x"), scored("y")]
    found = RealFrame(name="r", description="", history=album, tiles=tiles, sources=[2, 0])
    assert [found.signature(0), found.signature(1)] == ["file 2", "file 0"]
    means = [mean_of(album, members).signature(0) for members in ([0, 1], [0, 2], [0, 1])]
    assert means[0] == means[2] != means[1]
    assert mean_of(album_of(blank((1, 1, 1))), [0]).signature(0) is None


def test_tiles_are_the_same_by_key_or_by_place_and_month():
    tile = scored("a", 3)
    assert is_same_tile(tile, scored("a", 3))
    assert is_same_tile(tile, replace(tile, key="k"))
    assert is_same_tile(tile, replace(tile, place=None))
    assert not is_same_tile(tile, scored("a", 4))
    assert not is_same_tile(replace(tile, place=None), replace(tile, place=None, key="k"))


def test_many_frames_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(baseline_sets, "MAX_FRAMES", 5)
    assert thin(range(10, 19)) == [10, 12, 14, 16, 18]
    assert thin([7, 8, 9]) == [7, 8, 9]
    assert thin([]) == []
