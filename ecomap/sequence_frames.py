"""Sequences of a place under climate: from a start and timelines to frames in a folder.

A frame depends on the start, its own climate and its seed alone, so frames can be made in any order
and an interrupted sequence goes on with what is missing. Chained sequences, whose frames begin with
the frame before, are made in order.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ecomap.adapter import load_adapter
from ecomap.bundle_paths import CONTROLNET_FOLDER
from ecomap.control_request import use_controlnet
from ecomap.denoiser import computing
from ecomap.errors import RequestError
from ecomap.evolution import EvolveSettings, evolve_images
from ecomap.model import Bundle, load_bundle
from ecomap.outputs import write_geotiff
from ecomap.progress import progress_bar
from ecomap.request import known_to
from ecomap.sample import generate_images
from ecomap.scene import evolve_scene, require_size
from ecomap.schema import TileRecord, unique
from ecomap.sequence import SequenceFolder, SequencePlan, Timeline
from ecomap.starts import Start, control_spec, encode_starts
from ecomap.versions import fingerprint, versions

MAX_FRAMES = 20_000
"""Most frames of one sequence: more is a mistake, or work for several sequences."""


@dataclass(frozen=True, kw_only=True)
class EvolveRequest:
    """What is to be made of a start."""

    timelines: Sequence[Timeline]
    members: int = 1
    seed: int = 0
    chain: bool = False
    """Whether each frame begins with the frame before it, not with the start."""
    settings: EvolveSettings = field(default_factory=EvolveSettings)
    height_m: NDArray[np.float64] | None = None
    """Height of each latent cell of the start above its mean ``(h, w)``, metres."""


def open_evolver(
    bundle: str | Path,
    *,
    controlnet: Path | None = None,
    adapter: str | Path | None = None,
    device: str = "auto",
) -> Bundle:
    """Load a model that can change a reference.

    Args:
        bundle: Name or folder of a bundle.
        controlnet: Folder of a ControlNet beside it; by default the bundle's own.
        adapter: Name or folder of an adapter of that bundle.
        device: Torch device or ``auto``.

    Raises:
        BundleError: If something cannot be loaded.
        RequestError: If there is no ControlNet that reads another month of a place.
    """
    loaded = load_bundle(bundle, device=device)
    if adapter is not None:
        loaded = load_adapter(loaded, adapter)
    own = loaded.path / CONTROLNET_FOLDER
    if controlnet is not None or own.is_dir():
        loaded = use_controlnet(loaded, controlnet or own)
    control_spec(loaded)
    return loaded


def plan_sequence(
    bundle: Bundle,
    start: Start,
    request: EvolveRequest,
    *,
    name: str,
    source: str,
    support: Mapping[str, Sequence[dict[str, Any] | None]] | None = None,
    notes: Sequence[str] = (),
) -> SequencePlan:
    """Everything that decides a sequence.

    Args:
        bundle: From `open_evolver`.
        start: What it begins with.
        request: What is made of it.
        name: Short name of the place.
        source: File or record of the start, or ``generated``.
        support: How far each month's climate lies from what was trained on, by scenario.
        notes: What the reader must know.

    Raises:
        RequestError: If scenarios share a name, the bundle lacks a door, the start is too small, or
            more frames are asked for than `MAX_FRAMES`.
    """
    names = [timeline.name for timeline in request.timelines]
    if twice := {n for n in names if names.count(n) > 1}:
        raise RequestError(
            f"{len(names)} scenarios are asked for and {sorted(twice)[0]!r} comes twice. Give "
            "each a name of its own (name: in its file)."
        )
    frames = sum(len(t.records) for t in request.timelines) * request.members
    if request.members < 1 or frames > MAX_FRAMES:
        raise RequestError(
            f"{frames} frames are asked for ({request.members} members); 1 to {MAX_FRAMES} can be "
            "made at once. Ask for fewer months (--every), scenarios or members."
        )
    require_size(bundle, start)
    request.settings.require_doors(bundle.card)
    spec = control_spec(bundle)
    folder = bundle.controlnet_path
    assert folder is not None
    return SequencePlan(
        name=name,
        start=start.record,
        start_source=source,
        start_months=tuple(record.month for record in start.records),
        start_sha256=hashlib.sha256(start.image.tobytes()).hexdigest(),
        timelines=tuple(request.timelines),
        members=request.members,
        seed=request.seed,
        settings=asdict(request.settings)
        | {"chain": request.chain, "doors": _listed(request.settings.doors)}
        | computing(bundle.device)
        | {
            "height_sha256": _digest(request.height_m),
            "hidden_sha256": _digest(start.hidden),
            "source_sha256": _digest(start.source),
        },
        model={
            **bundle.identity,
            "controlnet": folder.name,
            "controlnet_sha256": fingerprint(sorted(folder.rglob("*"))),
            "spec": spec.model_dump(mode="json"),
            "license": bundle.card.license,
            "attribution": list(bundle.card.attribution),
            "imagery": bundle.card.imagery,
            "limits": bundle.card.limits,
            "image_size_px": bundle.card.image_size_px,
        },
        software=versions(),
        support={name: tuple(rows) for name, rows in (support or {}).items()},
        notes=tuple(unique([*notes, *_scene_notes(bundle, start)])),
    )


def generate_start(bundle: Bundle, record: TileRecord, *, seed: int) -> Start:
    """A start that the model makes itself, from place, month and climate."""
    known = known_to(record, bundle.card)
    image = generate_images(bundle, [known], seeds=[seed])[0]
    return Start(record=record, image=image)


def make_frames(
    bundle: Bundle,
    start: Start,
    request: EvolveRequest,
    folder: SequenceFolder,
    *,
    console: Console | None = None,
) -> int:
    """Make the frames of a sequence that are not there yet.

    Args:
        bundle: From `open_evolver`.
        start: As in the plan.
        request: As in the plan.
        folder: Where the frames go; each is written whole.
        console: Where progress is shown.

    Returns:
        Number of frames that were made.
    """
    if not folder.start_path.exists():
        folder.write_start(start.image, start.valid)
    missing = folder.missing()
    console = console or Console(quiet=True)
    with progress_bar(console, has_loss=False) as progress:
        task = progress.add_task("making frames", total=len(missing))
        made = _chained if request.chain else _direct
        for (scenario, member, record), image in made(bundle, start, request, folder, missing):
            path = folder.frame_path(scenario, member, record.month)
            write_geotiff(path, image, record, frame_provenance(folder.plan, scenario, member))
            progress.advance(task)
    return len(missing)


def frame_provenance(plan: SequencePlan, scenario: str, member: int) -> dict[str, Any]:
    """How a frame was made, for its file."""
    timeline = plan.timeline(scenario)
    return {
        "sequence": plan.name,
        "scenario": {"name": scenario, "title": timeline.title, "kind": timeline.kind}
        | {"facts": timeline.facts},
        "member": member,
        "seed": plan.seed + member,
        "start": {"source": plan.start_source, "sha256": plan.start_sha256}
        | {"months": plan.start_months},
        "settings": plan.settings,
        "bundle": plan.model,
        "versions": plan.software,
    }


Frame = tuple[str, int, TileRecord]
"""Scenario, member and record."""


def _direct(
    bundle: Bundle,
    start: Start,
    request: EvolveRequest,
    folder: SequenceFolder,
    frames: Sequence[Frame],
) -> Iterator[tuple[Frame, NDArray[np.uint8]]]:
    """Frames that all begin with the start, a batch at a time."""
    seeds = [folder.plan.seed + member for _, member, _ in frames]
    targets = [record for *_, record in frames]
    side = bundle.card.image_size_px
    if start.image.shape[:2] != (side, side):
        images = evolve_scene(
            bundle, start, targets, seeds=seeds, settings=request.settings,
            height_m=request.height_m,
        )  # fmt: skip
        yield from zip(frames, images, strict=True)
        return
    encoded = encode_starts(bundle, [start])
    size = request.settings.batch_size
    for first in range(0, len(frames), size):
        part = slice(first, first + size)
        images_of_part = evolve_images(
            bundle, encoded, [0] * len(targets[part]), targets[part], seeds=seeds[part],
            settings=request.settings, height_m=request.height_m,
        )  # fmt: skip
        yield from zip(frames[part], images_of_part, strict=True)


def _chained(
    bundle: Bundle,
    start: Start,
    request: EvolveRequest,
    folder: SequenceFolder,
    frames: Sequence[Frame],
) -> Iterator[tuple[Frame, NDArray[np.uint8]]]:
    """Frames that each begin with the one before."""
    for frame in frames:
        scenario, member, record = frame
        earlier = [r for r in folder.plan.timeline(scenario).records if r.month < record.month]
        before = start
        if earlier:
            image = folder.read(scenario, member, earlier[-1].month)
            before = Start(record=earlier[-1], image=image)
        for _, image in _direct(bundle, before, request, folder, [frame]):
            yield frame, image


def _scene_notes(bundle: Bundle, start: Start) -> list[str]:
    """What is done with a start of another size than the model's."""
    side = bundle.card.image_size_px
    height, width = start.image.shape[:2]
    if (height, width) == (side, side):
        return []
    return [f"The start is {width} x {height} px; it is made in windows of {side} px that blend."]


def _listed(values: Sequence[str] | None) -> list[str] | None:
    """As JSON gives it back."""
    return None if values is None else list(values)


def _digest(values: NDArray[Any] | None) -> str | None:
    """Hash of an array."""
    return None if values is None else hashlib.sha256(values.tobytes()).hexdigest()
