"""A small network that reads land cover, season and climate off a satellite image.

Its 256 pooled features are the space "eo": images are near in it when they show the same land in
the same season and climate, which ImageNet features were never asked for.

A network is a folder with ``config.json`` (sizes, scales, card) and ``model.safetensors``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ecomap.errors import BundleError
from ecomap.feature_space import (
    PREDICTED_CLIMATE,
    PREDICTED_LAND_COVER,
    PREDICTED_SEASON_MONTH,
    Images,
)
from ecomap.schema import CLIMATE, LandCover, describe_validation, write_json
from ecomap.versions import fingerprint
from ecomap.whole_folders import written_whole

FOLDER = "feature_network"
"""Folder of the network inside a bundle."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

NUM_GROUPS = 8
"""Groups of the normalisation; widths are multiples of it."""
MONTHS = 12

Width = Annotated[int, Field(gt=0, multiple_of=NUM_GROUPS)]


class Scale(BaseModel):
    """How a climate variable is standardised: ``(value - mean) / std``, of log1p where it says."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    log: bool
    """Whether mean and std are those of ``log(1 + value)``: rain spans three orders."""
    mean: float
    std: float = Field(gt=0)

    def standardise(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the variable's unit to the network's; NaN stays."""
        return ((np.log1p(values) if self.log else values) - self.mean) / self.std

    def restore(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the network's unit to the variable's."""
        plain = values * self.std + self.mean
        return np.expm1(plain) if self.log else plain


class FeatureNetworkConfig(BaseModel):
    """Sizes of a network, scales of what it predicts, and its card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_size_px: int = Field(default=128, ge=32)
    """Side to which images are brought."""
    widths: tuple[Width, ...] = Field(default=(32, 64, 128, 256), min_length=1)
    """Channels of each stage, which halves the side; the last is the number of features."""
    blocks: tuple[Annotated[int, Field(gt=0)], ...] = (1, 2, 2, 1)
    """Residual blocks of each stage."""
    climate: dict[str, Scale]
    """Scale of each predicted climate variable, by name in `ecomap.schema.CLIMATE`."""
    card: dict[str, Any] = {}
    """What it is, what it was trained on, and what it scored."""

    def model_post_init(self, context: Any) -> None:
        """Refuse stages without blocks and variables without a meaning."""
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"{len(self.widths)} widths need as many blocks, not {self.blocks}")
        if unknown := sorted(set(self.climate) - set(CLIMATE)):
            raise ValueError(f"climate names {unknown}; expected some of {list(CLIMATE)}")


class Reading(NamedTuple):
    """What the network says of a batch."""

    features: Tensor
    """``(B, D)``, >= 0: mean of the last activations."""
    land_cover: Tensor
    """Logits ``(B, 17)``, by IGBP code less one."""
    season_month: Tensor
    """Logits ``(B, 12)`` of `ecomap.feature_space.season_month`."""
    climate: Tensor
    """Standardised ``(B, V)``, in the order of the config."""


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, with group normalisation.

    References:
        He et al. (2016), Deep Residual Learning for Image Recognition,
        https://arxiv.org/abs/1512.03385; Wu & He (2018), Group Normalization,
        https://arxiv.org/abs/1803.08494
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(NUM_GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, width)
        is_same = width_in == width and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity() if is_same else nn.Conv2d(width_in, width, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, width_in, H, W)`` -> ``(B, width, H / stride, W / stride)``, >= 0."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(inner)))


class FeatureNetwork(nn.Module):
    """Residual network with one linear head a question. It keeps no state between batches.

    The stem and the shortcuts are not normalised: normalised over each image, white winter and
    dark summer would look the same.
    """

    def __init__(self, config: FeatureNetworkConfig) -> None:
        """Build an untrained network."""
        super().__init__()
        self.config = config
        first, width = config.widths[0], config.widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(3, first, 3, stride=2, padding=1), nn.ReLU()]
        before = first
        for own, num in zip(config.widths, config.blocks, strict=True):
            for index in range(num):
                layers.append(ResidualBlock(before, own, stride=2 if index == 0 else 1))
                before = own
        self.trunk = nn.Sequential(*layers)
        self.land_cover = nn.Linear(width, len(LandCover))
        self.season_month = nn.Linear(width, MONTHS)
        self.climate = nn.Linear(width, len(config.climate))

    def forward(self, inputs: Tensor) -> Reading:
        """Read images ``(B, 3, S, S)`` as `to_inputs` gives them."""
        features = self.trunk(inputs).float().mean((2, 3))
        return Reading(
            features,
            self.land_cover(features),
            self.season_month(features),
            self.climate(features),
        )


def to_inputs(images: Images, size_px: int) -> Tensor:
    """Bring images to the network's size and range.

    Args:
        images: uint8 ``(N, H, W, 3)``.
        size_px: Side; other sizes are resized (bilinear, antialiased).

    Returns:
        float32 ``(N, 3, size_px, size_px)``: ``value / 64 - 2``, -2 for black to about 2.
    """
    values = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    if values.shape[2:] != (size_px, size_px):
        values = F.interpolate(values, (size_px, size_px), mode="bilinear", antialias=True)
    return (values / 64 - 2).contiguous(memory_format=torch.channels_last)


def predictions_of(
    reading: Reading, climate: Mapping[str, Scale]
) -> dict[str, NDArray[np.generic]]:
    """Answers in the units of users.

    Args:
        reading: What the network said.
        climate: Scales of the network's variables.

    Returns:
        IGBP code (int64), season month 1 to 12 (int64) and climate (float64, its unit, inside the
        range of `ecomap.schema.CLIMATE`) by column.
    """
    found: dict[str, NDArray[np.generic]] = {
        PREDICTED_LAND_COVER: reading.land_cover.argmax(1).cpu().numpy() + 1,
        PREDICTED_SEASON_MONTH: nearest_month(reading.season_month).cpu().numpy() + 1,
    }
    for index, (name, scale) in enumerate(climate.items()):
        values = scale.restore(reading.climate[:, index].double().cpu().numpy())
        variable = CLIMATE[name]
        found[PREDICTED_CLIMATE[name]] = np.clip(values, variable.minimum, variable.maximum)
    return found


def nearest_month(logits: Tensor) -> Tensor:
    """Month with the least expected circular distance, 0 to 11, of logits ``(B, 12)``.

    May and October look alike in many places; where both are likely, this does not jump to the
    one that is likelier by a hair when months beside the other one are likely too.
    """
    months = torch.arange(MONTHS, device=logits.device)
    apart = (months[:, None] - months[None]).abs()
    distance = torch.minimum(apart, MONTHS - apart).to(logits.dtype)
    return (logits.softmax(1) @ distance).argmin(1)


def save_feature_network(network: FeatureNetwork, folder: Path) -> None:
    """Write config and weights, these in half precision, whole or not at all.

    `load_feature_network` reads them. Raises `DataError` if the disk has no room.
    """
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    with written_whole(folder) as temporary:
        write_json(temporary / CONFIG_FILE, network.config.model_dump(mode="json"))
        save_file(weights, temporary / WEIGHTS_FILE)


def load_feature_network(folder: Path) -> FeatureNetwork:
    """Load a network, in float32 and evaluation mode, frozen.

    Args:
        folder: What `save_feature_network` wrote, or a bundle that holds it.

    Raises:
        BundleError: If files are missing or damaged, or do not fit each other.
    """
    folder = network_folder(folder)
    try:
        config = FeatureNetworkConfig(**json.loads((folder / CONFIG_FILE).read_text()))
        network = FeatureNetwork(config)
        weights = load_file(folder / WEIGHTS_FILE)
        network.load_state_dict({name: value.float() for name, value in weights.items()})
    except ValidationError as error:
        reason = describe_validation(error, FeatureNetworkConfig)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
    else:
        return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    raise BundleError(
        f"{folder} holds no feature network ({reason}). Expected {CONFIG_FILE} and {WEIGHTS_FILE}, "
        "as 'ecomap train configs/tiny/features.yaml' writes them."
    )


def network_folder(folder: Path) -> Path:
    """The network's own folder, where a bundle is given."""
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def network_identity(folder: Path) -> str:
    """SHA-256 over config and weights of a network."""
    folder = network_folder(folder)
    return fingerprint([folder / CONFIG_FILE, folder / WEIGHTS_FILE])
