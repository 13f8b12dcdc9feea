"""Baselines as sets of images: what anyone can say of a place and month without a model.

They are measured and scored exactly as generated images are. Images are made when they are read; no
more than one mean is held at a time. A real frame never stands for its own tile.
"""

from collections.abc import Sequence
from typing import Any, Literal

from ecomap.analogues import nearest_analogues
from ecomap.baseline_sets import MAX_FRAMES, Baseline, MeanFrame, RealFrame, is_same_tile, thin
from ecomap.tiles import ImageSet, ScoredTile

BaselineName = Literal[
    "persistence",
    "previous_year",
    "class_month_mean",
    "place_month_mean",
    "climate_analogue",
    "constant_colour",
]

DESCRIPTIONS: dict[BaselineName, str] = {
    "persistence": "The place's own latest earlier frame.",
    "previous_year": "The place's own frame of the same calendar month in the latest earlier year.",
    "class_month_mean": "Mean of training frames of the same land cover and calendar month, pixel "
    "by pixel; of the calendar month alone where the land cover is not among them.",
    "place_month_mean": "Mean of the place's own frames of the same calendar month in earlier "
    "years, pixel by pixel.",
    "climate_analogue": "The training frame of another place, in the same calendar month and where "
    "possible of the same land cover, whose temperature and precipitation are most similar.",
    "constant_colour": "One colour: the mean of training frames.",
}


def make_baselines(
    targets: Sequence[ScoredTile],
    history: ImageSet,
    training: Sequence[int],
    *,
    max_cloud_frac: float,
) -> tuple[list[Baseline], dict[str, str]]:
    """Baselines for some tiles, as sets of images under the tiles' own keys.

    Persistence and the means of a place know its past, which a model need not: where the split
    divides places, they see frames of places that training never saw.

    Args:
        targets: Tiles to predict.
        history: All real frames of the dataset, those of the targets among them or not.
        training: Positions in it of the frames that a model may learn from.
        max_cloud_frac: Frames whose tile is known to have more cloud serve nobody.

    Returns:
        The baselines that serve any target, each with the targets that it cannot serve by reason;
        and why the others serve none.
    """
    maker = _Maker(targets, history, training, max_cloud_frac)
    made = [
        maker.of_own_place("persistence"),
        maker.of_own_place("previous_year"),
        maker.class_month_mean(),
        maker.of_own_place("place_month_mean"),
        maker.climate_analogue(),
        maker.constant_colour(),
    ]
    missing = {
        one.name: "; ".join(f"{why} ({len(keys)} tiles)" for why, keys in one.unserved.items())
        for one in made
        if not one.tiles
    }
    return [one for one in made if one.tiles], missing


class _Maker:
    """Looks up which frames may stand for which target."""

    def __init__(
        self,
        targets: Sequence[ScoredTile],
        history: ImageSet,
        training: Sequence[int],
        max_cloud_frac: float,
    ) -> None:
        self.targets, self.history = targets, history
        tiles = history.tiles
        is_clear = [(tile.cloud_frac or 0.0) <= max_cloud_frac for tile in tiles]
        self.training = [index for index in training if is_clear[index]]
        self.by_place: dict[str, list[int]] = {}
        for index, tile in enumerate(tiles):
            if tile.place is not None and tile.month is not None and is_clear[index]:
                self.by_place.setdefault(tile.place, []).append(index)
        for members in self.by_place.values():
            members.sort(key=lambda index: (tiles[index].month or "", tiles[index].key))

    def _earlier_frames(self, target: ScoredTile, *, same_calendar_month: bool) -> list[int] | str:
        """Frames of the target's place before its month, latest last, or why there is none."""
        if target.place is None or target.month is None:
            return "place or month not known"
        frames = [
            index
            for index in self.by_place.get(target.place, ())
            if (month := self.history.tiles[index].month or "") < target.month
            and (not same_calendar_month or month[5:] == target.month[5:])
        ]
        when = "calendar month in an earlier year" if same_calendar_month else "place earlier"
        return frames or f"no clear frame of the same {when}"

    def of_own_place(self, name: BaselineName) -> Baseline:
        """Persistence, previous year, or the mean of the place's earlier years."""
        served, frames, unserved = list[ScoredTile](), list[list[int]](), _Reasons()
        for target in self.targets:
            found = self._earlier_frames(target, same_calendar_month=name != "persistence")
            if isinstance(found, str):
                unserved.add(found, target)
            else:
                served.append(target)
                frames.append(found)
        if name == "place_month_mean":
            keys = [target.key for target in served]
            members = {k: own[-MAX_FRAMES:] for k, own in zip(keys, frames, strict=True)}
            return self._mean(name, served, keys, members, unserved=unserved)
        return self._real(name, served, [own[-1] for own in frames], unserved)

    def class_month_mean(self) -> Baseline:
        """Mean of the training frames of the class and calendar month."""
        groups: dict[str, list[int]] = {}
        for index in self.training:
            for group in _groups_of(self.history.tiles[index]):
                groups.setdefault(group, []).append(index)
        unserved, fallbacks, chosen = _Reasons(), _Reasons(), list[tuple[str, ScoredTile]]()
        for target in self.targets:
            own_groups = _groups_of(target)
            found = [g for g in own_groups if self._has_another(groups.get(g, ()), target)]
            if not found:
                unserved.add("no clear training frame of the same calendar month and hemisphere; "
                             "--training FOLDER names some", target)  # fmt: skip
                continue
            if target.land_cover is None or found[0] != own_groups[0]:
                fallbacks.add("mean of the month: no training frame of its land cover", target)
            chosen.append((found[0], target))
        chosen.sort(key=lambda pair: pair[0])
        names, served = [group for group, _ in chosen], [target for _, target in chosen]
        members = {group: thin(groups[group]) for group in names}
        return self._mean(
            "class_month_mean", served, names, members, unserved=unserved, fallbacks=fallbacks
        )

    def climate_analogue(self) -> Baseline:
        """The training frame of another place with the most similar climate."""
        pool = [self.history.tiles[index] for index in self.training]
        served, sources, unserved = list[ScoredTile](), list[int](), _Reasons()
        for target, found in zip(self.targets, nearest_analogues(self.targets, pool), strict=True):
            if found is None:
                unserved.add("no clear training frame of another place has a known climate in its "
                             "calendar month, or its own is not known", target)  # fmt: skip
            else:
                served.append(target)
                sources.append(self.training[found])
        return self._real("climate_analogue", served, sources, unserved)

    def constant_colour(self) -> Baseline:
        """The mean colour of training frames."""
        served, unserved = list[ScoredTile](), _Reasons()
        for target in self.targets:
            if self._has_another(self.training, target):
                served.append(target)
            else:
                unserved.add("no clear training frame", target)
        # Months one after the other: frames of one mosaic are read together.
        tiles = self.history.tiles
        ordered = sorted(self.training, key=lambda i: (tiles[i].month or "", tiles[i].key))
        return self._mean(
            "constant_colour", served, ["all"] * len(served), {"all": thin(ordered)},
            unserved=unserved, is_flat=True,
        )  # fmt: skip

    def _has_another(self, members: Sequence[int], target: ScoredTile) -> bool:
        """Whether any of these frames is not the target's own."""
        return any(not is_same_tile(self.history.tiles[index], target) for index in members)

    def _real(
        self,
        name: BaselineName,
        served: Sequence[ScoredTile],
        sources: Sequence[int],
        unserved: "_Reasons",
    ) -> Baseline:
        return RealFrame(
            name=name, description=DESCRIPTIONS[name], history=self.history, tiles=served,
            sources=sources, unserved=unserved,
        )  # fmt: skip

    def _mean(
        self,
        name: BaselineName,
        served: Sequence[ScoredTile],
        groups: Sequence[str],
        members: dict[str, list[int]],
        **rest: Any,
    ) -> Baseline:
        return MeanFrame(
            name=name, description=DESCRIPTIONS[name], history=self.history, tiles=served,
            groups=groups, members=members, **rest,
        )  # fmt: skip


class _Reasons(dict[str, list[str]]):
    """Keys of tiles by reason."""

    def add(self, reason: str, tile: ScoredTile) -> None:
        self.setdefault(reason, []).append(tile.key)


def _groups_of(tile: ScoredTile) -> list[str]:
    """Groups whose mean may stand for a tile, the best first; months sort together.

    A month is one of a hemisphere: July is summer here and winter there.
    """
    if tile.month is None:
        return []
    month = tile.month[5:] + (" south" if (tile.lat or 0.0) < 0 else "")
    return [month] if tile.land_cover is None else [f"{month} {tile.land_cover.label}", month]
