"""Evolve a place: from a start tile and the climate of months to a georeferenced sequence.

Frames are made one by one into a folder; films, cubes, catalogue and page are made of the folder
alone, once all frames are there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ecomap.bundle_paths import CONTROLNET_FOLDER, bundle_path
from ecomap.card import read_card
from ecomap.elevation import read_elevation
from ecomap.errors import RequestError
from ecomap.evolution import EvolveSettings
from ecomap.model import Bundle, is_hub_id, resolve_device
from ecomap.schema import TileRecord, unique
from ecomap.sequence import GENERATED, SequenceFolder, SequencePlan, Timeline
from ecomap.sequence_catalogue import write_catalogue
from ecomap.sequence_cube import write_cube
from ecomap.sequence_films import write_films
from ecomap.sequence_frames import (
    EvolveRequest,
    generate_start,
    make_frames,
    open_evolver,
    plan_sequence,
)
from ecomap.sequence_page import write_sequence_page
from ecomap.sequence_qgis import write_layers
from ecomap.start_tile import generated_record, open_start
from ecomap.starts import Start
from ecomap.support import Support, SupportResult, note_of

NO_SUPPORT = (
    "How far these climates lie from those of training is not known: the model has no table of "
    "them."
)

MakeTimelines = Callable[[TileRecord], tuple[TileRecord, Sequence[Timeline]]]
"""From the start as it is known to the start under the climate of its month, and the scenarios
(`data_prep.scenarios`)."""


@dataclass(frozen=True, kw_only=True)
class EvolveResult:
    """What a request gave."""

    output: Path
    frames: int
    made: int
    """Frames that were not there before."""
    products: list[str]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "output": str(self.output), "frames": self.frames, "made": self.made,
            "products": self.products, "notes": self.notes,
        }  # fmt: skip

    def render(self) -> str:
        """Words for the terminal."""
        head = f"{self.frames} frames, {self.made} of them made now"
        page = f"Look at {self.output / 'index.html'}"
        return "\n".join([head, *self.products, *self.notes, page])


def evolve(
    timelines: MakeTimelines,
    *,
    start: Path | None = None,
    tile: str | None = None,
    lat: float | None = None,
    lon: float | None = None,
    start_month: str | None = None,
    land_cover: str | int | None = None,
    hidden: Path | None = None,
    elevation: Path | None = None,
    members: int = 1,
    seed: int = 0,
    chain: bool = False,
    settings: EvolveSettings | None = None,
    overlap: float = 0.5,
    bundle: str = "ecomap-tiny",
    controlnet: Path | None = None,
    adapter: str | Path | None = None,
    device: str = "auto",
    output: Path = Path("runs/evolve"),
    console: Console | None = None,
) -> EvolveResult:
    """Make a sequence, or go on with it.

    Args:
        timelines: Gives the scenarios for a start.
        start: GeoTIFF, PNG, JSON of a record, or the folder of a dataset (`open_start`); without
            one the start is generated at ``lat`` and ``lon``.
        tile: Tile of a dataset.
        lat: Degrees north, where the start does not tell.
        lon: Degrees east.
        start_month: ``YYYY-MM`` that the start shows.
        land_cover: IGBP class in place of the start's.
        hidden: Mask of pixels that are not to be believed.
        elevation: Elevation model; temperature then follows the ground.
        members: Frames of one month that differ in their noise.
        seed: Of the first member.
        chain: Whether frames begin with the frame before.
        settings: Sampler, steps, guidance, doors, control scale.
        overlap: Share of a window that its neighbour covers.
        bundle: Name or folder of a bundle.
        controlnet: ControlNet in place of the bundle's own.
        adapter: Adapter of the bundle.
        device: Torch device or ``auto``.
        output: Folder of the sequence; the same request goes on in it.
        console: Where progress is shown.

    Raises:
        BundleError: If the model cannot be loaded.
        DataError: If a file cannot be read, or the folder holds another sequence.
        RequestError: If the request is contradictory, incomplete or impossible.
    """
    console = console or Console(stderr=True)
    settings = settings or EvolveSettings()
    resolve_device(device)
    card = None if is_hub_id(bundle) else read_card(bundle_path(bundle))
    opened: tuple[Start, list[str]] | None = None
    if start is not None and card is not None:
        opened = open_start(
            start, card=card, month=start_month, lat=lat, lon=lon, land_cover=land_cover,
            tile_id=tile, hidden=hidden,
        )  # fmt: skip
    elif start is None:
        _check_generated(lat, lon, start_month, tile, hidden)
    model = open_evolver(bundle, controlnet=controlnet, adapter=adapter, device=device)
    if opened is None and start is not None:
        opened = open_start(
            start, card=model.card, month=start_month, lat=lat, lon=lon, land_cover=land_cover,
            tile_id=tile, hidden=hidden,
        )  # fmt: skip
    source = GENERATED if start is None else start.name
    if opened is None:
        assert lat is not None
        assert lon is not None
        assert start_month is not None
        record = generated_record(lat, lon, start_month, model.card, land_cover)
        opened = generate_start(model, record, seed=seed), ["The start itself is generated."]
    begin, assumed = opened
    record, scenarios = timelines(begin.record)
    begin = Start(record=record, image=begin.image, hidden=begin.hidden)
    heights, told = _heights(elevation, record)
    request = EvolveRequest(
        timelines=scenarios, members=members, seed=seed, chain=chain, settings=settings,
        overlap=overlap, height_m=heights,
    )  # fmt: skip
    support = _support(model, controlnet, scenarios)
    notes = [*assumed, *told, *([] if support else [NO_SUPPORT])]
    plan = plan_sequence(
        model, begin, request, name=record.location_id, source=source, controlnet=controlnet,
        support=support, notes=notes,
    )  # fmt: skip
    folder = SequenceFolder.create(output, plan)
    made = make_frames(model, begin, request, folder, console=console)
    return finish(folder, made=made, console=console)


def finish(
    folder: SequenceFolder, *, made: int = 0, console: Console | None = None
) -> EvolveResult:
    """Make films, cubes, catalogue, layers and page of a complete sequence.

    Args:
        folder: With all of its frames.
        made: Frames that were made just now.
        console: Where progress is shown.
    """
    console = console or Console(stderr=True)
    skipped: list[str] = []
    products: list[Path] = []
    makers: dict[str, Callable[[SequenceFolder], list[Path]]] = {
        "films": write_films,
        "cubes": write_cube,
    }
    for name, make in makers.items():
        with console.status(f"writing {name}"):
            try:
                products += make(folder)
            except RequestError as error:
                skipped.append(f"No {name}: {error}")
    with console.status("writing catalogue and page"):
        catalogue = write_catalogue(folder, products)
        try:
            layers = write_layers(folder)
        except RequestError as error:
            layers = []
            skipped.append(f"No layers for QGIS: {error}")
        write_sequence_page(folder)
    plan = folder.plan
    return EvolveResult(
        output=folder.path,
        frames=sum(1 for _ in folder.frames()),
        made=made,
        products=[str(path) for path in (*products, *catalogue, *layers)],
        notes=unique([*plan.notes, *_support_notes(plan), *_scenario_notes(plan), *skipped]),
    )


def _scenario_notes(plan: SequencePlan) -> list[str]:
    """Notes of the scenarios, each with its name."""
    return [f"{line.name}: {note}" for line in plan.timelines for note in line.notes]


def _check_generated(
    lat: float | None,
    lon: float | None,
    month: str | None,
    tile: str | None,
    hidden: Path | None,
) -> None:
    """Refuse a request without a start that does not say what to generate."""
    given = {"lat": lat, "lon": lon, "start-month": month}
    if missing := [name for name, value in given.items() if value is None]:
        raise RequestError(
            f"There is no start and no {', '.join(missing)}. Give --start FILE, or --lat, --lon "
            "and --start-month for a start that is generated."
        )
    if tile is not None or hidden is not None:
        name = "tile" if tile is not None else "hidden"
        raise RequestError(f"--{name} is of a start, and none is given. Give --start too.")


def _heights(path: Path | None, record: TileRecord) -> tuple[Any, list[str]]:
    """Height of each latent cell above the mean of the tile, and notes."""
    if path is None:
        return None, []
    found = read_elevation(path, record)
    return found.elevation_m - found.elevation_m.mean(), list(found.notes)


def _support(
    model: Bundle, controlnet: Path | None, scenarios: Sequence[Timeline]
) -> dict[str, tuple[dict[str, Any] | None, ...]]:
    """How far the asked climates lie from those of training; empty where that is not known."""
    folder = controlnet or model.path / CONTROLNET_FOLDER
    support = Support.open(folder) or Support.open(model.path)
    if support is None:
        return {}
    found = {line.name: [support.distance(r) for r in line.records] for line in scenarios}
    return {
        name: tuple(None if result is None else result.to_dict() for result in results)
        for name, results in found.items()
    }


def _support_notes(plan: SequencePlan) -> list[str]:
    """How far each scenario lies from the climates of training, in words."""
    notes = []
    for name, rows in plan.support.items():
        results = [None if row is None else SupportResult.model_validate(row) for row in rows]
        notes.append(f"{name}: {note_of(results)}")
    return notes
