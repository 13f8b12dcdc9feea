"""Evolve a place: from a start tile and the climate of months to a georeferenced sequence.

Frames are made one by one into a folder; films, cubes, catalogue and page are made of the folder
alone, once all frames are there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ecomap.bundle_paths import bundle_path
from ecomap.card import Door, read_card
from ecomap.elevation import read_elevation
from ecomap.errors import RequestError
from ecomap.evolution import (
    BATCH_SIZE,
    ENSEMBLE_STEPS,
    GUIDANCE,
    OVERLAP,
    SOLVER,
    STEPS,
    EvolveSettings,
)
from ecomap.model import Bundle, is_hub_id, resolve_device
from ecomap.progress import open_console
from ecomap.request import place_record
from ecomap.scene_records import window_records
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
from ecomap.solver import SolverName
from ecomap.start_tile import open_starts
from ecomap.support import Support, SupportResult, note_of

NO_SUPPORT = (
    "How far these climates lie from those of training is not known: the model has no table of "
    "them."
)

MakeTimelines = Callable[[Sequence[TileRecord]], tuple[Sequence[TileRecord], Sequence[Timeline]]]
"""From the months of a start as they are known to those under the climate of their month, and the
scenarios (`data_prep.timelines.open_timelines`)."""


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
        head = f"{self.frames} frame{'s' * (self.frames != 1)}, {self.made} made now"
        page = f"Look at {self.output / 'index.html'}"
        return "\n".join([head, *self.products, *self.notes, page])


def evolve(
    timelines: MakeTimelines,
    *,
    start: Path | Sequence[Path] = (),
    tile: str | Sequence[str] = (),
    lat: float | None = None,
    lon: float | None = None,
    start_month: str | Sequence[str] = (),
    land_cover: str | int | None = None,
    hidden: Path | Sequence[Path | None] = (),
    elevation: Path | None = None,
    members: int = 1,
    seed: int = 0,
    chain: bool = False,
    steps: int | None = None,
    guidance: float = GUIDANCE,
    solver: SolverName = SOLVER,
    doors: Sequence[Door] | None = None,
    control_scale: float = 1.0,
    overlap: float = OVERLAP,
    batch_size: int = BATCH_SIZE,
    bundle: str = "ecomap-tiny",
    controlnet: Path | None = None,
    adapter: str | Path | None = None,
    device: str = "auto",
    output: Path = Path("runs/evolve"),
    console: Console | None = None,
) -> EvolveResult:
    """Make a sequence, or go on with it.

    Args:
        timelines: Gives the scenarios for a start (`ecomap.open_timelines`).
        start: GeoTIFF, PNG, JSON of a record, or the folder of a dataset; several are months of one
            place, each of which shows what those before it do not (`open_starts`). Without one the
            start is generated at ``lat`` and ``lon``.
        tile: Tile of a dataset, one a start.
        lat: Degrees north, where the start does not tell.
        lon: Degrees east.
        start_month: ``YYYY-MM`` that the start shows, one a start.
        land_cover: IGBP class in place of the start's.
        hidden: Mask of pixels that are not to be believed, one a start.
        elevation: Elevation model; temperature then follows the ground.
        members: Frames of one month that differ in their noise.
        seed: Of the first member.
        chain: Whether frames begin with the frame before.
        steps: Solver steps; by default `STEPS`, for an ensemble `ENSEMBLE_STEPS`.
        guidance: Guidance scale; 1 is none.
        solver: Sampler.
        doors: Ways by which the climate is told beside the control; by default all of the bundle.
        control_scale: Strength of the ControlNet; 0 is none.
        overlap: Share of a window that its neighbour covers, in scenes.
        batch_size: Frames at a time.
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
    console = console or open_console()
    if steps is None:
        steps = STEPS if members == 1 else ENSEMBLE_STEPS
    settings = EvolveSettings(
        steps=steps, guidance=guidance, solver=solver, control_scale=control_scale,
        doors=None if doors is None else tuple(doors), overlap=overlap, batch_size=batch_size,
    )  # fmt: skip
    sources = _listed(start)
    place: dict[str, Any] = {"lat": lat, "lon": lon, "land_cover": land_cover}
    words: dict[str, Any] = {
        "months": _listed(start_month), "tiles": _listed(tile), "hidden": _listed(hidden)
    }  # fmt: skip
    if not sources:
        _check_generated(lat, lon, **words)
    resolve_device(device)
    opening: dict[str, Any] = {"controlnet": controlnet, "adapter": adapter, "device": device}
    # What is wrong with a start is told before a model is loaded, where its card is at hand.
    is_elsewhere = is_hub_id(bundle) or adapter is not None
    model = open_evolver(bundle, **opening) if is_elsewhere else None
    card = model.card if model else read_card(bundle_path(bundle))
    opened = open_starts(sources, card=card, **words, **place) if sources else None
    model = model or open_evolver(bundle, **opening)
    if opened is None:
        assert lat is not None
        assert lon is not None
        record = place_record(lat, lon, words["months"][0], bundle_card=card, land_cover=land_cover)
        opened = generate_start(model, record, seed=seed), ["The start itself is generated."]
    begin, assumed = opened
    records, scenarios = timelines(begin.records)
    begin = replace(begin, record=records[0], others=tuple(records[1:]))
    heights, told = _heights(elevation, begin.record)
    request = EvolveRequest(
        timelines=scenarios, members=members, seed=seed, chain=chain, settings=settings,
        height_m=heights,
    )  # fmt: skip
    support = _support(model, scenarios, overlap)
    plan = plan_sequence(
        model, begin, request, name=begin.record.location_id,
        source=", ".join(unique(path.name for path in sources)) or GENERATED,
        support=support, notes=[*assumed, *told, *([] if support else [NO_SUPPORT])],
    )  # fmt: skip
    folder = SequenceFolder.create(output, plan)
    made = make_frames(model, begin, request, folder, console=console)
    return finish(folder, made=made, console=console)


def _listed(given: Any) -> list[Any]:
    """One word or several, as a list."""
    return [given] if isinstance(given, (str, Path)) else list(given or ())


def finish(
    folder: SequenceFolder, *, made: int = 0, console: Console | None = None
) -> EvolveResult:
    """Make films, cubes, catalogue, layers and page of a complete sequence.

    Args:
        folder: With all of its frames.
        made: Frames that were made just now.
        console: Where progress is shown.
    """
    console = console or open_console()
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
    *,
    months: Sequence[str],
    tiles: Sequence[str],
    hidden: Sequence[Path | None],
) -> None:
    """Refuse a request without a start that does not say what to generate."""
    given = {"lat": lat is not None, "lon": lon is not None, "start-month": bool(months)}
    if missing := [name for name, is_given in given.items() if not is_given]:
        raise RequestError(
            f"There is no start and no {', '.join(missing)}. Give --start FILE, or --lat, --lon "
            "and --start-month for a start that is generated."
        )
    if tiles or hidden or len(months) > 1:
        name = "tile" if tiles else "hidden" if hidden else "start-month twice"
        raise RequestError(f"--{name} is of a start, and none is given. Give --start too.")


def _heights(path: Path | None, record: TileRecord) -> tuple[Any, list[str]]:
    """Height of each latent cell above the mean of the tile, and notes."""
    if path is None:
        return None, []
    found = read_elevation(path, record)
    return found.elevation_m - found.elevation_m.mean(), list(found.notes)


def _support(
    model: Bundle, scenarios: Sequence[Timeline], overlap: float
) -> dict[str, tuple[dict[str, Any] | None, ...]]:
    """How far the asked climates lie from those of training; empty where that is not known."""
    folders = [model.controlnet_path, model.path]
    found_in = (Support.open(folder) for folder in folders if folder is not None)
    support = next((table for table in found_in if table is not None), None)
    if support is None:
        return {}
    side_px = model.card.image_size_px
    found = {
        line.name: [support.farthest(window_records(side_px, r, overlap)) for r in line.records]
        for line in scenarios
    }
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
