"""What of a start stays in decoded frames: the start itself where nothing changed, else its detail.

An autoencoder loses detail and mixes neighbours, so that latents which stay give other pixels. Both
are put right here, after decoding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ecomap.autoencoder import LATENT_FACTOR

DETAIL_WIDTH_PX = 9
"""Window in which change is measured before lost detail is put back."""

DETAIL_CHANGE = 0.2
"""Mean change of pixels in [-1, 1] at which 37 % of the lost detail is put back."""

KEPT_EDGE_PX = 8
"""Half the width in which a start that stays gives way to what is made beside it."""

MARGIN_PX = max(DETAIL_WIDTH_PX // 2, 2 * KEPT_EDGE_PX)
"""Neighbours that a pixel depends on: strips of a frame need as many rows more on either side."""


def restore_detail(pixels: Tensor, seen: Tensor, lost: Tensor) -> Tensor:
    """Put back what the autoencoder lost of a start, as far as the start is still there.

    Args:
        pixels: Decoded frames ``(B, 3, H, W)`` in [-1, 1].
        seen: Round trips of their starts, of the same shape.
        lost: What these lack, of the same shape.

    Returns:
        Frames in [-1, 1]; where nothing has changed, the start itself.
    """
    difference = (pixels - seen).abs().mean(1, keepdim=True)
    width = DETAIL_WIDTH_PX
    nearby = F.avg_pool2d(difference, width, stride=1, padding=width // 2, count_include_pad=False)
    return (pixels + torch.exp(-nearby / DETAIL_CHANGE) * lost).clamp(-1, 1)


def kept_pixels(change: Tensor, there: Tensor) -> Tensor:
    """Pixels of a start of which nothing is asked to change.

    Args:
        change: Of each latent cell ``(B, 1, h, w)`` (`change_cells`).
        there: Where the start shows its place, bool ``(B, 1, H, W)``.

    Returns:
        bool ``(B, 1, H, W)``.
    """
    stays = (change == 0).repeat_interleave(LATENT_FACTOR, 2).repeat_interleave(LATENT_FACTOR, 3)
    return stays[..., : there.shape[2], : there.shape[3]] & there


def put_back(pixels: Tensor, start: Tensor, keep: Tensor) -> Tensor:
    """Frames with the start itself where it stays; the decoder mixes it with what is made nearby.

    Args:
        pixels: Decoded frames ``(B, 3, H, W)``.
        start: Of the same shape.
        keep: bool ``(B, 1, H, W)``. The start begins at its edge, and is all there is
            2 * `KEPT_EDGE_PX` further in.
    """
    width, margin = 2 * KEPT_EDGE_PX + 1, KEPT_EDGE_PX
    gone = F.max_pool2d((~keep).to(pixels), width, stride=1, padding=margin)
    share = F.avg_pool2d(gone, width, stride=1, padding=margin, count_include_pad=False)
    return torch.where(share == 0, start, start + share * (pixels - start))
