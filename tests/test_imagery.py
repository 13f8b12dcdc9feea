"""Frames are read as they are, or named when they cannot be."""

import numpy as np
import pytest
from PIL import Image

from ecomap.errors import DataError
from ecomap.imagery import FrameReader
from tests.fakes import made_image, make_tile


def test_a_window_of_a_larger_frame_is_read(tmp_path):
    image = made_image(1, 40, 60)
    Image.fromarray(image).save(tmp_path / "a.png")
    record = make_tile(image_path="a.png", window_px=(7, 11, 16, 16))
    assert (FrameReader(tmp_path).read(record) == image[11:27, 7:23]).all()


def test_a_reader_keeps_the_last_files_only(tmp_path):
    for name in "abc":
        Image.fromarray(made_image(ord(name), 16, 16)).save(tmp_path / f"{name}.png")
    reader = FrameReader(tmp_path, num_cached=2)
    first = reader.read(make_tile(image_path="a.png")).copy()
    (tmp_path / "a.png").unlink()
    assert (reader.read(make_tile(image_path="a.png")) == first).all()
    for name in "bc":
        reader.read(make_tile(image_path=f"{name}.png"))
    with pytest.raises(DataError, match=r"a.png does not exist"):
        reader.read(make_tile(image_path="a.png"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a readable image"), (b"\x89PNG\r\n\x1a\nrest", "not a readable image")],
)
def test_damaged_files_are_named(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=message):
        FrameReader(tmp_path).read(make_tile(image_path="a.png"))


def test_a_truncated_file_is_named(tmp_path):
    Image.fromarray(made_image(1, 64, 64)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable image"):
        FrameReader(tmp_path).read(make_tile(image_path="a.png"))


def test_sixteen_bit_and_wrong_size_are_refused(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="Expected 8-bit"):
        FrameReader(tmp_path).read(make_tile(image_path="a.png"))
    Image.fromarray(made_image(1, 16, 12)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"16 x 12 px .* Expected 16 x 16 px"):
        FrameReader(tmp_path).read(make_tile(image_path="b.png"))


def test_a_record_without_a_frame_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no image_path"):
        FrameReader(tmp_path).read(make_tile())
