"""Windows are keyed by what decides their pixels, and by nothing else."""

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

from ecomap.errors import DataError
from ecomap.frame_variants import Variants
from ecomap.frame_windows import file_digests, file_order, list_windows
from ecomap.imagery import FrameReader
from tests.fakes import made_image, make_tile

VARIANTS = Variants(16, count=2, flips=True)


def tile(number: int, **changes):
    fields = {"location_id": str(number), "image_path": f"{number}.png"}
    return make_tile(**(fields | {"width_px": 48, "height_px": 32} | changes))


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        Image.fromarray(made_image(number, 32, 48)).save(tmp_path / f"{number}.png")
    return tmp_path


def keys(records, folder, variants=VARIANTS) -> list[str]:
    return [window.key for window in list_windows(records, folder, variants)]


def test_variants_of_a_record_stand_side_by_side_and_read_their_own_pixels(folder) -> None:
    records = [tile(number) for number in (2, 0, 3)]
    windows = list_windows(records, folder, VARIANTS)
    assert [window.record for window in windows] == [r for r in records for _ in range(2)]
    assert len({window.key for window in windows}) == 6
    reader = FrameReader(folder)
    first = windows[2]
    row, column, flip = first.place
    assert flip == 0
    whole = np.asarray(Image.open(folder / "0.png"))
    np.testing.assert_array_equal(first.read(reader), whole[row : row + 16, column : column + 16])
    assert windows[3].read(reader).shape == (16, 16, 3)


def test_a_key_does_not_depend_on_order_company_or_the_name_of_the_file(folder) -> None:
    records = [tile(number) for number in range(4)]
    plain = keys(records, folder)
    assert keys(records[::-1], folder)[::2] == plain[::2][::-1]
    assert keys(records[2:3], folder) == plain[4:6]
    (folder / "2.png").rename(folder / "moved.png")
    assert keys([tile(2, image_path="moved.png")], folder) == plain[4:6]
    # More variants leave the first ones as they are.
    assert keys([tile(1)], folder, Variants(16, count=5, flips=True))[:2] == plain[2:4]


def test_a_key_depends_on_sample_content_part_and_range(folder) -> None:
    variants = Variants()
    found = {keys([tile(1)], folder, variants)[0]}
    for changes in (
        {"month": "2021-04"},
        {"window_px": (0, 0, 48, 32)},
        {"reflectance_range": (0.0, 0.3)},
        {"image_path": "2.png"},
    ):
        found.add(keys([tile(1, **changes)], folder, variants)[0])
    assert len(found) == 5
    Image.fromarray(made_image(77, 32, 48)).save(folder / "1.png")
    assert keys([tile(1)], folder, variants)[0] not in found


def test_files_come_one_after_the_other(folder) -> None:
    records = [tile(i, image_path=f"{i % 2}.png", height_px=32) for i in (3, 2, 1, 0)]
    windows = list_windows(records, folder, VARIANTS)
    order = file_order(windows)
    assert [windows[i].record.image_path for i in order] == ["0.png"] * 4 + ["1.png"] * 4
    assert order == [2, 3, 6, 7, 0, 1, 4, 5]


def test_hashes_of_files_are_in_their_order(folder) -> None:
    paths = [folder / f"{number}.png" for number in (3, 1, 2, 3)]
    plain = file_digests(paths)
    assert plain[0] == plain[3]
    assert len(set(plain)) == 3
    with Progress(disable=True) as progress:
        assert file_digests(paths, progress=progress) == plain
        assert [(task.completed, task.total) for task in progress.tasks] == [(4, 4)]


def test_records_that_do_not_fit_are_refused(folder) -> None:
    with pytest.raises(DataError, match=r"2 records of .* sizes \[\(32, 48\), \(48, 32\)\]"):
        keys([tile(1), tile(2, width_px=32, height_px=48)], folder, Variants())
    with pytest.raises(DataError, match=r"0 records .* have sizes \[\]"):
        keys([], folder)
    with pytest.raises(DataError, match=r"32 x 40 px. Expected multiples of 16; set crop_px"):
        keys([tile(1, width_px=40)], folder, Variants())
    with pytest.raises(DataError, match="crop_px is 48"):
        keys([tile(1)], folder, Variants(48))
    with pytest.raises(DataError, match=r"made/a/1/2021-03 has no image_path"):
        keys([tile(1, image_path=None)], folder)
    with pytest.raises(DataError, match=r"absent\.png cannot be read: No such file"):
        keys([tile(1, image_path="absent.png")], folder)
