"""Images of places under a climate: from a request to files that say how they were made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.card import DOORS, BundleCard, Door
from ecomap.climate import apply_changes
from ecomap.climate_encoder import ClimateBatch, climate_batch
from ecomap.errors import RequestError
from ecomap.latents import decode, to_image
from ecomap.model import (
    EMPTY_PROMPT,
    Bundle,
    Condition,
    encode_condition,
    load_bundle,
    predict_velocity,
)
from ecomap.outputs import contact_sheet, synthetic_name, write_geotiff, write_png
from ecomap.page import Figure, Section, Table, write_page
from ecomap.prompt import Prompt, PromptMasks, build_prompt
from ecomap.request import parse_changes, place_record, read_record
from ecomap.schema import CLIMATE, TileRecord, parse_land_cover, write_json
from ecomap.solver import SOLVERS, SolverName, guide, make_sigmas
from ecomap.versions import versions

STEPS = 20
GUIDANCE = 2.0
SOLVER: SolverName = "dpmpp_2m"

PROMPT_MASKS = PromptMasks(date={"month": 1})
"""A request's prompt tells all that is known, and no year."""

Progress = Callable[[int, int], None]
"""Called with (done, total) images."""


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """What a request gave."""

    output: Path
    images: list[dict[str, Any]]
    """Files, seed and prompt of each image."""
    notes: list[str] = field(default_factory=list)
    """What the reader must know about this request."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"output": str(self.output), "images": self.images, "notes": self.notes}

    def render(self) -> str:
        """Words for the terminal."""
        lines = [f"{image['png']}  {image['prompt']}" for image in self.images]
        return "\n".join([*lines, *self.notes, f"Look at {self.output / 'index.html'}"])


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
    doors: Sequence[Door] = DOORS,
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
        doors: Ways by which the condition enters; none of them is the unconditional model.
        batch_size: Images at a time. Results are the same for any, up to rounding.
        progress: Called with (done, total).

    Returns:
        uint8 ``(N, H, W, 3)``.

    Raises:
        RequestError: If seeds and records do not pair up, or solver, steps or doors are unknown.
    """
    _check_request(records, seeds, prompts, solver, doors)
    told = [_known_to(record, bundle.card) for record in records]
    texts = [build_prompt(r, PROMPT_MASKS, _rng()) if r else EMPTY_PROMPT for r in told]
    texts = list(prompts) if prompts is not None else texts
    sigmas = make_sigmas(steps, bundle.shift)
    batches = []
    for start in range(0, len(records), batch_size):
        part = slice(start, start + batch_size)
        latents = _sample_latents(
            bundle, told[part], texts[part], seeds[part], sigmas, guidance, interval, solver, doors
        )
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
        used = condition if need_uncond else _first(condition, count)
        batch = torch.cat([latents, latents]) if need_uncond else latents
        levels = torch.full((len(batch),), sigma, device=bundle.device)
        with _autocast(bundle.device):
            velocity = predict_velocity(bundle.transformer, batch, levels, used).float()
        return velocity[:count], velocity[count:] if need_uncond else None

    scale = guidance if doors else 1.0
    return SOLVERS[solver](guide(predict_pair, scale, interval), _noise(bundle, seeds), sigmas)


def _climate(
    bundle: Bundle, records: Sequence[TileRecord | None], has_tokens: Tensor
) -> ClimateBatch | None:
    """Inputs of the climate encoder for the conditional and the unconditional half of a batch."""
    if not has_tokens.any():
        return None
    stand_in = next(record for record in records if record is not None)
    batch = climate_batch([record or stand_in for record in records])
    return batch.select(torch.arange(2 * len(records)) % len(records)).to(bundle.device)


def _noise(bundle: Bundle, seeds: Sequence[int]) -> Tensor:
    """Standard normal latents, drawn on the CPU so that every device gets the same."""
    config = bundle.transformer.config
    side = bundle.card.image_size_px // LATENT_FACTOR
    drawn = [
        torch.randn(config.in_channels, side, side, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(drawn).to(bundle.device)


def _first(condition: Condition, count: int) -> Condition:
    """The conditional half of a condition."""
    return Condition(
        condition.context[:count], condition.key_bias[:count], condition.pooled[:count]
    )


def _known_to(record: TileRecord | None, card: BundleCard) -> TileRecord | None:
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


def _autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device multiplies it faster than float32."""
    fast = device.type != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def _rng() -> np.random.Generator:
    """A request's prompt has nothing to draw: all of its weights are 0 or 1."""
    return np.random.default_rng(0)


def generate(
    *,
    lat: float | None = None,
    lon: float | None = None,
    month: str | int | None = None,
    temperature: str | None = None,
    precipitation: str | None = None,
    solar: str | None = None,
    land_cover: str | int | None = None,
    record: Path | TileRecord | None = None,
    prompt: str | None = None,
    number: int = 1,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    solver: SolverName = SOLVER,
    bundle: str | Bundle = "ecomap-tiny",
    device: str = "auto",
    output: Path = Path("runs/generate"),
    progress: Progress | None = None,
) -> GenerateResult:
    """Make images of a place, of a record, or of a text, and write them with their provenance.

    Give ``lat``, ``lon`` and ``month`` (with changes), or ``record``, or ``prompt``.

    Args:
        lat: See `place_record`; likewise up to ``land_cover``.
        lon: Degrees east.
        month: ``YYYY-MM`` or 1 to 12.
        temperature: Change of temperature.
        precipitation: Change of precipitation.
        solar: Change of solar radiation.
        land_cover: IGBP class.
        record: A record or a JSON file of one; changes apply to it too.
        prompt: Text for the text door alone.
        number: Images to make, with the seeds ``seed``, ``seed + 1``, ...
        seed: First seed.
        steps: Solver steps.
        guidance: Guidance scale.
        solver: Sampler.
        bundle: Name, folder, or a loaded bundle.
        device: Torch device or ``auto``.
        output: Folder for PNG, GeoTIFF and JSON of each image, a contact sheet and a page.
        progress: Called with (done, total).

    Raises:
        RequestError: If the request is contradictory, incomplete or impossible.
        BundleError: If the bundle cannot be loaded.
    """
    if number < 1:
        raise RequestError(f"number is {number}; ask for at least one image.")
    places = [name for name, value in (("lat", lat), ("lon", lon), ("month", month))
              if value is None]  # fmt: skip
    ways = [prompt is not None, record is not None, len(places) < 3]
    if sum(ways) != 1 or (ways[2] and places):
        missing = f" (missing: {', '.join(places)})" if ways[2] and places else ""
        raise RequestError(
            "Say what to show in one way: lat, lon and month together, or record, or prompt"
            f"{missing}."
        )
    loaded = load_bundle(bundle, device=device) if isinstance(bundle, str) else bundle
    changes = {"temperature": temperature, "precipitation": precipitation, "solar": solar}
    shown = _requested(lat, lon, month, record, changes, land_cover, loaded.card, prompt)
    texts = [Prompt(prompt, prompt)] * number if prompt is not None else None
    seeds = list(range(seed, seed + number))
    images = generate_images(
        loaded, [shown] * number, seeds=seeds, prompts=texts, steps=steps, guidance=guidance,
        solver=solver, progress=progress,
    )  # fmt: skip
    told = _known_to(shown, loaded.card)
    text = prompt if told is None else build_prompt(told, PROMPT_MASKS, _rng()).long
    settings = {
        "bundle": {"name": loaded.name, "version": loaded.card.version},
        "versions": versions(),
        "steps": steps,
        "guidance": guidance,
        "solver": solver,
        "prompt": text,
        "changes": {name: value for name, value in changes.items() if value is not None},
        "attribution": list(loaded.card.attribution),
    }
    notes = _notes(loaded.card, shown, changes)
    return _write(output, images, seeds, shown, settings, notes)


def _requested(
    lat: float | None,
    lon: float | None,
    month: str | int | None,
    record: Path | TileRecord | None,
    changes: Mapping[str, str | None],
    land_cover: str | int | None,
    card: BundleCard,
    prompt: str | None,
) -> TileRecord | None:
    """The record of a request; ``None`` for a text."""
    if prompt is not None:
        if land_cover is not None or any(changes.values()):
            raise RequestError(
                "A prompt says everything itself; leave out changes of climate and land cover."
            )
        return None
    if record is None:
        assert lat is not None
        assert lon is not None
        assert month is not None
        return place_record(lat, lon, month, bundle_card=card, land_cover=land_cover, **changes)
    shown = record if isinstance(record, TileRecord) else read_record(record)
    if land_cover is not None:
        shown = shown.model_copy(update={"land_cover": parse_land_cover(land_cover)})
    size = (card.image_size_px, card.image_size_px)
    if (shown.height_px, shown.width_px) != size:
        # Another size is another tile: the grid of the record no longer describes the image.
        shown = shown.model_copy(
            update={"height_px": size[0], "width_px": size[1], "crs": None, "transform": None}
        )
    return apply_changes(shown, parse_changes(changes))


def _notes(
    card: BundleCard, record: TileRecord | None, changes: Mapping[str, str | None]
) -> list[str]:
    """What the reader must know: changes without effect, and places that are mostly sea."""
    notes = []
    for name, variable in CLIMATE.items():
        if changes[variable.short] is not None and name not in card.trained_variables:
            notes.append(
                f"--{variable.short} has no effect: {card.name} was trained without "
                f"{variable.label.lower()}."
            )
    if record is not None and (record.land_frac or 1) < 0.25:
        notes.append(
            f"Only {100 * (record.land_frac or 0):.0f} % of the tile is land; {card.name} was "
            "trained on tiles with at least a quarter."
        )
    return notes


def _write(
    output: Path,
    images: np.ndarray,
    seeds: Sequence[int],
    record: TileRecord | None,
    settings: dict[str, Any],
    notes: list[str],
) -> GenerateResult:
    """Files of a request: per image PNG, GeoTIFF and JSON; a contact sheet and a page."""
    output.mkdir(parents=True, exist_ok=True)
    stem = "prompt" if record is None else f"{record.lat:+.2f}{record.lon:+.2f}_{record.month}"
    entries: list[dict[str, Any]] = []
    for image, seed in zip(images, seeds, strict=True):
        paths = {
            kind: output / synthetic_name(f"{stem}_seed{seed}", f".{kind}")
            for kind in ("png", "tif", "json")
        }
        made = settings | {"seed": seed, "notes": notes}
        write_png(paths["png"], image, record, made)
        write_geotiff(paths["tif"], image, record, made)
        fields = None if record is None else record.model_dump(mode="json")
        write_json(paths["json"], {"synthetic": True} | made | {"record": fields})
        entries.append(
            {"seed": seed, "prompt": settings["prompt"]}
            | {kind: str(path) for kind, path in paths.items()}
        )
    sheet = output / "contact_sheet.png"
    columns = math.ceil(math.sqrt(len(images)))
    contact_sheet(sheet, list(images), [f"seed {seed}" for seed in seeds], columns)
    rows = [(str(key), str(value)) for key, value in settings.items()]
    write_page(
        output / "index.html",
        "ecomap: generated images",
        [
            Section(
                heading="Images",
                text=" ".join([settings["prompt"] or "", *notes]),
                figures=(Figure(settings["prompt"] or "no text", sheet, "generated images"),),
            ),
            Section(heading="How they were made", tables=(Table(("setting", "value"), rows),)),
        ],
    )
    result = GenerateResult(output=output, images=entries, notes=notes)
    write_json(output / "generate.json", result.to_dict())
    return result
