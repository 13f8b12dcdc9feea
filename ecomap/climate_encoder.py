"""The tokens door: a climate series and a few facts about the place become context tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ecomap.climate import CHANNELS, climate_features
from ecomap.rows import Rows
from ecomap.schema import CLIMATE, SERIES_MONTHS, LandCover, TileRecord

UNKNOWN_COVER = 0
"""Land-cover index of a tile whose class is not known (IGBP codes start at 1)."""

PLACE_FEATURES = {
    "place": ("sin_month", "cos_month", "sin_lat", "cos_lat", "log_pixel_size", "place_known"),
    "land": ("land_frac", "land_known"),
}
"""Facts about a tile by the group that training withholds together. The share of land tells a
coastal tile from an inland one of the same climate."""

PLACE_FEATURE_NAMES = [name for names in PLACE_FEATURES.values() for name in names]
"""In the order in which the encoder reads them."""


@dataclass(frozen=True)
class ClimateBatch(Rows):
    """Inputs of the encoder for several records."""

    values: Tensor
    """``(B, SERIES_MONTHS, num_variables, num_channels)``."""
    known: Tensor
    """bool, of the same shape."""
    place: Tensor
    """``(B, len(PLACE_FEATURE_NAMES))``; a group is zero where it is withheld."""
    land_cover: Tensor
    """int64 ``(B,)``: IGBP code or `UNKNOWN_COVER`."""

    def __len__(self) -> int:
        """Number of records."""
        return len(self.values)

    def withhold(self, group: str, where: Tensor) -> "ClimateBatch":
        """Hide one group of facts from some records.

        Args:
            group: A climate variable, ``land_cover`` or a group of `PLACE_FEATURES`.
            where: bool ``(B,)``.
        """
        if group == "land_cover":
            return replace(self, land_cover=self.land_cover.masked_fill(where, UNKNOWN_COVER))
        if group in PLACE_FEATURES:
            of_group = torch.tensor(
                [g == group for g, names in PLACE_FEATURES.items() for _ in names]
            )
            hidden = where[:, None] & of_group.to(where.device)
            return replace(self, place=self.place.masked_fill(hidden, 0.0))
        index = list(CLIMATE).index(group)
        known = self.known.clone()
        known[:, :, index] &= ~where[:, None, None]
        return replace(self, known=known, values=self.values.masked_fill(~known, 0.0))


WITHHELD_GROUPS = (*CLIMATE, "land_cover", *PLACE_FEATURES)
"""Groups of facts that training withholds at random, each on its own."""


def climate_batch(records: Sequence[TileRecord]) -> ClimateBatch:
    """Collect the encoder's inputs from records."""
    features = [climate_features(record) for record in records]
    place = np.array([_place_features(record) for record in records], np.float32)
    cover = [UNKNOWN_COVER if r.land_cover is None else int(r.land_cover) for r in records]
    return ClimateBatch(
        torch.from_numpy(np.stack([f.values for f in features])),
        torch.from_numpy(np.stack([f.known for f in features])),
        torch.from_numpy(place.reshape(-1, len(PLACE_FEATURE_NAMES))),
        torch.tensor(cover, dtype=torch.int64),
    )


def _place_features(record: TileRecord) -> list[float]:
    """`PLACE_FEATURES` of a record; pixel size as a logarithm (10 m is 0, 10 km is 1)."""
    season = 2 * np.pi * record.month_index / 12
    latitude = np.radians(record.lat)
    size = np.log10(record.ground_sampling_distance_m / 10) / 3
    place = [np.sin(season), np.cos(season), np.sin(latitude), np.cos(latitude), size, 1.0]
    land = [0.0, 0.0] if record.land_frac is None else [record.land_frac, 1.0]
    return place + land


class ClimateEncoder(ModelMixin, ConfigMixin):
    """Turns a `ClimateBatch` into context tokens and a contribution to the pooled embedding."""

    @register_to_config
    def __init__(
        self,
        width: int = 192,
        num_layers: int = 2,
        num_heads: int = 3,
        context_dim: int = 256,
        pooled_dim: int = 256,
        num_months: int = SERIES_MONTHS,
        num_variables: int = len(CLIMATE),
        num_channels: int = len(CHANNELS),
        num_land_covers: int = len(LandCover) + 1,
        place_features: Sequence[str] = tuple(PLACE_FEATURE_NAMES),
    ) -> None:
        """Build the encoder.

        Args:
            width: Width of its own transformer.
            num_layers: Blocks of its own transformer.
            num_heads: Heads of its own transformer.
            context_dim: Width of the tokens: the joint attention dimension of the model they feed.
            pooled_dim: Width of the pooled projection of the model they feed.
            num_months: Length of the series.
            num_variables: Climate variables a month.
            num_channels: Channels a variable.
            num_land_covers: Land-cover classes and the unknown one.
            place_features: Names of the facts about a place that it reads.
        """
        super().__init__()
        num_inputs = num_variables * num_channels
        self.month_in = nn.Linear(2 * num_inputs, width)
        self.null = nn.Parameter(torch.zeros(num_inputs))
        # As large as what the months say: which month a value belongs to matters as much.
        self.position = nn.Parameter(torch.randn(num_months + 1, width) * 0.5)
        self.now_in = nn.Linear(2 * num_inputs, width)
        self.place_in = nn.Linear(len(place_features), width)
        self.land_cover = nn.Embedding(num_land_covers, width)
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.blocks = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.context_out = nn.Linear(width, context_dim)
        self.pooled_out = nn.Linear(width, pooled_dim)
        # A pretrained base starts from its own pooled embedding, untouched.
        nn.init.zeros_(self.pooled_out.weight)
        nn.init.zeros_(self.pooled_out.bias)

    def forward(self, batch: ClimateBatch) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Returns:
            Tokens ``(B, num_months + 1, context_dim)``: one a month, oldest first, then one for the
            place and its own month; and the pooled contribution ``(B, pooled_dim)``, read off the
            last.
        """
        known = batch.known.flatten(2)
        values = torch.where(known, batch.values.flatten(2), self.null)
        series = torch.cat([values, known.to(values.dtype)], dim=-1)
        summary = self.place_in(batch.place) + self.land_cover(batch.land_cover)
        summary = summary + self.now_in(series[:, -1])
        tokens = torch.cat([self.month_in(series), summary[:, None]], dim=1) + self.position
        tokens = self.norm(self.blocks(tokens))
        return self.context_out(tokens), self.pooled_out(tokens[:, -1])
