"""The model card of a bundle: what it was trained on, and what it can be asked.

A card is read without torch, so that requests can be checked before anything heavy is loaded.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecomap.errors import BundleError, RequestError
from ecomap.schema import CLIMATE, describe_validation, write_json

CARD_FILE = "ecomap.json"

Door = Literal["text", "tokens"]
"""Ways by which climate reaches the model: the prompt, and the tokens of the climate encoder."""

DOORS: tuple[Door, ...] = ("text", "tokens")

Grid = Literal["geographic", "utm"]
"""Pixels of equal degrees (EPSG:4326), or of equal metres in the UTM zone of the centre."""


class BundleCard(BaseModel):
    """Facts about a bundle. The defaults describe a base model that knows no climate door."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str = "0"
    image_size_px: int = Field(default=512, gt=0)
    """Side of the square image that it was trained for."""
    ground_sampling_distance_m: float = Field(default=10.0, gt=0)
    """Nominal size of a pixel on the ground (geographic grids: north-south)."""
    grid: Grid = "utm"
    doors: tuple[Door, ...] = ("text",)
    trained_variables: tuple[str, ...] = tuple(CLIMATE)
    """Climate variables that its training data know; others have no effect."""
    trained_anomalies: bool = False
    """Whether its training data know how a month differs from its normals. Where they do not, a
    month's values stand for its climate, in training and in sampling."""
    min_land_frac: float = Field(default=0.0, ge=0, le=1)
    """Least fraction of land in the tiles that it was trained on."""
    t5_null_tokens: int = Field(default=256, ge=0)
    """Zero tokens that stand for an absent T5 encoder: the stock pipeline's sequence length."""
    uses_t5: bool = True
    """Whether it was trained with the T5 of its base, where that has one."""
    imagery: str = ""
    """What its training images are, in words."""
    limits: str = ""
    """What it must not be used for, in words."""
    license: str = ""
    attribution: tuple[str, ...] = ()
    training: dict[str, Any] = {}
    """Settings and figures of its training."""


def parse_doors(text: str) -> tuple[Door, ...]:
    """Ways by which the climate enters, from ``text``, ``tokens``, ``text,tokens`` or ``none``.

    Raises:
        RequestError: If a name is unknown.
    """
    names = [] if text.strip() == "none" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in DOORS]:
        raise RequestError(
            f"Door {unknown[0]!r} is unknown. Choose from {', '.join(DOORS)}, or none."
        )
    return tuple(door for door in DOORS if door in names)


def training_digests(card: BundleCard) -> set[str | None]:
    """Digests of the places of all trainings behind a bundle; None for one that names none."""
    found: set[str | None] = set()
    training: dict[str, Any] | None = card.training
    while training is not None:
        found.add(training.get("places_sha256"))
        training = training.get("started_from")
    return found


def read_card(folder: Path, *, name: str | None = None) -> BundleCard:
    """Read the card of a bundle; a folder without one is a plain base model.

    Raises:
        BundleError: If the card is damaged or breaks its rules.
    """
    path = folder / CARD_FILE
    if not path.exists():
        return BundleCard(name=name or folder.name)
    try:
        return BundleCard(**json.loads(path.read_text()))
    except ValidationError as error:
        raise BundleError(f"{path}: {describe_validation(error, BundleCard)}") from None
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path} is damaged: {error}. Restore the bundle.") from None


def write_card(folder: Path, card: BundleCard) -> None:
    """Write a card into a bundle."""
    write_json(folder / CARD_FILE, card.model_dump(mode="json"))
