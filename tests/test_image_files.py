"""Images are cut, masked, checked and resized so that what is masked touches nothing else."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ecomap.errors import ImageError
from ecomap.image_files import (
    FrameCache,
    ImageFile,
    check_content,
    plain_stem,
    read_frame,
    resize,
)
from ecomap.tiles import Frame
from tests.fakes import made_image


def framed(rgb, valid=None, **bands):
    return Frame(rgb, np.ones(rgb.shape[:2], bool) if valid is None else valid, bands)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/b.png", "a/b"), ("b_synth.png", "b"), ("x/b_synth.TIFF", "x/b"), ("v1.5/x", "v1.5/x"),
        ("a_synth_2.png", "a_synth_2"), ("_synth.png", "_synth"), ("s/1/2004-07", "s/1/2004-07"),
        ("a.tar.png", "a.tar"),
    ],
)  # fmt: skip
def test_names_lose_suffix_and_mark(name, stem):
    assert plain_stem(name) == stem


def test_a_window_is_cut_from_a_file_that_is_decoded_once(tmp_path):
    image = made_image(1, 40, 60).copy()
    image[12, 9] = 0
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    mask = np.zeros((40, 60), np.uint8)
    mask[13, 8] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    cache = FrameCache(1)
    file = ImageFile(
        path=path, window_px=(7, 11, 20, 16), mask=tmp_path / "mask.png", black_is_nodata=True
    )
    frame = read_frame(file, cache)
    assert (frame.rgb == image[11:27, 7:27]).all()
    assert np.argwhere(~frame.valid).tolist() == [[1, 2], [2, 1]]
    frame.rgb[...] = 0  # its own: the file that is kept stays as it was
    path.unlink()
    assert (read_frame(file, cache).rgb == image[11:27, 7:27]).all()
    with pytest.raises(ImageError, match="does not exist"):
        read_frame(file, pickle.loads(pickle.dumps(cache)))


def test_the_cache_keeps_the_last_files_only(tmp_path):
    files = []
    for name in "abc":
        Image.fromarray(made_image(ord(name), 16, 16)).save(tmp_path / f"{name}.png")
        files.append(ImageFile(path=tmp_path / f"{name}.png", window_px=(0, 0, 8, 8)))
    cache = FrameCache(2)
    for index in (0, 1, 0, 2):
        read_frame(files[index], cache)
    for file in files:
        file.path.unlink()
    read_frame(files[0], cache)
    with pytest.raises(ImageError, match=r"b.png does not exist"):
        read_frame(files[1], cache)


@pytest.mark.parametrize("window", [(45, 0, 16, 16), (0, 25, 16, 16)])
def test_a_window_that_leaves_its_file_is_refused(tmp_path, window):
    Image.fromarray(made_image(1, 40, 60)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="leaves it") as caught:
        read_frame(ImageFile(path=tmp_path / "a.png", window_px=window), FrameCache(1))
    assert caught.value.reason == "other size"


def test_black_counts_as_no_data_only_where_the_file_is_said_to_lack_some(tmp_path):
    image = np.maximum(made_image(1, 8, 9), 1)
    image[3, 4] = 0
    image[5, 6, 0] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    file = ImageFile(path=tmp_path / "a.png")
    assert read_frame(file, FrameCache(1)).valid.all()
    lacking = ImageFile(path=tmp_path / "a.png", black_is_nodata=True)
    assert np.argwhere(~read_frame(lacking, FrameCache(1)).valid).tolist() == [[3, 4]]


def test_frames_may_be_written_to(tmp_path):
    Image.fromarray(made_image(1, 8, 9)).save(tmp_path / "a.png")
    frame = read_frame(ImageFile(path=tmp_path / "a.png"), FrameCache(1))
    assert frame.rgb.flags.writeable
    assert frame.valid.flags.writeable


def test_shrinking_is_the_mean_over_the_area():
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[:2, :2, 0] = [[10, 20], [30, 40]]
    rgb[2:, :2, 1] = 80
    small = resize(framed(rgb), 2).rgb
    assert small[..., 0].tolist() == [[25, 0], [0, 0]]
    assert small[..., 1].tolist() == [[0, 0], [80, 0]]


def test_shrinking_by_a_fraction_weighs_parts_of_pixels():
    ramp = np.repeat(np.array([[0, 30, 60]], np.uint8), 3, 0)
    small = resize(framed(np.dstack([ramp] * 3)), 2).rgb
    assert small[0, :, 0].tolist() == [10, 50]  # (0 + 30 / 2) / 1.5, (30 / 2 + 60) / 1.5


def test_enlarging_is_bicubic_and_keeps_what_is_constant():
    image = made_image(3, 16, 16)
    expected = Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC)
    assert (resize(framed(image), 24).rgb == np.asarray(expected)).all()
    assert (resize(framed(np.full((5, 5, 3), 77, np.uint8)), 12).rgb == 77).all()


def test_the_same_size_changes_nothing():
    frame = framed(made_image(3, 16, 16))
    assert resize(frame, 16) is frame


@pytest.mark.parametrize("size_px", [5, 10, 31])
def test_valid_pixels_take_nothing_from_masked_ones(size_px):
    valid = np.ones((20, 20), bool)
    valid[4:11, 7:16] = False
    rgb = np.full((20, 20, 3), 100, np.uint8)
    band = np.full((20, 20), 0.25, np.float32)
    rgb[~valid], band[~valid] = 255, np.nan
    new = resize(framed(rgb, valid, B08=band), size_px)
    assert new.rgb.shape == (size_px, size_px, 3)
    assert (new.rgb[new.valid] == 100).all()
    assert new.bands["B08"].dtype == np.float32
    assert (np.isnan(new.bands["B08"]) == ~new.valid).all()
    np.testing.assert_allclose(new.bands["B08"][new.valid], 0.25, rtol=1e-6)
    centres = ((np.arange(size_px) + 0.5) * 20 / size_px).astype(int)
    assert (new.valid == valid[np.ix_(centres, centres)]).all()


def test_masked_pixels_look_as_without_a_mask():
    rgb = made_image(5, 12, 12)
    valid = np.ones((12, 12), bool)
    valid[:6] = False
    new = resize(framed(rgb, valid), 4)
    assert not new.valid[:2].any()
    assert (new.rgb[:2] == resize(framed(rgb), 4).rgb[:2]).all()


def test_an_image_without_any_valid_pixel_is_resized_too():
    nothing = np.full((8, 8), np.nan, np.float32)
    new = resize(framed(made_image(5, 8, 8), np.zeros((8, 8), bool), B08=nothing), 4)
    assert not new.valid.any()
    assert np.isnan(new.bands["B08"]).all()


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
def test_the_mean_survives_a_whole_factor(side, factor, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (side * factor,) * 2 + (3,), dtype=np.uint8)
    small = resize(framed(rgb), side).rgb
    assert abs(small.mean() - rgb.mean()) <= 0.5  # rounding


@pytest.mark.parametrize(("num_masked", "is_refused"), [(8, False), (9, True)])
def test_an_image_with_more_masked_than_allowed_is_refused(num_masked, is_refused):
    valid = np.ones(16, bool)
    valid[:num_masked] = False
    frame = framed(made_image(1, 4, 4), valid.reshape(4, 4))
    if not is_refused:
        check_content(frame, Path("a.png"), max_masked_frac=0.5)
        return
    with pytest.raises(ImageError, match=r"a.png is masked .* on 56% .* at most 50%") as caught:
        check_content(frame, Path("a.png"), max_masked_frac=0.5)
    assert caught.value.reason == "mostly masked"


def test_an_image_that_is_all_masked_is_refused_whatever_is_allowed():
    frame = framed(made_image(1, 4, 4), np.zeros((4, 4), bool))
    with pytest.raises(ImageError) as caught:
        check_content(frame, Path("a.png"), max_masked_frac=1.0)
    assert caught.value.reason == "mostly masked"


def test_an_image_of_one_colour_is_blank_wherever_it_is_valid():
    rgb = np.full((4, 4, 3), (7, 8, 9), np.uint8)
    rgb[0, 0] = 200
    check_content(framed(rgb), Path("a.png"), max_masked_frac=0.5)
    valid = np.ones((4, 4), bool)
    valid[0, 0] = False
    for frame in (framed(rgb, valid), framed(np.zeros((4, 4, 3), np.uint8))):
        with pytest.raises(ImageError, match="has the colour") as caught:
            check_content(frame, Path("a.png"), max_masked_frac=0.5)
        assert caught.value.reason == "blank"
