"""Every setting of an evaluation with its default and meaning."""

from pydantic import Field, field_validator

from ecomap.config import Config
from ecomap.schema import Split
from ecomap.tiles import GroupKind


class EvaluateConfig(Config):
    """What decides the numbers of a report, beside the images."""

    size_px: int | None = Field(default=None, ge=8)
    """Side to which all images are brought; by default all must have one size."""
    features: tuple[str, ...] = ("eo", "efficientnet_lite0", "colour_texture")
    """Feature spaces of distances, as `ecomap.features.open_space` names them."""
    clip: str | None = None
    """Feature space with text, such as ``transformers=FOLDER``; without one there is no CLIP
    score."""
    groups: tuple[GroupKind, ...] = ("land_cover", "month", "season", "year", "extreme")
    """Ways to divide the scores."""
    equal_n: int = Field(default=50, ge=4)
    """Images that stand for each group in distances; a group with fewer gets none."""
    num_draws: int = Field(default=1000, ge=20)
    """Bootstrap draws of blocks for intervals of scalar statistics."""
    num_distance_draws: int = Field(default=100, ge=20)
    """Bootstrap draws of blocks for intervals of distances between sets."""
    num_permutations: int = Field(default=500, ge=20)
    """Draws of the shuffled-climate null."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Probability of intervals."""
    num_neighbours: int = Field(default=5, ge=1)
    """Neighbours that span a manifold in precision, recall, density and coverage."""
    max_masked_frac: float = Field(default=0.5, ge=0, le=1)
    """An image with more of it masked or without data is left out."""
    max_cloud_frac: float = Field(default=0.3, ge=0, le=1)
    """A tile whose record has more cloud is left out of vegetation statistics."""
    min_places: int = Field(default=5, ge=2)
    """Places that a correlation or slope needs."""
    min_months: int = Field(default=6, ge=3)
    """Months of a place that its forecast skill needs."""
    batch_size: int = Field(default=32, ge=1)
    """Images measured at a time; it decides no result."""
    seed: int = 0
    """Decides all draws, and what a bundle makes."""

    splits: tuple[Split, ...] | None = None
    """Sides of the split that may be scored; by default the test side, or all tiles of a dataset
    that has none."""
    num_places: int = Field(default=36, ge=2)
    """Places that a bundle makes, as far from each other as can be; all if there are fewer."""
    months: tuple[int, ...] | None = None
    """Calendar months that a bundle makes, 1 to 12; by default all that the dataset has."""
    num_cases: int = Field(default=60, ge=0)
    """Cases of each climate response, five images each; 0 leaves responses out."""
    steps: int | None = Field(default=None, ge=1)
    """Solver steps; by default the sampler's."""
    guidance: float | None = Field(default=None, ge=0)
    """Guidance scale; by default the sampler's."""

    @field_validator("months")
    @classmethod
    def _calendar_months(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or not set(value) <= set(range(1, 13))):
            raise ValueError("expected calendar months, 1 to 12")
        return value
