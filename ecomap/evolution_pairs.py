"""Pairs of a start month and a target month of one place, and the images that stand for targets.

A pair asks: from this frame, what does the place look like in that month? Real frames answer for
the target and, copied, for persistence; class means and climate analogues do not know the start
and are made once a target.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ecomap.baseline_sets import Baseline, RealFrame
from ecomap.baselines import DESCRIPTIONS, make_baselines
from ecomap.blocks import with_blocks
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_inputs import scored_splits
from ecomap.image_store import Images
from ecomap.image_subsets import take
from ecomap.places import choose_targets, group_places
from ecomap.schema import TileRecord, months_between
from ecomap.scores import OBSERVED
from ecomap.tiles import Frame, ImageSet, Measured, ScoredTile, SetKind, tile_table

PERSISTENCE = "persistence"

LEFT_OUT_RIVALS = ("persistence", "constant_colour")
"""Baselines of `ecomap.baselines` that are not asked: its persistence is the latest earlier frame,
here it is the start; one colour is no rival."""

SERIES, AHEAD = "series", "months_ahead"
"""Columns of `PairSets.columns`."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One start and one target; positions are those in the history."""

    start: int
    target: int
    tile: ScoredTile
    """The target, under a key that names both months."""
    series: str
    """Place and calendar month of the start: its targets are one year of one place."""
    months_ahead: int
    """From start to target; where the target is earlier, on the calendar's circle."""


@dataclass(kw_only=True)
class ArrayImages:
    """Images in memory, or made when they are read, as an `ecomap.tiles.ImageSet`."""

    name: str
    tiles: Sequence[ScoredTile]
    images: Images | Callable[[int], Images]
    """uint8 ``(N, H, W, 3)``, or a function of the position."""
    kind: SetKind = "generated"
    description: str = "Images given as arrays."

    def __post_init__(self) -> None:
        """Refuse arrays that are not one image a tile."""
        found = self.images
        if not isinstance(found, np.ndarray):
            return
        if found.dtype != np.uint8 or found.ndim != 4 or len(found) != len(self.tiles):
            raise RequestError(
                f"{self.name} has {found.dtype} of shape {found.shape} for {len(self.tiles)} "
                "tiles. Expected one uint8 image (H, W, 3) each."
            )

    def read(self, index: int) -> Frame:
        """Image of ``tiles[index]``; all of it is valid."""
        found = self.images
        rgb = found[index] if isinstance(found, np.ndarray) else found(index)
        return Frame(rgb=rgb, valid=np.ones(rgb.shape[:2], bool))


@dataclass(frozen=True, kw_only=True)
class PairSets:
    """Pairs of a dataset, and its images in the roles that pairs give them."""

    history: ImageSet
    """All real frames of the dataset."""
    training: Sequence[int]
    """Positions in it of the frames that baselines may learn from."""
    pairs: Sequence[Pair]
    chosen: Sequence[int]
    """Positions of the frames of the scored places: all starts and targets."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Number of tiles, and of pairs, that are not scored, by reason."""

    @cached_property
    def columns(self) -> pd.DataFrame:
        """What is known of each pair: `SERIES` and `AHEAD`, index ``key``."""
        keys = pd.Index([pair.tile.key for pair in self.pairs], name="key")
        rows = {
            SERIES: [pair.series for pair in self.pairs],
            AHEAD: [pair.months_ahead for pair in self.pairs],
        }
        return pd.DataFrame(rows, index=keys)

    @property
    def tiles(self) -> list[ScoredTile]:
        """The target of each pair, under the pair's key."""
        return [pair.tile for pair in self.pairs]

    def real(self) -> ImageSet:
        """The real target of each pair."""
        return take(
            self.history, [pair.target for pair in self.pairs], tiles=self.tiles, name=OBSERVED
        )

    def persistence(self) -> ImageSet:
        """The start of each pair, which stands for its target."""
        return RealFrame(
            name=PERSISTENCE, description="The start of the pair, copied.", history=self.history,
            tiles=self.tiles, sources=[pair.start for pair in self.pairs],
        )  # fmt: skip

    def frames(self) -> ImageSet:
        """The real frames of the scored places, each once, under their own keys."""
        return take(self.history, list(self.chosen), name=OBSERVED)

    def rivals(self, config: EvaluateConfig) -> tuple[list[Baseline], dict[str, str]]:
        """Baselines that do not know the start, by target; and why others cannot be made."""
        targets = sorted({pair.target for pair in self.pairs})
        tiles = [self.history.tiles[index] for index in targets]
        made, missing = make_baselines(
            tiles, self.history, self.training, max_cloud_frac=config.max_cloud_frac
        )
        kept = [one for one in made if one.name not in LEFT_OUT_RIVALS]
        known = {name: why for name, why in missing.items() if name in DESCRIPTIONS}
        return kept, {name: why for name, why in known.items() if name not in LEFT_OUT_RIVALS}

    def per_pair(self, measured: Measured, *, side: str = "target") -> Measured:
        """Measures of frames by their own keys, repeated for each pair that they serve.

        Args:
            measured: Of images under the keys of frames.
            side: ``target`` or ``start``: the frame of the pair that is meant.
        """
        tiles = self.history.tiles
        keys = {p.tile.key: tiles[p.start if side == "start" else p.target].key for p in self.pairs}
        known = [pair.tile for pair in self.pairs if keys[pair.tile.key] in measured.table.index]
        about = tile_table(known) if known else tile_table(self.tiles[:1]).iloc[:0]
        values = measured.table.drop(columns=about.columns.intersection(measured.table.columns))
        values = values.loc[[keys[tile.key] for tile in known]].set_axis(about.index, axis=0)
        return replace(
            measured, table=pd.concat([about, values], axis=1), features={}, probabilities={}
        )

    def start_of(self, pair: Pair) -> tuple[TileRecord, Images]:
        """Record and pixels ``(H, W, 3)`` of a start; what is not valid is black.

        Raises:
            RequestError: If the dataset keeps no records.
            ImageError: If the frame cannot be scored.
        """
        frame = self.history.read(pair.start)
        return record_of(self.history.tiles[pair.start]), frame.rgb * frame.valid[..., None]


def record_of(tile: ScoredTile) -> TileRecord:
    """Record of a tile.

    Raises:
        RequestError: If it has none.
    """
    if tile.record is None:
        raise RequestError(
            f"{tile.key} has no record to start from or to ask for. Expected an ecomap dataset."
        )
    return tile.record


def choose_pairs(
    history: ImageSet,
    config: EvaluateConfig,
    *,
    start_months: Sequence[int],
    one_per_block: bool = False,
) -> PairSets:
    """Choose places far from each other, and pair their months.

    Each clear frame of a scored side of the split is a target, once for each start month: from the
    clear frame of its place in that calendar month that is nearest in time, whatever its side.

    Args:
        history: All real frames of a dataset.
        config: Its ``num_places``, ``months``, ``splits``, ``seed`` and ``max_cloud_frac``.
        start_months: Calendar months that starts lie in, 1 to 12.
        one_per_block: Whether only places in blocks of their own are taken (`ecomap.blocks`), so
            that there are as many blocks as places; otherwise windows may overlap.

    Raises:
        RequestError: If the settings are impossible, or there is no pair.
    """
    if not start_months or not set(start_months) <= set(range(1, 13)):
        raise RequestError(
            f"Start months {list(start_months)} are not calendar months. Give some of 1 to 12."
        )
    many = len(history.tiles) if one_per_block else config.num_places
    targets = choose_targets(
        history.tiles, num_places=max(many, 2), months=config.months,
        splits=scored_splits(history.tiles, config), seed=config.seed,
    )  # fmt: skip
    chosen = targets.chosen
    if one_per_block:
        chosen = _one_per_block(chosen, config.num_places)
    (blocked,) = with_blocks(chosen)
    dropped = Counter(targets.dropped)
    dropped["its place is not among those chosen"] = len(targets.pool) - len(chosen)
    pairs = _pairs_of(history, blocked, sorted(set(start_months)), config, dropped)
    used = {index for pair in pairs for index in (pair.start, pair.target)}
    return PairSets(
        history=history,
        training=[i for i, tile in enumerate(history.tiles) if tile.split == "train"],
        pairs=pairs,
        chosen=sorted(used, key=lambda i: (history.tiles[i].month or "", history.tiles[i].key)),
        dropped={reason: num for reason, num in dropped.items() if num},
    )


def _one_per_block(chosen: Sequence[ScoredTile], num_places: int) -> list[ScoredTile]:
    """Tiles of the first places, each of which adds a block."""
    kept: list[list[ScoredTile]] = []
    for place in group_places(chosen).values():
        firsts = [*(one[0] for one in kept), place[0]]
        if len({tile.block for tile in with_blocks(firsts)[0]}) == len(firsts):
            kept.append(place)
        if len(kept) == num_places:
            break
    return [tile for place in kept for tile in place]


def _pairs_of(
    history: ImageSet,
    targets: Sequence[ScoredTile],
    start_months: Sequence[int],
    config: EvaluateConfig,
    dropped: Counter[str],
) -> list[Pair]:
    """All pairs of some targets, series by series."""
    places = {tile.place for tile in targets}
    position = {tile.key: i for i, tile in enumerate(history.tiles) if tile.place in places}
    frames = group_places(tile for tile in history.tiles if tile.key in position)
    pairs = []
    for tile in targets:
        if _is_cloudy(tile, config):
            dropped["pairs: the target is cloudy"] += len(start_months)
            continue
        for month in start_months:
            start = _nearest_start(frames[tile.place or ""], tile, month, config)
            if start is None:
                is_own = int((tile.month or "")[5:]) == month
                why = "the target is the start" if is_own else f"no clear frame of month {month}"
                dropped[f"pairs: {why}"] += 1
                continue
            ahead = months_between(start.month or "", tile.month or "")
            key = f"{tile.key} from {start.month}"
            pairs.append(
                Pair(
                    start=position[start.key], target=position[tile.key],
                    tile=replace(tile, key=key), series=f"{tile.place} from month {month:02d}",
                    months_ahead=ahead if ahead > 0 else ahead % 12,
                )
            )  # fmt: skip
    if not pairs:
        told = ", ".join(f"{reason}: {num}" for reason, num in dropped.items()) or "none"
        raise RequestError(
            f"No pair of months can be scored (left out: {told}). Expected places with a clear "
            f"frame in one of the months {list(start_months)} and another one."
        )
    return sorted(pairs, key=lambda pair: (pair.series, pair.months_ahead, pair.tile.key))


def _nearest_start(
    place: Sequence[ScoredTile], target: ScoredTile, month: int, config: EvaluateConfig
) -> ScoredTile | None:
    """Clear frame of a calendar month that is nearest in time, an earlier one first."""
    found = [
        tile
        for tile in place
        if int((tile.month or "")[5:]) == month
        and tile.month != target.month
        and not _is_cloudy(tile, config)
    ]
    apart = {tile.key: months_between(tile.month or "", target.month or "") for tile in found}
    return min(found, key=lambda tile: (abs(apart[tile.key]), apart[tile.key] < 0), default=None)


def _is_cloudy(tile: ScoredTile, config: EvaluateConfig) -> bool:
    return (tile.cloud_frac or 0.0) > config.max_cloud_frac
