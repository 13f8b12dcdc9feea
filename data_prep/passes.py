"""A pass over a tile: the classes and bands of its scenes, mosaicked.

Scenes of one pass are neighbouring squares of the grid, which overlap, and strips received at
different stations. Each is corrected by its own offset before pixels are put together; where two
have a pixel, it is of the first in this order: scenes in the tile's own zone, then those that cover
more of it, then those processed with a newer baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from data_prep.place import Place
from data_prep.prep_config import ImageryConfig
from data_prep.providers import PROVIDERS, SCENE_CLASSES
from data_prep.radiometry import (
    OFFSET_BASELINE,
    Offset,
    baseline_of,
    check_offset,
    resolve_offset,
)
from data_prep.regrid import class_grid, first_valid
from data_prep.remote import Access, ReadError, access_to
from data_prep.scene import Scene
from data_prep.scl import TileStats, shared_class, tile_stats
from data_prep.tile_reader import read_classes, read_scene
from ecomap.imagery import RGB_BANDS


@dataclass(frozen=True, kw_only=True, eq=False)
class PassClasses:
    """What the classes of a pass say."""

    scenes: tuple[Scene, ...]
    """Those that give pixels, the first before the others."""
    layers: tuple[NDArray[np.uint8], ...]
    """Classes of each scene on the tile's `class_grid`, ``(H, W)``, 0 = no data."""
    stats: TileStats
    """Of all together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PassBands:
    """Bands of a pass on the tile's grid."""

    values: NDArray[np.uint16]
    """Digital numbers after the offset, ``(bands, H, W)``, 0 = no data."""
    offsets: tuple[Offset, ...]
    """One a scene."""
    flags: frozenset[str]
    """Flags of `check_offset` of any scene, and ``mixed_offsets`` where the values differ."""


class PassReader:
    """Reads passes over one tile and remembers what could not be read.

    A scene that is damaged for good is passed over. A failure that may pass is raised.

    Args:
        place: The tile.
        bands: Bands to read, red, green and blue among them.
        config: Provider, limits.
    """

    def __init__(self, place: Place, bands: Sequence[str], config: ImageryConfig) -> None:
        self._place = place
        self._class_grid = class_grid(place.geobox)
        self._bands = tuple(bands)
        self._config = config
        self.errors: list[ReadError] = []
        """One for each scene that was passed over."""
        self.problems: list[str] = []
        """The same in words, with the scene's name."""

    def read_classes(self, scenes: Sequence[Scene]) -> PassClasses | None:
        """Read the classes of a pass, scene by scene until the tile is full.

        Returns:
            None where no scene could be read.

        Raises:
            ReadError: If reading may succeed later.
        """
        used: list[Scene] = []
        layers: list[NDArray[np.uint8]] = []
        is_empty = np.ones(self._class_grid.shape, bool)
        is_readable = False
        for scene in sorted(scenes, key=self._order):
            layer = self._read_class_layer(scene)
            is_readable |= layer is not None
            if layer is not None and (is_empty & (layer > 0)).any():
                used.append(scene)
                layers.append(layer)
                is_empty &= layer == 0
            if not is_empty.any():
                break
        if not is_readable:
            return None
        classes = first_valid(layers) if layers else np.zeros(is_empty.shape, np.uint8)
        stats = tile_stats(classes.astype(np.uint8))
        return PassClasses(scenes=tuple(used), layers=tuple(layers), stats=stats)

    def read_bands(self, classes: PassClasses) -> PassBands | None:
        """Read the bands of a pass, each scene corrected by its own offset.

        Returns:
            None where one of them is damaged.

        Raises:
            ReadError: If reading may succeed later.
            DataError: If a scene's metadata contradict themselves.
        """
        layers: list[NDArray[np.uint16]] = []
        offsets: list[Offset] = []
        flags: set[str] = set()
        visible = [self._bands.index(band) for band in RGB_BANDS]
        for scene, scene_classes in zip(classes.scenes, classes.layers, strict=True):
            offset = resolve_offset(scene)
            try:
                layer = read_scene(
                    scene.assets,
                    self._bands,
                    self._place.geobox,
                    offset=offset.value,
                    classes=scene_classes if _may_be_clipped(scene, offset) else None,
                    collection=scene.collection,
                    access=self._access(scene),
                )
            except ReadError as error:
                self._pass_over(scene, error)
                return None
            layers.append(layer)
            offsets.append(offset)
            num = len(scene_classes) // self._place.size_px
            flags.update(check_offset(layer[visible], shared_class(scene_classes, num), offset))
        if len({offset.value for offset in offsets}) > 1:
            flags.add("mixed_offsets")
        values = first_valid(layers).astype(np.uint16)
        return PassBands(values=values, offsets=tuple(offsets), flags=frozenset(flags))

    def _read_class_layer(self, scene: Scene) -> NDArray[np.uint8] | None:
        """Classes of a scene; None where it is damaged."""
        try:
            return read_classes(
                scene.assets[SCENE_CLASSES],
                self._class_grid,
                collection=scene.collection,
                access=self._access(scene),
            )
        except ReadError as error:
            self._pass_over(scene, error)
            return None

    def _pass_over(self, scene: Scene, error: ReadError) -> None:
        """Note a scene that is damaged for good; raise what may pass."""
        if error.retryable:
            raise error
        self.errors.append(error)
        self.problems.append(f"{scene.item_id}: {error}")

    def _order(self, scene: Scene) -> tuple[bool, float, float, str]:
        """Key by which the scenes of a pass are asked for pixels."""
        covered = float(scene.footprint.intersection(self._place.footprint).area)
        is_foreign = scene.crs != self._place.crs
        return (is_foreign, -covered, -(baseline_of(scene) or 0.0), scene.item_id)

    def _access(self, scene: Scene) -> Access:
        """How a scene's files are reached; tokens come from the host of the catalogue."""
        provider = PROVIDERS[scene.provider]
        token_url = None
        if provider.signs == "planetary-computer":
            host = urlsplit(self._config.url or provider.url or "")
            token_url = f"{host.scheme}://{host.netloc}/api/sas/v1/token"
        return access_to(
            token_url=token_url,
            timeout_s=self._config.timeout_s,
            num_retries=self._config.num_retries,
        )


def _may_be_clipped(scene: Scene, offset: Offset) -> bool:
    """Whether zeros of a scene may be dark pixels, from which the provider subtracted the offset.

    Elsewhere zero means no data: what is valid was published as 1 at least.
    """
    baseline = baseline_of(scene)
    return offset.value == 0 and (baseline is None or baseline >= OFFSET_BASELINE)
