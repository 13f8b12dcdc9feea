"""Images that a model of evolution makes for pairs, kept so that an interrupted run goes on.

The model is a function (`EvolvePairs`); nothing here knows how it works. Beside the targets stand
the targets under another place's climate, the starts asked for again, and chains in which each
month begins at the generated month before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ecomap.card import BundleCard, Door
from ecomap.errors import RequestError
from ecomap.evolution_gains import GENERATED
from ecomap.evolution_pairs import Pair, PairSets, record_of
from ecomap.evolution_scores import SHUFFLED
from ecomap.image_store import ImageMaker, ImageRequest, Images, KeptImages, as_made
from ecomap.image_subsets import take
from ecomap.imagery import read_image
from ecomap.places import shuffle_climate
from ecomap.schema import TileRecord
from ecomap.tiles import ImageSet, ScoredTile, SetKind

MEMBER_STRIDE = 100_000
"""Keeps the seeds of members apart; series count from 0 below it."""

IDENTITY, CHAINED = "identity", "chained"

DESCRIPTIONS = {
    GENERATED: "Each start taken to the month and climate of its target.",
    SHUFFLED: "Each start taken to its target's month under the climate of another place.",
    IDENTITY: "Each start asked for again, in its own month and climate.",
    CHAINED: "Each month made from the generated month before, beginning at the start.",
}

Start = tuple[TileRecord, Images]
"""Record and pixels ``(H, W, 3)`` of a start."""


class EvolvePairs(Protocol):
    """What is asked of a model, such as `ecomap.evolution.evolve_pairs` with its bundle."""

    def __call__(self, starts: list[Start], targets: list[TileRecord], seeds: list[int]) -> Images:
        """One uint8 image ``(H, W, 3)`` for each start and its target."""


@dataclass(frozen=True, kw_only=True)
class EvolutionMaker:
    """Makes images for pairs with one model."""

    sets: PairSets
    evolve: EvolvePairs
    card: BundleCard
    folder: Path
    settings: Mapping[str, Any]
    """What decides images beside pairs and seeds; plain JSON."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    say: Callable[[str], None] = lambda _: None

    def generated(self, member: int = 0) -> ImageSet:
        """Each target from its start; members differ in their noise alone."""
        name = GENERATED if member == 0 else f"{GENERATED}_{member}"
        targets = [record_of(pair.tile) for pair in self.sets.pairs]
        return self._of_pairs(name, targets, "generated", member=member)

    def shuffled(self) -> ImageSet:
        """Each target's month from its start, under the climate of another place."""
        unique = {pair.target: pair.tile for pair in self.sets.pairs}
        told = shuffle_climate(list(unique.values()), seed=self.seed)
        record = dict(zip(unique, map(record_of, told), strict=True))
        return self._of_pairs(SHUFFLED, [record[p.target] for p in self.sets.pairs], "null")

    def identity(self) -> tuple[ImageSet, ImageSet]:
        """The starts, and what comes back when each is asked for again."""
        pair_of = {pair.start: pair for pair in reversed(self.sets.pairs)}
        ordered = sorted(pair_of)
        tiles = [replace(self.sets.history.tiles[i], region=pair_of[i].tile.block) for i in ordered]
        starts = take(self.sets.history, ordered, tiles=tiles, name="starts")
        begins = {
            (tile.key, self._seed(pair_of[i])): pair_of[i]
            for i, tile in zip(ordered, tiles, strict=True)
        }
        maker = self._maker(lambda key: self.sets.start_of(begins[key]))
        requests = [
            self._request(tile.key, record_of(tile), self._seed(pair_of[i]))
            for i, tile in zip(ordered, tiles, strict=True)
        ]
        return starts, self._kept(IDENTITY, tiles, maker(IDENTITY, requests), "generated")

    def chained(self) -> ImageSet:
        """Targets in the order of months, each from the one made before it.

        One start month is done at a time: then no two chains pass through one place and month
        together.
        """
        months = sorted({pair.series[-2:] for pair in self.sets.pairs})
        paths: dict[str, Path] = {}
        for month in months:
            chains: dict[str, list[Pair]] = {}
            for pair in self.sets.pairs:  # in the order of months ahead
                if pair.series[-2:] == month:
                    chains.setdefault(pair.series, []).append(pair)
            for step in range(max(map(len, chains.values()))):
                links = [chain[: step + 1] for chain in chains.values() if step < len(chain)]
                paths |= self._chain_step(links, paths, f"{CHAINED}/from-{month}-{step + 1:02d}")
        tiles = self.sets.tiles
        return self._kept(CHAINED, tiles, [paths[tile.key] for tile in tiles], "generated")

    def sweeps(self, pool: Sequence[ScoredTile]) -> ImageMaker:
        """Maker for `ecomap.evolution_sweeps`: every case begins at its own real frame.

        Args:
            pool: Tiles of the history that may be cases.
        """
        wanted = {tile.key for tile in pool}
        position = {
            tile.key: i for i, tile in enumerate(self.sets.history.tiles) if tile.key in wanted
        }

        def start_of(key: tuple[str, int]) -> Start:
            index = position[key[0]]
            frame = self.sets.history.read(index)
            record = record_of(self.sets.history.tiles[index])
            return record, frame.rgb * frame.valid[..., None]

        return self._maker(start_of)

    def _of_pairs(
        self, name: str, targets: Sequence[TileRecord], kind: SetKind, *, member: int = 0
    ) -> ImageSet:
        """One image a pair, of the noise of its series."""
        pairs = self.sets.pairs
        seeds = [self._seed(pair) + MEMBER_STRIDE * member for pair in pairs]
        begins = {
            (target.tile_id, seed): pair
            for target, seed, pair in zip(targets, seeds, pairs, strict=True)
        }
        maker = self._maker(lambda key: self.sets.start_of(begins[key]))
        requests = [
            self._request(pair.tile.key, target, seed)
            for pair, target, seed in zip(pairs, targets, seeds, strict=True)
        ]
        return self._kept(name, self.sets.tiles, maker(name, requests), kind)

    def _chain_step(
        self, links: Sequence[Sequence[Pair]], paths: Mapping[str, Path], name: str
    ) -> dict[str, Path]:
        """The next month of every chain: its last pair, from the one before it."""
        begins: dict[tuple[str, int], Start] = {}
        requests = []
        for link in links:
            target, seed = record_of(link[-1].tile), self._seed(link[-1])
            if len(link) == 1:
                start = self.sets.start_of(link[0])
            else:
                start = record_of(link[-2].tile), read_image(paths[link[-2].tile.key])
            begins[target.tile_id, seed] = start
            requests.append(self._request(link[-1].tile.key, target, seed))
        made = self._maker(begins.__getitem__)(name, requests)
        return {link[-1].tile.key: path for link, path in zip(links, made, strict=True)}

    def _seed(self, pair: Pair) -> int:
        """Seed of a series: its targets share their noise."""
        return self.seed + self._turns[pair.series]

    @cached_property
    def _turns(self) -> dict[str, int]:
        """Number of each series."""
        names = dict.fromkeys(pair.series for pair in self.sets.pairs)
        return {name: turn for turn, name in enumerate(names)}

    def _request(self, key: str, record: TileRecord, seed: int) -> ImageRequest:
        return ImageRequest(
            key=key, record=as_made(record, self.card), seed=seed, doors=self.card.doors
        )

    def _maker(self, start_of: Callable[[tuple[str, int]], Start]) -> ImageMaker:
        """A maker whose images begin at the start of their ``(tile_id, seed)``."""

        def make(
            records: Sequence[TileRecord], seeds: Sequence[int], doors: tuple[Door, ...]
        ) -> Images:
            keys = [(record.tile_id, seed) for record, seed in zip(records, seeds, strict=True)]
            return self.evolve([start_of(key) for key in keys], list(records), list(seeds))

        return ImageMaker(
            make=make, card=self.card, folder=self.folder, settings=self.settings,
            notes=self.notes, say=self.say,
        )  # fmt: skip

    def _kept(
        self, name: str, tiles: Sequence[ScoredTile], paths: Sequence[Path], kind: SetKind
    ) -> ImageSet:
        words = DESCRIPTIONS.get(name, f"{DESCRIPTIONS[GENERATED]} Another member.")
        return KeptImages(name=name, kind=kind, description=words, tiles=tiles, paths=paths)


def check_size(sets: PairSets, card: BundleCard) -> None:
    """Refuse starts that are not of the model's size.

    Raises:
        RequestError: If they are not.
    """
    height, width = sets.history.read(sets.pairs[0].start).rgb.shape[:2]
    side = card.image_size_px
    if (height, width) != (side, side):
        raise RequestError(
            f"The bundle makes images of {side} px, the starts have {height} x {width} px. "
            f"Expected one size; bring the real ones to it with size_px={side}."
        )
