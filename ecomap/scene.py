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
from ecomap.controls import EDGE_CHANNELS, cell_means, edge_cells
from ecomap.denoiser import ControlBranch, Denoiser
from ecomap.errors import RequestError
from ecomap.evolution import EvolveSettings, change_cells
from ecomap.kept_detail import MARGIN_PX, kept_pixels, put_back, restore_detail
from ecomap.large_images import decode_large, encode_large
from ecomap.latents import to_image, to_pixels
from ecomap.model import Bundle
from ecomap.request import known_to
from ecomap.sample import prompt_of
from ecomap.scene_records import has_own_climates, window_record
from ecomap.schema import TileRecord
from ecomap.solver import SOLVERS, guide, make_sigmas
from ecomap.starts import (
    EncodedStarts,
    Start,
    control_of,
    control_spec,
    fill_missing,
    known_months,
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
    source = _source_cells(start, cells)
    no_pixels = {name: latents.new_zeros(0) for name in ("lost", "seen", "there")}
    whole = EncodedStarts(
        records=[known_months(start, bundle.card)], latents=latents[None], valid=valid[None],
        source=source[None], edges={}, **no_pixels,
    )  # fmt: skip
    encoded = EncodedStarts(
        records=parts,
        latents=cut(latents, places, side),
        valid=cut(valid, places, side),
        source=cut(source, places, side),
        **no_pixels,
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
        scene = _Windows(
            bundle, encoded, told, places, settings, height_m,
            has_own_climates=has_own_climates(start.record),
        )  # fmt: skip
        noise = noise_field(seed, latents.shape[0], *cells, side=side).to(latents)
        made = decode_large(bundle.vae, scene.sample(noise), size_px=size_px)
        if settings.keep_detail and settings.control_scale:
            change = change_cells(whole, [0], [known_to(target, bundle.card) or target])
            made = _with_detail(made, seen, start, change)
        yield made


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
    made: NDArray[np.uint8], seen: NDArray[np.uint8], start: Start, change: Tensor
) -> NDArray[np.uint8]:
    """A frame with what stays of its start, a strip of rows at a time."""
    frame = made.copy()
    keep = kept_pixels(change, torch.from_numpy(start.valid)[None, None])
    for first in range(0, len(made), STRIP_PX):
        top, bottom = max(0, first - MARGIN_PX), first + STRIP_PX + MARGIN_PX
        rows = slice(top, bottom)
        pixels, round_trip, real = (
            to_pixels(torch.from_numpy(np.array(image[rows][None])))
            for image in (made, seen, start.image)
        )
        lost = (real - round_trip) * torch.from_numpy(start.valid[rows])
        mended = put_back(restore_detail(pixels, round_trip, lost), real, keep[:, :, rows])
        restored = to_image(mended)[0].numpy()
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
        *,
        has_own_climates: bool,
    ) -> None:
        self.bundle, self.encoded, self.told = bundle, encoded, told
        self.places, self.settings = list(places), settings
        self.side = encoded.latents.shape[-1]
        self.height_m, self.has_own_climates = height_m, has_own_climates
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
        velocity = guide(denoiser.predict_pair, scale)(windows.to(self.bundle.device), sigma)
        return velocity.to(windows)

    def _heights(self, row: int, column: int) -> NDArray[np.float64]:
        """Heights of a window above the ground that its climate is of."""
        assert self.height_m is not None
        own = self.height_m[row : row + self.side, column : column + self.side]
        return own - own.mean() if self.has_own_climates else own

    def _open(self, index: list[int]) -> Denoiser:
        """What predicts some windows."""
        spec, encoded = control_spec(self.bundle), self.encoded
        told = [self.told[i] for i in index]
        heights = None
        if self.height_m is not None:
            heights = [self._heights(*self.places[i]) for i in index]
        controls = [
            control_of(
                spec, encoded, [i], [record], height_m=None if heights is None else heights[k]
            )
            for k, (i, record) in enumerate(zip(index, told, strict=True))
        ]
        branch = ControlBranch(
            control=torch.cat(controls),
            scale=self.settings.control_scale,
            change=change_cells(encoded, index, told) if self.settings.control_scale else None,
        )
        texts = [prompt_of(record) for record in told]
        return Denoiser(self.bundle, told, texts, doors=self.doors, branch=branch)


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
