"""Scores that others published, as data, each with the reasons why ours may not be set beside it.

The numbers are those printed in the paper, unmended: two CLIP scores above 1, which no cosine can
reach, stand as they were printed and say so.
"""

import csv
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ecomap.errors import DataError
from ecomap.schema import LAND_COVER_LABELS
from ecomap.tiles import EXTREMES

PUBLISHED_PATH = Path(__file__).parent / "resources" / "published_scores.csv"

PAPERS = {
    "https://openreview.net/forum?id=YUtJsxQjv3": "Goktepe et al. (2025), EcoMapper: Generative "
    "Modeling for Climate-Aware Satellite Imagery, ICML 2025, PMLR 267:19734-19754",
}
"""Papers by the address that the rows give as their source."""

REASONS = {
    "other_data": "measured on other places, months and sensors",
    "jpeg": "generated images were stored as JPEG of quality 75 and real ones as PNG, which alone "
    "costs SSIM and moves every distance between features",
    "unequal_n": "rows stand for different and unstated numbers of images, and the Fréchet "
    "distance rises as that number falls: over classes it follows the logarithm of their share "
    "of the images (r = -0.98)",
    "other_features": "measured in another feature space: Inception v3 for FID and IS, AlexNet "
    "for LPIPS",
    "clip_batches": "sum of the means of batches divided by the number of images: a last batch "
    "that is not full inflates it",
    "clip_without_climate": "the text that was scored names no climate",
    "impossible": "above 1, which no cosine can be",
    "other_window": "SSIM with a uniform window of 7 pixels, ours with a Gaussian one",
    "unpaired": "image and real tile share a prompt, and not the picture that the model was given",
    "unknown_run": "the recipe with dropout is SD3-FT's, whose FID in Table 1 is another",
}
"""Why a published number is not comparable, by the code that its row gives."""

PublishedMetric = Literal["FID", "CLIP", "SSIM", "PSNR", "LPIPS", "IS", "share_percent"]
"""As the paper names it: CLIP as a cosine, PSNR in dB; ``share_percent`` is the row's share of the
test images, not a score."""


def _split(text: object) -> object:
    """Codes of a cell, which separates them by semicolons."""
    return tuple(filter(None, text.split(";"))) if isinstance(text, str) else text


class PublishedScore(BaseModel):
    """One number of a table in a paper, and whether ours may stand beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str
    """Address of the paper, a key of `PAPERS`."""
    table: int = Field(ge=1)
    """Number of the table in the paper."""
    model: str = Field(min_length=1)
    group_kind: Literal["all", "land_cover", "year", "extreme", "prompt"]
    """As in `ecomap.scores.Score`; ``prompt`` is a way to write prompts."""
    group: str
    """Named as ours: land cover by its label, extremes as in `ecomap.tiles.EXTREMES`."""
    metric: PublishedMetric
    value: float
    comparable: bool
    """Whether our value of the same name may be set beside it."""
    reasons: Annotated[tuple[str, ...], BeforeValidator(_split)]
    """Codes of `REASONS`; at least one where it is not comparable."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "PublishedScore":
        groups = {
            "all": {"all"},
            "land_cover": set(LAND_COVER_LABELS.values()),
            "extreme": set(EXTREMES),
            "year": {str(year) for year in range(1972, 2100)},
        }
        if self.source not in PAPERS:
            raise ValueError(f"source {self.source!r} is no address of PAPERS")
        if self.group not in groups.get(self.group_kind, {self.group}):
            raise ValueError(f"group {self.group!r} is no {self.group_kind.replace('_', ' ')}")
        if unknown := set(self.reasons) - set(REASONS):
            raise ValueError(f"reasons {sorted(unknown)} are not in REASONS")
        if self.comparable == bool(self.reasons):
            raise ValueError("comparable must be true without reasons, and false with some")
        return self

    @property
    def why(self) -> str:
        """Reasons in words; empty where it is comparable."""
        return "; ".join(REASONS[code] for code in self.reasons)

    @property
    def paper(self) -> str:
        """Authors, year, title and volume."""
        return PAPERS[self.source]


def read_published(path: Path = PUBLISHED_PATH) -> list[PublishedScore]:
    """Read and check a table of published scores.

    Args:
        path: CSV whose columns are the fields of `PublishedScore`.

    Raises:
        DataError: If it cannot be read, a row is wrong (the message names its line) or two rows
            state the same number.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                _read_row(row, f"{path}, row {i}") for i, row in enumerate(csv.DictReader(file), 2)
            ]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    names = Counter((r.source, r.table, r.model, r.group_kind, r.group, r.metric) for r in rows)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DataError(f"{path} states {twice[0][1:]} more than once. Keep one row of each.")
    return rows


@lru_cache(maxsize=1)
def published_scores() -> tuple[PublishedScore, ...]:
    """EcoMapper's Tables 1, 2, 3, 5, 7, 8 and 9, which ship with the package; read once."""
    return tuple(read_published())


def _read_row(row: dict[str, str], where: str) -> PublishedScore:
    """One row, or an error that says where it is."""
    try:
        return PublishedScore.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "row"
        raise DataError(f"{where}: {field}: {first['msg']}. Mend the row.") from None
