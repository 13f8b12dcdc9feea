"""Pictures that a training makes as it goes: tiles under their own and changed climates, and texts.

What a grid shows is planned before the first step, so that a mistake in its settings is found then
and every text is known. A row keeps one noise, at every step: what differs between its pictures is
due to climate, what differs between steps to training.

Longer than the budget because planning, making and writing a grid are read together.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ecomap.card import BundleCard
from ecomap.climate import Change, apply_changes
from ecomap.conditions import EMPTY_PROMPT
from ecomap.errors import ConfigError, DataError, EcomapError, RequestError
from ecomap.model import Bundle
from ecomap.outputs import Pixels, contact_sheet, synthetic_name
from ecomap.prompt import MONTH_NAMES, Prompt
from ecomap.request import known_to, parse_changes
from ecomap.sample import generate_images, prompt_of
from ecomap.schema import CLIMATE, TileRecord
from ecomap.training_report import IMAGES_FOLDER
from ecomap.transformer_config import ShowConfig
from ecomap.validation import evaluating

VARIABLES = {variable.short: name for name, variable in CLIMATE.items()}
"""Climate variables by their names on the command line."""

BATCH = 4
"""Pictures made at a time: training leaves little memory."""

NO_PICTURE = 236
"""Grey of a cell without a picture."""

MIN_LAND_FRAC = 0.8
"""Tiles with less land are shown only where there are no others: sea tells nothing of climate."""


@dataclass(frozen=True)
class Cell:
    """One picture of a grid: a frame, or an image to make of a record or a text."""

    caption: str
    frame: Pixels | None = None
    record: TileRecord | None = None
    prompt: Prompt | None = None
    seed: int = 0
    tile: int = -1
    """Which tile it belongs to; -1 for none."""
    is_photograph: bool = True
    """Whether a frame is one, and no drawing such as edges."""

    @property
    def is_real(self) -> bool | None:
        """Whether it shows a real frame, or something made; ``None`` for neither."""
        if self.frame is not None:
            return True if self.is_photograph else None
        return False if self.is_made else None

    @property
    def is_made(self) -> bool:
        """Whether there is anything to make."""
        return self.record is not None or self.prompt is not None


@dataclass(frozen=True)
class SampleGrid:
    """What a training shows, the same at every step."""

    cells: tuple[Cell, ...]
    columns: int
    size_px: int
    steps: int
    guidance: float

    def prompts(self) -> list[Prompt]:
        """Every text that its pictures need, that of guidance's opposite too."""
        return [EMPTY_PROMPT, *(_text(cell) for cell in self.cells if cell.is_made)]


def check_show(show: ShowConfig) -> None:
    """Refuse changes of climate that cannot be read.

    Raises:
        ConfigError: If an entry of ``sweep`` is not ``variable=change``.
    """
    for text in show.sweep:
        parse_sweep(text)


def parse_sweep(text: str) -> dict[str, Change]:
    """Changes by climate variable, from ``temperature=-6`` or ``temperature=+4,precipitation=x2``.

    Raises:
        ConfigError: If a variable is unknown, or a change cannot be read.
    """
    asked: dict[str, str | None] = {}
    for part in text.split(","):
        name, equals, change = part.partition("=")
        if not equals or name.strip() not in VARIABLES:
            raise ConfigError(
                f"show.sweep has {text!r}. Expected variable=change with a variable of "
                f"{', '.join(VARIABLES)}; write it like temperature=-6 or precipitation=x0.3."
            )
        asked[name.strip()] = change
    try:
        return parse_changes(asked)
    except RequestError as error:
        raise ConfigError(f"show.sweep has {text!r}. {error}") from None


def choose_tiles(records: Sequence[TileRecord], num: int) -> list[int]:
    """Which held-out tiles are worth showing: clear land, far apart in the list, in all seasons.

    Args:
        records: Held-out tiles.
        num: How many at most.

    Returns:
        Positions in the list.
    """
    shares = [1.0 if record.land_frac is None else record.land_frac for record in records]
    land = [position for position, share in enumerate(shares) if share >= MIN_LAND_FRAC]
    land = [position for position in land if not records[position].flags] or land
    places: dict[str, list[int]] = {}
    for position in land or range(len(records)):
        places.setdefault(records[position].place_id, []).append(position)
    groups = list(places.values())
    num = min(num, len(groups))
    spread = [groups[(2 * k + 1) * len(groups) // (2 * num)] for k in range(num)]
    return [group[k * len(group) // num] for k, group in enumerate(spread)]


def plan_grid(
    records: Sequence[TileRecord],
    frames: Sequence[Pixels],
    card: BundleCard,
    show: ShowConfig,
    *,
    seed: int,
    references: Sequence[tuple[str, Pixels, bool]] = (),
) -> SampleGrid:
    """Plan a grid: a row for each tile, real frame first, and texts below.

    Args:
        records: Held-out tiles; at most ``show.num_tiles`` are shown.
        frames: Their frames, uint8 ``(H, W, 3)``, of which the middle is shown.
        card: Of the model that will be shown: its size, and what climate it knows.
        show: What to show.
        seed: Of the first row's noise; each row has its own.
        references: For each tile what a ControlNet is shown: in words, as picture, and whether
            that is a photograph.

    Raises:
        ConfigError: If a change of climate cannot be read.
        DataError: If a frame is smaller than the model's images.
    """
    size, shown = card.image_size_px, range(min(show.num_tiles, len(records)))
    sweep = [parse_sweep(text) for text in show.sweep]
    cells = []
    for tile in shown:
        record = records[tile]
        cells.append(Cell(f"{_where(record)}\n{_climate(record)}", _middle(frames[tile], size)))
        if references:
            words, picture, is_real = references[tile]
            cells.append(Cell(f"control: {words}", _middle(picture, size), is_photograph=is_real))
        row = [_changed_cell(record, changes, card) for changes in ({}, *sweep)]
        cells += [replace(cell, seed=seed + tile, tile=tile) for cell in row]
    columns = len(cells) // len(shown) if shown else max(1, len(show.prompts))
    texts = [Cell(f"text alone: {text}", prompt=Prompt(text, text)) for text in show.prompts]
    cells += [replace(cell, seed=seed + len(shown) + k) for k, cell in enumerate(texts)]
    return SampleGrid(tuple(cells), columns, size, show.steps, show.guidance)


def make_pictures(
    bundle: Bundle, grid: SampleGrid, *, controls: Tensor | None = None
) -> list[Pixels]:
    """Make the pictures of a grid; real frames are passed on. Dropout is off meanwhile.

    Args:
        bundle: The model as it is now.
        grid: What to show.
        controls: What the bundle's ControlNet sees of each tile ``(T, C + extra, h, w)``.

    Returns:
        uint8 ``(H, W, 3)``, one a cell; grey where nothing can be made.
    """
    blank = np.full((grid.size_px, grid.size_px, 3), NO_PICTURE, np.uint8)
    pictures = [blank if cell.frame is None else cell.frame for cell in grid.cells]
    made = [place for place, cell in enumerate(grid.cells) if cell.is_made]
    of_tiles = [place for place in made if grid.cells[place].tile >= 0]
    of_texts = [place for place in made if grid.cells[place].tile < 0]
    with ExitStack() as stack:
        for module in (*bundle.modules().values(), bundle.controlnet):
            if module is not None:
                stack.enter_context(evaluating(module))
        for places, seen in ((of_tiles, controls), (of_texts, None)):
            cells = [grid.cells[place] for place in places]
            control = None if seen is None else seen[[cell.tile for cell in cells]]
            for place, image in zip(places, _make(bundle, grid, cells, control), strict=True):
                pictures[place] = image
    return pictures


def _make(
    bundle: Bundle, grid: SampleGrid, cells: Sequence[Cell], control: Tensor | None
) -> Sequence[Pixels]:
    """Images of cells."""
    if not cells:
        return []
    images = generate_images(
        bundle,
        [cell.record for cell in cells],
        seeds=[cell.seed for cell in cells],
        prompts=[_text(cell) for cell in cells],
        steps=grid.steps,
        guidance=grid.guidance,
        control=control,
        batch_size=BATCH,
    )
    return list(images)


def write_grid(
    folder: Path, grid: SampleGrid, pictures: Sequence[Pixels], step: int
) -> Path | None:
    """Write a grid into a run's folder, with words under each picture.

    Args:
        folder: Run folder.
        grid: What is shown.
        pictures: Of each cell.
        step: Number of finished steps.

    Returns:
        The PNG, which is marked as synthetic; ``None`` for an empty grid.
    """
    if not grid.cells:
        return None
    path = folder / IMAGES_FOLDER / synthetic_name(f"step_{step:08d}", ".png")
    contact_sheet(
        path,
        pictures,
        [cell.caption for cell in grid.cells],
        grid.columns,
        f"Step {step:,}: held-out tiles. A row has one noise; {grid.steps} solver steps, "
        f"guidance {grid.guidance:g}",
        is_real=[cell.is_real for cell in grid.cells],
    )
    return path


def _changed_cell(record: TileRecord, changes: Mapping[str, Change], card: BundleCard) -> Cell:
    """A tile under a changed climate, or its own; where that cannot be shown, the reason."""
    words = ", ".join(_change_words(name, change) for name, change in changes.items())
    unknown = [
        CLIMATE[name].label.lower() for name in changes if name not in card.trained_variables
    ]
    if unknown:
        return Cell(f"{words}\nnot made: training data have no {' or '.join(unknown)}")
    try:
        told = known_to(apply_changes(record, changes), card)
    except EcomapError as error:
        why = str(error).split(". ")[0].split(";")[0]
        return Cell(f"{words}\nnot made: {why}")
    assert told is not None
    return Cell(f"{words or 'its own climate'}\n{_climate(told)}", record=told)


def _change_words(name: str, change: Change) -> str:
    """A change with the unit of what it changes."""
    unit = "" if change.kind == "factor" else f" {CLIMATE[name].unit}"
    return f"{CLIMATE[name].label.lower()} {change.text}{unit}"


def _where(record: TileRecord) -> str:
    """Position and month of a tile, and its land cover where that is known."""
    lat = f"{abs(record.lat):.1f}°{'N' if record.lat >= 0 else 'S'}"
    lon = f"{abs(record.lon):.1f}°{'E' if record.lon >= 0 else 'W'}"
    cover = "" if record.land_cover is None else f", {record.land_cover.label}"
    return f"{lat} {lon}, {MONTH_NAMES[record.month_index]}{cover}"


def _climate(record: TileRecord) -> str:
    """What is known of the climate of a tile's month."""
    known = [(CLIMATE[name], getattr(record, name)) for name in CLIMATE]
    return ", ".join(f"{v:.{c.decimals}f} {c.unit}" for c, v in known if v is not None)


def _text(cell: Cell) -> Prompt:
    """Text of a cell's image."""
    if cell.prompt is not None:
        return cell.prompt
    return EMPTY_PROMPT if cell.record is None else prompt_of(cell.record)


def _middle(frame: Pixels, size_px: int) -> Pixels:
    """Window of the model's size in the middle of a frame."""
    top, left = ((side - size_px) // 2 for side in frame.shape[:2])
    if min(top, left) < 0:
        raise DataError(
            f"A held-out frame is {frame.shape[1]} x {frame.shape[0]} px. Expected at least "
            f"{size_px} px, the size of the model's images; set crop_px to a size that fits."
        )
    return frame[top : top + size_px, left : left + size_px]
