"""Sets of images that are made of other images when they are read: retrieved frames and means."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import ImageError
from ecomap.image_subsets import signature_of
from ecomap.tiles import Frame, ImageSet, ScoredTile, SetKind

MAX_FRAMES = 500
"""Frames that a mean is taken of, evenly spread over those that count: it is then known to a
22nd of their standard deviation, and its cost does not grow with the dataset."""

Sums = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Sum over frames and number of frames, by pixel."""


@dataclass(kw_only=True)
class Baseline(ABC):
    """An `ecomap.tiles.ImageSet` that says whom it cannot serve."""

    name: str
    description: str
    history: ImageSet
    tiles: Sequence[ScoredTile]
    """Targets that it can serve, in an order that suits its reading."""
    unserved: dict[str, list[str]] = field(default_factory=dict)
    """Keys of the other targets, by reason."""
    fallbacks: dict[str, list[str]] = field(default_factory=dict)
    """Keys of targets that are served less well than the description says, by reason."""
    kind: SetKind = "baseline"

    @abstractmethod
    def read(self, index: int) -> Frame:
        """Image of ``tiles[index]``."""


@dataclass(kw_only=True)
class RealFrame(Baseline):
    """A real frame of another month or place stands for each tile."""

    sources: Sequence[int]
    """Position in the history of the frame of each tile."""

    def read(self, index: int) -> Frame:
        """Frame that stands for ``tiles[index]``.

        Raises:
            ImageError: If that frame cannot be scored.
        """
        return self.history.read(self.sources[index])

    def signature(self, index: int) -> str | None:
        """What tells the frame from others; ``None`` where that is not known."""
        return signature_of(self.history, self.sources[index])


@dataclass(kw_only=True)
class MeanFrame(Baseline):
    """The mean of some real frames stands for each tile."""

    groups: Sequence[str]
    """Group of each tile; tiles of a group stand one after the other."""
    members: dict[str, list[int]]
    """Positions in the history of the frames of each group; the tile's own is left out."""
    is_flat: bool = False
    """Whether all pixels get their mean."""
    left_out: dict[str, set[str]] = field(default_factory=dict)
    """Keys of frames that no mean could use, by reason, as far as images were read here."""
    _signed: tuple[str, str | None] | None = field(default=None, init=False, repr=False)
    _held: tuple[str, dict[str, Sums]] | None = field(default=None, init=False, repr=False)

    def read(self, index: int) -> Frame:
        """Mean for ``tiles[index]``, over the frames in which a pixel is valid.

        Raises:
            ImageError: If none of the frames can be scored.
        """
        group, tile = self.groups[index], self.tiles[index]
        if self._held is None or self._held[0] != group:
            self._held = group, self._add_up(self.members[group])
        sums = self._held[1]
        own = [i for i in self.members[group] if is_same_tile(self.history.tiles[i], tile)]
        for name, (total, count) in self._add_up(own).items():
            sums = sums | {name: (sums[name][0] - total, sums[name][1] - count)}
        if "rgb" not in sums or not sums["rgb"][1].any():
            raise ImageError(
                "no frame for the mean",
                f"None of the {len(self.members[group])} frames behind {self.name} can be scored "
                f"for {tile.key}. Expected one at least; see what is wrong with the real frames.",
            )
        return _mean_frame(sums, is_flat=self.is_flat)

    def signature(self, index: int) -> str | None:
        """Hash of what tells its frames from others; ``None`` where that is not known."""
        group = self.groups[index]
        if self._signed is None or self._signed[0] != group:
            parts = [signature_of(self.history, i) for i in self.members[group]]
            digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
            self._signed = group, None if None in parts else digest
        return self._signed[1]

    def _add_up(self, members: Sequence[int]) -> dict[str, Sums]:
        """Sums of ``rgb`` and of each band over frames; frames that cannot be read are noted."""
        sums: dict[str, Sums] = {}
        for index in members:
            try:
                frame = self.history.read(index)
            except ImageError as error:
                self.left_out.setdefault(error.reason, set()).add(self.history.tiles[index].key)
                continue
            shown = np.where(frame.valid[..., None], frame.rgb, np.nan)
            for name, values in {"rgb": shown, **frame.bands}.items():
                known = np.isfinite(values)
                total, count = sums.get(name, (0.0, 0.0))
                sums[name] = (total + np.where(known, values, 0).astype(np.float64), count + known)
        return sums

    def __getstate__(self) -> dict[str, Any]:
        """Sums do not travel between processes."""
        return self.__dict__ | {"_held": None}


def _mean_frame(sums: dict[str, Sums], *, is_flat: bool) -> Frame:
    """Quotient of sums; a pixel without any frame is not valid."""
    means = {}
    for name, (total, count) in sums.items():
        if is_flat:
            flat_total, flat_count = (
                values.sum((0, 1), keepdims=True) for values in (total, count)
            )
            total = np.broadcast_to(flat_total, total.shape)
            count = np.broadcast_to(flat_count, count.shape)
        means[name] = np.full(total.shape, np.nan)
        np.divide(total, count, out=means[name], where=count > 0)
    rgb = means.pop("rgb")
    valid = np.isfinite(rgb).all(-1)
    return Frame(
        rgb=np.rint(np.where(valid[..., None], rgb, 0)).astype(np.uint8),
        valid=valid,
        bands={name: values.astype(np.float32) for name, values in means.items()},
    )


def is_same_tile(a: ScoredTile, b: ScoredTile) -> bool:
    """Whether two tiles are one: by their keys, or by place and month where both know them."""
    is_known = None not in (a.place, a.month)
    return a.key == b.key or (is_known and (a.place, a.month) == (b.place, b.month))


def thin(members: Sequence[int]) -> list[int]:
    """At most `MAX_FRAMES` of them, evenly spread, first and last among them."""
    num = min(len(members), MAX_FRAMES)
    return [members[i] for i in np.linspace(0, len(members) - 1, num).round().astype(int)]
