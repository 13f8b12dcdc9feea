"""What a reader of a report must know to read its numbers right."""

from collections.abc import Sequence

from ecomap.scores import FEW_BLOCKS
from ecomap.tiles import ScoredTile

BLUE_MARBLE_NOTE = (
    "The frames are Blue Marble: cloud-free, colour-corrected monthly composites of 2004 at about "
    "7.4 km a pixel. They are not Sentinel-2 tiles, and no number here may be set beside one that "
    "was measured on 10 m imagery."
)
TRAINING_NOTE = (
    "Some scored tiles are on the training side of the dataset: models, baselines and the feature "
    "network may have seen them."
)
NORMALS_NOTE = (
    "The climate of the tiles is a long-term mean, the frames show one year: the weather of that "
    "year is part of every error, and a correlation over places is one between climates, not "
    "between weather and its effect."
)
NOTES = {
    "intervals": "Intervals are {level:.0%} intervals of a bootstrap over blocks of {block:g} "
    "degrees, joined where tiles overlap; the tiles lie in {num} blocks. Intervals over fewer than "
    "{few} are too narrow, say so, and decide no claim.",
    "land": "Indices are means over the valid land pixels of each image (neither as dark as deep "
    "water nor dark blue), over its own land, because no condition says where the coast runs. Snow "
    "counts in greenness as the grey that it is.",
    "anomaly": "An anomaly within a place is a value minus the mean of its place over the months "
    "scored; given place and month, that of the calendar month too. It is undefined where "
    "a method gives a place the same value in all months.",
    "paired": "PSNR, SSIM and the like against the real month are no targets for images made "
    "without a reference image: noise decides where things lie in them, and a blurred picture "
    "scores higher. Read them beside the baselines of the same table.",
    "frechet": "The Fréchet distance is biased upwards at small numbers of images, so that only "
    "values of equal n and one feature space compare; the kernel distance is not biased. A set or "
    "group of fewer than {equal_n} images gets none (setting equal_n).",
    "real": "Real against real compares the scored tiles with tiles of other places, or one half "
    "of the places with the other where there are too few. Neighbours overlap, which flatters it.",
    "baselines": "Persistence, previous year and analogue are real frames: their distances to real "
    "images are those of real images. Means of many frames are blurred, and judged unfairly by all "
    "distances of images; their indices are fair.",
    "features": "The feature network eo learnt Blue Marble's training side: baselines made of its "
    "frames (analogue, mean of class and month) are judged by a network that has seen them, and "
    "may score better than real tiles of the test side, which are no upper bound.",
    "response": "Observed slopes are not effects: across places and over months, radiation, soils "
    "and people differ along with the climate. The generated slope is the model's effect of a "
    "change sustained over all months that it sees; its nearest observed kin is the slope across "
    "places of a class in the same month.",
}
"""How to read a report, in the order in which it is told."""


def reading_notes(
    tiles: Sequence[ScoredTile], *, level: float, block_deg: float, equal_n: int
) -> list[str]:
    """Notes that the scored tiles call for, the gravest first.

    Args:
        tiles: Scored tiles.
        level: Probability of intervals.
        block_deg: Size of a block, degrees.
        equal_n: Images that a distance needs.
    """
    blocks = {tile.block for tile in tiles} - {None}
    notes = []
    if any(tile.split == "train" for tile in tiles):
        notes.append(TRAINING_NOTE)
    if any(tile.record is not None and tile.record.source == "bluemarble" for tile in tiles):
        notes.append(BLUE_MARBLE_NOTE)
    if any(tile.climate_kind == "normal" for tile in tiles):
        notes.append(NORMALS_NOTE)
    values = {
        "level": level, "block": block_deg, "num": len(blocks), "few": FEW_BLOCKS,
        "equal_n": equal_n,
    }  # fmt: skip
    return [*notes, *(text.format(**values) for text in NOTES.values())]
