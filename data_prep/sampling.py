"""Which cells of a region become places: strata by land cover, a draw, and a side of the split.

The draw is a hash of seed and cell: places added to or taken from elsewhere move no other place up
or down the list of its stratum, and the order of cells does not matter.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from data_prep.grid import Cell, cells_in, is_in_utm, place_at
from data_prep.place import Place
from data_prep.place_splits import overlap_notes, split_places
from data_prep.prep_config import PrepConfig, SamplingConfig
from data_prep.regions import read_points, read_region
from data_prep.strata import Stratum, read_strata
from ecomap.errors import RequestError
from ecomap.normals import open_normals
from ecomap.schema import parse_land_cover

OUTSIDE_UTM = "outside_utm"
SAME_TILE = "same_tile"
NO_LAND_COVER = "no_land_cover"
WATER = "water"
LITTLE_LAND = "little_land"
NOT_DRAWN = "not_drawn"
REASONS = {
    OUTSIDE_UTM: "Nearer to a pole than the UTM system reaches (80° S, 84° N)",
    SAME_TILE: "On the same pixels as an earlier point",
    NO_LAND_COVER: "Outside the land-cover file, or without a class in it",
    WATER: "No land",
    LITTLE_LAND: "Less land than min_land_frac",
    NOT_DRAWN: "Not drawn: enough others were",
}
"""Why cells do not become places."""

Choice = tuple[list[Place], dict[str, int], list[str]]


def choose_places(config: PrepConfig) -> Choice:
    """Choose the places of a dataset.

    Points of the user all become places, also on water; cells of a region only by
    ``config.sampling``. The same settings give the same places.

    Args:
        config: Region, grid, sampling, split and seed are read.

    Returns:
        Places sorted by ``location_id``, with stratum and split; cells left out by reason (keys of
        `REASONS`); remarks for the user.

    Raises:
        DataError: If a file is missing or is not what it says.
        RequestError: If no place is left, or quotas make no sense.
        SchemaError: If a quota names an unknown class.
    """
    notes: list[str] = []
    dropped: Counter[str] = Counter()
    quotas = _quotas(config.sampling)
    if config.region.points is not None:
        places = _placed(read_points(config.region.points), config, dropped)
        places = _stratified(places, config, dropped, keep_all=True)
    else:
        shape = read_region(config.region)
        cells = cells_in(shape, spacing_km=config.grid.spacing_km)
        places = _stratified(_placed(cells, config, dropped), config, dropped)
        if places:
            counts = Counter(place.stratum for place in places)
            wanted = _wanted(config.sampling, quotas, counts, notes)
            drawn = draw(places, wanted, seed=config.seed)
            dropped += Counter({NOT_DRAWN: len(places) - len(drawn)})
            places = drawn
    if not places:
        raise RequestError(_no_place(dropped, config))
    places, split_notes = split_places(sorted(places, key=lambda p: p.location_id), config)
    notes += [*_drop_notes(dropped, config), *overlap_notes(places), *split_notes]
    return places, dict(sorted(dropped.items())), notes


def draw(places: Iterable[Place], wanted: Mapping[str, int], *, seed: int) -> list[Place]:
    """Draw places by stratum: those with the lowest hash of seed and id.

    Args:
        places: Candidates.
        wanted: Places by stratum; the key ``""`` stands for all strata together.
        seed: Another seed draws others.
    """
    groups: defaultdict[str, list[Place]] = defaultdict(list)
    for place in places:
        groups["" if "" in wanted else place.stratum].append(place)
    return [
        place
        for stratum, group in sorted(groups.items())
        for place in sorted(group, key=lambda p: _rank(p, seed))[: wanted.get(stratum, 0)]
    ]


def share_out(total: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Divide a number in proportion to counts, by largest remainder.

    Args:
        total: Number to divide; more than there is gives all there is.
        counts: How many there are, by name.

    Example:
        >>> share_out(10, {"a": 66, "b": 21, "c": 13})
        {'a': 7, 'b': 2, 'c': 1}
    """
    available = sum(counts.values())
    if total >= available:
        return dict(counts)
    shares = {name: total * count // available for name, count in counts.items()}
    by_remainder = sorted(
        counts, key=lambda name: (-(total * counts[name] % available), -counts[name], name)
    )
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def _rank(place: Place, seed: int) -> tuple[bytes, str]:
    key = f"{seed}:{place.location_id}"
    return hashlib.sha256(key.encode()).digest(), place.location_id


def _placed(cells: Iterable[Cell], config: PrepConfig, dropped: Counter[str]) -> list[Place]:
    """Tiles of cells; those beyond UTM, and second ones on the same pixels, are counted."""
    size_px, resolution_m = config.grid.size_px, config.grid.resolution_m
    places, seen = [], set()
    for name, lat, lon in cells:
        if not is_in_utm(lat):
            dropped[OUTSIDE_UTM] += 1
            continue
        place = place_at(name, lat, lon, size_px=size_px, resolution_m=resolution_m)
        position = (place.crs, place.left, place.top)
        if position in seen:
            dropped[SAME_TILE] += 1
            continue
        seen.add(position)
        places.append(place)
    return places


def _stratified(
    places: Sequence[Place], config: PrepConfig, dropped: Counter[str], *, keep_all: bool = False
) -> list[Place]:
    """Places with their stratum; without ``keep_all`` those with too little land are counted."""
    kept = []
    for place, found in zip(
        places, read_strata(places, config.sampling.land_cover_path), strict=True
    ):
        reason = _reason(found, config.sampling.min_land_frac)
        if reason is None or keep_all:
            label = found.land_cover.label if found.land_cover is not None else ""
            kept.append(replace(place, stratum=label))
        else:
            dropped[reason] += 1
    return kept


def _reason(found: Stratum, min_land_frac: float) -> str | None:
    """Why a cell cannot be a place; None if it can."""
    if found.land_cover is None:
        return NO_LAND_COVER
    if found.land_frac >= min_land_frac:
        return None
    return LITTLE_LAND if found.land_frac > 0 else WATER


def _no_place(dropped: Counter[str], config: PrepConfig) -> str:
    """Message for a region without any place."""
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
    if set(dropped) <= {WATER, LITTLE_LAND}:
        return (
            f"The region has no cell with enough land ({counts}; least share of land "
            f"{config.sampling.min_land_frac:g}): it lies in the ocean or on a coast. Check that "
            "longitude and latitude are not swapped; to have tiles there all the same, lower "
            "sampling.min_land_frac (0 takes water too)."
        )
    ways = "; ".join(f"{reason}: {REASONS[reason]}" for reason in sorted(dropped))
    return f"The region has no place that can be used ({counts}). {ways}. Choose another region."


def _quotas(sampling: SamplingConfig) -> dict[str, int]:
    """Places by class label, for the mode that uses them."""
    if sampling.mode != "quota":
        if sampling.quotas:
            raise RequestError(
                f"sampling.quotas are given, but sampling.mode is {sampling.mode}. Set mode to "
                "quota or take the quotas out."
            )
        return {}
    quotas: dict[str, int] = {}
    for name, number in sampling.quotas.items():
        label = parse_land_cover(name).label
        if number < 1 or label in quotas:
            fault = "is given twice" if label in quotas else f"is {number}"
            raise RequestError(
                f"The quota of {label!r} {fault}. Give each class once, with 1 place or more."
            )
        quotas[label] = number
    if not quotas:
        raise RequestError("sampling.mode is quota, but sampling.quotas is empty. Name classes.")
    return quotas


def _wanted(
    sampling: SamplingConfig, quotas: dict[str, int], counts: Counter[str], notes: list[str]
) -> dict[str, int]:
    """Places to draw by stratum (``""``: of all), with notes on what cannot be had."""
    available = counts.total()
    if sampling.mode == "quota":
        if not any(counts[label] for label in quotas):
            present = ", ".join(f"{label} ({count})" for label, count in sorted(counts.items()))
            raise RequestError(
                "The region has none of the classes of sampling.quotas. It has, in cells: "
                f"{present}. Ask for these, or use the mode proportional."
            )
        for label, number in quotas.items():
            if counts[label] < number:
                notes.append(
                    f"Quota not met: {label}: {number} places wanted, {counts[label]} found."
                )
        return quotas
    if sampling.mode == "all" or sampling.num_places is None:
        return {"": available}
    if sampling.num_places > available:
        notes.append(
            f"{sampling.num_places} places wanted, {available} cells with enough land found: all "
            "are taken. A smaller grid.spacing_km gives more."
        )
    if sampling.mode == "uniform":
        return {"": sampling.num_places}
    shares = share_out(sampling.num_places, counts)
    without = sorted(label for label, number in shares.items() if number == 0)
    if without:
        notes.append(
            f"Too rare for a place among {sampling.num_places}: {', '.join(without)}. Raise "
            "sampling.num_places or use quotas to have them."
        )
    return shares


def _drop_notes(dropped: Counter[str], config: PrepConfig) -> list[str]:
    """Remarks on what was left out and on how classes were found."""
    notes = []
    if dropped[OUTSIDE_UTM]:
        what = "cells" if config.region.points is None else "points"
        notes.append(f"{dropped[OUTSIDE_UTM]} {what} were left out: {REASONS[OUTSIDE_UTM]}.")
    if config.sampling.land_cover_path is None:
        notes.append(
            "Classes and shares of land are from the coarse table that ships (cells of "
            f"{open_normals().cell_deg:g} degrees): small classes and coasts are missed. "
            "sampling.land_cover_path takes a finer map."
        )
    return notes
