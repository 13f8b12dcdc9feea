"""Images of places under a climate: from a request to files that say how they were made."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecomap.adapter import load_adapter
from ecomap.card import BundleCard
from ecomap.climate import apply_changes
from ecomap.control_request import ControlRequest, check_control_options, open_control_request
from ecomap.denoiser import computing
from ecomap.errors import RequestError
from ecomap.image_store import as_made
from ecomap.model import Bundle, load_bundle, lost_tokens
from ecomap.outputs import (
    complete_provenance,
    contact_sheet,
    synthetic_name,
    write_geotiff,
    write_png,
)
from ecomap.page import Figure, Section, Table, write_page
from ecomap.prompt import Prompt
from ecomap.request import known_to, parse_changes, place_record, read_record
from ecomap.sample import (
    GUIDANCE,
    SOLVER,
    STEPS,
    Progress,
    generate_images,
    prompt_of,
)
from ecomap.schema import CLIMATE, TileRecord, parse_land_cover, write_json
from ecomap.solver import SolverName
from ecomap.versions import versions


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
    adapter: str | Path | None = None,
    adapter_scale: float = 1.0,
    controlnet: Path | None = None,
    control_image: Path | None = None,
    control_scale: float = 1.0,
    control_month: str | int | None = None,
    detector_weights: Path | None = None,
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
        adapter: Name or folder of an adapter of that bundle.
        adapter_scale: Strength of the adapter: 0 is the bundle alone.
        controlnet: Folder of a ControlNet that was trained beside the bundle.
        control_image: Image of the place for it, in another month.
        control_scale: Factor of what the ControlNet adds; 0 is none.
        control_month: Month of that image, ``YYYY-MM`` or 1 to 12.
        detector_weights: Folder of the weights of the ControlNet's detector, if it has any.
        device: Torch device or ``auto``.
        output: Folder for PNG, GeoTIFF and JSON of each image, a contact sheet and a page.
        progress: Called with (done, total).

    Raises:
        RequestError: If the request is contradictory, incomplete or impossible.
        BundleError: If the bundle cannot be loaded.
    """
    if number < 1:
        raise RequestError(f"number is {number}; ask for at least one image.")
    check_control_options(controlnet, control_image, control_scale, control_month, detector_weights)
    if adapter is None and adapter_scale != 1:
        raise RequestError(f"adapter_scale is {adapter_scale:g} without an adapter. Name one.")
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
    if adapter is not None:
        loaded = load_adapter(loaded, adapter, scale=adapter_scale)
    changes = {"temperature": temperature, "precipitation": precipitation, "solar": solar}
    shown = _requested(lat, lon, month, record, changes, land_cover, loaded.card, prompt)
    texts = [Prompt(prompt, prompt)] * number if prompt is not None else None
    seeds = list(range(seed, seed + number))
    opened = None
    if controlnet is not None and control_image is not None:
        asked_of_control = ControlRequest(
            controlnet=controlnet, image=control_image, scale=control_scale, month=control_month,
            detector_weights=detector_weights,
        )  # fmt: skip
        opened = open_control_request(loaded, asked_of_control, shown)
        loaded = opened.bundle
    images = generate_images(
        loaded, [shown] * number, seeds=seeds, prompts=texts, steps=steps, guidance=guidance,
        solver=solver, control=None if opened is None else opened.control.repeat(number, 1, 1, 1),
        control_scale=control_scale, progress=progress,
    )  # fmt: skip
    told = known_to(shown, loaded.card)
    text = prompt if told is None else prompt_of(told).long
    settings = {
        "bundle": loaded.identity,
        **computing(loaded.device),
        "doors": list(loaded.card.doors),
        "versions": versions(),
        "steps": steps,
        "guidance": guidance,
        "solver": solver,
        "prompt": text,
        "changes": {name: value for name, value in changes.items() if value is not None},
        "attribution": list(loaded.card.attribution),
    }
    notes = _notes(loaded.card, shown, changes)
    if opened is not None:
        settings["control"] = opened.provenance
        notes += opened.notes
    asked = Prompt(prompt or "", prompt or "") if told is None else prompt_of(told)
    if lost := lost_tokens(loaded, asked):
        notes.append(
            f"The last {lost} tokens of the prompt {asked.short!r} are beyond what {loaded.name}'s "
            "text encoders read, and have no effect there. Shorten it."
        )
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
    shown = as_made(shown, card)
    return apply_changes(shown, parse_changes(changes))


def _notes(
    card: BundleCard, record: TileRecord | None, changes: Mapping[str, str | None]
) -> list[str]:
    """What the reader must know: changes without effect, what is unknown, and mostly seas."""
    notes = []
    for name, variable in CLIMATE.items():
        if changes[variable.short] is not None and name not in card.trained_variables:
            notes.append(
                f"--{variable.short} has no effect: {card.name} was trained without "
                f"{variable.label.lower()}."
            )
        elif name in card.trained_variables and record and getattr(record, name) is None:
            notes.append(
                f"{variable.label} is not known of this place; {card.name} was trained with it and "
                "makes its image without."
            )
    land = None if record is None else record.land_frac
    if land is not None and land < card.min_land_frac:
        notes.append(
            f"Only {land:.0%} of the tile is land; {card.name} was trained on tiles with at least "
            f"{card.min_land_frac:.0%}."
        )
    return notes


def _request_hash(record: TileRecord | None, settings: Mapping[str, Any]) -> str:
    """Short hash of what was asked, so that another request does not replace its files."""
    fields = None if record is None else record.model_dump(mode="json")
    names = ("prompt", "changes", "steps", "guidance", "solver", "bundle")
    told = {name: settings[name] for name in names}
    if "control" in settings:
        told["control"] = settings["control"]
    asked = json.dumps([fields, told], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:6]


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
    stem += f"_{_request_hash(record, settings)}"
    entries: list[dict[str, Any]] = []
    for image, seed in zip(images, seeds, strict=True):
        paths = {
            kind: output / synthetic_name(f"{stem}_seed{seed}", f".{kind}")
            for kind in ("png", "tif", "json")
        }
        made = settings | {"seed": seed, "notes": notes}
        write_png(paths["png"], image, record, made)
        write_geotiff(paths["tif"], image, record, made)
        write_json(paths["json"], complete_provenance(record, made))
        entries.append(
            {"seed": seed, "prompt": settings["prompt"]}
            | {kind: str(path) for kind, path in paths.items()}
        )
    sheet = output / synthetic_name("contact_sheet", ".png")
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
