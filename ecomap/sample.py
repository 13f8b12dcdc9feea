"""From records to images: conditions, noise, a sampler, and pixels."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.card import DOORS, Door
from ecomap.conditions import EMPTY_PROMPT
from ecomap.denoiser import ControlBranch, Denoiser
from ecomap.errors import RequestError
from ecomap.latents import decode, to_image
from ecomap.model import Bundle
from ecomap.prompt import Prompt, PromptMasks, build_prompt
from ecomap.request import known_to
from ecomap.schema import TileRecord
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
    batches = []
    for start in range(0, len(records), batch_size):
        part = slice(start, start + batch_size)
        branch = ControlBranch(
            control=None if control is None else control[part],
            scale=control_scale,
            interval=control_interval,
        )
        latents = sample_latents(
            bundle, told[part], seeds=seeds[part], texts=texts[part], steps=steps,
            guidance=guidance, interval=interval, solver=solver, doors=doors, branch=branch,
        )  # fmt: skip
        batches.append(to_image(decode(bundle.vae, latents)).cpu().numpy())
        if progress:
            progress(min(start + batch_size, len(records)), len(records))
    return np.concatenate(batches)


@torch.inference_mode()
def sample_latents(
    bundle: Bundle,
    records: Sequence[TileRecord | None],
    *,
    seeds: Sequence[int],
    texts: Sequence[Prompt] | None = None,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    interval: tuple[float, float] = (0.0, 1.0),
    solver: SolverName = SOLVER,
    doors: Sequence[Door] | None = None,
    branch: ControlBranch | None = None,
) -> Tensor:
    """Latents of one batch ``(N, C, h, w)``; arguments as of `generate_images`.

    Args:
        bundle: The model.
        records: Without what the model does not know (`ecomap.request.known_to`).
        seeds: One a record.
        texts: One a record; by default what the records say.
        steps: Solver steps.
        guidance: Guidance scale.
        interval: Noise levels in which it acts.
        solver: Name of the sampler.
        doors: Ways of the condition.
        branch: Of a ControlNet.
    """
    doors = bundle.card.doors if doors is None else doors
    told = texts or [prompt_of(record) if record else EMPTY_PROMPT for record in records]
    denoiser = Denoiser(bundle, records, told, doors=doors, branch=branch)
    predict = guide(denoiser.predict_pair, guidance if doors else 1.0, interval)
    return SOLVERS[solver](predict, _noise(bundle, seeds), make_sigmas(steps, bundle.shift))


def _noise(bundle: Bundle, seeds: Sequence[int]) -> Tensor:
    """Standard normal latents, drawn on the CPU so that every device gets the same."""
    config = bundle.transformer.config
    side = bundle.card.image_size_px // LATENT_FACTOR
    drawn = [
        torch.randn(config.in_channels, side, side, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(drawn).to(bundle.device)


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


def prompt_of(record: TileRecord) -> Prompt:
    """Prompt of a request. It has nothing to draw: all weights of its masks are 0 or 1."""
    return build_prompt(record, PROMPT_MASKS, np.random.default_rng(0))
