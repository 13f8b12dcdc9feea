"""The film in the page of a sequence: which frames it holds, how large, and the words under each.

Frames are JPEG copies in base64, so that the page needs no other file; each carries the marks of
synthetic images. Sizes and months are chosen so that the film keeps to `FILM_BYTES`.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ecomap.outputs import XMP, Pixels
from ecomap.page import UNKNOWN
from ecomap.schema import CLIMATE, TileRecord, months_between
from ecomap.sequence import SequenceFolder, SequencePlan
from ecomap.sequence_measures import Measured, ensemble_table
from ecomap.sequence_plots import looks_of, support_levels

FILM_BYTES = 6_000_000
"""What the frames of the film may take as JPEG; base64 makes a third more of it."""

SIDES_PX = (512, 384, 256, 192, 128)
"""Sides to which frames are brought, the largest for which the film fits."""

JPEG_QUALITY = 82

LEVEL_WORDS = {
    "near the edge": "climate near the training's edge",
    "outside": "⚠ climate outside the training",
    "not known": "climate not compared",
}
"""What stands under a frame by its level of `ecomap.sequence_plots.SUPPORT_LOOKS`."""

NUM_PROBES = 9
"""Frames that are encoded to find out how large a film will be."""


@dataclass(frozen=True)
class Film:
    """Frames of a sequence as they stand in its page."""

    positions: tuple[int, ...]
    """Which months of each timeline are shown."""
    side_px: int
    """Longer side of the pictures."""
    members: int
    """How many members are shown, from 0 on."""
    frames: tuple[tuple[tuple[str, ...], ...], ...]
    """JPEG in base64 by scenario, member and position."""


def film_of(folder: SequenceFolder, *, most_bytes: int = FILM_BYTES) -> Film:
    """Choose size, months and members of which the JPEG files fit, and encode their frames.

    Sizes are tried first; if even the smallest is too large, every second, third ... year is
    shown, and the last. Further members are shown where there is room for them.

    Args:
        folder: A sequence with all its frames.
        most_bytes: About what the JPEG files may take together.
    """
    plan = folder.plan
    months = max((timeline.months for timeline in plan.timelines), key=len)
    positions, probes = tuple(range(len(months))), _probes(folder)
    for side in SIDES_PX:
        cost = len(plan.timelines) * sum(len(encode_jpeg(p, side)) for p in probes) / len(probes)
        if cost * len(positions) <= most_bytes:
            break
    else:
        positions = _every_few_years(months, int(most_bytes / cost))
    members = min(max(int(most_bytes / (cost * len(positions))), 1), plan.members)
    frames = tuple(
        tuple(
            tuple(
                to_base64(encode_jpeg(folder.read(t.name, member, t.months[position]), side))
                for position in positions
                if position < len(t.months)
            )
            for member in range(members)
        )
        for t in plan.timelines
    )
    return Film(positions, min(side, max(probes[0].shape[:2])), members, frames)


def encode_jpeg(image: Pixels, side_px: int, *, is_synthetic: bool = True) -> bytes:
    """A JPEG copy whose longer side is at most ``side_px``, with the marks of synthetic images.

    Colours keep their full resolution: greenness is what the reader looks for.
    """
    picture, buffer = Image.fromarray(image), io.BytesIO()
    scale = side_px / max(picture.size)
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((size[0], size[1]), Image.Resampling.BOX)
    marks = {"xmp": XMP.encode()} if is_synthetic else {}
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True, **marks)
    return buffer.getvalue()


def _probes(folder: SequenceFolder) -> list[Pixels]:
    """Frames of member 0, spread over scenarios and months."""
    frames = [(s, r.month) for s, member, r in folder.frames() if member == 0]
    chosen = frames[:: -(-len(frames) // NUM_PROBES)]
    return [folder.read(scenario, 0, month) for scenario, month in chosen]


def _every_few_years(months: Sequence[str], most: int) -> tuple[int, ...]:
    """Positions of months in every second, third ... year and the last, at most about ``most``."""
    years = sorted({month[:4] for month in months})
    stride = min(len(years), -(-len(months) // max(most, 1)))
    kept = {*years[::stride], years[-1]}
    return tuple(i for i, month in enumerate(months) if month[:4] in kept)


def to_base64(content: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(content).decode("ascii")


def scenario_data(frames: pd.DataFrame, film: Film, number: int, name: str) -> dict[str, Any]:
    """What the page's script knows of a scenario, from the rows that were measured."""
    own = frames[frames["scenario"] == name]
    members = [_shown(own[own["member"] == member], film) for member in range(film.members)]
    return {
        "months": members[0]["month"].tolist(),
        "climate": [climate_words(row) for row in members[0].to_dict("records")],
        "support": [
            {"level": level, "words": LEVEL_WORDS.get(level, "")}
            for level in support_levels(members[0])
        ],
        "read": [
            [read_words(*pair) for pair in zip(m["greenness"], m["snow_frac"], strict=True)]
            for m in members
        ],
        "frames": film.frames[number],
    }


def spark_data(plan: SequencePlan, measured: Measured, film: Film) -> list[dict[str, Any]]:
    """Small curves under the film: means over all members, in a box of 1000 x 100."""
    table, looks, found = ensemble_table(measured.frames).reset_index(), looks_of(plan), []
    for name, words in (("greenness", "Greenness"), ("snow_frac", "Snow fraction of land")):
        shown = {
            scenario: _shown(table[table["scenario"] == scenario], film)[f"{name}_mean"]
            for scenario in looks
        }
        known = pd.concat(list(shown.values())).dropna()
        if known.empty or (name == "snow_frac" and not known.any()):
            continue
        low, high = (0.0, 1.0) if name == "snow_frac" else (known.min(), known.max())
        lines = [
            {
                "colour": look.colour,
                "width": look.width,
                "points": _points(shown[scenario], len(film.positions), low, high),
            }
            for scenario, look in looks.items()
        ]
        label = (
            f"{words}, {low:.3g} to {high:.3g}: means over members. The upright line: this month."
        )
        found.append({"lines": lines, "label": label})
    return found


def _shown(rows: pd.DataFrame, film: Film) -> pd.DataFrame:
    """Rows of the months that the film shows, of the rows of all months of a scenario."""
    return rows.iloc[[position for position in film.positions if position < len(rows)]]


def _points(values: pd.Series, num_steps: int, low: float, high: float) -> str:
    """Points of a line in a box of 1000 x 100."""
    step, scale = 1000 / max(num_steps - 1, 1), 90 / max(high - low, 0.02)
    return " ".join(
        f"{number * step:.1f},{95 - scale * (value - low):.1f}"
        for number, value in enumerate(values)
        if np.isfinite(value)
    )


def film_words(plan: SequencePlan, film: Film) -> str:
    """What is shown of the sequence and what is not."""
    total = max(len(timeline.records) for timeline in plan.timelines)
    shown = "Every month of the sequence"
    if len(film.positions) < total:
        shown = (
            f"{len(film.positions)} of {total} months (whole years, so that the page stays small)"
        )
    told = f" Members 0 to {film.members - 1} of {plan.members} can be chosen."
    if film.members == 1:
        told = "" if plan.members == 1 else f" Member 0 of {plan.members} is shown."
    return (
        f"{shown}, all scenarios with the same noise.{told} Copies of at most {film.side_px} px, "
        "compressed: read values off the files of the folder, not off these."
    )


def pair_position(start: TileRecord, months: Sequence[str]) -> int:
    """The last month with the start's calendar month, or with the one nearest to it."""
    gaps = [(months_between(start.month, month) + 6) % 12 - 6 for month in months]
    nearest = min(abs(gap) for gap in gaps)
    return max(i for i, gap in enumerate(gaps) if abs(gap) == nearest)


def climate_words(values: Mapping[Any, Any]) -> str:
    """Climate of a month on one line."""
    known = [
        f"{values[name]:.{variable.decimals}f} {variable.unit}".replace("-", "−")
        for name, variable in CLIMATE.items()
        if values.get(name) is not None and np.isfinite(values[name])
    ]
    return " · ".join(known) or "climate not known"


def read_words(greenness: float, snow_frac: float) -> str:
    """What was read off an image, on one line."""
    green = UNKNOWN if np.isnan(greenness) else f"{greenness:.3f}"
    snow = UNKNOWN if np.isnan(snow_frac) else f"{100 * snow_frac:.0f} %"
    return f"greenness {green} · snow {snow}"
