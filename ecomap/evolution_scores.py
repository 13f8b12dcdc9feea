"""How well pairs are met: errors of pixels, greenness and snow, and gains over simple rivals.

Every system is measured on the same pairs of a start and a target (`ecomap.evolution_pairs`), and
intervals draw whole blocks of places (`ecomap.blocks`). `ecomap.evolution_gains` sets a system
against its rivals.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecomap.adherence import mean_score
from ecomap.baseline_sets import MeanFrame
from ecomap.claims import blocks_of
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_steps import cautious
from ecomap.evolution_climatology import CLASS_INDEX, class_month_indices
from ecomap.evolution_gains import GENERATED, INDICES, QUESTIONS, RIVALS
from ecomap.evolution_pairs import AHEAD, SERIES, PairSets
from ecomap.measured_store import measure_kept
from ecomap.paired import METRICS as PAIR_METRICS
from ecomap.paired import paired_scores
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.tiles import ImageSet, Measured
from ecomap.vegetation_agreement import METRICS as AGREEMENT_METRICS
from ecomap.vegetation_agreement import agreement_scores, slope_ratio_scores
from ecomap.vegetation_pairs import THRESHOLDS
from ecomap.vegetation_tables import MONTH_ONLY, PLACE_ONLY, Group, groups_of
from ecomap.vegetation_tables import systems_without_climate as without_climate

Values = NDArray[np.float64]

SHUFFLED = "shuffled_climate"

KEPT_METRICS = ("index_rmse", "index_mae", "index_bias", "index_pearson", "anomaly_pearson")
"""Of `ecomap.vegetation_agreement`. Series stand for its places, so that the last is the
correlation within a place; what divides by year or season has no meaning here."""

SLOPE_DETAIL = "| within place"
"""End of the detail of slopes that are kept."""

_OWN = "no paper: defined here"
METRICS: dict[str, Metric] = {
    **{name: metric for name, metric in PAIR_METRICS.items() if name != "lpips"},
    **{name: AGREEMENT_METRICS[name] for name in (*KEPT_METRICS, "slope_ratio")},
    "change_direction": Metric(
        label="Changes from the start with the observed sign",
        unit="fraction of pairs",
        better="higher",
        formula="mean(sign(made - start) == sign(real - start)) where |real - start| exceeds "
        "the threshold of ecomap.vegetation_pairs",
        reference=_OWN,
    ),
}
"""Metrics of the scores of this module."""


def measure_pairs(
    sets: PairSets,
    systems: Sequence[ImageSet],
    shared: Sequence[ImageSet],
    config: EvaluateConfig,
    *,
    folder: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Measured]:
    """Measure all systems against the real targets.

    Args:
        sets: Pairs; persistence is measured beside the systems.
        systems: Sets under the keys of pairs.
        shared: Sets that do not depend on the start, under the keys of target frames: each image
            is measured once and counts for every pair of its target.
        config: Settings; feature spaces are not computed.
            Beside a class mean stands `ecomap.evolution_climatology`.
        folder: Where measures are kept, for a run that goes on.
        progress: Called with (set, done, total).

    Returns:
        Measures by name, by pair: the real targets under `OBSERVED` first, with the indices of the
        start as ``start_gcc`` and ``start_snow_frac``. All have the columns of `PairSets.columns`.
    """
    plain = config.model_copy(update={"features": ()})
    frames = sets.frames()

    def measure(images: ImageSet, reference: ImageSet | None) -> Measured:
        return measure_kept(
            images, folder / images.name, reference=reference, config=plain,
            progress=None if progress is None else
            lambda done, total: progress(images.name, done, total),
        )  # fmt: skip

    own = measure(frames, None)
    found = {OBSERVED: sets.per_pair(own)}
    for images in (sets.persistence(), *systems):
        found[images.name] = measure(images, sets.real())
    for images in shared:
        found[images.name] = sets.per_pair(measure(images, frames))
        if isinstance(images, MeanFrame) and images.name == "class_month_mean":
            found[CLASS_INDEX] = sets.per_pair(class_month_indices(images, progress=progress))
    for measured in found.values():
        for name, values in sets.columns.items():
            measured.table[name] = values
    starts = sets.per_pair(own, side="start").table
    for index in INDICES:
        found[OBSERVED].table[f"start_{index}"] = starts[index]
    return found


def score_pairs(measured: Mapping[str, Measured], config: EvaluateConfig) -> list[Score]:
    """All scores of systems by pairs: image metrics, indices, anomalies, slopes and directions.

    Args:
        measured: From `measure_pairs`, or with the same columns.
        config: Groups, draws, level, seed, least number of places.

    Raises:
        RequestError: If there are no real targets among them.
    """
    if OBSERVED not in measured:
        raise RequestError(f"No set is named {OBSERVED!r}. Give the real targets of the pairs.")
    systems = {name: one for name, one in measured.items() if name != OBSERVED}
    scores = paired_scores(list(systems.values()), config)
    tables = {name: _by_series(one.table) for name, one in measured.items()}
    for group in groups_of(tables, config):
        num_places = measured[OBSERVED].table.loc[group.tables[OBSERVED].index, "place"].nunique()
        if num_places < (config.min_places if group.kind != "all" else 1):
            continue
        scores += [
            score
            for score in agreement_scores(group, INDICES, config)
            if score.metric in KEPT_METRICS
        ]
        scores += [
            score
            for score in slope_ratio_scores(_told_systems(group), INDICES, config)
            if score.detail.endswith(SLOPE_DETAIL)
        ]
    scores += direction_scores({name: one.table for name, one in measured.items()}, config)
    return [cautious(score) for score in scores]


def _by_series(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its series for places: one year of one place, from one start."""
    return table.assign(place=table[SERIES])


def _told_systems(group: Group) -> Group:
    """The group with systems whose slopes on climate say something."""
    wanted = (OBSERVED, GENERATED, SHUFFLED, *RIVALS)
    return group._replace(tables={n: t for n, t in group.tables.items() if n in wanted})


def direction_scores(tables: Mapping[str, pd.DataFrame], config: EvaluateConfig) -> list[Score]:
    """Share of pairs whose index moves from the start as the real one does.

    Beside the systems stand ``place_only``, the mean of the place's real targets, and
    ``month_only``, that of the calendar month: nulls that know no climate but have seen the
    answers. Persistence never moves, and scores 0.

    Args:
        tables: Measured tables by system; the real one has ``start_`` columns.
        config: Groups, draws, level and seed.
    """
    real = tables[OBSERVED]
    nulls = without_climate(_by_series(real), INDICES)
    systems = {name: table for name, table in tables.items() if name != OBSERVED}
    systems |= {name: nulls[name] for name in (PLACE_ONLY, MONTH_ONLY) if name in nulls}
    scores = []
    for index in INDICES:
        start = real[f"start_{index}"].to_numpy(np.float64)
        change = real[index].to_numpy(np.float64) - start
        for name, table in systems.items():
            made = table[index].reindex(real.index).to_numpy(np.float64) - start
            counts = (np.abs(change) > THRESHOLDS[index]) & np.isfinite(made)
            if not counts.any():
                continue
            hits = (np.sign(made) == np.sign(change)).astype(np.float64)
            for kind, group, rows in _groups(real, config):
                picked = counts & rows
                if picked.any():
                    base = Score(
                        system=name, section="response", metric="change_direction", detail=index,
                        group_kind=kind, group=group, value=None, n=0,
                    )  # fmt: skip
                    blocks = blocks_of(real)[picked].tolist()
                    scores.append(mean_score(base, hits[picked], blocks, config))
    return scores


def _groups(real: pd.DataFrame, config: EvaluateConfig) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """All pairs, and those of each land cover with enough places."""
    found = [("all", "all", np.ones(len(real), bool))]
    if "land_cover" in config.groups:
        for cover in sorted(set(real["land_cover"].dropna())):
            rows = (real["land_cover"] == cover).to_numpy(bool)
            if real.loc[rows, "place"].nunique() >= config.min_places:
                found.append(("land_cover", str(cover), rows))
    return found


def error_by_step(
    tables: Mapping[str, pd.DataFrame], systems: Sequence[str], config: EvaluateConfig
) -> list[Score]:
    """PSNR and greenness error of systems by months from the start: who drifts.

    Args:
        tables: Measured tables by system, with `AHEAD`.
        systems: Who is asked, such as direct and chained.
        config: Draws, level and seed.

    Returns:
        Scores of the group kind ``months_ahead``, on pairs that all these systems serve.
    """
    real = tables[OBSERVED]
    names = [name for name in systems if name in tables]
    scores = []
    for question, metric in ((QUESTIONS[0], "psnr_db"), (QUESTIONS[-2], "index_mae")):
        values = {name: question.values(tables[name], real) for name in names}
        if not values:
            continue
        known = np.logical_and.reduce([np.isfinite(one) for one in values.values()])
        for ahead in sorted(set(real[AHEAD][known])):
            rows = known & (real[AHEAD] == ahead).to_numpy(bool)
            blocks = blocks_of(real)[rows].tolist()
            scores += [
                mean_score(
                    Score(
                        system=name, section="forecast", metric=metric,
                        detail=question.column if question.index else "",
                        group_kind="months_ahead", group=str(int(ahead)), value=None, n=0,
                    ),
                    values[name][rows], blocks, config,
                )
                for name in names
            ]  # fmt: skip
    return [cautious(score) for score in scores]
