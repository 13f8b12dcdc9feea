"""Form of all scores: one long table, and words for each metric, stated beside its code."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

Section = Literal["realism", "paired", "adherence", "vegetation", "response", "forecast"]

Better = Literal["lower", "higher", "zero", "one", "none"]
"""Which values are good. ``none``: the value describes and does not judge."""

FEW_BLOCKS = 10
"""With fewer blocks percentile intervals are clearly too narrow, and decide no claim."""

OBSERVED = "observed"
"""System of scores that describe the real images themselves."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a reader must know of a metric; each module that computes some has ``METRICS``."""

    label: str
    unit: str
    """Empty for pure numbers."""
    better: Better
    formula: str
    """One line."""
    reference: str
    """Paper with its address."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of a report. NaN is never kept: what is undefined is ``None`` with a flag."""

    system: str
    """Name of the set of images, or `OBSERVED`."""
    section: Section
    metric: str
    """Key in ``METRICS`` of the module that computed it."""
    detail: str = ""
    """What the metric was applied to: a feature space, an index, "gcc ~ temperature_c lag 1"."""
    group_kind: str = "all"
    group: str = "all"
    value: float | None
    low: float | None = None
    """95 % interval."""
    high: float | None = None
    p_value: float | None = None
    """Two-sided, where a null was drawn."""
    n: int
    """Images, pairs or cases behind the value."""
    num_blocks: int | None = None
    """Independent units that the interval draws."""
    flag: str = ""
    """Why the value is missing, or must be read with care."""

    def __post_init__(self) -> None:
        """Undefined numbers become None."""
        for name in ("value", "low", "high", "p_value"):
            number = getattr(self, name)
            if number is not None:
                finite = math.isfinite(number)
                object.__setattr__(self, name, float(number) if finite else None)


def to_frame(scores: Iterable[Score]) -> pd.DataFrame:
    """Scores as a table with the fields of `Score` as columns, for CSV and for selection."""
    return pd.DataFrame([asdict(score) for score in scores], columns=list(Score.__annotations__))


def find(scores: Sequence[Score], **fields: Any) -> list[Score]:
    """Scores whose fields have these values.

    Example:
        >>> score = Score(system="a", section="paired", metric="psnr", value=30.0, n=1)
        >>> find([score], metric="psnr", system="a") == [score], find([score], metric="ssim")
        (True, [])
    """
    return [s for s in scores if all(getattr(s, name) == value for name, value in fields.items())]
