"""Which pixels count: masks are found by the names of frames, and lie where their frames do."""

import numpy as np
import pytest
from PIL import Image

from ecomap.errors import DataError, ImageError
from ecomap.frame_masks import ValidPixels, find_masks
from tests.fakes import make_tile


def write(path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_masks_have_the_paths_of_images_and_some_images_have_none(tmp_path) -> None:
    write(tmp_path / "images/a.png", np.zeros((4, 4), np.uint8))
    write(tmp_path / "images/b_synth.png", np.zeros((4, 4), np.uint8))
    found = find_masks(tmp_path, ["images/a.tif", "images/b_synth.jpg", "c.png", "a.png"])
    assert {name: path.name for name, path in found.items()} == {
        "images/a.tif": "a.png",
        "images/b_synth.jpg": "b_synth.png",
    }


def test_a_folder_without_a_fitting_mask_is_refused(tmp_path) -> None:
    write(tmp_path / "other.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"no mask for any of 1 images. .* such as images/a\.png"):
        find_masks(tmp_path, ["images/a.tif"])
    with pytest.raises(DataError, match="is not a folder"):
        find_masks(tmp_path / "absent", ["images/a.tif"])


def test_a_pixel_counts_with_data_and_without_a_mask(tmp_path) -> None:
    frame = np.full((6, 8, 3), 9, np.uint8)
    frame[0, :3] = 0
    frame[1, 1] = (0, 0, 1)  # dark, but not black in all bands
    hidden = np.zeros((6, 8), np.uint8)
    hidden[2:4, 5] = 1
    write(tmp_path / "a.png", frame)
    write(tmp_path / "masks/a.png", hidden)
    pixels = ValidPixels(tmp_path, {"a.png": tmp_path / "masks/a.png"})
    expected = np.ones((6, 8), bool)
    expected[0, :3] = False
    assert (pixels.of(make_tile(image_path="b.png"), frame) == expected).all()
    expected[2:4, 5] = False
    assert (pixels.of(make_tile(image_path="a.png"), frame) == expected).all()
    part = make_tile(image_path="a.png", window_px=(4, 1, 3, 4))
    assert (pixels.of(part, frame[1:5, 4:7]) == expected[1:5, 4:7]).all()


def test_a_mask_of_another_size_is_refused(tmp_path) -> None:
    write(tmp_path / "a.png", np.ones((6, 8, 3), np.uint8))
    write(tmp_path / "masks/a.png", np.zeros((6, 7), np.uint8))
    pixels = ValidPixels(tmp_path, {"a.png": tmp_path / "masks/a.png"})
    with pytest.raises(ImageError, match=r"6 x 7 px .* Expected one band of 6 x 8 px"):
        pixels.of(make_tile(image_path="a.png"), np.ones((6, 8, 3), np.uint8))
