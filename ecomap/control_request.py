"""A ControlNet and its image in a request: from files that a user names to a control."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from ecomap.adapter_card import merged_adapter
from ecomap.card import DOORS
from ecomap.controlnet_files import (
    load_controlnet,
    load_edit_head,
    read_control_spec,
    read_controlnet_card,
)
from ecomap.controls import EDGE_CHANNELS, ControlSpec, encode_control
from ecomap.errors import BundleError, RequestError
from ecomap.imagery import read_image
from ecomap.model import CLIMATE_ENCODER_FOLDER, Bundle, load_climate_encoder
from ecomap.schema import MONTH_PATTERN, TileRecord, months_between, unique
from ecomap.versions import fingerprint

GIVEN_CHANNELS = ("reference_valid", "months_gap", *EDGE_CHANNELS)
"""Control channels that `ecomap.controls.encode_control` makes of an image and its month."""


@dataclass(frozen=True, kw_only=True)
class ControlRequest:
    """What a user says of a control."""

    controlnet: Path
    """Folder of a ControlNet."""
    image: Path
    """Image of the place, of which the ControlNet sees what it was trained to see."""
    scale: float = 1.0
    month: str | int | None = None
    """Month of the image: ``YYYY-MM``, or a number from 1 to 12 for the last such month before the
    target's."""
    detector_weights: Path | None = None
    """Folder of the weights of the ControlNet's detector, where it has any."""


@dataclass(frozen=True, kw_only=True)
class OpenedControl:
    """A request's control, ready for `ecomap.sample.generate_images`."""

    bundle: Bundle
    """The model, with the ControlNet beside it."""
    control: Tensor
    """``(1, C + extra, h, w)``."""
    provenance: dict[str, Any]
    """ControlNet, image and settings, for the files of the result."""
    notes: list[str] = field(default_factory=list)
    """What the reader must know."""


def check_control_options(
    controlnet: Path | None,
    image: Path | None,
    scale: float,
    month: str | int | None,
    detector_weights: Path | None,
) -> None:
    """Refuse options of a control that would have no effect.

    Raises:
        RequestError: If a ControlNet or its image is missing.
    """
    if (controlnet is None) != (image is None):
        raise RequestError(
            "controlnet and control_image belong together: a ControlNet, and the image that it "
            "sees. Give both or neither."
        )
    given = {
        "control_scale": scale != 1,
        "control_month": month is not None,
        "detector_weights": detector_weights is not None,
    }
    if controlnet is None and any(given.values()):
        name = next(name for name, is_given in given.items() if is_given)
        raise RequestError(f"{name} is given without controlnet and control_image. Give them too.")


def use_controlnet(bundle: Bundle, folder: Path) -> Bundle:
    """A bundle with a trained ControlNet beside it, and its attribution on the card.

    A climate encoder that was trained with the ControlNet takes the place of the bundle's, and the
    card tells what that one knows.

    Raises:
        BundleError: If the folder holds none, or one of another base.
    """
    controlnet, spec = load_controlnet(folder, bundle.transformer)
    head = load_edit_head(folder).to(controlnet.device) if spec.edit else None
    told = read_controlnet_card(folder)
    _check_adapter(bundle, folder, told.get("base") or {})
    if not told.get("uses_t5", True):
        bundle = replace(bundle, text_encoder_3=None, tokenizer_3=None, texts=None)
    thanks = unique([*bundle.card.attribution, *map(str, told.get("attribution", ()))])
    changes: dict[str, Any] = {"attribution": tuple(thanks)}
    changes |= {name: told[name] for name in ("t5_null_tokens", "uses_t5") if name in told}
    encoder = bundle.climate_encoder
    if (folder / CLIMATE_ENCODER_FOLDER).is_dir():
        encoder = load_climate_encoder(folder / CLIMATE_ENCODER_FOLDER).to(bundle.device)
        known = told.get("trained_variables", bundle.card.trained_variables)
        changes |= {
            "doors": DOORS,
            "trained_variables": tuple(known),
            "trained_anomalies": bool(told.get("trained_anomalies", False)),
        }
    for network in (controlnet, encoder, head):
        if network is not None:
            network.eval().requires_grad_(False)
    card = bundle.card.model_copy(update=changes)
    return replace(
        bundle,
        controlnet=controlnet,
        controlnet_path=folder,
        control=spec,
        edit_head=head,
        climate_encoder=encoder,
        card=card,
    )


def _check_adapter(bundle: Bundle, folder: Path, base: Mapping[str, str]) -> None:
    """Refuse a bundle without the adapter that a ControlNet was trained beside, or with another."""
    wanted, own = base.get("adapter_sha256"), merged_adapter(bundle).get("adapter_sha256")
    if base and wanted != own:
        with_it = "no adapter" if wanted is None else f"the adapter {base.get('adapter')}"
        raise BundleError(
            f"The ControlNet {folder} was trained beside {base.get('name')} with {with_it}; "
            f"{bundle.name} has {'none' if own is None else 'another'}. Give the same with "
            "--adapter, or none."
        )


def fitting_command(spec: ControlSpec) -> Literal["generate", "evolve"] | None:
    """The command of ecomap that gives a ControlNet all that it was trained on; None if none does.

    `generate` has one image and its month. `evolve` adds climate maps and the season of its
    reference, and holds what an edit must not change; its images are references.
    """
    if set(spec.channels) <= set(GIVEN_CHANNELS) and not spec.edit:
        return "generate"
    return "evolve" if spec.image == "reference" else None


def open_control_request(
    bundle: Bundle, request: ControlRequest, target: TileRecord | None
) -> OpenedControl:
    """Load a ControlNet and what it is to see.

    Args:
        bundle: The base.
        request: Files and settings.
        target: What is to be shown; ``None`` for a text, which has no month.

    Raises:
        BundleError: If the ControlNet cannot be loaded beside this base.
        ConfigError: If a detector lacks its weights.
        DataError: If the image cannot be read.
        RequestError: If the ControlNet needs more than an image and its month, the image is not
            square, or the months are missing or contradictory.
    """
    spec = read_control_spec(request.controlnet)
    _check_command(request.controlnet, spec)
    loaded = use_controlnet(bundle, request.controlnet)
    frame, notes = _read_square(request.image, loaded.card.image_size_px)
    gap = None if request.month is None else _gap(request.month, target, spec)
    if gap is not None and not 1 <= gap <= spec.max_gap_months:
        where = f"{gap} months before it" if gap > 0 else f"{-gap} months after it"
        notes.append(
            f"The ControlNet learnt from images 1 to {spec.max_gap_months} months before their "
            f"target; this one is {where}."
        )
    control = encode_control(
        spec, loaded.vae, frame[None], gap_months=gap, weights=request.detector_weights
    )
    provenance = {
        "controlnet": request.controlnet.name,
        "controlnet_sha256": fingerprint(sorted(request.controlnet.rglob("*"))),
        "spec": spec.model_dump(mode="json"),
        "image": request.image.name,
        "image_sha256": fingerprint([request.image]),
        "month": None if request.month is None else str(request.month),
        "gap_months": gap,
        "scale": request.scale,
    }
    return OpenedControl(bundle=loaded, control=control, provenance=provenance, notes=notes)


def _check_command(folder: Path, spec: ControlSpec) -> None:
    """Refuse a ControlNet to which one image and its month do not say enough."""
    command = fitting_command(spec)
    if command == "generate":
        return
    others = [name for name in spec.channels if name not in GIVEN_CHANNELS]
    does = f"reads {', '.join(others)}" if others else "changes one month of a place into another"
    use = "Train it without them" if command is None else f"Use ecomap evolve --controlnet {folder}"
    raise RequestError(
        f"The ControlNet {folder} {does}; ecomap generate gives it one image and its month alone. "
        f"{use}."
    )


def _read_square(path: Path, side_px: int) -> tuple[np.ndarray, list[str]]:
    """Image of the model's size, and a note if it had another."""
    image = read_image(path)
    height, width = image.shape[:2]
    if height != width:
        raise RequestError(
            f"{path} is {width} x {height} px; the model makes squares of {side_px} px. Cut a "
            "square of the place that is to be shown."
        )
    if height == side_px:
        return image, []
    filter_ = Image.Resampling.BOX if height > side_px else Image.Resampling.BICUBIC
    resized = np.asarray(Image.fromarray(image).resize((side_px, side_px), filter_))
    note = (
        f"{path.name} is {width} px wide and was resampled to {side_px} px; its pixels must cover "
        "the same ground as the model's."
    )
    return resized, [note]


def _gap(month: str | int, target: TileRecord | None, spec: ControlSpec) -> int:
    """Months from a reference to the target."""
    if target is None:
        raise RequestError(
            "A prompt has no month from which that of the control image could be counted. Leave "
            "out the image's month, or ask for a place and month."
        )
    text = str(month)
    if text.isdecimal() and text.isascii() and 1 <= int(text) <= 12:
        return (target.month_index + 1 - int(text)) % 12 or 12
    if re.fullmatch(MONTH_PATTERN, text) is None:
        raise RequestError(
            f"The control image's month is {text!r}; expected YYYY-MM, or a number from 1 to 12."
        )
    gap = months_between(text, target.month)
    return gap % 12 or 12 if spec.wrap_year else gap
