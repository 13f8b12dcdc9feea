"""Parts and unions of image sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ecomap.tiles import Frame, ImageSet, ScoredTile, SetKind


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Some images of a set, under tiles that may have other keys and say more."""

    base: ImageSet
    indices: tuple[int, ...]
    """Image of each tile, in ``base``."""
    tiles: Sequence[ScoredTile]
    name: str
    kind: SetKind
    description: str

    def read(self, index: int) -> Frame:
        """Image of ``tiles[index]``."""
        return self.base.read(self.indices[index])


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Sets one after the other."""

    parts: tuple[ImageSet, ...]
    name: str
    kind: SetKind
    description: str

    @cached_property
    def tiles(self) -> Sequence[ScoredTile]:
        """Tiles of all parts."""
        return [tile for part in self.parts for tile in part.tiles]

    def read(self, index: int) -> Frame:
        """Image of ``tiles[index]``."""
        part, index = self.find(index)
        return part.read(index)

    def find(self, index: int) -> tuple[ImageSet, int]:
        """Part that ``tiles[index]`` is in, and its position there."""
        for part in self.parts:
            if index < len(part.tiles):
                return part, index
            index -= len(part.tiles)
        raise IndexError(index)


def signature_of(images: ImageSet, index: int) -> str | None:
    """What tells an image from any other content of the same place, None where it is not known.

    A set may have a method ``signature(index)``, such as path, size and time of change of a file.
    """
    if isinstance(images, Subset):
        return signature_of(images.base, images.indices[index])
    if isinstance(images, Joined):
        part, index = images.find(index)
        return signature_of(part, index)
    signature = getattr(images, "signature", None)
    found = None if signature is None else signature(index)
    return None if found is None else str(found)


def take(
    base: ImageSet,
    indices: Sequence[int],
    *,
    tiles: Sequence[ScoredTile] | None = None,
    name: str | None = None,
    kind: SetKind | None = None,
    description: str | None = None,
) -> Subset:
    """Images of a set by their positions; what is not given stays that of the set."""
    return Subset(
        base=base,
        indices=tuple(indices),
        tiles=[base.tiles[index] for index in indices] if tiles is None else tiles,
        name=base.name if name is None else name,
        kind=base.kind if kind is None else kind,
        description=base.description if description is None else description,
    )
