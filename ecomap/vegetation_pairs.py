"""Matched pairs: two tiles of one place, and whether the change between them is the observed one.

Pairs are of the same calendar month in two years where enough places have those: then season is no
part of the change. Else they are of two months of the year, and most of the change is season, which
a climatology knows too; ``detail`` says which.

After EO-WM's directional hit rate, divergence reproduction ratio and paired divergence correlation,
on tile means of single months in place of trajectories, so the numbers do not compare with its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecomap import panel, panel_draws
from ecomap.evaluate_config import EvaluateConfig
from ecomap.panel import Codes, Values
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.vegetation_tables import (
    REFUSED,
    Estimate,
    Group,
    caution,
    groups_of,
    index_columns,
    systems_without_climate,
    usable_tables,
)

SAME_MONTH, OTHER_MONTHS = "same month of two years", "two months of the year"

THRESHOLDS: dict[str, float] = {
    "ndvi": 0.02,
    "evi": 0.02,
    "ndsi": 0.02,
    "vari": 0.02,
    "snow_frac": 0.02,
    "gcc": 0.005,
    "exg": 0.015,
}
"""Observed changes up to this are noise. 0.02 of NDVI is EO-WM's; 0.005 of the green chromatic
coordinate is three steps of an 8-bit green of a mid-grey pixel (129/385 - 128/384 is 0.0017), and
excess green is three times that coordinate minus one."""

MAX_PAIRS = 20_000
"""With more pairs in a group, as many are drawn at random; the flag says so."""

_SOURCE = "after EO-WM (2026), https://arxiv.org/abs/2606.27277"

METRICS: dict[str, Metric] = {
    "pair_direction": Metric(
        label="Pairs that change in the observed direction",
        unit="",
        better="higher",
        formula="share with sign(generated change) = sign(observed change), of pairs whose "
        "|observed change| exceeds the noise; no change at all is a miss",
        reference=f"{_SOURCE} (DHR)",
    ),
    "pair_magnitude_ratio": Metric(
        label="Size of the change, generated over observed",
        unit="",
        better="one",
        formula="median of |generated change| / |observed change| over the same pairs",
        reference=f"{_SOURCE} (DRR, there a mean)",
    ),
    "pair_rank": Metric(
        label="Rank correlation of sizes of change",
        unit="",
        better="higher",
        formula="Spearman correlation of |generated change| and |observed change| over all pairs",
        reference=f"{_SOURCE} (PDC)",
    ),
}


class Pairs(NamedTuple):
    """Pairs of rows of one table."""

    kind: str
    """`SAME_MONTH` or `OTHER_MONTHS`."""
    earlier: Codes
    later: Codes
    num_found: int
    """Pairs there are; more than `MAX_PAIRS` are not all taken."""


def pair_scores(
    observed: pd.DataFrame,
    systems: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
    *,
    progress: Callable[[str], None] | None = None,
) -> list[Score]:
    """Direction, size and rank of changes between two months of a place.

    Args:
        observed: As for `ecomap.vegetation.vegetation_scores`.
        systems: Likewise.
        config: Draws, level, seed, least number of places, most cloud.
        progress: Is told each group.

    Returns:
        Scores of each system, and of ``place_only`` and ``month_only``.

    Raises:
        RequestError: If keys repeat in a table, or a system has a name that is taken.
    """
    tables, _ = usable_tables(observed, systems, config.max_cloud_frac)
    indices = index_columns(tables[OBSERVED])
    tables |= systems_without_climate(tables[OBSERVED], indices)
    scores = []
    for group in groups_of(tables, config):
        if progress is not None:
            progress(f"matched pairs: {group.name}")
        if group.kind != "all" and group.num_places < config.min_places:
            scores += group.refusal(list(METRICS), config)
        else:
            scores += _group_scores(group, indices, config)
    return scores


def find_pairs(table: pd.DataFrame, min_places: int, seed: int) -> Pairs:
    """Pairs of rows of one place and two months, the earlier first.

    Of the same calendar month where at least ``min_places`` places have it in two years, else of
    two calendar months, of any years.
    """
    names = table["month"].to_numpy(object)
    dated = np.flatnonzero(table["month"].notna())
    order = dated[np.argsort(names[dated].astype(str), kind="stable")]
    months = panel.codes(names[order].astype(str))
    calendar = table["month_index"].to_numpy(np.float64)[order]
    places = panel.codes(table["place"].astype(str))[order]
    same, other = [], []
    for place in np.unique(places):
        rows = np.flatnonzero(places == place)
        first, second = (rows[k] for k in np.triu_indices(len(rows), 1))
        alike = calendar[first] == calendar[second]
        two_years = alike & (months[first] != months[second])
        same.append(order[np.stack([first, second])[:, two_years]])
        other.append(order[np.stack([first, second])[:, ~alike]])
    has_years = sum(part.shape[1] > 0 for part in same) >= min_places
    kind, parts = (SAME_MONTH, same) if has_years else (OTHER_MONTHS, other)
    pairs = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0), np.intp)
    number = pairs.shape[1]
    if number > MAX_PAIRS:
        chosen = np.random.default_rng(seed).choice(number, MAX_PAIRS, replace=False)
        pairs = pairs[:, np.sort(chosen)]
    return Pairs(kind, pairs[0], pairs[1], number)


def _group_scores(group: Group, indices: Sequence[str], config: EvaluateConfig) -> list[Score]:
    """All systems and indices of a group."""
    real = group.tables[OBSERVED]
    pairs = find_pairs(real, config.min_places, config.seed)
    places = panel.codes(real["place"].astype(str))[pairs.earlier]
    block_names = real["block"].astype(str).to_numpy(object)[pairs.earlier].astype(str)
    scores = []
    for index in indices:
        observed = _change(real[index].to_numpy(np.float64), pairs)
        for system, table in group.tables.items():
            if system == OBSERVED or index not in table:
                continue
            generated = _change(table[index].reindex(real.index).to_numpy(np.float64), pairs)
            known = np.isfinite(observed) & np.isfinite(generated)
            blocks = panel.codes(block_names[known])
            changes = _Changes(observed[known], generated[known], places[known], blocks)
            scores += _pair_rows(group, system, index, changes, pairs, config)
    return scores


def _change(values: Values, pairs: Pairs) -> Values:
    """Later minus earlier."""
    return np.asarray(values[pairs.later] - values[pairs.earlier])


class _Changes(NamedTuple):
    """Changes of pairs that both sides know."""

    observed: Values
    generated: Values
    places: Codes
    blocks: Codes


def _pair_rows(
    group: Group,
    system: str,
    index: str,
    changes: _Changes,
    pairs: Pairs,
    config: EvaluateConfig,
) -> list[Score]:
    """The three scores of one system and index."""
    strong = np.abs(changes.observed) > THRESHOLDS[index]
    num_blocks = len(np.unique(changes.blocks))
    found = {
        "pair_direction": (strong, _direction),
        "pair_magnitude_ratio": (strong, _magnitude_ratio),
        "pair_rank": (np.ones_like(strong), _rank),
    }
    scores = []
    for metric, (rows, statistic) in found.items():
        num_places = len(np.unique(changes.places[rows]))
        estimate: Estimate = REFUSED
        flag = f"refused: pairs of {num_places} places, {config.min_places} needed"
        if num_places >= config.min_places:
            draws = panel_draws.block_draws(num_blocks, config.num_draws, config.seed)
            part = _Changes(*(values[rows] for values in changes))
            value, drawn = statistic(part, draws)
            low, high = panel_draws.interval(drawn, num_blocks, config.level)
            estimate = (value, low, high, None)
            sampled = f"{MAX_PAIRS} of {pairs.num_found} pairs drawn"
            notes = [caution(value, num_blocks), sampled if pairs.num_found > MAX_PAIRS else ""]
            flag = "; ".join(filter(None, notes))
        scores.append(
            group.score(
                system,
                metric,
                f"{index} | {pairs.kind}",
                estimate,
                n=int(rows.sum()),
                num_blocks=num_blocks,
                flag=flag,
            )
        )
    return scores


def _direction(changes: _Changes, draws: Values) -> tuple[float, Values]:
    hits = (np.sign(changes.generated) == np.sign(changes.observed)).astype(np.float64)
    return float(hits.mean()), panel_draws.drawn_means(hits, changes.blocks, draws)


def _magnitude_ratio(changes: _Changes, draws: Values) -> tuple[float, Values]:
    ratios = np.abs(changes.generated) / np.abs(changes.observed)
    return float(np.median(ratios)), panel_draws.drawn_medians(ratios, changes.blocks, draws)


def _rank(changes: _Changes, draws: Values) -> tuple[float, Values]:
    x, y = np.abs(changes.observed), np.abs(changes.generated)[:, None]
    drawn = panel_draws.drawn_spearman(x, y, changes.blocks, draws)
    return float(panel.spearman(x, y)[0]), drawn[:, 0]
