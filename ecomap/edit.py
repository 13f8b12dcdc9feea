"""The edit form of a ControlNet: it changes its reference in place of making an image anew.

A transformer that denoises from noise must learn to copy a reference before it can change it. Here
the reference is there from the start: beside the residuals that the ControlNet adds to the blocks
of its base, a head says for each latent cell how much of the reference stays in the clean estimate,
and what to add to it:

    clean' = clean + hold * share * (reference - clean) + sigma * correction,
    hold = min(1, sigma / HELD_FROM),

so that a share of 1 and no correction give back the reference, until little noise is left; there
the noisy latents themselves show what is to be, and the estimate becomes the base's own. As a
velocity this is finite at every noise level. An untrained head returns nearly the reference; a cell
without a reference is made anew.
"""

import torch
from diffusers import ConfigMixin, ModelMixin, SD3ControlNetModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.normalization import AdaLayerNormContinuous
from torch import Tensor, nn

FIRST_SHARE_LOGIT = 3.0
"""An untrained head keeps 0.95 of the reference."""

HELD_FROM = 0.25
"""Noise level from which on the reference may take the place of the base's whole estimate."""


class EditHead(ModelMixin, ConfigMixin):
    """Says what stays of a reference and what is added, from a ControlNet's last image tokens."""

    @register_to_config
    def __init__(
        self,
        width: int = 256,
        patch_size: int = 2,
        latent_channels: int = 16,
        valid_channel: int = 16,
    ) -> None:
        """Build a head that changes nothing yet.

        Args:
            width: Of the ControlNet's tokens and of its embedding of the noise level.
            patch_size: Latent cells along the side of a token.
            latent_channels: Of the reference, the first channels of a control.
            valid_channel: Place of the channel reference_valid among those of a control.
        """
        super().__init__()
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.proj_out = nn.Linear(width, patch_size**2 * (1 + latent_channels))
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @classmethod
    def beside(cls, controlnet: SD3ControlNetModel, valid_channel: int) -> "EditHead":
        """A new head for a ControlNet, on its device.

        Args:
            controlnet: Whose tokens it will read.
            valid_channel: Place of the channel reference_valid among those of a control.
        """
        config = controlnet.config
        head: EditHead = cls(
            width=int(config.num_attention_heads) * int(config.attention_head_dim),
            patch_size=int(config.patch_size),
            latent_channels=int(config.in_channels),
            valid_channel=valid_channel,
        )
        placed: EditHead = head.to(controlnet.device)
        return placed

    def forward(self, tokens: Tensor, embedding: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
        """What stays and what is added.

        Args:
            tokens: Image tokens after the ControlNet's last block ``(B, N, D)``.
            embedding: Of noise level and pooled condition ``(B, D)``.
            control: ``(B, C + extra, h, w)``; an empty one is zero throughout.

        Returns:
            Share ``(B, 1, h, w)`` in [0, 1] and correction ``(B, C, h, w)``, float32. Both are 0
            for an empty control; the share is 0 where the reference has no data.
        """
        channels, patch = int(self.config.latent_channels), int(self.config.patch_size)
        height, width = control.shape[2] // patch, control.shape[3] // patch
        out = self.proj_out(self.norm_out(tokens, embedding)).float()
        out = out.reshape(len(out), height, width, patch, patch, 1 + channels)
        out = out.permute(0, 5, 1, 3, 2, 4).reshape(len(out), 1 + channels, *control.shape[2:])
        valid = control[:, self.config.valid_channel, None].float()
        share = torch.sigmoid(out[:, :1] + FIRST_SHARE_LOGIT) * valid
        is_there = control.flatten(1).any(1)[:, None, None, None]
        return share, out[:, 1:] * is_there


def edit_velocity(
    velocity: Tensor,
    noisy: Tensor,
    sigma: Tensor,
    reference: Tensor,
    edit: tuple[Tensor, Tensor],
    *,
    scale: float = 1.0,
) -> Tensor:
    """Velocity of the edited clean estimate.

    Args:
        velocity: The transformer's ``(B, C, h, w)``.
        noisy: Latents that it was predicted at, of the same shape.
        sigma: Noise level of each image ``(B,)``.
        reference: Latents of the reference, of the same shape; anything where the share is 0.
        edit: Share and correction of `EditHead`.
        scale: Factor of both.

    Returns:
        float32, shaped like ``velocity``.
    """
    share, correction = edit
    velocity, noisy = velocity.float(), noisy.float()
    level = sigma.float()[:, None, None, None]
    clean = noisy - level * velocity
    rate = 1 / level.clamp(min=HELD_FROM)  # hold / sigma
    return velocity + scale * (rate * share * (clean - reference.float()) - correction)


def hold_unchanged(clean: Tensor, reference: Tensor, change: Tensor) -> Tensor:
    """Clean estimate of which only the changed part differs from the reference.

    Args:
        clean: Clean estimate ``(B, C, h, w)``.
        reference: Latents of the reference, of the same shape.
        change: How much may change ``(B, 1, h, w)`` in [0, 1]; at 0 the result is the reference,
            bit for bit.
    """
    return torch.where(change == 0, reference, reference + change * (clean - reference))
