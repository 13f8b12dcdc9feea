"""Parts and unions of image sets keep images, tiles and signatures together."""

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest

from ecomap.image_subsets import Joined, signature_of, take
from ecomap.tiles import Frame, ScoredTile


@dataclass
class Numbered:
    """Images whose every value is their number."""

    numbers: list[int]
    name: str = "numbers"
    kind: str = "reference"
    description: str = "Numbers."
    tiles: list[ScoredTile] = field(init=False)

    def __post_init__(self):
        self.tiles = [ScoredTile(key=f"k{number}") for number in self.numbers]

    def read(self, index: int) -> Frame:
        rgb = np.full((4, 6, 3), self.numbers[index], np.uint8)
        return Frame(rgb, np.ones((4, 6), bool))


class Signed(Numbered):
    def signature(self, index: int) -> str:
        return f"file {self.numbers[index]}"


def value(images, index: int) -> int:
    return int(images.read(index).rgb[0, 0, 0])


def test_a_subset_reads_the_images_of_its_tiles():
    part = take(Numbered([5, 6, 7]), [2, 0])
    assert [tile.key for tile in part.tiles] == ["k7", "k5"]
    assert [value(part, index) for index in range(2)] == [7, 5]
    assert (part.name, part.kind, part.description) == ("numbers", "reference", "Numbers.")


def test_a_subset_may_have_other_tiles_and_another_name():
    tiles = [ScoredTile(key="other", place="p")]
    part = take(Numbered([5, 6]), [1], tiles=tiles, name="mine", kind="generated", description="D.")
    assert (part.tiles, value(part, 0)) == (tiles, 6)
    assert (part.name, part.kind, part.description) == ("mine", "generated", "D.")


def test_a_union_reads_its_parts_one_after_the_other():
    joined = Joined(
        parts=(Numbered([1, 2]), take(Numbered([3, 4]), [1])), name="all", kind="reference",
        description="All.",
    )  # fmt: skip
    assert [tile.key for tile in joined.tiles] == ["k1", "k2", "k4"]
    assert [value(joined, index) for index in range(3)] == [1, 2, 4]
    with pytest.raises(IndexError):
        joined.read(3)


def test_signatures_are_those_of_the_images_behind():
    joined = Joined(
        parts=(Signed([1]), take(Signed([2, 3]), [1])), name="all", kind="reference",
        description="All.",
    )  # fmt: skip
    assert [signature_of(joined, index) for index in range(2)] == ["file 1", "file 3"]
    assert signature_of(take(joined, [1]), 0) == "file 3"
    assert signature_of(Numbered([1]), 0) is None


def test_an_image_of_unknown_origin_has_no_signature():
    class Unsure(Numbered):
        def signature(self, index: int) -> None:
            return None

    assert signature_of(take(Unsure([1]), [0]), 0) is None


def test_subsets_can_be_pickled():
    part = pickle.loads(pickle.dumps(take(Numbered([5, 6, 7]), [1])))
    assert value(part, 0) == 6
