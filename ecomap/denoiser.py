"""What predicts at noisy latents: transformer, ControlNet and conditions of a batch, as one object.

Samplers ask it for velocities with and without the condition and know nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecomap.card import Door
from ecomap.climate_encoder import ClimateBatch, climate_batch
from ecomap.conditions import EMPTY_PROMPT, Condition
from ecomap.edit import hold_unchanged
from ecomap.learner import controlled_velocity
from ecomap.model import Bundle, encode_condition, predict_velocity
from ecomap.prompt import Prompt
from ecomap.schema import TileRecord


@dataclass(frozen=True, kw_only=True)
class ControlBranch:
    """What a ControlNet does to the predictions of a batch."""

    control: Tensor | None = None
    """``(B, C + extra, h, w)`` of `ecomap.controls.prepare_control`."""
    scale: float = 1.0
    """Factor of all that it does; at 0 it is not run."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels in which it acts."""
    change: Tensor | None = None
    """How much of each cell may differ from the reference ``(B, 1, h, w)`` in [0, 1]; by default
    all."""

    def acts_at(self, sigma: float) -> bool:
        """Whether it does anything at a noise level; else it need not run."""
        low, high = self.interval
        return self.control is not None and self.scale != 0 and low <= sigma <= high


class Denoiser:
    """Predicts velocities of a batch whose conditions are encoded once."""

    def __init__(
        self,
        bundle: Bundle,
        records: Sequence[TileRecord | None],
        texts: Sequence[Prompt],
        *,
        doors: Sequence[Door],
        branch: ControlBranch | None = None,
    ) -> None:
        """Encode the conditions.

        Args:
            bundle: The model.
            records: One an image, without what the model does not know; ``None`` where a text
                alone says what to show.
            texts: One an image.
            doors: Ways by which the condition enters; none is the unconditional model.
            branch: Of a ControlNet.
        """
        self.bundle = bundle
        self.count = len(records)
        self.branch = branch or ControlBranch()
        has_tokens = torch.tensor([r is not None and "tokens" in doors for r in records])
        told = list(texts) if "text" in doors else [EMPTY_PROMPT] * self.count
        nobody = torch.zeros(self.count, dtype=torch.bool)
        with autocast(bundle.device):
            self._condition: Condition = encode_condition(
                bundle,
                [*told, *[EMPTY_PROMPT] * self.count],
                _climate(bundle, records, has_tokens),
                has_tokens=torch.cat([has_tokens, nobody]).to(bundle.device),
            )

    def predict_pair(
        self, latents: Tensor, sigma: float, *, need_uncond: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Velocities with and without the condition (`ecomap.solver.PredictPair`)."""
        count, branch = self.count, self.branch
        used = self._condition if need_uncond else self._condition.rows(slice(count))
        batch = torch.cat([latents, latents]) if need_uncond else latents
        levels = torch.full((len(batch),), sigma, device=self.bundle.device)
        with autocast(self.bundle.device):
            if branch.acts_at(sigma):
                velocity = self._controlled(batch, levels, used).float()
            else:
                velocity = predict_velocity(self.bundle.transformer, batch, levels, used).float()
        if branch.change is not None:
            velocity = self._held(velocity, batch, sigma)
        return velocity[:count], velocity[count:] if need_uncond else None

    def _controlled(self, latents: Tensor, levels: Tensor, condition: Condition) -> Tensor:
        """Velocity at latents that hold each image of the batch once or twice."""
        assert self.bundle.controlnet is not None
        assert self.branch.control is not None
        repeats = len(latents) // self.count
        return controlled_velocity(
            self.bundle.transformer,
            self.bundle.controlnet,
            self.bundle.edit_head,
            latents,
            self.branch.control.to(latents).repeat(repeats, 1, 1, 1),
            levels,
            condition,
            scale=self.branch.scale,
        )

    def _held(self, velocity: Tensor, latents: Tensor, sigma: float) -> Tensor:
        """Velocity towards a clean estimate whose unchanged part is the reference."""
        assert self.branch.control is not None
        assert self.branch.change is not None
        repeats = len(latents) // self.count
        control = self.branch.control.to(latents).repeat(repeats, 1, 1, 1)
        change = self.branch.change.to(latents).repeat(repeats, 1, 1, 1)
        reference = control[:, : latents.shape[1]]
        held = hold_unchanged(latents - sigma * velocity, reference, change)
        return (latents - held) / sigma


def _climate(
    bundle: Bundle, records: Sequence[TileRecord | None], has_tokens: Tensor
) -> ClimateBatch | None:
    """Inputs of the climate encoder for the conditional and the unconditional half of a batch."""
    if not has_tokens.any():
        return None
    stand_in = next(record for record in records if record is not None)
    batch = climate_batch([record or stand_in for record in records])
    return batch.rows(torch.arange(2 * len(records)) % len(records)).to(bundle.device)


def compute_dtype(device: torch.device) -> torch.dtype:
    """What networks compute in: bfloat16 where the device multiplies it faster than float32."""
    fast = device.type != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return torch.bfloat16 if fast else torch.float32


def computing(device: torch.device) -> dict[str, str]:
    """Device and precision: the same request gives slightly other pixels under others."""
    dtype = str(compute_dtype(device)).removeprefix("torch.")
    return {"device": device.type, "precision": dtype}


def autocast(device: torch.device) -> torch.autocast:
    """Under `compute_dtype`."""
    is_half = compute_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half)
