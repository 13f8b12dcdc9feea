"""Slopes, signs and order of responses to climate, with intervals over blocks.

Whole blocks (`ecomap.tiles.ScoredTile.block`) are drawn with replacement: tiles of one share their
weather. All these statistics are quotients of sums, so that a draw is a weight for each block.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ecomap import metrics
from ecomap.evaluate_config import EvaluateConfig
from ecomap.response_cases import Response
from ecomap.scores import Score
from ecomap.tiles import ScoredTile

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Index of cases under each change."""

    cases: list[ScoredTile]
    level: Values
    """``(cases, changes)``, unit of the climate variable."""
    index: Values
    """``(cases, changes)``."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of other cases by reason."""

    def select(self, counts: NDArray[np.bool_]) -> "Curves":
        """Some of the cases."""
        cases = [case for case, one in zip(self.cases, counts, strict=True) if one]
        return Curves(cases, self.level[counts], self.index[counts], self.left_out)


@dataclass(frozen=True)
class Scatter:
    """Climate and index of images, each minus the mean of its stratum."""

    climate: Values
    index: Values
    blocks: NDArray[np.object_]

    @property
    def slope(self) -> float:
        """Least-squares slope inside strata; NaN where climate does not vary in any."""
        if not len(self.climate):
            return float("nan")
        return metrics.slope_through_origin(self.climate, self.index)

    def sums(self, order: Sequence[str]) -> Values:
        """Sum of products and of squares by block ``(blocks, 2)``; their quotient is the slope."""
        place = {block: index for index, block in enumerate(order)}
        codes = [place[block] for block in self.blocks]
        parts = (self.climate * self.index, self.climate**2)
        return np.stack([np.bincount(codes, part, len(order)) for part in parts], axis=1)


def case_values(response: Response, curves: Curves) -> dict[str, Values]:
    """What is averaged over cases, by metric, ``(cases,)``."""
    level, index = curves.level, curves.index
    centred = [values - values.mean(1, keepdims=True) for values in (level, index)]
    slopes = np.sum(centred[0] * centred[1], axis=1)
    responds = np.ptp(index, axis=1) >= response.tolerance
    expected = responds & (np.sign(slopes) == response.expected_sign)
    steps = np.diff(index, axis=1) * response.expected_sign
    in_order = expected & (steps > -response.tolerance).all(1)
    ranks = [metrics.spearman(*case) for case in zip(level, index, strict=True)]
    return {
        "response_expected_sign": expected.astype(float),
        "response_opposite_sign": (responds & ~expected).astype(float),
        "response_monotonicity": in_order.astype(float),
        "response_rank": np.nan_to_num(np.array(ranks)) * response.expected_sign,
    }


@dataclass(frozen=True)
class Row:
    """What the scores of one group of cases share."""

    system: str
    detail: str
    group: str
    curves: Curves
    config: EvaluateConfig

    def slope(self, scatter: Scatter) -> Score:
        """Slope with its interval over blocks."""
        order = sorted(set(scatter.blocks))
        draws = quotient(*(block_weights(len(order), self.config) @ scatter.sums(order)).T)
        return self.score("response_slope", scatter.slope, draws, len(order))

    def ratio(self, made: Scatter, seen: Scatter) -> Score:
        """Generated over observed slope; a draw takes a block's images of both."""
        order = sorted({*made.blocks, *seen.blocks})
        weights = block_weights(len(order), self.config)
        draws = [quotient(*(weights @ one.sums(order)).T) for one in (made, seen)]
        value = quotient(np.array([made.slope]), np.array([seen.slope]))[0]
        score = self.score("response_ratio", value, quotient(*draws), len(set(made.blocks)))
        ends = (1 - self.config.level) / 2
        seen_slopes = draws[1][np.isfinite(draws[1])]
        if not len(seen_slopes):
            flat = "the observed climate does not vary: no slope"
            return replace(score, low=None, high=None, flag=flat)
        low, high = np.quantile(seen_slopes, [ends, 1 - ends])
        if low <= 0 <= high:
            unsure = "the observed slope does not differ from 0: no bounded interval"
            return replace(score, low=None, high=None, flag=unsure)
        return score

    def mean(self, metric: str, values: Values) -> Score:
        """Mean over cases with its interval over blocks."""
        blocks = [case.block or case.key for case in self.curves.cases]
        order, codes = np.unique(blocks, return_inverse=True)
        sums = np.stack(
            [np.bincount(codes, part, len(order)) for part in (values, np.ones_like(values))], 1
        )
        draws = quotient(*(block_weights(len(order), self.config) @ sums).T)
        value = float(values.mean()) if len(values) else float("nan")
        return self.score(metric, value, draws, len(order))

    def score(self, metric: str, value: float, draws: Values, num_blocks: int) -> Score:
        """A score whose interval is that of the defined draws."""
        defined = draws[np.isfinite(draws)]
        ends = (1 - self.config.level) / 2
        has_interval = num_blocks > 1 and len(defined) > 0
        low, high = np.quantile(defined, [ends, 1 - ends]) if has_interval else (None, None)
        return Score(
            system=self.system, section="response", metric=metric, detail=self.detail,
            group_kind="all" if self.group == "all" else "land_cover", group=self.group,
            value=value, low=low, high=high, n=len(self.curves.cases), num_blocks=num_blocks,
            flag=self._flag(value, has_interval=has_interval),
        )  # fmt: skip

    def _flag(self, value: float, *, has_interval: bool) -> str:
        """Why a value is missing or must be read with care."""
        cases = self.curves.cases
        num_places = len({case.place or case.key for case in cases})
        faults = []
        if not cases:
            faults.append("no tile fulfils the rule of the cases")
        elif not np.isfinite(value):
            faults.append("climate does not vary inside any stratum")
        elif num_places < self.config.min_places:
            faults.append(f"few places: {num_places}")
        if cases and not has_interval:
            faults.append("no interval: one block")
        if self.group == "all":
            faults += [f"left out: {num} {why}" for why, num in self.curves.left_out.items()]
        return "; ".join(faults)


def cases_by_class(cases: Sequence[ScoredTile]) -> list[tuple[str, NDArray[np.bool_]]]:
    """All cases, then those of each land cover, by label."""
    labels = np.array([case.land_cover.label if case.land_cover else "" for case in cases], object)
    covers = sorted(set(labels) - {""})
    return [("all", np.ones(len(cases), bool)), *((name, labels == name) for name in covers)]


def across_places(real: Curves) -> Scatter:
    """Tiles of a known class inside their class and calendar month."""
    is_known = np.array([case.land_cover is not None for case in real.cases], bool)
    known = real.select(is_known)
    strata = [f"{case.land_cover}/{(case.month or '')[5:]}" for case in known.cases]
    return scatter_of(known, strata)


def scatter_of_cases(curves: Curves) -> Scatter:
    """Images of cases, each minus the mean of its case."""
    num = curves.index.shape[1]
    return scatter_of(curves, [str(i) for i in range(len(curves.cases)) for _ in range(num)])


def scatter_of(curves: Curves, strata: Sequence[str]) -> Scatter:
    """All images of some cases, minus the means of their strata."""
    num = curves.index.shape[1] if curves.cases else 0
    blocks = [case.block or case.key for case in curves.cases for _ in range(num)]
    if not blocks:
        return Scatter(np.empty(0), np.empty(0), np.empty(0, object))
    level, index = (metrics.group_anomaly(v.ravel(), strata) for v in (curves.level, curves.index))
    return Scatter(level, index, np.array(blocks, object))


def block_weights(num_blocks: int, config: EvaluateConfig) -> Values:
    """How often each block is drawn, ``(draws, blocks)``."""
    if num_blocks == 0:
        return np.empty((0, 0))
    shares = np.full(num_blocks, 1 / num_blocks)
    drawn = np.random.default_rng(config.seed).multinomial(num_blocks, shares, config.num_draws)
    return np.asarray(drawn, np.float64)


def quotient(top: Values, bottom: Values) -> Values:
    """Quotient, NaN where the divisor is 0."""
    result = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom != 0)
    return result
