"""The demonstration: six places through four seasons, one made dry and wet, one cold and warm.

Everything that is made, measured and said ends up on one page that opens anywhere, beside the
numbers as JSON and the pictures as files. A place keeps one noise through all its images, so that
what differs between them is due to month and climate alone.

Longer than the budget because the words of the page stand here, beside what they describe.
"""

import calendar
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecomap.card import BundleCard
from ecomap.climate import apply_changes, parse_change
from ecomap.denoiser import computing
from ecomap.figures import axis_label, climate_response, response_sweep
from ecomap.indices import land_indices
from ecomap.model import Bundle, load_bundle
from ecomap.normals import SOURCE, open_normals
from ecomap.outputs import SYNTHETIC_STATEMENT, contact_sheet, synthetic_name, write_png
from ecomap.page import UNKNOWN, Figure, Section, Table, write_page
from ecomap.request import place_record
from ecomap.sample import GUIDANCE, SOLVER, STEPS, Progress, generate_images
from ecomap.schema import CLIMATE, TileRecord, Values, unique, write_json
from ecomap.versions import versions


class MakeImages(Protocol):
    """What the demonstration asks of a generator (`ecomap.sample.generate_images`)."""

    def __call__(
        self,
        bundle: Bundle,
        records: Sequence[TileRecord],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        progress: Progress | None,
    ) -> NDArray[np.uint8]:
        """One uint8 image ``(H, W, 3)`` a record; the same seed gives the same noise."""


@dataclass(frozen=True)
class Place:
    """A place of the demonstration."""

    key: str
    """Part of file names."""
    name: str
    climate: str
    lat: float
    lon: float


PLACES = (
    Place("amazon", "Central Amazon", "tropical rainforest", -4.5, -63.0),
    Place("sahel", "Burkina Faso", "savanna with one rainy season", 13.0, -1.5),
    Place("tenere", "Ténéré", "desert, in the Sahara", 19.6, 14.1),
    Place("iberia", "Central Spain", "Mediterranean, with dry summers", 39.5, -4.5),
    Place("ohio", "Ohio Valley", "temperate, with broadleaf forest", 38.8, -82.5),
    Place("siberia", "Central Siberia", "boreal, with long cold winters", 60.1, 103.7),
)
"""More than 70 % of each tile of the bundled model's size is land."""

SEASONS = (1, 4, 7, 10)


@dataclass(frozen=True)
class Sweep:
    """One place in one month under changes of one climate variable."""

    place: Place
    month: int
    variable: str
    changes: tuple[str, ...]
    """As typed on the command line; the middle one changes nothing."""


SWEEPS = (
    Sweep(PLACES[1], 7, "precipitation_mm_day", ("x0.5", "x1", "x1.5")),
    Sweep(PLACES[5], 10, "temperature_c", ("-4", "+0", "+4")),
)
"""A dry place in its rainy season, and a cold one in the month in which its snow comes. The changed
climates exist elsewhere on Earth in the same month, so the model is not asked for the unseen."""

MEANING = """
Greenness is the mean green chromatic coordinate G/(R+G+B) of the land pixels of an image, snow
among them; what is dark or dark blue counts as water. It is read off 8-bit display values, not off
reflectance: it compares images of this kind with each other and is not NDVI. Grey, and so snow, has
0.333. Snow fraction is the share of land pixels that are bright and nearly grey.

All images of a place start from the same noise, so what differs between them comes from month and
climate. Each number stands for one image from one noise: another seed gives other numbers."""

TRUST = """
This page shows how the model responds; it does not measure how right it is. Some of these places
lie in the area that it was trained on. How well it does where it has never been is a question for
images of held-out areas, beside real ones.

The model is told the climate, the latitude, the main land cover and the share of land of a place,
not its map: coasts, lakes, rivers and mountains in these pictures are invented.

A changed climate is applied to all months of the year, as if the place had always had it. The model
knows what places of different climate looked like, so it answers with the look of such places. It
knows nothing of soils, people, carbon dioxide, or the time that a landscape needs to change: do not
read it as a projection, and do not use these images as evidence of any real place."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One image to make."""

    place: Place
    record: TileRecord
    seed: int
    change: str = ""
    """Change of climate such as ``temperature +4``; none for a season."""

    @property
    def name(self) -> str:
        """Place, month and change, as in a file's name."""
        parts = (self.place.key, self.record.month[5:], self.change.replace(" ", ""))
        return "_".join(part for part in parts if part)

    @property
    def month(self) -> str:
        """Name of the calendar month."""
        return calendar.month_name[self.record.month_index + 1]

    @property
    def climate(self) -> str:
        """Climate of the month in words."""
        values = [(variable, getattr(self.record, name)) for name, variable in CLIMATE.items()]
        return ", ".join(f"{value:.1f} {v.unit}" for v, value in values if value is not None)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One image that was made, and what was read off it."""

    shot: Shot
    image: NDArray[np.uint8]
    path: Path
    greenness: float
    """Mean green chromatic coordinate; NaN for an image that is black."""
    snow_frac: float

    @property
    def words(self) -> str:
        """What was read off the image."""
        green = UNKNOWN if math.isnan(self.greenness) else f"{self.greenness:.3f}"
        return f"greenness\u00a0{green}, snow\u00a0{self.snow_frac:.0%}"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        record = self.shot.record
        return {
            "file": f"{self.path.parent.name}/{self.path.name}",
            "month": record.month_index + 1,
            "change": self.shot.change or None,
            "seed": self.shot.seed,
            **{name: getattr(record, name) for name in CLIMATE},
            "greenness": None if math.isnan(self.greenness) else self.greenness,
            "snow_frac": self.snow_frac,
        }


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Where the demonstration is, and how long it took."""

    output: Path
    page: Path
    num_images: int
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "output": str(self.output),
            "page": str(self.page),
            "num_images": self.num_images,
            "elapsed_s": round(self.elapsed_s, 1),
        }

    def render(self) -> str:
        """Words for the terminal."""
        return f"{self.num_images} images in {self.elapsed_s:.0f} s. Look at {self.page}"


def demo(
    output: Path = Path("runs/demo"),
    *,
    seed: int = 0,
    bundle: str | Path | Bundle = "ecomap-tiny",
    device: str = "auto",
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    progress: Progress | None = None,
    make_images: MakeImages | None = None,
) -> DemoResult:
    """Make the demonstration: images, contact sheets, ``demo.json`` and ``index.html``.

    The same arguments give the same files on the same machine.

    Args:
        output: Folder; made if absent. Files of an earlier demonstration are replaced.
        seed: Noise of the first place; each further place adds one.
        bundle: Name or folder of a bundle, or a loaded one.
        device: Where a bundle is loaded to; of no effect on a loaded one.
        steps: Sampling steps of an image.
        guidance: Strength of the condition.
        progress: Called while images are made.
        make_images: Generator; by default `ecomap.sample.generate_images`.

    Raises:
        BundleError: If there is no such bundle.
    """
    start = time.perf_counter()
    if isinstance(bundle, str | Path):
        bundle = load_bundle(bundle, device=device)
    make = make_images or generate_images
    shots = plan_shots(bundle.card, seed)
    images = make(
        bundle,
        [shot.record for shot in shots],
        seeds=[shot.seed for shot in shots],
        steps=steps,
        guidance=guidance,
        progress=progress,
    )
    settings = {
        "bundle": bundle.identity,
        **computing(bundle.device),
        "versions": versions(),
        "steps": steps,
        "guidance": guidance,
        "solver": SOLVER,
    }
    readings = [
        _read(shot, image, output / "images", settings)
        for shot, image in zip(shots, images, strict=True)
    ]
    _write_sheets(output, readings)
    _write_numbers(output / "demo.json", readings, bundle.card, settings | {"seed": seed})
    page = output / "index.html"
    _write_page(page, readings, bundle.card, seed)
    return DemoResult(
        output=output, page=page, num_images=len(readings), elapsed_s=time.perf_counter() - start
    )


def plan_shots(card: BundleCard, seed: int) -> list[Shot]:
    """Images of the demonstration: the seasons of each place, then the changes of climate.

    Args:
        card: Card of the bundle that will make them; gives size and ground sampling distance.
        seed: Noise of the first place; each further place adds one.
    """
    seeds = {place: seed + index for index, place in enumerate(PLACES)}
    shots = [
        Shot(place=place, record=_record(place, month, card), seed=seeds[place])
        for place in PLACES
        for month in SEASONS
    ]
    for sweep in SWEEPS:
        variable, record = CLIMATE[sweep.variable], _record(sweep.place, sweep.month, card)
        for text in sweep.changes:
            changed = apply_changes(record, {sweep.variable: parse_change(text, variable)})
            shots.append(
                Shot(
                    place=sweep.place,
                    record=changed,
                    seed=seeds[sweep.place],
                    change=f"{variable.short} {text}",
                )
            )
    return shots


def _record(place: Place, month: int, card: BundleCard) -> TileRecord:
    """What is asked for at a place in a month of its normal climate."""
    return place_record(place.lat, place.lon, month, bundle_card=card)


def _read(shot: Shot, image: NDArray[np.uint8], folder: Path, settings: dict[str, Any]) -> Reading:
    """Write an image and read greenness and snow off it."""
    path = folder / synthetic_name(shot.name, ".png")
    made = settings | {"seed": shot.seed, "change": shot.change or None}
    write_png(path, image, shot.record, made)
    found = land_indices(image)
    return Reading(
        shot=shot,
        image=image,
        path=path,
        greenness=found.greenness,
        snow_frac=found.snow_frac,
    )


def _seasons(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Readings of the seasons, one list for each place."""
    plain = [reading for reading in readings if not reading.shot.change]
    return [list(group) for _, group in groupby(plain, key=lambda reading: reading.shot.place)]


def _sweeps(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Readings under changed climates, one list for each of `SWEEPS`."""
    changed = [reading for reading in readings if reading.shot.change]
    return [list(group) for _, group in groupby(changed, key=lambda reading: reading.shot.place)]


def _write_sheets(output: Path, readings: Sequence[Reading]) -> None:
    """Draw all seasons on one contact sheet and all changes on another."""
    for name, title, groups in (
        ("seasons", "Six places, four seasons", _seasons(readings)),
        ("changes", "Changed climates", _sweeps(readings)),
    ):
        shown = [reading for group in groups for reading in group]
        captions = [
            f"{r.shot.place.name}, {r.shot.month}\n{r.shot.change or r.shot.climate}\n{r.words}"
            for r in shown
        ]
        path = output / synthetic_name(name, ".png")
        contact_sheet(path, [r.image for r in shown], captions, len(groups[0]), title)


def _write_numbers(
    path: Path, readings: Sequence[Reading], card: BundleCard, settings: dict[str, Any]
) -> None:
    """Write everything that the page shows as JSON."""
    content = {
        "synthetic": True,
        "statement": SYNTHETIC_STATEMENT,
        **settings,
        "imagery": _imagery(card),
        "normals": SOURCE,
        "credits": _credits(card),
        "places": [
            {
                "name": group[0].shot.place.name,
                "climate": group[0].shot.place.climate,
                "lat": group[0].shot.place.lat,
                "lon": group[0].shot.place.lon,
                "land_cover": _land_cover(group[0].shot.record),
                "normals": {
                    name: getattr(group[0].shot.record, f"{name}_normals") for name in CLIMATE
                },
                "images": [reading.to_dict() for reading in group],
            }
            for group in _seasons(readings)
        ],
        "changes": [
            {
                "place": group[0].shot.place.name,
                "variable": sweep.variable,
                "images": [reading.to_dict() for reading in group],
            }
            for sweep, group in zip(SWEEPS, _sweeps(readings), strict=True)
        ],
    }
    write_json(path, content)


def _write_page(path: Path, readings: Sequence[Reading], card: BundleCard, seed: int) -> None:
    """Write the page."""
    side_km = card.image_size_px * card.ground_sampling_distance_m / 1000
    intro = (
        f"Each picture of land on this page carries the words: {SYNTHETIC_STATEMENT} The curves of "
        f"temperature and precipitation are observed ({SOURCE}). A picture shows {side_km:,.0f} km "
        f"from north to south.\n\n{_imagery(card)}"
    )
    sections = [
        *(_place_section(group) for group in _seasons(readings)),
        *_sweep_sections(_sweeps(readings)),
        Section(heading="What the numbers mean", text=MEANING),
        Section(heading="How far to trust this", text=f"{TRUST}\n\n{card.limits}"),
        Section(heading="All numbers", tables=[_table(readings)]),
    ]
    made = f"Made with the bundle {card.name}, version {card.version}, from seed {seed}."
    write_page(
        path,
        "ecomap: places under a climate",
        sections,
        intro=intro,
        footer="\n\n".join([*_credits(card), made]),
    )


def _place_section(group: Sequence[Reading]) -> Section:
    """A place through the seasons, over its normals."""
    shot = group[0].shot
    place, record = shot.place, shot.record
    plot = climate_response(
        place.name,
        temperature_c=_known(record.temperature_c_normals),
        precipitation_mm_day=_known(record.precipitation_mm_day_normals),
        months=[reading.shot.record.month_index + 1 for reading in group],
        greenness=[reading.greenness for reading in group],
        snow_frac=[reading.snow_frac for reading in group],
    )
    return Section(
        heading=f"{place.name}: {place.climate}",
        text=f"{_degrees(place.lat, 'NS')}, {_degrees(place.lon, 'EW')}. "
        f"Most of its land is {_land_cover(record) or 'not known'} (MODIS land cover of 2019).",
        figures=[
            *(_tile(reading, reading.shot.climate) for reading in group),
            Figure(
                png=plot,
                caption="Above: observed normals of all months. Below: the four generated images.",
                alt=f"Normals of {place.name}, and greenness and snow of its generated images",
            ),
        ],
    )


def _sweep_sections(groups: Sequence[Sequence[Reading]]) -> list[Section]:
    """The place under dry, normal and wet, the place under cold and warm, and both responses."""
    wet, warm = groups
    steps = [[float(change.lstrip("x")) for change in sweep.changes] for sweep in SWEEPS]
    titles = [f"{group[0].shot.place.name}, {group[0].shot.month}" for group in groups]
    plot = response_sweep(
        precipitation_place=titles[0],
        precipitation_factors=steps[0],
        greenness=[reading.greenness for reading in wet],
        temperature_place=titles[1],
        temperature_offsets_c=steps[1],
        snow_frac=[reading.snow_frac for reading in warm],
    )
    response = Figure(
        png=plot,
        caption="Each point is one generated image.",
        alt="Greenness of the images against precipitation, and snow against temperature",
    )
    return [
        _sweep_section(f"{titles[0]}: half, normal and one and a half times the rain", wet, []),
        _sweep_section(f"{titles[1]}: four degrees colder, normal and warmer", warm, [response]),
    ]


def _sweep_section(heading: str, group: Sequence[Reading], figures: Sequence[Figure]) -> Section:
    """A place under a changed climate."""
    tiles = [_tile(r, f"{r.shot.change}\n{r.shot.climate}") for r in group]
    return Section(heading=heading, figures=[*tiles, *figures])


def _tile(reading: Reading, words: str) -> Figure:
    """A generated image with its climate and what was read off it."""
    shot = reading.shot
    spoken = ", ".join([*words.splitlines(), reading.words])
    return Figure(
        png=reading.path,
        caption=f"{shot.month}, synthetic\n{words}\n{reading.words}",
        alt=f"Synthetic image of {shot.place.name} in {shot.month}: {spoken}",
        is_tile=True,
    )


def _table(readings: Sequence[Reading]) -> Table:
    """All images with their climate and what was read off them."""
    names = [name for name in CLIMATE if getattr(readings[0].shot.record, name) is not None]
    return Table(
        columns=["Place", "Month", "Change", *map(axis_label, names), "Greenness", "Snow fraction"],
        rows=[
            [
                r.shot.place.name,
                r.shot.month,
                r.shot.change or "none",
                *(round(getattr(r.shot.record, name), CLIMATE[name].decimals) for name in names),
                r.greenness,
                round(r.snow_frac, 3),
            ]
            for r in readings
        ],
    )


def _imagery(card: BundleCard) -> str:
    """What the training images are, as the card says."""
    return f"Training images: {card.imagery or 'the bundle does not say which'}"


def _credits(card: BundleCard) -> list[str]:
    """Whom the images and the climate are owed to."""
    return unique([*card.attribution, open_normals().attribution])


def _known(values: Values | None) -> list[float]:
    """Series with NaN for what is not known."""
    return [math.nan if value is None else value for value in values or ()]


def _land_cover(record: TileRecord) -> str | None:
    """Name of the land cover, in lower case."""
    return None if record.land_cover is None else record.land_cover.label.lower()


def _degrees(value: float, signs: str) -> str:
    """Latitude or longitude with its hemisphere."""
    return f"{abs(value):.1f}° {signs[0] if value >= 0 else signs[1]}"
