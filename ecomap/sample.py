"""From records to images: conditions, noise, a sampler, and pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.card import DOORS, BundleCard, Door
from ecomap.climate_encoder import ClimateBatch, climate_batch
from ecomap.conditions import EMPTY_PROMPT, Condition
from ecomap.controlnet import control_residuals
from ecomap.errors import RequestError
from ecomap.latents import decode, to_image
from ecomap.model import Bundle, encode_condition, predict_velocity
from ecomap.prompt import Prompt, PromptMasks, build_prompt
from ecomap.schema import CLIMATE, TileRecord
from ecomap.solver import SOLVERS, SolverName, guide, make_sigmas

STEPS = 20
GUIDANCE = 2.0
SOLVER: SolverName = "dpmpp_2m"

PROMPT_MASKS = PromptMasks(date={"month": 1})
"""A request's prompt tells all that is known, and no year."""

Progress = Callable[[int, int], None]
"""Called with (done, total) images."""


def generate_images(
    bundle: Bundle,
    records: Sequence[TileRecord | None],
    *,
    seeds: Sequence[int],
    prompts: Sequence[Prompt] | None = None,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    interval: tuple[float, float] = (0.0, 1.0),
    solver: SolverName = SOLVER,
    doors: Sequence[Door] | None = None,
    control: Tensor | None = None,
    control_scale: float = 1.0,
    control_interval: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 16,
    progress: Progress | None = None,
) -> np.ndarray:
    """Make one image for each record.

    Args:
        bundle: The model.
        records: What to show; ``None`` where a prompt alone says it.
        seeds: One a record; the same seed gives the same noise.
        prompts: Texts in place of the records' own.
        steps: Solver steps.
        guidance: Scale of classifier-free guidance; 1 is none.
        interval: Noise levels in which guidance acts.
        solver: Name of the sampler.
        doors: Ways by which the condition enters, by default all that the bundle has; an empty
            list is the unconditional model.
        control: What the bundle's ControlNet sees ``(N, C + extra, h, w)``, one a record
            (`ecomap.controls.encode_control`); without one the ControlNet is not used. Guidance
            compares two predictions that both see it.
        control_scale: Factor of what the ControlNet adds; at 0 it is not run.
        control_interval: Noise levels in which it acts.
        batch_size: Images at a time. Results are the same for any, up to rounding.
        progress: Called with (done, total).

    Returns:
        uint8 ``(N, H, W, 3)``.

    Raises:
        RequestError: If seeds, records and control do not pair up, or solver, steps or doors are
            unknown.
    """
    doors = bundle.card.doors if doors is None else doors
    _check_request(records, seeds, prompts, solver, doors)
    if not all(-(2**63) <= seed < 2**63 for seed in seeds):
        raise RequestError(f"Seeds must fit into 64 bits; got {min(seeds)} to {max(seeds)}.")
    told = [known_to(record, bundle.card) for record in records]
    texts = [prompt_of(r) if r else EMPTY_PROMPT for r in told]
    texts = list(prompts) if prompts is not None else texts
    _check_control(bundle, control, len(records))
    sigmas = make_sigmas(steps, bundle.shift)
    batches = []
    for start in range(0, len(records), batch_size):
        part = slice(start, start + batch_size)
        shown = None if control is None else control[part]
        branch = _ControlBranch(bundle, shown, control_scale, control_interval)
        latents = _sample_latents(
            bundle, told[part], texts[part], seeds[part], sigmas, guidance, interval, solver, doors,
            branch,
        )  # fmt: skip
        batches.append(to_image(decode(bundle.vae, latents)).cpu().numpy())
        if progress:
            progress(min(start + batch_size, len(records)), len(records))
    return np.concatenate(batches)


@torch.inference_mode()
def _sample_latents(
    bundle: Bundle,
    records: Sequence[TileRecord | None],
    texts: Sequence[Prompt],
    seeds: Sequence[int],
    sigmas: Tensor,
    guidance: float,
    interval: tuple[float, float],
    solver: SolverName,
    doors: Sequence[Door],
    branch: "_ControlBranch",
) -> Tensor:
    """Latents of one batch."""
    count = len(records)
    has_tokens = torch.tensor([r is not None and "tokens" in doors for r in records])
    texts = list(texts) if "text" in doors else [EMPTY_PROMPT] * count
    with _autocast(bundle.device):
        condition = encode_condition(
            bundle,
            [*texts, *[EMPTY_PROMPT] * count],
            _climate(bundle, records, has_tokens),
            has_tokens=torch.cat([has_tokens, torch.zeros(count, dtype=torch.bool)]).to(
                bundle.device
            ),
        )

    def predict_pair(
        latents: Tensor, sigma: float, *, need_uncond: bool
    ) -> tuple[Tensor, Tensor | None]:
        used = condition if need_uncond else condition.rows(slice(count))
        batch = torch.cat([latents, latents]) if need_uncond else latents
        levels = torch.full((len(batch),), sigma, device=bundle.device)
        with _autocast(bundle.device):
            residuals = branch.residuals(batch, levels, used) if branch.acts_at(sigma) else None
            velocity = predict_velocity(
                bundle.transformer, batch, levels, used, residuals=residuals
            ).float()
        return velocity[:count], velocity[count:] if need_uncond else None

    scale = guidance if doors else 1.0
    return SOLVERS[solver](guide(predict_pair, scale, interval), _noise(bundle, seeds), sigmas)


@dataclass(frozen=True)
class _ControlBranch:
    """What a ControlNet adds to the predictions of one batch."""

    bundle: Bundle
    control: Tensor | None
    scale: float
    interval: tuple[float, float]

    def acts_at(self, sigma: float) -> bool:
        """Whether it adds anything at a noise level; else it need not run."""
        low, high = self.interval
        return self.control is not None and self.scale != 0 and low <= sigma <= high

    def residuals(self, latents: Tensor, levels: Tensor, condition: Condition) -> list[Tensor]:
        """Residuals at latents that hold each image of the batch once or twice."""
        assert self.bundle.controlnet is not None
        assert self.control is not None
        repeats = len(latents) // len(self.control)
        control = self.control.to(latents).repeat(repeats, 1, 1, 1)
        return control_residuals(
            self.bundle.controlnet, latents, control, levels, condition, scale=self.scale
        )


def _climate(
    bundle: Bundle, records: Sequence[TileRecord | None], has_tokens: Tensor
) -> ClimateBatch | None:
    """Inputs of the climate encoder for the conditional and the unconditional half of a batch."""
    if not has_tokens.any():
        return None
    stand_in = next(record for record in records if record is not None)
    batch = climate_batch([record or stand_in for record in records])
    return batch.rows(torch.arange(2 * len(records)) % len(records)).to(bundle.device)


def _noise(bundle: Bundle, seeds: Sequence[int]) -> Tensor:
    """Standard normal latents, drawn on the CPU so that every device gets the same."""
    config = bundle.transformer.config
    side = bundle.card.image_size_px // LATENT_FACTOR
    drawn = [
        torch.randn(config.in_channels, side, side, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(drawn).to(bundle.device)


def known_to(record: TileRecord | None, card: BundleCard) -> TileRecord | None:
    """A record without the climate variables that the bundle never saw."""
    if record is None:
        return None
    unknown = set(CLIMATE) - set(card.trained_variables)
    gone = {f"{n}{suffix}": None for n in unknown for suffix in ("", "_history", "_normals")}
    return record.model_copy(update=gone)


def _check_request(
    records: Sequence[TileRecord | None],
    seeds: Sequence[int],
    prompts: Sequence[Prompt] | None,
    solver: str,
    doors: Sequence[str],
) -> None:
    """Refuse a request that does not pair up or names what is not there."""
    if not records or len(seeds) != len(records) or len(prompts or seeds) != len(records):
        raise RequestError(
            f"{len(records)} records came with {len(seeds)} seeds"
            f"{'' if prompts is None else f' and {len(prompts)} prompts'}. Give one of each."
        )
    if solver not in SOLVERS:
        raise RequestError(f"Solver {solver!r} is unknown. Choose one of {', '.join(SOLVERS)}.")
    if not set(doors) <= set(DOORS):
        raise RequestError(f"Doors {list(doors)} are unknown. Choose from {', '.join(DOORS)}.")


def _check_control(bundle: Bundle, control: Tensor | None, count: int) -> None:
    """Refuse a control that nobody reads, or that is not one a record."""
    if control is None:
        return
    if bundle.controlnet is None:
        raise RequestError(
            f"Bundle {bundle.name!r} has no ControlNet to read the control. Load one beside it "
            "(--controlnet FOLDER), or give no control."
        )
    side = bundle.card.image_size_px // LATENT_FACTOR
    expected = (count, int(bundle.controlnet.pos_embed_input.proj.in_channels), side, side)
    if control.shape != expected:
        raise RequestError(
            f"The control has shape {tuple(control.shape)}; expected {expected}: one a record, of "
            "the ControlNet's channels and the bundle's size."
        )


def compute_dtype(device: torch.device) -> torch.dtype:
    """What networks compute in: bfloat16 where the device multiplies it faster than float32."""
    fast = device.type != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return torch.bfloat16 if fast else torch.float32


def computing(device: torch.device) -> dict[str, str]:
    """Device and precision: the same request gives slightly other pixels under others."""
    dtype = str(compute_dtype(device)).removeprefix("torch.")
    return {"device": device.type, "precision": dtype}


def _autocast(device: torch.device) -> torch.autocast:
    """Under `compute_dtype`."""
    is_half = compute_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half)


def prompt_of(record: TileRecord) -> Prompt:
    """Prompt of a request. It has nothing to draw: all weights of its masks are 0 or 1."""
    return build_prompt(record, PROMPT_MASKS, np.random.default_rng(0))
