"""A made-up world whose law of climate and colour is known, and a model that knows the law."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ecomap.card import BundleCard
from ecomap.errors import ImageError
from ecomap.image_store import ImageMaker
from ecomap.schema import LandCover, TileRecord
from ecomap.tiles import Frame, ScoredTile, SetKind, tile_of

HEIGHT_PX, WIDTH_PX = 16, 40
SIDE_PX = 16


def make_tile(location_id="a", month=1, *, year=2004, **fields) -> TileRecord:
    """One record; ``temperature`` and ``precipitation`` are twelve normals each."""
    temperature = fields.pop("temperature", [5.0] * 12)
    precipitation = fields.pop("precipitation", [2.0] * 12)
    index = month - 1
    values = {
        "source": "made-up",
        "location_id": location_id,
        "month": f"{year}-{month:02d}",
        "lat": 0.0,
        "lon": 0.0,
        "ground_sampling_distance_m": 1000.0,
        "width_px": WIDTH_PX,
        "height_px": HEIGHT_PX,
        "land_cover": LandCover.GRASSLANDS,
        "land_frac": 1.0,
        "climate_kind": "normal",
        "temperature_c": temperature[index],
        "precipitation_mm_day": precipitation[index],
        "temperature_c_normals": tuple(temperature),
        "precipitation_mm_day_normals": tuple(precipitation),
        "temperature_c_history": tuple(np.roll(temperature, -index).tolist()),
        "precipitation_mm_day_history": tuple(np.roll(precipitation, -index).tolist()),
        "license": "CC0-1.0",
    }
    return TileRecord(**(values | fields))


def scored(location_id="a", month=1, **fields) -> ScoredTile:
    """`make_tile` as it is scored."""
    return tile_of(make_tile(location_id, month, **fields))


def picture(temperature, precipitation, seed, shape=(HEIGHT_PX, WIDTH_PX)) -> np.ndarray:
    """The law: 5 % less snow a degree, 10 levels more green a millimetre, rough by the seed."""
    image = np.full((*shape, 3), 60.0)
    image[..., 1] += 10 * precipitation
    image[:, : round(shape[1] * np.clip(0.5 - 0.05 * temperature, 0, 1))] = 220
    rough = np.random.default_rng(seed).uniform(-3, 3, (*shape, 1))
    return (image + rough).round().astype(np.uint8)


def blank(colour) -> Frame:
    """A frame of one colour, all valid."""
    rgb = np.broadcast_to(np.array(colour, np.uint8), (HEIGHT_PX, WIDTH_PX, 3)).copy()
    return Frame(rgb=rgb, valid=np.ones(rgb.shape[:2], bool))


@dataclass(kw_only=True)
class Album:
    """Images in memory; ``None`` cannot be read."""

    tiles: Sequence[ScoredTile]
    frames: Sequence[Frame | None]
    name: str = "reference"
    kind: SetKind = "reference"
    description: str = "Images in memory."
    num_read: int = field(default=0)

    def read(self, index: int) -> Frame:
        self.num_read += 1
        frame = self.frames[index]
        if frame is None:
            raise ImageError("unreadable", f"{self.tiles[index].key} is damaged.")
        return frame


def made_up_world(num_places=20, shape=(HEIGHT_PX, WIDTH_PX)) -> Album:
    """Places of 12 months by the law; three of four for testing, the others for training."""
    covers = [LandCover.GRASSLANDS, LandCover.MIXED_FORESTS]
    swing = np.cos(2 * np.pi * (np.arange(12) - 6) / 12)
    tiles, frames = [], []
    for index in range(num_places):
        temperature = (4.0 * (index % 5) - 4 + 8 * swing).round(3).tolist()
        rain = ((0.5 + (index * 7 % 11) * 0.4) * (1 + 0.6 * swing)).round(3).tolist()
        for month in range(1, 13):
            tile = scored(
                f"p{index:02d}", month, temperature=temperature, precipitation=rain,
                lat=-60.0 + 8 * (index % 14), lon=-170.0 + 15 * index, width_px=shape[1],
                split="train" if index % 4 == 0 else "test", land_cover=covers[index % 2],
            )  # fmt: skip
            rgb = picture(temperature[month - 1], rain[month - 1], 1000 + index, shape)
            tiles.append(tile)
            frames.append(Frame(rgb=rgb, valid=np.ones(shape, bool)))
    return Album(tiles=tiles, frames=frames)


class Painter:
    """A model that knows the law, and counts what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[TileRecord], list[int], tuple[str, ...]]] = []

    def __call__(self, records, seeds, doors):
        self.calls.append((list(records), list(seeds), doors))
        images = []
        for record, seed in zip(records, seeds, strict=True):
            chance = np.random.default_rng(seed)
            climate = (record.temperature_c, record.precipitation_mm_day)
            unknown = (chance.uniform(-10, 25), chance.uniform(0, 5))
            told = climate if doors else unknown
            images.append(picture(*told, seed, (record.height_px, record.width_px)))
        return np.stack(images)


CARD = BundleCard(
    name="painter", image_size_px=SIDE_PX, ground_sampling_distance_m=1000.0,
    doors=("text", "tokens"), license="CC0-1.0",
)  # fmt: skip


def painter_maker(folder, painter=None, **changes) -> ImageMaker:
    """The painter as a generator whose images are kept."""
    maker = ImageMaker(make=painter or Painter(), card=CARD, folder=folder, settings={"steps": 20})
    return replace(maker, **changes)
