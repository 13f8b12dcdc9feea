"""Scenes larger than the model's images: overlapping windows that agree on what they share.

All windows of a scene are denoised together. At every step each window is predicted alone, and
where windows overlap their velocities are averaged, so that one image comes out and no seam
(Bar-Tal et al., 2023, MultiDiffusion, https://arxiv.org/abs/2302.08113). Noise belongs to the
ground, not to the window. Memory grows with the scene, not with its windows or months.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.climate import at_level
from ecomap.controls import EDGE_CHANNELS, cell_means, edge_cells
from ecomap.denoiser import ControlBranch, Denoiser
from ecomap.errors import RequestError
from ecomap.evolution import DETAIL_WIDTH_PX, EvolveSettings, change_cells, restore_detail
from ecomap.large_images import decode_large, encode_large
from ecomap.latents import to_image, to_pixels
from ecomap.model import Bundle
from ecomap.normals import footprint_of, open_normals
from ecomap.request import known_to
from ecomap.sample import prompt_of
from ecomap.schema import TileRecord
from ecomap.solver import SOLVERS, guide, make_sigmas
from ecomap.starts import (
    EncodedStarts,
    Start,
    control_of,
    control_spec,
    fill_missing,
    source_cells,
)
from ecomap.windows import blended_velocity, cut, feather, noise_field, plan_windows

STRIP_PX = 512
"""Rows whose detail is restored at a time."""

KEPT_BATCHES = 64
"""Batches of windows whose encoded conditions stay in memory during a frame."""


@torch.inference_mode()
def evolve_scene(
    bundle: Bundle,
    start: Start,
    targets: Sequence[TileRecord],
    *,
    seeds: Sequence[int],
    settings: EvolveSettings,
    height_m: NDArray[np.float64] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Take a scene to other months and climates, a frame at a time.

    Args:
        bundle: With a ControlNet that reads references.
        start: At least as large as the model's images; sizes need not be multiples of anything.
        targets: Month and climate of each frame; place and size are the start's.
        seeds: One a frame.
        settings: How.
        height_m: Height of each latent cell above the mean of the scene, metres.

    Yields:
        uint8 ``(H, W, 3)``.

    Raises:
        RequestError: If the scene is smaller than the model's images.
    """
    spec = control_spec(bundle)
    side_px = bundle.card.image_size_px
    height, width = start.image.shape[:2]
    require_size(bundle, start)
    filled = fill_missing(start.image, start.valid)
    latents = encode_large(bundle.vae, filled)
    cells = (latents.shape[1], latents.shape[2])
    valid = _valid_cells(start.valid, cells).to(latents)
    side = side_px // LATENT_FACTOR
    places = plan_windows(*cells, side, round(side * settings.overlap))
    parts = [
        tuple(_known(record, place, side_px, bundle) for record in start.records)
        for place in places
    ]
    encoded = EncodedStarts(
        records=parts,
        latents=cut(latents, places, side),
        valid=cut(valid, places, side),
        source=cut(_source_cells(start, cells).to(latents.device), places, side),
        lost=latents.new_zeros(0),
        seen=latents.new_zeros(0),
        edges={
            name: cut(edge_cells(name, _padded(filled, cells)[None])[0].to(latents), places, side)
            for name in spec.channels
            if name in EDGE_CHANNELS
        },
    )
    size_px = (height, width)
    seen = decode_large(bundle.vae, latents, size_px=size_px)
    for target, seed in zip(targets, seeds, strict=True):
        told = [_known(target, place, side_px, bundle) for place in places]
        scene = _Windows(bundle, encoded, told, places, settings, height_m)
        noise = noise_field(seed, latents.shape[0], *cells, side=side).to(latents)
        made = decode_large(bundle.vae, scene.sample(noise), size_px=size_px)
        yield _with_detail(made, seen, start) if settings.keep_detail else made


def require_size(bundle: Bundle, start: Start) -> None:
    """Refuse a start that is smaller than the model's images.

    Raises:
        RequestError: If it is.
    """
    side_px = bundle.card.image_size_px
    height, width = start.image.shape[:2]
    if min(height, width) < side_px:
        raise RequestError(
            f"The start is {width} x {height} px; {bundle.name} makes images of {side_px} px. Give "
            "a start of at least that size."
        )


def _with_detail(
    made: NDArray[np.uint8], seen: NDArray[np.uint8], start: Start
) -> NDArray[np.uint8]:
    """A frame with what the autoencoder lost of its start, a strip of rows at a time."""
    frame = made.copy()
    for first in range(0, len(made), STRIP_PX):
        top, bottom = max(0, first - DETAIL_WIDTH_PX), first + STRIP_PX + DETAIL_WIDTH_PX
        rows = slice(top, bottom)
        pixels, round_trip, real = (
            to_pixels(torch.from_numpy(np.array(image[rows][None])))
            for image in (made, seen, start.image)
        )
        lost = (real - round_trip) * torch.from_numpy(start.valid[rows])
        restored = to_image(restore_detail(pixels, round_trip, lost))[0].numpy()
        frame[first : first + STRIP_PX] = restored[first - top : first - top + STRIP_PX]
    return frame


class _Windows:
    """All windows of a frame, as one prediction."""

    def __init__(
        self,
        bundle: Bundle,
        encoded: EncodedStarts,
        told: Sequence[TileRecord],
        places: Sequence[tuple[int, int]],
        settings: EvolveSettings,
        height_m: NDArray[np.float64] | None,
    ) -> None:
        self.bundle, self.encoded, self.told = bundle, encoded, told
        self.places, self.settings = list(places), settings
        self.side = encoded.latents.shape[-1]
        self.height_m = height_m
        self.doors = bundle.card.doors if settings.doors is None else settings.doors
        self._kept: dict[int, Denoiser] = {}

    def sample(self, noise: Tensor) -> Tensor:
        """Latents of the scene ``(C, H, W)`` from its noise."""
        settings, bundle = self.settings, self.bundle
        weights = feather(self.side, round(self.side * settings.overlap)).to(noise)

        def predict(latents: Tensor, sigma: float) -> Tensor:
            return blended_velocity(
                self._window_velocity, latents[0], sigma, self.places, weights,
                settings.batch_size,
            )[None]  # fmt: skip

        sigmas = make_sigmas(settings.steps, bundle.shift)
        return SOLVERS[settings.solver](predict, noise[None], sigmas)[0]

    def _window_velocity(self, windows: Tensor, index: Sequence[int], sigma: float) -> Tensor:
        """Velocities of some windows ``(N, C, side, side)``."""
        first = index[0]
        denoiser = self._kept.get(first)
        if denoiser is None:
            denoiser = self._open(list(index))
            if len(self._kept) < KEPT_BATCHES:
                self._kept[first] = denoiser
        scale = self.settings.guidance if self.doors else 1.0
        return guide(denoiser.predict_pair, scale)(windows, sigma)

    def _open(self, index: list[int]) -> Denoiser:
        """What predicts some windows."""
        spec, encoded = control_spec(self.bundle), self.encoded
        told = [self.told[i] for i in index]
        heights = None
        if self.height_m is not None:
            heights = [
                self.height_m[row : row + self.side, column : column + self.side]
                for row, column in (self.places[i] for i in index)
            ]
        controls = [
            control_of(
                spec, encoded, [i], [record], height_m=None if heights is None else heights[k]
            )
            for k, (i, record) in enumerate(zip(index, told, strict=True))
        ]
        branch = ControlBranch(
            control=torch.cat(controls),
            scale=self.settings.control_scale,
            change=change_cells(encoded, index, told),
        )
        texts = [prompt_of(record) for record in told]
        return Denoiser(self.bundle, told, texts, doors=self.doors, branch=branch)


def window_record(record: TileRecord, row_px: int, column_px: int, side_px: int) -> TileRecord:
    """Record of a window of a scene, with the climate of its own ground.

    Args:
        record: Of the scene.
        row_px: First row; a window that reaches beyond the scene is moved with it.
        column_px: First column.
        side_px: Side of the window.

    Returns:
        The scene's record with place, size and transform of the window. Where the scene is wider
        than a cell of the table of normals, its climate differs from the scene's as the normals
        of both do; land cover stays the scene's.
    """
    lat_deg, lon_deg = footprint_of(record)
    down = (row_px + side_px / 2) / record.height_px - 0.5
    right = (column_px + side_px / 2) / record.width_px - 0.5
    update: dict[str, Any] = {
        "lat": record.lat - down * lat_deg,
        "lon": (record.lon + right * lon_deg + 180) % 360 - 180,
        "width_px": side_px,
        "height_px": side_px,
    }
    if record.transform is not None:
        a, b, c, d, e, f = record.transform
        origin = (a * column_px + b * row_px + c, d * column_px + e * row_px + f)
        update["transform"] = (a, b, origin[0], d, e, origin[1])
    window = record.model_copy(update=update)
    if max(lat_deg, lon_deg) < open_normals().cell_deg:
        return window
    return _with_own_climate(record, window)


def _with_own_climate(scene: TileRecord, window: TileRecord) -> TileRecord:
    """A window whose climate is moved from the scene's by the difference of their normals."""
    table, update = open_normals(), {}
    of_scene = table.climate(scene.lat, scene.lon, footprint_of(scene))
    of_window = table.climate(window.lat, window.lon, footprint_of(window))
    for name, own in of_window.items():
        for suffix in ("", "_history", "_normals"):
            old = getattr(scene, f"{name}{suffix}")
            if old is None:
                continue
            values = old if isinstance(old, tuple) else (old,)
            start = {"": scene.month_index, "_normals": 0, "_history": scene.month_index}[suffix]
            moved = [
                _moved(name, v, of_scene[name][(start + i) % 12], own[(start + i) % 12])
                for i, v in enumerate(values)
            ]
            update[f"{name}{suffix}"] = tuple(moved) if isinstance(old, tuple) else moved[0]
    land = table.land_frac(window.lat, window.lon, footprint_of(window))
    return window.model_copy(update=update | {"land_frac": land})


def _moved(name: str, value: float | None, level: float, own: float) -> float | None:
    """A value under another normal."""
    return None if value is None else float(at_level(name, value, level, own))


def _known(record: TileRecord, place: tuple[int, int], side_px: int, bundle: Bundle) -> TileRecord:
    """A record on the ground of a window, as far as the model knows it."""
    row, column = place
    window = window_record(record, row * LATENT_FACTOR, column * LATENT_FACTOR, side_px)
    return known_to(window, bundle.card) or window


def _valid_cells(valid: NDArray[np.bool_], cells: tuple[int, int]) -> Tensor:
    """Share of valid pixels of each cell ``(1, h, w)``."""
    return cell_means(_padded(valid, cells)[None])[0]


def _source_cells(start: Start, cells: tuple[int, int]) -> Tensor:
    """Which month each cell shows ``(1, h, w)``."""
    if start.source is None:
        return torch.zeros(1, *cells, dtype=torch.int64)
    whole = Start(
        record=start.record, others=start.others, image=_padded(start.image, cells),
        hidden=_padded(~start.valid, cells), source=_padded(start.source, cells),
    )  # fmt: skip
    return source_cells(whole)[0]


def _padded(values: NDArray[Any], cells: tuple[int, int]) -> NDArray[Any]:
    """Pixels of a scene, continued by its last ones to whole cells."""
    missing = [
        (0, cell * LATENT_FACTOR - size) for cell, size in zip(cells, values.shape, strict=False)
    ]
    return np.pad(values, [*missing, *[(0, 0)] * (values.ndim - 2)], mode="edge")
