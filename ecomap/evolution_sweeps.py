"""Sweeps of one climate variable from real starts, beside observed slopes and two nulls.

As `ecomap.responses`, with a maker whose images begin at the real frame of each case. Slopes are
compared class by class, and signs stand beside those of nulls: the same images with their doses
shuffled, and images that know the place alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_steps import cautious
from ecomap.image_store import ImageMaker
from ecomap.places import choose_cases
from ecomap.response_cases import RESPONSES, Response
from ecomap.response_statistics import (
    Curves,
    Row,
    across_places,
    case_values,
    cases_by_class,
    scatter_of_cases,
)
from ecomap.responses import (
    GENERATED,
    METRICS,
    SUSTAINED,
    generated_scores,
    make_curves,
    observed_scores,
    read_real,
)
from ecomap.scores import Score
from ecomap.tiles import ImageSet, ScoredTile
from ecomap.vegetation_tables import PLACE_ONLY

__all__ = ["METRICS", "SHUFFLED_DOSES", "null_scores", "ratio_scores", "sweep_scores"]

SHUFFLED_DOSES = "shuffled_doses"
"""System of signs when the doses of each case are permuted: what chance gives."""

SIGN_METRICS = ("response_expected_sign", "response_opposite_sign")


def sweep_scores(
    maker: ImageMaker,
    pool: Sequence[ScoredTile],
    history: ImageSet,
    config: EvaluateConfig,
    *,
    num_cases: int,
    progress: Callable[[str], None] | None = None,
) -> list[Score]:
    """Generated and observed responses, their ratio by class, and signs under both nulls.

    Args:
        maker: Makes each case from its own real frame.
        pool: Tiles to choose cases from.
        history: Real images, for observed slopes.
        config: Draws, seed, level, clouds, least number of places.
        num_cases: Cases of each response.
        progress: Called with one line about each stage.
    """
    scores: list[Score] = []
    for response in RESPONSES:
        if progress is not None:
            progress(f"response: {response.name}")
        fitting = [tile for tile in pool if response.fits(tile)]
        chosen = choose_cases(fitting, num_cases, seed=config.seed)
        curves = make_curves(response, chosen, maker, seed=config.seed)
        real = read_real(response, history, config)
        scores += generated_scores(response, curves, config)
        scores += observed_scores(response, real, config)
        scores += ratio_scores(response, curves, real, config)
        scores += null_scores(response, curves, config)
    return [cautious(score) for score in scores]


def ratio_scores(
    response: Response, curves: Curves, real: Curves, config: EvaluateConfig
) -> list[Score]:
    """Generated slope over the observed one across places, of all cases and of each class."""
    detail = f"{response.index} ~ {response.variable} | {SUSTAINED}"
    observed = {group: real.select(counts) for group, counts in cases_by_class(real.cases)}
    scores = []
    for group, counts in cases_by_class(curves.cases):
        part = curves.select(counts)
        seen = across_places(observed[group]) if group in observed else None
        if seen is None or not part.cases or not np.isfinite(seen.slope):
            continue
        scores.append(
            Row(GENERATED, detail, group, part, config).ratio(scatter_of_cases(part), seen)
        )
    return scores


def null_scores(response: Response, curves: Curves, config: EvaluateConfig) -> list[Score]:
    """Shares of expected and opposite signs when images do not know the dose."""
    if not curves.cases:
        return []
    detail = f"{response.index} ~ {response.variable} | {SUSTAINED}"
    rng = np.random.default_rng(config.seed)
    draws: dict[str, list[float]] = {name: [] for name in SIGN_METRICS}
    for _ in range(config.num_permutations):
        shuffled = replace(curves, index=rng.permuted(curves.index, axis=1))
        values = case_values(response, shuffled)
        for name in SIGN_METRICS:
            draws[name].append(float(values[name].mean()))
    mean = np.broadcast_to(curves.index.mean(1, keepdims=True), curves.index.shape)
    still = case_values(response, replace(curves, index=np.ascontiguousarray(mean)))
    ends = [(1 - config.level) / 2, (1 + config.level) / 2]
    scores = []
    for name in SIGN_METRICS:
        low, high = np.quantile(draws[name], ends)
        row = Row(SHUFFLED_DOSES, detail, "all", curves, config)
        chance = Score(
            system=SHUFFLED_DOSES, section="response", metric=name, detail=detail,
            value=float(np.mean(draws[name])), low=low, high=high, n=len(curves.cases),
            flag="range over permutations",
        )  # fmt: skip
        scores += [chance, replace(row, system=PLACE_ONLY).mean(name, still[name])]
    return scores
