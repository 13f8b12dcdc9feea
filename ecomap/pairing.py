"""Which generated image belongs to which real one, and what the real one's tile adds to it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from ecomap.errors import RequestError
from ecomap.image_files import plain_stem
from ecomap.schema import CLIMATE
from ecomap.tiles import ScoredTile

_T = TypeVar("_T")

PairedBy = Literal["key", "file stem", "nothing"]

SAME_PLACE_DEG = 0.01
"""Positions further apart than this contradict each other; about 1 km."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Generated images and their real ones."""

    paired_by: PairedBy
    """What both sets have in common; ``nothing`` where no image pairs."""
    pairs: tuple[tuple[int, int], ...]
    """Positions of the real and of the generated tile of each pair, in the generated order."""
    only_reference: tuple[str, ...]
    """Keys of real tiles without a generated image."""
    only_generated: tuple[str, ...]
    """Keys of generated tiles without a real image."""
    tiles: tuple[ScoredTile, ...]
    """All generated tiles in their order; the paired ones have the key of their real tile, and know
    what it knows of the place and month."""
    notes: tuple[str, ...]

    @property
    def is_paired(self) -> bool:
        """Whether any image pairs; else only distributions can be compared."""
        return bool(self.pairs)


def pair(reference: Sequence[ScoredTile], generated: Sequence[ScoredTile]) -> Pairing:
    """Find the real tile of each generated one.

    Tiles pair by key, or all by the stem of their files where more do so (`file_stem`); a stem that
    occurs twice on a side pairs nothing. What a paired generated tile does not know is completed
    from its real tile, but for the real image's cloud:

    - The place, as a name, is always the real tile's, so that statistics by place see one place.
    - Climate is completed variable by variable, and its months before and normals only where its
      own value does not differ by more than half of the last decimal of a prompt: a tile's own
      climate may be a scenario. Of another month or position nothing is completed.
    - The record is added only where nothing that the tile knows differs from it.

    Where both know a month, land cover or position and differ, the generated tile keeps its own,
    and a note counts such pairs.

    Args:
        reference: Real tiles.
        generated: Generated tiles.

    Raises:
        RequestError: If a set has a key twice.
    """
    for tiles in (reference, generated):
        _check_keys(tiles)
    by_key = _match([tile.key for tile in reference], [tile.key for tile in generated])
    by_stem = _match([file_stem(t) for t in reference], [file_stem(t) for t in generated])
    pairs = by_stem if len(by_stem) > len(by_key) else by_key
    paired_by: PairedBy = "nothing" if not pairs else "key" if pairs is by_key else "file stem"
    tiles = list(generated)
    for real, made in pairs:
        tiles[made] = complete(generated[made], reference[real])
    in_reference, in_generated = {real for real, _ in pairs}, {made for _, made in pairs}
    only_reference = [t.key for i, t in enumerate(reference) if i not in in_reference]
    only_generated = [t.key for i, t in enumerate(generated) if i not in in_generated]
    return Pairing(
        paired_by=paired_by,
        pairs=pairs,
        only_reference=tuple(only_reference),
        only_generated=tuple(only_generated),
        tiles=tuple(tiles),
        notes=(
            _count(paired_by, len(pairs), len(only_reference), len(only_generated)),
            *_contradictions([(reference[real], generated[made]) for real, made in pairs]),
        ),
    )


def file_stem(tile: ScoredTile) -> str | None:
    """Name of a tile's image without folders, suffix and mark of generated images.

    It is that of the record's own file, else the last part of the key; ``None`` for a tile that is
    cut from a file with others.
    """
    name = tile.key
    if tile.record is not None and tile.record.image_path is not None:
        if tile.record.window_px is not None:
            return None
        name = tile.record.image_path
    return plain_stem(name).rsplit("/", 1)[-1]


def complete(generated: ScoredTile, reference: ScoredTile) -> ScoredTile:
    """A generated tile under the key of its real one, with what it does not know; see `pair`."""
    found = contradictions(reference, generated)
    changed = [name for name in CLIMATE if _differs(name, reference, generated)]
    known = [] if {"month", "position"} & set(found) else list(CLIMATE)
    same = [name for name in known if name not in changed]
    differs = bool(found or changed)
    return replace(
        generated,
        key=reference.key,
        place=_first(reference.place, generated.place),
        month=_first(generated.month, reference.month),
        lat=_first(generated.lat, reference.lat),
        lon=_first(generated.lon, reference.lon),
        land_cover=_first(generated.land_cover, reference.land_cover),
        land_frac=_first(generated.land_frac, reference.land_frac),
        climate=_merge(generated.climate, reference.climate, known),
        history=_merge(generated.history, reference.history, same),
        normals=_merge(generated.normals, reference.normals, same),
        climate_kind=generated.climate_kind if generated.climate else reference.climate_kind,
        caption=_first(generated.caption, None if differs else reference.caption),
        split=reference.split if generated.split == "unassigned" else generated.split,
        record=_first(generated.record, None if differs else reference.record),
    )


def contradictions(reference: ScoredTile, generated: ScoredTile) -> list[str]:
    """What both tiles know and differ in: ``month``, ``land cover``, ``position``."""
    found = []
    if None not in (reference.month, generated.month) and reference.month != generated.month:
        found.append("month")
    covers = (reference.land_cover, generated.land_cover)
    if None not in covers and covers[0] != covers[1]:
        found.append("land cover")
    for a, b in ((reference.lat, generated.lat), (reference.lon, generated.lon)):
        if a is not None and b is not None and abs((a - b + 180) % 360 - 180) > SAME_PLACE_DEG:
            found.append("position")
    return list(dict.fromkeys(found))


def _differs(name: str, reference: ScoredTile, generated: ScoredTile) -> bool:
    """Whether both know a climate variable, and differ by more than it is written with."""
    a, b = reference.climate.get(name), generated.climate.get(name)
    tolerance = 0.5 * 10.0 ** -CLIMATE[name].decimals
    return a is not None and b is not None and not math.isclose(a, b, abs_tol=tolerance)


def _check_keys(tiles: Sequence[ScoredTile]) -> None:
    """Refuse a set in which a key stands twice."""
    repeated = [key for key, num in Counter(tile.key for tile in tiles).items() if num > 1]
    if repeated:
        raise RequestError(
            f"The key {repeated[0]!r} stands for several images of a set (and {len(repeated) - 1} "
            "more such keys). Expected one image a key; give them different keys."
        )


def _match(
    reference: Sequence[str | None], generated: Sequence[str | None]
) -> tuple[tuple[int, int], ...]:
    """Positions of equal names that occur once on either side, in the generated order."""
    once = {name for name, num in Counter(generated).items() if num == 1 and name is not None}
    counts = Counter(reference)
    position = {name: i for i, name in enumerate(reference) if name in once and counts[name] == 1}
    return tuple((position[name], i) for i, name in enumerate(generated) if name in position)


def _first(first: _T | None, second: _T | None) -> _T | None:
    """The first that is known."""
    return second if first is None else first


def _merge(own: Mapping[str, _T], other: Mapping[str, _T], names: Sequence[str]) -> dict[str, _T]:
    """Own values, and the other's of some names that it does not know."""
    added = {name: other[name] for name in names if name in other and name not in own}
    return {**own, **added}


def _count(paired_by: PairedBy, num: int, num_reference: int, num_generated: int) -> str:
    """How many pair."""
    if not num:
        return (
            f"No name of {num_generated} generated images is that of one of {num_reference} real "
            "ones, neither as key nor as file: only distributions are compared."
        )
    return (
        f"{num} generated images pair with their real ones by {paired_by}; {num_generated} "
        f"generated and {num_reference} real ones have no partner."
    )


def _contradictions(pairs: Sequence[tuple[ScoredTile, ScoredTile]]) -> list[str]:
    """How many pairs differ in what they should share."""
    counts = Counter(what for real, made in pairs for what in contradictions(real, made))
    return [
        f"{num} of {len(pairs)} pairs differ in {what}: the generated images keep their own."
        for what, num in counts.items()
    ]
