"""Images too large to encode or decode at once: the same result, block by block.

Blocks with a halo as wide as the receptive field would do, were it not for the group
normalisations of Stable Diffusion's autoencoders: each takes mean and variance over the whole
image, so that every pixel depends on every other, whatever the halo. Here an image therefore
passes the network in stages of one residual block each. Every stage runs block by block with a
halo of its own receptive field; moments of each normalisation are gathered over all blocks before
the stage's output is computed. What comes out equals encoding or decoding at once up to rounding,
at about twice the convolutions. What one stage leaves to the next lies on disk.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.errors import BundleError, DataError
from ecomap.latents import to_image, to_pixels
from ecomap.windows import Block, Place, plan_blocks

SIDE_PX = 128
"""Side of a block at each stage, at that stage's resolution."""
HALO_PX = 8
"""What a stage may see beyond a block: a convolution (1), a residual block (2) and one that halves
the resolution (2) reach 5; an even number keeps pairs of pixels together."""

Stage = tuple[nn.Module, ...]
Part = tuple[slice, slice, Tensor]
"""Rows and columns of a stage's output, and its values there ``(1, C, h, w)``."""
Moments = tuple[Tensor, Tensor]
"""Mean and variance of each group."""


@dataclass(frozen=True)
class _Map:
    """What a stage reads: part ``(1, C, h, w)`` of a map of a size, from memory or disk."""

    size: Place
    read: Callable[[slice, slice], Tensor]


@torch.no_grad()
def encode_large(
    vae: AutoencoderKL, image: np.ndarray, *, side_px: int = SIDE_PX, scratch: Path | None = None
) -> Tensor:
    """Encode an image of any size; `ecomap.latents.encode` block by block.

    Args:
        vae: Stable Diffusion's kind of autoencoder. Attention in its middle, which ours lacks, is
            not split: its cost grows with the square of the image.
        image: uint8 ``(H, W, 3)``. Sides that are no multiples of 8 are continued by reflection.
        side_px: Side of a block, even; an image of one block is encoded at once.
        scratch: Folder for intermediate maps, by default the system's for temporary files, which
            must not be in memory. What two stages hold lies there in float32, gone afterwards.

    Returns:
        Scaled latents ``(C, ceil(H / 8), ceil(W / 8))``, float32, on the CPU.

    Raises:
        BundleError: If the autoencoder is of another kind.
    """
    shift, scale = _factors(vae)
    padding = [(0, -length % LATENT_FACTOR) for length in image.shape[:2]]
    padded = np.pad(image, [*padding, (0, 0)], mode="reflect")

    def read(rows: slice, columns: slice) -> Tensor:
        return to_pixels(torch.from_numpy(padded[None, rows, columns].copy()))

    parts = _run(vae, _encoder_stages(vae), _Map(padded.shape[:2], read), side_px, scratch)
    channels = int(vae.config.latent_channels)
    latents = torch.empty(channels, *(length // LATENT_FACTOR for length in padded.shape[:2]))
    for rows, columns, moments in parts:
        latents[:, rows, columns] = (moments[0, :channels].float() - shift) * scale
    return latents


@torch.no_grad()
def decode_large(
    vae: AutoencoderKL,
    latents: Tensor,
    *,
    size_px: Place | None = None,
    side_px: int = SIDE_PX,
    scratch: Path | None = None,
) -> np.ndarray:
    """Decode latents of any size; `ecomap.latents.decode` and `to_image` block by block.

    Args:
        vae: As for `encode_large`.
        latents: Scaled ``(C, h, w)``.
        size_px: Height and width to cut the image to, such as those of the image that was encoded.
        side_px: As for `encode_large`.
        scratch: As for `encode_large`; ``8 C`` bytes a pixel for ``C`` channels at the end.

    Returns:
        uint8 ``(H, W, 3)``, at most ``(8 h, 8 w)``.

    Raises:
        BundleError: As `encode_large`.
    """
    height, width = latents.shape[1:]
    shift, scale = _factors(vae)
    unscaled = latents.float() / scale + shift

    def read(rows: slice, columns: slice) -> Tensor:
        return unscaled[None, :, rows, columns]

    image = np.empty((height * LATENT_FACTOR, width * LATENT_FACTOR, 3), np.uint8)
    parts = _run(vae, _decoder_stages(vae), _Map((height, width), read), side_px, scratch)
    for rows, columns, pixels in parts:
        image[rows, columns] = to_image(pixels.float())[0].cpu().numpy()
    return image if size_px is None else image[: size_px[0], : size_px[1]]


def _factors(vae: Any) -> tuple[float, float]:
    """Shift and scale of an autoencoder that has the stages of this module."""
    if not isinstance(vae, AutoencoderKL):
        raise BundleError(
            f"{type(vae).__name__} cannot work block by block. Expected AutoencoderKL, which "
            "bundles hold; encode or decode smaller images at once."
        )
    return float(vae.config.shift_factor), float(vae.config.scaling_factor)


def _encoder_stages(vae: AutoencoderKL) -> list[Stage]:
    """The encoder in parts of one residual block; what halves the resolution ends a part."""
    encoder = vae.encoder
    modules = [encoder.conv_in]
    for block in encoder.down_blocks:
        modules += [*block.resnets, *(block.downsamplers or [])]
    tail = (encoder.conv_norm_out, encoder.conv_act, encoder.conv_out)
    tail += () if vae.quant_conv is None else (vae.quant_conv,)
    return [*_stages([*modules, *_middle(encoder.mid_block)]), tail]


def _decoder_stages(vae: AutoencoderKL) -> list[Stage]:
    """The decoder in parts of one residual block; what doubles the resolution begins a part."""
    decoder = vae.decoder
    modules = [] if vae.post_quant_conv is None else [vae.post_quant_conv]
    modules += [decoder.conv_in, *_middle(decoder.mid_block)]
    for block in decoder.up_blocks:
        modules += [*block.resnets, *(block.upsamplers or [])]
    tail = (decoder.conv_norm_out, decoder.conv_act, decoder.conv_out)
    return [*_stages(modules), tail]


def _middle(block: Any) -> list[nn.Module]:
    """Residual blocks and attention of the lowest resolution, in their order."""
    modules = [block.resnets[0]]
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        modules += [resnet] if attention is None else [attention, resnet]
    return modules


def _stages(modules: list[nn.Module]) -> list[Stage]:
    """Modules in parts that end after a residual block or attention, and what halves after it."""
    stages: list[Stage] = []
    pending: Stage = ()
    for module in modules:
        if isinstance(module, Downsample2D):
            stages[-1] += (module,)
        elif isinstance(module, ResnetBlock2D | Attention):
            stages.append((*pending, module))
            pending = ()
        else:
            pending += (module,)
    return stages


def _run(
    vae: AutoencoderKL, stages: list[Stage], source: _Map, side: int, scratch: Path | None
) -> Iterator[Part]:
    """Pass a map through all stages; parts of what the last one makes."""
    if side < 2 or side % 2:
        raise ValueError(f"Blocks have a side of {side} px; expected an even number from 2.")
    with tempfile.TemporaryDirectory(prefix="ecomap_", dir=scratch) as folder:
        for index, stage in enumerate(stages[:-1]):
            # Two files in turn: one is read while the other is written.
            path = Path(folder) / f"{index % 2}.h5"
            height, width = (_length_after(stage, length) for length in source.size)
            source = _store(_outputs(vae, stage, source, side), (height, width), path)
        yield from _outputs(vae, stages[-1], source, side)


def _store(parts: Iterator[Part], size: Place, path: Path) -> _Map:
    """Write parts of a map to a file, by calls: pages of a mapped file would count as memory."""
    with h5py.File(path, "w") as file:
        for rows, columns, values in parts:
            shape = (values.shape[1], *size)
            if "map" not in file:
                _require_space(path.parent, math.prod(shape) * np.dtype(np.float32).itemsize)
            written = file.require_dataset("map", shape, np.float32)
            written[:, rows, columns] = values[0].float().cpu().numpy()

    def read(rows: slice, columns: slice) -> Tensor:
        with h5py.File(path) as file:
            return torch.from_numpy(file["map"][:, rows, columns][None])

    return _Map(size, read)


def _require_space(folder: Path, needed: int) -> None:
    """Refuse a file that the disk cannot hold."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB free; an intermediate map of this image takes "
            f"{needed / 1e9:.1f} GB. Free space, or choose another folder for temporary files."
        )


def _outputs(vae: AutoencoderKL, stage: Stage, source: _Map, side: int) -> Iterator[Part]:
    """What a stage makes of a map, block by block."""
    has_attention = any(isinstance(module, Attention) for module in stage)
    blocks = plan_blocks(source.size, max(source.size) if has_attention else side, HALO_PX)
    with ExitStack() as stack:
        if len(blocks) > 1:
            norms = [m for module in stage for m in module.modules() if isinstance(m, nn.GroupNorm)]
            for norm in norms:
                moments = _moments(vae, stage, norm, source, blocks)
                stack.enter_context(norm.register_forward_hook(_normalise_by(moments)))
        for block in blocks:
            rows, columns = (
                slice(_length_after(stage, core.start), _length_after(stage, core.stop))
                for core in block.core
            )
            yield rows, columns, block.crop(_apply(vae, stage, source, block))


def _apply(vae: AutoencoderKL, stage: Stage, source: _Map, block: Block) -> Tensor:
    """Run a stage on a block with its halo."""
    values = source.read(*block.outer).to(vae.device, vae.dtype)
    for module in stage:
        # A residual block wants the embedding of a timestep, which autoencoders have not.
        is_residual = isinstance(module, ResnetBlock2D)
        values = module(values, None) if is_residual else module(values)
    return values


def _moments(
    vae: AutoencoderKL, stage: Stage, norm: nn.GroupNorm, source: _Map, blocks: list[Block]
) -> Moments:
    """Mean and variance of what a normalisation gets, over all blocks without their halos."""

    def stop(module: nn.Module, inputs: tuple[Tensor]) -> NoReturn:
        raise _ReachedError(inputs[0])

    counts, means, variances = [], [], []
    with norm.register_forward_pre_hook(stop):
        for block in blocks:
            try:
                _apply(vae, stage, source, block)
            except _ReachedError as reached:
                groups = block.crop(reached.args[0]).reshape(norm.num_groups, -1).float()
            variance, mean = torch.var_mean(groups, 1, correction=0)
            counts.append(groups.shape[1])
            means.append(mean.double())
            variances.append(variance.double())
    shares = torch.tensor(counts).to(means[0])[:, None] / sum(counts)
    total = (shares * torch.stack(means)).sum(0)
    spread = torch.stack(variances) + (torch.stack(means) - total) ** 2
    return total.float(), (shares * spread).sum(0).float()


def _normalise_by(moments: Moments) -> Callable[[Any, tuple[Tensor], Tensor], Tensor]:
    """Hook that replaces what a group normalisation makes of its input's own moments."""

    def replace(norm: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        repeats = norm.num_channels // norm.num_groups
        mean, variance = (values.repeat_interleave(repeats) for values in moments)
        weight, bias = norm.weight.float(), norm.bias.float()
        wide = batch_norm(inputs[0].float(), mean, variance, weight, bias, eps=norm.eps)
        return wide.to(output.dtype)

    return replace


class _ReachedError(Exception):
    """Ends a run of a stage where what a normalisation gets is known: its only argument."""


def _length_after(stage: Stage, length: int) -> int:
    """Length along an axis after a stage."""
    kinds = {type(module) for module in stage}
    return 2 * length if Upsample2D in kinds else length // 2 if Downsample2D in kinds else length
