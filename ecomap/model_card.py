"""A bundle's card in words, as the README that model hubs show: data, licence, metrics, limits."""

from collections.abc import Mapping
from typing import Any

from ecomap.card import BundleCard, Door
from ecomap.schema import CLIMATE

README_FILE = "README.md"

DOOR_WORDS: dict[Door, str] = {"text": "a prompt", "tokens": "climate tokens"}

NOT_SAID = "Not stated."

HUB_LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc0-1.0"}
"""Licences that model hubs know by these names; others are ``other`` there."""


def front_matter(card: BundleCard, **more: str) -> str:
    """Head of a README that model hubs read.

    Args:
        card: Whose licence and name.
        more: Further keys, such as ``base_model``.
    """
    known = card.license.lower() in HUB_LICENSES
    keys = {"license": card.license.lower() if known else "other"}
    if not known and card.license:
        keys["license_name"] = card.license
    keys |= {"library_name": "diffusers", "pipeline_tag": "text-to-image"} | more
    lines = [f"{name}: {value!r}" for name, value in keys.items()]
    return "\n".join(["---", *lines, "tags: [ecomap, climate, satellite-imagery]", "---"])


def sections(card: BundleCard) -> list[str]:
    """What any model card must say: use, limits, data, training, metrics, licence."""
    training = card.training
    facts = {k: v for k, v in training.items() if isinstance(v, str | int | float)}
    return [
        f"## Intended use\n\n{_use(card)}",
        f"## Limits\n\n{card.limits or NOT_SAID}",
        f"## Data\n\n{card.imagery or NOT_SAID}\n\n{bullets(card.attribution)}",
        f"## Training\n\n{bullets(f'{name}: {value}' for name, value in facts.items())}",
        f"## Metrics\n\n{_metrics(training.get('metrics'))}",
        f"## Licence\n\n{card.license or NOT_SAID}",
    ]


def bundle_readme(card: BundleCard) -> str:
    """README of a bundle."""
    how = (
        "A bundle of ecomap in the layout of diffusers' "
        "`StableDiffusion3Pipeline`, which loads it as it is and reads its prompt only.\n\n"
        "```\necomap generate --bundle FOLDER --lat 14.5 --lon -4.2 --month 8\n```"
    )
    head = [front_matter(card), f"# {card.name} {card.version}", how]
    return "\n\n".join([*head, *sections(card)]) + "\n"


def bullets(lines: Any) -> str:
    """Lines as a list; one that says so where there are none."""
    return "\n".join(f"- {line}" for line in lines) or NOT_SAID


def _use(card: BundleCard) -> str:
    """What the model makes, and for what."""
    doors = " and ".join(DOOR_WORDS[door] for door in card.doors)
    known = ", ".join(
        variable.label.lower() for name, variable in CLIMATE.items()
        if name in card.trained_variables
    )  # fmt: skip
    return (
        f"Pictures of {card.image_size_px} x {card.image_size_px} px at "
        f"{card.ground_sampling_distance_m:g} m, told by {doors}, of how land of a given climate "
        "looks: for research, teaching and illustration. They are synthetic: not for decisions "
        f"about real places. Climate that it knows: {known or 'none'}."
    )


def _metrics(metrics: Mapping[str, Any] | None) -> str:
    """Metrics as a table."""
    if not metrics:
        return "Not measured yet: `ecomap evaluate` does."
    rows = [f"| {name} | {value} |" for name, value in metrics.items()]
    return "\n".join(["| metric | value |", "|---|---|", *rows])
