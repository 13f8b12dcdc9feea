"""Whether images show the land cover, season and climate that they were asked for.

The feature network reads them off each image; they are compared with the tile's own values.
The network errs too: its score on the real images ("observed") is the ceiling, and what a system
would score if its images belonged to other tiles is the floor. A network that has learnt the
scored places flatters the ceiling; score places that its card does not name.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ecomap.evaluate_config import EvaluateConfig
from ecomap.feature_space import (
    PREDICTED_CLIMATE,
    PREDICTED_LAND_COVER,
    PREDICTED_SEASON_MONTH,
    season_month,
)
from ecomap.metrics import mean_interval
from ecomap.schema import CLIMATE, LandCover
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.tiles import Measured, group_masks

Values = NDArray[np.float64]

SHUFFLED = "shuffled conditions"
"""Detail of scores under the null: mean and 95 % range over permutations."""

_NETWORK = "He et al. (2016), https://arxiv.org/abs/1512.03385 (kind of network)"

METRICS: dict[str, Metric] = {
    "land_cover_accuracy": Metric(
        label="Land cover recognised",
        unit="",
        better="higher",
        formula="share of images whose most probable IGBP class is the tile's",
        reference="Ravuri & Vinyals (2019), Classification Accuracy Score, "
        "https://arxiv.org/abs/1905.10887",
    ),
    "month_error": Metric(
        label="Season error",
        unit="months",
        better="lower",
        formula="mean circular distance of read and true month, both as seen from the north; 3 by "
        "chance",
        reference=_NETWORK,
    ),
    "temperature_error": Metric(
        label="Temperature error",
        unit=CLIMATE["temperature_c"].unit,
        better="lower",
        formula="mean |temperature read off the image - the tile's|",
        reference=_NETWORK,
    ),
    "precipitation_error": Metric(
        label="Precipitation error",
        unit=CLIMATE["precipitation_mm_day"].unit,
        better="lower",
        formula="mean |precipitation read off the image - the tile's|",
        reference=_NETWORK,
    ),
    "solar_radiation_error": Metric(
        label="Solar radiation error",
        unit=CLIMATE["solar_radiation_mj_m2_day"].unit,
        better="lower",
        formula="mean |solar radiation read off the image - the tile's|",
        reference=_NETWORK,
    ),
}


@dataclass(frozen=True)
class Question:
    """What a metric asks of each image."""

    column: str
    """Of the answers that were read off the images."""
    own: Callable[[pd.DataFrame], Values]
    """Tiles -> the right answer of each, NaN where not known."""
    judge: Callable[[Values, Values], Values]
    """(read, own) -> what each image scores."""


def adherence_scores(
    reference: Measured, systems: Sequence[Measured], config: EvaluateConfig
) -> list[Score]:
    """Scores of what the network reads off images against the tiles' own values.

    Args:
        reference: Real images; their scores have the system ``OBSERVED``.
        systems: Sets to score, each against its own tiles.
        config: Draws, permutations, seed and level; land cover is a group if ``groups`` has it.

    Returns:
        For each set and each metric whose predictions its table holds: the mean over all tiles with
        interval and p value, the same under `SHUFFLED` conditions, and the mean by land cover.
        None where no space has predicted anything.
    """
    scores = []
    for measured in (replace(reference, name=OBSERVED), *systems):
        for metric, question in QUESTIONS.items():
            if question.column in measured.table:
                scores += _scores_of(measured, metric, question, config)
    return scores


def _scores_of(
    measured: Measured, metric: str, question: Question, config: EvaluateConfig
) -> list[Score]:
    """All scores of one set by one metric."""
    table = measured.table
    read, own = table[question.column].to_numpy(np.float64), question.own(table)
    known = ~(np.isnan(read) | np.isnan(own))
    base = Score(system=measured.name, section="adherence", metric=metric, value=None, n=0)
    if not known.any():
        return [replace(base, flag="no tile knows its own value")]
    flag = "" if known.all() else f"{int((~known).sum())} tiles that do not know theirs left out"
    table, read, own = table[known], read[known], own[known]
    values = question.judge(read, own)
    null = shuffled_means(table, lambda donors: question.judge(read, own[donors]), config)
    main = mean_score(base, values, blocks_of(table), config)
    scores = [
        replace(main, flag=join_flags(main.flag, flag), p_value=two_sided_p(main.value, null)),
        null_score(base, null, len(values), config, detail=SHUFFLED),
    ]
    if "land_cover" in config.groups:
        for group, mask in group_masks(table, "land_cover").items():
            of_group = replace(base, group_kind="land_cover", group=group)
            scores.append(mean_score(of_group, values[mask], blocks_of(table[mask]), config))
    return scores


def mean_score(
    base: Score, values: ArrayLike, blocks: Sequence[str], config: EvaluateConfig
) -> Score:
    """A mean over images with its interval over blocks.

    Args:
        base: All that is known of the score already.
        values: ``(N,)``, at least one, without NaN.
        blocks: Block of each image.
        config: Draws, level and seed.
    """
    array = np.asarray(values, np.float64)
    low, high = mean_interval(
        array, blocks, num=config.num_draws, seed=config.seed, level=config.level
    )
    num_blocks = len(set(blocks))
    flag = "" if num_blocks > 1 else "one block: no interval"
    return replace(
        base, value=_mean(array), low=low, high=high, n=len(array), num_blocks=num_blocks, flag=flag
    )


def null_score(
    base: Score, null: Values, num: int, config: EvaluateConfig, *, detail: str
) -> Score:
    """Mean and central range of a statistic under permutation."""
    low, high = np.quantile(null, [(1 - config.level) / 2, (1 + config.level) / 2])
    return replace(base, detail=detail, value=float(null.mean()), low=low, high=high, n=num)


def shuffled_means(
    table: pd.DataFrame, judge: Callable[[NDArray[np.intp]], Values], config: EvaluateConfig
) -> Values:
    """Mean values when images are held against the conditions of other tiles, for each permutation.

    Args:
        table: Tiles, of which ``place`` and ``month`` are used.
        judge: Row whose condition each image gets -> value of each image.
        config: Number of permutations, and seed.

    Returns:
        ``(num_permutations,)``.
    """
    rng = np.random.default_rng(config.seed)
    draws = shuffle_conditions(table, rng, config.num_permutations)
    return np.array([_mean(judge(donors)) for donors in draws])


def shuffle_conditions(
    table: pd.DataFrame, rng: np.random.Generator, num: int
) -> Iterator[NDArray[np.intp]]:
    """Give each place the conditions of a place drawn by permutation, turned in time.

    Tiles of a place resemble each other, and so do neighbouring months. Whole places are therefore
    permuted, and within each the months begin at a random one and go round: which belongs to which
    is lost, and the likeness of neighbours is kept. A tile without a place is a place of its own.

    Args:
        table: Columns ``place`` and ``month``, index ``key``.
        rng: Source of the draws.
        num: Number of permutations.

    Yields:
        ``(N,)`` row whose condition each row gets; where places have different numbers of tiles,
        some rows serve twice and others not at all.
    """
    names = table["place"].where(table["place"].notna(), "key " + table.index.astype(str))
    codes, _ = pd.factorize(names, sort=True)
    order = np.lexsort((table["month"].fillna("").to_numpy(str), codes))
    sizes = np.bincount(codes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(codes), np.intp)
    rank[order] = np.arange(len(codes)) - np.repeat(starts, sizes)
    for _ in range(num):
        donor = rng.permutation(len(sizes))[codes]
        turn = rng.integers(0, sizes.max(), len(sizes))[codes]
        yield np.asarray(order[starts[donor] + (rank + turn) % sizes[donor]], np.intp)


def two_sided_p(value: float | None, null: Values) -> float | None:
    """Two-sided p value of a value among ``m`` draws of its null.

    ``min(1, 2 min(#(null <= value) + 1, #(null >= value) + 1) / (m + 1))``: never 0, for the value
    itself is one of the permutations.

    References:
        Phipson & Smyth (2010), Permutation P-values Should Never Be Zero,
        https://arxiv.org/abs/1603.05766
    """
    if value is None:
        return None
    # A permutation that changes nothing differs from the value by rounding only.
    slack = 1e-9 * max(1.0, abs(value))
    below, above = int((null <= value + slack).sum()), int((null >= value - slack).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(null) + 1))


def blocks_of(table: pd.DataFrame) -> list[str]:
    """Block of each tile; a tile whose block is not known is one of its own."""
    own = "key " + table.index.astype(str)
    return [str(name) for name in table["block"].where(table["block"].notna(), own)]


def join_flags(*flags: str) -> str:
    """Flags that say something, in one line."""
    return "; ".join(flag for flag in flags if flag)


def _mean(values: Values) -> float:
    return float(values.mean())


def _own_class(tiles: pd.DataFrame) -> Values:
    """IGBP codes."""
    codes = {cover.label: float(cover) for cover in LandCover}
    return np.asarray(tiles["land_cover"].map(codes), np.float64)


def _own_season(tiles: pd.DataFrame) -> Values:
    """Season months, 1 to 12."""
    return season_month(tiles["month_index"].to_numpy(), tiles["lat"].to_numpy()) + 1


def _own_climate(name: str, tiles: pd.DataFrame) -> Values:
    """Values of a climate variable."""
    return np.asarray(tiles[name], np.float64)


def _is_equal(read: Values, own: Values) -> Values:
    """1 where the class was recognised, 0 where not."""
    return np.asarray(read == own, np.float64)


def _months_apart(read: Values, own: Values) -> Values:
    """Circular distance, 0 to 6."""
    apart = np.abs(read - own) % 12
    return np.asarray(np.minimum(apart, 12 - apart))


def _apart(read: Values, own: Values) -> Values:
    return np.asarray(np.abs(read - own))


QUESTIONS: dict[str, Question] = {
    "land_cover_accuracy": Question(PREDICTED_LAND_COVER, _own_class, _is_equal),
    "month_error": Question(PREDICTED_SEASON_MONTH, _own_season, _months_apart),
    **{
        f"{metric}_error": Question(PREDICTED_CLIMATE[name], partial(_own_climate, name), _apart)
        for metric, name in zip(
            ("temperature", "precipitation", "solar_radiation"), CLIMATE, strict=True
        )
    },
}
"""By metric."""
