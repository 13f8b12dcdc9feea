"""Does vegetation follow the climate, and as it does in reality? Correlations, slopes, agreement.

Three questions, of images that show the same places in the same months:

- *Correlation and slope* of an index with climate, of the observed images and of each system.
  A high raw correlation proves little: warm places are greener, and so are warm seasons. Hence
  six controls (`ecomap.panel.hold`): the strictest ask whether a month that is warmer than its
  place, its season and the other climate explain is also greener.
- *Slope ratio*: the size of that response, generated over observed.
- *Agreement* of an index with the observed one of the same tile.

Two systems made here show what can be had without any climate: ``place_only``, each place's own
observed mean, and ``month_only``, the observed mean of a calendar month in a hemisphere.

"Month" means calendar month of a hemisphere (`ecomap.panel.season_codes`). Seasons differ from
place to place inside it, and what is left of them after "given place and month" is season, not
weather: "given each place's own season" takes out a yearly wave of each place, "deseasonalised"
all of its season, and needs two years. Lags of 1 to 3 months have Pearson correlations only; land
covers have lag 0 only, and no rank correlations with climate.
"""

from collections.abc import Callable, Mapping

import pandas as pd

from ecomap import vegetation_agreement, vegetation_climate
from ecomap.evaluate_config import EvaluateConfig
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.tiles import MAX_LAG
from ecomap.vegetation_agreement import agreement_scores, slope_ratio_scores
from ecomap.vegetation_climate import PEARSON, SPEARMAN, climate_scores
from ecomap.vegetation_tables import (
    INDICES,
    groups_of,
    index_columns,
    systems_without_climate,
    usable_tables,
)

METRICS: dict[str, Metric] = {
    **vegetation_climate.METRICS,
    **vegetation_agreement.METRICS,
    "tiles_left_out": Metric(
        label="Tiles left out of vegetation statistics",
        unit="tiles",
        better="none",
        formula="number of tiles, by reason",
        reference="a count",
    ),
}


def vegetation_scores(
    observed: pd.DataFrame,
    systems: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
    *,
    progress: Callable[[str], None] | None = None,
) -> list[Score]:
    """Correlations with climate, slopes, and agreement with the observed index.

    Args:
        observed: `ecomap.tiles.tile_table` of the real images with columns of
            `ecomap.vegetation_tables.INDICES`.
        systems: Likewise for each system. Its images are set against its own climate columns.
        config: Draws, permutations, level, seed, least number of places, most cloud, and whether
            land covers are scored.
        progress: Is told each group.

    Returns:
        Scores of `OBSERVED`, of each system, and of ``place_only`` and ``month_only``.

    Raises:
        RequestError: If keys repeat in a table, or a system has a name that is taken.
    """
    tables, scores = usable_tables(observed, systems, config.max_cloud_frac)
    indices = index_columns(tables[OBSERVED])
    if not indices:
        flag = f"none of the indices {', '.join(INDICES)} is known for any tile"
        scores.append(
            Score(
                system=OBSERVED,
                section="vegetation",
                metric=PEARSON,
                value=None,
                n=0,
                flag=flag,
            )
        )
        return scores
    tables |= systems_without_climate(tables[OBSERVED], indices)
    group_metrics = [name for name in METRICS if name not in (SPEARMAN, "tiles_left_out")]
    for group in groups_of(tables, config):
        if progress is not None:
            progress(f"vegetation statistics: {group.name}")
        if group.kind != "all" and group.num_places < config.min_places:
            scores += group.refusal(group_metrics, config)
            continue
        for lag in range(MAX_LAG + 1 if group.kind == "all" else 1):
            scores += climate_scores(group, indices, lag, config)
        scores += slope_ratio_scores(group, indices, config)
        scores += agreement_scores(group, indices, config)
    return scores
